"""The training programs compiled for a device that is not there: what they would need on it.

XLA compiles for a described GPU or TPU without one. Only shapes go in, so nothing is run; what the
programs do is read from their text (``evaluation/hlo.py``). The time of an epoch is an estimate
from that text, with the assumptions that ``Target`` holds.
"""

import contextlib
import importlib.util
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from cberl_jax.config.settings import model_settings
from cberl_jax.errors import UserError
from cberl_jax.evaluation.hlo import Kernel, Program
from cberl_jax.reports.target import format_targets
from cberl_jax.runtime.files import write_json, write_text
from cberl_jax.runtime.progress import print_now
from cberl_jax.training.fleet import Fleet, members_like
from cberl_jax.training.prepare import Prepared, list_members, load_data, prepare
from cberl_jax.version import versions


class Target(NamedTuple):
    """A device to compile for.

    Attributes:
      title: its name.
      platform: ``cuda`` or ``tpu``.
      topology: its name in jax; of a GPU, its description as XLA's ``GpuTargetConfigProto``.
      package: that holds the compiler.
      extra: of this package, which installs it.
      flops: matrix products with float32 inputs at jax's default precision, FLOP/s.
      bandwidth: of its memory, bytes/s.
      launch: seconds that each kernel takes at least.
    """

    title: str
    platform: str
    topology: str
    package: str
    extra: str
    flops: float
    bandwidth: float
    launch: float


# The data sheet of the SXM5 board: 132 processors, TF32 without sparsity.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
# There is no device to try kernels on.
OPTIONS = {"cuda": {"xla_gpu_autotune_level": "0"}, "tpu": None}
TARGETS = {
    "h100": Target(
        *("NVIDIA H100 SXM", "cuda", _H100, "jax_cuda12_plugin", "cuda12"),
        *(495e12, 3.35e12, 2.5e-6),
    ),
    # A TPU rounds float32 inputs to bfloat16 by default, and starts kernels without the host.
    "tpu-v5e": Target(
        *("TPU v5e, one chip", "tpu", "v5e:2x2x1", "libtpu", "tpu"),
        *(197e12, 0.819e12, 0.5e-6),
    ),
    "tpu-v6e": Target(
        *("TPU v6e, one chip", "tpu", "v6e:2x2x1", "libtpu", "tpu"),
        *(918e12, 1.64e12, 0.5e-6),
    ),
}


def compile_for(config: ConfigDict, name: str, members: int, texts: pathlib.Path) -> dict[str, Any]:
    """Compiles the stages of a training for a device that is not there.

    Args:
      config: the settings.
      name: one of ``TARGETS``.
      members: S, all on one device.
      texts: folder that the programs' texts are written to.

    Returns:
      ``target``, ``members`` and ``stages``: a line each, from ``measure_program``.

    Raises:
      UserError: the corpus is at fault.
    """
    target = TARGETS[name]
    config = ConfigDict(config.to_dict())
    # By the platform of the target, not by that of this machine.
    platform = {"cuda": "gpu"}.get(target.platform, target.platform)
    config.model.unroll = model_settings(config, platform).unroll
    prepared = prepare(config, load_data(config))
    with _quiet_compiler():
        device = _find_device(target)
        fleet = Fleet(prepared.program, members, [device])
        arguments = _describe_arguments(prepared, config, members, device)
        lines = []
        for stage, function in fleet.stages.items():
            print_now(f"{name}: compiling the {stage} stage")
            start = time.perf_counter()
            compiled = fleet.compile(stage, function, arguments, options=OPTIONS[target.platform])
            seconds = time.perf_counter() - start
            text = compiled.as_text()
            write_text(texts / f"{name}_{stage}.hlo", text)
            stats = compiled.memory_analysis()
            memory = {
                "arguments": stats.argument_size_in_bytes,
                "temporary": stats.temp_size_in_bytes,
                "all": fleet.memory(stage)[1],
            }
            steps = _count_steps(prepared, config, stage)
            line = {"stage": stage, "compile_s": seconds, "memory": memory, "steps": steps}
            lines.append(line | measure_program(Program(text), target, steps))
    return {"target": name, "title": target.title, "members": members, "stages": lines}


def _count_steps(prepared: Prepared, config: ConfigDict, stage: str) -> int:
    """Optimiser steps in an epoch."""
    if stage == "gan":
        return config.gan.steps
    return len(prepared.data.train.segment) // config.train.rows_per_batch


def measure_program(program: Program, target: Target, steps: int) -> dict[str, Any]:
    """What is to be known of a compiled epoch.

    Args:
      program: the epoch.
      target: the device.
      steps: optimiser steps in the epoch, which are its outermost loop.

    Returns:
      ``kernels`` in an epoch; ``step_kernels``; ``loops`` inside a step: trips and kernels a round;
      ``unknown_loops``, whose rounds are not known; ``products`` by types; ``collectives``;
      ``host_calls``; ``doubles``: results of 64-bit floats; ``flops`` and ``bytes`` of an epoch;
      ``estimate_s`` of an epoch, and of it ``launch_s``.
    """
    outer = [loop for loop in program.loops if loop.trips == steps and loop.entered == 1]
    inner = [loop for loop in program.loops if outer and loop.entered == steps]
    return {
        "kernels": sum(kernel.times for kernel in program.kernels),
        "step_kernels": max((loop.kernels for loop in outer), default=None),
        "loops": [{"trips": loop.trips, "kernels": loop.kernels} for loop in inner],
        "unknown_loops": program.unknown_loops,
        "products": dict(program.products()),
        "collectives": dict(program.collectives()),
        "host_calls": program.host_calls(),
        "doubles": program.count_type("f64"),
        "flops": sum(kernel.times * kernel.flops for kernel in program.kernels),
        "bytes": sum(kernel.times * kernel.size for kernel in program.kernels),
        "estimate_s": sum(kernel.times * _seconds(kernel, target) for kernel in program.kernels),
        "launch_s": target.launch * sum(kernel.times for kernel in program.kernels),
    }


def _seconds(kernel: Kernel, target: Target) -> float:
    """How long a kernel takes at least: its launch, or its products, or its bytes."""
    return max(target.launch, kernel.flops / target.flops, kernel.size / target.bandwidth)


def _check_compiler(name: str) -> None:
    """Refuses a target whose compiler is not installed."""
    target = TARGETS[name]
    if importlib.util.find_spec(target.package) is None:
        raise UserError(
            f"--target={name}: its compiler is not installed: pip install "
            f"'cberl-jax[{target.extra}]'"
        )


def _find_device(target: Target) -> Any:
    """The described device."""
    if target.platform == "tpu":
        found = topologies.get_topology_desc(platform="tpu", topology_name=target.topology)
    else:
        found = topologies.get_topology_desc(
            platform="cuda", target_config=target.topology, topology="1x1x1"
        )
    return found.devices[0]


def _describe_arguments(
    prepared: Prepared, config: ConfigDict, members: int, device: Any
) -> tuple[Any, Any, Any]:
    """Shapes and places of an epoch's state, data and settings."""
    team = list_members(config, range(members))
    mesh = jax.sharding.Mesh(np.asarray([[device]]), ("member", "rows"))

    def describe(tree: Any, spec: PartitionSpec) -> Any:
        def one(leaf):
            dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
            return jax.ShapeDtypeStruct(np.shape(leaf), dtype, sharding=NamedSharding(mesh, spec))

        return jax.tree.map(one, tree)

    return (
        describe(members_like(prepared.program, team.seeds, team.hyper), PartitionSpec("member")),
        describe(prepared.data, PartitionSpec()),
        describe(dict(team.hyper), PartitionSpec("member")),
    )


@contextlib.contextmanager
def _quiet_compiler() -> Iterator[None]:
    """Keeps the compilers from looking for a device, and from a cache that is the CPU's."""
    wanted = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
    before = {name: os.environ.get(name) for name in wanted}
    cached = jax.config.jax_enable_compilation_cache
    os.environ.update(wanted)
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", cached)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def measure_targets(config: ConfigDict, folder: str, names: list[str], members: int) -> list[Any]:
    """Compiles for devices that are not there, and writes ``target.json`` and ``target.md``.

    Args:
      config: the settings.
      folder: that is written to, also the programs' texts.
      names: of ``TARGETS``.
      members: on one device.

    Returns:
      A line per target, from ``compile_for``.

    Raises:
      UserError: a compiler is not installed, which is found before anything is compiled or written;
        else as of ``compile_for``.
    """
    for name in names:
        _check_compiler(name)
    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    results = [compile_for(config, name, members, path) for name in names]
    write_text(path / "target.md", format_targets(results, TARGETS))
    write_json(path / "target.json", {"targets": results, "versions": versions()})
    return results
