"""The multimodal CycleGAN that turns majority utterances into minority ones (section 3.1).

Source domain S: utterances of majority classes. Target domain T: utterances of minority classes,
one conditional model for all of them. Per modality a generator there, a generator back and a
discriminator of the target, and one of the whole generated triple, so that its modalities fit each
other; one discriminator of the reconstructed triple; one emotion classifier. The losses are in
``losses.py``, their sums and who may learn from which in ``training/gan_step.py``.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp


def join(features: Mapping[str, jax.Array], present: Mapping[str, jax.Array]) -> jax.Array:
    """Concatenates the modalities by name, zero where absent: [..., sum d_m].

    By name, since jit sorts the keys of a dict and loses their order.
    """
    return jnp.concatenate(
        [jnp.where(present[m][..., None], features[m], 0.0) for m in sorted(features)], axis=-1
    )


class Perceptron(nn.Module):
    """Two hidden layers with LeakyReLU.

    Attributes:
      hidden: width of the hidden layers.
      out: width of the output.
    """

    hidden: int
    out: int

    @nn.compact
    def __call__(self, values: jax.Array) -> jax.Array:
        """Maps [..., d] to [..., out]."""
        for _ in range(2):
            values = nn.leaky_relu(nn.Dense(self.hidden)(values), 0.2)
        return nn.Dense(self.out)(values)


class Generators(nn.Module):
    """One generator per modality, all in one direction between the domains.

    Each adds a change to the utterance's own features, so that an untrained one is near identity.
    The noise is shared by the modalities: a generated triple is one utterance, not three.

    Attributes:
      hidden: width of the hidden layers.
      classes: number C of emotions.
    """

    hidden: int
    classes: int

    @nn.compact
    def __call__(
        self,
        features: Mapping[str, jax.Array],
        label: jax.Array,
        noise: jax.Array | None = None,
    ) -> Mapping[str, jax.Array]:
        """Moves utterances to the class ``label``.

        Args:
          features: modality -> [B, d_m].
          label: [B] int, the class to be expressed.
          noise: [B, n], or None for the way back, which has to be a function.

        Returns:
          modality -> [B, d_m].
        """
        condition = [jax.nn.one_hot(label, self.classes)] + ([] if noise is None else [noise])
        moved = {}
        for modality, values in features.items():
            change = Perceptron(self.hidden, values.shape[-1], name=modality)
            moved[modality] = values + change(jnp.concatenate([values, *condition], axis=-1))
        return moved


class TargetDiscriminators(nn.Module):
    """D_m^T: per modality, is this a real utterance of that minority class?"""

    hidden: int
    classes: int

    @nn.compact
    def __call__(
        self, features: Mapping[str, jax.Array], label: jax.Array
    ) -> Mapping[str, jax.Array]:
        """Scores, modality -> [B], of features, modality -> [B, d_m], under ``label`` [B]."""
        condition = jax.nn.one_hot(label, self.classes)
        return {
            modality: Perceptron(self.hidden, 1, name=modality)(
                jnp.concatenate([values, condition], axis=-1)
            )[..., 0]
            for modality, values in features.items()
        }


class TripleDiscriminator(nn.Module):
    """Do the modalities of this utterance fit each other, and the minority class?"""

    hidden: int
    classes: int

    @nn.compact
    def __call__(self, triple: jax.Array, label: jax.Array) -> jax.Array:
        """Scores [B] of joined features [B, d] under ``label`` [B]."""
        condition = jax.nn.one_hot(label, self.classes)
        values = jnp.concatenate([triple, condition], axis=-1)
        return Perceptron(self.hidden, 1)(values)[..., 0]


class GAN:
    """The six networks, each a pure function of its own entry of one parameter dict.

    ``to_target`` and ``to_source`` are the generators, ``target``, ``triple`` and ``source`` the
    discriminators, ``classifier`` the emotion classifier.

    Attributes:
      maker: the entry that generates.
      groups: networks that learn from one loss, with an optimiser of their own.
    """

    maker = "to_target"
    groups = {
        "discriminators": ("target", "triple", "source"),
        "generators": ("to_target", "to_source"),
        "classifier": ("classifier",),
    }

    def __init__(self, hidden: int, noise: int, classes: int):
        """Args: width of hidden layers, width of the noise, number of emotions."""
        self.noise = noise
        self.to_target = Generators(hidden, classes)
        self.to_source = Generators(hidden, classes)
        self.target = TargetDiscriminators(hidden, classes)
        self.triple = TripleDiscriminator(hidden, classes)
        self.source = Perceptron(hidden, 1)
        self.classifier = Perceptron(hidden, classes)

    def init(self, key: jax.Array, widths: Mapping[str, int]) -> dict[str, dict]:
        """Draws the parameters of the six networks for features of the given widths."""
        features = {m: jnp.zeros((1, width)) for m, width in widths.items()}
        label, noise = jnp.zeros((1,), jnp.int32), jnp.zeros((1, self.noise))
        triple = jnp.zeros((1, sum(widths.values())))
        keys = jax.random.split(key, 6)
        return {
            "to_target": self.to_target.init(keys[0], features, label, noise),
            "to_source": self.to_source.init(keys[1], features, label),
            "target": self.target.init(keys[2], features, label),
            "triple": self.triple.init(keys[5], triple, label),
            "source": self.source.init(keys[3], triple),
            "classifier": self.classifier.init(keys[4], triple),
        }

    def generate(
        self,
        params: dict,
        key: jax.Array,
        features: Mapping[str, jax.Array],
        label: jax.Array,
    ) -> Mapping[str, jax.Array]:
        """Makes utterances of the classes ``label`` [B] out of features, modality -> [B, d_m].

        ``params`` are those of ``to_target``.
        """
        noise = jax.random.normal(key, (*label.shape, self.noise))
        return self.to_target.apply(params, features, label, noise)
