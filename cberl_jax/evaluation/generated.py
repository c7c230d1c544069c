"""The generated utterances of a finished run, next to the real ones that they are judged by.

Every sound member's final generators make an utterance for every train utterance of a class that is
generated, out of the same sources, with noise of their own.
"""

import functools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from threadpoolctl import threadpool_limits

from cberl_jax.data.corpus import SPLITS, Corpus
from cberl_jax.data.dataset import Dataset
from cberl_jax.data.standardize import Standardiser
from cberl_jax.evaluation.generated_quality import (
    choose,
    complete,
    of_class,
    project,
    travelled_by,
    vectors,
)
from cberl_jax.models.flow import Flow
from cberl_jax.models.gan import GAN, join
from cberl_jax.runtime.numerics import random_key
from cberl_jax.training.epoch import MemberState, Program
from cberl_jax.training.fleet import compile_once
from cberl_jax.training.gan_step import Utterances
from cberl_jax.training.generation import generate
from cberl_jax.training.outcome import member_states

# Folded into a member's key; no stream of its training has this number.
STREAM = 1 << 16
# Utterances of a kind of a class in a picture.
SHOWN = 200


class Member(NamedTuple):
    """What one member's GAN makes and thinks.

    Attributes:
      seed: of the member.
      generated: M utterances with the classes that they are to express.
      taken_for: [M] int, what the GAN's own classifier takes them for; None for a flow.
      dev_taken_for: [n] int, what it takes the labelled dev utterances for; None for a flow.
    """

    seed: int
    generated: Utterances
    taken_for: np.ndarray | None
    dev_taken_for: np.ndarray | None


class GanSamples(NamedTuple):
    """What a run's generated utterances are judged by.

    Attributes:
      corpus: the corpus.
      minority: [Q] int, the classes that are generated.
      real: split -> its labelled utterances.
      sources: the M majority utterances that the generated ones are made from, labelled with the
        classes that those are to express; as many of a class as train has.
      states: per member of the run its ``seed`` and ``status``.
      members: those whose generated utterances are made.
      standardiser: of the features.
    """

    corpus: Corpus
    minority: np.ndarray
    real: Mapping[str, Utterances]
    sources: Utterances
    states: Sequence[Mapping[str, Any]]
    members: Sequence[Member]
    standardiser: Standardiser


def create_samples(
    corpus: Corpus,
    dataset: Dataset,
    program: Program,
    state: MemberState,
    numbers: Sequence[int],
    standardiser: Standardiser,
) -> GanSamples:
    """Makes the generated utterances of a run that has a GAN.

    Args:
      corpus: the one that it was trained on.
      dataset: its corpus, standardised and packed.
      program: the static half of its training.
      state: the members' states, on the host.
      numbers: the members whose generated utterances are made, among all members.
      standardiser: of the corpus.
    """
    table = dataset.table
    everything = Utterances(table.features, table.present, corpus.label)
    real = {
        split: choose(everything, corpus.in_split(split) & (corpus.label >= 0)) for split in SPLITS
    }
    # The same sources for all members.
    source = dataset.sources[:, 0]
    sources = choose(everything, source)._replace(label=corpus.label[dataset.place])
    make = functools.partial(_make, program.gan)
    members = []
    for number in numbers:
        own = jax.tree.map(lambda leaf, n=number: leaf[n], state)
        arguments = own.gan.best, dataset, source, own.seed
        make = make if members else compile_once(make, *arguments)
        made = make(*arguments)
        # What a source lacks, the utterance made from it lacks too.
        features = {m: np.where(sources.present[m][:, None], x, 0.0) for m, x in made.items()}
        generated = sources._replace(features=features)
        verdicts = [_classify(program.gan, own.gan.params, x) for x in (generated, real["dev"])]
        members.append(Member(int(own.seed), generated, *verdicts))
    return GanSamples(
        corpus=corpus,
        minority=np.unique(sources.label),
        real=real,
        sources=sources,
        states=[
            {"seed": int(seed), "status": one["status"]}
            for seed, one in zip(state.seed, member_states(state))
        ],
        members=members,
        standardiser=standardiser,
    )


def _make(
    gan: GAN | Flow | None, params: Any, data: Dataset, source: jax.Array, seed: jax.Array
) -> Mapping[str, jax.Array]:
    return generate(gan, params, data, source, random_key(seed, STREAM))


def _classify(
    gan: GAN | Flow, params: Mapping[str, Any], utterances: Utterances
) -> np.ndarray | None:
    """[n] int, what a GAN's own classifier takes utterances for; a flow has none."""
    if not isinstance(gan, GAN):
        return None
    joined = join(utterances.features, utterances.present)
    return np.asarray(gan.classifier.apply(params["classifier"], joined)).argmax(axis=-1)


def lay_out(samples: GanSamples) -> list[tuple[str, dict[str, np.ndarray]]]:
    """The first member's generated utterances in the plane, among real ones.

    Only utterances with all modalities are shown, at most ``SHOWN`` of each kind. A class of which
    there are no such utterances is left out.

    Returns:
      Per minority class a title, ``sources``, ``real`` and ``generated`` -> [n, 2], and, where it
      is known, ``travelled`` -> [n], the distance that each generated utterance has travelled.
    """
    member, panels = samples.members[0], []
    # A generated utterance and its source have the same place in their records: both are shown.
    kinds = {
        "sources": samples.sources,
        "real": samples.real["train"],
        "generated": member.generated,
    }
    shown = {
        label: [vectors(complete(of_class(own, label)))[:SHOWN] for own in kinds.values()]
        for label in samples.minority
    }
    shown = {label: own for label, own in shown.items() if all(map(len, own))}
    # Each class by a core of its own: t-SNE takes as long as all else that is drawn.
    with threadpool_limits(1), ThreadPoolExecutor() as pool:
        laid_out = list(pool.map(project, map(np.concatenate, shown.values())))
    for (label, each), (places, method) in zip(shown.items(), laid_out):
        clouds = np.split(places, np.cumsum([len(own) for own in each])[:-1])
        panel = dict(zip(kinds, clouds))
        own = (of_class(kinds[name], label) for name in ("generated", "sources", "real"))
        travelled = travelled_by(*own, of_class(samples.real["dev"], label))
        if travelled is not None:
            panel["travelled"] = travelled
        panels.append((f"{samples.corpus.classes[label]} ({method})", panel))
    return panels
