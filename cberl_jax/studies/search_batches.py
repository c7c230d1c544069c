"""The batches of a search: points that share their static settings, and so one program.

Any number of processes take batches in turns; each trains its own.
"""

import dataclasses
import itertools
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cberl_jax.config.grid import (
    Point,
    data_settings,
    point_config,
    spell_point,
    static_settings,
)
from cberl_jax.config.settings import NUMERIC, Value
from cberl_jax.config.space import complete
from cberl_jax.data.corpus import fingerprint
from cberl_jax.errors import TooLarge
from cberl_jax.metrics import select_score
from cberl_jax.runtime.signals import Stopper
from cberl_jax.runtime.workdir import Workdir
from cberl_jax.studies.fitting import STAGES
from cberl_jax.studies.group import Group, Member, create_member
from cberl_jax.studies.points import Chunk, Execution, chunks, list_chunks
from cberl_jax.studies.run import train_chunk
from cberl_jax.studies.search_plan import Plan
from cberl_jax.studies.starting import prepare_members
from cberl_jax.studies.trials import Batch, Trials
from cberl_jax.training.epoch import NEVER, GanState, MemberState
from cberl_jax.training.fleet import Fleet
from cberl_jax.training.loop import TrainedGans
from cberl_jax.training.prepare import Prepared, load_data

# Other static settings are tried once training took so many times as long as compiling, but often
# enough that this many of their combinations are tried.
TRAIN_PER_COMPILE, FEWEST_PROGRAMS = 4.0, 8
# About so much of the training is left with halving. Compiling is weighed against the whole of it:
# else halving would try fewer static settings, and lose more by that than it saves.
HALVED = 0.3
# In the names of chunks, which a number follows: those of a rung, and those of GANs alone.
_RUNG, _GANS = "-r{}-", "-gans-"


def list_rungs(epochs: int, points: int) -> list[int]:
    """The epochs after which half of the points stop, where each training has so many epochs."""
    parts = [part for part in (8, 4, 2) if part <= points]
    return sorted({epoch for part in parts if (epoch := -(-epochs // part)) < epochs})


def count_survivors(points: int, rungs: Sequence[int]) -> int:
    """How many of some points are left after so many rungs."""
    for _ in rungs:
        points = -(-points // 2)
    return points


def rung_scores(state: MemberState, points: int) -> np.ndarray:
    """[points] the mean of the best dev scores of each point's members; nan where one diverged."""
    joint = state.joint
    scores = np.where(joint.diverged == NEVER, joint.best_score, np.nan)
    return scores.reshape(points, -1).mean(axis=1)


def choose_better(scores: np.ndarray) -> list[int]:
    """The places of the better half of some scores, in order; nan is worse than any."""
    order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")
    return sorted(int(place) for place in order[: -(-len(scores) // 2)])


def take_members(states: Any, places: Sequence[int], members: int) -> Any:
    """Of the states of so many members, or a part of these, those of some; each with all folds."""
    folds = len(jax.tree.leaves(states)[0]) // members
    taken = [place * folds + fold for place in places for fold in range(folds)]
    return jax.tree.map(lambda leaf: leaf[taken], states)


def join_chunks(states: Sequence[MemberState]) -> MemberState:
    """The states of members that were trained in several chunks, all to the same rung.

    A chunk whose members have all stopped ends before the rung. They count on, as they would have
    beside others that go on: those of one training have all done equally many epochs.
    """
    state = jax.tree.map(lambda *own: np.concatenate(own), *states)
    epoch = np.full_like(state.joint.epoch, state.joint.epoch.max())
    return state.replace(joint=state.joint.replace(epoch=epoch))


@dataclasses.dataclass
class _Program:
    """What points of the same static settings have in common.

    Attributes:
      static: the settings.
      config: with all other settings.
      prepared: the corpus.
      fleet: of a whole batch, or of those that pass its last rung; None until it is compiled.
      gans: of each seed, which all points share; None until they are trained, and where each point
        has its own, or none.
    """

    static: dict[str, Value]
    config: ConfigDict
    prepared: Prepared
    fleet: Fleet | None = None
    gans: GanState | None = None


class Worker:
    """Trains batches; keeps the program of the last one, and the one before it."""

    def __init__(self, config: ConfigDict, folder: Workdir, plan: Plan, execution: Execution):
        self.config, self.folder, self.plan, self.execution = config, folder, plan, execution
        self.say = execution.progress.say
        self.program: _Program | None = None
        # A search often goes back to the best static settings after it has tried others.
        self.before: _Program | None = None
        # Seconds of all batches.
        self.compile_s = self.train_s = 0.0
        # Points since other static settings were tried.
        self.trained = 0
        # Of the batch in progress: point -> the epoch after which it was stopped, and its score.
        self.stopped: dict[str, tuple[int, float]] = {}

    def _choose_static(self, trials: Trials) -> dict[str, Value] | None:
        """The static settings of the next batch; None where others are to be tried."""
        share = HALVED if self.plan.halving else 1.0
        enough = self.train_s >= share * TRAIN_PER_COMPILE * self.compile_s
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
                self._train(batch, trials, stopper)
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

    def _train(self, batch: Batch, trials: Trials, stopper: Stopper) -> None:
        """Trains of a batch what its chunks lack."""
        point = next(iter(batch.points.values()))
        static = static_settings(point)
        numbers = f"{min(batch.points)} to {max(batch.points)}"
        self.say(f"points {numbers}: {spell_point(static) or 'one program'}")
        program = self._take_program(static, complete(point, self.config), trials)
        # A point may be there twice, a member not.
        asked = list(dict.fromkeys(m for own in self._members(batch).values() for m in own))
        chunked = list_chunks(self.folder, self.config, batch.name)
        there = [chunk for chunk in chunked if _GANS not in chunk.folder.path.name]
        # Those of the first rung. A batch goes on as it was begun, whatever this process would do.
        first = [chunk.members for chunk in there if _RUNG.format(0) in chunk.folder.path.name]
        halving = bool(first) if there else self.plan.halving
        # Some may be told already, by a process that died.
        members = list(dict.fromkeys([*itertools.chain(*first), *asked]))
        points = len(members) // self.plan.seeds
        rungs = list_rungs(program.config.train.epochs, points) if halving else []
        group = Group(program.prepared, program.config, stopper, self.execution.progress)
        self.stopped, self.spent = {}, {"compile_s": 0.0, "train_s": 0.0}
        if self._shares_gans(program) and program.gans is None:
            program.gans = self._train_gans(group, batch.name + _GANS, chunked)
        self._fit(group, [len(chunk.members) for chunk in there], members, rungs)
        state = None
        for number, until in enumerate(rungs):
            name = batch.name + _RUNG.format(number)
            state = self._train_chunks(group, program.fleet, name, there, members, state, until)
            members, state = self._halve(members, state, until)
        name = batch.name + (_RUNG.format(len(rungs)) if rungs else "-")
        self._train_chunks(group, program.fleet, name, there, members, state, None)

    def _take_program(self, static: dict[str, Value], point: Point, trials: Trials) -> _Program:
        """Makes the program of some static settings the one in use.

        Raises:
          UserError: the corpus is another one than that of earlier points.
        """
        if self.program is None or self.program.static != static:
            self.program, self.before = self.before, self.program
        if self.program is None or self.program.static != static:
            config = point_config(self.config, static_settings(point))
            prepared = prepare_members(config, load_data(config))
            if data := data_settings(static):
                trials.check_corpus(data, fingerprint(prepared.corpus))
            self.program = _Program(static, config, prepared)
        return self.program

    def _shares_gans(self, program: _Program) -> bool:
        """Whether the points of a program differ in nothing that a GAN is trained by."""
        own = any(name.startswith("gan.") and name in NUMERIC for name in self.plan.space)
        return program.prepared.program.gan is not None and not own

    def _train_gans(self, group: Group, name: str, there: Sequence[Chunk]) -> GanState:
        """Trains the GAN of each seed, once for all points of a program.

        Args:
          group: what they are trained with.
          name: how the names of the chunks begin.
          there: all chunks of the batch that were there.
        """
        seeds = range(self.plan.seeds)
        members = [create_member(self.config, self.program.static, seed) for seed in seeds]
        before = time.monotonic()
        fleet = group.fit_fleet(members, self.execution.members_per_device, ("gan",))
        self.spent["compile_s"] += time.monotonic() - before
        # After no epoch of the joint stage.
        return self._train_chunks(group, fleet, name, there, members, None, 0).gan

    def _fit(
        self,
        group: Group,
        begun: Sequence[int],
        members: Sequence[Member],
        rungs: Sequence[int],
    ) -> None:
        """Makes a fleet for a whole batch, or for those that pass its rungs, if that fits.

        All rungs share it, so that none has to be compiled for itself: the earlier ones, with more
        members, take turns in it.
        """
        before, program = time.monotonic(), self.program
        # A batch that another process left may be small: a later one is not.
        points = max(self.plan.points, len(members) // self.plan.seeds)
        whole = count_survivors(points, rungs) * self.plan.seeds
        if program.fleet is None:
            some = [members[n % len(members)] for n in range(whole)]
            stages = STAGES if program.gans is None else ("joint",)
            program.fleet = group.fit_fleet(some, self.execution.members_per_device, stages)
        if program.fleet.padded_members < max(begun, default=0) * group.folds:
            program.fleet = group.create_fleet(max(begun))
        self.spent["compile_s"] += time.monotonic() - before

    def _train_chunks(
        self,
        group: Group,
        fleet: Fleet,
        name: str,
        there: Sequence[Chunk],
        members: Sequence[Member],
        state: MemberState | None,
        until: int | None,
    ) -> MemberState | None:
        """Trains members in chunks as large as the fleet: those that were begun, and new ones.

        Args:
          group: what they are trained with.
          fleet: trains a chunk at a time.
          name: how the names of the chunks begin.
          there: all chunks of the batch that were there.
          members: in the order in which points were asked for.
          state: what they start from; None for the beginning.
          until: the epoch after which they end; None for their end, where they are scored.

        Returns:
          Their states, on the host; None at their end.
        """
        parts = [
            (chunk.folder.path, chunk.members)
            for chunk in there
            if chunk.folder.path.name.startswith(name)
        ]
        missing = [member for member in members if not any(member in own for _, own in parts)]
        size, gans = fleet.padded_members // group.folds, self.program.gans
        for start in range(0, len(missing), size):
            path = chunks(self.folder) / f"{name}{len(parts):03d}"
            parts.append((path, missing[start : start + size]))
        states = []
        for path, part in parts:
            if Workdir(path, create=False).finished:
                continue
            places = [members.index(member) for member in part]
            initial = None if state is None else take_members(state, places, len(members))
            own = None
            if gans is not None:
                seeds = [member.seed for member in part]
                own = TrainedGans(take_members(gans, seeds, self.plan.seeds))
            with group.opening(part, fleet, path, initial, until, own) as training:
                if until is None:
                    train_chunk(training)
                else:
                    states.append(training.execute())
                    self._count(training.timing())
        return join_chunks(states) if states else None

    def _halve(
        self, members: Sequence[Member], state: MemberState, until: int
    ) -> tuple[list[Member], MemberState]:
        """The members of the better half of the points, with their states; notes the others."""
        seeds = self.plan.seeds
        scores = rung_scores(state, len(members) // seeds)
        kept = choose_better(scores)
        for place in set(range(len(scores))) - set(kept):
            self.stopped[members[place * seeds].point] = (until, float(scores[place]))
        self.say(f"after epoch {until} {len(kept)} of {len(scores)} points go on")
        places = [place * seeds + seed for place in kept for seed in range(seeds)]
        return [members[place] for place in places], take_members(state, places, len(members))

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
