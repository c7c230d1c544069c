"""Members as an array axis: many seeds and hyper-parameters in one compiled program (section 4).

A member is one (seed, numeric hyper-parameters) pair. The state of S members is one tree whose
leaves have a leading axis. The devices, those of other processes included, are laid out as shards
of members times parts of a batch:

- at least as many members as devices: every device has its share of the members, and nothing is
  exchanged between devices;
- fewer members than devices: every batch is split over the devices of its member, and the
  gradients are summed between them.

The epoch functions are vmapped over members, and compiled by ``jit`` for arrays that are sharded
over the devices of all processes (``NamedSharding``). With one process that has no batch to split
they are pmapped instead, which gives the same bits. What does not split its batches may run on the
first device of each shard alone.

No other file depends on the number of members or devices.
"""

import concurrent.futures
import ctypes
import functools
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cberl_jax.data.folded_dataset import dataset_of
from cberl_jax.models.parts import WHOLE, Parts
from cberl_jax.models.precision import with_precision
from cberl_jax.runtime.compiled import find_or_trace, shapes_of
from cberl_jax.training.epoch import (
    MemberState,
    Program,
    create_state,
    gan_epoch,
    joint_epoch,
)

Hyper = Mapping[str, np.ndarray]
COMPILER = "compiler"  # the name of its threads
MEMORY_SHARE = 0.9  # of an accelerator's memory; a CPU's is shared with others
CPU_MEMORY_SHARE = 0.5
# On a CPU. The third level, XLA's own choice, compiles longer, and its epochs are no faster.
LEVEL_OPTION, LEVEL = "xla_backend_optimization_level", 2
UNSPLIT = ("gan",)  # stages whose batches are not split


def members_like(program: Program, seeds: np.ndarray, hyper: Hyper) -> MemberState:
    """Shapes and dtypes of the state of S members, leaves [S, ...], without any work."""
    first = jax.tree.map(lambda leaf: leaf[0], (np.asarray(seeds, np.int32), dict(hyper)))
    one = shapes_of(functools.partial(create_state, program), *first)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((len(seeds), *leaf.shape), leaf.dtype), one
    )


def choose_split(members: int, devices: int, rows: int) -> int:
    """Into how many parts a batch of ``rows`` is split so that every member has its devices.

    Args:
      members: S.
      devices: D.
      rows: rows in a batch.

    Returns:
      The largest number that divides devices and rows and leaves a shard for each member; 1 where
      there are at least as many members as devices.
    """
    fits = (
        parts
        for parts in range(1, devices + 1)
        if devices % parts == 0 and rows % parts == 0 and devices // parts >= members
    )
    return max(fits, default=1)


class Fleet:
    """The members of one program on some devices; each stage is compiled once.

    Members are padded with copies of the last one so that all devices have equally many; the
    results of the copies are dropped.

    Attributes:
      program: the static settings.
      devices: of all processes.
      split: parts of a batch.
      padded_members: members that one call computes, copies included.
    """

    def __init__(
        self,
        program: Program,
        members: int,
        devices: Sequence[jax.Device] | None = None,
        firsts: bool = False,
    ):
        """Lays out devices for up to ``members`` members; by default all devices there are.

        Args:
          program: the static settings.
          members: S.
          devices: of all processes.
          firsts: whether they are the first devices of the shards of a fleet that splits batches,
            so that this one has the same shards, and arrays of the same shapes.
        """
        devices = tuple(jax.devices() if devices is None else devices)
        self.program = program
        self.split = 1 if firsts else choose_split(members, len(devices), program.rows)
        if self.split == 1 and jax.process_count() == 1 and not firsts:
            devices = devices[:members]
        self.devices = devices
        self._shards = len(devices) // self.split
        self._each = -(-members // self._shards)
        self.padded_members = self._shards * self._each
        self._mesh = Mesh(np.asarray(devices).reshape(self._shards, self.split), ("member", "rows"))
        self._of_firsts = firsts
        self._alone: Fleet | None = None
        self._unsplit: set[str] = set()
        on_cpu = jax.process_count() == 1 and devices[0].platform == "cpu"
        if self.split > 1 and on_cpu and program.gan is not None:
            self._alone = Fleet(program, members, devices[:: self.split], firsts=True)
        self._compiled: dict[str, concurrent.futures.Future[Callable]] = {}
        self._create: Callable | None = None
        self._state: Any = None

    @property
    def stages(self) -> dict[str, Callable]:
        """Stage -> its epoch as a function of one member's state, data and settings, in order."""
        program, parts = self.program, self.parts

        def joint(state, data, hyper):
            return joint_epoch(program, state, dataset_of(data, hyper), hyper, parts)

        def gan(state, data, hyper):
            return gan_epoch(program, state, dataset_of(data, hyper), hyper)

        each = {"joint": joint} if program.gan is None else {"gan": gan, "joint": joint}
        how = (program.precision, self.devices[0].platform)
        return {name: with_precision(function, *how) for name, function in each.items()}

    @property
    def members_per_device(self) -> int:
        """Members that one device computes, copies included; with batches split, a part of each."""
        return self._each

    @property
    def compiles_ahead(self) -> bool:
        """Whether it makes a start shorter to compile several stages at a time.

        On a CPU it does not: the compilers and the training would share the cores. Several
        processes compile in one order, since they wait for each other.
        """
        return self.devices[0].platform != "cpu" and jax.process_count() == 1

    @property
    def _pmapped(self) -> bool:
        """Whether members are sharded by pmap."""
        several = self.split == 1 and len(self.devices) > 1
        return several and not self._of_firsts and jax.process_count() == 1

    def _sharding(self, *axes: str) -> NamedSharding:
        return NamedSharding(self._mesh, PartitionSpec(*axes))

    @property
    def _of_pmap(self) -> NamedSharding:
        """Of a leading axis of devices."""
        return NamedSharding(Mesh(np.asarray(self.devices), ("device",)), PartitionSpec("device"))

    def create(self, seeds: np.ndarray, hyper: Hyper) -> MemberState:
        """Draws the state of n members: numpy leaves [n, ...], by the CPU where jax has one.

        So the weights that a seed starts from do not depend on the accelerator, and its compiler is
        not waited for. One member after the other: a program for one compiles faster than one for
        all and fits any number of them, and the vmapped drawing of a model of this size can
        deadlock the CPU runtime of jaxlib 0.10 on two-core machines.
        """
        each = [
            (np.int32(seed), {name: values[n] for name, values in hyper.items()})
            for n, seed in enumerate(seeds)
        ]
        if self._create is None:
            draw = functools.partial(create_state, self.program)
            self._create = compile_once(draw, *each[0], device=_first_cpu())
        state = None
        for n, member in enumerate(each):
            drawn = jax.tree.map(np.asarray, self._create(*member))
            if state is None:
                state = jax.tree.map(
                    lambda leaf: np.empty((len(seeds), *leaf.shape), leaf.dtype), drawn
                )
            jax.tree.map(lambda whole, leaf, n=n: whole.__setitem__(n, leaf), state, drawn)
        return state

    def _pad(self, tree: Any) -> Any:
        """Leaves [n, ...] padded to [padded_members, ...]."""

        def pad(leaf):
            leaf = np.asarray(leaf)
            if len(leaf) == self.padded_members:
                return leaf
            return leaf[np.minimum(np.arange(self.padded_members), len(leaf) - 1)]

        return jax.tree.map(pad, tree)

    def shard(self, tree: Any) -> Any:
        """Shards leaves [n, ...] of n members, the same in every process, over the devices."""
        if not self._pmapped:
            return jax.device_put(self._pad(tree), self._sharding("member"))
        each = jax.tree.map(
            lambda leaf: leaf.reshape(self._shards, self._each, *leaf.shape[1:]), self._pad(tree)
        )
        return jax.device_put(each, self._of_pmap)

    def describe(self, tree: Any) -> Any:
        """Shapes of what ``shard`` makes of all members' leaves, given those of one member."""
        lead, sharding = (self.padded_members,), self._sharding("member")
        if self._pmapped:
            lead, sharding = (self._shards, self._each), self._of_pmap
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((*lead, *leaf.shape), leaf.dtype, sharding=sharding),
            tree,
        )

    def describe_state(self, hyper: Hyper) -> Any:
        """Shapes of what ``shard`` makes of members that have such settings."""
        if self._state is None:
            first = {name: values[:1] for name, values in hyper.items()}
            like = members_like(self.program, np.zeros(1, np.int32), first)
            one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), like)
            self._state = self.describe(one)
        return self._state

    def describe_one(self, tree: Any) -> Any:
        """Shapes of one member's leaves, given those of all members from ``shard``."""
        lead = 2 if self._pmapped else 1
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[lead:], leaf.dtype), tree)

    def replicate(self, tree: Any) -> Any:
        """Puts a copy of a tree that all members read on every device."""
        if not self._pmapped:
            return jax.device_put(tree, self._sharding())
        count = len(self.devices)
        copies = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (count, *np.shape(leaf))), tree)
        return jax.device_put(copies, self._of_pmap)

    def gather(self, tree: Any, members: int) -> Any:
        """The inverse of ``shard``: numpy arrays [n, ...] of n members, in every process."""
        if jax.process_count() > 1:
            tree = multihost_utils.process_allgather(tree, tiled=True)
        elif self._pmapped:
            # What lies on several devices is put together in memory of its own.
            return jax.tree.map(
                lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:])[:members], tree
            )
        # A copy: the device's own memory may be given to the next epoch.
        return jax.tree.map(lambda leaf: np.array(leaf[:members]), tree)

    def for_checkpoint(self, tree: Any, members: int) -> Any:
        """What a checkpoint is written from: every process holds its shards, or one holds all.

        Args:
          tree: from ``shard`` or a compiled stage.
          members: n.

        Returns:
          numpy leaves [n, ...] with one process, else global arrays [padded_members, ...].
        """
        return self.gather(tree, members) if jax.process_count() == 1 else tree

    @property
    def parts(self) -> Parts:
        """How a batch, as one member sees it, is split over the member's devices."""
        return WHOLE if self.split == 1 else Parts(self.split, self._sharding("rows"))

    def has_compiled(self, name: str) -> bool:
        """Whether this stage's program is there, so that ``compile`` takes no time."""
        compiled = self._computing(name)._compiled
        return name in compiled and compiled[name].done()

    def _computing(self, name: str) -> "Fleet":
        """The fleet that computes a stage: this one, or the first devices of its shards."""
        return self._alone if self._alone is not None and name in self._unsplit else self

    def _take(self, tree: Any) -> Any:
        """What ``shard`` and ``replicate`` of a fleet with split batches have on these devices.

        Shapes stay shapes, of arrays that lie there.
        """

        def take(leaf):
            sharding = NamedSharding(self._mesh, leaf.sharding.spec)
            if leaf.sharding == sharding:
                return leaf
            if isinstance(leaf, jax.ShapeDtypeStruct):
                return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
            own = {shard.device: shard.data for shard in leaf.addressable_shards}
            parts = [own[device] for device in self.devices]
            return jax.make_array_from_single_device_arrays(leaf.shape, sharding, parts)

        return jax.tree.map(take, tree)

    def compile(
        self,
        name: str,
        function: Callable,
        arguments: tuple[Any, Any, Any],
        keep: bool = False,
        options: Mapping[str, str] | None = None,
        unsplit: bool = False,
    ) -> Callable:
        """Compiles ``function(state, shared, hyper)`` of one member for all members, once per name.

        Args:
          name: of the stage; a second call with it returns the first call's program.
          function: a pure function of one member's state, the shared data and its settings.
          arguments: the members' states, from ``shard``; the shared data, from ``replicate``; the
            members' settings, from ``shard``; or their shapes.
          keep: whether the state is used again; otherwise its memory becomes the result's.
          options: of XLA.
          unsplit: whether the function does not split batches, so that one device of each shard is
            enough for it. Where they are a CPU's, all at once would slow each other down.

        Returns:
          The compiled function of such arguments.
        """
        self.compile_ahead(name, function, arguments, keep, options, unsplit)
        computing = self._computing(name)
        compiled = computing._compiled[name].result()
        if self._alone is None:
            return compiled

        def call(state: Any, *others: Any) -> Any:
            if computing is not self:
                # The state stays there, since the next epoch is likely to be of this stage.
                return compiled(*computing._take((state, *others)))
            own = self._sharding("member")
            if jax.tree.leaves(state)[0].sharding != own:
                state = jax.device_put(state, own)
            return compiled(state, *others)

        return call

    def compile_ahead(
        self,
        name: str,
        function: Callable,
        arguments: tuple[Any, Any, Any],
        keep: bool = False,
        options: Mapping[str, str] | None = None,
        unsplit: bool = False,
    ) -> None:
        """Begins what ``compile``, of the same arguments, ends; the compiler has its own thread."""
        if unsplit and self._alone is not None:
            self._unsplit.add(name)
        computing = self._computing(name)
        if computing is not self:
            taken = computing._take(arguments)
            return computing.compile_ahead(name, function, taken, keep, options)
        if name in self._compiled:
            return
        given = () if keep else (0,)
        mapped = jax.vmap(function, in_axes=(0, None, 0))
        if self._pmapped:
            staged = jax.pmap(mapped, devices=list(self.devices), donate_argnums=given)
        elif self.split == 1 and len(self.devices) > 1:
            # Each device computes its own members, whatever the compiler could exchange.
            member = PartitionSpec("member")
            sharded = jax.shard_map(
                mapped,
                mesh=self._mesh,
                in_specs=(member, PartitionSpec(), member),
                out_specs=member,
                check_vma=False,
            )
            staged = jax.jit(sharded, donate_argnums=given)
        else:
            mapped = jax.vmap(function, in_axes=(0, None, 0), spmd_axis_name="member")
            result = self._sharding("member")
            staged = jax.jit(mapped, donate_argnums=given, out_shardings=result)
        lower = functools.partial(staged.lower, *arguments)
        made_for = (keep, self._pmapped, self.split)
        options = _optimise(self.devices[0], LEVEL) if options is None else options
        compiler = find_or_trace(function, arguments, lower, made_for, self.devices, options)
        self._compiled[name] = _in_thread(compiler)

    def memory(self, name: str) -> tuple[int, int]:
        """Bytes on one device that a compiled stage needs: per member, and for all of them."""
        stats = self._computing(name)._compiled[name].result().memory_analysis()
        total = stats.argument_size_in_bytes + stats.temp_size_in_bytes
        total += stats.output_size_in_bytes - stats.alias_size_in_bytes
        return total // self._each, total


def _in_thread(compiler: Callable[[], Callable]) -> concurrent.futures.Future[Callable]:
    """Compiles in a thread of its own; waiting for the result raises what the compiler raised."""
    future: concurrent.futures.Future[Callable] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(compiler())
        except BaseException as error:
            future.set_exception(error)
        return_memory()

    threading.Thread(target=run, name=COMPILER).start()
    return future


def is_compiling() -> bool:
    """Whether a compiler is at work in a thread, which Python would wait for at its end."""
    return any(thread.name == COMPILER for thread in threading.enumerate())


def memory_of_device() -> int:
    """Bytes that a program may use on each of this process's devices."""
    devices = jax.local_devices()
    stats = devices[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(MEMORY_SHARE * stats["bytes_limit"])
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(CPU_MEMORY_SHARE * total) // len(devices)


def compile_once(function: Callable, *arguments: Any, device: jax.Device | None = None) -> Callable:
    """Compiles a function that runs once, so that its compilation is most of what it costs.

    Args:
      function: a pure function.
      *arguments: of it, or their shapes.
      device: that it runs on; by default jax's first one.

    Returns:
      The compiled function of such arguments.
    """
    device = device or jax.local_devices()[0]
    # The optimiser would take longer than all it could save.
    options = _optimise(device, 0)
    with jax.default_device(device):
        lower = functools.partial(jax.jit(function).lower, *arguments)
        compiled = find_or_trace(function, arguments, lower, (), [device], options)()
    return_memory()
    return compiled


def _optimise(device: jax.Device, level: int) -> dict[str, int] | None:
    """The options of XLA for a level of optimisation on a CPU that the environment leaves open."""
    if device.platform != "cpu" or LEVEL_OPTION in os.environ.get("XLA_FLAGS", ""):
        return None
    return {LEVEL_OPTION: level}


def _first_cpu() -> jax.Device | None:
    """The first device that is a CPU; None where ``JAX_PLATFORMS`` leaves it out."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def return_memory() -> None:
    """Gives what the compiler has freed back to the system; the C library alone would keep it.

    A compilation takes about half a gigabyte, of which nothing is needed afterwards.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's own
        if trim is not None:
            trim(0)
