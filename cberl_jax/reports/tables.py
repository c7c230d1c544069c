"""Markdown tables, and how scores are written in them."""

from collections.abc import Mapping, Sequence
from typing import Any

TITLES = {
    "accuracy": "accuracy",
    "weighted_f1": "weighted F1",
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy",
    "mean_f1": "mean F1",
}
# Of a simulated corpus, the metrics that a rule made for each gives the best of.
BAYES_METRICS = ("accuracy", "balanced_accuracy")
BAYES_VIEWS = {"full": "best possible", "context_free": "best from single utterances"}
SHARES = (
    "## Share of the best possible\n\n"
    "The exact Bayes result on test, with the modalities that are seen, from whole conversations "
    "and from single utterances."
)


def format_mean(summary: Mapping[str, Any], form: str = ".3f") -> str:
    """The mean of a summary with its 95 % interval, if it has one."""
    mean = format(summary["mean"], form)
    if summary["ci95"] is None:
        return mean
    low, high = (format(end, form) for end in summary["ci95"])
    return f"{mean} [{low}, {high}]"


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up as plain text."""
    widths = [max(len(row[c]) for row in [head, *rows]) for c in range(len(head))]

    def line(cells):
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"

    return "\n".join([line(head), line(["-" * w for w in widths]), *map(line, rows)])


def format_shares(
    head: Sequence[str],
    rows: Sequence[tuple[Sequence[str], Mapping[str, float], Mapping[str, Mapping[str, float]]]],
) -> str:
    """Test scores as shares of the exact Bayes result: a section in Markdown.

    Args:
      head: titles of the columns that name a row.
      rows: those columns' cells; the scores, by ``BAYES_METRICS``; ``best_possible`` with what was
        seen.
    """
    columns = [(view, name) for name in BAYES_METRICS for view in BAYES_VIEWS]
    titles = [f"{TITLES[name]}, {BAYES_VIEWS[view]}" for view, name in columns]
    body = []
    for names, scores, best in rows:
        shares = ((scores[name] / best[view][name], best[view][name]) for view, name in columns)
        body.append([*names, *(f"{100 * share:.1f} % of {whole:.3f}" for share, whole in shares)])
    return f"{SHARES}\n\n{format_table([*head, *titles], body)}"
