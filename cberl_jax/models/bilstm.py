"""The BiLSTM over each dialogue of a packed row (section 3.3).

The states are reset where a dialogue begins, so a dialogue gives the same numbers whatever it
shares its row with. The input products of all turns are one matrix
product outside the scan, and the two directions are one scan over a leading axis.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cberl_jax.models.layers import Dropout


class RecurrentStep(nn.Module):
    """One LSTM step whose input products are already made.

    The equations are those of ``flax.linen.OptimizedLSTMCell``; the forget gate's bias is one at
    the start (Jozefowicz et al. 2015).
    """

    hidden: int

    @nn.compact
    def __call__(self, carry, inputs):
        """Advances (c, h), each [B, hidden], by the gates' input products [B, 4 hidden].

        The second input, [B, 1] float, is zero where a dialogue begins.
        """
        cell, output = carry
        gates, keep = inputs
        kernel_init = nn.initializers.orthogonal()
        recurrent = nn.Dense(4 * self.hidden, use_bias=False, kernel_init=kernel_init)
        gates = gates + recurrent(output * keep)
        entry, forget, candidate, exit_ = jnp.split(gates, 4, axis=-1)
        cell = nn.sigmoid(forget) * cell * keep + nn.sigmoid(entry) * jnp.tanh(candidate)
        output = nn.sigmoid(exit_) * jnp.tanh(cell)
        return (cell, output), output


def _gate_bias(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Zero, but one for the forget gate, the second of four."""
    del key
    return jnp.zeros(shape, dtype).reshape(4, -1).at[1].set(1.0).reshape(shape)


class Direction(nn.Module):
    """An LSTM over [B, L, d] rows with a reset wherever the segment number changes."""

    hidden: int

    @nn.compact
    def __call__(self, values: jax.Array, segment: jax.Array) -> jax.Array:
        """Maps [B, L, d] and [B, L] int to [B, L, hidden]."""
        gates = nn.Dense(4 * self.hidden, bias_init=_gate_bias, name="input")(values)
        same = segment[:, 1:] == segment[:, :-1]
        keep = jnp.pad(same, ((0, 0), (1, 0)))[..., None].astype(values.dtype)
        scan = nn.scan(
            RecurrentStep,
            variable_broadcast="params",
            split_rngs={"params": False},
            in_axes=1,
            out_axes=1,
        )
        start = jnp.zeros((values.shape[0], self.hidden), values.dtype)
        _, outputs = scan(self.hidden, name="step")((start, start), (gates, keep))
        return outputs


class BiLSTM(nn.Module):
    """Forward and backward LSTM, concatenated.

    Attributes:
      hidden: width of the output; each direction has half of it.
      causal: only the forward direction, at full width: nothing of the future is seen.
    """

    hidden: int
    causal: bool = False

    @nn.compact
    def __call__(self, values: jax.Array, segment: jax.Array, dropout: Dropout) -> jax.Array:
        """Runs over packed rows.

        Args:
          values: [B, L, d].
          segment: [B, L] int, 0 = padding.
          dropout: of this pass, for the output.

        Returns:
          [B, L, hidden].
        """
        if self.causal:
            return dropout(Direction(self.hidden, name="forward")(values, segment))
        both = nn.vmap(
            Direction, in_axes=0, variable_axes={"params": 0}, split_rngs={"params": True}
        )
        forward, backward = both(self.hidden // 2, name="directions")(
            jnp.stack([values, values[:, ::-1]]), jnp.stack([segment, segment[:, ::-1]])
        )
        return dropout(jnp.concatenate([forward, backward[:, ::-1]], axis=-1))
