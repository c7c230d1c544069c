"""One optimiser step of the GAN: what each of its networks minimises, and from whom it may learn.

Three groups of networks learn from the same batch, each with an optimiser and a loss of its own:
the discriminators, the generators, the emotion classifier (section 3.1).
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from cberl_jax.data.dataset import Dataset
from cberl_jax.losses import identity_loss, least_squares_adversarial, weighted_mean
from cberl_jax.models.gan import GAN, join

Hyper = Mapping[str, jax.Array]
Networks = tuple[dict, dict]
# The losses in a step's record, parts before their sums; last, that of the flow (``flow_step.py``).
TERMS = (
    *("identity", "adversarial", "triple", "joint", "classify"),
    *GAN.groups,
    "velocity",
)


class Utterances(NamedTuple):
    """A batch of single utterances: modality -> [B, d_m], modality -> [B] bool, [B] int."""

    features: Mapping[str, jax.Array]
    present: Mapping[str, jax.Array]
    label: jax.Array


class Batch(NamedTuple):
    """What one step of the GAN learns from.

    Attributes:
      source: B majority utterances.
      target: B minority utterances; their labels are also what the sources are turned into.
      noise: [B, n].
    """

    source: Utterances
    target: Utterances
    noise: jax.Array


def gan_optimizer(hyper: Hyper) -> optax.GradientTransformation:
    """Adam with the momentum that adversarial training is used to (Radford et al. 2016)."""
    return optax.adam(hyper["gan.learning_rate"], b1=0.5)


def draw_indices(key: jax.Array, data: Dataset, batch_size: int) -> tuple[jax.Array, jax.Array]:
    """[B] int of each domain: sources uniformly, targets with equal shares of the classes."""
    source_key, class_key, target_key = jax.random.split(key, 3)
    domains = data.domains
    source = domains.source[jax.random.randint(source_key, (batch_size,), 0, domains.sources)]
    group = jax.random.randint(class_key, (batch_size,), 0, domains.groups)
    place = jax.random.uniform(target_key, (batch_size,))
    place = place * domains.count[group].astype(place.dtype)
    return source, domains.target[domains.start[group] + place.astype(jnp.int32)]


def draw_domains(key: jax.Array, data: Dataset, batch_size: int) -> tuple[Utterances, Utterances]:
    """Draws a batch of each domain, as ``draw_indices`` does."""
    source, target = draw_indices(key, data, batch_size)

    def look_up(index):
        present = {m: there[index] for m, there in data.table.present.items()}
        return Utterances(data.table.look_up(index), present, data.label[index])

    return look_up(source), look_up(target)


def _mean_present(values: Mapping[str, jax.Array], present: Mapping[str, jax.Array]) -> jax.Array:
    """Sum over modalities of the mean over the utterances that have it."""
    return sum(weighted_mean(v, present[m].astype(v.dtype)) for m, v in values.items())


def _translate(gan: GAN, params: dict, batch: Batch) -> tuple[Utterances, Utterances]:
    """The sources turned into the targets' classes, and those turned back."""
    source, label = batch.source, batch.target.label
    made = gan.to_target.apply(params["to_target"], source.features, label, batch.noise)
    back = gan.to_source.apply(params["to_source"], made, source.label)
    return source._replace(features=made, label=label), source._replace(features=back)


def _against(
    gan: GAN, params: dict, utterances: Utterances, wanted: float
) -> tuple[jax.Array, jax.Array]:
    """What the target discriminators lose where they should have given the score ``wanted``.

    Returns:
      The sum over modalities, and the loss of the discriminator of whole triples.
    """
    features, present, label = utterances
    scores = gan.target.apply(params["target"], features, label)
    each = {m: least_squares_adversarial(s, wanted) for m, s in scores.items()}
    triple = gan.triple.apply(params["triple"], join(features, present), label)
    return _mean_present(each, present), jnp.mean(least_squares_adversarial(triple, wanted))


def _source_loss(gan: GAN, params: dict, utterances: Utterances, wanted: float) -> jax.Array:
    """The same for the discriminator of source triples."""
    scores = gan.source.apply(params["source"], join(utterances.features, utterances.present))
    return jnp.mean(least_squares_adversarial(scores[..., 0], wanted))


def _classify(gan: GAN, params: dict, utterances: Utterances) -> tuple[jax.Array, jax.Array]:
    """The classifier's mean loss on utterances, and the share of which it is right."""
    joined = join(utterances.features, utterances.present)
    logits = gan.classifier.apply(params["classifier"], joined)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, utterances.label)
    return jnp.mean(loss), jnp.mean(jnp.argmax(logits, axis=-1) == utterances.label)


def discriminator_loss(
    gan: GAN, params: dict, batch: Batch, hyper: Hyper
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Real utterances are to score 1, generated ones and sources that came back 0."""
    made, back = _translate(gan, params, batch)
    real, of_real = _against(gan, params, batch.target, 1.0)
    fake, of_fake = _against(gan, params, made, 0.0)
    source = _source_loss(gan, params, batch.source, 1.0) + _source_loss(gan, params, back, 0.0)
    return real + fake + hyper["gan.triple"] * (of_real + of_fake) + source, {}


def generator_loss(
    gan: GAN, params: dict, batch: Batch, hyper: Hyper
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Generated utterances are to pass for real ones and to lead back to their sources."""
    made, back = _translate(gan, params, batch)
    adversarial, triple = _against(gan, params, made, 1.0)
    joint = _source_loss(gan, params, back, 1.0)
    each = {m: identity_loss(x, back.features[m]) for m, x in batch.source.features.items()}
    identity = _mean_present(each, batch.source.present)
    of_made, agreement = _classify(gan, params, made)
    of_back, _ = _classify(gan, params, back)
    loss = (
        hyper["gan.adversarial"] * (adversarial + hyper["gan.triple"] * triple)
        + hyper["gan.joint"] * joint
        + hyper["gan.identity"] * identity
        + hyper["gan.classify"] * (of_made + of_back)
    )
    terms = {
        "identity": identity,
        "adversarial": adversarial,
        "triple": triple,
        "joint": joint,
        "classify": of_made + of_back,
        "agreement": agreement,
    }
    return loss, terms


def classifier_loss(
    gan: GAN, params: dict, batch: Batch, hyper: Hyper
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The emotion of real utterances, and of sources that came back."""
    _, back = _translate(gan, params, batch)
    return sum(_classify(gan, params, own)[0] for own in (batch.source, batch.target, back)), {}


LOSSES = {
    "discriminators": discriminator_loss,
    "generators": generator_loss,
    "classifier": classifier_loss,
}


def update_group(
    gan: GAN, group: str, params: dict, optimizers: dict, batch: Batch, hyper: Hyper
) -> tuple[dict, dict, dict[str, jax.Array]]:
    """One optimiser step of one group of networks on its own loss; the others stay as they are.

    Args:
      gan: the networks.
      group: one of ``GAN.groups``.
      params: the parameters of all networks.
      optimizers: group -> optimiser state.
      batch: what they learn from.
      hyper: numeric settings.

    Returns:
      New parameters and optimiser states, and the record: the group's loss and its terms.
    """
    own = {name: params[name] for name in gan.groups[group]}

    def loss_of(own):
        return LOSSES[group](gan, params | own, batch, hyper)

    (loss, terms), gradient = jax.value_and_grad(loss_of, has_aux=True)(own)
    update, state = gan_optimizer(hyper).update(gradient, optimizers[group])
    params = params | optax.apply_updates(own, update)
    return params, optimizers | {group: state}, {group: loss, **terms}


def gan_step(
    gan: GAN, params: dict, optimizers: dict, batch: Batch, hyper: Hyper
) -> tuple[dict, dict, dict[str, jax.Array]]:
    """One step of every group in turn, each against the others as they are by then.

    Args and returns as of ``update_group``; the record holds the losses of all groups.
    """
    record = {}
    for group in gan.groups:
        params, optimizers, part = update_group(gan, group, params, optimizers, batch, hyper)
        record |= part
    return params, optimizers, record


def gan_learn(
    gan: GAN, networks: Networks, data: Dataset, key: jax.Array, batch_size: int, hyper: Hyper
) -> tuple[Networks, dict[str, jax.Array]]:
    """Draws a batch, and takes one step on it.

    Args:
      gan: the networks.
      networks: the parameters of all networks, and group -> optimiser state.
      data: the packed corpus.
      key: random key.
      batch_size: utterances of each domain.
      hyper: numeric settings.

    Returns:
      New networks, and the record.
    """
    draw_key, noise_key = jax.random.split(key)
    source, target = draw_domains(draw_key, data, batch_size)
    noise = jax.random.normal(noise_key, (batch_size, gan.noise))
    params, optimizers, record = gan_step(gan, *networks, Batch(source, target, noise), hyper)
    return (params, optimizers), record
