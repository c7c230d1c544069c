"""The trace of a conversation's emotions: probabilities over turns as a picture.

A strip per class, one bar a turn, and below them who speaks. The most probable class of a turn is
shown by a dark bar among light ones, so that no colour has to be known by heart, however many
classes there are.
"""

import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from cberl_jax.reports.plots.style import MOST, PALETTE, drawing, shorten, shorten_all

_DARK, _LIGHT, _SPREAD = PALETTE["blue"], "#A9CFE8", PALETTE["black"]
_TRUTH, _SPEAKER = PALETTE["vermilion"], "#555555"
# In inches: the strip of a class, and all strips at most.
_STRIP, _STRIPS = 0.5, MOST - 3.0
# A probability of 1 fills this share of its strip.
_FULL = 0.78
# Conversations shorter than this are drawn as if they had as many turns: bars stay bars.
_FEWEST_TURNS = 8
# More speakers than this share the last line.
_MOST_SPEAKERS = 6


class Trace(NamedTuple):
    """What is drawn of one conversation of T turns.

    Attributes:
      title: its name.
      classes: names of the C classes.
      probability: [T, C], the mean over members.
      spread: [T, C], their standard deviation, or None with one member.
      label: [T] int, the most probable class.
      speaker: [T] names.
      truth: [T] int, the class that the file gives, or -1.
    """

    title: str
    classes: Sequence[str]
    probability: np.ndarray
    spread: np.ndarray | None
    label: np.ndarray
    speaker: Sequence[str]
    truth: np.ndarray


def draw_trace(path: pathlib.Path, trace: Trace) -> None:
    """Draws a conversation's emotions.

    Args:
      path: of the PNG; written whole or not at all.
      trace: what to draw.
    """
    turns, classes = trace.probability.shape
    speakers = _name_speakers(trace.speaker)
    width = float(np.clip(3.2 + 0.22 * turns, 6.4, MOST))
    # A speaker's line is half as high as a strip, and the axes share the height among all.
    strip = min(_STRIP, _STRIPS / classes)
    height = 1.5 + strip * classes + 0.52 * strip * len(speakers)
    with drawing(path, width, height) as axes:
        _draw_bars(axes, trace)
        if trace.spread is not None:
            _draw_spread(axes, trace)
        known = np.flatnonzero(trace.truth >= 0)
        above = classes - 1 - trace.truth[known] + (1 + _FULL) / 2
        axes.scatter(known, above, s=26 * strip / _STRIP, marker="v", color=_TRUTH, linewidths=0)
        _draw_speakers(axes, trace.speaker, speakers)
        _label_axes(axes, trace, speakers)
        axes.figure.legend(
            handles=_legend(trace.spread is not None, bool(known.size)),
            loc="outside lower left",
            ncols=2,
            fontsize=11,
        )


def _draw_bars(axes: Axes, trace: Trace) -> None:
    """A bar per turn and class, as one collection."""
    turns, classes = trace.probability.shape
    turn, number = np.divmod(np.arange(turns * classes), classes)
    base = classes - 1.0 - number
    top = base + _FULL * trace.probability.reshape(-1)
    left, right = turn - 0.42, turn + 0.42
    corners = np.stack([[left, base], [left, top], [right, top], [right, base]], axis=1)
    dark = trace.label[turn] == number
    bars = PolyCollection(
        corners.transpose(2, 1, 0), facecolors=np.where(dark, _DARK, _LIGHT), linewidths=0
    )
    axes.add_collection(bars, autolim=False)


def _draw_spread(axes: Axes, trace: Trace) -> None:
    """A line over each bar, from one deviation below the mean to one above."""
    turns, classes = trace.probability.shape
    turn, number = np.divmod(np.arange(turns * classes), classes)
    mean, spread = trace.probability.reshape(-1), trace.spread.reshape(-1)
    ends = [np.clip(mean - spread, 0, 1), np.clip(mean + spread, 0, 1)]
    low, high = (classes - 1 - number + _FULL * end for end in ends)
    lines = np.stack([[turn, low], [turn, high]], axis=1).transpose(2, 1, 0)
    thin = 1.4 if turns <= 60 else 0.6
    axes.add_collection(LineCollection(lines, colors=_SPREAD, linewidths=thin), autolim=False)


def _name_speakers(speaker: Sequence[str]) -> list[str]:
    """The names that have a line of their own, in order of their first turn."""
    counts = Counter(speaker)
    if len(counts) <= _MOST_SPEAKERS:
        return list(counts)
    most = {name for name, _ in counts.most_common(_MOST_SPEAKERS - 1)}
    return [name for name in counts if name in most] + ["(others)"]


def _draw_speakers(axes: Axes, speaker: Sequence[str], names: Sequence[str]) -> None:
    """A mark per turn on its speaker's line, below the strips."""
    line = {name: number for number, name in enumerate(names)}
    height = [_speaker_height(line.get(name, len(names) - 1)) for name in speaker]
    axes.scatter(range(len(speaker)), height, s=22, marker="s", color=_SPEAKER, linewidths=0)


def _speaker_height(number: int) -> float:
    return -0.45 - 0.5 * number


def _label_axes(axes: Axes, trace: Trace, speakers: Sequence[str]) -> None:
    turns, classes = trace.probability.shape
    strips = [classes - 1 - number for number in range(classes)]
    lines = [_speaker_height(number) for number in range(len(speakers))]
    names = [*shorten_all(trace.classes), *shorten_all(speakers)]
    size = min(13.0, 72 * 0.72 * min(_STRIP, _STRIPS / classes))
    axes.set_yticks([*(base + _FULL / 2 for base in strips), *lines], names, fontsize=size)
    for label in axes.get_yticklabels()[classes:]:
        label.set_color(_SPEAKER)
        label.set_fontsize(min(11.0, 0.6 * size) if classes > 14 else 11)
    axes.tick_params(axis="y", length=0)
    axes.grid(False)
    for base in strips:
        axes.axhspan(base, base + _FULL, color="#F3F3F3", linewidth=0, zorder=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlim(-0.7, max(turns, _FEWEST_TURNS) - 0.3)
    axes.set_ylim(lines[-1] - 0.4, classes)
    axes.set_xticks([t for t in MaxNLocator(12, integer=True).tick_values(0, turns) if t < turns])
    axes.set_xlabel("turn")
    axes.set_title(f"{shorten(trace.title, 32)}; a full strip is probability 1")


def _legend(has_spread: bool, has_truth: bool) -> list[Patch | Line2D]:
    handles = [Patch(color=_DARK, label="most probable"), Patch(color=_LIGHT, label="others")]
    if has_spread:
        line = Line2D([], [], color=_SPREAD, label="± deviation over members", marker="|")
        line.set(linestyle="none", markersize=12, markeredgewidth=1.4)
        handles.append(line)
    if has_truth:
        mark = Line2D([], [], color=_TRUTH, label="label in the file", marker="v")
        mark.set(linestyle="none", markersize=6)
        handles.append(mark)
    return handles
