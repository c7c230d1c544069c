"""The table of baselines."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cberl_jax.evaluation.baselines import FOLDS, NAMED_BY, SEEDS
from cberl_jax.reports.html import plain
from cberl_jax.reports.tables import (
    BAYES_METRICS,
    DEFINITIONS,
    NOTHING,
    RARE,
    format_mean,
    format_shares,
    format_table,
    mark_rare,
)
from cberl_jax.runtime.workdir import Workdir


def format_baselines(report: Mapping[str, Any]) -> str:
    """The baselines as Markdown."""
    minority = report["minority"]
    head = [*NAMED_BY, "dev weighted F1", "dev macro F1"]
    scores = ["weighted F1", "macro F1", "accuracy", *(f"F1 {plain(name)}" for name in minority)]
    head += scores
    parts = [
        f"# {plain(report['corpus'])}: classifiers of scikit-learn",
        "Settings are chosen on dev. Scores of classifiers that depend on chance are means of "
        f"{SEEDS} seeds. Square brackets: 95 % intervals on test for other dialogues (bootstrap).",
        f"{DEFINITIONS} {RARE}",
        format_table(
            head,
            [
                [*_name(line), *_dev_figures(line), *_figures(line["test"], minority)]
                for line in report["lines"]
            ],
            "classifiers.",
        ),
    ]
    if report["bayes"]:
        shares = [
            (_name(x), {n: x["test"][n]["mean"] for n in BAYES_METRICS}, report["bayes"])
            for x in report["lines"]
        ]
        parts.append(format_shares(NAMED_BY, shares))
    if all("ceiling" in line for line in report["lines"]):
        parts += [
            "## The ceiling",
            "The same classifiers on test once they have learnt from dev and from the other test "
            f"dialogues too, {FOLDS} folds. No result, and no bound for other models.",
            format_table(
                [*NAMED_BY, *scores],
                [[*_name(x), *_figures(x["ceiling"], minority)] for x in report["lines"]],
                "classifiers that have learnt from other test dialogues.",
            ),
        ]
    return "\n\n".join(parts) + "\n"


def _name(line: Mapping[str, Any]) -> list[str]:
    return [line["kind"], str(line["turns"])]


def _dev_figures(line: Mapping[str, Any]) -> list[str]:
    """Weighted and macro F1 on dev, means over seeds; it chose the settings."""
    return [f"{np.mean([x[n] for x in line['dev']]):.3f}" for n in ("weighted_f1", "macro_f1")]


def _figures(scores: Mapping[str, Any], minority: Sequence[str]) -> list[str]:
    """Weighted F1, macro F1, accuracy and the F1 of some classes, with intervals."""
    cells = [format_mean(scores[n]) for n in ("weighted_f1", "macro_f1", "accuracy")]
    for own in (scores["per_class"][name] for name in minority):
        cell = mark_rare(format_mean(own["f1"]), own["support"])
        cells.append(cell if own["support"] else NOTHING)
    return cells


def write_baselines(folder: Workdir, report: Mapping[str, Any]) -> None:
    """Writes ``baselines.md`` and ``baselines.json``."""
    folder.write_text(folder.path / "baselines.md", format_baselines(report))
    folder.write_json(folder.path / "baselines.json", report)
