"""The report of a run: the figures for programs, the tables for people (section 5)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cberl_jax.data.bayes import best_possible
from cberl_jax.data.corpus import Corpus
from cberl_jax.data.folds import pool_splits, warn_of_seen
from cberl_jax.data.notices import HEADING, notices
from cberl_jax.data.provenance import warn_of_later_turns
from cberl_jax.evaluation.bootstrap import summarise_models
from cberl_jax.metrics import (
    METRICS,
    PER_CLASS,
    evaluate_predictions,
    summarise,
    summarise_members,
)
from cberl_jax.reports import latex
from cberl_jax.reports.html import plain, write_page
from cberl_jax.reports.provenance import format_provenance
from cberl_jax.reports.tables import (
    AVERAGE,
    BAYES_METRICS,
    DEFINITIONS,
    EXPECTED,
    MEMBERS,
    NOTHING,
    RARE,
    SINGLE,
    TITLES,
    WHICH_MODEL,
    best_whole,
    describe_intervals,
    format_spread,
    format_table,
    mark_rare,
)
from cberl_jax.runtime.files import write_json, write_text
from cberl_jax.runtime.workdir import Workdir
from cberl_jax.training.prepare import Splits

CHOSEN_ON_DEV = "The epoch is chosen on dev, so dev has no interval; test is read once."
POOLED = (
    "Every utterance is tested once a seed, by the model of the fold whose test split it is in, "
    "and no model has seen its own test split. Scores are of these predictions of all folds "
    "together, as Forman and Scholz (2010) recommend for F1. predict averages the models of all "
    "folds."
)
UNLABELLED_TEST = (
    "Test has no labels: the figures of classes are of dev, by which the epochs of the training "
    "were chosen, so that new conversations will score lower."
)


class Picture(NamedTuple):
    """A picture in a report: its file beside the report, its heading, and what it shows."""

    file: str
    title: str
    text: str


class TrainingData(NamedTuple):
    """What the members of a run are trained and tested on.

    Attributes:
      corpus: the corpus.
      splits: of the corpus.
      generated: [C] generated utterances per class.
    """

    corpus: Corpus
    splits: Splits
    generated: np.ndarray


def create_report(
    data: TrainingData,
    members: Sequence[Mapping[str, Any]],
    predictions: Mapping[str, np.ndarray],
    *,
    causal: bool,
    timing: Mapping[str, Any],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Sums up the members of a run; diverged ones are named and left out of the means.

    Args:
      data: what they are trained and tested on.
      members: from ``score_members``.
      predictions: from ``predict_splits``.
      causal: whether the members see no later turn.
      timing: seconds and bytes.
      provenance: from ``create_provenance``.

    Returns:
      The contents of ``report.json``. ``test`` has the means over members, ``ensemble`` the scores
      of the average of their probabilities on test, from ``summarise_models``; both are None where
      that split has no labels, and so is ``dev`` where no member is sound.
    """
    corpus, splits = data.corpus, data.splits
    sound = [m for m in members if m["status"] == "ok"]
    counts = np.mean([own.class_counts("train") for own in splits.corpora], axis=0)
    real = np.ceil(counts).astype(int)
    tested = pool_splits(corpus, "test") if splits.folds else corpus
    return {
        "corpus": corpus.name,
        "classes": list(corpus.classes),
        "members": list(members),
        "notices": splits_notices(splits, causal),
        **_score_test(corpus, members, predictions),
        "dev": summarise_members([m["dev"] for m in sound]) if sound else None,
        "best_on_test": _best_on_test(sound),
        "folds": _score_folds(splits, members, predictions) if splits.folds else None,
        "bayes": best_possible(tested, causal),
        "augmentation": {
            name: {"real": int(real[c]), "generated": int(data.generated[c])}
            for c, name in enumerate(corpus.classes)
        },
        "timing": dict(timing),
        "versions": dict(provenance["versions"]),
        "provenance": dict(provenance),
        "pictures": [],
    }


def _score_test(
    corpus: Corpus, members: Sequence[Mapping[str, Any]], predictions: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """``test`` and ``ensemble`` of a report."""
    sound = [m["status"] == "ok" for m in members]
    if not any(sound) or not np.any(predictions["test.label"] >= 0):
        return {"test": None, "ensemble": None}
    label, dialogue = predictions["test.label"], predictions["test.dialogue"]
    own = predictions["test.probability"][sound]
    return summarise_models(own, label, dialogue, corpus.classes)


def splits_notices(splits: Splits, causal: bool) -> list[str]:
    """What in the data is worth a look; what holds for one fold alone names it.

    Args:
      splits: of the corpus.
      causal: whether members are to see no later turn.
    """
    each = [notices(own) for own in splits.corpora]
    if causal:
        each = [own + warn_of_later_turns(splits.corpora[0]) for own in each]
    if splits.folds:
        each = [own + warn_of_seen(splits.corpora[0]) for own in each]
    found = dict.fromkeys(line for own in each for line in own)
    lines = []
    for line in found:
        those = [n for n, own in enumerate(each) if line in own]
        named = ", ".join(splits.folds.names[n] for n in those) if len(those) < len(each) else ""
        lines.append(f"{line} (with the splits of fold {named})" if named else line)
    return lines


def _score_folds(
    splits: Splits, members: Sequence[Mapping[str, Any]], predictions: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Per fold its size, and the mean scores of the sound seeds on its utterances."""
    rows = [n for n, member in enumerate(members) if member["status"] == "ok"]
    lines = []
    for number, name in enumerate(splits.folds.names):
        own = splits.corpora[number]
        line = {"fold": name, "dialogues": int(np.sum(own.split == "test"))}
        for split in ("dev", "test"):
            here = predictions[f"{split}.fold"] == number
            label = predictions[f"{split}.label"][here]
            probability = predictions[f"{split}.probability"][rows][:, here]
            line[f"{split}_utterances"] = int(np.sum(label >= 0))
            scores = [evaluate_predictions(label, one, own.classes) for one in probability]
            known = bool(scores) and np.any(label >= 0)
            line[split] = summarise_members(scores) if known else None
        lines.append(line)
    return lines


def _best_on_test(sound: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The scores of the epochs that are best on test, None where test was not looked at."""
    if not sound or "best_on_test" not in sound[0]:
        return None
    return {name: summarise([m["best_on_test"][name] for m in sound]) for name in METRICS}


def count_sound(report: Mapping[str, Any]) -> int:
    """Members that did not diverge."""
    return sum(m["status"] == "ok" for m in report["members"])


def _result_rows(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """What is scored, and its summaries."""
    rows = [
        (f"{MEMBERS}, test", report["test"]),
        (f"{AVERAGE}, test", report["ensemble"]),
        (f"{MEMBERS}, dev", report["dev"]),
        (f"{MEMBERS}, test (epoch chosen on test)", report["best_on_test"]),
    ]
    return [(name, own) for name, own in rows if own]


def scored_split(report: Mapping[str, Any]) -> str:
    """The split of which a report shows the classes: test, or dev where test has no labels."""
    return "test" if report["test"] else "dev"


def _class_scores(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What classes are scored of: title of the column -> class -> its scores."""
    if not report["test"]:
        return {"mean": report["dev"]["per_class"]}
    return {"mean": report["test"]["per_class"], "average": report["ensemble"]["per_class"]}


def result_table(report: Mapping[str, Any]) -> str:
    """A line per model and split; on a simulated corpus also what could be reached."""
    rows = [[name, *(format_spread(own[n]) for n in METRICS)] for name, own in _result_rows(report)]
    if report["bayes"] and report["test"]:
        title, whole = best_whole(report["bayes"])
        bounds = (
            (f"{title}, expected", whole),
            (f"{SINGLE}, expected", report["bayes"]["context_free"]),
        )
        rows += [
            [name, *(f"{own[n]:.3f}" if n in own else NOTHING for n in METRICS)]
            for name, own in bounds
        ]
        for name, key in ((MEMBERS, "test"), (AVERAGE, "ensemble")):
            shares = (
                f"{100 * report[key][n]['mean'] / whole[n]:.1f} %"
                if n in BAYES_METRICS
                else NOTHING
                for n in METRICS
            )
            rows.append([f"{name}, share of the {title}", *shares])
    head = ["model", *(TITLES[n] for n in METRICS)]
    return format_table(head, rows, "scores of the members and of the model that is used.")


def class_table(report: Mapping[str, Any]) -> str:
    """A line per class: scores on test, or dev without it, and how many utterances there were."""
    split, models = scored_split(report), _class_scores(report)
    fields = ("precision", "recall", "F1")
    head = ["class", *(f"{field}, {title}" for title in models for field in fields)]
    head += [f"{split} utterances", "train", "generated"]
    rows = []
    for name, own in models["mean"].items():
        figures = [_class_cell(model[name], f) for model in models.values() for f in PER_CLASS]
        counts = report["augmentation"][name]
        numbers = (own["support"], counts["real"], counts["generated"])
        rows.append([mark_rare(plain(name), own["support"]), *figures, *map(str, numbers)])
    caption = f'classes on {split}: "mean" is the {MEMBERS}'
    caption += f', "average" the {AVERAGE}.' if "average" in models else "."
    return format_table(head, rows, caption)


def _class_cell(scores: Mapping[str, Any], field: str) -> str:
    if not scores["support"]:
        return NOTHING
    if field == "f1":
        return format_spread(scores[field])
    return f"{scores[field]['mean']:.3f}"


def _fold_table(report: Mapping[str, Any]) -> str:
    """A line per fold."""
    head = ["fold", "dialogues", "labelled utterances", *(TITLES[name] for name in METRICS)]
    rows = [
        [
            plain(own["fold"]),
            str(own["dialogues"]),
            str(own["test_utterances"]),
            *(format_spread(own["test"][n]) if own["test"] else NOTHING for n in METRICS),
        ]
        for own in report["folds"]
    ]
    return format_table(head, rows, f"each fold on its own: {MEMBERS}, test.")


def _member_table(report: Mapping[str, Any]) -> str:
    """A line per member."""
    head = ["seed", "status", "epoch", *(TITLES[name] for name in METRICS)]
    rows = []
    for member in report["members"]:
        test = member["test"]
        figures = [f"{test[name]:.3f}" if test else NOTHING for name in METRICS]
        rows.append([str(member["seed"]), member["status"], str(member["epoch"]), *figures])
    return format_table(head, rows, "members on test.")


def _tell_loss(member: Mapping[str, Any]) -> str:
    broke = member["diverged"]
    return f"seed {member['seed']} ({broke['stage']} epoch {broke['epoch']}, {broke['term']})"


def list_meanings(report: Mapping[str, Any]) -> list[str]:
    """The sentences that say what the tables mean."""
    if not report["test"]:
        spread = "±: standard deviation over members. "
        return [f"{spread}The epoch is chosen on dev. {UNLABELLED_TEST}", f"{DEFINITIONS} {RARE}"]
    parts = [
        WHICH_MODEL,
        *([POOLED] if report["folds"] else []),
        f"{describe_intervals(count_sound(report))} {CHOSEN_ON_DEV}",
        f"{DEFINITIONS} {RARE}",
    ]
    return [*parts, EXPECTED] if report["bayes"] else parts


def _list_notices(report: Mapping[str, Any]) -> list[str]:
    """What in the data is worth a look; empty where nothing is."""
    if not report["notices"]:
        return []
    return [f"## {HEADING}", "\n".join(f"- {plain(line)}" for line in report["notices"])]


def _list_scores(report: Mapping[str, Any]) -> list[str]:
    """Title, legend and tables."""
    sound = count_sound(report)
    lost = [_tell_loss(m) for m in report["members"] if m["status"] != "ok"]
    parts = [f"# {plain(report['corpus'])}: {sound} of {len(report['members'])} seeds"]
    if lost:
        parts.append(f"Diverged and left out: {', '.join(lost)}.")
    if not sound:
        return [*parts, "No member is left to report on."]
    return [
        *parts,
        *list_meanings(report),
        class_table(report),
        *([_fold_table(report)] if report["folds"] else []),
        _member_table(report),
        result_table(report),
    ]


def format_scores(report: Mapping[str, Any]) -> str:
    """The tables for a terminal, the scores of the run last."""
    return "\n\n".join(_list_scores(report)) + "\n"


def format_report(report: Mapping[str, Any]) -> str:
    """The report as Markdown: results, classes, members, pictures, how it was made."""
    parts = _list_scores(report)
    if report["dev"]:
        tables = 4 if report["folds"] else 3
        *others, results = parts[-tables:]
        parts = [*parts[:-tables], results, *others]
    parts += _list_notices(report)
    for picture in (Picture(**own) for own in report["pictures"]):
        parts += [f"## {picture.title}", picture.text, f"![{picture.title}]({picture.file})"]
    return "\n\n".join([*parts, format_provenance(report["provenance"])]) + "\n"


def format_latex(report: Mapping[str, Any]) -> str:
    """Two tables for a paper: models, and classes on test.

    Returns:
      LaTeX; empty where there is no score on test.
    """
    if not report["test"]:
        return ""
    sound, models = count_sound(report), _result_rows(report)
    meaning = latex.to_latex(f"{describe_intervals(sound)} {CHOSEN_ON_DEV} {DEFINITIONS}")
    digits = latex.count_digits([own[n] for _, own in models[:2] for n in METRICS])
    source = latex.escape(report["corpus"])
    rows = [[name, *(latex.format_score(own[n], digits) for n in METRICS)] for name, own in models]
    members = "1 member" if sound == 1 else f"{sound} members"
    scores = latex.format_table(
        "scores",
        f"CBERL on {source}, {members}, in per cent. {meaning}",
        ["", *(TITLES[n] for n in METRICS)],
        rows,
    )
    return f"{scores}\n{_latex_classes(report, source)}"


def _latex_classes(report: Mapping[str, Any], source: str) -> str:
    pairs = {
        name: (scores, report["ensemble"]["per_class"][name])
        for name, scores in report["test"]["per_class"].items()
    }
    digits = latex.count_digits([own["f1"] for pair in pairs.values() for own in pair])
    rows = [
        [
            mark_rare(name, own[0]["support"]),
            str(own[0]["support"]),
            *(latex.format_score(x["f1"] if x["support"] else None, digits) for x in own),
        ]
        for name, own in pairs.items()
    ]
    meaning = latex.to_latex(f"{describe_intervals(count_sound(report))} {RARE}")
    return latex.format_table(
        "classes",
        f"F1 of the classes on test, CBERL on {source}, in per cent. {meaning}",
        ["class", "utterances", MEMBERS, AVERAGE],
        rows,
    )


def write_report(workdir: Workdir, report: Mapping[str, Any]) -> None:
    """Writes ``report.md``, ``.tex`` and ``.html``, pictures inside, and last ``report.json``."""
    if not workdir.writes:
        return
    text = format_report(report)
    write_text(workdir.report_text, text)
    write_text(workdir.path / "report.tex", format_latex(report))
    write_page(workdir.report_page, text, [own["file"] for own in report["pictures"]])
    write_json(workdir.report_file, report)
