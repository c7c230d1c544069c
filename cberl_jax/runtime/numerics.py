"""The settings of jax that a run's numbers depend on, whatever the environment says.

``JAX_ENABLE_X64``, ``JAX_DEFAULT_PRNG_IMPL``, ``JAX_THREEFRY_PARTITIONABLE``,
``JAX_RANDOM_SEED_OFFSET`` and ``JAX_NUMPY_DTYPE_PROMOTION`` change dtypes or random numbers, so a
run that is resumed under another of them would not be the same run. A program pins them for its
whole process (``pin``). The Python API pins them within its own calls only (``pinned``), since the
process is the user's. Left as they are: the precision of matrix products and the device, which are
choices of speed.
"""

import contextlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp

PRNG = "threefry2x32"
_PINNED = {
    "enable_x64": False,
    "default_prng_impl": PRNG,
    "threefry_partitionable": True,
    "numpy_dtype_promotion": "standard",
}


def pin() -> None:
    """Pins the settings for the rest of the process."""
    for name, value in _PINNED.items():
        jax.config.update(f"jax_{name}", value)


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """Pins the settings within the block, or within the function that it decorates.

    jax reads them when a function is traced, so the block has to hold the tracing.
    """
    with contextlib.ExitStack() as stack:
        for name, value in _PINNED.items():
            stack.enter_context(getattr(jax, name)(value))
        yield


def random_key(seed: jax.Array, stream: int) -> jax.Array:
    """The key of one stream of random numbers of one member.

    Args:
      seed: [] int32, the member's.
      stream: number of the stream.

    Returns:
      [] key. Up to the stream it is ``jax.random.key(seed)`` of a process without any settings;
      that function itself would add ``JAX_RANDOM_SEED_OFFSET``.
    """
    low = jnp.asarray(seed, jnp.int32).astype(jnp.uint32)
    data = jnp.stack([jnp.zeros((), jnp.uint32), low])
    return jax.random.fold_in(jax.random.wrap_key_data(data, impl=PRNG), stream)
