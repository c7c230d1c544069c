"""What the package offers to Python: ``train``, ``load`` and what they return."""

import dataclasses
import os
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral

from ml_collections import ConfigDict

from cberl_jax.config.presets import change, named_config
from cberl_jax.config.settings import Value
from cberl_jax.errors import UserError
from cberl_jax.reports.run import format_report
from cberl_jax.runtime.files import explaining_failure
from cberl_jax.runtime.progress import Progress, show_progress
from cberl_jax.serving.model import Model, load
from cberl_jax.serving.restore import read_settings
from cberl_jax.studies.train import train_and_evaluate


class Report(dict):
    """The contents of ``report.json``; printed or shown by a notebook it is the tables."""

    def __repr__(self) -> str:
        return format_report(self)

    def _repr_markdown_(self) -> str:
        return format_report(self)


@dataclasses.dataclass(frozen=True)
class ReportPicture:
    """A picture of a report; a notebook shows it.

    Attributes:
      path: of its file.
      text: what it shows.
    """

    path: pathlib.Path
    text: str

    def _repr_png_(self) -> bytes:
        return self.path.read_bytes()


class Run:
    """A finished run in its folder."""

    def __init__(self, workdir: str | os.PathLike):
        """Args: folder of a run, made by ``train`` or by ``experiments/train.py``."""
        self.workdir = pathlib.Path(workdir)

    def report(self) -> Report:
        """The scores of the run.

        Returns:
          A dictionary, as in ``report.json``; its text is the tables.

        Raises:
          UserError: there is no finished run.
        """
        folder, _, _ = read_settings(self.workdir)
        return Report(folder.read_report())

    def pictures(self) -> dict[str, ReportPicture]:
        """The pictures of the report, in its order.

        Returns:
          Name (``confusion``, ``f1``, ``curves``, ...) -> picture; none where the run was told to
          draw none.

        Raises:
          UserError: there is no finished run.
        """
        drawn = [(pathlib.Path(own["file"]), own["text"]) for own in self.report()["pictures"]]
        return {
            file.stem.removeprefix("report_"): ReportPicture(self.workdir / file, text)
            for file, text in drawn
        }

    def model(self) -> Model:
        """The run's members, ready to predict; as of ``load``."""
        return load(self.workdir)

    def save(self, folder: str | os.PathLike) -> "Run":
        """Copies the run into a folder of its own.

        Args:
          folder: must not be there, or be empty.

        Returns:
          The run in that folder.

        Raises:
          UserError: there is something already, or it cannot be written.
        """
        target = pathlib.Path(folder)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UserError(f"{folder}: there is something already; name a new folder")
        with explaining_failure(folder):
            shutil.copytree(self.workdir, target, dirs_exist_ok=True)
        return Run(target)


def train(
    data: str | os.PathLike | None = None,
    config: str | ConfigDict = "meld",
    *,
    seeds: int | Sequence[int] = 1,
    workdir: str | os.PathLike | None = None,
    settings: Mapping[str, Value] | None = None,
    say: Callable[[str], None] | None = None,
    pictures: bool = True,
) -> Run:
    """Trains one member per seed, and scores them on dev and test.

    The same call with the same ``workdir`` goes on with a run that was stopped, and returns one
    that is finished.

    Args:
      data: canonical ``.npz``, a pickle of the field or ``simulated:<size>``; by default the
        config's own, which only ``demo`` has.
      config: a name (``default``, ``demo``, ``iemocap``, ``meld``, ``meld_frozen``, ``mosi``), or
        all settings (``cberl_jax.config.settings.default_config()``, changed).
      seeds: number of members, whose seeds count from 0; or the seeds.
      workdir: folder that keeps the run. Without one the run lies in a temporary folder, which
        ends with the Run that is returned or with the process, unless ``Run.save`` copies it.
      settings: changes to the config by dotted names, ``{"loss.gamma": 2.0}``.
      say: takes a line of progress; by default a bar or lines show it.
      pictures: whether the report has pictures, which take some seconds.

    Returns:
      The Run.

    Raises:
      UserError: a setting, the corpus or the folder is at fault.
      Interrupted: SIGTERM or Ctrl-C; a checkpoint is written.
    """
    given = named_config(config) if isinstance(config, str) else config
    changed = change(given, settings or {})
    if data is not None:
        changed.data.path = os.fspath(data)
    if not changed.data.path:
        raise UserError("no corpus is named: give a path, or simulated:small")
    chosen = range(seeds) if isinstance(seeds, Integral) else [int(seed) for seed in seeds]
    if not chosen or len(set(chosen)) < len(chosen):
        raise UserError(f"seeds = {seeds!r}: have to be at least one, and different")
    progress = Progress(say) if say else show_progress()
    run = _temporary_run(progress.say) if workdir is None else Run(workdir)
    train_and_evaluate(changed, str(run.workdir), list(chosen), progress, pictures)
    return run


def _temporary_run(say: Callable[[str], None]) -> Run:
    """A run whose folder goes when it goes."""
    run = Run(tempfile.mkdtemp(prefix="cberl_jax-"))
    weakref.finalize(run, shutil.rmtree, run.workdir, ignore_errors=True)
    say(f"{run.workdir} goes when Python ends: give a workdir, or call save(folder) of the run")
    return run
