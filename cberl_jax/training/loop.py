"""The training of a run's members: GAN stage, joint stage, checkpoints (section 4).

This file decides what comes when; the mathematics is in ``epoch.py``.
"""

import contextlib
import dataclasses
import itertools
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cberl_jax.config.settings import curve_programs, flatten
from cberl_jax.errors import Interrupted
from cberl_jax.runtime import processes
from cberl_jax.runtime.checkpoints import list_steps, open_checkpoints, set_damaged_aside
from cberl_jax.runtime.curves import Writer, open_event_files, open_wandb
from cberl_jax.runtime.progress import Epoch, Progress
from cberl_jax.runtime.signals import GRACE_SECONDS, Stopper
from cberl_jax.runtime.workdir import Workdir
from cberl_jax.training.epoch import NEVER, GanState, MemberState
from cberl_jax.training.fleet import UNSPLIT, Fleet, members_like
from cberl_jax.training.prepare import Members, Prepared
from cberl_jax.training.streamed_epochs import Streamed
from cberl_jax.training.streaming import find_budget
from cberl_jax.training.transfer import take_over


class Clock:
    """Seconds spent per activity."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def measure(self, name: str):
        """Adds the time of the block to ``name``."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class TrainedGans(NamedTuple):
    """What members have in place of a GAN stage of their own.

    Attributes:
      state: their trained GANs, on the host.
      lines: of ``metrics.jsonl``, by epoch.
      seconds: activity -> what it took to train them.
    """

    state: GanState
    lines: Sequence[Mapping[str, Any]] = ()
    seconds: Mapping[str, float] = MappingProxyType({})


@dataclasses.dataclass(eq=False)
class Training:
    """The training of one run in progress: its members, states, files and clock.

    Attributes:
      prepared: the corpus, made ready.
      config: the settings.
      members: their seeds and numeric settings.
      fleet: the devices and compiled stages; other runs may have used it before.
      workdir: the run's folder.
      stopper: what is asked between epochs whether to end.
      progress: what the lines of progress go to.
      initial: what the members start from where there is no checkpoint, in place of drawn states;
        they go on where these are.
      gans: those of the members, in place of their GAN stage where there is no checkpoint.
      until: epochs of the joint stage after which this training ends; None for all. Schedules are
        those of the whole.
      clock: seconds spent so far.
      done: stage -> epochs done.
      learnt: utterances that members have learnt from in joint epochs so far.
      saved_at: when the last checkpoint was written, by the monotonic clock.
    """

    prepared: Prepared
    config: ConfigDict
    members: Members
    fleet: Fleet
    workdir: Workdir
    stopper: Stopper
    progress: Progress
    initial: MemberState | None = None
    gans: TrainedGans | None = None
    until: int | None = None
    clock: Clock = dataclasses.field(default_factory=Clock, init=False)
    done: dict[str, int] = dataclasses.field(
        default_factory=lambda: {"gan": 0, "joint": 0}, init=False
    )
    learnt: int = dataclasses.field(default=0, init=False)
    saved_at: float = dataclasses.field(default_factory=time.monotonic, init=False)

    def _set_damaged_aside(self) -> None:
        """Makes the newest sound checkpoint the newest, and reports what is lost."""
        damaged = set_damaged_aside(self.workdir.checkpoints) if self.workdir.writes else {}
        for step, damage in damaged.items():
            self.progress.say(
                f"{self.workdir.checkpoints / str(step)}: this checkpoint, after {step} epochs, "
                f"is damaged ({damage}) and set aside"
            )
        if damaged and not list_steps(self.workdir.checkpoints):
            self.progress.say("no sound checkpoint is left: the training starts from its beginning")
        processes.wait_for_others("the checkpoints are sound")

    def start(self) -> None:
        """Draws the members, or reads the newest checkpoint, and deals them out to the devices."""
        self.place_data()
        if self.streamed is not None:
            gigabytes = self.streamed.size / 1e9
            self.progress.say(f"the corpus has {gigabytes:.3g} GB: its rows come from the host")
        seeds, hyper = self.members.seeds, self.members.hyper
        if self.checkpoints.latest is None and self.initial is not None:
            state = self.initial
        elif self.checkpoints.latest is None:
            left = self._stages_left()
            self.compile_ahead(left if self.gans is None else [n for n in left if n != "gan"])
            with self.clock.measure("compile_s"):
                state = self._begin(self.fleet.create(seeds, hyper))
                if self.gans is not None:
                    state = state.replace(gan=self.gans.state)
        else:
            like = members_like(self.prepared.program, seeds, hyper)
            state, _ = self.checkpoints.restore(like, self.prepared.standardiser)
            if self.workdir.forked_after == self.checkpoints.latest:
                state = self._let_go_on(state)
        # All members have done equally many epochs: the stopped ones count on.
        self.done["joint"] = int(state.joint.epoch[0])
        self.done["gan"] = 0 if state.gan is None else int(state.gan.epoch[0])
        if self.checkpoints.latest is not None:
            self.progress.say(f"going on after {sum(self.done.values())} epochs")
        self.started_at = self.done["joint"]
        self.workdir.keep_metrics({} if self.checkpoints.latest is None else self.done)
        self.state = self.fleet.shard(state)

    def _let_go_on(self, state: MemberState) -> MemberState:
        """The state of another run: what had stopped early is to learn with these settings, too."""
        joint = state.joint
        lost = joint.diverged != NEVER
        count = int(np.sum(joint.stopped & ~lost))
        if count:
            self.progress.say(f"{count} members that had stopped early go on")
        return state.replace(joint=joint.replace(stopped=lost))

    def _begin(self, state: MemberState) -> MemberState:
        """What the members start from, given what was drawn."""
        prepared = self.prepared
        if prepared.start is None:
            return state
        variables, taken = take_over(
            state.joint.variables,
            self.members.seeds,
            prepared.start,
            prepared.corpus,
            self.config.data.components,
        )
        for line in taken:
            self.progress.say(str(line))
        lines = [line._asdict() for line in taken]
        self.workdir.write_json(
            self.workdir.start_file, {"run": prepared.start.name, "parts": lines}
        )
        params = variables["params"]
        joint = state.joint.replace(variables=variables, average=params, best=params)
        return state.replace(joint=joint)

    def place_data(self) -> None:
        """Brings the data to the devices, and deals the members' settings out to them."""
        self.streamed = self._stream()
        data = self.prepared.data if self.streamed is None else self.streamed.data
        self.shared = self.fleet.replicate(data)
        self.hyper = self.fleet.shard(self.members.hyper)

    def _stream(self) -> Streamed | None:
        """What brings rows from the host; None where the corpus lies on the devices."""
        data, asked = self.prepared.data, self.config.train.corpus_bytes
        budget = find_budget(data.table, asked, self.prepared.folds is not None)
        if not budget:
            return None
        return Streamed(self.fleet, data, len(self.members.seeds), budget)

    def save(self) -> None:
        """Begins to write a checkpoint, once per number of epochs."""
        step = sum(self.done.values())
        if self.checkpoints.latest != step:
            state = self.fleet.for_checkpoint(self.state, len(self.members.seeds))
            guard = self.stopper.writing()
            self.checkpoints.save(step, state, self.prepared.standardiser, guard)
        self.saved_at = time.monotonic()

    @contextlib.contextmanager
    def _curves(self) -> Iterator[Writer]:
        """Where the metrics of an epoch go besides the file: to other programs, or nowhere."""
        with contextlib.ExitStack() as opened:
            writers: list[Writer] = []
            if self.workdir.writes:
                wanted, members = curve_programs(self.config), self._tell_apart()
                if "tensorboard" in wanted:
                    done = sum(self.done.values())
                    files = open_event_files(self.workdir.event_files, len(members), done)
                    writers.append(opened.enter_context(files))
                if "wandb" in wanted:
                    runs = open_wandb(self.workdir.path, members, flatten(self.config))
                    writers.append(opened.enter_context(runs))

            def write(step: int, lines: Sequence[dict[str, Any]]) -> None:
                for writer in writers:
                    writer(step, lines)

            yield write

    def _tell_apart(self) -> list[dict[str, Any]]:
        """Of each member its seed, its fold and, in a study, its own settings."""
        folds = self.prepared.folds
        each = zip(self.members.seeds.tolist(), self.members.settings)
        return [
            {"seed": seed, **({"fold": folds.names[n % len(folds.names)]} if folds else {}), **own}
            for n, (seed, own) in enumerate(each)
        ]

    def compile_ahead(self, names: Sequence[str]) -> None:
        """Begins to compile stages side by side, where that makes the start shorter."""
        if not self.fleet.compiles_ahead or self.streamed is not None:
            return
        arguments = (self.fleet.describe_state(self.members.hyper), self.shared, self.hyper)
        with self.clock.measure("compile_s"), self.stopper.all_saved():
            # The last stage takes longest.
            for name in reversed(names):
                stage, unsplit = self.fleet.stages[name], name in UNSPLIT
                self.fleet.compile_ahead(name, stage, arguments, unsplit=unsplit)

    def compile(self, name: str) -> Callable:
        """The compiled epoch of one stage."""
        arguments = (self.fleet.describe_state(self.members.hyper), self.shared, self.hyper)
        with self.clock.measure("compile_s"), self.stopper.all_saved():
            if self.streamed is not None:
                return self.streamed.compile(name, *arguments)
            stage, unsplit = self.fleet.stages[name], name in UNSPLIT
            return self.fleet.compile(name, stage, arguments, unsplit=unsplit)

    def memory(self, name: str) -> tuple[int, int]:
        """Bytes on one device that a compiled stage needs: per member, and for all of them."""
        return (self.streamed or self.fleet).memory(name)

    def _stages_left(self) -> list[str]:
        """The stages that have epochs left, in order."""
        return [name for name in self.fleet.stages if self.done[name] < self._epochs(name)]

    def _epochs(self, name: str) -> int:
        """How many epochs this training has of a stage at most."""
        if name == "gan":
            return self.config.gan.epochs
        epochs = self.config.train.epochs
        return epochs if self.until is None else min(self.until, epochs)

    def stage(self, name: str) -> None:
        """Runs what is left of one stage, ``gan`` or ``joint``."""
        epochs = self._epochs(name)
        if not self.fleet.has_compiled(name):
            # So that a signal can end a compilation at once.
            self.checkpoints.wait()
            self.progress.say(f"compiling the {name} stage")
        step = self.compile(name)
        with self.progress.stage(name, self.done[name], epochs) as show:
            while self.done[name] < epochs and not self._all_stopped(name):
                before = time.monotonic()
                with self.clock.measure(f"{name}_s"):
                    self.state, record = step(self.state, self.shared, self.hyper)
                    record = self.fleet.gather(record, len(self.members.seeds))
                seconds = time.monotonic() - before
                if self._is_due(seconds):
                    # An epoch is shown as done once the checkpoint before it is whole.
                    self.checkpoints.wait()
                show(self._record(name, record))
                self.done[name] += 1
                self._pause(seconds)
        self.save()

    def _pause(self, seconds: float) -> None:
        """After an epoch of so many seconds: writes a due checkpoint, ends if a signal came."""
        received, due = self._agree(seconds)
        if received or due:
            self.save()
        if received:
            self.checkpoints.wait()
            raise Interrupted(received)

    def _is_due(self, seconds: float) -> bool:
        """Whether a checkpoint is to be written after an epoch of so many seconds."""
        late = time.monotonic() - self.saved_at >= self.config.train.checkpoint_seconds
        # SIGTERM does not wait for the end of a long epoch: no other one is to be lost with it.
        return late or seconds > GRACE_SECONDS

    def _agree(self, seconds: float) -> tuple[int, bool]:
        """The signal that any process received, 0 for none; whether a checkpoint is due."""
        signal = self.stopper.received or 0
        every = processes.gather(np.asarray([signal, self._is_due(seconds)]))
        # Clocks differ: the main process's counts.
        return int(every[:, 0].max()), bool(every[0, 1])

    def _write_gans(self) -> None:
        """Writes what is known of GANs that were trained before, once."""
        if self.gans is None or self.checkpoints.latest is not None:
            return
        self.workdir.append_metrics(list(self.gans.lines))
        for epoch, lines in itertools.groupby(self.gans.lines, key=lambda line: line["epoch"]):
            self.draw_curves(epoch, list(lines))
        for name, seconds in self.gans.seconds.items():
            self.clock.seconds[name] = self.clock.seconds.get(name, 0.0) + seconds

    def _all_stopped(self, name: str) -> bool:
        if name != "joint":
            return False
        return bool(self.fleet.gather(self.state.joint.stopped, len(self.members.seeds)).all())

    def _record(self, stage: str, record: dict[str, np.ndarray]) -> Epoch:
        """Writes a line per member that is still training; returns the figures that are shown."""
        seeds = self.members.seeds
        active = record.pop("active", np.ones(len(seeds), bool))
        folds = self.prepared.folds
        lines = [
            {"stage": stage, "epoch": self.done[stage], "member": member, "seed": int(seed)}
            | ({"fold": folds.names[member % len(folds.names)]} if folds else {})
            | {name: float(values[member]) for name, values in record.items()}
            for member, seed in enumerate(seeds)
            if active[member]
        ]
        self.workdir.append_metrics(lines)
        self.draw_curves(sum(self.done.values()), lines)
        shown = (
            # A flow has no agreement; without a gate there is no distance.
            [name for name in ("dev_distance", "agreement", "velocity") if name in record]
            if stage == "gan"
            else ("total", "dev_weighted_f1", "dev_macro_f1")
        )
        figures = {name: _mean_of_finite(record[name][active]) for name in shown}
        members = int(active.sum())
        utterances = members * self._utterances(stage)
        self.learnt += utterances if stage == "joint" else 0
        return Epoch(self.done[stage] + 1, figures, members, utterances)

    def _utterances(self, stage: str) -> int:
        """How many utterances a member learns from in an epoch."""
        if stage == "gan":
            return self.config.gan.steps * self.config.gan.batch_size
        each = [int((own.data.train.segment > 0).sum()) for own in self.prepared.each]
        return round(sum(each) / len(each))

    def timing(self) -> dict[str, Any]:
        """The report's ``timing``, in seconds and bytes.

        It is that of this call: a run that went on from a checkpoint counts what came after it, and
        an activity that was over by then is None.
        """
        seconds = self.clock.seconds
        epochs = self.done["joint"] - self.started_at
        train = seconds.get("joint_s")
        epoch_s = train / epochs if train and epochs else None
        return {
            "device": f"{len(self.fleet.devices)} x {self.fleet.devices[0].device_kind}",
            "compile_s": seconds.get("compile_s"),
            "gan_s": seconds.get("gan_s"),
            "train_s": train,
            "epoch_s": epoch_s,
            "utterances_per_s": self.learnt / train if train else None,
            "peak_memory_bytes": peak_memory(jax.local_devices()),
        }

    def execute(self) -> MemberState:
        """Runs what is left of both stages.

        Returns:
          The members' states, on the host; the memory of the devices is free again.
        """
        self._set_damaged_aside()
        with open_checkpoints(self.workdir.checkpoints) as self.checkpoints:
            self.start()
            with self._curves() as self.draw_curves:
                self._write_gans()
                left = [name for name in self._stages_left() if not self._all_stopped(name)]
                self.compile_ahead(left)
                for name in left:
                    self.stage(name)
        state = self.fleet.gather(self.state, len(self.members.seeds))
        del self.shared, self.state
        return state


def _mean_of_finite(values: np.ndarray) -> float:
    """The mean without members that diverged; nan where all of them have."""
    sound = values[np.isfinite(values)]
    return float(sound.mean()) if sound.size else float("nan")


def peak_memory(devices: Sequence[jax.Device]) -> int:
    """Peak bytes on the fullest accelerator, or of the process where devices do not report it."""
    stats = [device.memory_stats() for device in devices]
    if all(stats):
        return max(s["peak_bytes_in_use"] for s in stats)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
