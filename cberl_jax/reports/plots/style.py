"""The style of all pictures that this package draws.

Figures are matplotlib's own objects on a canvas that needs no display. Colours are those of Okabe
and Ito, which people with any colour vision tell apart; what a colour tells, a marker tells too.
Type and lines are large enough to be read at half the size.
"""

import contextlib
import pathlib
import warnings
from collections.abc import Iterator, Sequence

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cberl_jax.reports.plots.fonts import use_fonts
from cberl_jax.runtime.files import replacing

PALETTE = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky blue": "#56B4E9",
    "green": "#009E73",
    "yellow": "#F0E442",
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
}
_STYLE = {
    "figure.dpi": 200,
    "savefig.dpi": "figure",
    "font.size": 13,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "grid.color": "#DDDDDD",
    "legend.frameon": False,
    # Names are a person's own: a dollar sign in one is a dollar sign.
    "text.parse_math": False,
}
WIDTH, HEIGHT = 6.4, 4.2  # inches
# Of any picture, in inches: more than 2,000 pixels are shrunk by every page that shows them.
MOST = 9.9


def shorten(name: str, most: int = 16) -> str:
    """A name on one line, of ``most`` letters at most."""
    name = " ".join(name.split())
    return name if len(name) <= most else name[: most - 1] + "…"


def shorten_all(names: Sequence[str], most: int = 16) -> list[str]:
    """Names of ``most`` letters at most; those that would look alike lose their middle instead."""
    short = [shorten(name, most) for name in names]
    tail = most // 2
    return [
        own
        if short.count(own) == 1 or len(name) <= most
        else f"{own[: most - tail - 1]}…{name[-tail:]}"
        for own, name in zip(short, (" ".join(name.split()) for name in names))
    ]


@contextlib.contextmanager
def drawing_figure(path: pathlib.Path, width: float, height: float) -> Iterator[Figure]:
    """Gives an empty figure in the style of all pictures, and writes it after the block.

    A letter that no installed font has becomes a box; ``fonts.drawable`` tells names of them.

    Args:
      path: of the PNG; written whole or not at all.
      width: in inches, 200 pixels each.
      height: in inches.
    """
    # Not the person's own matplotlibrc: it may ask for fonts or for LaTeX that are not there.
    with warnings.catch_warnings(), style.context(["default", _STYLE]):
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        use_fonts(figure)
        with replacing(path) as file:
            figure.savefig(file, format="png")


@contextlib.contextmanager
def drawing(path: pathlib.Path, width: float = WIDTH, height: float = HEIGHT) -> Iterator[Axes]:
    """Like ``drawing_figure``, for a picture that is one pair of axes."""
    with drawing_figure(path, width, height) as figure:
        yield figure.add_subplot()
