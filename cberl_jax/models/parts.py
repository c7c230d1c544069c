"""A batch in parts, each on a device of its own, with one sum of gradients a step.

The compiler can split a batch by itself, but then it sums the gradient of every parameter on its
own, and the devices wait for each other as many times. Here every part has its own copy of the
parameters, and their gradients are summed as one vector.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import NamedSharding, PartitionSpec


class Part(NamedTuple):
    """One of the parts of a batch, or the whole.

    Attributes:
      number: [] from 0.
      count: of all parts.
    """

    number: int | jax.Array = 0
    count: int = 1

    def take(self, drawn: jax.Array) -> jax.Array:
        """This part's numbers [N / count] of those [N] that were drawn for the whole batch."""
        return drawn.reshape(self.count, -1)[self.number]


@dataclasses.dataclass(frozen=True)
class Parts:
    """How the rows of a batch are split.

    Attributes:
      count: parts of equally many rows, in order; 1 where a batch is whole.
      sharding: of a leading axis of rows or parts over the devices; None where a batch is whole.
    """

    count: int = 1
    sharding: NamedSharding | None = None

    def place(self, batch: Any) -> Any:
        """Splits leaves [B, ...] over the devices."""
        return batch if self.sharding is None else _constrain(batch, self.sharding)

    def keep_whole(self, batch: Any) -> Any:
        """Has every device compute the whole of leaves [B, ...], so that none waits for others."""
        if self.sharding is None:
            return batch
        return _constrain(batch, NamedSharding(self.sharding.mesh, PartitionSpec()))

    def map(self, function: Callable, params: Any, batch: Any) -> Any:
        """A function of every part of a batch.

        Args:
          function: of the parameters, leaves [B / count, ...], and the ``Part``.
          params: that all parts share.
          batch: leaves [B, ...].

        Returns:
          Leaves [B, ...], the results [B / count, ...] of the parts one after the other.
        """
        if self.count == 1:
            return function(params, batch, ONLY)
        copies = _copy(self, params)
        parts = jax.tree.map(lambda leaf: leaf.reshape(self.count, -1, *leaf.shape[1:]), batch)

        def of_part(own, part, number):
            return function(own, part, Part(number, self.count))

        numbers = jnp.arange(self.count)
        results = jax.vmap(of_part)(copies, self.place(parts), numbers)
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), results)


def _constrain(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, sharding), tree)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _copy(parts: Parts, params: Any) -> Any:
    """Leaves [count, ...], a copy of the parameters for each part."""
    return parts.place(
        jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (parts.count, *leaf.shape)), params)
    )


def _copy_forward(parts: Parts, params: Any) -> tuple[Any, Any]:
    return _copy(parts, params), params


def _copy_backward(parts: Parts, params: Any, gradients: Any) -> tuple[Any]:
    _, unravel = ravel_pytree(params)
    each = [leaf.reshape(parts.count, -1) for leaf in jax.tree.leaves(gradients)]
    vectors = parts.place(jnp.concatenate(each, axis=1))
    return (unravel(jnp.sum(vectors, axis=0)),)


_copy.defvjp(_copy_forward, _copy_backward)

# Of a batch that is whole, and that batch's only part.
WHOLE, ONLY = Parts(), Part()
