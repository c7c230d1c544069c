"""From a corpus to arrays for the device: dialogues packed into rows.

Several dialogues share one row of length L, told apart by segment numbers, so that hardly any of a
batch is padding. Rows hold indices into one table of utterances, which all members share.
"""

import bisect
from typing import NamedTuple

import numpy as np

from cberl_jax.data.corpus import Corpus


class Turns(NamedTuple):
    """Dialogues as flat turns that point into the table of utterances: V dialogues, T turns.

    Attributes:
      length: [V] int, turns per dialogue.
      index: [T] int, the utterance's place in the table.
      speaker: [T] int, the speaker's number within the dialogue, from 0.
      label: [T] int, -1 = none.
      weight: [T] float, weight in the losses; 0 for context.
    """

    length: np.ndarray
    index: np.ndarray
    speaker: np.ndarray
    label: np.ndarray
    weight: np.ndarray


def speaker_numbers(corpus: Corpus) -> np.ndarray:
    """[N] the order in which each utterance's speaker first spoke in the dialogue, from 0."""
    numbers = np.zeros(len(corpus.label), np.int32)
    for start, length in zip(corpus.start, corpus.length):
        known: dict[str, int] = {}
        names = corpus.speaker[start : start + length]
        numbers[start : start + length] = [known.setdefault(n, len(known)) for n in names]
    return numbers


def turns_of(corpus: Corpus, dialogues: np.ndarray) -> Turns:
    """The turns of some dialogues, given by their indices [V]; labelled ones weigh 1."""
    length = corpus.length[dialogues]
    index = np.concatenate(
        [np.arange(s, s + n) for s, n in zip(corpus.start[dialogues], length)]
        or [np.zeros(0, np.int64)]
    )
    label = corpus.label[index]
    return Turns(
        length.astype(np.int32),
        index.astype(np.int32),
        speaker_numbers(corpus)[index],
        label.astype(np.int32),
        (label >= 0).astype(np.float32),
    )


class Rows(NamedTuple):
    """Dialogues packed into R rows of length L.

    Attributes:
      index: [R, L] int, the utterance's place in the table; 0 where padding.
      segment: [R, L] int, the dialogue's number within the row from 1; 0 = padding.
      speaker: [R, L] int.
      label: [R, L] int; -1 where padding.
      weight: [R, L] float; 0 where padding.
    """

    index: np.ndarray
    segment: np.ndarray
    speaker: np.ndarray
    label: np.ndarray
    weight: np.ndarray


def assign_rows(length: np.ndarray, row_length: int) -> list[list[int]]:
    """Longest first, each dialogue into the fullest row that still holds it.

    Args:
      length: [V] turns per dialogue, none above ``row_length``.
      row_length: L.

    Returns:
      Per row the dialogues in it.
    """
    rows: list[list[int]] = []
    # Room that is left -> rows with that much, and the rooms of which there are any, in order.
    with_room: dict[int, list[int]] = {}
    rooms: list[int] = []
    for dialogue in np.argsort(-length, kind="stable"):
        need = int(length[dialogue])
        place = bisect.bisect_left(rooms, need)
        if place < len(rooms):
            room = rooms[place]
            row = with_room[room].pop()
            if not with_room[room]:
                del rooms[place]
        else:
            room, row = row_length, len(rows)
            rows.append([])
        rows[row].append(int(dialogue))
        left = with_room.setdefault(room - need, [])
        if not left:
            bisect.insort(rooms, room - need)
        left.append(row)
    return rows


def choose_row_length(length: np.ndarray, multiple: int = 1) -> int:
    """The row length from the longest dialogue up to half as much again that pads least.

    Ties go to the shorter row. A multiple of four, which vector units like.

    Args:
      length: [V] turns per dialogue.
      multiple: rows come in multiples of this.

    Returns:
      L.
    """
    longest = int(length.max())
    shortest = -(-longest // 4) * 4
    candidates = range(shortest, max(shortest, longest * 3 // 2) + 1, 4)
    rows = {width: -(-len(assign_rows(length, width)) // multiple) for width in candidates}
    cells = {width: width * rows[width] for width in candidates}
    return min(cells, key=lambda width: (cells[width], width))


def pack(turns: Turns, row_length: int, multiple: int = 1) -> Rows:
    """Packs dialogues into rows, and adds empty rows up to a multiple of ``multiple``."""
    rows = assign_rows(turns.length, row_length)
    count = max(1, -(-len(rows) // multiple)) * multiple
    start = np.concatenate([[0], np.cumsum(turns.length)[:-1]])
    shape = (count, row_length)
    packed = Rows(
        np.zeros(shape, np.int32),
        np.zeros(shape, np.int32),
        np.zeros(shape, np.int32),
        np.full(shape, -1, np.int32),
        np.zeros(shape, np.float32),
    )
    for row, dialogues in enumerate(rows):
        at = 0
        for number, dialogue in enumerate(dialogues, start=1):
            length = turns.length[dialogue]
            here = slice(at, at + length)
            there = slice(start[dialogue], start[dialogue] + length)
            packed.segment[row, here] = number
            for field in ("index", "speaker", "label", "weight"):
                getattr(packed, field)[row, here] = getattr(turns, field)[there]
            at += length
    return packed


def pack_dialogues(corpus: Corpus, chosen: np.ndarray, multiple: int) -> Rows:
    """Packs some dialogues, given by a mask [G], into rows of the length that suits them best."""
    row_length = choose_row_length(corpus.length[chosen], multiple)
    return pack(turns_of(corpus, np.flatnonzero(chosen)), row_length, multiple)
