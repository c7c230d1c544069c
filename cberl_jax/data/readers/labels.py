"""Labels of any form as numbers of named classes; none is guessed and none is lost.

Whole numbers of any type are class numbers, text is class names, and other numbers are cut by
``ReadingOptions.bins``. -1, an empty text and nan are no label, unless -1 has to be a class.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cberl_jax.data.corpus import UNLABELLED
from cberl_jax.data.labels import are_crossed, cut_labels, name_bins
from cberl_jax.data.readers.entries import place_of, shown, utterances, vector_of
from cberl_jax.data.readers.known import CORPORA, HOW_TO_NAME, SENTIMENT
from cberl_jax.data.readers.options import ReadingOptions
from cberl_jax.data.readers.unpickling import MAX_KEY
from cberl_jax.errors import UserError

_NUMBER = re.compile(r"[+-]?\d{1,9}")
HOW_TO_CUT = (
    "cut them into classes by edges, such as --bins=-3,0,3, and name these by --classes "
    "(data.bins, data.classes in a config)"
)


class RawLabels(NamedTuple):
    """The labels of a file, all of one kind.

    Attributes:
      values: [N] all int, all float or all str; ``None`` for no label.
      place: from an utterance's number to its place in words.
      source: name of the file.
    """

    values: Sequence[int | float | str | None]
    place: Callable[[int], str]
    source: str

    def error(self, utterance: int, message: str) -> UserError:
        """An error about the label of one utterance."""
        label = shown(self.values[utterance])
        return UserError(f"{self.source}: label {label} at {self.place(utterance)} {message}")


class UncertainClasses(UserError):
    """A file's labels are there, but not what they stand for."""


class NamedLabels(NamedTuple):
    """Labels as numbers.

    Attributes:
      label: [N] int32 in 0..C-1, or ``UNLABELLED``.
      classes: names of the C classes.
      corpus: key of ``CORPORA`` where the evidence tells it.
      remarks: what was decided in reading.
    """

    label: np.ndarray
    classes: tuple[str, ...]
    corpus: str = ""
    remarks: tuple[str, ...] = ()


def read_labels(table: Mapping, ids: Sequence[str], source: str) -> RawLabels:
    """Reads the labels of a table.

    Args:
      table: dialogue id -> a label per utterance.
      ids: the dialogues, in order.
      source: name of the file.

    Returns:
      The labels; whole numbers are int, whatever type the file gives them.

    Raises:
      UserError: one is no label, or they are of different kinds.
    """
    values, places = [], []
    for key, turn, value in utterances(table, ids):
        if isinstance(value, bool | np.bool_) or not isinstance(
            value, int | float | str | np.integer | np.floating
        ):
            found = "a vector (one-hot?)" if vector_of(value) is not None else type(value).__name__
            raise UserError(
                f"{source}: the label at {place_of(key, turn)} is {found}, not an integer."
            )
        if isinstance(value, int) and abs(value) >= MAX_KEY:
            raise UserError(
                f"{source}: label {shown(value)} at {place_of(key, turn)} is out of range."
            )
        values.append(_plain(value))
        places.append((key, turn))
    raw = RawLabels(values, lambda n: place_of(*places[n]), source)
    return _of_one_kind(raw)


def _plain(value: int | float | str | np.generic) -> int | float | str | None:
    """Python's own number or text; None for nan and for text without a letter."""
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, int | np.integer):
        return int(value)
    value = float(value)
    if math.isnan(value):
        return None
    whole = value.is_integer() and abs(value) < MAX_KEY
    return int(value) if whole else value


def _of_one_kind(raw: RawLabels) -> RawLabels:
    """Refuses text among numbers; one real number makes all of them real."""
    texts = [isinstance(value, str) for value in raw.values if value is not None]
    if any(texts) and not all(texts):
        wrong = next(
            n
            for n, value in enumerate(raw.values)
            if value is not None and isinstance(value, str) != texts[0]
        )
        raise raw.error(wrong, f"is {'a number' if texts[0] else 'text'}, others are not.")
    if any(isinstance(value, float) for value in raw.values):
        return raw._replace(values=[v if v is None else float(v) for v in raw.values])
    return raw


def name_labels(
    raw: RawLabels, options: ReadingOptions, find_corpus: Callable[[Counter], tuple[str, str]]
) -> NamedLabels:
    """The classes that the labels are of.

    Args:
      raw: as the file holds them.
      options: names, corpus or edges, where they are given.
      find_corpus: from the utterances per class number to the key of ``CORPORA`` or "", and the
        reason, as ``identify`` does.

    Returns:
      Labels and classes.

    Raises:
      UserError: the classes are not certain, or a label is none of them.
    """
    found = {value for value in raw.values if value is not None}
    if any(isinstance(value, str) for value in found):
        numbers = all(map(_NUMBER.fullmatch, found)) and not found <= set(options.classes)
        if not numbers or options.bins:
            return _by_name(raw, options)
        raw = raw._replace(values=[v if v is None else int(v) for v in raw.values])
        found = {value for value in raw.values if value is not None}
    if options.bins:
        return _by_bins(raw, options)
    if any(isinstance(value, float) for value in found):
        raise UncertainClasses(
            f"{raw.source}: the labels are real numbers from {min(found):g} to {max(found):g}; "
            f"{HOW_TO_CUT}."
        )
    if not found - {UNLABELLED}:
        return NamedLabels(np.full(len(raw.values), UNLABELLED, np.int32), options.classes)
    if options.classes:
        return _by_number(raw, options.classes, found)
    if options.corpus:
        return _of_corpus(raw, options.corpus, found)
    return _by_evidence(raw, found, find_corpus)


def _by_name(raw: RawLabels, options: ReadingOptions) -> NamedLabels:
    """Text labels; without given classes in the order of the corpus that has them all."""
    if options.bins:
        raise UserError(f"{raw.source}: the labels are text, which --bins cannot cut.")
    found = {value for value in raw.values if value is not None}
    classes = options.classes or CORPORA.get(options.corpus, ())
    if not classes:
        known = (names for names in CORPORA.values() if found <= set(names))
        classes = next(known, tuple(sorted(found)))
    number = {name: c for c, name in enumerate(classes)} | {None: UNLABELLED}
    wrong = [n for n, value in enumerate(raw.values) if value not in number]
    if wrong:
        raise raw.error(wrong[0], none_of(classes))
    return NamedLabels(np.array([number[v] for v in raw.values], np.int32), tuple(classes))


def none_of(classes: Sequence[str]) -> str:
    """The end of a sentence about a label that is not among the classes."""
    return (
        f"is none of the classes {', '.join(classes)}; add it to --classes, or leave the label "
        "empty where an utterance has none."
    )


def _by_bins(raw: RawLabels, options: ReadingOptions) -> NamedLabels:
    values = np.array([math.nan if value is None else value for value in raw.values], float)
    label = cut_labels(values, options.bins)
    wrong = np.flatnonzero((label == UNLABELLED) & ~np.isnan(values))
    if wrong.size:
        low, high = options.bins[0], options.bins[-1]
        raise raw.error(wrong[0], f"lies outside of --bins, which go from {low:g} to {high:g}.")
    return NamedLabels(label, options.classes or name_bins(options.bins))


def _by_number(raw: RawLabels, classes: Sequence[str], found: set[int]) -> NamedLabels:
    """Numbers whose classes are named."""
    values = sorted(found)
    # With a gap before the last class, -1 is no label, and a class is absent from the file.
    is_absent = values[0] == UNLABELLED and 2 < len(classes) == values[-1] + 1
    counted = values[0] < 0 and len(values) == len(classes) and not is_absent
    places = dict(enumerate(classes))
    reading = {v: places.get(v, "") for v in values if v != UNLABELLED}
    if counted:
        reading = dict(zip(values, classes))
    if are_crossed(reading, classes):
        raise UncertainClasses(
            f"{raw.source}: the labels are numbers, and --classes names others by them; it names "
            "them from 0 on, as in --classes=0,1,2 (data.classes in a config)."
        )
    if counted:
        pairs = ", ".join(f"{value} {name}" for value, name in reading.items())
        return _numbered(raw, reading, f"the labels are read as: {pairs}")
    top = len(classes) - 1
    if values[0] == UNLABELLED and values[-1] < top:
        raise UncertainClasses(
            f"{raw.source}: the labels are {', '.join(map(str, values))}, and none is {top} "
            f"({classes[top]}): is -1 the first class? Name a class for each of these numbers by "
            "--classes (data.classes in a config), or put nan where there is no label."
        )
    return _in_range(raw, classes, "")


def _of_corpus(raw: RawLabels, corpus: str, found: set[int]) -> NamedLabels:
    """Numbers of a named corpus; sentiments are written from 0 or from -1 on."""
    classes = CORPORA[corpus]
    if len(classes) == 2 and found <= {-1, 0, 1} and -1 in found:
        return _numbered(raw, dict(zip((-1, 0, 1), SENTIMENT)), "label 0 is neutral")
    return _in_range(raw, classes, f" of {corpus}")


def _by_evidence(
    raw: RawLabels, found: set[int], find_corpus: Callable[[Counter], tuple[str, str]]
) -> NamedLabels:
    """Numbers whose classes have to be found out."""
    low, high = min(found), max(found)
    if low < UNLABELLED:
        raise UncertainClasses(
            f"{raw.source}: the labels go from {low} to {high}; {HOW_TO_CUT}, or name one class "
            f"for each of the {len(found)} numbers by --classes."
        )
    if low < 0 and high < 2:
        raise UncertainClasses(f"{raw.source}: {_sentiments(sorted(found))}")
    counts = Counter(value for value in raw.values if value is not None and value >= 0)
    corpus, reason = find_corpus(counts)
    if not corpus:
        raise UncertainClasses(f"{raw.source}: {reason}; {HOW_TO_NAME}.")
    named = _in_range(raw, CORPORA[corpus], f" of {corpus}")
    return named._replace(corpus=corpus, remarks=_remarks(corpus, reason))


def _sentiments(found: Sequence[int]) -> str:
    """A sentence about labels of -1 and few others, of which -1 may be a class."""
    names = {2: "a,b", 3: ",".join(SENTIMENT)}[len(found)]
    said = (
        f"the labels are {', '.join(map(str, found))}; name a class for each by --classes={names}"
    )
    if len(found) == 3:
        said += f", or one for each but {UNLABELLED} where that is no label"
    return f"{said} (data.classes in a config)."


def _remarks(corpus: str, reason: str) -> tuple[str, ...]:
    names = ", ".join(CORPORA[corpus])
    if corpus == "iemocap4":
        return (
            f"four-way IEMOCAP: labels 0 to 3 are read as {names} (COGMEN's order; others have "
            "angry, happy, sad, neutral): --classes sets another order",
        )
    if reason:
        return (
            f"the classes are taken for {corpus}'s ({names}), as nothing but {reason} tells the "
            "corpus: --classes or --corpus sets others",
        )
    return ()


def _numbered(raw: RawLabels, classes: Mapping[int, str], remark: str) -> NamedLabels:
    number = {value: c for c, value in enumerate(classes)} | {None: UNLABELLED}
    label = np.array([number[value] for value in raw.values], np.int32)
    return NamedLabels(label, tuple(classes.values()), remarks=(remark,))


def _in_range(raw: RawLabels, classes: Sequence[str], whose: str) -> NamedLabels:
    top = len(classes) - 1
    label = np.array([UNLABELLED if v is None else v for v in raw.values], np.int64)
    wrong = np.flatnonzero((label < UNLABELLED) | (label > top))
    if wrong.size:
        raise raw.error(
            wrong[0],
            f"is out of range: labels{whose} go from 0 to {top}, or {UNLABELLED} for none; "
            "--classes and --corpus name others.",
        )
    return NamedLabels(label.astype(np.int32), tuple(classes))
