"""A sweep: every seed at every point of a grid, in as few compiled programs as can be (section 4).

Points that differ in numeric settings alone form a group, whose members run in one compiled
program, in chunks that fit the memory. A chunk is a run of its own with a folder, so it is durable:
the same command started again does only what is missing.
"""

import functools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cberl_jax.config.grid import Group, Point, expand, group_points, point_config, spell_point
from cberl_jax.config.settings import Value
from cberl_jax.data.bayes import best_possible
from cberl_jax.data.simulate import SIMULATED
from cberl_jax.errors import UserError
from cberl_jax.evaluation.bootstrap import summarise_models
from cberl_jax.evaluation.outcomes import Outcome
from cberl_jax.reports.provenance import create_provenance
from cberl_jax.reports.sweep import BEST, create_sweep_report, write_sweep_report
from cberl_jax.runtime import processes
from cberl_jax.runtime.progress import PLAIN, Progress
from cberl_jax.runtime.signals import Stopper
from cberl_jax.runtime.workdir import Workdir
from cberl_jax.studies.best_point import write_point_run
from cberl_jax.studies.train import train_and_score
from cberl_jax.training.fleet import Fleet
from cberl_jax.training.loop import Training
from cberl_jax.training.prepare import Members, Prepared, list_members, load_data, prepare
from cberl_jax.training.run_folder import open_workdir, run_identity
from cberl_jax.version import versions

# Members on one device at most unless told otherwise: the programs gain nothing from more, and a
# chunk's results are there earlier.
MOST_MEMBERS = 64
MEMORY_SHARE = 0.9  # of an accelerator's memory; a CPU's is shared with others
CPU_MEMORY_SHARE = 0.5


def even_chunks(members: int, most: int) -> int:
    """Members in a chunk when ``members`` are divided into as few chunks as ``most`` allows."""
    return -(-members // -(-members // most))


def memory_of_device() -> int:
    """Bytes that a program may use on each of this process's devices."""
    devices = jax.local_devices()
    stats = devices[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(MEMORY_SHARE * stats["bytes_limit"])
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(CPU_MEMORY_SHARE * total) // len(devices)


def _compile_first(prepared: Prepared, config: ConfigDict, members: Members, size: int) -> Fleet:
    """A fleet of ``size`` members whose programs are compiled, but not run."""
    fleet = Fleet(prepared.program, size)
    first = members.part(0, size)
    training = Training(prepared, config, first, fleet, None, None, None)
    training.load(fleet.create(first.seeds, first.hyper))
    for stage in fleet.stages:
        training.compile(stage)
    return fleet


def fit_fleet(prepared: Prepared, config: ConfigDict, members: Members) -> Fleet:
    """Finds how many members fit, by the memory that the compiler states for the programs.

    Nothing is run, so nothing can run out of memory. Where the first guess fits there is no second
    compilation.

    Args:
      prepared: the group's data and program.
      config: the group's settings.
      members: of the group.

    Returns:
      The fleet, its stages compiled.

    Raises:
      UserError: a single member does not fit.
    """
    most = MOST_MEMBERS * len(jax.devices())
    size = even_chunks(len(members.seeds), most)
    budget = processes.broadcast([memory_of_device()])[0]
    while True:
        fleet = _compile_first(prepared, config, members, size)
        needs = [fleet.memory(stage) for stage in fleet.stages]
        if max(total for _, total in needs) <= budget:
            return fleet
        if size == 1:
            raise UserError(
                f"one member needs {max(total for _, total in needs) / 2**30:.1f} GiB and "
                f"{budget / 2**30:.1f} are there: lower model.hidden or train.rows_per_batch"
            )
        fits = int(budget // max(member for member, _ in needs)) * len(jax.devices())
        size = even_chunks(len(members.seeds), max(1, min(fits, size - 1)))


class Sweep:
    """Members at many points in progress, for ``train_points``."""

    def __init__(
        self,
        config: ConfigDict,
        folder: Workdir,
        seeds: Sequence[int],
        members_per_device: int | None,
        stopper: Stopper,
        progress: Progress,
    ):
        """Args: as of ``train_points``."""
        self.config, self.folder, self.seeds = config, folder, seeds
        self.members_per_device, self.stopper, self.progress = members_per_device, stopper, progress
        self.plan_file = folder.path / "plan.json"
        plan = folder.read_json(self.plan_file) if self.plan_file.exists() else {}
        # Group -> members in a chunk. Kept, so that a restart finds the same chunks.
        self.plan: dict[str, int] = plan

    def run_group(self, number: int, group: Group) -> list[dict[str, Any]]:
        """Trains what is missing of a group; returns the lines of all its members."""
        config = point_config(self.config, group.static)
        prepared = prepare(config, load_data(config))
        members = list_members(config, self.seeds, group.points)
        total = len(members.seeds)
        if group.static:
            self.progress.say(f"group {number + 1}: {spell_point(group.static)}, {total} members")
        fleet, size = None, self.plan.get(str(number))
        if size is None:
            fleet, size = self._plan(prepared, config, members)
            self.plan[str(number)] = size
            self.folder.write_json(self.plan_file, self.plan)
        lines = []
        for start in range(0, total, size):
            part = members.part(start, start + size)
            identity = run_identity(config, prepared, part.seeds.tolist())
            identity["members"] = [dict(settings) for settings in part.settings]
            name = f"{number:03d}-{start // size:03d}"
            with open_workdir(chunks(self.folder) / name, identity) as chunk:
                if not chunk.finished:
                    fleet = fleet or Fleet(prepared.program, size)
                    end = min(start + size, total)
                    self.progress.say(f"members {start + 1} to {end} of {total}")
                    self._run_chunk(prepared, config, part, fleet, chunk)
            for place, line in enumerate(chunk.read_report()["members"]):
                # A member at the settings that the sweep starts from has no ``settings``.
                lines.append({"settings": {}, **line, "chunk": chunk.path.name, "place": place})
        return lines

    def _run_chunk(
        self,
        prepared: Prepared,
        config: ConfigDict,
        members: Members,
        fleet: Fleet,
        chunk: Workdir,
    ) -> None:
        """Trains the members of a chunk, and writes what their lines are made from."""
        run = Training(prepared, config, members, fleet, chunk, self.stopper, self.progress)
        _, lines, _ = train_and_score(run)
        done = {"members": lines, "timing": run.timing(), "versions": versions()}
        chunk.write_json(chunk.report_file, done)
        processes.wait_for_others(f"{chunk.path} is done")

    def _plan(
        self, prepared: Prepared, config: ConfigDict, members: Members
    ) -> tuple[Fleet | None, int]:
        """The members of a chunk of a group, and the fleet if finding out has made one."""
        total = len(members.seeds)
        if self.members_per_device is not None:
            return None, even_chunks(total, self.members_per_device * len(jax.devices()))
        self.progress.say("compiling, to see how many members fit the memory")
        fleet = fit_fleet(prepared, config, members)
        return fleet, min(fleet.padded_members, total)


def chunks(folder: Workdir) -> pathlib.Path:
    """Where the runs of a sweep lie, a folder each."""
    return folder.path / "chunks"


def best_at(config: ConfigDict) -> Callable[[Point], dict[str, dict[str, float]] | None]:
    """A function: a point -> ``best_possible`` with the modalities and turns its members see."""
    if not config.data.path.startswith(SIMULATED):
        # Nothing is known of it, so there is no need to read it.
        return lambda point: None

    @functools.cache
    def best_with(modalities: str, causal: bool) -> dict[str, dict[str, float]]:
        corpus = load_data(point_config(config, {"data.modalities": modalities}))
        return best_possible(corpus, causal)

    return lambda point: best_with(
        point.get("data.modalities", config.data.modalities),
        point.get("model.causal", config.model.causal),
    )


def read_members(folder: Workdir, name: str, lines: Sequence[Mapping[str, Any]]) -> Outcome | None:
    """What members of a sweep predicted on test.

    Args:
      folder: of the sweep.
      name: of what they are.
      lines: of sound members, from ``train_points``.

    Returns:
      Their outcome; None where there are none.

    Raises:
      UserError: a file of a chunk is damaged.
    """
    if not lines:
        return None
    probability, stored, chunk = [], {}, None
    for line in lines:
        if line["chunk"] != chunk:
            chunk = line["chunk"]
            stored = Workdir(chunks(folder) / chunk, create=False).read_predictions()
        probability.append(stored["test.probability"][line["place"]])
    return Outcome(
        name,
        stored["classes"].tolist(),
        np.asarray([line["seed"] for line in lines]),
        np.stack(probability),
        stored["test.label"],
        stored["test.dialogue"],
        stored["test.utterance"],
    )


def _score_test(folder: Workdir, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``summarise_models`` of sound members."""
    found = read_members(folder, "members", lines)
    return summarise_models(found.probability, found.label, found.dialogue, found.classes)


def check_points(config: ConfigDict, points: Sequence[Point]) -> None:
    """Refuses points that nothing could follow, before anything is written.

    Raises:
      UserError: settings or the corpus are at fault; the message names them.
    """
    for point in points:
        point_config(config, point)
    for group in group_points(points):
        if any(name.startswith("data.") for name in group.static):
            load_data(point_config(config, group.static))


def train_points(
    config: ConfigDict,
    folder: Workdir,
    seeds: Sequence[int],
    points: Sequence[Point],
    members_per_device: int | None,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Trains every seed at every point; what the folder holds already is not trained again.

    Args:
      config: the settings that the points start from.
      folder: claimed for exactly these.
      seeds: different from each other.
      points: settings in which members differ from ``config``, different from each other.
      members_per_device: how many members a device trains at a time; by default as many as fit.
      progress: shows how far it is.

    Returns:
      A line per member, from ``score_members``, with its ``settings`` and where its predictions
      are: ``chunk``, the folder's name, and ``place`` among its members.

    Raises:
      Interrupted: SIGTERM or Ctrl-C; a checkpoint is written.
    """
    groups = group_points(points)
    counts = f"points: {len(points)}, compiled groups: {len(groups)}"
    progress.say(f"{counts}, seeds at each: {len(seeds)}")
    with Stopper(progress.say).listening() as stopper:
        ongoing = Sweep(config, folder, seeds, members_per_device, stopper, progress)
        return [line for n, g in enumerate(groups) for line in ongoing.run_group(n, g)]


def sweep(
    config: ConfigDict,
    workdir: str,
    seeds: Sequence[int],
    grid: Mapping[str, Sequence[Value]],
    members_per_device: int | None = None,
    progress: Progress = PLAIN,
    pictures: bool = True,
) -> dict[str, Any]:
    """Trains every seed at every point of a grid; goes on with a sweep that is there.

    Args:
      config: the settings that the grid starts from.
      workdir: the sweep's folder.
      seeds: different from each other; every point has them all.
      grid: setting -> values (``grid.parse_grid``).
      members_per_device: how many members a device trains at a time; by default as many as fit.
      progress: shows how far it is.
      pictures: whether the report of the best point has pictures, which take some seconds.

    Returns:
      The contents of ``sweep.json``.

    Raises:
      UserError: a setting, the corpus or the folder is at fault.
      Interrupted: SIGTERM or Ctrl-C; a checkpoint is written.
    """
    points = expand(grid)
    check_points(config, points)
    prepared = prepare(config, load_data(config))
    identity = run_identity(config, prepared, seeds) | {
        "grid": {n: list(v) for n, v in grid.items()}
    }
    with open_workdir(workdir, identity) as folder:
        lines = train_points(config, folder, seeds, points, members_per_device, progress)
        report = create_sweep_report(
            grid,
            lines,
            config.train.select,
            best_at(config),
            functools.partial(_score_test, folder),
            create_provenance(config, prepared.corpus),
        )
        if processes.is_main():
            write_sweep_report(folder.path, report)
        if report["best"] is not None:
            own = [line for line in lines if line["settings"] == report["best"]]
            best = point_config(config, report["best"])
            write_point_run(best, folder.path / BEST, chunks(folder), own, progress, pictures)
    return report
