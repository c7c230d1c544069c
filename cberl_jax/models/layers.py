"""The two small pieces that every network uses.

flax's own Dropout takes its rate as a Python number and draws at every layer. Here members of one
compiled program may differ in their rates, and one draw serves a whole pass, since the code that
draws is most of what there is to compile.
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class Dropout:
    """The dropout of one pass: each call uses the next slice of one block of random bits.

    Attributes:
      rate: [] share of a layer's values that is dropped.
      input_rate: [] share of the model's input that is dropped.
      bits: [B, L, width] uint8, or None: then nothing is dropped.
    """

    def __init__(
        self,
        bits: jax.Array | None = None,
        rate: jax.typing.ArrayLike = 0.0,
        input_rate: jax.typing.ArrayLike = 0.0,
    ):
        """Args: as of the attributes."""
        self.rate, self.input_rate = rate, input_rate
        self.bits = bits
        self._left = 0 if bits is None else bits.shape[-1]

    def __call__(self, values: jax.Array) -> jax.Array:
        """Zeroes a share ``rate`` of values, [B, L, ...] or [B L, ...], and scales the others up.

        The share is rounded to a multiple of 1 / 256. What is kept is scaled up by the rounded
        share, so that every expectation is exact.
        """
        return self._drop(values, self.rate)

    def drop_inputs(self, values: jax.Array) -> jax.Array:
        """The same at ``input_rate``."""
        return self._drop(values, self.input_rate)

    def _drop(self, values: jax.Array, rate: jax.typing.ArrayLike) -> jax.Array:
        if self.bits is None:
            return values
        width = values.size // (self.bits.shape[0] * self.bits.shape[1])
        bits = self.bits[..., self._left - width : self._left].reshape(values.shape)
        self._left -= width
        dropped = jnp.round(jnp.asarray(rate) * 256)
        keep = bits >= dropped.astype(jnp.uint8)
        return jnp.where(keep, values * (256 / (256 - dropped)), 0.0)


class DropoutCounter(Dropout):
    """Drops nothing, and counts how many values the layers of a pass would drop from.

    Attributes:
      values: of all calls so far.
    """

    values = 0

    def _drop(self, values: jax.Array, rate: jax.typing.ArrayLike) -> jax.Array:
        self.values += values.size
        return values


def draw_dropout(
    run: Callable[..., Any],
    arguments: Sequence[Any],
    key: jax.Array,
    shape: tuple[int, int],
    rate: jax.typing.ArrayLike,
    input_rate: jax.typing.ArrayLike = 0.0,
) -> Dropout:
    """Draws the random bits of a pass in one block, which is much less to compile than many draws.

    Args:
      run: the pass, as a function of some arguments and a ``Dropout``. It is traced once for the
        shapes alone, so that no layer's width is written down anywhere else.
      arguments: of the pass.
      key: random key.
      shape: [B, L] of the batch.
      rate: as of ``Dropout``.
      input_rate: as of ``Dropout``.
    """
    counter = DropoutCounter()
    jax.eval_shape(lambda *given: run(*given, counter), *arguments)
    width = counter.values // (shape[0] * shape[1])
    # Four numbers a word: asked for bytes, the generator makes a word for each. And flat: with
    # more axes it takes thrice as long to compile.
    words = jax.random.bits(key, (shape[0] * shape[1] * -(-width // 4),))
    bits = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(*shape, -1)[..., :width]
    return Dropout(bits, rate, input_rate)


class HiddenLayer(nn.Module):
    """Dense, layer norm, GELU, dropout: one hidden layer of width ``width``."""

    width: int

    @nn.compact
    def __call__(self, values: jax.Array, dropout: Dropout) -> jax.Array:
        """Maps [B, L, d] to [B, L, width]."""
        return dropout(nn.gelu(nn.LayerNorm()(nn.Dense(self.width)(values))))
