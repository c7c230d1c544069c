"""A finished run that gets more seeds: only the new members are trained (section 5).

They are trained in a folder of their own, ``growing``. Then old and new members are put together
as one run in ``grown``, whose files take the place of the old ones. Whatever cuts this off, the
same command goes on: until the new members are trained the run is as it was, and from then on
every file is there twice, or in its new place.
"""

import os
import pathlib
import shutil
from collections.abc import Sequence

from ml_collections import ConfigDict

from cberl_jax.config.settings import FREE_SETTINGS
from cberl_jax.errors import UserError
from cberl_jax.runtime import processes
from cberl_jax.runtime.curves import member_folder
from cberl_jax.runtime.progress import Progress
from cberl_jax.runtime.signals import Stopper
from cberl_jax.runtime.workdir import Workdir
from cberl_jax.studies.points import Execution
from cberl_jax.studies.run import train_chunk
from cberl_jax.studies.write_run import write_run
from cberl_jax.training.fleet import Fleet
from cberl_jax.training.loop import Training
from cberl_jax.training.prepare import Prepared, list_members
from cberl_jax.training.run_folder import open_workdir, run_identity

GROWING, GROWN = "growing", "grown"


def find_new_seeds(path: str | os.PathLike, asked: Sequence[int]) -> tuple[list[int], list[int]]:
    """Which seeds a finished run has, and which are asked for besides.

    Args:
      path: folder of a run.
      asked: the seeds.

    Returns:
      The seeds of the run and the new ones; both are empty where there is no finished run, or where
      it has other seeds than those asked for.
    """
    folder = Workdir(path, create=False, writes=processes.is_main())
    if folder.writes and (folder.path / GROWN).exists():
        # An earlier call was cut off.
        with folder.locked():
            end_growing(path)
    processes.wait_for_others("growing has ended")
    if not folder.config_file.exists() or not folder.finished:
        return [], []
    there = folder.read_config().get("seeds", [])
    new = [seed for seed in asked if seed not in there]
    return (there, new) if len(new) + len(there) == len(asked) else ([], [])


def grow(
    config: ConfigDict,
    prepared: Prepared,
    path: str | os.PathLike,
    there: Sequence[int],
    new: Sequence[int],
    execution: Execution,
) -> None:
    """Adds members to a finished run.

    Args:
      config: the run's settings.
      prepared: its corpus.
      path: its folder.
      there: the seeds that it has.
      new: those that it gets.
      execution: how.

    Raises:
      UserError: it is the run of other settings, was forked, or is at work elsewhere.
      Interrupted: SIGTERM or Ctrl-C; a checkpoint is written.
    """
    folder = Workdir(path, writes=processes.is_main())
    with folder.locked():
        folder.claim(run_identity(config, prepared, there), FREE_SETTINGS)
        growing = folder.path / GROWING
        _check_growing(growing, len(there), new)
        processes.wait_for_others("the run is claimed")
        execution.progress.say(f"{len(there)} members are there; {len(new)} are trained")
        _train(config, prepared, growing, new, execution.progress)
        parts = {".": folder, GROWING: Workdir(growing, create=False)}
        lines = [
            {**line, "chunk": name, "place": place}
            for name, part in parts.items()
            for place, line in enumerate(part.read_report()["members"])
        ]
        write_run(config, folder.path / GROWN, folder.path, lines, execution)
        processes.wait_for_others("the grown run is whole")
        if folder.writes:
            end_growing(path)
        processes.wait_for_others("the run has grown")


def _check_growing(growing: pathlib.Path, old: int, new: Sequence[int]) -> None:
    """Refuses other new seeds than those that are being trained."""
    if (growing / "config.json").exists():
        there = Workdir(growing, create=False).read_config()["seeds"]
        if there != list(new):
            raise UserError(
                f"{growing}: seeds {there} are being added to this run; end that first, by "
                f"--seeds={old + len(there)}, or delete this folder"
            )


def _train(
    config: ConfigDict,
    prepared: Prepared,
    growing: pathlib.Path,
    new: Sequence[int],
    progress: Progress,
) -> None:
    """Trains the new members; does nothing where that is done."""
    members = list_members(config, new, folds=len(prepared.each))
    identity = run_identity(config, prepared, new)
    with Stopper(progress.say).listening() as stopper, open_workdir(growing, identity) as folder:
        if folder.finished:
            return
        fleet = Fleet(prepared.program, len(members.seeds))
        training = Training(prepared, config, members, fleet, folder, stopper, progress)
        train_chunk(training)


def end_growing(path: str | os.PathLike) -> None:
    """Puts the files of a run that has grown in their places; does nothing where there is none."""
    folder, grown = Workdir(path, create=False), pathlib.Path(path) / GROWN
    report = grown / folder.report_file.name
    # It is written last: without it the grown run is not whole.
    if not report.exists():
        return
    # From here on the run counts as not finished, until all is in its place.
    folder.report_file.unlink(missing_ok=True)
    for new in sorted(grown.iterdir()):
        if new != report:
            put(new, folder.path / new.name)
    _move_curves(folder)
    report.replace(folder.report_file)
    shutil.rmtree(folder.path / GROWING)
    shutil.rmtree(grown)


def put(new: pathlib.Path, old: pathlib.Path) -> None:
    """Puts a file or folder in the place of another, which may be there or not."""
    if old.is_dir():
        shutil.rmtree(old)
    new.replace(old)


def _move_curves(folder: Workdir) -> None:
    """Puts the new members' files for TensorBoard beside those of the others."""
    growing = Workdir(folder.path / GROWING, create=False)
    if not growing.event_files.is_dir():
        return
    # The old members may have none.
    folder.event_files.mkdir(exist_ok=True)
    config = folder.read_config()
    # With folds each seed has a model for every one.
    folds = len(config.get("folds", ())) or 1
    for number, seed in enumerate(growing.read_config()["seeds"]):
        place = config["seeds"].index(seed)
        for fold in range(folds):
            own = growing.event_files / member_folder(number * folds + fold)
            if own.exists():
                own.replace(folder.event_files / member_folder(place * folds + fold))
