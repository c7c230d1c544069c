"""One optimiser step of the GAN: what each of its networks minimises, and from whom it may learn.

Three groups of networks learn from the same batch, each with an optimiser of its own: the
discriminators, the generators, the emotion classifier (section 3.1).
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
GROUPS = {
    "discriminators": ("target", "source"),
    "generators": ("to_target", "to_source"),
    "classifier": ("classifier",),
}
# The losses in a step's record, parts before their sums.
TERMS = ("identity", "adversarial", "joint", "classify", *GROUPS)


class Utterances(NamedTuple):
    """A batch of single utterances: modality -> [B, d_m], modality -> [B] bool, [B] int."""

    features: Mapping[str, jax.Array]
    present: Mapping[str, jax.Array]
    label: jax.Array


def gan_optimizer(hyper: Hyper) -> optax.GradientTransformation:
    """Adam with the momentum that adversarial training is used to (Radford et al. 2016)."""
    return optax.adam(hyper["gan.learning_rate"], b1=0.5)


def draw_domains(key: jax.Array, data: Dataset, batch_size: int) -> tuple[Utterances, Utterances]:
    """Draws a batch of each domain: sources uniformly, targets with equal shares of the classes."""
    source_key, class_key, target_key = jax.random.split(key, 3)
    domains = data.domains
    source = jax.random.choice(source_key, domains.source, (batch_size,))
    group = jax.random.randint(class_key, (batch_size,), 0, len(domains.classes))
    place = jax.random.uniform(target_key, (batch_size,))
    place = place * domains.count[group].astype(place.dtype)
    target = domains.target[domains.start[group] + place.astype(jnp.int32)]

    def look_up(index):
        features = {m: values[index] for m, values in data.table.features.items()}
        present = {m: there[index] for m, there in data.table.present.items()}
        return Utterances(features, present, data.label[index])

    return look_up(source), look_up(target)


def _mean_present(values: Mapping[str, jax.Array], present: Mapping[str, jax.Array]) -> jax.Array:
    """Sum over modalities of the mean over the utterances that have it."""
    return sum(weighted_mean(v, present[m].astype(v.dtype)) for m, v in values.items())


def gan_losses(
    gan: GAN,
    params: dict,
    source: Utterances,
    target: Utterances,
    noise: jax.Array,
    hyper: Hyper,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """The loss of each group of networks.

    Args:
      gan: the networks.
      params: their parameters.
      source: majority utterances.
      target: minority utterances; their labels are also what the sources are turned into.
      noise: [B, n].
      hyper: numeric settings.

    Returns:
      Group -> loss, and the terms for the record: ``identity``, ``adversarial``, ``joint``,
      ``classify`` (generators), ``agreement`` (share of generated utterances that the classifier
      takes for the class they were to express). Gradients are to be taken per group.
    """
    made = gan.to_target.apply(params["to_target"], source.features, target.label, noise)
    back = gan.to_source.apply(params["to_source"], made, source.label)

    def target_scores(utterances, label):
        return gan.target.apply(params["target"], utterances, label)

    def source_scores(features):
        return gan.source.apply(params["source"], join(features, source.present))[..., 0]

    def classify(features, present, label):
        logits = gan.classifier.apply(params["classifier"], join(features, present))
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        return jnp.mean(loss), jnp.mean(jnp.argmax(logits, axis=-1) == label)

    def against(scores, wanted):
        return jax.tree.map(lambda s: least_squares_adversarial(s, wanted), scores)

    real_scores = target_scores(target.features, target.label)
    made_scores = target_scores(made, target.label)
    back_scores = source_scores(back)
    classify_made, agreement = classify(made, source.present, target.label)
    classify_back, _ = classify(back, source.present, source.label)
    identity = _mean_present(
        {m: identity_loss(x, back[m]) for m, x in source.features.items()}, source.present
    )
    adversarial = _mean_present(against(made_scores, 1.0), source.present)
    joint = jnp.mean(against(back_scores, 1.0))
    groups = {
        "discriminators": _mean_present(against(real_scores, 1.0), target.present)
        + _mean_present(against(made_scores, 0.0), source.present)
        + jnp.mean(against(source_scores(source.features), 1.0) + against(back_scores, 0.0)),
        "generators": adversarial
        + hyper["gan.joint"] * joint
        + hyper["gan.identity"] * identity
        + hyper["gan.classify"] * (classify_made + classify_back),
        "classifier": classify(*source)[0] + classify(*target)[0] + classify_back,
    }
    terms = {
        "identity": identity,
        "adversarial": adversarial,
        "joint": joint,
        "classify": classify_made + classify_back,
        "agreement": agreement,
    }
    return groups, terms


def update_group(
    gan: GAN,
    group: str,
    params: dict,
    optimizers: dict,
    source: Utterances,
    target: Utterances,
    noise: jax.Array,
    hyper: Hyper,
) -> tuple[dict, dict, dict[str, jax.Array]]:
    """One optimiser step of one group of networks on its own loss; the others stay as they are.

    Args:
      gan: the networks.
      group: one of ``GROUPS``.
      params: the parameters of all networks.
      optimizers: group -> optimiser state.
      source: majority utterances.
      target: minority utterances.
      noise: [B, n].
      hyper: numeric settings.

    Returns:
      New parameters and optimiser states, and the record: the group's loss and the terms.
    """
    own = {name: params[name] for name in GROUPS[group]}

    def loss_of(own):
        groups, terms = gan_losses(gan, params | own, source, target, noise, hyper)
        return groups[group], terms

    (loss, terms), gradient = jax.value_and_grad(loss_of, has_aux=True)(own)
    update, state = gan_optimizer(hyper).update(gradient, optimizers[group])
    params = params | optax.apply_updates(own, update)
    return params, optimizers | {group: state}, {group: loss, **terms}


def gan_step(
    gan: GAN,
    params: dict,
    optimizers: dict,
    source: Utterances,
    target: Utterances,
    noise: jax.Array,
    hyper: Hyper,
) -> tuple[dict, dict, dict[str, jax.Array]]:
    """One step of every group in turn, each against the others as they are by then.

    Args and returns as of ``update_group``; the record holds the losses of all groups.
    """
    record = {}
    for group in GROUPS:
        params, optimizers, part = update_group(
            gan, group, params, optimizers, source, target, noise, hyper
        )
        record |= part
    return params, optimizers, record
