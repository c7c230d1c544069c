"""The report on a run's generated utterances, from ``evaluation/gan_measures.py``."""

from collections.abc import Mapping
from typing import Any

from cberl_jax.data.corpus import SPLITS
from cberl_jax.data.gate import COMPONENTS, FEWEST
from cberl_jax.evaluation.generated_quality import PENALTY
from cberl_jax.evaluation.manifold import NEIGHBOURS
from cberl_jax.reports.html import plain
from cberl_jax.reports.tables import format_spread, format_table

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
NEIGHBOURHOODS = f"""## Do they fill the class?

Against the real dev utterances of the class with all modalities, of which there are few, so equally
many of each kind are drawn. Around each utterance lies a ball as far as its {NEIGHBOURS}th
neighbour. Precision: the share in the ball of a dev utterance. Recall: the share of dev utterances
in a ball of theirs. Density: how many of these balls an utterance lies in, over {NEIGHBOURS};
above that of real ones it means that they crowd in the middle. Coverage: the share of dev
utterances with one of them in their ball. Told apart: the accuracy of a nearest-neighbour
classifier that has to tell them from dev utterances; 0.5 is chance. Travelled: where they lie on
the way from their sources (0) to where real dev utterances are (1), by the distance to the
nearest real train utterances; above 1 they are nearer to those than real ones are."""
TRUE_DENSITY = """## What does the law of the corpus say?

The exact mean log density under the class, in nats, of the utterances with all modalities, and the
share that the exact Bayes rule for single utterances assigns to the class. Real utterances are
drawn from the law; generated ones are as good where both figures are theirs. A higher density than
theirs means that they crowd around the middle of the class."""
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
has hardly moved from the majority utterance that it was made from. Below, how far each has
travelled."""


def _cell(summary: Mapping[str, Any] | float | None) -> str:
    """A summary, a plain number or, where too few utterances were there, a dash."""
    if summary is None:
        return "-"
    if not isinstance(summary, Mapping):
        return f"{summary:.3f}"
    # A deviation of 0 is that of a figure which no member has a say in.
    return format_spread(summary if summary["std"] else {**summary, "std": None})


def _count_table(report: Mapping[str, Any]) -> str:
    """How many labelled utterances of each minority class there are."""
    rows = [[plain(c), *map(str, n.values())] for c, n in report["real"]["counts"].items()]
    return format_table(["class", *(f"real, {split}" for split in SPLITS), "generated"], rows)


def _utility_table(report: Mapping[str, Any]) -> str:
    """Classifiers trained on real and on generated utterances, scored on real ones."""
    utility = {"all_real": report["real"]["utility"], **report["generated"]["utility"]}
    head = ["minority from"]
    for split in ("dev", "test"):
        head += [f"{split}: minority F1", "macro F1"]
    head += [f"test: F1 {plain(name)}" for name in report["minority"]]
    rows = []
    for name, title in SETS.items():
        scores = utility[name]
        cells = [scores[s][field] for s in ("dev", "test") for field in ("minority_f1", "macro_f1")]
        rows.append([title, *map(_cell, [*cells, *scores["test"]["f1"].values()])])
    return format_table(head, rows)


def _tell_best(bayes: Mapping[str, Mapping[str, float]]) -> str:
    single, whole = (bayes[view]["balanced_accuracy"] for view in ("context_free", "full"))
    return (
        f"The exact Bayes result on test, expected: balanced accuracy {single:.3f} from single "
        f"utterances, {whole:.3f} from whole conversations."
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
            rows.append([plain(name), modality, *cells])
    return format_table(head, rows)


NEIGHBOUR_COLUMNS = {
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "two_sample": "told apart",
}
KINDS = {"generated": "generated", "real": "real train", "sources": "their sources"}


def _neighbours_table(report: Mapping[str, Any]) -> str:
    """Three lines per minority class: generated, real and source utterances against dev."""
    rows = []
    for name, groups in report["generated"]["neighbours"].items():
        travelled = report["generated"]["travelled"][name]
        for kind, title in KINDS.items():
            own = groups[kind]
            cells = ["-"] * len(NEIGHBOUR_COLUMNS)
            if own is not None:
                cells = [_cell(own[field]) for field in NEIGHBOUR_COLUMNS]
            way = _cell(travelled) if kind == "generated" else ""
            rows.append([plain(name), title, *cells, way])
    return format_table(["class", "utterances", *NEIGHBOUR_COLUMNS.values(), "travelled"], rows)


def _density_table(report: Mapping[str, Any]) -> str:
    """Three lines per minority class that the law has an answer for; empty where there is none."""
    rows = [
        [plain(name), KINDS[kind], *(_cell(groups[kind][n]) for n in ("log_density", "bayes"))]
        for name, groups in report["generated"]["true_density"].items()
        if groups is not None
        for kind in KINDS
    ]
    return format_table(["class", "utterances", "log density", "Bayes rule"], rows) if rows else ""


def _memorised_table(report: Mapping[str, Any]) -> str:
    """A line per minority class: the shares of copies and of what is still its source."""
    generated, real = report["generated"], report["real"]
    columns = (generated["memorised"], real["memorised"], generated["unmoved"])
    rows = [[plain(name), *(_cell(own[name]) for own in columns)] for name in report["minority"]]
    return format_table(["class", "generated", "real dev", "unmoved"], rows)


def _agreement_table(report: Mapping[str, Any]) -> str:
    """A line per minority class: whether its utterances are taken for it."""
    head = ["class", "regression: generated", "real dev", "GAN: generated", "real dev"]
    rows = []
    for name, shares in report["generated"]["agreement"].items():
        cells = [shares["independent"], report["real"]["agreement"][name]]
        rows.append([plain(name), *map(_cell, [*cells, shares["gan"], shares["gan_dev"]])])
    return format_table(head, rows)


def format_gan_report(report: Mapping[str, Any]) -> str:
    """The report as Markdown: every figure beside that of real utterances, and how to read it."""
    members = report["members"]
    lost = [str(m["seed"]) for m in members if m["status"] != "ok"]
    sound = len(members) - len(lost)
    densities = _density_table(report)
    parts = [
        f"# Generated utterances of {plain(report['corpus'])}: {sound} of {len(members)} seeds",
        *([f"Diverged and left out: seed {', '.join(lost)}."] if lost else []),
        "Mean ± standard deviation over seeds, the mean alone where all seeds have the same. Each "
        "seed's generators make an utterance for each real one of train. All is "
        "measured on single utterances in the standardised features; a dash stands for too few "
        f"utterances, fewer than {FEWEST} in most tables.",
        _count_table(report),
        UTILITY,
        _utility_table(report),
        *([_tell_best(report["bayes"])] if report["bayes"] else []),
        FRECHET,
        _frechet_table(report),
        NEIGHBOURHOODS,
        _neighbours_table(report),
        *([TRUE_DENSITY, densities] if densities else []),
        MEMORISED,
        _memorised_table(report),
        AGREEMENT,
        _agreement_table(report),
    ]
    if report["picture"]:
        seed = next(m["seed"] for m in members if m["status"] == "ok")
        parts.append(PROJECTION.format(picture=report["picture"], seed=seed))
    return "\n\n".join(parts) + "\n"
