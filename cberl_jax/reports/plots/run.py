"""The pictures of a run: confusion, classes, learning, features and calibration.

What is drawn is computed in ``reports/pictures.py``; the style is that of ``style.py``. A
conversation's attention has a file of its own, ``attention.py``.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from cberl_jax.reports.plots.style import MOST, PALETTE, drawing, drawing_figure, shorten_all

_USUAL, _MINORITY = PALETTE["blue"], PALETTE["vermilion"]
_SHADES = LinearSegmentedColormap.from_list("shades", ["#FFFFFF", PALETTE["blue"], "#00263D"])
_OTHERS, _EDGE, _HATCH = "#DDDDDD", "#555555", "///"
_PANELS_ACROSS = 4
_POINTS = 72  # to the inch
# In inches: a cell of a confusion matrix and all cells in a line at most, and what a count needs.
_CELL, _CELLS, _ROOMY = 0.82, MOST - 2.3, 0.54
# A bar, and all of a picture at most.
_BAR, _BARS = 0.5, MOST - 1.8
# Utterances in a bin of the calibration, below which its share says little.
FEW_IN_BIN = 10
# Points of type, below which a cell has its colour alone.
_SMALLEST = 5.0
# Of the classes, in the order of their numbers; of more classes than these they come again.
_COLOURS = [
    PALETTE[name]
    for name in ("blue", "orange", "vermilion", "green", "purple", "sky blue", "black")
]


class Curve(NamedTuple):
    """A figure over the epochs of training.

    Attributes:
      name: of the figure.
      epoch: [E] int, from 1.
      mean: [E], over the members that were still training.
      low: [E], the lowest of them.
      high: [E], the highest of them.
      kept: [S, 2], the kept epoch of each member and its figure then.
    """

    name: str
    epoch: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    kept: np.ndarray


class Calibration(NamedTuple):
    """Whether probabilities are as high as they should be, in B bins of equal width.

    Attributes:
      confidence: [B], mean probability of the most probable class; nan in an empty bin.
      accuracy: [B], share of the utterances of which that class is true; nan in an empty bin.
      count: [B] int, utterances.
      error: expected calibration error, the mean gap between the two over utterances.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    count: np.ndarray
    error: float


def draw_confusion(
    path: pathlib.Path, classes: Sequence[str], counts: np.ndarray, split: str = "test"
) -> None:
    """Draws a confusion matrix: the share of the true class, and where there is room the count.

    Args:
      path: of the PNG.
      classes: names of the C classes.
      counts: [C, C], true class (row) by predicted class (column).
      split: whose utterances they are.
    """
    number = len(classes)
    side = min(_CELL, _CELLS / number)
    size = min(11.0, _POINTS * side * 0.42)
    shown = np.where(counts.sum(axis=1, keepdims=True) > 0, row_shares(counts), np.nan)
    names = shorten_all(classes)
    with drawing(path, max(2.2 + side * number, 6.4), 1.9 + 0.85 * side * number) as axes:
        picture = axes.imshow(shown, cmap=_SHADES, vmin=0, vmax=1, aspect="auto")
        if size >= _SMALLEST:
            _label_cells(axes, shown, counts if side >= _ROOMY else None, size)
        else:
            axes.figure.colorbar(picture, format=PercentFormatter(1, decimals=0, symbol=" %"))
        totals = counts.sum(axis=1)
        steep = 30 if side >= _ROOMY else 60
        names_size = _label_size(side)
        axes.set_yticks(
            range(number), [f"{n} ({t:.0f})" for n, t in zip(names, totals)], fontsize=names_size
        )
        axes.set_xticks(
            range(number), names, rotation=steep, ha="right", rotation_mode="anchor",
            fontsize=names_size,
        )  # fmt: skip
        axes.set_xlabel("predicted class")
        axes.set_ylabel(f"true class ({split} utterances)")
        axes.grid(False)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        edges = np.arange(1, number) - 0.5
        axes.hlines(edges, -0.5, number - 0.5, color=_OTHERS, linewidth=0.6)
        axes.vlines(edges, -0.5, number - 0.5, color=_OTHERS, linewidth=0.6)
        what = "; mean number of utterances" if side >= _ROOMY else ""
        axes.set_title(f"% of the true class{what}")


def _label_cells(axes: Axes, share: np.ndarray, counts: np.ndarray | None, size: float) -> None:
    """Writes shares [C, C] into their cells, and counts [C, C] below them where they are given.

    A cell without utterances stays empty; one with some says so, however few they are.
    """
    for row, column in np.argwhere(share > 0):
        value = share[row, column]
        text = spell_share(value) if counts is None else f"{spell_share(value)} %"
        if counts is not None:
            text += f"\n{spell_count(counts[row, column])}"
        colour = "white" if value > 0.45 else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=size)


def spell_share(share: float) -> str:
    """A share above zero in per cent, without the sign: 0 and 100 are said of nothing and all."""
    if share < 0.005:
        return "<1"
    return ">99" if 0.995 <= share < 1 else f"{100 * share:.0f}"


def spell_count(count: float) -> str:
    """A mean count: with a decimal if it is small and not whole, so that 0.5 is not 0."""
    return f"{count:.0f}" if count >= 10 or count == round(count) else f"{max(count, 0.1):.1f}"


def _label_size(row: float) -> float:
    """Points of a label whose line has ``row`` inches."""
    return float(np.clip(_POINTS * row * 0.72, 5.0, 13.0))


def row_shares(counts: np.ndarray) -> np.ndarray:
    """Rows of [C, C] counts as shares of their sum; a row without any stays zero."""
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-9)


def draw_class_scores(
    path: pathlib.Path,
    classes: Mapping[str, Mapping[str, Any]],
    minority: Sequence[str],
    split: str = "test",
) -> None:
    """Draws a bar per class: its mean F1 with the interval of that mean.

    Args:
      path: of the PNG.
      classes: name -> ``f1``, as of ``summarise``, and ``support``.
      minority: names of the minority classes, which differ in colour and hatching.
      split: that was scored.
    """
    bar = _bar_height(len(classes))
    with drawing(path, 7.2, 1.7 + bar * len(classes)) as axes:
        for row, (name, scores) in enumerate(classes.items()):
            size = min(12.0, _label_size(bar))
            if not scores["support"]:
                axes.text(0.015, row, f"no {split} utterance", va="center", fontsize=size)
                continue
            mean, ends = scores["f1"]["mean"], scores["f1"]["ci95"]
            axes.barh(row, mean, 0.68, **_look_of_class(name in minority))
            if ends is not None:
                # Two members may have an interval far beyond what a score can be.
                ends = np.clip(ends, 0.0, 1.0)
                axes.plot(ends, [row, row], color=PALETTE["black"], linewidth=2, marker="|")
            beside = mean if ends is None else max(mean, ends[1])
            axes.text(beside + 0.015, row, f"{mean:.2f}", va="center", fontsize=size)
        short = shorten_all(list(classes))
        names = [f"{n} ({own['support']})" for n, own in zip(short, classes.values())]
        axes.set_yticks(range(len(names)), names, fontsize=_label_size(bar))
        for name, label in zip(classes, axes.get_yticklabels()):
            if name in minority:  # The bar may be too short to be seen.
                label.set(color=_MINORITY, weight="bold")
        axes.set_xlim(0, 1.1)
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.set_xlabel(f"F1 on {split}")
        title = f"mean over members, 95 % interval; in brackets: {split} utterances"
        _finish_bars(axes, title, _legend_of_classes(bool(minority)))


def _look_of_class(rare: bool) -> dict[str, Any]:
    if rare:
        return {"facecolor": _MINORITY, "hatch": _HATCH, "edgecolor": "white"}
    return {"facecolor": _USUAL, "edgecolor": "white"}


def _legend_of_classes(any_rare: bool) -> list[Patch]:
    """The legend; empty where there is nothing to tell apart."""
    if not any_rare:
        return []
    names = {"minority class in train": True, "other": False}
    return [Patch(**_look_of_class(rare), label=name) for name, rare in names.items()]


def _bar_height(bars: int) -> float:
    """Inches of one bar among so many."""
    return min(_BAR, _BARS / bars)


def _finish_bars(axes: Axes, title: str, handles: Sequence[Patch]) -> None:
    """Settles what horizontal bars have in common, the first one on top."""
    # Without half a bar of nothing above the first and below the last.
    axes.set_ylim(len(axes.get_yticks()) - 0.4, -0.6)
    axes.grid(False)
    axes.grid(axis="x")
    axes.tick_params(axis="y", length=0)
    # Over the labels too, however wide they are.
    axes.figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    if handles:
        axes.figure.legend(handles=handles, loc="outside lower right", ncols=len(handles))


def draw_class_counts(path: pathlib.Path, counts: Mapping[str, Mapping[str, int]]) -> None:
    """Draws how many train utterances of each class there are, real and generated.

    Args:
      path: of the PNG.
      counts: class -> ``real`` and ``generated``.
    """
    largest = max(own["real"] + own["generated"] for own in counts.values())
    generates = any(own["generated"] for own in counts.values())
    bar = _bar_height(len(counts))
    with drawing(path, 7.2, 1.7 + bar * len(counts)) as axes:
        for row, own in enumerate(counts.values()):
            real, generated = own["real"], own["generated"]
            axes.barh(row, real, 0.68, **_look_of_class(False))
            axes.barh(row, generated, 0.68, left=real, **_look_of_class(True))
            text = f"{real:,} + {generated:,}" if generated else f"{real:,}"
            size = min(12.0, _label_size(bar))
            axes.text(real + generated + 0.012 * largest, row, text, va="center", fontsize=size)
        axes.set_yticks(range(len(counts)), shorten_all(list(counts)), fontsize=_label_size(bar))
        axes.set_xlim(0, 1.18 * largest)
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel("train utterances")
        names = {"real": False, "generated": True} if generates else {}
        handles = [Patch(**_look_of_class(rare), label=name) for name, rare in names.items()]
        _finish_bars(axes, "before and after augmentation" if generates else "", handles)


def draw_curves(path: pathlib.Path, curves: Sequence[Curve]) -> None:
    """Draws figures over the epochs, a panel each.

    Args:
      path: of the PNG.
      curves: what to draw.
    """
    several = len(curves[0].kept) > 1
    with drawing_figure(path, 4.6 * len(curves), 4.2) as figure:
        for axes, curve in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves):
            if several:
                low_high = (curve.low, curve.high)
                label = "lowest to highest member"
                axes.fill_between(
                    curve.epoch, *low_high, color=PALETTE["sky blue"], alpha=0.45, label=label,
                    linewidth=0,
                )  # fmt: skip
            label = "mean over members" if several else "the member"
            axes.plot(curve.epoch, curve.mean, color=_USUAL, linewidth=2.2, label=label)
            kept = {"color": _MINORITY, "markeredgecolor": "white", "linestyle": "none"}
            axes.plot(
                *curve.kept.T, marker="v", markersize=9, label="kept epoch of a member", **kept
            )
            axes.set_title(curve.name, fontsize=13)
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
            axes.set_xlim(min(0.5, curve.epoch[0] - 0.5), curve.epoch[-1] + 0.5)
        handles = figure.axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower right", ncols=3)


def draw_features(
    path: pathlib.Path, classes: Sequence[str], label: np.ndarray, points: np.ndarray
) -> None:
    """Draws utterances in the plane, a panel per class that has any, all others behind it in grey.

    The axes have no unit and no name: only who lies beside whom means something.

    Args:
      path: of the PNG.
      classes: names of the C classes.
      label: [n] int, the class of each point.
      points: [n, 2].
    """
    shown = np.unique(label)
    across, side = _arrange(len(shown))
    down = -(-len(shown) // across)
    roomy = side > 2
    names = shorten_all([classes[number] for number in shown], 16 if roomy else 12)
    with drawing_figure(path, side * across, min((side + 0.25) * down, MOST)) as figure:
        every = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
        for axes in every.flat[len(shown) :]:
            axes.set_axis_off()
        for axes, number, name in zip(every.flat, shown, names):
            own = label == number
            axes.scatter(*points[~own].T, s=9 if roomy else 3, color=_OTHERS, linewidths=0)
            axes.scatter(
                *points[own].T, s=24 if roomy else 12, color=_COLOURS[number % len(_COLOURS)],
                edgecolors="white", linewidths=0.4 if roomy else 0.2,
            )  # fmt: skip
            title = f"{name}: {own.sum()} shown" if roomy else f"{name} ({own.sum()})"
            axes.set_title(title, fontsize=13 if roomy else 10)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(True)
            axes.spines[:].set_color(_OTHERS)


def _arrange(panels: int) -> tuple[int, float]:
    """How many panels lie side by side, and how wide one is, in inches."""
    if panels <= 2 * _PANELS_ACROSS:
        across = min(panels, _PANELS_ACROSS)
        return across, min(2.9, MOST / across)
    across = max(_PANELS_ACROSS + 1, int(np.ceil(np.sqrt(panels))))
    return across, MOST / across


def draw_calibration(path: pathlib.Path, ensemble: Calibration, members: Mapping[str, Any]) -> None:
    """Draws how often predictions are right, by how probable they say that they are.

    Args:
      path: of the PNG.
      ensemble: of the mean probabilities of all members.
      members: the summary of the members' own calibration errors.
    """
    with drawing_figure(path, 5.6, 6.0) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3.2, 1])
        above.plot([0, 1], [0, 1], color=_EDGE, linewidth=1.2, linestyle="--", label="perfect")
        held, few = ensemble.count > 0, (ensemble.count > 0) & (ensemble.count < FEW_IN_BIN)
        above.plot(
            ensemble.confidence[held], ensemble.accuracy[held], color=_USUAL, marker="o",
            markersize=8, markeredgecolor="white", linewidth=1.6, label="ensemble", clip_on=False,
            zorder=3,
        )  # fmt: skip
        if few.any():
            above.plot(
                ensemble.confidence[few], ensemble.accuracy[few], color="white", marker="o",
                markersize=8, markeredgecolor=_USUAL, linestyle="none", clip_on=False, zorder=4,
                label=f"under {FEW_IN_BIN} utterances",
            )  # fmt: skip
        above.set_ylabel("share that is right")
        above.set_ylim(0, 1)
        above.set_title(f"calibration error: ensemble {ensemble.error:.3f}, {_error(members)}")
        figure.legend(*above.get_legend_handles_labels(), loc="outside lower right", ncols=3)
        bins = len(ensemble.count)
        share = ensemble.count / ensemble.count.sum()
        below.bar((np.arange(bins) + 0.5) / bins, share, 0.9 / bins, color=_USUAL)
        below.set_ylabel("utterances")
        below.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        below.yaxis.set_major_locator(MaxNLocator(3))
        below.set_xlim(0, 1)
        below.set_xlabel("probability of the most probable class")


def _error(members: Mapping[str, Any]) -> str:
    spread = f" ± {members['std']:.3f}" if members["std"] is not None else ""
    return f"members {members['mean']:.3f}{spread}"
