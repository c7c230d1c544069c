"""A conversation as the graph that the model makes of it: which turn attends to which.

Turns stand below each other as in a transcript. An arrow leads from the turn that is attended to to
the turn that attends: those to the left come from earlier turns, those to the right from later
ones.
"""

import pathlib
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch

from cberl_jax.reports.plots.style import PALETTE, drawing_figure, shorten

STRONG = 1.25
# Of the speakers, in order of their first turn; of more than these all others have the last colour.
_SPEAKERS = [
    *(PALETTE[n] for n in ("sky blue", "orange", "green", "yellow", "purple")),
    "#BBBBBB",
]
_PAST, _FUTURE, _WRONG = PALETTE["blue"], PALETTE["vermilion"], PALETTE["vermilion"]
_TEXT_WIDTH = 48  # letters
_NAME_WIDTH = 12
# In inches: a row's height, and the unit of all that lies side by side.
_ROW, _UNIT = 0.62, 0.55
# In these units: how far arcs may reach, and where the columns begin and end.
_REACH = 2.3
_SPEAKER, _TRUTH, _GUESS, _TEXT, _END = 2.7, 4.7, 6.7, 8.9, 15.3


class Conversation(NamedTuple):
    """What is drawn of one conversation: T of its turns.

    Attributes:
      title: its name.
      turn: [T] int, their numbers from 0.
      speaker: [T] names.
      text: [T] transcripts, or None.
      truth: [T] names of the true classes, empty where unknown.
      guess: [T] names of the predicted classes.
      attention: how much each turn (row) attends to each (column), of all turns.
    """

    title: str
    turn: np.ndarray
    speaker: Sequence[str]
    text: Sequence[str] | None
    truth: Sequence[str]
    guess: Sequence[str]
    attention: np.ndarray


class Arc(NamedTuple):
    """An edge to be drawn: turns by their place from 0, and its weight."""

    sender: int
    receiver: int
    weight: float


def choose_arcs(attention: np.ndarray, turn: np.ndarray) -> list[Arc]:
    """The edges of more than STRONG times the weight that all would have if alike; no self loops.

    Args:
      attention: how much each turn (row) attends to each (column), of all turns.
      turn: [T] int, the turns that are drawn.
    """
    # Also those turns count that are attended to and not drawn.
    attended = np.maximum((attention > 0).sum(axis=1, keepdims=True), 1)
    strong = (attention > STRONG / attended) & ~np.eye(len(attention), dtype=bool)
    drawn = np.ix_(turn, turn)
    weights = attention[drawn]
    return [Arc(int(j), int(i), float(weights[i, j])) for i, j in np.argwhere(strong[drawn])]


def draw_attention(path: pathlib.Path, conversation: Conversation) -> None:
    """Draws a conversation's graph beside what was said, was true and was predicted.

    Args:
      path: of the PNG.
      conversation: what to draw.
    """
    turns = len(conversation.turn)
    right = _TEXT if conversation.text is None else _END
    left = -_REACH - 0.4
    with drawing_figure(path, _UNIT * (right - left), _ROW * (turns + 1.9)) as figure:
        axes = figure.add_subplot()
        axes.set_axis_off()
        axes.set_xlim(left, right)
        axes.set_ylim(turns - 0.4, -1.1)
        for arc in choose_arcs(conversation.attention, conversation.turn):
            _draw_arc(axes, arc, turns)
        colour = _colours_of(conversation.speaker)
        for row in range(turns):
            _draw_turn(axes, conversation, row, colour[conversation.speaker[row]])
        _draw_head(axes, conversation)
        _draw_legend(axes)


def _colours_of(speaker: Sequence[str]) -> dict[str, str]:
    names = list(dict.fromkeys(speaker))
    return {name: _SPEAKERS[min(n, len(_SPEAKERS) - 1)] for n, name in enumerate(names)}


def _draw_arc(axes: Axes, arc: Arc, turns: int) -> None:
    """An arrow from sender to receiver, the wider and the darker the more it weighs."""
    span = abs(arc.receiver - arc.sender)
    # Half the chord times the curvature is how far an arc bulges, in rows.
    bulge = _REACH * (0.35 + 0.65 * span / max(turns - 1, 1)) * _UNIT / _ROW
    side = -1 if arc.sender < arc.receiver else 1
    axes.add_patch(
        FancyArrowPatch(
            (0.2 * side, arc.sender),
            (0.2 * side, arc.receiver),
            connectionstyle=f"arc3,rad={2 * bulge / span * 0.95}",
            arrowstyle="-|>",
            mutation_scale=13,
            linewidth=0.8 + 9 * arc.weight,
            color=_PAST if side < 0 else _FUTURE,
            alpha=float(np.clip(0.3 + 1.6 * arc.weight, 0, 0.95)),
            shrinkA=3,
            shrinkB=5,
        )
    )


def _draw_turn(axes: Axes, conversation: Conversation, row: int, colour: str) -> None:
    axes.scatter(0, row, s=430, color=colour, edgecolors="black", linewidths=1.1, zorder=3)
    style = {"va": "center", "fontsize": 11}
    number = str(conversation.turn[row])
    axes.text(0, row, number, ha="center", va="center", fontsize=12, zorder=4)
    axes.text(_SPEAKER, row, shorten(conversation.speaker[row], _NAME_WIDTH), **style)
    truth, guess = conversation.truth[row], conversation.guess[row]
    axes.text(_TRUTH, row, shorten(truth, _NAME_WIDTH) or "–", **style)
    right = truth in ("", guess)
    look = {"color": "black"} if right else {"color": _WRONG, "weight": "bold"}
    mark = "" if truth == "" else "✓ " if right else "✗ "
    axes.text(_GUESS, row, mark + shorten(guess, _NAME_WIDTH), **style, **look)
    if conversation.text is not None:
        words = " ".join(conversation.text[row].split())
        lines = textwrap.wrap(words, _TEXT_WIDTH, max_lines=2, placeholder=" …")
        axes.text(_TEXT, row, "\n".join(lines), va="center", fontsize=10)


def _draw_head(axes: Axes, conversation: Conversation) -> None:
    heads = {0.0: "turn", _SPEAKER: "speaker", _TRUTH: "true", _GUESS: "predicted"}
    if conversation.text is not None:
        heads[_TEXT] = "said"
    for x, head in heads.items():
        place = "left" if x else "center"
        axes.text(x, -0.75, head, ha=place, va="center", fontsize=12, weight="bold")


def _draw_legend(axes: Axes) -> None:
    handles = [
        Line2D([], [], color=_PAST, linewidth=3, label="attends to an earlier turn"),
        Line2D([], [], color=_FUTURE, linewidth=3, label="attends to a later turn"),
    ]
    axes.figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=2,
        fontsize=11,
        title="The arrow's head is at the turn that attends, its tail at the turn attended to.",
        title_fontsize=11,
        alignment="left",
    )
