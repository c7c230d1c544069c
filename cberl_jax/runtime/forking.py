"""A run that starts where another one is, with other settings."""

import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from cberl_jax.config.settings import FREE_SETTINGS, TRACED
from cberl_jax.errors import UserError
from cberl_jax.runtime.checkpoints import copy_checkpoint, find_damage, list_steps
from cberl_jax.runtime.files import replacing
from cberl_jax.runtime.workdir import Workdir, list_differences

# All else decides what a checkpoint holds, or what its scores mean.
MAY_DIFFER = {*TRACED, *FREE_SETTINGS}
OF_A_FOLDER = {"format", "version", "forked"}


def fork(source: str | os.PathLike, target: Workdir, identity: Mapping[str, Any]) -> None:
    """Copies a run's newest sound checkpoint, and its metrics, into the folder of a new run.

    Args:
      source: folder of the run that is forked; it stays as it is.
      target: folder of the new run, not yet claimed.
      identity: of the new run (``run_identity``).

    Raises:
      UserError: the new run could not go on from what the old one has, or there is nothing, or no
        epoch would be left for its settings, or none for those of its GANs.
    """
    old = Workdir(source, create=False)
    listed = list_differences(old.read_config(), identity, MAY_DIFFER | OF_A_FOLDER)
    if listed:
        raise UserError(
            f"{old.path}: cannot be forked with another {listed}; only numeric settings, "
            "train.epochs and train.patience may differ"
        )
    steps = [s for s in list_steps(old.checkpoints) if find_damage(old.checkpoints, s) is None]
    if not steps:
        raise UserError(f"{old.checkpoints}: holds no sound checkpoint to fork")
    gan = max((x["epoch"] + 1 for x in old.read_metrics() if x["stage"] == "gan"), default=0)
    done, epochs = steps[0] - min(gan, steps[0]), identity["train.epochs"]
    if done >= epochs:
        raise UserError(
            f"{old.path}: has done {done} epochs, and train.epochs is {epochs}, so that nothing "
            f"would be trained with the other settings; give --config.train.epochs={done + 1} or "
            "more"
        )
    _check_gans(old, min(gan, steps[0]), identity)
    copy_checkpoint(old.checkpoints, target.checkpoints, steps[0])
    _copy_file(old.metrics_file, target.metrics_file)
    target.write_json(target.fork_file, {"epochs": steps[0]})


def _check_gans(old: Workdir, done: int, identity: Mapping[str, Any]) -> None:
    """Refuses other settings of GANs whose epochs are all done: they would only be stated."""
    there, asked = (
        {name: value for name, value in own.items() if name.startswith("gan.")}
        for own in (old.read_config(), identity)
    )
    listed = list_differences(there, asked, ())
    if listed and done == asked["gan.epochs"]:
        raise UserError(
            f"{old.path}: has done {done} epochs of its GANs, which are all, so that nothing would "
            f"be trained with another {listed}; train another run from its beginning"
        )


def _copy_file(source: pathlib.Path, target: pathlib.Path) -> None:
    with source.open("rb") as old, replacing(target) as new:
        shutil.copyfileobj(old, new)
