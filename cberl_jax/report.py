"""The report of a run: the figures for programs, the tables for people (section 5)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cberl_jax.data.corpus import Corpus
from cberl_jax.evaluate import METRICS, evaluate_predictions, summarise_members
from cberl_jax.workdir import Workdir, replacing

TITLES = {
    "accuracy": "accuracy",
    "weighted_f1": "weighted F1",
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy",
}


def create_report(
    corpus: Corpus,
    seeds: Sequence[int],
    states: Sequence[Mapping[str, Any]],
    predictions: Mapping[str, np.ndarray],
    *,
    generated: np.ndarray,
    timing: Mapping[str, Any],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """Scores all members and sums them up; diverged ones are named and left out of the means.

    Args:
      corpus: the corpus.
      seeds: the members' seeds.
      states: per member its ``status`` and kept ``epoch``.
      predictions: from ``predict_splits``.
      generated: [C] generated utterances per class.
      timing: seconds and bytes.
      versions: of packages.

    Returns:
      The contents of ``report.json``.
    """
    members = []
    for number, (seed, state) in enumerate(zip(seeds, states)):
        member = {"seed": int(seed), **state, "dev": None, "test": None}
        if state["status"] == "ok":
            for split in ("dev", "test"):
                member[split] = evaluate_predictions(
                    predictions[f"{split}.label"],
                    predictions[f"{split}.probability"][number],
                    corpus.classes,
                )
        members.append(member)
    sound = [m for m in members if m["status"] == "ok"]
    real = corpus.class_counts("train")
    return {
        "corpus": corpus.source,
        "classes": list(corpus.classes),
        "members": members,
        "test": summarise_members([m["test"] for m in sound]) if sound else None,
        "dev": summarise_members([m["dev"] for m in sound]) if sound else None,
        "augmentation": {
            name: {"real": int(real[c]), "generated": int(generated[c])}
            for c, name in enumerate(corpus.classes)
        },
        "timing": dict(timing),
        "versions": dict(versions),
    }


def _cell(summary: Mapping[str, Any]) -> str:
    if summary["ci95"] is None:
        return f"{summary['mean']:.3f}"
    low, high = summary["ci95"]
    return f"{summary['mean']:.3f} ± {summary['std']:.3f} [{low:.3f}, {high:.3f}]"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up as plain text."""
    widths = [max(len(row[c]) for row in [head, *rows]) for c in range(len(head))]

    def line(cells):
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"

    return "\n".join([line(head), line(["-" * w for w in widths]), *map(line, rows)])


def format_report(report: Mapping[str, Any]) -> str:
    """The report as Markdown: results, classes, members."""
    sound = sum(m["status"] == "ok" for m in report["members"])
    lost = [str(m["seed"]) for m in report["members"] if m["status"] != "ok"]
    lines = [f"# {report['corpus']}: {sound} of {len(report['members'])} seeds", ""]
    if lost:
        lines += [f"Diverged and left out: seed {', '.join(lost)}.", ""]
    if not sound:
        return "\n".join([*lines, "No member is left to report on.", ""])
    lines += [
        "Mean ± standard deviation [95 % interval of the mean] over seeds. The epoch is chosen on "
        "dev; test is read once.",
        "",
        _table(
            ["metric", "dev", "test"],
            [[TITLES[n], _cell(report["dev"][n]), _cell(report["test"][n])] for n in METRICS],
        ),
        "",
    ]
    rows = []
    for name, scores in report["test"]["per_class"].items():
        counts = report["augmentation"][name]
        figures = [f"{scores[field]['mean']:.3f}" for field in ("precision", "recall")]
        rows.append(
            [
                name,
                *figures,
                _cell(scores["f1"]),
                str(scores["support"]),
                str(counts["real"]),
                str(counts["generated"]),
            ]
        )
    head = [
        "class",
        "precision",
        "recall",
        "F1 (test)",
        "test utterances",
        "train",
        "generated",
    ]
    lines += [_table(head, rows), ""]
    rows = [
        [
            str(m["seed"]),
            m["status"],
            str(m["epoch"]),
            *(f"{m['test'][n]:.3f}" if m["test"] else "-" for n in METRICS),
        ]
        for m in report["members"]
    ]
    lines += [_table(["seed", "status", "epoch", *(f"{TITLES[n]}" for n in METRICS)], rows), ""]
    return "\n".join(lines)


def write_report(workdir: Workdir, report: Mapping[str, Any]) -> None:
    """Writes ``report.md`` and ``report.json``."""
    with replacing(workdir.report_text) as file:
        file.write(format_report(report).encode())
    workdir.write_json(workdir.report_file, report)
