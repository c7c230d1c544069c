"""Pictures of results: the style of all that this package draws, and the pictures of a sweep.

Figures are matplotlib's own objects on a canvas that needs no display. Colours are those of Okabe
and Ito, which people with any colour vision tell apart; what a colour tells, a marker tells too.
Type and lines are large enough to be read at half the size.
"""

import contextlib
import pathlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation, Transform

from cberl_jax.config.grid import spell_value
from cberl_jax.config.settings import Value
from cberl_jax.metrics import summarise
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
_WIDTH, _HEIGHT = 6.4, 4.2  # inches
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


def shorten(name: str, most: int = 16) -> str:
    """A name on one line, of ``most`` letters at most."""
    name = " ".join(name.split())
    return name if len(name) <= most else name[: most - 1] + "…"


@contextlib.contextmanager
def drawing_figure(path: pathlib.Path, width: float, height: float) -> Iterator[Figure]:
    """Gives an empty figure in the style of all pictures, and writes it after the block.

    A letter that matplotlib's own font lacks becomes a box.

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
        with replacing(path) as file:
            figure.savefig(file, format="png")


@contextlib.contextmanager
def drawing(path: pathlib.Path, width: float = _WIDTH, height: float = _HEIGHT) -> Iterator[Axes]:
    """Like ``drawing_figure``, for a picture that is one pair of axes."""
    with drawing_figure(path, width, height) as figure:
        yield figure.add_subplot()


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


def draw_setting(
    path: pathlib.Path,
    name: str,
    values: Sequence[Value],
    dev: Sequence[Sequence[float]],
    test: Sequence[Sequence[float]],
    metric: str,
) -> None:
    """Draws a swept setting against dev and test.

    Per value the mean over its members with the 95 % interval of that mean, and a faint dot per
    member. A value without a sound member has a label that says so. Numbers stand in order on a
    linear or a logarithmic axis, or, where they would collide on it, side by side.

    Args:
      path: of the PNG.
      name: of the setting.
      values: of the setting, different from each other.
      dev: per value the scores of its sound members; at least one in all.
      test: the same.
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
    with drawing(path, width=max(_WIDTH, 1.2 + 0.55 * len(values))) as axes:
        axes.set_ylabel(metric)
        axes.set_title(_explain(scores["dev"]))
        where = place_values(axes, name, values, labels)
        for split, own in scores.items():
            _draw_split(axes, split, where, own, joined=numbers)
        axes.set_ylim(_score_limits([*scores["dev"], *scores["test"]]))
        axes.figure.legend(loc="outside upper right", ncols=len(scores))


def _score_limits(scores: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Ends of an axis that shows the scores and their intervals, as far as a score can go."""
    seen = [y for own in scores for y in [*own, *(_interval(own) or ())]]
    low, high = min(seen), max(seen)
    margin = max(0.08 * (high - low), 0.005)
    return max(low - margin, 0.0), min(high + margin, 1.0)


def _interval(scores: Sequence[float]) -> Sequence[float] | None:
    return summarise(scores)["ci95"] if scores else None


def _explain(scores: Sequence[Sequence[float]]) -> str:
    """What the marks are, for the reader of the picture."""
    if max(map(len, scores)) > 1:
        return "mean over members, 95 % interval of the mean; faint: members"
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
    """Draws means, intervals and members of one split.

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
    half = [(ends[1] - ends[0]) / 2 if (ends := _interval(own)) else np.nan for own in scores]
    axes.errorbar(
        where,
        mean,
        yerr=half if several else None,
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
