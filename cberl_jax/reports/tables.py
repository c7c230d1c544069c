"""Markdown tables, how scores are written in them, and the sentences that say what they mean."""

from collections.abc import Mapping, Sequence
from typing import Any

from cberl_jax.evaluation.bootstrap import FEWEST_UTTERANCES
from cberl_jax.metrics import FEWEST_SEEDS
from cberl_jax.reports.html import CAPTION

TITLES = {
    "accuracy": "accuracy",
    "weighted_f1": "weighted F1",
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy",
    "mean_f1": "mean F1",
}
# A class that the split has too few utterances of, and a score that has no meaning there.
MARK, NOTHING = "†", "-"
MEMBERS, AVERAGE = "mean of the members", "average of the members' probabilities"
WHICH_MODEL = (
    f'"{MEMBERS.capitalize()}": each member is scored by itself, which is what one training gives; '
    f'"{AVERAGE}": the one model that `predict` and `export` use.'
)
DEFINITIONS = (
    "Macro F1 and balanced accuracy are means over the classes that occur in the labels of the "
    'split (in scikit-learn: `f1_score` with `labels` those classes and `average="macro"`).'
)
RARE = (
    f"{MARK}: under {FEWEST_UTTERANCES} utterances, too few for an interval. {NOTHING}: the split "
    "has no utterance of the class."
)
# Of a simulated corpus, the metrics that a rule made for each gives the best of.
BAYES_METRICS = ("accuracy", "balanced_accuracy")
BEST, SINGLE = "best possible", "best from single utterances"
EXPECTED = (
    "The exact Bayes result on test with what the model sees, as an expected value: no model "
    "exceeds it but by the luck of the labels that were drawn. It is known for accuracy and "
    "balanced accuracy, and for no F1."
)


def describe_intervals(seeds: int) -> str:
    """What square brackets and ± mean where there are so many members."""
    spread = "±: standard deviation over members. " if seeds > 1 else ""
    if seeds >= FEWEST_SEEDS:
        return (
            f"{spread}Square brackets: 95 % intervals on test for other seeds and other dialogues "
            "(bootstrap over dialogues, Student's quantile for few members); those of averaged "
            "probabilities are for other dialogues alone."
        )
    few = "one seed does" if seeds == 1 else f"{seeds} seeds do"
    return (
        f"{spread}Square brackets: 95 % intervals on test for other dialogues alone (bootstrap), "
        f"the members taken as they are: {few} not tell what others would give; {FEWEST_SEEDS} "
        "at least are needed."
    )


def format_interval(ends: Sequence[float] | None, form: str = ".3f") -> str:
    """An interval with a space before it, or nothing."""
    return "" if ends is None else f" [{', '.join(format(end, form) for end in ends)}]"


def format_mean(summary: Mapping[str, Any], form: str = ".3f") -> str:
    """The mean of a summary with its 95 % interval, if it has one."""
    return format(summary["mean"], form) + format_interval(summary["ci95"], form)


def format_spread(summary: Mapping[str, Any]) -> str:
    """The mean of a summary, with its standard deviation and interval as far as it has them."""
    spread = "" if summary["std"] is None else f" ± {summary['std']:.3f}"
    return f"{summary['mean']:.3f}{spread}{format_interval(summary['ci95'])}"


def mark_rare(name: str, support: int) -> str:
    """The name of a class, marked if the split has few of it."""
    return f"{name} {MARK}" if 0 < support < FEWEST_UTTERANCES else name


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """A Markdown table whose columns also line up as plain text.

    Args:
      head: titles of the columns.
      rows: cells.
      caption: a paragraph before the table; the caption of the table on a page.
    """
    widths = [max(len(row[c]) for row in [head, *rows]) for c in range(len(head))]

    def line(cells):
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"

    table = "\n".join([line(head), line(["-" * w for w in widths]), *map(line, rows)])
    return f"{CAPTION}{caption}\n\n{table}" if caption else table


def best_whole(best: Mapping[str, Mapping[str, float]]) -> tuple[str, Mapping[str, float]]:
    """The title and the values of what a model with the run's sight can reach at best."""
    if "causal" in best:
        return f"{BEST} without later turns", best["causal"]
    return BEST, best["full"]


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
    titles = [f"{TITLES[name]}, {view}" for name in BAYES_METRICS for view in (BEST, SINGLE)]
    body = []
    for names, scores, best in rows:
        cells = []
        for name in BAYES_METRICS:
            title, whole = best_whole(best)
            note = "" if title == BEST else " (no later turns)"
            cells.append(f"{_share(scores[name], whole[name])}{note}")
            cells.append(_share(scores[name], best["context_free"][name]))
        body.append([*names, *cells])
    caption = "test scores as shares of the best possible ones in expectation."
    table = format_table([*head, *titles], body, caption)
    return f"## Share of the best possible\n\n{EXPECTED}\n\n{table}"


def _share(score: float, whole: float) -> str:
    return f"{100 * score / whole:.1f} % of {whole:.3f}"
