"""The measures of a run's generated utterances, and of real ones beside them (section 3.1).

The measures are those of ``generated_quality.py``, for every sound member, with their means.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from cberl_jax.data.bayes import best_possible
from cberl_jax.data.gate import fit_subspace
from cberl_jax.evaluation.generated import GanSamples, Member
from cberl_jax.evaluation.generated_quality import (
    Comparison,
    agreement,
    complete,
    fit_classifier,
    frechet_distances,
    memorised,
    of_class,
    plan_comparison,
    predict_classes,
    score_classifier,
    train_sets,
    travelled_by,
    unmoved,
    values_of,
    vectors,
)
from cberl_jax.evaluation.manifold import neighbourhood_measures, two_sample_accuracy
from cberl_jax.evaluation.true_density import true_densities
from cberl_jax.metrics import summarise
from cberl_jax.training.gan_step import Utterances
from cberl_jax.version import versions


class RealReference(NamedTuple):
    """What all members are measured with.

    Attributes:
      classifier: a logistic regression on all real train utterances.
      subspaces: modality -> principal axes of the train utterances that have it, for those that
        are compared at all.
      plans: (class, modality) -> sizes of their comparison, or None.
    """

    classifier: LogisticRegression
    subspaces: Mapping[str, PCA]
    plans: Mapping[tuple[int, str], Comparison | None]


def create_reference(samples: GanSamples) -> RealReference:
    """Fits what all members share: it depends on no generated utterance."""
    train, modalities = samples.real["train"], samples.corpus.modalities
    plans = {
        # Every member generates as many utterances as there are sources.
        (label, modality): plan_comparison(*_groups(samples, samples.sources, label, modality))
        for label in samples.minority
        for modality in modalities
    }
    compared = {modality for (_, modality), plan in plans.items() if plan is not None}
    subspaces = {modality: fit_subspace(values_of(train, modality)) for modality in compared}
    return RealReference(fit_classifier(train), subspaces, plans)


def _groups(
    samples: GanSamples, generated: Utterances, label: int, modality: str
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """One modality of a class: what is to be compared, and the dev utterances to compare with."""
    kinds = {"generated": generated, "sources": samples.sources, "real": samples.real["train"]}
    groups = {name: values_of(of_class(own, label), modality) for name, own in kinds.items()}
    return groups, values_of(of_class(samples.real["dev"], label), modality)


def _score(classifier: LogisticRegression, samples: GanSamples) -> dict[str, Any]:
    """Split -> ``score_classifier``, for dev and test."""
    names = samples.corpus.classes
    return {
        split: score_classifier(classifier, samples.real[split], names, samples.minority)
        for split in ("dev", "test")
    }


# Measures of each class, by name.
CLASS_MEASURES = (
    "frechet",
    "neighbours",
    "travelled",
    "true_density",
    "memorised",
    "unmoved",
    "agreement",
)


def measure_member(samples: GanSamples, reference: RealReference, member: Member) -> dict[str, Any]:
    """Measures one member's generated utterances.

    Returns:
      ``utility``: name of ``train_sets`` -> split -> scores; ``frechet``: class -> modality ->
      group -> distance; ``neighbours``: class -> group -> measures of ``manifold.py`` against dev;
      ``travelled``: class -> mean distance travelled; ``true_density``: class -> group -> figures
      of ``true_densities``; ``memorised``, ``unmoved``: class -> share; ``agreement``: class ->
      ``independent``, ``gan`` and ``gan_dev``. None stands for what too few utterances would tell.
    """
    real, generated = samples.real, member.generated
    sets = train_sets(real["train"], samples.sources, generated, member.seed)
    utility = {name: _score(fit_classifier(own), samples) for name, own in sets.items()}
    classes = [samples.corpus.classes[label] for label in samples.minority]
    each = [_measure_class(samples, reference, member, label) for label in samples.minority]
    measures = {
        measure: dict(zip(classes, [own[measure] for own in each])) for measure in CLASS_MEASURES
    }
    return {"utility": utility, **measures}


def _measure_class(
    samples: GanSamples, reference: RealReference, member: Member, label: int
) -> dict[str, Any]:
    """``CLASS_MEASURES`` of one class."""
    train, dev = samples.real["train"], samples.real["dev"]
    groups = {"generated": member.generated, "real": train, "sources": samples.sources}
    own = {name: of_class(group, label) for name, group in groups.items()}
    held_out = of_class(dev, label)
    travelled = travelled_by(own["generated"], own["sources"], own["real"], held_out)
    return {
        "frechet": {
            modality: _frechet(samples, reference, member, label, modality)
            for modality in samples.corpus.modalities
        },
        "neighbours": {
            name: _neighbours(group, held_out, member.seed) for name, group in own.items()
        },
        "travelled": None if travelled is None else float(travelled.mean()),
        "true_density": true_densities(own, label, samples.corpus.source, samples.standardiser),
        "memorised": memorised(own["generated"], own["real"]),
        "unmoved": unmoved(own["generated"], own["sources"], train),
        "agreement": _agreements(reference, member, dev, label),
    }


def _neighbours(group: Utterances, held_out: Utterances, seed: int) -> dict[str, float] | None:
    """Fidelity and diversity, and how well the two samples can be told apart."""
    points, others = (vectors(complete(x)) for x in (group, held_out))
    measures = neighbourhood_measures(points, others, seed)
    if measures is None:
        return None
    return measures | {"two_sample": two_sample_accuracy(points, others, seed)}


def _agreements(
    reference: RealReference, member: Member, dev: Utterances, label: int
) -> dict[str, float | None]:
    """The share of utterances that classifiers assign to the class."""
    target = member.generated.label
    shares = {
        "independent": agreement(
            predict_classes(reference.classifier, member.generated), target, label
        ),
        "gan": None,
        "gan_dev": None,
    }
    if member.taken_for is not None:
        shares["gan"] = agreement(member.taken_for, target, label)
        shares["gan_dev"] = agreement(member.dev_taken_for, dev.label, label)
    return shares


def _frechet(
    samples: GanSamples, reference: RealReference, member: Member, label: int, modality: str
) -> dict[str, float] | None:
    sizes = reference.plans[label, modality]
    if sizes is None:
        return None
    groups, held_out = _groups(samples, member.generated, label, modality)
    return frechet_distances(groups, held_out, reference.subspaces[modality], sizes, member.seed)


def measure_real(samples: GanSamples, reference: RealReference) -> dict[str, Any]:
    """The same measures of real utterances, where no member has a say in them.

    Returns:
      ``utility``: split -> scores of training on all real utterances; ``memorised`` and
      ``agreement``: class -> share of the dev utterances; ``frechet``: class -> modality -> sizes
      of the comparison; ``counts``: class -> utterances.
    """
    real, names = samples.real, samples.corpus.classes
    train, dev = real["train"], real["dev"]
    taken_for = predict_classes(reference.classifier, dev)
    measures: dict[str, Any] = {"utility": _score(reference.classifier, samples)}
    for field in ("memorised", "agreement", "frechet", "counts"):
        measures[field] = {}
    for label in samples.minority:
        name = names[label]
        measures["memorised"][name] = memorised(of_class(dev, label), of_class(train, label))
        measures["agreement"][name] = agreement(taken_for, dev.label, label)
        plans = {m: reference.plans[label, m] for m in samples.corpus.modalities}
        measures["frechet"][name] = {m: p and p._asdict() for m, p in plans.items()}
        kinds = {**real, "generated": samples.sources}
        measures["counts"][name] = {k: int(np.sum(x.label == label)) for k, x in kinds.items()}
    return measures


def summarise_measures(measures: Sequence[Any]) -> Any:
    """Summarises the measures of all members, number by number; None stays None."""
    first = measures[0]
    if isinstance(first, Mapping):
        return {name: summarise_measures([own[name] for own in measures]) for name in first}
    return None if first is None else summarise(measures)


def create_gan_report(samples: GanSamples) -> dict[str, Any]:
    """Measures all members and sums them up.

    Returns:
      The contents of ``gan_report.json``: ``generated``, the summary of ``measure_member`` over
      the sound members; ``real``, from ``measure_real``; ``bayes``, ``best_possible``; ``members``,
      with the measures of each.
    """
    reference = create_reference(samples)
    measures = [measure_member(samples, reference, member) for member in samples.members]
    rest = iter(measures)
    return {
        "corpus": samples.corpus.name,
        "classes": list(samples.corpus.classes),
        "minority": [samples.corpus.classes[label] for label in samples.minority],
        "bayes": best_possible(samples.corpus),
        "generated": summarise_measures(measures),
        "real": measure_real(samples, reference),
        "members": [
            {**state, "measures": next(rest) if state["status"] == "ok" else None}
            for state in samples.states
        ],
        "versions": versions(),
    }
