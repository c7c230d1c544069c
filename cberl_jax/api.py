"""What the package offers to Python: what the commands do, as functions, and what they return."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any, Literal

from ml_collections import ConfigDict

from cberl_jax.config.grid import check_grid
from cberl_jax.config.presets import change, read_config
from cberl_jax.config.settings import Value, check_config, with_folds
from cberl_jax.config.space import check_space, default_space
from cberl_jax.config.variants import choose_variants, create_variants, list_variants
from cberl_jax.data.corpus import Corpus, fingerprint
from cberl_jax.data.readers import load as readers
from cberl_jax.data.readers.npz import read_npz
from cberl_jax.data.readers.options import ReadingOptions, parse_options
from cberl_jax.data.validate import validate
from cberl_jax.errors import UserError
from cberl_jax.evaluation import compare as comparison
from cberl_jax.evaluation.outcomes import read_outcome
from cberl_jax.evaluation.outside import read_predictions
from cberl_jax.metrics import METRICS
from cberl_jax.reports.ablation import format_ablation
from cberl_jax.reports.compare import format_comparison
from cberl_jax.reports.run import format_report
from cberl_jax.reports.search import format_search
from cberl_jax.reports.sweep import format_sweep
from cberl_jax.reports.tables import TITLES
from cberl_jax.runtime.files import expand, explaining_failure
from cberl_jax.runtime.numerics import pinned
from cberl_jax.runtime.processes import explaining_devices
from cberl_jax.runtime.progress import Progress, show_progress
from cberl_jax.runtime.summary import Summarised, Summary, list_names
from cberl_jax.runtime.workdir import Workdir, check_unrelated
from cberl_jax.serving.export import LENGTH, export_run
from cberl_jax.serving.folder import write_folder
from cberl_jax.serving.model import Model
from cberl_jax.serving.model import load as load_model
from cberl_jax.serving.onnx import export_onnx
from cberl_jax.serving.restore import read_settings
from cberl_jax.studies import ablation
from cberl_jax.studies import search as searches
from cberl_jax.studies import sweep as sweeps
from cberl_jax.studies.points import Execution
from cberl_jax.studies.search_plan import Plan
from cberl_jax.studies.train import train_and_evaluate
from cberl_jax.training.prepare import load_data

Path = str | os.PathLike[str]
Data = Path | Corpus | None

_FORMATS: dict[str, Callable[[Path, Path, int], dict[str, Any]]] = {
    "jax": export_run,
    "folder": lambda run, output, length: write_folder(run, output),
    "onnx": export_onnx,
}
# In the order in which a run shows its scores.
_SPLITS = ("dev", "test")


class Report(dict[str, Any]):
    """The contents of ``report.json``; printed or shown by a notebook it is the tables."""

    def __repr__(self) -> str:
        return format_report(self)

    def _repr_markdown_(self) -> str:
        return repr(self)


class SweepReport(Report):
    """The contents of ``sweep.json``; printed or shown by a notebook it is the tables."""

    def __repr__(self) -> str:
        return format_sweep(self)


class SearchReport(Report):
    """The contents of ``search.json``; printed or shown by a notebook it is the tables."""

    def __repr__(self) -> str:
        return format_search(self)


class AblationReport(Report):
    """The contents of ``ablation.json``; printed or shown by a notebook it is the tables."""

    def __repr__(self) -> str:
        return format_ablation(self)


class Comparison(list[dict[str, Any]]):
    """Lines of a comparison; printed or shown by a notebook it is the table.

    Each has ``kind`` (``members`` or ``ensemble``), ``metric``, the scores ``first`` and
    ``second``, ``difference`` (first - second) with its interval ``ci95``, ``p`` and, corrected for
    the metrics of its kind, ``p_holm``.
    """

    def __init__(self, lines: Sequence[dict[str, Any]], text: str):
        super().__init__(lines)
        self._text = text

    def __repr__(self) -> str:
        return self._text

    def _repr_markdown_(self) -> str:
        return self._text


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


class Run(Summarised):
    """A finished run in its folder."""

    def __init__(self, workdir: Path):
        """Args: folder of a run, made by ``train`` or by ``cberl train``."""
        self.workdir = pathlib.Path(expand(workdir, "the workdir"))

    def __fspath__(self) -> str:
        return os.fspath(self.workdir)

    def _summarise(self) -> Summary:
        head = ["metric", *_SPLITS]
        try:
            report = self.report()
        except UserError as error:
            return Summary([f"Run {self.workdir}", str(error)], head, [])
        seeds = [str(member["seed"]) for member in report["members"]]
        lost = sum(member["status"] != "ok" for member in report["members"])
        figures = {
            split: [f"{report[split][n]['mean']:.3f}" if report[split] else "-" for n in METRICS]
            for split in _SPLITS
        }
        titles = [TITLES[name] for name in METRICS]
        lines = [
            f"Run {self.workdir} on {report['corpus']}",
            f"members: {len(seeds)} (seeds {list_names(seeds)}), {lost} diverged",
        ]
        for split, own in figures.items():
            scores = ", ".join(f"{title} {figure}" for title, figure in zip(titles, own))
            lines.append(f"{split}: {scores}" if report[split] else f"{split}: no scores")
        return Summary(lines, head, list(zip(titles, *figures.values())))

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

    def save(self, folder: Path) -> "Run":
        """Copies the run into a folder of its own.

        Args:
          folder: must not be there, or be empty.

        Returns:
          The run in that folder.

        Raises:
          UserError: there is something already, or it cannot be written.
        """
        target = pathlib.Path(expand(folder, "the folder"))
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise UserError(f"{folder}: there is something already; name a new folder")
        with explaining_failure(folder):
            shutil.copytree(self.workdir, target, dirs_exist_ok=True)
        return Run(target)


def train(
    data: Data = None,
    config: Path | ConfigDict = "meld",
    *,
    seeds: int | Sequence[int] = 1,
    workdir: Path | None = None,
    settings: Mapping[str, Value] | None = None,
    say: Callable[[str], None] | None = None,
    pictures: bool = True,
    allow_unrelated: bool = False,
    encoders: Sequence[Path] = (),
) -> Run:
    """Trains one member per seed, and scores them on dev and test.

    The same call with the same ``workdir`` goes on with a run that was stopped, and returns one
    that is finished.

    Args:
      data: canonical ``.npz``, a pickle of the field or ``simulated:<size>``; or a ``Corpus``, of
        which the folder keeps a copy, ``corpus.npz``. By default the config's own, which only
        ``demo`` has.
      config: a name (``default``, ``demo``, ``iemocap``, ``meld``, ``meld_frozen``, ``mosi``), the
        path of a config file, or all settings (``cberl_jax.config.settings.default_config()``,
        changed).
      seeds: number of members, whose seeds count from 0; or the seeds.
      workdir: folder that keeps the run. Without one the run lies in a temporary folder, which
        ends with the Run that is returned or with the process, unless ``Run.save`` copies it.
      settings: changes to the config by dotted names, ``{"loss.gamma": 2.0}``.
      say: takes a line of progress; by default a bar or lines show it.
      pictures: whether the report has pictures, which take some seconds.
      allow_unrelated: whether ``workdir`` may hold files that are of no run.
      encoders: folders of the encoders that made the features, and files of face detectors, to be
        kept in the run's folder: its model then takes raw conversations.

    Returns:
      The Run.

    Raises:
      UserError: a setting, the corpus or the folder is at fault.
      Interrupted: SIGTERM or Ctrl-C; a checkpoint is written.
    """
    given, chosen = _settings(data, config, settings), _seeds(seeds)
    progress = _progress(say)
    run = _temporary_run(progress.say) if workdir is None else _open(workdir, allow_unrelated)
    _keep(data, run, given)
    with _computing():
        train_and_evaluate(given, str(run.workdir), chosen, progress, pictures, encoders=encoders)
    return run


def sweep(
    data: Data = None,
    config: Path | ConfigDict = "meld",
    *,
    grid: Mapping[str, Sequence[Value]],
    workdir: Path,
    seeds: int | Sequence[int] = 1,
    settings: Mapping[str, Value] | None = None,
    members_per_device: int | None = None,
    say: Callable[[str], None] | None = None,
    pictures: bool = True,
    allow_unrelated: bool = False,
    encoders: Sequence[Path] = (),
) -> SweepReport:
    """Trains every seed at every combination of some settings' values, and compares them on dev.

    The same call started again does what is missing; with more seeds or values it trains what is
    new. The best point is a run in ``workdir/best``.

    Args:
      data: as of ``train``.
      config: as of ``train``; the settings that the grid starts from.
      grid: setting -> values, ``{"loss.gamma": [0, 1, 2]}``.
      workdir: folder of the sweep.
      seeds: number of seeds at every point, from 0; or the seeds.
      settings: as of ``train``.
      members_per_device: members trained at a time; by default as many as fit the memory.
      say: as of ``train``.
      pictures: whether the report of the best point has pictures.
      allow_unrelated: as of ``train``.
      encoders: as of ``train``; the run of the best point keeps them.

    Returns:
      The SweepReport; its ``best`` is None where all members have diverged.

    Raises:
      UserError: a setting, the grid, the corpus or the folder is at fault.
      Interrupted: SIGTERM or Ctrl-C; a checkpoint is written.
    """
    points = check_grid(grid)
    given, chosen = _settings(data, config, settings), _seeds(seeds)
    folder = _open(workdir, allow_unrelated)
    _keep(data, folder, given)
    how = Execution(
        members_per_device, progress=_progress(say), pictures=pictures, encoders=encoders
    )
    with _computing():
        report = sweeps.sweep(given, str(folder.workdir), chosen, points, how)
    assert report is not None  # All members are trained here.
    return SweepReport(report)


def search(
    data: Data = None,
    config: Path | ConfigDict = "default",
    *,
    workdir: Path,
    trials: int | None = None,
    hours: float | None = None,
    seeds: int = 2,
    sampler: str = "tpe",
    space: Mapping[str, object] | None = None,
    settings: Mapping[str, Value] | None = None,
    batch: int | None = None,
    best_seeds: int = 8,
    storage: str | None = None,
    sampler_seed: int = 0,
    halving: bool = False,
    members_per_device: int | None = None,
    say: Callable[[str], None] | None = None,
    pictures: bool = True,
    allow_unrelated: bool = False,
    encoders: Sequence[Path] = (),
) -> SearchReport | None:
    """Searches settings that are best on dev; needs ``pip install 'cberl-jax[search]'``.

    The same call started again goes on, and several processes may share one. The best points are
    trained again with other seeds; the winner of these is a run in ``workdir/best``, its settings
    are ``workdir/best.py``.

    Args:
      data: as of ``train``.
      config: as of ``train``; its settings are the first point, and those outside the space.
      workdir: folder of the search.
      trials: points in all.
      hours: time after which no more points are begun; this, ``trials`` or both.
      seeds: number of seeds at every point.
      sampler: ``tpe``, ``random``, ``qmc`` or ``cmaes``.
      space: setting -> ``(low, high)``, ``(low, high, "log")`` or a list of choices; by default
        wide around what the presets have.
      settings: as of ``train``; they are the same at every point, whatever the space says.
      batch: points that are chosen together; by default a sixteenth of all, 8 to 32.
      best_seeds: number of seeds with which the best points are trained again.
      storage: URL of the study as Optuna takes it; by default a file in the folder.
      sampler_seed: of the sampler.
      halving: stop the worse half of a batch after an eighth of the epochs, and half of the others
        after a quarter and after a half of them.
      members_per_device: members trained at a time; by default as many as fit the memory.
      say: as of ``train``.
      pictures: whether the report of the winner has pictures.
      allow_unrelated: as of ``train``.
      encoders: as of ``train``; the run of the winner keeps them.

    Returns:
      The SearchReport; its ``best`` is None where all points have diverged. None where another
      process is still at work on this search.

    Raises:
      UserError: a setting, the space, the corpus or the folder is at fault.
      Interrupted: SIGTERM or Ctrl-C; a checkpoint is written.
    """
    given, fixed = _settings(data, config, settings), settings or {}
    where = default_space(given, fixed) if space is None else check_space(space)
    where = {name: own for name, own in where.items() if name not in fixed}
    folder = _open(workdir, allow_unrelated)
    plan = Plan(where, trials, hours, seeds, sampler, batch, best_seeds, storage)
    plan = plan._replace(seed=sampler_seed, halving=halving)
    _keep(data, folder, given)
    how = Execution(
        members_per_device, progress=_progress(say), pictures=pictures, encoders=encoders
    )
    with _computing():
        report = searches.search(given, str(folder.workdir), plan, how)
    return None if report is None else SearchReport(report)


def ablate(
    data: Data = None,
    config: Path | ConfigDict = "meld",
    *,
    workdir: Path,
    preset: str = "parts",
    variants: Sequence[str] | None = None,
    own: Mapping[str, Mapping[str, Value]] | None = None,
    seeds: int | Sequence[int] = 1,
    settings: Mapping[str, Value] | None = None,
    members_per_device: int | None = None,
    say: Callable[[str], None] | None = None,
    pictures: bool = True,
    allow_unrelated: bool = False,
    encoders: Sequence[Path] = (),
) -> AblationReport:
    """Trains CBERL and its variants with the same seeds, and compares them on test.

    The same call started again does what is missing; with more seeds or variants it trains what is
    new. The variant that the others are compared with is a run in ``workdir/reference``.

    Args:
      data: as of ``train``.
      config: as of ``train``; the settings that the variants start from.
      workdir: folder of the ablation.
      preset: ``parts`` (without each part, view and modality), ``remedies`` (for imbalance) or
        ``sizes`` (of the train split).
      variants: names of the preset's variants to run; by default all.
      own: further variants, ``{"name": {"loss.gamma": 3.0}}``.
      seeds: number of seeds of every variant, from 0; or the seeds.
      settings: as of ``train``.
      members_per_device: members trained at a time; by default as many as fit the memory.
      say: as of ``train``.
      pictures: whether the report of the reference has pictures.
      allow_unrelated: as of ``train``.
      encoders: as of ``train``; the run of the reference keeps them.

    Returns:
      The AblationReport.

    Raises:
      UserError: a setting, a variant, the corpus or the folder is at fault.
      Interrupted: SIGTERM or Ctrl-C; a checkpoint is written.
    """
    given, chosen = _settings(data, config, settings), _seeds(seeds)
    folder = _open(workdir, allow_unrelated)
    _keep(data, folder, given)
    known = list_variants(preset, given, tuple(load_data(given).features))
    compared = choose_variants(known, create_variants(own or {}), variants, given)
    how = Execution(
        members_per_device, progress=_progress(say), pictures=pictures, encoders=encoders
    )
    with _computing():
        report = ablation.ablate(given, str(folder.workdir), chosen, compared, how)
    assert report is not None  # All members are trained here.
    return AblationReport(report)


def compare(
    first: Path,
    second: Path | None = None,
    metrics: Sequence[str] = ("weighted_f1", "macro_f1"),
    *,
    predictions: Path | None = None,
) -> Comparison:
    """Compares two models on test: intervals for other dialogues and other seeds, in pairs.

    Args:
      first: a Run or its folder.
      second: the same; tested on the same utterances.
      metrics: ``weighted_f1``, ``macro_f1``, ``accuracy``, ``balanced_accuracy``, ``mean_f1``,
        ``F1 <class>``, ``recall <class>``. P values are corrected for as many as are named.

      predictions: in place of ``second`` a ``.csv`` or ``.npz`` file of another model's test
        predictions, as ``cberl compare --help`` describes it.

    Returns:
      The Comparison, a list of a line per metric, for members and for ensembles.

    Raises:
      UserError: a run is not finished, the models cannot be compared, there is no such metric, or
        the file cannot be read.
    """
    run = read_outcome(first)
    if predictions is not None and second is None:
        other = read_predictions(predictions, run)
    elif second is not None and predictions is None:
        other = read_outcome(second)
    else:
        raise UserError("name a second run, or predictions, a file in its place")
    lines = comparison.compare(run, other, metrics)
    return Comparison(lines, format_comparison(run, other, lines))


def convert(
    source: Path,
    target: Path,
    *,
    classes: str = "",
    corpus: str = "",
    splits: str = "",
    bins: str = "",
    dev_share: float = 0.0,
) -> Corpus:
    """Writes any corpus that can be read as a canonical ``.npz``.

    Args:
      source: a pickle of the field, an ``.npz``, or ``simulated:<size>``.
      target: the ``.npz`` to write or replace.
      classes: names of the classes in the order of their numbers, joined by commas.
      corpus: whose classes they are: meld, iemocap, iemocap4, emorynlp, mosei or mosi.
      splits: the source's lists of dialogue ids in their order, such as ``train,test,dev``.
      bins: edges that cut labels that are real numbers into classes, such as ``-3,0,3``.
      dev_share: share of the train dialogues held out as dev where there is no dev split.

    Returns:
      The Corpus that was written.

    Raises:
      UserError: the source cannot be read, an option is needed or wrong, or the target cannot be
        written.
    """
    return readers.convert(source, target, parse_options(classes, corpus, splits, bins, dev_share))


def export(
    run: Path,
    output: Path,
    length: int = LENGTH,
    format: Literal["jax", "folder", "onnx"] = "jax",
) -> dict[str, Any]:
    """Hands a finished run on.

    Args:
      run: a Run or its folder, or a folder that this function has made.
      output: the file to write or replace, or the folder to make.
      length: turns of the longest conversation that a file's program takes, at least 1.
      format: what is written. ``jax`` is one file that only needs jax, the program with its
        weights: ``jax.export.deserialize`` reads it. ``onnx`` is one file for ONNX Runtime; it
        needs an environment with jax2onnx. Beside a file ``<output>.json`` says what goes in and
        comes out, and ``<output>.md`` is the model card. ``folder`` is a folder that ``load``
        takes: weights (safetensors), settings, card and checksums.

    Returns:
      The contents of ``<output>.json``, or of ``cberl.json`` in the folder.

    Raises:
      UserError: there is no finished run, the place to write to is at fault, or there is no such
        format.
    """
    if not isinstance(length, Integral) or length < 1:
        raise UserError(f"length = {length!r}: has to be a whole number of turns, at least 1")
    if format not in _FORMATS:
        raise UserError(f"format = {format!r}: has to be one of {', '.join(_FORMATS)}")
    with _computing():
        return _FORMATS[format](run, output, int(length))


def load(run: Path, encoders: Sequence[Path] = ()) -> Model:
    """Makes a model of a finished run; the corpus that it was trained on is not needed.

    Args:
      run: a Run or its folder, or a folder that ``export`` has made.
      encoders: folders of the encoders that features of raw conversations are made by, where the
        run's folder does not hold them; they are known by their weights.

    Returns:
      The model, of the members that did not diverge.

    Raises:
      UserError: there is no finished run, it is of another version or damaged, or all members
        diverged.
    """
    with _computing():
        return load_model(run, encoders)


@contextlib.contextmanager
def _computing() -> Iterator[None]:
    """Within the block numbers depend on no setting of the user's jax."""
    with explaining_devices(), pinned():
        yield


def _open(workdir: Path, allow_unrelated: bool) -> Run:
    """The run or study in a folder that may be used for one."""
    if not allow_unrelated:
        check_unrelated(workdir)
    return Run(workdir)


def _keep(data: Data, run: Run, config: ConfigDict) -> None:
    """Writes a corpus that is none of a file into the folder of its run, and sets the path.

    Raises:
      UserError: the folder has another corpus, which its run was trained on.
    """
    if not isinstance(data, Corpus):
        return
    options = ReadingOptions(without_splits=with_folds(config))
    sound = validate(data, without_splits=options.without_splits)
    folder = Workdir(run.workdir)
    if not folder.corpus_file.exists():
        sound.save(folder.corpus_file)
    elif fingerprint(read_npz(folder.corpus_file, options)) != fingerprint(sound):
        raise UserError(f"{folder.path}: holds a run on another corpus; name another workdir")
    config.data.path = str(folder.corpus_file)


def _settings(
    data: Data, config: Path | ConfigDict, settings: Mapping[str, Value] | None
) -> ConfigDict:
    """All settings that the arguments of ``train`` give; the path of a Corpus is not known yet."""
    named = isinstance(config, str | os.PathLike)
    given = read_config(expand(config, "the config")) if named else config
    changed = change(given, settings or {})
    check_config(changed)
    if data is not None and not isinstance(data, Corpus):
        readers.check_path(data)
        changed.data.path = os.fspath(data)
    if not changed.data.path and data is None:
        raise UserError("no corpus is named: give a path, or simulated:small")
    return changed


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    """The seeds that an argument ``seeds`` stands for."""
    if isinstance(seeds, bool | str) or not isinstance(seeds, Integral | Iterable):
        raise UserError(f"seeds = {seeds!r}: has to be a whole number, or a list of them")
    listed = list(range(seeds)) if isinstance(seeds, Integral) else list(seeds)
    if not all(isinstance(seed, Integral) for seed in listed):
        raise UserError(f"seeds = {seeds!r}: has to be a whole number, or a list of them")
    chosen = [int(seed) for seed in listed]
    if not chosen or len(set(chosen)) < len(chosen):
        raise UserError(f"seeds = {seeds!r}: have to be at least one, and different")
    return chosen


def _progress(say: Callable[[str], None] | None) -> Progress:
    return Progress(say) if say else show_progress()


def _temporary_run(say: Callable[[str], None]) -> Run:
    """A run whose folder goes when it goes."""
    run = Run(tempfile.mkdtemp(prefix="cberl_jax-"))
    weakref.finalize(run, shutil.rmtree, run.workdir, ignore_errors=True)
    say(f"{run.workdir} goes when Python ends: give a workdir, or call save(folder) of the run")
    return run
