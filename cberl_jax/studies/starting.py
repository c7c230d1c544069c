"""A corpus made ready for members, which may start from another run."""

import jax
import numpy as np
from ml_collections import ConfigDict

from cberl_jax.config.settings import list_frozen
from cberl_jax.data.corpus import Corpus
from cberl_jax.errors import UserError
from cberl_jax.serving.restore import read_start
from cberl_jax.training.fleet import members_like
from cberl_jax.training.prepare import Prepared, list_members, prepare
from cberl_jax.training.transfer import take_over


def prepare_members(config: ConfigDict, corpus: Corpus) -> Prepared:
    """Makes a corpus ready, with what members start from (``train.init``).

    Raises:
      UserError: as of ``prepare`` and ``read_start``, or parts are to keep their parameters that
        are not taken over.
    """
    start = read_start(config.train.init) if config.train.init else None
    prepared = prepare(config, corpus, start)
    if start is not None and config.train.freeze:
        _check_frozen(config, prepared)
    return prepared


def _check_frozen(config: ConfigDict, prepared: Prepared) -> None:
    """Refuses to freeze what is drawn at random, before anything is written."""
    one = list_members(config, [0])
    like = members_like(prepared.program, one.seeds, one.hyper).joint.variables
    drawn = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), like)
    components = config.data.components
    _, lines = take_over(drawn, one.seeds, prepared.start, prepared.corpus, components)
    for line in lines:
        if line.part in list_frozen(config) and line.fresh:
            raise UserError(
                f"train.freeze = {config.train.freeze!r}: of {line.part} {line.fresh} of "
                f"{line.taken + line.fresh} parameters are not those of {prepared.start.name} "
                f"({line.why}) and would stay as they are drawn; leave {line.part} out"
            )
