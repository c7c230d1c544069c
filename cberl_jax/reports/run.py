"""The report of a run: the figures for programs, the tables for people (section 5)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cberl_jax.data.bayes import best_possible
from cberl_jax.data.corpus import Corpus
from cberl_jax.metrics import METRICS, summarise, summarise_members
from cberl_jax.reports.html import plain, write_page
from cberl_jax.reports.tables import TITLES, format_table
from cberl_jax.runtime.files import write_json, write_text
from cberl_jax.runtime.workdir import Workdir

UNLABELLED_TEST = (
    "Test has no labels: the figures of classes are of dev, by which the epochs of the training "
    "were chosen, so that new conversations will score lower."
)


class Picture(NamedTuple):
    """A picture in a report: its file beside the report, its heading, and what it shows."""

    file: str
    title: str
    text: str


def create_report(
    corpus: Corpus,
    members: Sequence[Mapping[str, Any]],
    *,
    generated: np.ndarray,
    timing: Mapping[str, Any],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """Sums up the members of a run; diverged ones are named and left out of the means.

    Args:
      corpus: the corpus.
      members: from ``score_members``.
      generated: [C] generated utterances per class.
      timing: seconds and bytes.
      versions: of packages.

    Returns:
      The contents of ``report.json``; ``test`` is None where that split has no labels, and it and
      ``dev`` are where no member is sound.
    """
    sound = [m for m in members if m["status"] == "ok"]
    real = corpus.class_counts("train")
    return {
        "corpus": corpus.source,
        "classes": list(corpus.classes),
        "members": list(members),
        "test": summarise_members([m["test"] for m in sound])
        if sound and sound[0]["test"]
        else None,
        "dev": summarise_members([m["dev"] for m in sound]) if sound else None,
        "best_on_test": _best_on_test(sound),
        "bayes": best_possible(corpus),
        "augmentation": {
            name: {"real": int(real[c]), "generated": int(generated[c])}
            for c, name in enumerate(corpus.classes)
        },
        "timing": dict(timing),
        "versions": dict(versions),
        "pictures": [],
    }


def scored_split(report: Mapping[str, Any]) -> str:
    """The split of which a report shows the classes: test, or dev where test has no labels."""
    return "test" if report["test"] else "dev"


def _best_on_test(sound: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The scores of the epochs that are best on test, None where nobody looked."""
    if not sound or "best_on_test" not in sound[0]:
        return None
    return {name: summarise([m["best_on_test"][name] for m in sound]) for name in METRICS}


def _cell(summary: Mapping[str, Any]) -> str:
    if summary["ci95"] is None:
        return f"{summary['mean']:.3f}"
    low, high = summary["ci95"]
    return f"{summary['mean']:.3f} ± {summary['std']:.3f} [{low:.3f}, {high:.3f}]"


def _result_table(report: Mapping[str, Any]) -> str:
    """The metrics on dev and test; where asked for, or simulated, the best on test or possible."""
    head = ["metric", "dev", "test"]
    test = {n: _cell(report["test"][n]) if report["test"] else "-" for n in METRICS}
    rows = [[TITLES[n], _cell(report["dev"][n]), test[n]] for n in METRICS]
    if report["best_on_test"]:
        head.append("best on test (epoch chosen on test)")
        for name, row in zip(METRICS, rows):
            row.append(_cell(report["best_on_test"][name]))
    if report["bayes"]:
        head += ["best from single utterances", "best possible", "share of it"]
        for name, row in zip(METRICS, rows):
            single, best = report["bayes"]["context_free"][name], report["bayes"]["full"][name]
            share = report["test"][name]["mean"] / best
            row += [f"{single:.3f}", f"{best:.3f}", f"{100 * share:.0f} %"]
    return format_table(head, rows)


def _class_table(report: Mapping[str, Any]) -> str:
    """A line per class: scores on test, or dev without it, and how many utterances there were."""
    split = scored_split(report)
    head = ["class", "precision", "recall", f"F1 ({split})", f"{split} utterances", "train"]
    head.append("generated")
    rows = []
    for name, scores in report[split]["per_class"].items():
        counts = report["augmentation"][name]
        figures = [f"{scores[field]['mean']:.3f}" for field in ("precision", "recall")]
        numbers = (scores["support"], counts["real"], counts["generated"])
        rows.append([plain(name), *figures, _cell(scores["f1"]), *map(str, numbers)])
    return format_table(head, rows)


def _member_table(report: Mapping[str, Any]) -> str:
    """A line per member."""
    head = ["seed", "status", "epoch", *(TITLES[name] for name in METRICS)]
    rows = []
    for member in report["members"]:
        test = member["test"]
        figures = [f"{test[name]:.3f}" if test else "-" for name in METRICS]
        rows.append([str(member["seed"]), member["status"], str(member["epoch"]), *figures])
    return format_table(head, rows)


def _tell_loss(member: Mapping[str, Any]) -> str:
    broke = member["diverged"]
    return f"seed {member['seed']} ({broke['stage']} epoch {broke['epoch']}, {broke['term']})"


def format_report(report: Mapping[str, Any]) -> str:
    """The report as Markdown: results, classes, members, pictures."""
    sound = sum(m["status"] == "ok" for m in report["members"])
    lost = [_tell_loss(m) for m in report["members"] if m["status"] != "ok"]
    parts = [f"# {plain(report['corpus'])}: {sound} of {len(report['members'])} seeds"]
    if lost:
        parts.append(f"Diverged and left out: {', '.join(lost)}.")
    if not sound:
        return "\n\n".join([*parts, "No member is left to report on."]) + "\n"
    parts += [
        "Mean ± standard deviation [95 % interval of the mean] over seeds. The epoch is chosen on "
        + ("dev; test is read once." if report["test"] else f"dev. {UNLABELLED_TEST}"),
        _result_table(report),
        _class_table(report),
        _member_table(report),
    ]
    for picture in (Picture(**own) for own in report["pictures"]):
        parts += [f"## {picture.title}", picture.text, f"![{picture.title}]({picture.file})"]
    return "\n\n".join(parts) + "\n"


def write_report(workdir: Workdir, report: Mapping[str, Any]) -> None:
    """Writes ``report.md``, ``report.html`` with the pictures inside, and last ``report.json``."""
    if not workdir.writes:
        return
    text = format_report(report)
    write_text(workdir.report_text, text)
    write_page(workdir.report_page, text, [own["file"] for own in report["pictures"]])
    write_json(workdir.report_file, report)
