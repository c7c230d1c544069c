"""Members as an array axis: many seeds and hyper-parameters in one compiled program (section 4).

A member is one (seed, numeric hyper-parameters) pair. The state of S members is one tree whose
leaves have a leading axis; on one device the epoch functions are vmapped over it, on several the
members are dealt out and the vmapped functions are pmapped. This is the one file that knows how
many members and devices there are.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cberl_jax.epochs import MemberState, Program, create_state

Hyper = Mapping[str, jax.Array]


def create_members(program: Program, seeds: jax.Array, hyper: Hyper) -> MemberState:
    """Draws the state of S members, leaves [S, ...].

    One member after the other: a vmapped initialisation of a model of this size can deadlock the
    CPU runtime of jaxlib 0.10 on two-core machines, and ``lax.map`` does not.

    Args:
      program: the static settings.
      seeds: [S] int.
      hyper: numeric settings, each [S].
    """

    @jax.jit
    def create(seeds, hyper):
        return jax.lax.map(lambda member: create_state(program, *member), (seeds, hyper))

    return create(seeds, hyper)


def members_like(program: Program, seeds: jax.Array, hyper: Hyper) -> MemberState:
    """Shapes and dtypes of ``create_members`` without any work."""
    one = jax.eval_shape(functools.partial(create_state, program), seeds[0], _first(hyper))
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((len(seeds), *leaf.shape), leaf.dtype), one
    )


def _first(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], tree)


@dataclasses.dataclass(frozen=True)
class Fleet:
    """S members dealt out to D devices; those that do not divide are filled up with copies.

    Attributes:
      members: S.
      devices: the devices, of this process.
    """

    members: int
    devices: Sequence[jax.Device]

    def spread(self, tree: Any) -> Any:
        """Deals leaves [S, ...] out: [D, ceil(S / D), ...] on D devices, or [S, ...] on one."""
        count = len(self.devices)
        if count == 1:
            return jax.device_put(tree, self.devices[0])
        each = -(-self.members // count)
        order = np.minimum(np.arange(each * count), self.members - 1)
        return jax.tree.map(
            lambda x: jnp.asarray(x)[order].reshape(count, each, *x.shape[1:]), tree
        )

    def share(self, tree: Any) -> Any:
        """Puts a copy of a tree that all members read on every device."""
        if len(self.devices) == 1:
            return jax.device_put(tree, self.devices[0])
        mesh = jax.sharding.Mesh(np.asarray(self.devices), ("device",))
        split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("device"))
        count = len(self.devices)

        def copies(x):
            x = np.asarray(x)
            return jax.device_put(np.broadcast_to(x[None], (count, *x.shape)), split)

        return jax.tree.map(copies, tree)

    def collect(self, tree: Any) -> Any:
        """The inverse of ``spread``, as numpy arrays [S, ...]."""
        tree = jax.tree.map(np.asarray, tree)
        if len(self.devices) == 1:
            return tree
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[: self.members], tree)

    def compile(self, function: Callable, state: Any, shared: Any, hyper: Any) -> Callable:
        """Compiles ``function(state, shared, hyper)`` of one member for all of them.

        Args:
          function: a pure function of one member's state, the shared data and its settings.
          state: the members' states, from ``spread``.
          shared: from ``share``.
          hyper: from ``spread``.

        Returns:
          The compiled function of such arguments.
        """
        mapped = jax.vmap(function, in_axes=(0, None, 0))
        if len(self.devices) == 1:
            return jax.jit(mapped).lower(state, shared, hyper).compile()
        spread = jax.pmap(mapped, devices=self.devices)
        return spread.lower(state, shared, hyper).compile()
