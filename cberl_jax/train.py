"""A whole run: corpus in, trained members and report out (section 4).

GAN stage, joint stage, predictions, report; every so often a checkpoint, from which the same call
goes on. This file owns time, signals and what is printed; the mathematics is in ``epochs.py``.
"""

import contextlib
import functools
import importlib.metadata
import platform
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cberl_jax.checkpoints import Checkpoints, open_checkpoints
from cberl_jax.data.corpus import Corpus, fingerprint
from cberl_jax.data.dataset import Dataset, create_dataset, create_table
from cberl_jax.data.layers import select_modalities
from cberl_jax.data.load import load_corpus
from cberl_jax.data.packing import (
    Standardiser,
    choose_row_length,
    fit_standardiser,
    pack,
    turns_of,
)
from cberl_jax.data.placement import place_generated
from cberl_jax.epochs import NEVER, MemberState, Program, gan_epoch, joint_epoch, predict
from cberl_jax.errors import Interrupted, UserError
from cberl_jax.models.cberl import CBERL
from cberl_jax.models.gan import GAN
from cberl_jax.report import create_report, write_report
from cberl_jax.settings import (
    check_config,
    default_config,
    flatten,
    model_settings,
    numeric_settings,
)
from cberl_jax.sweep import Fleet, create_members, members_like
from cberl_jax.workdir import Workdir

# Where the corpus lies (its content is checked) and how often a checkpoint is written.
FREE_SETTINGS = ("data.path", "train.checkpoint_seconds")
PACKAGES = ("cberl-jax", "jax", "jaxlib", "flax", "optax", "jraph", "orbax-checkpoint", "numpy")


class Prepared(NamedTuple):
    """A corpus made ready for training.

    Attributes:
      corpus: the corpus, with the chosen modalities.
      standardiser: its train statistics.
      data: its packed rows.
      program: the static half of the training.
      generated: [C] generated utterances per class.
    """

    corpus: Corpus
    standardiser: Standardiser
    data: Dataset
    program: Program
    generated: np.ndarray


def create_program(config: ConfigDict, corpus: Corpus, generated: Sequence[int]) -> Program:
    """The static half of a training; without a GAN where nothing is ``generated`` [C]."""
    classes = len(corpus.classes)
    model = CBERL(model_settings(config), tuple(corpus.widths.items()), classes)
    gan = GAN(config.gan.hidden, config.gan.noise, classes) if any(generated) else None
    return Program(
        model=model,
        gan=gan,
        gan_steps=config.gan.steps,
        gan_batch=config.gan.batch_size,
        rows=config.train.rows_per_batch,
        epochs=config.train.epochs,
        patience=config.train.patience,
        select=config.train.select,
    )


def load_data(config: ConfigDict) -> Corpus:
    """Reads the corpus that the settings name, with the modalities that they choose."""
    if not config.data.path:
        raise UserError("no corpus is named: give --data=FILE, or --data=simulated:small")
    corpus = load_corpus(config.data.path, config.data.text_layers)
    return select_modalities(corpus, config.data.modalities)


def prepare(config: ConfigDict, corpus: Corpus) -> Prepared:
    """Standardises and packs a corpus, and plans its generated utterances."""
    standardiser = fit_standardiser(corpus)
    balance = config.gan.balance if config.gan.enabled else 0.0
    placement = place_generated(corpus, balance=balance, max_copies=config.gan.max_copies)
    data = create_dataset(corpus, standardiser, placement, config.train.rows_per_batch)
    generated = np.bincount(placement.target, minlength=len(corpus.classes))
    program = create_program(config, corpus, generated)
    return Prepared(corpus, standardiser, data, program, generated)


def member_hyper(config: ConfigDict, members: int) -> dict[str, np.ndarray]:
    """The numeric settings of S members that share them all, each [S]."""
    numeric = numeric_settings(config)
    return {name: np.full((members,), value, np.float32) for name, value in numeric.items()}


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


class Stopper:
    """Turns SIGTERM and Ctrl-C into a wish that the training loop reads between epochs."""

    def __init__(self):
        self.wish: int | None = None

    @contextlib.contextmanager
    def listening(self):
        """Listens within the block; only the main thread of a process can."""
        try:
            old = {s: signal.signal(s, self._hear) for s in (signal.SIGTERM, signal.SIGINT)}
        except ValueError:
            old = {}
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _hear(self, number, frame):
        del frame
        self.wish = number


class Run:
    """One run in progress: states, files and clock, for ``train_and_evaluate``."""

    def __init__(
        self,
        prepared: Prepared,
        config: ConfigDict,
        workdir: Workdir,
        seeds: Sequence[int],
        checkpoints: Checkpoints,
        stopper: Stopper,
        say: Callable[[str], None],
    ):
        self.prepared, self.config, self.workdir = prepared, config, workdir
        self.seeds, self.checkpoints, self.stopper, self.say = seeds, checkpoints, stopper, say
        self.clock = Clock()
        self.fleet = Fleet(len(seeds), tuple(jax.local_devices()[: len(seeds)]))
        self.hyper = member_hyper(config, len(seeds))
        self.done = {"gan": 0, "joint": 0}
        self.saved_at = time.monotonic()

    def start(self) -> None:
        """Draws the members, or reads the newest checkpoint."""
        program, seeds = self.prepared.program, jnp.asarray(self.seeds, jnp.int32)
        if self.checkpoints.latest is None:
            with self.clock.measure("compile_s"):
                state = create_members(program, seeds, self.hyper)
        else:
            like = members_like(program, seeds, self.hyper)
            state, _ = self.checkpoints.restore(like, self.prepared.standardiser)
            # All members have done equally many epochs: the stopped ones count on.
            self.done["joint"] = int(state.joint.epoch[0])
            self.done["gan"] = 0 if state.gan is None else int(state.gan.epoch[0])
            self.say(f"going on after {sum(self.done.values())} epochs")
        self.workdir.keep_metrics(self.done)
        self.state = self.fleet.spread(state)
        self.shared = self.fleet.share(self.prepared.data)
        self.spread_hyper = self.fleet.spread(self.hyper)

    def save(self) -> None:
        """Writes a checkpoint, once per number of epochs."""
        step = sum(self.done.values())
        if self.checkpoints.latest != step:
            state = self.fleet.collect(self.state)
            self.checkpoints.save(step, state, self.prepared.standardiser)
        self.saved_at = time.monotonic()

    def stage(self, name: str, epoch: Callable, epochs: int) -> None:
        """Runs what is left of one stage.

        Args:
          name: ``gan`` or ``joint``.
          epoch: ``gan_epoch`` or ``joint_epoch``.
          epochs: how many the stage has at most.
        """
        if self.done[name] >= epochs or self._all_stopped(name):
            return
        function = functools.partial(epoch, self.prepared.program)
        with self.clock.measure("compile_s"):
            step = self.fleet.compile(function, self.state, self.shared, self.spread_hyper)
        while self.done[name] < epochs and not self._all_stopped(name):
            with self.clock.measure(f"{name}_s"):
                self.state, record = step(self.state, self.shared, self.spread_hyper)
                record = self.fleet.collect(record)
            self._record(name, record, epochs)
            self.done[name] += 1
            if self.stopper.wish is not None:
                self.save()
                raise Interrupted(self.stopper.wish)
            if time.monotonic() - self.saved_at >= self.config.train.checkpoint_seconds:
                self.save()
        self.save()

    def _all_stopped(self, name: str) -> bool:
        return name == "joint" and bool(np.all(np.asarray(self.state.joint.stopped)))

    def _record(self, stage: str, record: dict[str, np.ndarray], epochs: int) -> None:
        """A line per active member to the file, a line on the mean to the screen."""
        active = record.pop("active", np.ones(len(self.seeds), bool))
        lines = [
            {"stage": stage, "epoch": self.done[stage], "member": member, "seed": int(seed)}
            | {name: float(values[member]) for name, values in record.items()}
            for member, seed in enumerate(self.seeds)
            if active[member]
        ]
        self.workdir.append_metrics(lines)
        shown = (
            ("agreement", "identity")
            if stage == "gan"
            else ("total", "dev_weighted_f1", "dev_macro_f1")
        )
        words = [f"{n.replace('_', ' ')} {np.nanmean(record[n][active]):.3f}" for n in shown]
        seconds = self.clock.seconds[f"{stage}_s"]
        self.say(
            f"{stage} {self.done[stage] + 1}/{epochs}  {'  '.join(words)}  "
            f"members {int(active.sum())}  {seconds:.0f} s"
        )

    def timing(self) -> dict[str, Any]:
        """The report's ``timing``; None where this call did nothing of the kind."""
        seconds = self.clock.seconds
        rows = self.prepared.data.train
        epochs = self.done["joint"] - self.started_at
        train = seconds.get("joint_s")
        epoch_s = train / epochs if train and epochs else None
        turns = int((rows.segment > 0).sum()) * len(self.seeds)
        return {
            "device": f"{len(self.fleet.devices)} x {self.fleet.devices[0].device_kind}",
            "compile_s": seconds.get("compile_s"),
            "gan_s": seconds.get("gan_s"),
            "train_s": train,
            "epoch_s": epoch_s,
            "utterances_per_s": turns / epoch_s if epoch_s else None,
            "peak_memory_bytes": peak_memory(self.fleet.devices),
        }

    def execute(self) -> dict[str, Any]:
        """Both stages, the predictions and the report."""
        self.start()
        self.started_at = self.done["joint"]
        if self.prepared.program.gan is not None:
            self.stage("gan", gan_epoch, self.config.gan.epochs)
        self.stage("joint", joint_epoch, self.config.train.epochs)
        state = self.fleet.collect(self.state)
        predictions = predict_splits(
            self.prepared.program,
            state,
            self.prepared.corpus,
            self.prepared.standardiser,
            self.fleet,
        )
        self.workdir.write_predictions({"seed": np.asarray(self.seeds), **predictions})
        report = create_report(
            self.prepared.corpus,
            self.seeds,
            member_states(state),
            predictions,
            generated=self.prepared.generated,
            timing=self.timing(),
            versions=versions(),
        )
        write_report(self.workdir, report)
        return report


def member_states(state: MemberState) -> list[dict[str, Any]]:
    """Status and kept epoch (from 1) of each member."""
    joint = state.joint
    gan_diverged = np.full(len(joint.epoch), NEVER) if state.gan is None else state.gan.diverged
    members = []
    for kept, joint_broke, gan_broke in zip(joint.best_epoch, joint.diverged, gan_diverged):
        sound = joint_broke == NEVER and gan_broke == NEVER
        members.append({"status": "ok" if sound else "diverged", "epoch": int(kept) + 1})
    return members


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    return {"python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in PACKAGES
    }


def peak_memory(devices: Sequence[jax.Device]) -> int:
    """Peak bytes on the fullest accelerator, or of the process where devices do not tell."""
    stats = [device.memory_stats() for device in devices]
    if all(stats):
        return max(s["peak_bytes_in_use"] for s in stats)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def predict_splits(
    program: Program,
    state: MemberState,
    corpus: Corpus,
    standardiser: Standardiser,
    fleet: Fleet,
) -> dict[str, np.ndarray]:
    """Probabilities of every member for dev and test, in one program.

    Args:
      program: the static settings.
      state: the members' states on the host; the kept parameters are used.
      corpus: the corpus.
      standardiser: the train statistics that belong to the state.
      fleet: the devices.

    Returns:
      Per split ``<split>.probability`` [S, n, C], ``<split>.label`` [n] int,
      ``<split>.dialogue`` [n] str and ``<split>.utterance`` [n] int, the turn from 0; and
      ``classes`` [C] str.
    """
    chosen = corpus.split != "train"
    row_length = choose_row_length(corpus.length[chosen])
    rows = pack(turns_of(corpus, np.flatnonzero(chosen)), row_length, program.rows)

    def of_member(variables, shared, _):
        return predict(program, variables, *shared)

    variables = fleet.spread({**state.joint.variables, "params": state.joint.best})
    shared = fleet.share((create_table(corpus, standardiser), rows))
    nothing = fleet.spread(np.zeros(fleet.members, np.float32))
    function = fleet.compile(of_member, variables, shared, nothing)
    packed = fleet.collect(function(variables, shared, nothing))
    probability = np.zeros((fleet.members, len(corpus.label), len(corpus.classes)), np.float32)
    used = rows.segment > 0
    probability[:, rows.index[used]] = packed[:, used]

    arrays = {"classes": np.asarray(corpus.classes)}
    for split in ("dev", "test"):
        here = corpus.in_split(split)
        arrays[f"{split}.probability"] = probability[:, here]
        arrays[f"{split}.label"] = corpus.label[here]
        arrays[f"{split}.dialogue"] = corpus.dialogue[corpus.dialogue_of[here]]
        arrays[f"{split}.utterance"] = corpus.turn[here]
    return arrays


def _run_identity(config: ConfigDict, prepared: Prepared, seeds: Sequence[int]) -> dict[str, Any]:
    """What has to be the same for a run to be the same: settings, data, seeds."""
    return {
        **flatten(config),
        "seeds": list(seeds),
        "corpus": fingerprint(prepared.corpus),
        "widths": prepared.corpus.widths,
        "classes": list(prepared.corpus.classes),
        "generated": prepared.generated.tolist(),
    }


def print_now(line: str) -> None:
    """Prints a line at once, also into a pipe."""
    print(line, flush=True)


def train_and_evaluate(
    config: ConfigDict,
    workdir: str,
    seeds: Sequence[int],
    say: Callable[[str], None] = print_now,
) -> dict[str, Any]:
    """Trains one member per seed and writes the run's folder; goes on with a run that is there.

    Args:
      config: the settings (``settings.default_config``).
      workdir: the run's folder.
      seeds: the members' seeds, different from each other.
      say: takes a line of progress.

    Returns:
      The report, as in ``report.json``.

    Raises:
      UserError: a setting, the corpus or the folder is at fault.
      Interrupted: SIGTERM or Ctrl-C; a checkpoint is written.
    """
    check_config(config)
    corpus = load_data(config)
    prepared = prepare(config, corpus)
    folder = Workdir(workdir)
    folder.claim(_run_identity(config, prepared, seeds), FREE_SETTINGS)
    with Stopper().listening() as stopper, open_checkpoints(folder.checkpoints) as checkpoints:
        run = Run(prepared, config, folder, seeds, checkpoints, stopper, say)
        return run.execute()


def evaluate_run(workdir: str, data: str | None = None) -> dict[str, Any]:
    """Scores a run's kept parameters again.

    Args:
      workdir: the run's folder.
      data: the corpus; by default the one the run was trained on.

    Returns:
      A report; its ``timing`` is empty.

    Raises:
      UserError: there is no finished run, or the corpus has other classes or feature widths.
    """
    folder = Workdir(workdir, create=False)
    stored = folder.read_config()
    config = default_config()
    config.update_from_flattened_dict({name: stored[name] for name in flatten(config)})
    if data is not None:
        config.data.path = data
    corpus = load_data(config)
    if list(corpus.classes) != stored["classes"] or corpus.widths != stored["widths"]:
        raise UserError(
            f"{corpus.source}: classes {list(corpus.classes)} and widths {corpus.widths} are not "
            f"those of the run ({stored['classes']}, {stored['widths']})"
        )
    program = create_program(config, corpus, stored["generated"])
    seeds = stored["seeds"]
    like = members_like(program, np.asarray(seeds, np.int32), member_hyper(config, len(seeds)))
    with open_checkpoints(folder.checkpoints) as checkpoints:
        if checkpoints.latest is None:
            raise UserError(f"{folder.path}: holds no checkpoint yet")
        state, standardiser = checkpoints.restore(like, fit_standardiser(corpus))
    fleet = Fleet(len(seeds), tuple(jax.local_devices()[: len(seeds)]))
    predictions = predict_splits(program, state, corpus, standardiser, fleet)
    return create_report(
        corpus,
        seeds,
        member_states(state),
        predictions,
        generated=np.asarray(stored["generated"]),
        timing={},
        versions=versions(),
    )
