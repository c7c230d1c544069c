"""The differences of an ablation's variants to their reference."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from cberl_jax.reports.plots.style import MOST, PALETTE, drawing_figure, shorten

_PANELS_ACROSS = 4
_PANEL = 2.3  # inches
# Times the usual reach of an interval.
FAR = 4.0
# Where axes end if there is no difference at all: a point of a score.
NOTHING = 0.01


class _Sign(NamedTuple):
    """How an interval looks."""

    colour: str
    marker: str


_FOREST = {
    -1: _Sign(PALETTE["vermilion"], "v"),
    0: _Sign("#777777", "o"),
    1: _Sign(PALETTE["blue"], "^"),
}


def forest_end(panels: Iterable[Sequence[Mapping[str, Any]]]) -> float:
    """Where the axes of all panels end: a difference far beyond its panel's others does not count.

    Args:
      panels: each of differences with ``ci95``.
    """
    ends = []
    for differences in panels:
        reach = np.abs([difference["ci95"] for difference in differences]).max(axis=1)
        if reach.any():
            ends.append(reach[reach <= FAR * np.median(reach[reach > 0])].max())
    return 1.1 * float(max(ends)) if ends else NOTHING


def draw_forest(
    path: pathlib.Path,
    names: Sequence[str],
    panels: Mapping[str, Sequence[Mapping[str, Any]]],
    reference: str,
) -> None:
    """Draws differences to a reference with their intervals: a row a name, a panel a metric.

    All panels have one scale. What is surely better, surely worse or neither (by the interval)
    differs in colour and marker. What lies far beyond the others is a number at the edge, and an
    interval that leaves the panel ends in an arrow.

    Args:
      path: of the PNG.
      names: of the rows, from the top.
      panels: metric -> per row ``mean`` and ``ci95``.
      reference: the name of what all are compared with.
    """
    names = [shorten(name, 40) for name in names]
    beside = 0.1 * max(map(len, names)) + 0.4
    across = min(len(panels), _PANELS_ACROSS, max(1, int((MOST - beside) / _PANEL)))
    down = -(-len(panels) // across)
    row = min(0.34, (MOST - 0.6) / down / len(names))
    height = 0.6 + down * (0.7 + row * len(names))
    with drawing_figure(path, beside + _PANEL * across, height) as figure:
        every = figure.subplots(down, across, sharey=True, sharex=True, squeeze=False)
        size = min(13.0, 72 * 0.75 * row)
        every[0, 0].set_yticks(range(len(names)), names, fontsize=size)
        every[0, 0].set_ylim(len(names) - 0.5, -0.5)
        end = forest_end(panels.values())
        every[0, 0].set_xlim(-end, end)
        for axes in every.flat[len(panels) :]:
            axes.set_axis_off()
        for axes, (metric, differences) in zip(every.flat, panels.items()):
            axes.axvline(0, color=PALETTE["black"], linewidth=1)
            for place, difference in enumerate(differences):
                _draw_difference(axes, place, difference, end)
            axes.set_title(metric)
            axes.grid(axis="x")
            axes.tick_params(axis="y", length=0)
            axes.tick_params(axis="x", labelbottom=True)
            axes.spines["left"].set_visible(False)
            axes.locator_params(axis="x", nbins=3)
        figure.supxlabel(f"difference to: {shorten(reference, 40)}", fontsize=12)


def _draw_difference(axes: Axes, row: int, difference: Mapping[str, Any], end: float) -> None:
    """A mean and its interval on an axis from ``-end`` to ``end``."""
    (low, high), mean = difference["ci95"], difference["mean"]
    look = _FOREST[int(low > 0) - int(high < 0)]
    if abs(mean) > end:
        below = mean < 0
        axes.text(
            -end if below else end,
            row,
            f"◀ {mean:+.3f}" if below else f"{mean:+.3f} ▶",
            color=look.colour,
            ha="left" if below else "right",
            va="center",
        )
        return
    inside = np.clip([low, high], -end, end)
    axes.plot(inside, [row, row], color=look.colour, linewidth=2.4)
    for wanted, drawn, marker in ((low, inside[0], "<"), (high, inside[1], ">")):
        if wanted != drawn:
            axes.plot(drawn, row, marker, color=look.colour, markersize=7, clip_on=False)
    axes.plot(mean, row, look.marker, color=look.colour, markersize=7)
