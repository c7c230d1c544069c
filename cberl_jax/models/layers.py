"""The two small pieces that every network uses.

flax's own Dropout takes its rate as a Python number and draws at every layer; here a rate is a
hyper-parameter that members of one compiled program may differ in, and one draw serves a whole
pass, since the code that draws is most of what there is to compile.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Dropout:
    """The dropout of one pass: each call uses the next slice of random bits drawn at the start.

    Attributes:
      left: how many numbers per utterance have not been used yet.
    """

    def __init__(
        self,
        key: jax.Array | None,
        rate: jax.typing.ArrayLike,
        shape: tuple[int, int],
        width: int,
    ):
        """Draws the bits.

        Args:
          key: random key, or None at evaluation: then nothing is dropped.
          rate: [] share in [0, 1) that is dropped, in steps of 1 / 65536.
          shape: [B, L] of the batch.
          width: numbers per utterance that all calls together will ask for.
        """
        self._rate = jnp.asarray(rate)
        self._bits = None
        self.left = 0
        if key is not None:
            self._bits = jax.random.bits(key, (*shape, width), jnp.uint16)
            self.left = width

    def __call__(self, values: jax.Array) -> jax.Array:
        """Zeroes a share of values, [B, L, ...] or [B L, ...], and scales the others up."""
        if self._bits is None:
            return values
        width = values.size // (self._bits.shape[0] * self._bits.shape[1])
        bits = self._bits[..., self.left - width : self.left].reshape(values.shape)
        self.left -= width
        keep = bits.astype(jnp.float32) >= self._rate * 2.0**16
        return jnp.where(keep, values / (1.0 - self._rate), 0.0)


class HiddenLayer(nn.Module):
    """Dense, layer norm, GELU, dropout: one hidden layer of width ``width``."""

    width: int

    @nn.compact
    def __call__(self, values: jax.Array, dropout: Dropout) -> jax.Array:
        """Maps [B, L, d] to [B, L, width]."""
        return dropout(nn.gelu(nn.LayerNorm()(nn.Dense(self.width)(values))))
