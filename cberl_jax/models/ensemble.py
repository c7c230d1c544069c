"""The ensemble of weak classifiers (section 3.5).

K small networks, each on its own random subspace of the features; their losses, each on its own
bootstrap of the utterances, are kept apart in ``joint_steps.py`` so that they stay different.
All K run as one batched matrix product.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cberl_jax.models.layers import Dropout


def draw_subspaces(key: jax.Array, classifiers: int, width: int, share: float) -> jax.Array:
    """Draws which features each classifier sees.

    Args:
      key: random key.
      classifiers: K.
      width: number d of features.
      share: share of the features that each classifier sees, in (0, 1]; at least one.

    Returns:
      [K, d] float of zeros and ones, each row with the same number of ones.

    References:
      Ho, The Random Subspace Method for Constructing Decision Forests, PAMI 1998.
    """
    kept = max(1, round(share * width))
    keys = jax.random.split(key, classifiers)
    order = jax.vmap(lambda key: jax.random.permutation(key, width))(keys)
    return (order < kept).astype(jnp.float32)


class Ensemble(nn.Module):
    """K two-layer classifiers with a linear path; their random subspaces are in ``constants``.

    The linear path gives each the floor of a logistic regression within a few steps.

    Attributes:
      classes: C.
      classifiers: K.
      hidden: width of each classifier's hidden layer.
      subspace: share of the features that each sees.
    """

    classes: int
    classifiers: int
    hidden: int
    subspace: float

    @nn.compact
    def __call__(self, values: jax.Array, dropout: Dropout) -> jax.Array:
        """Maps features [B, L, d] to logits [B, L, K, C]."""
        count, width = self.classifiers, values.shape[-1]
        subspaces = self.variable(
            "constants",
            "subspaces",
            lambda: draw_subspaces(self.make_rng("params"), count, width, self.subspace),
        ).value
        # The batch axis keeps the fan-in that of one classifier.
        init = nn.initializers.lecun_normal(in_axis=-2, out_axis=-1, batch_axis=0)
        inner = self.param("hidden_kernel", init, (count, width, self.hidden))
        inner_bias = self.param("hidden_bias", nn.initializers.zeros, (count, self.hidden))
        outer = self.param("kernel", init, (count, self.hidden, self.classes))
        linear = self.param("linear", nn.initializers.zeros, (count, width, self.classes))
        outer_bias = self.param("bias", nn.initializers.zeros, (count, self.classes))

        values = dropout(values)
        seen = inner * (subspaces / self.subspace**0.5)[..., None]
        hidden = nn.gelu(jnp.einsum("...d,kdh->...kh", values, seen) + inner_bias)
        hidden = dropout(hidden)
        straight = jnp.einsum("...d,kdc->...kc", values, linear * subspaces[..., None])
        return jnp.einsum("...kh,khc->...kc", hidden, outer) + straight + outer_bias


def average_probability(logits: jax.Array) -> jax.Array:
    """Mean of the classifiers' softmax probabilities: [..., K, C] to [..., C]."""
    return jnp.mean(jax.nn.softmax(logits), axis=-2)
