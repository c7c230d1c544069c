"""An epoch's generated utterances: how they are made, where they go and what they count.

Every remedy that adds utterances goes through here, so that all share one rule of placement and one
of counting (``data/augmentation.py``).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cberl_jax.data.dataset import Dataset
from cberl_jax.models.flow import Flow
from cberl_jax.models.gan import GAN

Hyper = Mapping[str, jax.Array]


class Made(NamedTuple):
    """An epoch's M generated utterances, of which some are used.

    Attributes:
      source: [M] int, the utterance that each is made from; it lacks the same modalities.
      features: modality -> [M, d_m].
      number: [N] int, which of them takes each utterance's place in this epoch, -1 for none.
    """

    source: jax.Array
    features: Mapping[str, jax.Array]
    number: jax.Array


def class_mass(data: Dataset, hyper: Hyper) -> jax.Array:
    """[C] what the train utterances of each class weigh together: a generated one its weight."""
    return data.counts + hyper["augment.weight"] * data.generated


def make_epoch(
    gan: GAN | Flow | None, params: Any, data: Dataset, hyper: Hyper, key: jax.Array
) -> Made | None:
    """What is generated in one epoch; None where nothing is.

    Args: as of ``generate``, and the numeric settings.
    """
    if not len(data.sources):
        return None
    source_key, generate_key, place_key = jax.random.split(key, 3)
    source = _draw_one(data.sources, source_key)
    features = generate(gan, params, data, source, generate_key)
    return Made(source, features, _draw_places(data, place_key, hyper))


def _draw_one(candidates: jax.Array, key: jax.Array) -> jax.Array:
    """[M] one of the k candidates of each, [M, k]."""
    count, most = candidates.shape
    choice = jax.random.randint(key, (count,), 0, most)
    return candidates[jnp.arange(count), choice]


def draw_looked_up(data: Dataset, key: jax.Array) -> jax.Array:
    """[M] or [2M] int, the utterances whose features ``make_epoch`` looks up, given its key."""
    source_key, generate_key, _ = jax.random.split(key, 3)
    source = _draw_one(data.sources, source_key)
    if not data.neighbours.shape[1]:
        return source
    return jnp.concatenate([source, _draw_one(data.neighbours, jax.random.split(generate_key)[0])])


def generate(
    gan: GAN | Flow | None, params: Any, data: Dataset, source: jax.Array, key: jax.Array
) -> Mapping[str, jax.Array]:
    """Generated utterances for all places, modality -> [M, d_m].

    By the GAN or the flow; without one by SMOTE where there are neighbours to go towards; else the
    sources as they are.

    Args:
      gan: the GAN or the flow, or None.
      params: of the network that generates.
      data: the packed corpus.
      source: [M] int, the utterances that they are made from.
      key: random key.
    """
    features = data.table.look_up(source)
    if gan is not None:
        return jax.lax.stop_gradient(gan.generate(params, key, features, data.label[data.place]))
    return _interpolate(data, features, key) if data.neighbours.shape[1] else features


def _interpolate(data: Dataset, features: Mapping[str, jax.Array], key: jax.Array):
    """Moves each utterance a part of the way to one of its neighbours, modality -> [M, d_m]."""
    choice_key, way_key = jax.random.split(key)
    way = jax.random.uniform(way_key, (len(data.neighbours), 1))
    end = data.table.look_up(_draw_one(data.neighbours, choice_key))
    return {m: x + way * (end[m] - x) for m, x in features.items()}


def _draw_places(data: Dataset, key: jax.Array, hyper: Hyper) -> jax.Array:
    """[N] int, the generated utterance that takes each utterance's place in an epoch, -1 for none.

    With n real utterances of a class and g generated ones of weight w, a place is taken with
    probability w g / (n + w g), and every utterance of the class weighs (n + w g) / n: expected,
    the real ones weigh n and the generated ones w g.
    """
    share = 1.0 - data.counts / jnp.maximum(class_mass(data, hyper), 1.0)
    taken = jax.random.uniform(key, data.place.shape) < share[data.label[data.place]]
    number = jnp.where(taken, jnp.arange(len(data.place)), -1)
    # Places that only another fold has lie beyond the last utterance.
    return jnp.full(data.label.shape, -1, jnp.int32).at[data.place].set(number, mode="drop")


def label_weight(data: Dataset, label: jax.Array, hyper: Hyper) -> jax.Array:
    """[...] what an utterance of a label weighs more than one of a class that has its share."""
    emphasis = class_mass(data, hyper) / jnp.maximum(data.counts, 1.0)
    return jnp.where(label < 0, 1.0, emphasis[jnp.maximum(label, 0)])
