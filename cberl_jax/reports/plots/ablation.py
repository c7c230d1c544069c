"""The differences of an ablation's variants to their reference."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cberl_jax.reports.plots.style import PALETTE, drawing_figure

_PANELS_ACROSS = 4
# Times the usual reach of an interval.
FAR = 4.0


class _Sign(NamedTuple):
    """How an interval looks."""

    colour: str
    marker: str


_FOREST = {
    -1: _Sign(PALETTE["vermilion"], "v"),
    0: _Sign("#777777", "o"),
    1: _Sign(PALETTE["blue"], "^"),
}


def forest_end(differences: Sequence[Mapping[str, Any]]) -> float:
    """Where an axis ends that shows differences: one far beyond the others does not count.

    Args:
      differences: with ``ci95``.
    """
    reach = np.abs([difference["ci95"] for difference in differences]).max(axis=1)
    if not reach.any():
        return 1.0
    return 1.1 * float(reach[reach <= FAR * np.median(reach[reach > 0])].max())


def draw_forest(
    path: pathlib.Path,
    names: Sequence[str],
    panels: Mapping[str, Sequence[Mapping[str, Any]]],
    reference: str,
) -> None:
    """Draws differences to a reference with their intervals: a row a name, a panel a metric.

    What is surely better, surely worse or neither (by the interval) differs in colour and marker.
    What lies far beyond the others is a number at the edge.

    Args:
      path: of the PNG.
      names: of the rows, from the top.
      panels: metric -> per row ``mean`` and ``ci95``.
      reference: the name of what all are compared with.
    """
    across = min(len(panels), _PANELS_ACROSS)
    down = -(-len(panels) // across)
    width = 0.1 * max(map(len, names)) + 2.3 * across + 0.4
    with drawing_figure(path, width, 0.6 + down * (0.7 + 0.34 * len(names))) as figure:
        every = figure.subplots(down, across, sharey=True, squeeze=False)
        every[0, 0].set_yticks(range(len(names)), names)
        every[0, 0].set_ylim(len(names) - 0.5, -0.5)
        for axes in every.flat[len(panels) :]:
            axes.set_axis_off()
        for axes, (metric, differences) in zip(every.flat, panels.items()):
            axes.axvline(0, color=PALETTE["black"], linewidth=1)
            end = forest_end(differences)
            axes.set_xlim(-end, end)
            for row, difference in enumerate(differences):
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
                    continue
                axes.plot([low, high], [row, row], color=look.colour, linewidth=2.4)
                axes.plot(mean, row, look.marker, color=look.colour, markersize=7)
            axes.set_title(metric)
            axes.grid(axis="x")
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
            axes.locator_params(axis="x", nbins=3)
        figure.supxlabel(f"difference to: {reference}", fontsize=12)
