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
          rate: [] share in [0, 1) that is dropped unless a call says otherwise.
          shape: [B, L] of the batch.
          width: numbers per utterance that all calls together will ask for.
        """
        self._rate = rate
        self._bits = None
        self.left = 0
        if key is not None:
            # Four numbers a word: asked for bytes, the generator makes a word for each. And flat:
            # with more axes it takes thrice as long to compile.
            words = jax.random.bits(key, (shape[0] * shape[1] * -(-width // 4),))
            self._bits = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(*shape, -1)
            self.left = width

    def __call__(self, values: jax.Array, rate: jax.typing.ArrayLike | None = None) -> jax.Array:
        """Zeroes a share of values, [B, L, ...] or [B L, ...], and scales the others up.

        The share is rounded to a multiple of 1 / 256. What is kept is scaled up by the rounded
        share, so that every expectation is exact.
        """
        if self._bits is None:
            return values
        width = values.size // (self._bits.shape[0] * self._bits.shape[1])
        bits = self._bits[..., self.left - width : self.left].reshape(values.shape)
        self.left -= width
        dropped = jnp.round(jnp.asarray(self._rate if rate is None else rate) * 256)
        keep = bits >= dropped.astype(jnp.uint8)
        return jnp.where(keep, values * (256 / (256 - dropped)), 0.0)


class HiddenLayer(nn.Module):
    """Dense, layer norm, GELU, dropout: one hidden layer of width ``width``."""

    width: int

    @nn.compact
    def __call__(self, values: jax.Array, dropout: Dropout) -> jax.Array:
        """Maps [B, L, d] to [B, L, width]."""
        return dropout(nn.gelu(nn.LayerNorm()(nn.Dense(self.width)(values))))
