"""Several processes as one program: start, the one that writes, agreement (section 4).

Every process runs the same code on the same settings; only the main one writes files for people
and prints. With one process, all of this does nothing.
"""

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils

from cberl_jax.errors import UserError

# After this long without a sign of life a process is given up by the others.
HEARTBEAT_SECONDS = 30
LOST_STATUS = 1


# Devices of a CPU that share a member's batches. More were not measured.
PARTS = 2


def count_used(members: int, cores: int) -> int:
    """How many cores of a CPU train so many members, each a device of its own.

    A core that trains its own members waits for no other one. Where there are twice as many cores
    as members, two train one member.
    """
    each = PARTS if PARTS * members <= cores else 1
    return min(cores, each * members)


def divide_cpu(members: int) -> int:
    """How many devices the CPU is divided into for so many members.

    It changes nothing where jax finds an accelerator, or where ``XLA_FLAGS`` say how many devices
    there are.
    """
    if "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return count_used(members, cores)


def start_processes(
    coordinator: str | None = None, number: int | None = None, own: int | None = None
) -> None:
    """Joins the other processes, before anything else asks jax for devices.

    Without arguments: under SLURM (tasks started by ``srun``) and on a TPU pod jax finds the other
    processes itself; elsewhere the process is alone.

    Args:
      coordinator: ``host:port`` of process 0.
      number: of processes.
      own: this process's number, from 0.

    Raises:
      UserError: some of the three are missing, or the others cannot be reached.
    """
    given = (coordinator, number, own)
    if all(x is None for x in given) and not in_cluster():
        return
    if any(x is None for x in given) and any(x is not None for x in given):
        raise UserError("--coordinator, --num_processes and --process_id belong together")
    if number is not None and own >= number:
        raise UserError(f"--process_id={own}: has to be below --num_processes={number}")
    if coordinator is not None and ":" not in coordinator:
        raise UserError(f"--coordinator={coordinator}: has to be host:port")
    try:
        jax.distributed.initialize(
            coordinator, number, own, heartbeat_timeout_seconds=HEARTBEAT_SECONDS
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the other processes cannot be joined: {error}") from error


def in_cluster() -> bool:
    """Whether a scheduler has started several processes of this program.

    Raises:
      UserError: its variable is not a number.
    """
    # A scheduler's wrapper may set the variable to nothing.
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "").strip() or "1"
    if not tasks.isdecimal():
        raise UserError(f"SLURM_STEP_NUM_TASKS={tasks!r}: has to be a number; unset the variable")
    return int(tasks) > 1 or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


@contextlib.contextmanager
def explaining_devices() -> Iterator[None]:
    """Makes of a failure within the block a sentence, where its cause is that there is no device.

    Raises:
      UserError: jax has no device of the kind that ``JAX_PLATFORMS`` names, or none at all.
    """
    try:
        yield
    except (RuntimeError, AssertionError) as failure:
        platforms = jax.config.jax_platforms
        try:
            jax.devices()
        # Of a known platform without its plug-in jax raises an AssertionError without words.
        except (RuntimeError, AssertionError) as error:
            reason = str(error).strip().splitlines()[:1] or ["its jax plug-in is not installed"]
            raise UserError(
                f"JAX_PLATFORMS={platforms or ''}: jax finds no such device ({reason[0]}); unset "
                "the variable, or install jax for that device"
            ) from error
        raise failure


@contextlib.contextmanager
def ending_with_others() -> Iterator[None]:
    """Ends this process with a clear sentence if another one is lost within the block."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        reason = str(error).strip().splitlines()[0]
        print(
            f"error: another process of this run is lost ({reason}); start all of them again with "
            "the same commands, which go on from the newest checkpoint",
            file=sys.stderr,
            flush=True,
        )
        # The usual way out would wait for the lost one.
        os._exit(LOST_STATUS)


def is_main() -> bool:
    """Whether this process writes files and prints."""
    return jax.process_index() == 0


def gather(tree):
    """Each leaf [...] of every process, as numpy arrays [P, ...]."""
    if jax.process_count() == 1:
        return jax.tree.map(lambda x: np.asarray(x)[None], tree)
    return multihost_utils.process_allgather(tree)


def broadcast(values: Sequence[float]) -> np.ndarray:
    """The main process's numbers, on every process."""
    return gather(np.asarray(values))[0]


def wait_for_others(name: str) -> None:
    """Returns when all processes have come to the place ``name``."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
