"""A search: Optuna chooses points of a space of settings, and this project trains them together.

Points of a batch share their static settings, so that one program trains them all. The best points
are trained once more with seeds that chose nothing; test is read for the winner of these alone.
"""

import dataclasses
import math
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cberl_jax.config.grid import Point, point_config, spell_point, spell_value, static_settings
from cberl_jax.config.settings import Value, with_folds
from cberl_jax.config.space import Space, check_feasible, complete, own_point, static_choices
from cberl_jax.data.corpus import Corpus
from cberl_jax.data.folds import check_unseen
from cberl_jax.data.holdout import with_other_dev
from cberl_jax.errors import FolderBusy, TooLarge, UserError
from cberl_jax.metrics import select_score
from cberl_jax.reports.provenance import create_provenance
from cberl_jax.reports.search import (
    BEST,
    Finalists,
    Searched,
    count_look,
    create_search_report,
    write_best_config,
    write_search_report,
)
from cberl_jax.runtime.signals import Stopper
from cberl_jax.runtime.workdir import Workdir
from cberl_jax.studies.group import Group, Member, create_member
from cberl_jax.studies.points import (
    ALONE,
    Chunk,
    Execution,
    check_data,
    chunks,
    list_chunks,
    train_points,
)
from cberl_jax.studies.run import train_chunk
from cberl_jax.studies.starting import prepare_members
from cberl_jax.studies.trials import SAMPLERS, Batch, Sampling, Told, Trials, name_study
from cberl_jax.studies.write_run import write_run
from cberl_jax.training.epoch import NEVER, MemberState
from cberl_jax.training.fleet import Fleet
from cberl_jax.training.prepare import Prepared, load_data
from cberl_jax.training.run_folder import open_workdir, study_identity
from cberl_jax.training.transfer import Start, check_splits

# How many points are trained again.
FINALISTS = 10
# Dialogues in dev, and how many times as many in train, for other ones to take dev's place.
FEWEST_DEV, TRAIN_PER_DEV = 10, 4
# Points in a batch at most and at least, and batches of a longer search at least, where no number
# is asked for: the sampler learns from a batch what it needs for the next one. With fewer points
# TPE stays near the first good one.
MOST_POINTS, FEWEST_POINTS, FEWEST_BATCHES = 32, 8, 16
# Other static settings are tried once training took so many times as long as compiling, but often
# enough that this many of their combinations are tried.
TRAIN_PER_COMPILE, FEWEST_PROGRAMS = 4.0, 8


class Plan(NamedTuple):
    """What a search is asked for.

    Attributes:
      space: where to look.
      trials: points in all; None for as many as the time allows.
      hours: after which no batch begins; None for any time.
      seeds: per point, from 0; its score is their mean.
      sampler: one of ``trials.SAMPLERS``.
      batch: points that are trained together; by default a sixteenth of all, 8 to 32.
      best_seeds: of each of the best points when they are trained again.
      storage: URL of the study; by default a file in the folder.
      seed: of the sampler.
      halving: whether the worse half of a batch stops after a quarter of the epochs, and the worse
        half of the others after a half of them.
    """

    space: Space
    trials: int | None = None
    hours: float | None = None
    seeds: int = 2
    sampler: str = "tpe"
    batch: int | None = None
    best_seeds: int = 8
    storage: str | None = None
    seed: int = 0
    halving: bool = False

    @property
    def points(self) -> int:
        """How many points are trained together."""
        trials = self.trials or 128
        fewest = min(trials, FEWEST_POINTS)
        return self.batch or min(MOST_POINTS, max(fewest, trials // FEWEST_BATCHES))


def check_plan(config: ConfigDict, plan: Plan, execution: Execution = ALONE) -> None:
    """Refuses a plan that nothing could follow, before anything is written.

    Raises:
      UserError: naming what is wrong.
    """
    if plan.trials is None and plan.hours is None:
        raise UserError("say how long to search: --trials=256, --hours=2, or both")
    for name in ("trials", "hours", "seeds", "batch", "best_seeds"):
        value, kind = getattr(plan, name), Real if name == "hours" else Integral
        if value is not None and not (isinstance(value, kind) and value > 0):
            what = "number" if name == "hours" else "whole number"
            raise UserError(f"{name} = {value!r}: has to be a {what} greater than 0")
    if plan.sampler not in SAMPLERS:
        raise UserError(f"sampler = {plan.sampler!r}: has to be one of {', '.join(SAMPLERS)}")
    if not plan.space:
        raise UserError("the space is empty: every setting of it is fixed")
    check_feasible(config, plan.space)
    choices = static_choices(plan.space)
    data = [(n, v) for n, values in choices.items() if n.startswith("data.") for v in values]
    check_data(config, [{}, *(dict([choice]) for choice in data)], execution)
    if jax.process_count() > 1:
        raise UserError("a search has no use for several processes of one program: start several")


_IS_RUNG = re.compile(r"-r\d+$")


def _rung_name(number: int) -> str:
    return f"-r{number}"


def list_rungs(epochs: int, points: int) -> list[int]:
    """The epochs after which half of the points stop, where each training has so many epochs."""
    wanted = [-(-epochs // 4), -(-epochs // 2)] if points >= 4 else [-(-epochs // 2)]
    return sorted({epoch for epoch in wanted if epoch < epochs}) if points > 1 else []


def rung_scores(state: MemberState, points: int) -> np.ndarray:
    """[points] the mean of the best dev scores of each point's members; nan where one diverged."""
    joint = state.joint
    scores = np.where(joint.diverged == NEVER, joint.best_score, np.nan)
    return scores.reshape(points, -1).mean(axis=1)


def choose_better(scores: np.ndarray) -> list[int]:
    """The places of the better half of some scores, in order; nan is worse than any."""
    order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")
    return sorted(int(place) for place in order[: -(-len(scores) // 2)])


def take_points(state: MemberState, kept: Sequence[int], points: int) -> MemberState:
    """The states of the members of some points."""
    each = len(state.joint.epoch) // points
    members = [place * each + n for place in kept for n in range(each)]
    return jax.tree.map(lambda leaf: leaf[members], state)


@dataclasses.dataclass
class _Program:
    """What points of the same static settings have in common.

    Attributes:
      static: the settings.
      config: with all other settings.
      prepared: the corpus.
      fleet: of a whole batch; None until it is compiled.
      narrower: number of members -> the fleet of a rung.
    """

    static: dict[str, Value]
    config: ConfigDict
    prepared: Prepared
    fleet: Fleet | None = None
    narrower: dict[int, Fleet] = dataclasses.field(default_factory=dict)


class _Worker:
    """Trains batches; keeps the program of the last one, and the one before it."""

    def __init__(self, config: ConfigDict, folder: Workdir, plan: Plan, execution: Execution):
        self.config, self.folder, self.plan, self.execution = config, folder, plan, execution
        self.say = execution.progress.say
        self.program: _Program | None = None
        # A search often goes back to the best static settings after it has tried others.
        self.before: _Program | None = None
        # Seconds of all batches, and of the one in progress until it trains.
        self.compile_s = self.train_s = self.fitting_s = 0.0
        # Points since other static settings were tried.
        self.trained = 0
        # Of the batch in progress: point -> the epoch after which it was stopped, and its score.
        self.stopped: dict[str, tuple[int, float]] = {}

    def _choose_static(self, trials: Trials) -> dict[str, Value] | None:
        """The static settings of the next batch; None where others are to be tried."""
        enough = self.train_s >= TRAIN_PER_COMPILE * self.compile_s
        total = self.plan.trials
        enough |= total is not None and self.trained * FEWEST_PROGRAMS >= total
        if enough:
            return None
        return trials.find_best_static() or (self.program and self.program.static)

    def work(self, trials: Trials, total: int | None, until: float | None) -> None:
        """Takes batches as long as there are any, or time is left."""
        while True:
            over = until is not None and time.monotonic() >= until
            static = self._choose_static(trials)
            if static is None:
                self.trained = 0
            with trials.taking(0 if over else self.plan.points, total, static) as batch:
                if batch is None:
                    return
                self._carry_out(batch, trials)

    def _carry_out(self, batch: Batch, trials: Trials) -> None:
        try:
            with Stopper(self.say).listening() as stopper:
                self._train(batch, stopper)
        except TooLarge as error:
            self._refuse(batch, trials, error)
        else:
            self._tell(batch, trials)

    def _members(self, batch: Batch) -> dict[int, list[Member]]:
        """The members of each point of a batch."""
        return {
            number: [
                create_member(self.config, complete(point, self.config), seed)
                for seed in range(self.plan.seeds)
            ]
            for number, point in batch.points.items()
        }

    def _train(self, batch: Batch, stopper: Stopper) -> None:
        """Trains of a batch what its chunks lack."""
        point = next(iter(batch.points.values()))
        static = static_settings(point)
        numbers = f"{min(batch.points)} to {max(batch.points)}"
        self.say(f"points {numbers}: {spell_point(static) or 'one program'}")
        program = self._take_program(static, complete(point, self.config))
        # A point may be there twice, a member not.
        asked = list(dict.fromkeys(m for own in self._members(batch).values() for m in own))
        there = list_chunks(self.folder, self.config, batch.name)
        missing = [m for m in asked if not any(m in chunk.members for chunk in there)]
        group = Group(program.prepared, program.config, stopper, self.execution.progress)
        size = self._fit(group, [len(chunk.members) for chunk in there], asked)
        self.stopped, self.spent = {}, {"compile_s": self.fitting_s, "train_s": 0.0}
        if self.plan.halving:
            self._halve_all(group, there, self._split(batch, there, missing, size))
            return
        for chunk in there:
            if not chunk.folder.finished:
                group.train(chunk.members, self.program.fleet, chunk.folder.path)
        for number, start in enumerate(range(0, len(missing), size), len(there)):
            part = missing[start : start + size]
            path = chunks(self.folder) / f"{batch.name}-{number:02d}"
            group.train(part, program.fleet, path)

    def _take_program(self, static: dict[str, Value], point: Point) -> _Program:
        """Makes the program of some static settings the one in use."""
        if self.program is None or self.program.static != static:
            self.program, self.before = self.before, self.program
        if self.program is None or self.program.static != static:
            config = point_config(self.config, static_settings(point))
            prepared = prepare_members(config, load_data(config))
            self.program = _Program(static, config, prepared)
        return self.program

    def _fit(self, group: Group, begun: Sequence[int], asked: Sequence[Member]) -> int:
        """Makes a fleet that trains the chunks that were begun, and a whole batch if that fits."""
        before, program = time.monotonic(), self.program
        # A batch that another process left may be small: a later one is not.
        whole = max(self.plan.points * self.plan.seeds, len(asked))
        if program.fleet is None:
            members = [asked[n % len(asked)] for n in range(whole)]
            program.fleet = group.fit_fleet(members, self.execution.members_per_device)
        if program.fleet.padded_members < max(begun, default=0) * group.folds:
            program.fleet = group.create_fleet(max(begun))
        self.fitting_s = time.monotonic() - before
        return program.fleet.padded_members // group.folds

    def _split(
        self, batch: Batch, there: Sequence[Chunk], missing: Sequence[Member], size: int
    ) -> list[tuple[str, list[Member]]]:
        """The parts of a batch that are halved each for itself: a name, and the members."""
        # The seeds of a point stay together.
        size = size // self.plan.seeds * self.plan.seeds
        if not size:
            raise TooLarge(
                f"halving: the {self.plan.seeds} seeds of one point do not fit the memory "
                "together; search without it"
            )
        first = [chunk for chunk in there if chunk.folder.path.name.endswith(_rung_name(0))]
        parts = [(chunk.folder.path.name[: -len(_rung_name(0))], chunk.members) for chunk in first]
        for start in range(0, len(missing), size):
            name = f"{batch.name}-{len(parts):02d}"
            parts.append((name, list(missing[start : start + size])))
        return parts

    def _halve_all(
        self, group: Group, there: Sequence[Chunk], parts: Sequence[tuple[str, list[Member]]]
    ) -> None:
        """Trains the parts of a batch by successive halving."""
        for name, members in parts:
            self._halve(group, name, members)
        # Begun by a process that was started without halving.
        for chunk in there:
            if not chunk.folder.finished and not _IS_RUNG.search(chunk.folder.path.name):
                group.train(chunk.members, self.program.fleet, chunk.folder.path)

    def _halve(self, group: Group, name: str, members: Sequence[Member]) -> None:
        """Trains points in rungs, after each of which the worse half stops."""
        seeds, state = self.plan.seeds, None
        rungs = list_rungs(self.program.config.train.epochs, len(members) // seeds)
        for number, until in enumerate([*rungs, None]):
            path = chunks(self.folder) / f"{name}{_rung_name(number)}"
            fleet = self._fleet_of(group, len(members))
            with group.opening(members, fleet, path, state, until) as training:
                if until is None:
                    train_chunk(training)
                    return
                state = training.execute()
            self._count(training.timing())
            scores = rung_scores(state, len(members) // seeds)
            kept = choose_better(scores)
            for place in set(range(len(scores))) - set(kept):
                self.stopped[members[place * seeds].point] = (until, float(scores[place]))
            self.say(f"after epoch {until} {len(kept)} of {len(scores)} points go on")
            members = [members[place * seeds + n] for place in kept for n in range(seeds)]
            state = take_points(state, kept, len(scores))

    def _fleet_of(self, group: Group, members: int) -> Fleet:
        """A fleet for so many members, as narrow as they are."""
        program = self.program
        if 2 * members * group.folds > program.fleet.padded_members:
            return program.fleet
        return program.narrower.setdefault(members, group.create_fleet(members))

    def _count(self, timing: Mapping[str, Any]) -> None:
        """Adds what a training took to what was spent on the batch."""
        self.spent["compile_s"] += timing["compile_s"] or 0.0
        self.spent["train_s"] += (timing["gan_s"] or 0.0) + (timing["train_s"] or 0.0)

    def _refuse(self, batch: Batch, trials: Trials, error: TooLarge) -> None:
        """Tells that the points of a batch cannot be trained here; others may be."""
        self.say(f"not trained: {error}")
        for number in batch.points:
            trials.tell(number, None, {"scores": [], "refused": str(error)})
        self.program = None
        trials.end(batch)

    def _tell(self, batch: Batch, trials: Trials) -> None:
        """Stores the scores of a batch, and removes its chunks, whose test scores are not read."""
        lines: dict[Member, Mapping[str, Any]] = {}
        there = list_chunks(self.folder, self.config, batch.name)
        # Of a rung that is not the last one nothing is written but its checkpoint.
        for chunk in (chunk for chunk in there if chunk.folder.finished):
            report = chunk.folder.read_report()
            lines.update(zip(chunk.members, report["members"], strict=True))
            self._count(report["timing"])
        spent = self.spent
        self.compile_s += spent["compile_s"]
        self.train_s += spent["train_s"]
        self.trained += len(batch.points)
        select, best = self.config.train.select, None
        for number, members in self._members(batch).items():
            if members[0].point in self.stopped:
                epoch, reached = self.stopped[members[0].point]
                # One with a member that diverged counts as such, not as worse than others.
                lost = [] if math.isfinite(reached) else [None]
                trials.stop(number, epoch, reached, {"scores": lost, **spent})
                spent = {}
                continue
            own = [lines[member] for member in members]
            scores = [select_score(m["dev"], select) if m["status"] == "ok" else None for m in own]
            sound = [score for score in scores if score is not None]
            score = sum(sound) / len(sound) if len(sound) == len(scores) else None
            # The seconds of a batch stand with its first point.
            trials.tell(number, score, {"scores": scores, **spent})
            spent = {}
            best = score if best is None or (score or 0.0) > best else best
        self.say(f"best dev {select} of these points: {'none' if best is None else f'{best:.3f}'}")
        for chunk in there:
            shutil.rmtree(chunk.folder.path, ignore_errors=True)
        trials.end(batch)


def search(
    config: ConfigDict, workdir: str, plan: Plan, execution: Execution = ALONE
) -> dict[str, Any] | None:
    """Searches a space, trains the best points again, and reports.

    Several processes may call it for one folder: each takes points that no other one has.

    Args:
      config: the settings that the search starts from, the fixed ones among them.
      workdir: the search's folder; one that is there goes on.
      plan: what to search, and for how long.
      execution: how it is carried out; ``part`` and ``collect`` have no meaning here.

    Returns:
      The contents of ``search.json``; None where another process is still at work.

    Raises:
      UserError: a setting, the corpus, the space or the folder is at fault.
      Interrupted: SIGTERM or Ctrl-C; a checkpoint is written.
    """
    check_plan(config, plan, execution)
    until = None if plan.hours is None else time.monotonic() + 3600 * plan.hours
    prepared = prepare_members(config, load_data(config))
    identity = {**study_identity(config, prepared), "study": "search"}

    def work(folder: Workdir) -> Trials:
        first, name = own_point(config, plan.space), name_study(plan.space, plan.seeds)
        sampling = Sampling(plan.sampler, first, plan.seed)
        trials = Trials(folder.path, plan.space, name, sampling, plan.storage)
        _Worker(config, folder, plan, execution).work(trials, plan.trials, until)
        return trials

    with open_workdir(workdir, identity, shared=True) as folder:
        work(folder)
    try:
        with open_workdir(workdir, identity) as folder:
            # Nobody else is at work: what is left is of processes that died.
            trials = work(folder)
            return _conclude(config, folder, plan, execution, trials, prepared)
    except FolderBusy:
        execution.progress.say("done here; others are at work, and the last one writes the report.")
        return None


def _best_points(config: ConfigDict, space: Space, told: Sequence[Told]) -> list[Told]:
    """The points that are trained again, each once: the best, and the config's own settings."""
    ranked = sorted((own for own in told if own.score is not None), key=lambda own: -own.score)
    ranked += [own for own in told if "stopped" in own.details]
    each: dict[str, Told] = {}
    for own in ranked:
        each.setdefault(create_member(config, complete(own.point, config), 0).point, own)
    best, own = list(each.values()), own_point(config, space)
    first = [point for point in best if point.score is not None][:FINALISTS]
    return first + [point for point in best[len(first) :] if point.point == own]


def explain_no_other_dev(config: ConfigDict, corpus: Corpus, start: Start | None = None) -> str:
    """Why the best points are not trained with other dialogues as dev; empty where they are."""
    if with_folds(config):
        return "the dev dialogues of the folds differ already"
    dialogues = {name: int((corpus.split == name).sum()) for name in ("train", "dev")}
    if dialogues["dev"] < FEWEST_DEV or dialogues["train"] < TRAIN_PER_DEV * dialogues["dev"]:
        return (
            f"too few dialogues ({dialogues['train']} in train, {dialogues['dev']} in dev; it "
            f"takes {FEWEST_DEV} in dev and {TRAIN_PER_DEV} times as many in train)"
        )
    try:
        check_unseen(corpus)
    except UserError:
        return "an encoder of the features was tuned on the labels of train"
    try:
        if start is not None:
            check_splits(start, [with_other_dev(corpus, 1)])
    except UserError:
        return "the run that members start from has learnt from the dialogues of train"
    return ""


def _conclude(
    config: ConfigDict,
    folder: Workdir,
    plan: Plan,
    execution: Execution,
    trials: Trials,
    prepared: Prepared,
) -> dict[str, Any]:
    """Trains the best points again and writes the report, with the run of the winner."""
    told, say, corpus = trials.told(), execution.progress.say, prepared.corpus
    finalists = _best_points(config, plan.space, told)
    points = [complete(own.point, config) for own in finalists]
    # None of the seeds that chose these points.
    seeds = range(plan.seeds, plan.seeds + plan.best_seeds)
    no_other_dev = explain_no_other_dev(config, corpus, prepared.start)
    other_dev = {"data.other_dev": config.data.other_dev + 1}
    others = [] if no_other_dev else [point | other_dev for point in points]
    if points:
        more = "" if no_other_dev else ", on the dev dialogues and on others"
        say(f"the {len(points)} best points again, with {len(seeds)} other seeds each{more}")
    lines = train_points(config, folder, seeds, [*points, *others], execution) if points else []
    again, on_others = (
        [[line for line in lines if line["settings"] == point] for point in asked]
        for asked in (points, others)
    )
    say("measuring which settings mattered")
    report = create_search_report(
        Searched(config, plan.space, plan.sampler, plan.seeds, plan.best_seeds),
        [own._asdict() for own in told],
        Finalists(
            [own.number for own in finalists],
            _list_scores(again, config.train.select),
            _list_scores(on_others, config.train.select),
            no_other_dev,
        ),
        trials.measure_importance(),
        create_provenance(config, corpus),
    )
    if report["winner"] is not None:
        place = report["finalists"].index(report["winner"])
        report["best"] = points[place]
        best = point_config(config, points[place])
        # Before test is read, so that no look at it goes uncounted.
        identity = {"study": name_study(plan.space, plan.seeds), "points": len(told)}
        chosen = {name: spell_value(value) for name, value in points[place].items()}
        report["looks"] = count_look(folder, {**identity, "settings": chosen})
        write_run(best, folder.path / BEST, chunks(folder), again[place], execution)
        found = Workdir(folder.path / BEST, create=False).read_report()
        report |= {"test": found["test"], "ensemble": found["ensemble"]}
        write_best_config(folder.path / "best.py", best, report)
    write_search_report(folder.path, report)
    return report


def _list_scores(lines: Sequence[Sequence[Mapping[str, Any]]], select: str) -> list[list[Any]]:
    """Per point the dev score of each member, None where one diverged."""
    return [
        [select_score(m["dev"], select) if m["status"] == "ok" else None for m in own]
        for own in lines
    ]
