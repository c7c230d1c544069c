"""The table of baselines."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cberl_jax.evaluation.baselines import FOLDS, NAMED_BY, SEEDS
from cberl_jax.metrics import METRICS
from cberl_jax.reports.html import plain
from cberl_jax.reports.tables import (
    DEFINITIONS,
    NOTHING,
    RARE,
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
        f"# {report['corpus']}: classifiers of scikit-learn",
        f"Test, settings chosen on dev; classifiers that are drawn: mean of {SEEDS} seeds.",
        f"{DEFINITIONS} {RARE}",
        format_table(
            head,
            [
                [*_name(line), *_figures(line["dev"], [])[:2], *_figures(line["test"], minority)]
                for line in report["lines"]
            ],
            "classifiers.",
        ),
    ]
    if report["bayes"]:
        shares = [(_name(x), _mean_scores(x["test"]), report["bayes"]) for x in report["lines"]]
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


def _mean_scores(scores: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """``METRICS`` -> mean over seeds."""
    return {name: float(np.mean([own[name] for own in scores])) for name in METRICS}


def _figures(scores: Sequence[Mapping[str, Any]], minority: Sequence[str]) -> list[str]:
    """Weighted F1, macro F1, accuracy and the F1 of some classes, means over seeds."""
    mean = _mean_scores(scores)
    cells = [f"{mean[n]:.3f}" for n in ("weighted_f1", "macro_f1", "accuracy")]
    for name in minority:
        support = scores[0]["per_class"][name]["support"]
        f1 = np.mean([own["per_class"][name]["f1"] for own in scores])
        cells.append(mark_rare(f"{f1:.3f}", support) if support else NOTHING)
    return cells


def write_baselines(folder: Workdir, report: Mapping[str, Any]) -> None:
    """Writes ``baselines.md`` and ``baselines.json``."""
    folder.write_text(folder.path / "baselines.md", format_baselines(report))
    folder.write_json(folder.path / "baselines.json", report)
