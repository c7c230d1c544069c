"""Class-conditional flow matching: minority utterances out of noise (beside section 3.1, [ours]).

The contestant of the GAN, under the same placement: one network learns the velocity at which noise
has to move to become an utterance of a class. Where the GAN translates an utterance of the
majority, this starts from nothing; all modalities move together, so that they fit each other.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from cberl_jax.models.gan import Perceptron

# Euler steps from noise to an utterance.
STEPS = 24


class Flow:
    """The velocity as a pure function of its entry of one parameter dict.

    Attributes:
      maker: the entry that generates.
      groups: networks that learn from one loss.
    """

    maker = "velocity"
    groups = {"velocity": ("velocity",)}

    def __init__(self, hidden: int, classes: int):
        """Args: width of hidden layers, number of emotions."""
        self.hidden, self.classes = hidden, classes

    def init(self, key: jax.Array, widths: Mapping[str, int]) -> dict[str, dict]:
        """Draws the parameters for features of the given widths."""
        width = sum(widths.values())
        values = jnp.zeros((1, width + 1 + self.classes))
        return {"velocity": Perceptron(self.hidden, width).init(key, values)}

    def velocity(
        self, params: dict, values: jax.Array, time: jax.Array, label: jax.Array
    ) -> jax.Array:
        """The velocity [B, d] of points [B, d] at times [B] in [0, 1], towards classes [B]."""
        condition = jax.nn.one_hot(label, self.classes)
        joined = jnp.concatenate([values, time[:, None], condition], axis=-1)
        return Perceptron(self.hidden, values.shape[-1]).apply(params, joined)

    def generate(
        self,
        params: dict,
        key: jax.Array,
        features: Mapping[str, jax.Array],
        label: jax.Array,
    ) -> Mapping[str, jax.Array]:
        """Makes utterances of the classes ``label`` [B], modality -> [B, d_m].

        Of ``features`` only the shapes are read. ``params`` are those of ``velocity``.
        """
        names = sorted(features)
        widths = [features[name].shape[-1] for name in names]
        values = jax.random.normal(key, (len(label), sum(widths)))

        def move(values, time):
            velocity = self.velocity(params, values, jnp.full(label.shape, time), label)
            return values + velocity / STEPS, None

        values, _ = jax.lax.scan(move, values, jnp.linspace(0.0, 1.0, STEPS, endpoint=False))
        ends = [sum(widths[: number + 1]) for number in range(len(widths) - 1)]
        return dict(zip(names, jnp.split(values, ends, axis=-1)))
