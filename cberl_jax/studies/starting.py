"""A corpus made ready for members, which may start from another run."""

from ml_collections import ConfigDict

from cberl_jax.data.corpus import Corpus
from cberl_jax.serving.restore import read_start
from cberl_jax.training.prepare import Prepared, prepare


def prepare_members(config: ConfigDict, corpus: Corpus) -> Prepared:
    """Makes a corpus ready, with what members start from (``train.init``).

    Raises:
      UserError: as of ``prepare`` and ``read_start``.
    """
    start = read_start(config.train.init) if config.train.init else None
    return prepare(config, corpus, start)
