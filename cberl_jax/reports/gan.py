"""Whether the generated utterances of a finished run are any good (section 3.1).

The report: the measures of ``quality.py`` for every sound member, their means and intervals, and
the same of real utterances beside them.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

from cberl_jax.data.bayes import best_possible
from cberl_jax.data.corpus import SPLITS
from cberl_jax.evaluation.generated import Material, Member
from cberl_jax.evaluation.generated_quality import (
    COMPONENTS,
    FEWEST,
    PENALTY,
    Comparison,
    agreement,
    fit_classifier,
    fit_subspace,
    frechet_distances,
    memorised,
    of_class,
    plan_comparison,
    predict_classes,
    score_classifier,
    train_sets,
    unmoved,
    values_of,
)
from cberl_jax.metrics import summarise
from cberl_jax.reports.tables import format_mean, format_table
from cberl_jax.training.gan_step import Utterances
from cberl_jax.version import versions

GAN_PICTURE = "gan_report.png"
SETS = {
    "real": "real",
    "generated": "generated",
    "sources": "their sources",
    "all_real": "all real",
    "real_and_generated": "all real, all generated",
}


UTILITY = f"""## Can a classifier learn from them?

Logistic regressions on single utterances (all classes weigh the same; L2 weight {PENALTY} beside
the mean loss), scored on real utterances. In the first three lines all majority utterances are
real, and of each minority class there are as many as there are both real and generated: all of them
real, all generated, or all sources. Sources are the majority utterances that the generated ones
were made from: that line is what a generator that changes nothing would reach. Generated utterances
are as good as real ones where the second line reaches the first; they add something where the last
line is above the one before it. Minority F1 is the mean over the minority classes, macro F1 over
all."""
FRECHET = f"""## Are they distributed like real ones?

Fréchet distances (squared, of Gaussian fits) to the real dev utterances of the class that have the
modality, in the first principal axes of all real train utterances: {COMPONENTS} axes, or as many as
leave two utterances for each. Of the generated, the real train and the source utterances equally
many are compared. So few make the distance of even equal distributions larger than 0: generated
utterances are as good as real ones where they are as near as those, and better than nothing where
they are nearer than their sources."""
MEMORISED = """## Are they copies?

The share of utterances that are at least as close to the nearest real train utterance of their
class as that one is to its own nearest neighbour among these. 1 means copies; chance is what real
dev utterances have. A smaller share means that they keep away from real utterances. Unmoved is the
share of generated utterances to which no real train utterance of any class is nearer than the one
that they were made from."""
AGREEMENT = """## Are they taken for their class?

The share of utterances that a logistic regression on all real train utterances, and the GAN's own
classifier, take for their class. Much more than for real dev utterances means that they show
what a classifier looks for, more plainly than real ones do."""
PROJECTION = """## Where they lie

`{picture}`: utterances of seed {seed} in the plane, a panel per class. A triangle on a grey halo
has hardly moved from the majority utterance that it was made from."""


class Yardstick(NamedTuple):
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


def create_yardstick(material: Material) -> Yardstick:
    """Fits what all members share: it depends on no generated utterance."""
    train, modalities = material.real["train"], material.corpus.modalities
    plans = {
        # Generated utterances are as many as their sources, whoever makes them.
        (label, modality): plan_comparison(*_groups(material, material.sources, label, modality))
        for label in material.minority
        for modality in modalities
    }
    compared = {modality for (_, modality), plan in plans.items() if plan is not None}
    subspaces = {modality: fit_subspace(values_of(train, modality)) for modality in compared}
    return Yardstick(fit_classifier(train), subspaces, plans)


def _groups(
    material: Material, generated: Utterances, label: int, modality: str
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """One modality of a class: what is to be compared, and the dev utterances to compare with."""
    kinds = {"generated": generated, "sources": material.sources, "real": material.real["train"]}
    groups = {name: values_of(of_class(own, label), modality) for name, own in kinds.items()}
    return groups, values_of(of_class(material.real["dev"], label), modality)


def _score(classifier: LogisticRegression, material: Material) -> dict[str, Any]:
    """Split -> ``score_classifier``, for dev and test."""
    names = material.corpus.classes
    return {
        split: score_classifier(classifier, material.real[split], names, material.minority)
        for split in ("dev", "test")
    }


def measure_member(material: Material, yardstick: Yardstick, member: Member) -> dict[str, Any]:
    """Measures one member's generated utterances.

    Returns:
      ``utility``: name of ``train_sets`` -> split -> scores; ``frechet``: class -> modality ->
      group -> distance; ``memorised``, ``unmoved``: class -> share; ``agreement``: class ->
      ``independent``, ``gan`` and ``gan_dev``. None stands for what too few utterances would tell.
    """
    real, generated = material.real, member.generated
    sets = train_sets(real["train"], material.sources, generated, member.seed)
    independent = predict_classes(yardstick.classifier, generated)
    measures: dict[str, Any] = {
        "utility": {name: _score(fit_classifier(own), material) for name, own in sets.items()},
        "frechet": {},
        "memorised": {},
        "unmoved": {},
        "agreement": {},
    }
    for label in material.minority:
        name = material.corpus.classes[label]
        own, target = of_class(generated, label), generated.label
        sources = of_class(material.sources, label)
        measures["memorised"][name] = memorised(own, of_class(real["train"], label))
        measures["unmoved"][name] = unmoved(own, sources, real["train"])
        measures["agreement"][name] = {
            "independent": agreement(independent, target, label),
            "gan": agreement(member.taken_for, target, label),
            "gan_dev": agreement(member.dev_taken_for, real["dev"].label, label),
        }
        measures["frechet"][name] = {
            modality: _frechet(material, yardstick, member, label, modality)
            for modality in material.corpus.modalities
        }
    return measures


def _frechet(
    material: Material, yardstick: Yardstick, member: Member, label: int, modality: str
) -> dict[str, float] | None:
    sizes = yardstick.plans[label, modality]
    if sizes is None:
        return None
    groups, held_out = _groups(material, member.generated, label, modality)
    return frechet_distances(groups, held_out, yardstick.subspaces[modality], sizes, member.seed)


def measure_real(material: Material, yardstick: Yardstick) -> dict[str, Any]:
    """The same measures of real utterances, where no member has a say in them.

    Returns:
      ``utility``: split -> scores of training on all real utterances; ``memorised`` and
      ``agreement``: class -> share of the dev utterances; ``frechet``: class -> modality -> sizes
      of the comparison; ``counts``: class -> utterances.
    """
    real, names = material.real, material.corpus.classes
    train, dev = real["train"], real["dev"]
    taken_for = predict_classes(yardstick.classifier, dev)
    measures: dict[str, Any] = {"utility": _score(yardstick.classifier, material)}
    for field in ("memorised", "agreement", "frechet", "counts"):
        measures[field] = {}
    for label in material.minority:
        name = names[label]
        measures["memorised"][name] = memorised(of_class(dev, label), of_class(train, label))
        measures["agreement"][name] = agreement(taken_for, dev.label, label)
        plans = {m: yardstick.plans[label, m] for m in material.corpus.modalities}
        measures["frechet"][name] = {m: p and p._asdict() for m, p in plans.items()}
        kinds = {**real, "generated": material.sources}
        measures["counts"][name] = {k: int(np.sum(x.label == label)) for k, x in kinds.items()}
    return measures


def summarise_measures(measures: Sequence[Any]) -> Any:
    """Summarises the measures of all members, number by number; None stays None."""
    first = measures[0]
    if isinstance(first, Mapping):
        return {name: summarise_measures([own[name] for own in measures]) for name in first}
    return None if first is None else summarise(measures)


def create_gan_report(material: Material) -> dict[str, Any]:
    """Measures all members and sums them up.

    Returns:
      The contents of ``gan_report.json``: ``generated``, the summary of ``measure_member`` over
      the sound members; ``real``, from ``measure_real``; ``bayes``, ``best_possible``; ``members``,
      with the measures of each.
    """
    yardstick = create_yardstick(material)
    measures = [measure_member(material, yardstick, member) for member in material.members]
    rest = iter(measures)
    return {
        "corpus": material.corpus.source,
        "classes": list(material.corpus.classes),
        "minority": [material.corpus.classes[label] for label in material.minority],
        "bayes": best_possible(material.corpus),
        "generated": summarise_measures(measures),
        "real": measure_real(material, yardstick),
        "members": [
            {**state, "measures": next(rest) if state["status"] == "ok" else None}
            for state in material.states
        ],
        "versions": versions(),
    }


def _cell(summary: Mapping[str, Any] | float | None) -> str:
    """A summary, a plain number or, where too few utterances were there, a dash."""
    if summary is None:
        return "-"
    if not isinstance(summary, Mapping):
        return f"{summary:.3f}"
    alone, whole = f"{summary['mean']:.3f}", format_mean(summary)
    # An interval without width is that of a figure which no member has a say in.
    return alone if whole == f"{alone} [{alone}, {alone}]" else whole


def _count_table(report: Mapping[str, Any]) -> str:
    """How many labelled utterances of each minority class there are."""
    rows = [[name, *map(str, n.values())] for name, n in report["real"]["counts"].items()]
    return format_table(["class", *(f"real, {split}" for split in SPLITS), "generated"], rows)


def _utility_table(report: Mapping[str, Any]) -> str:
    """Classifiers trained on real and on generated utterances, scored on real ones."""
    utility = {"all_real": report["real"]["utility"], **report["generated"]["utility"]}
    head = ["minority from"]
    for split in ("dev", "test"):
        head += [f"{split}: minority F1", "macro F1"]
    head += [f"test: F1 {name}" for name in report["minority"]]
    rows = []
    for name, title in SETS.items():
        scores = utility[name]
        cells = [scores[s][field] for s in ("dev", "test") for field in ("minority_f1", "macro_f1")]
        rows.append([title, *map(_cell, [*cells, *scores["test"]["f1"].values()])])
    return format_table(head, rows)


def _tell_best(bayes: Mapping[str, Mapping[str, float]]) -> str:
    single, whole = (bayes[view]["macro_f1"] for view in ("context_free", "full"))
    return (
        f"The exact Bayes result on test: macro F1 {single:.3f} from single utterances, "
        f"{whole:.3f} from whole conversations."
    )


def _frechet_table(report: Mapping[str, Any]) -> str:
    """A line per minority class and modality."""
    head = ["class", "modality", "generated", "real", "their sources", "of each", "dev", "axes"]
    rows = []
    for name, modalities in report["generated"]["frechet"].items():
        for modality, distances in modalities.items():
            sizes = report["real"]["frechet"][name][modality]
            cells = ["-"] * 6
            if sizes is not None:
                cells = [_cell(distances[kind]) for kind in ("generated", "real", "sources")]
                cells += [str(sizes[field]) for field in ("sample", "held_out", "components")]
            rows.append([name, modality, *cells])
    return format_table(head, rows)


def _memorised_table(report: Mapping[str, Any]) -> str:
    """A line per minority class: the shares of copies and of what is still its source."""
    generated, real = report["generated"], report["real"]
    columns = (generated["memorised"], real["memorised"], generated["unmoved"])
    rows = [[name, *(_cell(own[name]) for own in columns)] for name in report["minority"]]
    return format_table(["class", "generated", "real dev", "unmoved"], rows)


def _agreement_table(report: Mapping[str, Any]) -> str:
    """A line per minority class: whether its utterances are taken for it."""
    head = ["class", "regression: generated", "real dev", "GAN: generated", "real dev"]
    rows = []
    for name, shares in report["generated"]["agreement"].items():
        cells = [shares["independent"], report["real"]["agreement"][name]]
        rows.append([name, *map(_cell, [*cells, shares["gan"], shares["gan_dev"]])])
    return format_table(head, rows)


def format_gan_report(report: Mapping[str, Any]) -> str:
    """The report as Markdown: every figure beside that of real utterances, and how to read it."""
    members = report["members"]
    lost = [str(m["seed"]) for m in members if m["status"] != "ok"]
    sound = len(members) - len(lost)
    parts = [
        f"# Generated utterances of {report['corpus']}: {sound} of {len(members)} seeds",
        *([f"Diverged and left out: seed {', '.join(lost)}."] if lost else []),
        "Mean [95 % interval of the mean] over seeds, without an interval where all seeds have the "
        "same. Each seed's generators make what an epoch of its training has. All is measured on "
        f"single utterances in the standardised features; a dash stands for fewer than {FEWEST} "
        "utterances.",
        _count_table(report),
        UTILITY,
        _utility_table(report),
        *([_tell_best(report["bayes"])] if report["bayes"] else []),
        FRECHET,
        _frechet_table(report),
        MEMORISED,
        _memorised_table(report),
        AGREEMENT,
        _agreement_table(report),
    ]
    if report["picture"]:
        seed = next(m["seed"] for m in members if m["status"] == "ok")
        parts.append(PROJECTION.format(picture=report["picture"], seed=seed))
    return "\n\n".join(parts) + "\n"
