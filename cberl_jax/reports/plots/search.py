"""A search in pictures: its points in order, which settings mattered, each one against dev."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from cberl_jax.config.grid import spell_value
from cberl_jax.config.settings import Value
from cberl_jax.config.space import Range
from cberl_jax.reports.plots.style import HEIGHT, MOST, PALETTE, drawing, drawing_figure, shorten

_ACROSS = 4
_PANEL = 2.4  # inches
# Of the settings' pictures; 5 rows fill a page.
_MOST_PANELS = 20
# Scores below so many times the upper half's reach under the median are drawn at the lower end.
_FAR = 3.0


def _lowest(scores: Sequence[float | None]) -> float:
    """Where the axis of scores begins: a few points that failed do not flatten all others."""
    sound = np.asarray([score for score in scores if score is not None])
    middle, high = np.median(sound), sound.max()
    return float(max(sound.min(), middle - _FAR * max(high - middle, 0.005)))


def _clip(scores: Sequence[float | None], low: float) -> tuple[np.ndarray, np.ndarray]:
    """Scores with those that are lower, or that are none, at the low end; and which they are."""
    values = np.asarray([-np.inf if score is None else score for score in scores])
    return np.maximum(values, low), values < low


def draw_history(
    path: pathlib.Path,
    numbers: Sequence[int],
    scores: Sequence[float | None],
    again: Mapping[int, Sequence[float]],
    metric: str,
) -> None:
    """Draws the points of a search in their order, the best so far, and what the best reach again.

    Args:
      path: of the PNG.
      numbers: of the points.
      scores: of the points, None where a member diverged; at least one is sound.
      again: number of a point -> scores with other seeds, maybe none.
      metric: the scores' name.
    """
    low = _lowest([*scores, *(float(np.mean(own)) for own in again.values() if own)])
    shown, under = _clip(scores, low)
    with drawing(path, width=MOST * 0.85, height=HEIGHT) as axes:
        blue, red = PALETTE["blue"], PALETTE["vermilion"]
        where = np.asarray(numbers)
        axes.scatter(where[~under], shown[~under], s=18, color=blue, alpha=0.55, linewidths=0)
        if under.any():
            axes.scatter(
                where[under], shown[under], marker="v", s=22, color="#777777", label="lower or none"
            )
        values = np.asarray([-np.inf if score is None else score for score in scores])
        best = np.maximum.accumulate(values)
        # Before the first score there is no best one.
        best = np.where(np.isfinite(best), np.maximum(best, low), np.nan)
        axes.step(where, best, where="post", color=blue, linewidth=1.6, label="best so far")
        trained = [(number, own) for number, own in again.items() if own]
        axes.errorbar(
            [number for number, _ in trained],
            [np.mean(own) for _, own in trained],
            yerr=[np.std(own, ddof=1) if len(own) > 1 else 0.0 for _, own in trained],
            color=red,
            marker="s",
            markersize=6,
            markeredgecolor="white",
            linestyle="none",
            elinewidth=1.4,
            capsize=3,
            label="again, other seeds",
        )
        axes.set_xlabel("point")
        axes.set_ylabel(metric)
        axes.set_title("dots: points as found; squares: mean ± standard deviation over members")
        axes.figure.legend(loc="outside upper right", ncols=3)


def draw_importance(path: pathlib.Path, importance: Mapping[str, Mapping[str, Any]]) -> None:
    """Draws each setting's share of the variance of the scores, with its interval.

    Args:
      path: of the PNG.
      importance: setting -> ``mean`` and ``ci95``, the most important first.
    """
    names = [shorten(name, 30) for name in importance]
    with drawing(path, width=MOST * 0.8, height=min(MOST, 1.0 + 0.36 * len(names))) as axes:
        for row, own in enumerate(importance.values()):
            axes.barh(row, own["mean"], height=0.6, color=PALETTE["sky blue"])
            axes.plot(own["ci95"], [row, row], color=PALETTE["black"], linewidth=1.6)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(left=0.0)
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x")
        axes.set_xlabel("share of the variance of the scores")
        axes.set_title("mean and 95 % interval of a bootstrap over points")


def draw_slices(
    path: pathlib.Path,
    settings: Mapping[str, tuple[Range | list[Value], Sequence[Value]]],
    scores: Sequence[float | None],
    winner: int,
    metric: str,
) -> None:
    """Draws every setting against the scores of the points, whatever their other settings.

    Args:
      path: of the PNG.
      settings: name -> what it may be, and its value at each point; the first twenty are drawn.
      scores: of the points.
      winner: place of the point that is marked.
      metric: the scores' name.
    """
    names = list(settings)[:_MOST_PANELS]
    down = -(-len(names) // _ACROSS)
    across = min(len(names), _ACROSS)
    low = _lowest(scores)
    shown, under = _clip(scores, low)
    with drawing_figure(path, max(across, 2) * _PANEL, min(MOST, 0.6 + 2.0 * down)) as figure:
        every = figure.subplots(down, across, sharey=True, squeeze=False)
        for axes in every.flat[len(names) :]:
            axes.set_axis_off()
        for axes, name in zip(every.flat, names):
            where = _place(axes, *settings[name])
            axes.scatter(
                where[~under], shown[~under], s=12, color=PALETTE["blue"], alpha=0.5, linewidths=0
            )
            axes.scatter(where[under], shown[under], s=14, marker="v", color="#777777")
            axes.plot(where[winner], shown[winner], "D", color=PALETTE["vermilion"], markersize=6)
            axes.set_xlabel(shorten(name, 24), fontsize=9)
            axes.tick_params(labelsize=8)
        figure.supylabel(metric, fontsize=11)
        figure.suptitle("dots: points; diamond: the winner; triangles: lower or none", fontsize=10)


def _place(axes: Axes, own: Range | list[Value], values: Sequence[Value]) -> np.ndarray:
    """Makes the x axis of a setting; returns the x of each value."""
    if isinstance(own, Range):
        axes.set_xscale("log" if own.log else "linear")
        if own.log:
            ticks = np.geomspace(own.low, own.high, 3)
            axes.set_xticks(ticks, [f"{tick:.2g}" for tick in ticks])
            axes.minorticks_off()
        else:
            axes.locator_params(axis="x", nbins=4)
        return np.asarray(values, float)
    axes.set_xticks(range(len(own)), [shorten(spell_value(value), 10) for value in own])
    axes.set_xlim(-0.6, len(own) - 0.4)
    # Points of one value would cover each other.
    beside = np.random.default_rng(0).uniform(-0.22, 0.22, len(values))
    return np.asarray([own.index(value) for value in values]) + beside
