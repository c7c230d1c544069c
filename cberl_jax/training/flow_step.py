"""One optimiser step of the flow: a regression onto straight ways from noise to utterances."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from cberl_jax.data.dataset import Dataset
from cberl_jax.losses import weighted_mean
from cberl_jax.models.flow import Flow
from cberl_jax.models.gan import join
from cberl_jax.training.gan_step import Utterances, draw_domains, gan_optimizer

Hyper = Mapping[str, jax.Array]


def flow_loss(flow: Flow, params: dict, utterances: Utterances, key: jax.Array) -> jax.Array:
    """The squared error of the velocity, mean over the features that are present.

    On the straight way from noise x_0 to an utterance x_1 the velocity is constant::

        loss = |v(x_t, t, y) - (x_1 - x_0)|^2,    x_t = (1 - t) x_0 + t x_1

    Args:
      flow: the network.
      params: its parameters.
      utterances: B utterances with their classes.
      key: random key.

    Returns:
      [] float.

    References:
      Lipman et al., Flow Matching for Generative Modeling, ICLR 2023, equation 23 with a smallest
      deviation of 0.
    """
    noise_key, time_key = jax.random.split(key)
    features, present, label = utterances
    end = join(features, present)
    ones = {m: jnp.ones_like(values) for m, values in features.items()}
    there = join(ones, present)
    start = there * jax.random.normal(noise_key, end.shape)
    time = jax.random.uniform(time_key, label.shape)
    values = start + time[:, None] * (end - start)
    error = flow.velocity(params, values, time, label) - (end - start)
    return weighted_mean(error**2, there)


def flow_learn(
    flow: Flow, networks: tuple[dict, dict], data: Dataset, key: jax.Array, batch: int, hyper: Hyper
) -> tuple[tuple[dict, dict], dict[str, jax.Array]]:
    """One step on utterances of both domains: the majority shows what all classes share.

    Args: as of ``gan_learn``.

    Returns:
      New networks, and the record.
    """
    draw_key, way_key = jax.random.split(key)
    source, target = draw_domains(draw_key, data, batch)
    both = jax.tree.map(lambda *parts: jnp.concatenate(parts), source, target)
    params, optimizers = networks
    loss, gradient = jax.value_and_grad(
        lambda own: flow_loss(flow, own["velocity"], both, way_key)
    )(params)
    update, state = gan_optimizer(hyper).update(gradient, optimizers["velocity"])
    return (optax.apply_updates(params, update), {"velocity": state}), {"velocity": loss}
