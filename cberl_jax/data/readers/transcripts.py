r"""Conversations as tables: this package's own CSV, and the annotation files of MELD and EmoryNLP.

Our own layout is UTF-8 with commas, a row per utterance, rows of a dialogue in the order of its
turns::

    dialogue,speaker,text,split,label,start,end,audio
    scene 1,Ross,We were on a break!,train,anger,12.5,14.1,scene1_0.wav
    scene 1,Rachel,Right.,train,,14.0,15.2,

``dialogue``, ``speaker`` and ``text`` are needed, the rest is optional, and an empty cell says that
something is not known: ``split`` (train, dev or test, one of them per dialogue), ``label`` (name of
the emotion), ``start`` and ``end`` (seconds, or h:mm:ss with a point or a comma before the
fraction) and ``audio`` (a file in the folder of sounds). MELD's files (Poria et al., ACL 2019) are
known by their column ``Dialogue_ID``, EmoryNLP's (Zahiri and Choi, 2018) by ``Scene_ID``.
"""

import codecs
import csv
import io
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cberl_jax.data.corpus import SPLIT_NAMES, UNLABELLED
from cberl_jax.data.readers.foreign import LOOKED_AT, refuse_foreign
from cberl_jax.data.readers.known import EMORYNLP_CLASSES, MELD_CLASSES
from cberl_jax.errors import UserError

NEEDED = ("dialogue", "speaker", "text")
OPTIONAL = ("split", "label", "start", "end", "audio")
BRING_TABLE = "save the table as CSV in UTF-8"
# A longer cell is a quotation mark that was never closed.
MAX_CELL = 10_000
# MELD's published files hold what was cp1252 as control characters, U+0092 for an apostrophe.
_CP1252 = {
    code: bytes([code]).decode("cp1252", "ignore") or chr(code) for code in range(0x80, 0xA0)
}
_CLIP_PARTS = ("Dialogue", "Utterance")
_TIME = re.compile(r"(-?)(?:(?:(\d{1,6}):)?(\d{1,6}):)?(\d{1,9}(?:[.,]\d{0,9})?)")


class Turn(NamedTuple):
    """One utterance as a table holds it.

    Attributes:
      place: file and line, for messages.
      dialogue: name, unique within its file.
      speaker: name.
      text: the transcript; empty where there is none.
      split: train, dev, test, or empty where the table does not say.
      label: name of the emotion; empty where there is none.
      start: in seconds, or nan where it is not known.
      end: as ``start``.
      audio: the file's name in the folder of sounds, with or without its ending; may be empty.
      number: the utterance's number within its dialogue, where the table gives one.
      shares_audio: whether turns of other dialogues may have the same sound.
    """

    place: str
    dialogue: str
    speaker: str
    text: str
    split: str
    label: str
    start: float
    end: float
    audio: str
    number: int | None = None
    shares_audio: bool = False


class Transcript(NamedTuple):
    """Conversations from one or several tables: G dialogues, N utterances in dialogue order.

    Attributes:
      source: names of the files, for messages.
      classes: names of the C emotions, none where nothing is labelled.
      dialogue: [G] str, names.
      split: [G] str, each train, dev or test.
      has_splits: whether the tables name splits; if not, every dialogue counts as test.
      length: [G] int32, utterances per dialogue.
      label: [N] int32 in 0..C-1, or -1.
      turns: the N utterances.
      file: [N] int, which of the files each utterance is from.
    """

    source: str
    classes: tuple[str, ...]
    dialogue: np.ndarray
    split: np.ndarray
    has_splits: bool
    length: np.ndarray
    label: np.ndarray
    turns: tuple[Turn, ...]
    file: np.ndarray

    @property
    def start(self) -> np.ndarray:
        """[G] index of each dialogue's first utterance."""
        return np.concatenate([[0], np.cumsum(self.length)[:-1]]).astype(np.int64)

    def in_split(self, split: str) -> np.ndarray:
        """[N] bool, the utterances of one split."""
        return np.repeat(self.split == split, self.length)


class _Layout(NamedTuple):
    """How one kind of table is read; ``classes`` is empty where the file's own labels count."""

    needed: tuple[str, ...]
    optional: tuple[str, ...] | None
    classes: tuple[str, ...]
    read: Callable[[Mapping[str, str], str, str], Turn]


def read_transcripts(paths: Sequence[str | os.PathLike], classes: Sequence[str] = ()) -> Transcript:
    """Reads one or several tables of one layout as one corpus of conversations.

    The split of a dialogue is that of its rows, or else the one that the file's name holds as a
    word (``train_sent_emo.csv``; valid counts as dev).

    Args:
      paths: CSV files in UTF-8.
      classes: names of the emotions in the order of their numbers. Without them those of MELD and
        EmoryNLP have the order that published code gives them, and the labels of other tables the
        alphabetical one.

    Returns:
      The utterances, those of a dialogue together and in the order of their numbers (MELD,
      EmoryNLP) or rows. Where no table names a split, all dialogues are test.

    Raises:
      UserError: naming the file and the line.
    """
    sources = [os.fspath(path) for path in paths]
    if not sources:
        raise UserError("no transcript is named.")
    layouts, dialogues = [], []
    for number, source in enumerate(sources):
        layout, turns = _read_table(source)
        layouts.append(layout)
        dialogues += [(number, own) for own in _by_dialogue(turns)]
    if len(set(layouts)) > 1:
        raise UserError(f"{sources[0]} and {_other(sources, layouts)} differ in their layouts.")
    _check_names([own[0] for _, own in dialogues])
    ordered = tuple(turn for _, own in dialogues for turn in own)
    splits = [_split_of(own) for _, own in dialogues]
    _check_splits(splits, [own[0].place for _, own in dialogues])
    known = tuple(classes) or layouts[0].classes
    names = known or tuple(sorted({turn.label for turn in ordered} - {""}))
    return Transcript(
        source=", ".join(sources),
        classes=names,
        dialogue=np.array([own[0].dialogue for _, own in dialogues]),
        split=np.array([split or "test" for split in splits]),
        has_splits=all(splits),
        length=np.array([len(own) for _, own in dialogues], np.int32),
        label=np.array([_number(turn, names) for turn in ordered], np.int32),
        turns=ordered,
        file=np.repeat([n for n, _ in dialogues], [len(own) for _, own in dialogues]),
    )


def is_table(path: str, first: bytes) -> bool:
    """Whether a file is a table, by the columns that it begins with, or by its name.

    Args:
      path: of the file.
      first: its first bytes.
    """
    line = first.removeprefix(codecs.BOM_UTF8).decode("utf-8", "ignore").partition("\n")[0]
    named = {cell.strip().strip('"') for cell in line.split(",")}
    return bool(named & _LAYOUTS.keys()) or path.lower().endswith(".csv")


def _other(sources: Sequence[str], layouts: Sequence[_Layout]) -> str:
    return next(s for s, layout in zip(sources, layouts) if layout != layouts[0])


def _by_dialogue(turns: Sequence[Turn]) -> list[list[Turn]]:
    groups: dict[str, list[Turn]] = {}
    for turn in turns:
        groups.setdefault(turn.dialogue, []).append(turn)
    return [_in_order(group) for group in groups.values()]


def _in_order(turns: list[Turn]) -> list[Turn]:
    """The turns of one dialogue by their numbers, which may be there once each."""
    if turns[0].number is None:
        return turns
    places: dict[int, str] = {}
    for turn in turns:
        if turn.number in places:
            raise UserError(
                f"{turn.place}: utterance {turn.number} of dialogue {turn.dialogue!r} is there "
                f"twice, in {places[turn.number]} already."
            )
        places[turn.number] = turn.place
    return sorted(turns, key=lambda turn: turn.number)


def _split_of(turns: Sequence[Turn]) -> str:
    for turn in turns:
        if turn.split != turns[0].split:
            raise UserError(
                f"{turn.place}: dialogue {turn.dialogue!r} is in the split {turn.split!r} here and "
                f"in {turns[0].split!r} before; a dialogue has one split."
            )
    return turns[0].split


def _check_splits(splits: Sequence[str], places: Sequence[str]) -> None:
    """Splits are named everywhere or nowhere: a forgotten one must not end up as test."""
    if any(splits) and not all(splits):
        raise UserError(
            f"{places[splits.index('')]}: no split is named here, as it is elsewhere; name it in a "
            "column split or in the name of the file (train, dev, test)."
        )


def _check_names(firsts: Sequence[Turn]) -> None:
    places: dict[str, str] = {}
    for turn in firsts:
        if turn.dialogue in places:
            raise UserError(
                f"{turn.place}: dialogue {turn.dialogue!r} is in {places[turn.dialogue]} already; "
                "dialogues of different files need different names or, of MELD, files whose names "
                "tell the split."
            )
        places[turn.dialogue] = turn.place


def _number(turn: Turn, classes: Sequence[str]) -> int:
    if not turn.label:
        return UNLABELLED
    if turn.label not in classes:
        raise UserError(
            f"{turn.place}: the label {turn.label!r} is none of the classes {', '.join(classes)}; "
            "add it to --classes, or leave the cell empty, which means no label."
        )
    return classes.index(turn.label)


def _read_table(source: str) -> tuple[_Layout, list[Turn]]:
    rows = read_rows(source)
    _, header = next(rows, ("", []))
    header = [name.strip() for name in header]
    layout = _find_layout(source, header)
    split = _split_in_name(source)
    turns = []
    for place, cells in rows:
        if len(cells) != len(header):
            raise UserError(
                f"{place}: has {len(cells)} cells for {len(header)} columns; a text with a comma "
                'has to be in "quotation marks".'
            )
        row = {name: cell.strip() for name, cell in zip(header, cells)}
        turns.append(layout.read(row, place, split))
    if not turns:
        raise UserError(f"{source}: holds no utterance.")
    return layout, turns


def read_rows(source: str) -> Iterator[tuple[str, list[str]]]:
    """The place and the cells of every row that is not empty."""
    try:
        data = Path(source).read_bytes()
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror or error}).") from error
    refuse_foreign(source, data[:LOOKED_AT], BRING_TABLE)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"{source}: line {line} is not UTF-8 (byte 0x{data[error.start]:02x}); save the file "
            "again as CSV in UTF-8."
        ) from error
    if "\0" in text:
        # numpy drops it where it ends a string, and two names become one.
        line = text[: text.index("\0")].count("\n") + 1
        raise UserError(
            f"{source}: line {line} holds the character NUL; save the file again as CSV in UTF-8."
        )
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for cells in reader:
            place = f"{source}: line {reader.line_num}"
            if max(map(len, cells), default=0) > MAX_CELL:
                raise csv.Error(f"a cell is longer than {MAX_CELL} characters")
            if any(cells):
                yield place, cells
    except csv.Error as error:
        raise UserError(
            f"{source}: line {reader.line_num} is not CSV ({error}); is a quotation mark missing?"
        ) from error


def _find_layout(source: str, header: Sequence[str]) -> _Layout:
    """The layout that a table's header is of."""
    layout = next((layout for mark, layout in _LAYOUTS.items() if mark in header), None)
    if layout is None:
        raise UserError(
            f"{source}: line 1 has to name the columns dialogue, speaker and text (or be that of "
            f"MELD or EmoryNLP), joined by commas, not {', '.join(header)[:80]!r}."
        )
    repeated = [name for name in header if header.count(name) > 1]
    missing = [name for name in layout.needed if name not in header]
    if repeated or missing:
        fault = f"{repeated[0]!r} is there twice" if repeated else f"{missing[0]!r} is missing"
        raise UserError(f"{source}: the column {fault} in line 1.")
    if layout.optional is not None:
        unknown = [name for name in header if name not in layout.needed + layout.optional]
        if unknown:
            may = ", ".join(layout.needed + layout.optional)
            raise UserError(f"{source}: unknown column {unknown[0]!r}; there may be {may}.")
    return layout


def _split_in_name(source: str) -> str:
    words = re.split(r"[^a-z]+", Path(source).stem.lower())
    found = [SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES]
    return found[0] if len(set(found)) == 1 else ""


def _read_own(row: Mapping[str, str], place: str, split: str) -> Turn:
    named = row.get("split", "").lower()
    if named and named not in SPLIT_NAMES:
        raise UserError(f"{place}: the split is {named!r}; use train, dev or test.")
    return Turn(
        place,
        _filled(row, "dialogue", place),
        _filled(row, "speaker", place),
        row["text"],
        SPLIT_NAMES[named] if named else split,
        row.get("label", ""),
        _seconds(row.get("start", ""), place),
        _seconds(row.get("end", ""), place),
        row.get("audio", ""),
    )


def _read_meld(row: Mapping[str, str], place: str, split: str) -> Turn:
    dialogue = _filled(row, "Dialogue_ID", place)
    return Turn(
        place,
        f"{split}_{dialogue}" if split else dialogue,
        _filled(row, "Speaker", place).translate(_CP1252),
        row["Utterance"].translate(_CP1252),
        split,
        row.get("Emotion", "").lower(),
        _seconds(row.get("StartTime", ""), place),
        _seconds(row.get("EndTime", ""), place),
        _meld_sound(row, place),
        _whole(row, "Utterance_ID", place),
        "Old_Dialogue_ID" in row,
    )


def _meld_sound(row: Mapping[str, str], place: str) -> str:
    """The clip's name; that of MELD_Dyadic has the ids that the utterance has in MELD."""
    old = [f"Old_{part}_ID" for part in _CLIP_PARTS]
    held = [name in row for name in old]
    if any(held) and not all(held):
        raise UserError(f"{place}: the table has only one of the columns {' and '.join(old)}.")
    names = old if all(held) else [f"{part}_ID" for part in _CLIP_PARTS]
    dialogue, utterance = (_filled(row, name, place) for name in names)
    return f"dia{dialogue}_utt{utterance}"


def _read_emorynlp(row: Mapping[str, str], place: str, split: str) -> Turn:
    # Scenes are numbered anew in every episode.
    number = [_filled(row, name, place) for name in ("Season", "Episode", "Scene_ID")]
    scene = "sea{}_ep{}_sc{}".format(*number)
    # The speakers of an utterance are a list, as Python prints it.
    names = re.findall(r"'([^']+)'|\"([^\"]+)\"", _filled(row, "Speaker", place))
    return Turn(
        place,
        scene,
        " and ".join(one or other for one, other in names) or row["Speaker"],
        row["Utterance"].translate(_CP1252),
        split,
        row.get("Emotion", "").capitalize(),
        _seconds(row.get("Start_Time", ""), place),
        _seconds(row.get("End_Time", ""), place),
        f"{scene}_utt{_filled(row, 'Utterance_ID', place)}",
        _whole(row, "Utterance_ID", place),
    )


_LAYOUTS = {
    "dialogue": _Layout(NEEDED, OPTIONAL, (), _read_own),
    "Dialogue_ID": _Layout(
        ("Dialogue_ID", "Utterance_ID", "Speaker", "Utterance"),
        None,
        MELD_CLASSES,
        _read_meld,
    ),
    "Scene_ID": _Layout(
        ("Season", "Episode", "Scene_ID", "Utterance_ID", "Speaker", "Utterance"),
        None,
        EMORYNLP_CLASSES,
        _read_emorynlp,
    ),
}


def _filled(row: Mapping[str, str], column: str, place: str) -> str:
    if not row[column]:
        raise UserError(f"{place}: the column {column!r} is empty.")
    return row[column]


def _whole(row: Mapping[str, str], column: str, place: str) -> int:
    cell = _filled(row, column, place)
    if not re.fullmatch(r"\d{1,9}(\.0)?", cell):
        raise UserError(
            f"{place}: the {column} is {cell[:40]!r}, not a whole number, so the order of the "
            "turns is not known."
        )
    return int(float(cell))


def _seconds(cell: str, place: str) -> float:
    """Seconds of a time, nan for an empty cell."""
    if not cell:
        return math.nan
    refusal = UserError(
        f"{place}: the time {cell[:40]!r} is neither a number of seconds nor h:mm:ss.fff."
    )
    match = _TIME.fullmatch(cell)
    if match is None:
        raise refusal
    sign, hours, minutes, last = match.groups()
    seconds = float(last.replace(",", "."))
    # Of 60 and more beside a larger unit they are frames, or parts of another one.
    if (minutes is not None and seconds >= 60) or (hours is not None and int(minutes) >= 60):
        raise refusal
    total = 3600 * int(hours or 0) + 60 * int(minutes or 0) + seconds
    return -total if sign else total
