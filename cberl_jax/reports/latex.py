"""Tables for a paper: LaTeX with the package booktabs, scores in per cent.

Names of classes, settings and runs are a person's own: ``escape`` keeps them text. Letters that
are not Latin need XeLaTeX or LuaLaTeX with a font that has them.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cberl_jax.reports.tables import MARK

PACKAGES = r"% In the preamble: \usepackage{booktabs}"
_SPECIAL = {c: "\\" + c for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    # At the start of a row these would belong to the end of the row before.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    MARK: r"$^\dagger$",
}


def escape(text: str) -> str:
    r"""A name as LaTeX that shows the name and nothing else.

    >>> escape("50 % less_x & y")
    '50 \\% less\\_x \\& y'
    """
    return "".join(_SPECIAL.get(c, c) for c in " ".join(text.split()))


def count_digits(summaries: Sequence[Mapping[str, Any]]) -> int:
    """Decimals of per cent that tell something: two digits of the usual interval's half-width.

    Args:
      summaries: with ``ci95``, None or [low, high] in 0..1.

    Returns:
      From 0 to 2; 1 where there is no interval.
    """
    ends = [own["ci95"] for own in summaries if own and own["ci95"]]
    halves = [50 * (high - low) for low, high in ends if high > low]
    if not halves:
        return 1
    return int(np.clip(1 - math.floor(math.log10(np.median(halves))), 0, 2))


def format_score(summary: Mapping[str, Any] | None, digits: int, spread: bool = True) -> str:
    """A score in per cent, with its standard deviation and interval as far as it has them."""
    if summary is None:
        return "--"
    text = f"{100 * summary['mean']:.{digits}f}"
    if spread and summary["std"] is not None:
        text += rf" \pm {100 * summary['std']:.{digits}f}"
    interval = ""
    if summary["ci95"] is not None:
        interval = " [" + ", ".join(f"{100 * end:.{digits}f}" for end in summary["ci95"]) + "]"
    return f"${text}$" + interval


def format_difference(gap: Mapping[str, Any], digits: int, star: bool) -> str:
    """A difference in percentage points with its interval, and a star if it has one."""
    low, high = (f"${100 * end:+.{digits}f}$" for end in gap["ci95"])
    return f"${100 * gap['mean']:+.{digits}f}{'^*' if star else ''}$ [{low}, {high}]"


def format_table(
    label: str, caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1
) -> str:
    """A floating table.

    Args:
      label: for references.
      caption: LaTeX already.
      head: titles of the columns, plain text.
      rows: cells: of the first ``names`` columns plain text, the others LaTeX already.
      names: how many columns name a row.
    """
    body = [" & ".join([*map(escape, row[:names]), *row[names:]]) + r" \\" for row in rows]
    columns = "l" * names + "r" * (len(head) - names)
    return "\n".join(
        [
            PACKAGES,
            r"\begin{table}[t]",
            r"\centering",
            r"\footnotesize",
            r"\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{caption}}}",
            rf"\label{{tab:{label}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            " & ".join(map(escape, head)) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def to_latex(sentence: str) -> str:
    r"""A sentence of a report, as it stands in Markdown, for a caption.

    >>> to_latex("±: over 95 % of `predict`")
    '$\\pm$: over 95 \\% of \\texttt{predict}'
    """
    words = []
    for number, part in enumerate(sentence.split("`")):
        text = "".join(_SPECIAL.get(c, c) for c in part)
        words.append(rf"\texttt{{{text}}}" if number % 2 else text)
    return "".join(words).replace("±", r"$\pm$")
