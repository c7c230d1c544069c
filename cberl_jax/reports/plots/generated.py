"""Generated utterances among real ones."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from cberl_jax.reports.plots.style import PALETTE, drawing_figure


class _Cloud(NamedTuple):
    """How a kind of utterances looks; the size of a mark in points squared."""

    name: str
    colour: str
    marker: str
    size: float


# In the order of drawing. A source is a halo: what was made from it may lie right on top of it.
_CLOUDS = {
    "sources": _Cloud("made from (majority)", "#BBBBBB", "o", 75),
    "real": _Cloud("real (train)", PALETTE["blue"], "o", 22),
    "generated": _Cloud("generated", PALETTE["vermilion"], "^", 22),
}

_TRAVELLED = PALETTE["orange"]


def draw_utterances(
    path: pathlib.Path, panels: Sequence[tuple[str, Mapping[str, np.ndarray]]]
) -> None:
    """Draws generated utterances among real ones, a panel per class, and how far they have come.

    The axes of the upper panels have no unit and no name: only which points lie beside each other
    means something. The lower ones show the distance travelled, 0 at the sources, 1 where real
    utterances are.

    Args:
      path: of the PNG.
      panels: at least one; a title, ``sources``, ``real`` and ``generated`` -> [n, 2], and where it
        is known ``travelled`` -> [n].
    """
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    # The legend of three entries needs the width of two panels.
    width = max(3.6 * columns, 2 * 3.6)
    heights = [3.4, 1.3] * rows
    with drawing_figure(path, width, sum(heights) + 0.5) as figure:
        grid = figure.add_gridspec(2 * rows, columns, height_ratios=heights)
        for number, (title, panel) in enumerate(panels):
            row, column = divmod(number, columns)
            axes = figure.add_subplot(grid[2 * row, column])
            axes.set_title(title)
            _draw_clouds(axes, panel)
            if "travelled" in panel:
                _draw_travelled(figure.add_subplot(grid[2 * row + 1, column]), panel["travelled"])
        handles = figure.axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper right", ncols=len(_CLOUDS), markerscale=1.5)


def _draw_clouds(axes: Axes, clouds: Mapping[str, np.ndarray]) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for kind, look in _CLOUDS.items():
        axes.scatter(
            *clouds[kind].T,
            s=look.size,
            color=look.colour,
            marker=look.marker,
            linewidths=0.4,
            edgecolors="white",
            label=look.name,
        )


def _draw_travelled(axes: Axes, travelled: np.ndarray) -> None:
    # A few far ones must not squeeze the others.
    bins = np.linspace(-1.0, 2.0, 31)
    axes.hist(np.clip(travelled, bins[0], bins[-1]), bins, color=_TRAVELLED)
    for place in (0.0, 1.0):
        axes.axvline(place, color="black", linewidth=0.8)
    axes.set_xticks([0.0, 1.0], ["source", "as near as real"])
    axes.set_yticks([])
    axes.set_xlabel(f"distance travelled, mean {travelled.mean():.2f}")
