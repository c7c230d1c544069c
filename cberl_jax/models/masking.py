"""Which nodes are masked, and what stands in for them (the sampling strategy of section 3.4)."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

LARGEST_PROBABILITY = 0.9


class Masking(NamedTuple):
    """The masked nodes of a batch.

    Attributes:
      masked: [B, L] bool.
      swapped: [B, L] bool, masked nodes that get another node's features instead of the token.
      donor: [B, L] int, the flat index of that other node, which is not masked itself.
    """

    masked: jax.Array
    swapped: jax.Array
    donor: jax.Array


def class_mask_probability(
    counts: jax.Array, *, rate: jax.typing.ArrayLike, tau: jax.typing.ArrayLike
) -> jax.Array:
    """Mask probability per class, p(c) ~ n_c^-tau, with a mean of ``rate`` over utterances.

    ``tau = 0`` masks all classes alike; above it rare classes are masked more often, so that what
    is known of them has to be said by their conversations too; below it they are spared. No class
    is masked with a probability over 0.9; the rest of the mean is then borne by the others.

    Args:
      counts: [C] utterances per class.
      rate: [] wanted mean over utterances, in [0, 0.9].
      tau: [] exponent.

    Returns:
      [C] float.
    """
    counts = jnp.maximum(jnp.asarray(counts, float), 1.0)
    shape = jnp.exp(-tau * (jnp.log(counts) - jnp.log(jnp.max(counts))))
    share = counts / jnp.sum(counts)

    # At the scale that takes class j to the cap, class i has min(1, shape_i / shape_j) of the cap.
    # If the mean is too low even there, class j is at the cap; the others share what is left.
    at_cap = LARGEST_PROBABILITY * jnp.minimum(1.0, shape / shape[:, None])
    capped = jnp.sum(at_cap * share, axis=-1) <= rate
    left = rate - LARGEST_PROBABILITY * jnp.sum(share, where=capped)
    scale = left / jnp.maximum(jnp.sum(share * shape, where=~capped), 1e-30)
    return jnp.where(capped, LARGEST_PROBABILITY, scale * shape)


def draw_masking(
    key: jax.Array,
    labels: jax.Array,
    valid: jax.Array,
    probability: jax.Array,
    *,
    rate: jax.typing.ArrayLike,
    swap: jax.typing.ArrayLike,
) -> Masking:
    """Draws the masked nodes of a batch.

    Args:
      key: random key.
      labels: [B, L] int; below zero = no label.
      valid: [B, L] bool, False = padding, never masked and never a donor.
      probability: [C] from ``class_mask_probability``.
      rate: [] probability for nodes without a label.
      swap: [] share of the masked nodes that get another node's features.

    Returns:
      A Masking. Donors are nodes that are neither padding nor masked; where there are none, every
      masked node gets the token.
    """
    # Drawn flat, which compiles faster.
    drawn = jax.random.uniform(key, (3 * labels.size,))
    for_mask, for_swap, for_donor = drawn.reshape(3, *labels.shape)
    chance = jnp.where(labels < 0, rate, probability[jnp.maximum(labels, 0)])
    masked = valid & (for_mask < chance)

    # A masked donor would carry its own hidden features to its neighbours.
    shown = (valid & ~masked).reshape(-1)
    count = jnp.sum(shown)
    listed = jnp.argsort(~shown, stable=True)
    donor = listed[(for_donor * count.astype(for_donor.dtype)).astype(jnp.int32)]
    swapped = masked & (for_swap < swap) & (count > 0)
    return Masking(masked, swapped, donor)


def donate(features: Mapping[str, jax.Array], masking: Masking) -> dict[str, jax.Array]:
    """Modality -> [B, L, d_m], the features of each node's donor, of those of the batch."""
    return {m: x.reshape(-1, x.shape[-1])[masking.donor] for m, x in features.items()}


def no_masking(shape: tuple[int, int]) -> Masking:
    """The masking of evaluation: nothing is masked."""
    nothing = jnp.zeros(shape, bool)
    return Masking(nothing, nothing, jnp.zeros(shape, jnp.int32))
