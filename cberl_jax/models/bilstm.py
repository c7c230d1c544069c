"""The BiLSTM over each dialogue of a packed row (section 3.3).

The states are reset where a dialogue begins, so a dialogue gives the same numbers whatever it
shares its row with. The input products of all turns are one matrix
product outside the scan, and the two directions are one scan over a leading axis.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from cberl_jax.models.layers import Dropout


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def run_lstm(gates: jax.Array, keep: jax.Array, kernel: jax.Array, unroll: int = 1) -> jax.Array:
    """An LSTM over time, given the products of its input.

    The equations are those of ``flax.linen.OptimizedLSTMCell``. The gradient is written out so that
    the kernel's is one matrix product after the backward scan, not a sum over its steps, and so
    that only the activations are stored.

    Args:
      gates: [L, B, 4 h] products of the input, biases included; input gate, forget gate,
        candidate, output gate.
      keep: [L, B, 1] float, zero where the state is reset before the turn.
      kernel: [h, 4 h] from the output to the next gates.
      unroll: turns in a round of the loop over time; at least L for no loop.

    Returns:
      [L, B, h] outputs.
    """
    return _run_forward(gates, keep, kernel, unroll)[0]


def _step(carry, gates, keep, kernel):
    """One turn: the new cell and output, and what a gradient needs."""
    cell, output = carry
    to_input, to_forget, to_candidate, to_output = jnp.split(
        gates + (output * keep) @ kernel, 4, axis=-1
    )
    input_gate, forget_gate = nn.sigmoid(to_input), nn.sigmoid(to_forget)
    candidate, output_gate = jnp.tanh(to_candidate), nn.sigmoid(to_output)
    before = cell * keep
    cell = forget_gate * before + input_gate * candidate
    squashed = jnp.tanh(cell)
    output = output_gate * squashed
    return (cell, output), (input_gate, forget_gate, candidate, output_gate, before, squashed)


def _run_forward(gates, keep, kernel, unroll):
    def step(carry, inputs):
        carry, activations = _step(carry, *inputs, kernel)
        return carry, (carry[1], activations)

    start = jnp.zeros((gates.shape[1], len(kernel)), gates.dtype)
    inputs = gates, keep
    _, (outputs, activations) = jax.lax.scan(step, (start, start), inputs, unroll=unroll)
    return outputs, (outputs, activations, keep, kernel)


def _run_backward(unroll, residuals, cotangents):
    outputs, activations, keep, kernel = residuals
    back = kernel.T

    def step(carry, inputs):
        of_cell, of_output = carry
        cotangent, activations, keep = inputs
        input_gate, forget_gate, candidate, output_gate, before, squashed = activations
        of_output = of_output + cotangent
        of_cell = of_cell + of_output * output_gate * (1 - squashed**2)
        of_gates = (
            of_cell * candidate * input_gate * (1 - input_gate),
            of_cell * before * forget_gate * (1 - forget_gate),
            of_cell * input_gate * (1 - candidate**2),
            of_output * squashed * output_gate * (1 - output_gate),
        )
        of_gates = jnp.concatenate(of_gates, axis=-1)
        return (of_cell * forget_gate * keep, of_gates @ back * keep), of_gates

    start = jnp.zeros_like(outputs[0])
    inputs = cotangents, activations, keep
    _, of_gates = jax.lax.scan(step, (start, start), inputs, reverse=True, unroll=unroll)
    previous = jnp.pad(outputs[:-1], ((1, 0), (0, 0), (0, 0))) * keep
    # Resets are data, not parameters: no gradient with respect to them is needed.
    return of_gates, jnp.zeros_like(keep), jnp.einsum("lbh,lbg->hg", previous, of_gates)


run_lstm.defvjp(_run_forward, _run_backward)


def resume_lstm(
    start: tuple[jax.Array, jax.Array], gates: jax.Array, keep: jax.Array, kernel: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """``run_lstm`` from a state: a cell and an output, each [B, h].

    Returns:
      Cells and outputs after every turn, each [L, B, h].
    """

    def step(carry, inputs):
        carry, _ = _step(carry, *inputs, kernel)
        return carry, carry

    return jax.lax.scan(step, start, (gates, keep))[1]


class Recurrence(nn.Module):
    """``run_lstm`` with its kernel, or ``resume_lstm`` where there is a state to start from."""

    hidden: int
    unroll: int = 1

    @nn.compact
    def __call__(
        self,
        gates: jax.Array,
        keep: jax.Array,
        start: tuple[jax.Array, jax.Array] | None = None,
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
        """Maps [L, B, 4 hidden] and [L, B, 1] to [L, B, hidden] (cells and outputs, if started)."""
        kernel_init = nn.initializers.orthogonal()
        dense = nn.Dense(4 * self.hidden, use_bias=False, kernel_init=kernel_init)
        dense(jnp.zeros((1, self.hidden)))  # For its kernel alone.
        kernel = dense.variables["params"]["kernel"]
        if start is not None:
            return resume_lstm(start, gates, keep, kernel)
        return run_lstm(gates, keep, kernel, min(self.unroll, len(gates)))


def _gate_bias(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """Zero, but one for the forget gate, the second of four (Jozefowicz et al. 2015)."""
    del key
    return jnp.zeros(shape, dtype).reshape(4, -1).at[1].set(1.0).reshape(shape)


class Direction(nn.Module):
    """An LSTM over [B, L, d] rows with a reset wherever the segment number changes.

    For a window that moves over a conversation a turn at a time there is the collection ``carry``:
    the state before the window's first turn. The state after that turn takes its place.
    """

    hidden: int
    unroll: int = 1

    @nn.compact
    def __call__(self, values: jax.Array, segment: jax.Array) -> jax.Array:
        """Maps [B, L, d] and [B, L] int to [B, L, hidden]."""
        gates = nn.Dense(4 * self.hidden, bias_init=_gate_bias, name="input")(values)
        same = segment[:, 1:] == segment[:, :-1]
        moves = self.has_variable("carry", "state")
        keep = jnp.pad(same, ((0, 0), (1, 0)), constant_values=moves)[..., None]
        inputs = gates.swapaxes(0, 1), keep.astype(values.dtype).swapaxes(0, 1)
        recurrence = Recurrence(self.hidden, self.unroll, name="step")
        if not moves:
            return recurrence(*inputs).swapaxes(0, 1)
        carry = self.variable("carry", "state", lambda: None)
        states = recurrence(*inputs, carry.value)
        # Before the first turn of a conversation there is padding, of which nothing is carried on.
        real = segment[:, :1] > 0
        carry.value = tuple(jnp.where(real, state[0], 0.0) for state in states)
        return states[1].swapaxes(0, 1)


class BiLSTM(nn.Module):
    """Forward and backward LSTM, concatenated.

    Attributes:
      hidden: width of the output; each direction has half of it.
      causal: only the forward direction, at full width: nothing of the future is seen.
      unroll: turns in a round of the loop over time.
    """

    hidden: int
    causal: bool = False
    unroll: int = 1

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
            return dropout(Direction(self.hidden, self.unroll, name="forward")(values, segment))
        both = nn.vmap(
            Direction, in_axes=0, variable_axes={"params": 0}, split_rngs={"params": True}
        )
        forward, backward = both(self.hidden // 2, self.unroll, name="directions")(
            jnp.stack([values, values[:, ::-1]]), jnp.stack([segment, segment[:, ::-1]])
        )
        return dropout(jnp.concatenate([forward, backward[:, ::-1]], axis=-1))
