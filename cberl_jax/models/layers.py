"""The two small pieces that every network uses.

flax's own Dropout takes its rate as a Python number; here a rate is a hyper-parameter that members
of one compiled program may differ in, so it has to be an array.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


def dropout(values: jax.Array, rate: jax.typing.ArrayLike, key: jax.Array | None) -> jax.Array:
    """Zeroes a share ``rate`` of ``values`` and scales the others up; identity without a key.

    Args:
      values: [...] float.
      rate: [] share in [0, 1), traced or not.
      key: the random key, or None at evaluation.

    Returns:
      [...] float.
    """
    if key is None:
        return values
    keep = jax.random.bernoulli(key, 1.0 - rate, values.shape)
    return jnp.where(keep, values / (1.0 - rate), 0.0)


class Dropout(nn.Module):
    """``dropout`` with the key of the ``dropout`` stream; identity where there is none."""

    @nn.compact
    def __call__(self, values: jax.Array, rate: jax.typing.ArrayLike) -> jax.Array:
        """Args as in ``dropout``."""
        key = self.make_rng("dropout") if self.has_rng("dropout") else None
        return dropout(values, rate, key)


class HiddenLayer(nn.Module):
    """Dense, layer norm, GELU, dropout: one hidden layer of width ``width``."""

    width: int

    @nn.compact
    def __call__(self, values: jax.Array, rate: jax.typing.ArrayLike) -> jax.Array:
        """Maps [..., d] to [..., width]; ``rate`` is the dropout rate."""
        values = nn.LayerNorm()(nn.Dense(self.width)(values))
        return Dropout()(nn.gelu(values), rate)
