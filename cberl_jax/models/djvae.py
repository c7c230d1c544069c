"""The deep joint variational autoencoder that fuses the modalities (section 3.2).

One Gaussian expert q_m(z | x_m) per modality, their product with the prior as joint posterior, one
decoder p_m(x_m | z) per modality. Any subset of modalities gives a posterior, in training and at
inference. The losses are in ``losses.py``, their weights in ``joint_steps.py``.
"""

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cberl_jax.models.layers import Dropout, HiddenLayer
from cberl_jax.models.parts import ONLY, Part

# Experts narrower or wider than this add nothing but overflow.
LOG_VARIANCE_RANGE = (-6.0, 4.0)


class Gaussian(NamedTuple):
    """A diagonal Gaussian: ``mean`` and ``log_variance``, both [..., z]."""

    mean: jax.Array
    log_variance: jax.Array


class LatentState(NamedTuple):
    """The autoencoder's distributions over a batch, for its losses.

    Attributes:
      joint: the posterior given all modalities that are there.
      experts: modality -> q_m(z | x_m).
      reconstruction: modality -> [..., d_m], the decoders' means at a sample of z.
    """

    joint: Gaussian
    experts: Mapping[str, Gaussian]
    reconstruction: Mapping[str, jax.Array]


def product_of_experts(
    experts: Mapping[str, Gaussian], present: Mapping[str, jax.Array]
) -> Gaussian:
    """The normalised product of N(0, I) and the experts of the modalities that are present.

    Precisions add up, means are weighted by precision; with nothing there it is the prior.

    Args:
      experts: modality -> Gaussian over [..., z].
      present: modality -> [...] bool.

    Returns:
      The joint Gaussian over [..., z].

    References:
      Wu and Goodman, Multimodal Generative Models for Scalable Weakly-Supervised Learning,
      NeurIPS 2018, section 2.2.
    """
    precision = 1.0
    weighted_mean = 0.0
    for modality, expert in experts.items():
        share = jnp.where(present[modality][..., None], jnp.exp(-expert.log_variance), 0.0)
        precision = precision + share
        weighted_mean = weighted_mean + share * expert.mean
    return Gaussian(weighted_mean / precision, -jnp.log(precision))


class DJVAE(nn.Module):
    """Encoders, joint posterior, decoders, and the fused feature.

    Attributes:
      hidden: width of the encoders, the decoders and the fused feature.
      latent: width z of the latent.
    """

    hidden: int
    latent: int

    @nn.compact
    def __call__(
        self,
        features: Mapping[str, jax.Array],
        present: Mapping[str, jax.Array],
        dropout: Dropout,
        part: Part = ONLY,
    ) -> tuple[jax.Array, LatentState]:
        """Fuses the modalities of every utterance.

        The latent is sampled where a ``latent`` random stream is given, else its mean is used.

        Args:
          features: modality -> [..., d_m].
          present: modality -> [...] bool.
          dropout: of this pass.
          part: that these utterances are of their batch.

        Returns:
          The fused feature [..., hidden], and the LatentState.
        """
        encoded, experts = {}, {}
        for modality, values in features.items():
            there = present[modality][..., None]
            code = nn.gelu(nn.Dense(self.hidden, name=f"encoder_{modality}")(values))
            encoded[modality] = jnp.where(there, code, 0.0)
            mean = nn.Dense(self.latent, name=f"mean_{modality}")(code)
            log_variance = nn.Dense(self.latent, name=f"log_variance_{modality}")(code)
            experts[modality] = Gaussian(mean, jnp.clip(log_variance, *LOG_VARIANCE_RANGE))
        joint = product_of_experts(experts, present)

        latent = joint.mean
        if self.has_rng("latent"):
            # Drawn flat, which compiles faster.
            noise = jax.random.normal(self.make_rng("latent"), (part.count * latent.size,))
            noise = part.take(noise)
            latent = latent + noise.reshape(latent.shape) * jnp.exp(0.5 * joint.log_variance)
        reconstruction = {
            modality: nn.Dense(values.shape[-1], name=f"decoder_{modality}")(
                nn.gelu(nn.Dense(self.hidden, name=f"decoder_hidden_{modality}")(latent))
            )
            for modality, values in features.items()
        }
        fused = jnp.concatenate([latent, *encoded.values()], axis=-1)
        fused = HiddenLayer(self.hidden, name="fuse")(fused, dropout)
        return fused, LatentState(joint, experts, reconstruction)
