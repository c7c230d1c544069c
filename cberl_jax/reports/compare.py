"""The comparison of two models: a table, figures for programs, a table for a paper."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cberl_jax.errors import UserError
from cberl_jax.evaluation.bootstrap import FEWEST_UTTERANCES, confusions, named_scores
from cberl_jax.evaluation.outcomes import Outcome, count_dialogues
from cberl_jax.metrics import FEWEST_SEEDS
from cberl_jax.reports import latex
from cberl_jax.reports.html import plain
from cberl_jax.reports.tables import (
    AVERAGE,
    BAYES_METRICS,
    DEFINITIONS,
    MARK,
    MEMBERS,
    TITLES,
    format_interval,
    format_shares,
    format_table,
    mark_rare,
)
from cberl_jax.runtime.files import write_json, write_text

SIGNIFICANT = 0.05
KINDS = {"members": MEMBERS, "ensemble": AVERAGE}
# Endings of files that a comparison is written to.
ENDINGS = (".md", ".json", ".tex")


def has_star(line: Mapping[str, Any], first: Outcome, second: Outcome) -> bool:
    """Whether a difference is called significant, after Holm's correction.

    Under ``FEWEST_UTTERANCES`` utterances none is, nor, of the means of members, where a run has
    several members but under ``FEWEST_SEEDS``: intervals do not cover there.
    """
    few = any(1 < len(one.seeds) < FEWEST_SEEDS for one in (first, second))
    if line["support"] < FEWEST_UTTERANCES or (line["kind"] == "members" and few):
        return False
    return line["p_holm"] < SIGNIFICANT


def _title(line: Mapping[str, Any]) -> str:
    return mark_rare(TITLES.get(line["metric"], line["metric"]), line["support"])


def _explain(first: Outcome, second: Outcome) -> list[str]:
    """What was drawn, and what the stars mean."""
    paired = np.array_equal(first.seeds, second.seeds)
    few = [one for one in (first, second) if len(one.seeds) < FEWEST_SEEDS]
    number = count_dialogues(first)
    parts = [
        f"Test split, {len(first.seeds)} and {len(second.seeds)} members, {number} dialogues. "
        "Square brackets: 95 % intervals for other dialogues (bootstrap, the same ones for both) "
        f"and other seeds ({'in pairs' if paired else 'those of each on their own'}); those of "
        "averaged probabilities are for other dialogues alone."
    ]
    if few:
        named = " and ".join(one.name for one in few)
        parts.append(
            f"Taken as it is, since under {FEWEST_SEEDS} members do not tell what other seeds "
            f"would give: {named}. Its luck of training is in the difference, and not in the "
            "interval."
        )
    parts.append(
        f"A star: p < {SIGNIFICANT} after Holm's correction for the metrics of a kind; none for "
        f"the means of 2 to {FEWEST_SEEDS - 1} members, nor under {FEWEST_UTTERANCES} test "
        f"utterances ({MARK}). {DEFINITIONS}"
    )
    return parts


def format_comparison(first: Outcome, second: Outcome, lines: Sequence[Mapping[str, Any]]) -> str:
    """The comparison as Markdown."""
    names = plain(first.name), plain(second.name)
    head = ["of", "metric", *names, "difference [95 %]", "p", "p (Holm)"]
    rows = []
    for line in lines:
        star = " *" if has_star(line, first, second) else ""
        gap = f"{line['difference']:+.3f}{format_interval(line['ci95'], '+.3f')}{star}"
        scores = (f"{line[side]:.3f}" for side in ("first", "second"))
        p_values = (f"{line[name]:.4f}" for name in ("p", "p_holm"))
        rows.append([KINDS[line["kind"]], plain(_title(line)), *scores, gap, *p_values])
    parts = [
        f"# {names[0]} against {names[1]}",
        *map(plain, _explain(first, second)),
        format_table(head, rows, "scores on test, and their differences."),
    ]
    known = [outcome for outcome in (first, second) if outcome.bayes]
    if known:
        parts.append(format_shares(["members of"], [_share(outcome) for outcome in known]))
    return "\n\n".join(parts) + "\n"


def _share(outcome: Outcome) -> tuple[list[str], dict[str, float], Mapping[str, Any]]:
    """A row of ``format_shares``."""
    counts = confusions(outcome.probability, outcome.label, outcome.dialogue)
    scores = named_scores(counts.sum(axis=0), outcome.classes)
    means = {n: float(scores[n].mean()) for n in BAYES_METRICS}
    return [plain(outcome.name)], means, outcome.bayes


def format_latex(first: Outcome, second: Outcome, lines: Sequence[Mapping[str, Any]]) -> str:
    """A table for a paper, in per cent."""
    gaps = [{"mean": line["difference"], "ci95": line["ci95"]} for line in lines]
    digits = latex.count_digits(gaps)
    rows = []
    for line, gap in zip(lines, gaps):
        star = has_star(line, first, second)
        scores = (f"${100 * line[side]:.{digits}f}$" for side in ("first", "second"))
        difference = latex.format_difference(gap, digits, star)
        rows.append([KINDS[line["kind"]], _title(line), *scores, difference])
    names = latex.escape(first.name), latex.escape(second.name)
    meaning = latex.to_latex(" ".join(_explain(first, second)))
    caption = f"{names[0]} against {names[1]}, in per cent. {meaning}"
    head = ["of", "metric", first.name, second.name, "difference"]
    return latex.format_table("compare", caption, head, rows, names=2)


def create_comparison(
    first: Outcome, second: Outcome, lines: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The comparison for programs: who was compared, and the lines, with their stars."""
    return {
        "models": [
            {"name": one.name, "members": len(one.seeds), "seeds": one.seeds.tolist()}
            for one in (first, second)
        ],
        "dialogues": count_dialogues(first),
        "paired": bool(np.array_equal(first.seeds, second.seeds)),
        "lines": [dict(line) | {"star": has_star(line, first, second)} for line in lines],
    }


def check_ending(path: str | os.PathLike) -> None:
    """Refuses a file that no comparison is written to.

    Raises:
      UserError: its ending is none of ``ENDINGS``.
    """
    if pathlib.Path(path).suffix not in ENDINGS:
        raise UserError(f"{path}: a comparison is written to a file ending in {', '.join(ENDINGS)}")


def write_comparison(
    path: str | os.PathLike,
    first: Outcome,
    second: Outcome,
    lines: Sequence[Mapping[str, Any]],
) -> None:
    """Writes the comparison as Markdown, JSON or LaTeX, by the ending of the file.

    Raises:
      UserError: the file has another ending, or cannot be written.
    """
    check_ending(path)
    path = pathlib.Path(path)
    if path.suffix == ".json":
        write_json(path, create_comparison(first, second, lines))
        return
    form = format_latex if path.suffix == ".tex" else format_comparison
    write_text(path, form(first, second, lines))
