"""The folder of a run, which is identified by its settings, data and seeds."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from cberl_jax.config.settings import FREE_SETTINGS, flatten
from cberl_jax.data.corpus import fingerprint
from cberl_jax.data.folds import describe_folds
from cberl_jax.runtime import processes
from cberl_jax.runtime.forking import fork
from cberl_jax.runtime.workdir import Workdir
from cberl_jax.training.prepare import Prepared


def study_identity(config: ConfigDict, prepared: Prepared) -> dict[str, Any]:
    """What all members of a folder have in common: settings and data."""
    corpus = prepared.corpus
    made = {name: corpus.provenance[name] for name in corpus.widths if name in corpus.provenance}
    return {
        **flatten(config),
        "corpus": fingerprint(prepared.corpus),
        "widths": prepared.corpus.widths,
        "classes": list(prepared.corpus.classes),
        "generated": prepared.generated.tolist(),
        **describe_folds(prepared.folds),
        **({"init": prepared.start.digest} if prepared.start else {}),
        **({"provenance": made} if made else {}),
    }


def run_identity(config: ConfigDict, prepared: Prepared, seeds: Sequence[int]) -> dict[str, Any]:
    """What has to be the same for a run to be the same: settings, data, seeds."""
    return {**study_identity(config, prepared), "seeds": list(seeds)}


@contextlib.contextmanager
def open_workdir(
    path: str | os.PathLike,
    identity: Mapping[str, Any],
    forked: str | None = None,
    shared: bool = False,
) -> Iterator[Workdir]:
    """Opens a run's folder for this run's processes alone within the block; one of them writes.

    Args:
      path: of the folder.
      identity: of the run.
      forked: folder of the run that a new run starts from.
      shared: whether other programs may open it at the same time that share it, too.

    Raises:
      UserError: as of ``Workdir.claim`` in every process, of ``Workdir.locked`` and ``fork`` in the
        main one, after which the others end too.
    """
    folder = Workdir(path, writes=processes.is_main())
    # A finished run is only read.
    with contextlib.nullcontext() if folder.finished else folder.locked(shared):
        if forked is not None:
            identity = {**identity, "forked": forked}
            if folder.writes and not folder.config_file.exists():
                fork(forked, folder, identity)
        folder.claim(identity, FREE_SETTINGS)
        processes.wait_for_others(f"{path} is claimed")
        yield folder
