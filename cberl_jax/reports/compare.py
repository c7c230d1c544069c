"""The comparison of two runs as a table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cberl_jax.evaluation.compare import Outcome, confusions, named_scores
from cberl_jax.reports.tables import BAYES_METRICS, TITLES, format_shares, format_table


def format_comparison(first: Outcome, second: Outcome, lines: Sequence[Mapping[str, Any]]) -> str:
    """The comparison as Markdown."""
    head = ["of", "metric", first.name, second.name, "difference [95 %]", "p", "p (Holm)"]
    rows = []
    for line in lines:
        low, high = line["ci95"]
        gap = f"{line['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
        title = TITLES.get(line["metric"], line["metric"])
        scores = (f"{line[side]:.3f}" for side in ("first", "second"))
        p_values = (f"{line[name]:.4f}" for name in ("p", "p_holm"))
        rows.append([line["kind"], title, *scores, gap, *p_values])
    how = "in pairs" if np.array_equal(first.seeds, second.seeds) else "each run's own"
    parts = [
        f"# {first.name} against {second.name}",
        f"Test split, {len(first.seeds)} and {len(second.seeds)} members. Bootstrap over "
        f"{len(np.unique(first.dialogue))} dialogues and over seeds ({how}).",
        format_table(head, rows),
    ]
    known = [outcome for outcome in (first, second) if outcome.bayes]
    if known:
        parts.append(format_shares(["members of"], [_share(outcome) for outcome in known]))
    return "\n\n".join(parts) + "\n"


def _share(outcome: Outcome) -> tuple[list[str], dict[str, float], Mapping[str, Any]]:
    """A row of ``format_shares``."""
    counts = confusions(outcome.probability, outcome.label, outcome.dialogue)
    scores = named_scores(counts.sum(axis=0), outcome.classes)
    return [outcome.name], {n: float(scores[n].mean()) for n in BAYES_METRICS}, outcome.bayes
