"""What the design buys in speed, measured: the one place from which speed is claimed.

Every measurement runs in a process of its own, so that its peak memory is its own, and gives
medians of several repeats after a warm-up. Contestants alternate within one process.
"""

import concurrent.futures
import functools
import math
import multiprocessing
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from ml_collections import ConfigDict

from cberl_jax.config.settings import flatten, traced_settings
from cberl_jax.data.corpus import Corpus
from cberl_jax.data.dataset import Dataset
from cberl_jax.data.simulate import SIZES, SimulatedSize, create_process, simulate_corpus
from cberl_jax.models.mgnn import ATTENTIONS
from cberl_jax.reports.benchmark import format_benchmark
from cberl_jax.runtime.files import write_json, write_text
from cberl_jax.runtime.processes import count_used, divide_cpu
from cberl_jax.runtime.progress import print_now
from cberl_jax.training.epoch import joint_epoch
from cberl_jax.training.fleet import UNSPLIT, Fleet
from cberl_jax.training.loop import peak_memory
from cberl_jax.training.prepare import Prepared, list_members, load_data, prepare
from cberl_jax.training.streamed_epochs import Streamed
from cberl_jax.training.streaming import count_bytes

REPEATS = 5
CPU_MEMBERS = (1, 4, 16)
ACCELERATOR_MEMBERS = (1, 4, 16, 64, 256)
# Simulated corpora: how many times MELD's size, and turns in a row.
GROWTH_SIZES = (1, 4, 16, 64)
GROWTH_LENGTHS = (36, 112, 512)
# Rows come from the host as if a device had room for this part of the features for each member.
HOST_SHARE = 8
# Trainer from a corpus, its settings and the dialogues in a step; one ``train_epoch()`` is one
# epoch of the reference.
Reference = Callable[[Prepared, Mapping[str, float], int], Any]


class Contestant:
    """S members of one program, ready to run epochs one after the other."""

    def __init__(
        self,
        prepared: Prepared,
        config: ConfigDict,
        members: int,
        budget: int = 0,
        devices: int | None = None,
    ):
        """Compiles the stages and deals the members out to devices.

        Args:
          prepared: the corpus.
          config: the settings.
          members: S.
          budget: bytes of features that lie on a device; the other rows come from the host. 0 for
            all.
          devices: how many are used; by default those that the commands would train on.
        """
        self.members = list_members(config, range(members))
        there = jax.devices()
        if devices is None:
            devices = len(there) if _on_accelerator() else count_used(members, len(there))
        devices = there[:devices]
        self.fleet = Fleet(prepared.program, members, devices)
        start = time.perf_counter()
        state = self.fleet.create(self.members.seeds, self.members.hyper)
        self.state = self.fleet.shard(state)
        self.hyper = self.fleet.shard(self.members.hyper)
        if budget:
            streamed = Streamed(self.fleet, prepared.data, members, budget)
            self.shared = self.fleet.replicate(streamed.data)
            arguments = (self.state, self.shared, self.hyper)
            self.steps = {n: streamed.compile(n, *arguments) for n in self.fleet.stages}
        else:
            self.shared = self.fleet.replicate(prepared.data)
            arguments = (self.state, self.shared, self.hyper)
            stages = self.fleet.stages
            for name, stage in stages.items():
                self.fleet.compile_ahead(name, stage, arguments, unsplit=name in UNSPLIT)
            self.steps = {n: self.fleet.compile(n, s, arguments) for n, s in stages.items()}
        self.compile_s = time.perf_counter() - start

    def __call__(self, stage: str = "joint") -> None:
        """Runs one epoch of a stage to its end."""
        self.state, _ = self.steps[stage](self.state, self.shared, self.hyper)
        jax.block_until_ready(self.state)


def time_in_turns(contestants: Mapping[str, Callable], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call of each contestant, taken in turns after one call each to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for call in contestants.values():
        call()
    for _ in range(repeats):
        for name, call in contestants.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _prepare(config: ConfigDict, **changes: Any) -> tuple[ConfigDict, Prepared]:
    """A corpus made ready with some settings changed."""
    config = ConfigDict(config.to_dict())
    config.update_from_flattened_dict(changes)
    return config, prepare(config, load_data(config))


def measure_reference(
    config: ConfigDict, reference: Reference, repeats: int
) -> dict[str, dict[str, float]]:
    """One member and 16 against the reference, on the plain train split: nothing is generated.

    The reference takes as many dialogues a step as give it our number of steps an epoch.

    Returns:
      Contestant -> median, fastest and slowest seconds of an epoch, and per member.
    """
    config, prepared = _prepare(config, **{"augment.method": "none"})
    steps = len(prepared.data.train.index) // prepared.program.rows
    dialogues = math.ceil(np.sum(prepared.corpus.split == "train") / steps)
    trainer = reference(prepared, traced_settings(config), dialogues)
    many = 64 if _on_accelerator() else 16
    counts = {"PyTorch": 1, "one member": 1, f"{many} members": many}
    contestants = {"PyTorch": trainer.train_epoch}
    for name, members in list(counts.items())[1:]:
        contestants[name] = Contestant(prepared, config, members)
    seconds = time_in_turns(contestants, repeats)
    rival = statistics.median(seconds["PyTorch"])
    return {
        name: {
            "epoch_s": statistics.median(values),
            "fastest_s": min(values),
            "slowest_s": max(values),
            "per_member_s": statistics.median(values) / counts[name],
            "times_faster": rival * counts[name] / statistics.median(values),
            "devices": len(contestants[name].fleet.devices) if name != "PyTorch" else 1,
            "steps": steps,
            "dialogues_a_step": dialogues,
        }
        for name, values in seconds.items()
    }


def measure_members(config: ConfigDict, members: int, repeats: int) -> dict[str, float]:
    """Seconds and memory of S members with all their stages, as a training has them."""
    config, prepared = _prepare(config)
    contestant = Contestant(prepared, config, members)
    stages = {stage: functools.partial(contestant, stage) for stage in contestant.steps}
    seconds = time_in_turns(stages, repeats)
    joint = statistics.median(seconds["joint"])
    return {
        "members": members,
        "devices": len(contestant.fleet.devices),
        "epoch_s": joint,
        "member_epoch_s": joint / members,
        "gan_epoch_s": statistics.median(seconds["gan"]) if "gan" in seconds else 0.0,
        "utterances_per_s": int(np.sum(prepared.data.train.segment > 0)) * members / joint,
        "compile_s": contestant.compile_s,
        "peak_memory_bytes": peak_memory(jax.local_devices()),
    }


def measure_attention(
    config: ConfigDict, members: int, repeats: int
) -> dict[str, dict[str, float]]:
    """The forms of attention in turns, S members each, without generated utterances.

    Returns:
      ``model.attention`` -> members, median seconds of an epoch, and per member, of compilation,
      and bytes of the epoch's program.
    """
    contestants = {}
    for attention in ATTENTIONS:
        changes = {"augment.method": "none", "model.attention": attention}
        own, prepared = _prepare(config, **changes)
        contestants[attention] = Contestant(prepared, own, members)
    seconds = time_in_turns(contestants, repeats)
    return {
        name: {
            "members": members,
            "epoch_s": statistics.median(values),
            "member_epoch_s": statistics.median(values) / members,
            "compile_s": contestants[name].compile_s,
            "program_bytes": contestants[name].fleet.memory("joint")[1],
        }
        for name, values in seconds.items()
    }


def measure_streaming(
    config: ConfigDict, members: int, repeats: int
) -> dict[str, dict[str, float]]:
    """The corpus on the devices, and its rows from the host, in turns; nothing is generated.

    Returns:
      Where the rows lie -> members, bytes of features on a device, median seconds of an epoch, and
      of compilation.
    """
    config, prepared = _prepare(config, **{"augment.method": "none"})
    size = count_bytes(prepared.data.table)
    budgets = {"device": 0, "host": members * size // HOST_SHARE}
    contestants = {n: Contestant(prepared, config, members, b) for n, b in budgets.items()}
    seconds = time_in_turns(contestants, repeats)
    return {
        name: {
            "members": members,
            "feature_bytes": budgets[name] or size,
            "epoch_s": statistics.median(values),
            "compile_s": contestants[name].compile_s,
        }
        for name, values in seconds.items()
    }


def measure_machine() -> dict[str, float]:
    """The rate of float32 matrix products and the bandwidth of memory, the best of several."""

    def best(call: Callable, work: float) -> float:
        call()
        seconds = []
        for _ in range(10):
            start = time.perf_counter()
            jax.block_until_ready(call())
            seconds.append(time.perf_counter() - start)
        return work / min(seconds)

    size = 8192 if _on_accelerator() else 2048
    matrix = jnp.ones((size, size))
    product = jax.jit(lambda x: x @ x)
    values = jnp.ones((16 * size * size,))
    passes = 8
    # In one program, so that its memory is asked for once.
    over_and_over = jax.jit(
        lambda x: jax.lax.fori_loop(0, passes, lambda _, y: y + 1.0, x), donate_argnums=0
    )

    def pass_over():
        nonlocal values
        values = over_and_over(values)
        return values

    return {
        "flops_per_s": best(lambda: product(matrix), 2.0 * size**3),
        "bytes_per_s": best(pass_over, 2.0 * passes * values.nbytes),
    }


def count_flops(jaxpr: core.Jaxpr) -> int:
    """Floating-point operations of the matrix products in a program, loops as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += (
                2
                * math.prod(equation.outvars[0].aval.shape)
                * math.prod(left[axis] for axis in contracted)
            )
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += times * sum(count_flops(inner) for inner in _inner(equation.params))
    return total


def _inner(params: Mapping[str, Any]) -> list[core.Jaxpr]:
    """The programs within an equation."""
    values = (v if isinstance(v, tuple | list) else (v,) for v in params.values())
    parts = [part for value in values for part in value]
    closed = [part.jaxpr for part in parts if isinstance(part, core.ClosedJaxpr)]
    return closed + [part for part in parts if isinstance(part, core.Jaxpr)]


def measure_limit(config: ConfigDict, members: int, repeats: int) -> dict[str, float]:
    """How far an epoch is from what the machine's matrix products and memory would allow.

    The compiler's cost analysis counts the body of a loop once. Nearly all of an epoch is the body
    of the loop over steps, so its bytes are taken times the steps; operations are counted in the
    program itself, where loops have their lengths.
    """
    config, prepared = _prepare(config, **{"augment.method": "none"})
    # The compiler states the cost of a device's part of a program: no batch is to be split.
    contestant = Contestant(prepared, config, members, devices=min(members, len(jax.devices())))
    seconds = time_in_turns({"ours": contestant}, repeats)["ours"]
    steps = len(prepared.data.train.index) // prepared.program.rows
    one = jax.tree.map(lambda x: x[0], (contestant.state, contestant.hyper))
    traced = jax.make_jaxpr(functools.partial(joint_epoch, prepared.program))
    flops = members * count_flops(traced(one[0], prepared.data, one[1]).jaxpr)
    cost = contestant.steps["joint"].cost_analysis()
    machine, devices = measure_machine(), len(contestant.fleet.devices)
    median = statistics.median(seconds)
    bytes_moved = steps * cost.get("bytes accessed", 0.0)
    return {
        **machine,
        "members": members,
        "epoch_s": median,
        "flops": float(flops),
        "xla_flops_a_step": float(cost.get("flops", 0.0)),
        "xla_bytes": float(bytes_moved),
        # The machine is measured on one device, which the members share out among all.
        "share_of_flops_limit": flops / devices / machine["flops_per_s"] / median,
        "share_of_bytes_limit": bytes_moved / machine["bytes_per_s"] / median,
    }


def measure_start(train: Sequence[str], settings: Sequence[str]) -> dict[str, float]:
    """Seconds from the start of a training to its first epochs, without and with cached programs.

    Args:
      train: arguments of Python that start a training, and its ``--config``.
      settings: its other flags, the work folder's left out.

    Returns:
      ``<cold or warm>_<gan or joint>_s``.
    """
    result = {}
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": f"{folder}/cache"}
        for name in ("cold", "warm"):
            command = [sys.executable, *train, *settings, f"--workdir={folder}/{name}"]
            first = _time_first_epochs(command, environment)
            result |= {f"{name}_{stage}_s": seconds for stage, seconds in first.items()}
    return result


def _time_first_epochs(command: Sequence[str], environment: Mapping[str, str]) -> dict[str, float]:
    """Stage -> seconds from the start of a training to the end of the stage's first epoch."""
    seconds = {}
    start = time.perf_counter()
    running = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    with running.stdout as lines:
        for line in lines:
            if first := re.match("(gan|joint) 1/", line):
                seconds[first[1]] = time.perf_counter() - start
    if running.wait():
        raise RuntimeError(f"the training ended with status {running.returncode}")
    return seconds


def _grown(size: int, length: int) -> Corpus:
    """A simulated corpus of about MELD's number of utterances times ``size``.

    All dialogues have ``length`` turns, so that the rows have them too.
    """
    meld = SIZES["meld"]
    share = size * meld.mean_length / length
    counts = {s: max(2, round(share * getattr(meld, s))) for s in ("train", "dev", "test")}
    shape = SimulatedSize(**counts, mean_length=length, max_length=length)
    return simulate_corpus(create_process(), shape, seed=0)


def measure_growth(config: ConfigDict, size: int, length: int, repeats: int) -> dict[str, float]:
    """One member on a simulated corpus of a given size and row length."""
    config = ConfigDict(config.to_dict())
    config.augment.method = "none"
    prepared = prepare(config, _grown(size, length))
    contestant = Contestant(prepared, config, 1)
    seconds = time_in_turns({"ours": contestant}, repeats)["ours"]
    data: Dataset = prepared.data
    utterances = int(np.sum(data.train.segment > 0)) + int(np.sum(data.dev.segment > 0))
    rows = len(data.train.index) + len(data.dev.index)
    median = statistics.median(seconds)
    return {
        "size": size,
        "row_length": data.train.index.shape[1],
        "utterances": utterances,
        "epoch_s": median,
        "microseconds_per_utterance": 1e6 * median / utterances,
        "milliseconds_per_row": 1e3 * median / rows,
        "program_bytes": contestant.fleet.memory("joint")[1],
        "peak_memory_bytes": peak_memory(jax.local_devices()),
    }


def describe_machine() -> dict[str, Any]:
    """The devices by name."""
    device = jax.devices()[0]
    model = device.device_kind
    if device.platform == "cpu":
        model = _processor() or model
    return {
        "device": model,
        "platform": device.platform,
        "devices": len(jax.devices()),
        "cores": os.cpu_count(),
    }


def _processor() -> str | None:
    """The processor's name, where the system gives one."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), None)


def _on_accelerator() -> bool:
    return jax.default_backend() != "cpu"


def _own_process(function: Callable, *arguments: Any, devices: int = 1) -> Any:
    """Calls a function in a fresh process, in which a CPU is divided into so many devices."""
    fresh = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, fresh, _begin, (devices,)) as pool:
        return pool.submit(function, *arguments).result()


def _begin(devices: int) -> None:
    # The compiler is timed: nothing that was compiled before is read.
    jax.config.update("jax_enable_compilation_cache", False)
    # One is the default, and XLA_FLAGS may say another number.
    if devices > 1:
        jax.config.update("jax_num_cpu_devices", devices)


# Of these the CPU is divided as the commands do it; the others compare what one device does.
DIVIDED = ("reference", "members")
SECTIONS = ("reference", "members", "attention", "streaming", "limit", "start", "growth")


def benchmark(
    config: ConfigDict,
    out: str,
    train: Sequence[str],
    reference: Reference | None = None,
    sections: Sequence[str] = SECTIONS,
    repeats: int = REPEATS,
    say: Callable[[str], None] = print_now,
) -> dict[str, Any]:
    """Measures, and writes ``benchmark.json`` and ``benchmark.md``.

    Args:
      config: the settings, the corpus among them.
      out: folder of the two files.
      train: arguments of Python that start a training, and its ``--config``, for the start.
      reference: makes the PyTorch contestant; None leaves it out.
      sections: which of ``SECTIONS`` to measure.
      repeats: timings per contestant.
      say: takes a line of progress.

    Returns:
      The contents of ``benchmark.json``.
    """
    folder = pathlib.Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"machine": _own_process(describe_machine), "repeats": repeats}
    on_cpu = result["machine"]["platform"] == "cpu"
    counts = CPU_MEMBERS if on_cpu else ACCELERATOR_MEMBERS
    flags = [f"--config.{n}={v}" for n, v in flatten(config).items() if n != "data.path"]
    flags += [f"--data={config.data.path}", "--seeds=1", "--config.train.epochs=2"]
    plan: dict[str, list[tuple]] = {
        "reference": [(measure_reference, config, reference, repeats)] if reference else [],
        "members": [(measure_members, config, count, repeats) for count in counts],
        "attention": [(measure_attention, config, n, repeats) for n in (counts[0], counts[2])],
        "streaming": [(measure_streaming, config, n, repeats) for n in (counts[0], counts[2])],
        "limit": [(measure_limit, config, count, repeats) for count in (counts[0], counts[2])],
        "start": [(measure_start, train, flags)],
        "growth": [(measure_growth, config, size, 36, repeats) for size in GROWTH_SIZES]
        + [(measure_growth, config, 1, length, repeats) for length in GROWTH_LENGTHS[1:]],
    }
    for section in sections:
        result[section] = []
        for function, *arguments in plan[section]:
            say(f"measuring {section} {len(result[section]) + 1} of {len(plan[section])}")
            devices = divide_cpu(CPU_MEMBERS[-1]) if section in DIVIDED else 1
            result[section].append(_own_process(function, *arguments, devices=devices))
        write_json(folder / "benchmark.json", result)
        write_text(folder / "benchmark.md", format_benchmark(result))
    return result
