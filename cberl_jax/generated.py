"""The generated utterances of a finished run, next to the real ones that they are judged by.

Every sound member's final generators make what an epoch of its training has: as many utterances,
from the same sources, for the same classes, with noise of their own.
"""

import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cberl_jax.data.corpus import SPLITS, Corpus, fingerprint
from cberl_jax.data.dataset import Dataset, create_table
from cberl_jax.epochs import generate
from cberl_jax.errors import UserError
from cberl_jax.gan_steps import Utterances
from cberl_jax.inference import Restored, member_states, restore_run
from cberl_jax.models.gan import GAN, join
from cberl_jax.prepare import prepare
from cberl_jax.quality import choose
from cberl_jax.workdir import Workdir

# Folded into a member's key; no stream of its training has this number.
STREAM = 1 << 16


class Member(NamedTuple):
    """What one member's GAN makes and thinks.

    Attributes:
      seed: of the member.
      generated: M utterances with the classes that they are to express.
      taken_for: [M] int, what the GAN's own classifier takes them for.
      dev_taken_for: [n] int, what it takes the labelled dev utterances for.
    """

    seed: int
    generated: Utterances
    taken_for: np.ndarray
    dev_taken_for: np.ndarray


class Material(NamedTuple):
    """What a run's generated utterances are judged by.

    Attributes:
      corpus: the corpus.
      minority: [Q] int, the classes that are generated.
      real: split -> its labelled utterances.
      sources: the M majority utterances that the generated ones are made from, labelled with the
        classes that those are to express.
      states: per member of the run its ``seed`` and ``status``.
      members: the sound ones.
    """

    corpus: Corpus
    minority: np.ndarray
    real: Mapping[str, Utterances]
    sources: Utterances
    states: Sequence[Mapping[str, Any]]
    members: Sequence[Member]


def read_run(workdir: str | os.PathLike, data: str | None = None) -> Material:
    """Reads a finished run and makes its generated utterances.

    Args:
      workdir: the run's folder.
      data: where the corpus lies now; by default where it lay in training.

    Raises:
      UserError: there is no finished run, it has no GAN or no sound member, or the corpus is not
        the one it was trained on.
    """
    run = restore_run(workdir, data)
    corpus, states = run.corpus, member_states(run.state)
    if run.fleet.program.gan is None:
        raise UserError(f"{workdir}: this run has no GAN, so there is nothing to report on")
    if fingerprint(corpus) != Workdir(workdir, create=False).read_config()["corpus"]:
        raise corpus.error("is not the corpus that this run and its GAN were trained on")
    if all(state["status"] != "ok" for state in states):
        raise UserError(f"{workdir}: all members of this run have diverged")

    table = create_table(corpus, run.standardiser)
    everything = Utterances(table.features, table.present, corpus.label)
    real = {
        split: choose(everything, corpus.in_split(split) & (corpus.label >= 0)) for split in SPLITS
    }
    dataset = prepare(run.config, corpus).data._replace(table=table)
    sources = choose(everything, dataset.source)._replace(label=dataset.target)
    return Material(
        corpus=corpus,
        minority=np.unique(dataset.target),
        real=real,
        sources=sources,
        states=[
            {"seed": int(seed), "status": state["status"]}
            for seed, state in zip(run.members.seeds, states)
        ],
        members=_make_members(run, dataset, sources, real["dev"]),
    )


def _make_members(
    run: Restored, dataset: Dataset, sources: Utterances, dev: Utterances
) -> list[Member]:
    """What the sound members' GANs make of the sources."""
    program = run.fleet.program
    make = jax.jit(functools.partial(generate, program))
    members = []
    for number, status in enumerate(member_states(run.state)):
        if status["status"] != "ok":
            continue
        state = jax.tree.map(lambda leaf, n=number: leaf[n], run.state)
        made = make(state, dataset, jax.random.fold_in(jax.random.key(state.seed), STREAM))
        # What a source lacks, the utterance made from it lacks too.
        features = {m: np.where(sources.present[m][:, None], made[m], 0.0) for m in made}
        generated = sources._replace(features=features)
        verdicts = (_classify(program.gan, state.gan.params, x) for x in (generated, dev))
        members.append(Member(int(state.seed), generated, *verdicts))
    return members


def _classify(gan: GAN, params: Mapping[str, Any], utterances: Utterances) -> np.ndarray:
    """[n] int, what a GAN's own classifier takes utterances for."""
    joined = join(utterances.features, utterances.present)
    return np.asarray(gan.classifier.apply(params["classifier"], joined)).argmax(axis=-1)
