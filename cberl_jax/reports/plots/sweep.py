"""A swept setting against the scores."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation, Transform

from cberl_jax.config.grid import spell_value
from cberl_jax.config.settings import Value
from cberl_jax.reports.plots.style import MOST, PALETTE, WIDTH, drawing

# In points: what two values need between them, for their labels and for their marks.
_LABEL_GAP, _MARK_GAP = 8, 34


class _Split(NamedTuple):
    """How the scores of a split look; ``side`` of the value they stand on, -1 or 1."""

    colour: str
    marker: str
    line: str
    side: int


_SPLITS = {
    "dev": _Split(PALETTE["blue"], "o", "-", -1),
    "test": _Split(PALETTE["vermilion"], "s", "--", 1),
}


def draw_setting(
    path: pathlib.Path,
    name: str,
    values: Sequence[Value],
    dev: Sequence[Sequence[float]],
    test: Sequence[Sequence[float]],
    metric: str,
) -> None:
    """Draws a swept setting against dev and test.

    Per value the mean over its members with their standard deviation, and a faint dot per member. A
    value without a sound member has a label that says so. Numbers stand in order on a
    linear or a logarithmic axis, or, where they would collide on it, side by side.

    Args:
      path: of the PNG.
      name: of the setting.
      values: of the setting, different from each other.
      dev: per value the scores of its sound members; at least one in all.
      test: the same, all empty where test has no labels.
      metric: the scores' name.
    """
    numbers = _are_numbers(values)
    order = sorted(range(len(values)), key=values.__getitem__) if numbers else range(len(values))
    values = [values[i] for i in order]
    scores = {"dev": [dev[i] for i in order], "test": [test[i] for i in order]}
    labels = [
        spell_value(value) + ("" if own else "\ndiverged")
        for value, own in zip(values, scores["dev"])
    ]
    with drawing(path, width=min(max(WIDTH, 1.2 + 0.55 * len(values)), MOST)) as axes:
        axes.set_ylabel(metric)
        axes.set_title(_explain(scores["dev"]))
        where = place_values(axes, name, values, labels)
        shown = {split: own for split, own in scores.items() if any(own)}
        for split, own in shown.items():
            _draw_split(axes, split, where, own, joined=numbers)
        axes.set_ylim(_score_limits([*scores["dev"], *scores["test"]]))
        axes.figure.legend(loc="outside upper right", ncols=len(shown))


def _score_limits(scores: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Ends of an axis that shows the scores and their deviations, as far as a score can go."""
    seen = [y for own in scores for y in own]
    for own in (own for own in scores if len(own) > 1):
        seen += [np.mean(own) - _deviation(own), np.mean(own) + _deviation(own)]
    low, high = min(seen), max(seen)
    margin = max(0.08 * (high - low), 0.005)
    return max(low - margin, 0.0), min(high + margin, 1.0)


def _deviation(scores: Sequence[float]) -> float:
    """The standard deviation of a value's members; not a number of fewer than two."""
    return float(np.std(scores, ddof=1)) if len(scores) > 1 else np.nan


def _explain(scores: Sequence[Sequence[float]]) -> str:
    """What the marks are, for the reader of the picture."""
    if max(map(len, scores)) > 1:
        return "mean ± standard deviation over members; faint: members"
    return "one member per value"


def place_values(
    axes: Axes, name: str, values: Sequence[Value], labels: Sequence[str]
) -> Sequence[float]:
    """Makes the x axis that a setting's values call for.

    Args:
      axes: empty ones.
      name: of the setting.
      values: of the setting; numbers in their own order.
      labels: of the values.

    Returns:
      The x of each value.
    """
    if len(values) == 1 or not _are_numbers(values):
        return _place_side_by_side(axes, name, labels)
    _place_numbers(axes, name, values, labels)
    if not _crowded(axes):
        return values
    return _place_side_by_side(axes, f"{name} (not to scale)", labels)


def _are_numbers(values: Sequence[Value]) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _place_numbers(axes: Axes, name: str, values: Sequence[float], labels: Sequence[str]) -> None:
    low, high = values[0], values[-1]
    logarithmic = low > 0 and high > 10 * low
    axes.set_xscale("log" if logarithmic else "linear")
    axes.set_xticks(values, labels)
    axes.minorticks_off()
    if logarithmic:
        margin = (high / low) ** 0.1
        axes.set_xlim(low / margin, high * margin)
    else:
        margin = 0.1 * (high - low)
        axes.set_xlim(low - margin, high + margin)
    axes.set_xlabel(f"{name} (log scale)" if logarithmic else name)


def _place_side_by_side(axes: Axes, title: str, labels: Sequence[str]) -> Sequence[float]:
    where = range(len(labels))
    axes.set_xscale("linear")
    axes.set_xticks(where, labels)
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.set_xlabel(title)
    if _crowded(axes):
        axes.set_xticks(where, labels, rotation=30, ha="right", rotation_mode="anchor")
    return where


def _crowded(axes: Axes) -> bool:
    """Whether labels of the x axis, or the marks above them, come too close to each other."""
    axes.figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    point = axes.figure.dpi / 72
    return any(
        right.x0 - left.x1 < _LABEL_GAP * point
        or (right.x0 + right.x1 - left.x0 - left.x1) / 2 < _MARK_GAP * point
        for left, right in zip(boxes, boxes[1:])
    )


def _draw_split(
    axes: Axes, split: str, where: Sequence[float], scores: Sequence[Sequence[float]], joined: bool
) -> None:
    """Draws means, deviations and members of one split.

    Args:
      axes: takes them.
      split: ``dev`` or ``test``.
      where: the x of each value.
      scores: of each value's members.
      joined: whether a line leads from mean to mean.
    """
    look = _SPLITS[split]
    several = [(x, y) for x, own in zip(where, scores) if len(own) > 1 for y in own]
    if several:
        axes.scatter(
            *zip(*several),
            s=16,
            color=look.colour,
            marker=look.marker,
            linewidths=0,
            alpha=0.4,
            transform=_shifted(axes, 12 * look.side),
        )
    mean = [np.mean(own) if own else np.nan for own in scores]
    axes.errorbar(
        where,
        mean,
        yerr=list(map(_deviation, scores)) if several else None,
        color=look.colour,
        marker=look.marker,
        markersize=7,
        markeredgecolor="white",
        linestyle=look.line if joined else "none",
        linewidth=1.2,
        elinewidth=2,
        capsize=4,
        capthick=2,
        label=split,
        transform=_shifted(axes, 5 * look.side),
    )


def _shifted(axes: Axes, points: float) -> Transform:
    """The axes' coordinates, moved to the right by some points."""
    return axes.transData + ScaledTranslation(points / 72, 0, axes.figure.dpi_scale_trans)
