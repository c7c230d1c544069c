"""Generated utterances among real ones."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

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


def draw_utterances(
    path: pathlib.Path, panels: Sequence[tuple[str, Mapping[str, np.ndarray]]]
) -> None:
    """Draws generated utterances among real ones, a panel per class.

    The axes have no unit and no name: only who lies beside whom means something.

    Args:
      path: of the PNG.
      panels: at least one; a title, and ``sources``, ``real`` and ``generated`` -> [n, 2].
    """
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    # The legend of three entries needs the width of two panels.
    width = max(3.6 * columns, 2 * 3.6)
    with drawing_figure(path, width, 3.8 * rows + 0.5) as figure:
        for number, (title, clouds) in enumerate(panels, start=1):
            axes = figure.add_subplot(rows, columns, number)
            axes.set_title(title)
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
        handles = figure.axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper right", ncols=len(_CLOUDS), markerscale=1.5)
