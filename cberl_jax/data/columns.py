"""Columns of a person's table as arrays of one form, converted where nothing is lost.

Text stays text and whole numbers become text where names are wanted; labels are names of classes or
whole numbers; nothing, None, NaN and an empty text are a missing value.
"""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from cberl_jax.data.corpus import SPLIT_NAMES, UNLABELLED, shown
from cberl_jax.data.labels import are_crossed, cut_labels, name_bins
from cberl_jax.errors import UserError

CUT_REAL_VALUES = (
    "cut real values into named classes by edges, such as bins=[-3, 0, 3] (from the shell "
    "--bins=-3,0,3)"
)
LARGEST_LABEL = 2**31


class FileColumns(dict):
    """Columns of a file: name -> [N] cells; ``lines`` are the [N] lines that the rows stand in."""

    def __init__(self, columns: Mapping[str, Sequence[str]], lines: Sequence[int]):
        super().__init__(columns)
        self.lines = lines


def _column_names(frame: Any) -> list[str] | None:
    """Names of the columns of a DataFrame, or of a table of pyarrow; None of anything else."""
    for attribute in ("column_names", "columns"):
        names = getattr(frame, attribute, None)
        if names is not None and not callable(names) and hasattr(frame, "__getitem__"):
            return list(names)
    return None


class Table:
    """Anything with columns, read as numpy arrays.

    Attributes:
      names: of its columns.
      source: what it is called in messages.
    """

    def __init__(self, frame: Any, source: str):
        """Args: a mapping of columns, or an object with ``columns``; its name.

        Raises:
          UserError: it has no columns.
        """
        self.source = source
        if isinstance(frame, np.ndarray) and frame.dtype.names:
            frame = {name: frame[name] for name in frame.dtype.names}
        names = frame if isinstance(frame, Mapping) else _column_names(frame)
        if names is None:
            raise UserError(
                f"{source}: {type(frame).__name__} has no columns; give a DataFrame, or a "
                "dictionary of lists"
            )
        self.names = [name for name in names if isinstance(name, str)]
        self._frame = frame
        self._lines = frame.lines if isinstance(frame, FileColumns) else None
        self._length: tuple[str, int] | None = None

    def column(self, name: str) -> np.ndarray:
        """[N] values of any type.

        Raises:
          UserError: there are two of that name, its cells are not single values, or they are not as
            many as those of the column that was read first.
        """
        values = self._frame[name]
        # numpy itself would turn the numbers of a mixed list into text.
        is_list = isinstance(values, list | tuple)
        values = np.fromiter(values, object, len(values)) if is_list else np.asarray(values)
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if values.ndim != 1:
            raise self.error(f"the column {shown(name)} is a table of shape {values.shape}")
        self._length = self._length or (name, len(values))
        if len(values) != self._length[1]:
            raise self.error(
                f"{shown(name)} has {len(values)} entries and {shown(self._length[0])} has "
                f"{self._length[1]}"
            )
        return values

    def place(self, row: int) -> str:
        """A row in words; counted from 0, or a line of the file."""
        return f"row {row}" if self._lines is None else f"line {self._lines[row]}"

    def error(self, message: str) -> UserError:
        """An error that opens with the name of the table."""
        return UserError(f"{self.source}: {message}")


def is_missing(value: Any) -> bool:
    """Whether a cell holds nothing: None, NaN, pandas' NA and NaT, or an empty text."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, Real):
        return bool(value != value)
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def _as_whole(value: Any) -> int | None:
    """A whole number as int, whatever type it has; None for anything else."""
    if isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real) and float(value).is_integer():
        return int(value)
    return None


def as_name(value: Any) -> str | None:
    """A text, or a whole number as text; None for anything else."""
    if isinstance(value, str):
        return str(value)
    whole = _as_whole(value)
    return None if whole is None else str(whole)


def to_names(table: Table, column: str) -> np.ndarray:
    """[N] str: dialogues or speakers.

    Raises:
      UserError: a cell is missing, or neither text nor a whole number.
    """
    names = []
    for row, value in enumerate(table.column(column)):
        name = None if is_missing(value) else as_name(value)
        if name is None:
            what = "is empty" if is_missing(value) else f"holds {value!r}, which is no name"
            raise table.error(f"{table.place(row)}: the column {shown(column)} {what}")
        names.append(name)
    return np.array(names, np.str_)


def to_text(table: Table, column: str) -> np.ndarray:
    """[N] str: transcripts; empty where there is none."""
    values = table.column(column)
    return np.array(["" if is_missing(v) else (as_name(v) or str(v)) for v in values], np.str_)


def to_numbers(table: Table, column: str) -> np.ndarray:
    """[N] float64: numbers, or texts that spell them.

    Raises:
      UserError: a cell is something else, or not finite.
    """
    numbers = []
    for row, value in enumerate(table.column(column)):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = np.nan
        if not np.isfinite(number):
            raise table.error(
                f"{table.place(row)}: the column {shown(column)} holds {value!r}, no number"
            )
        numbers.append(number)
    return np.array(numbers)


def to_splits(table: Table, column: str) -> np.ndarray:
    """[N] str, each train, dev or test; ``val``, ``valid`` and ``validation`` are dev.

    Raises:
      UserError: a cell is missing or another word.
    """
    splits = []
    for row, value in enumerate(table.column(column)):
        word = "" if is_missing(value) else str(value).strip().lower()
        if word not in SPLIT_NAMES:
            near = difflib.get_close_matches(word, SPLIT_NAMES, 1)
            hint = f"did you mean {near[0]!r}?" if near else "use train, dev or test"
            raise table.error(
                f"{table.place(row)}: the split is {shown(word)}; {hint}"
                if word
                else f"{table.place(row)}: the column {shown(column)} is empty; {hint}"
            )
        splits.append(SPLIT_NAMES[word])
    return np.array(splits)


def to_labels(
    table: Table, column: str, classes: Sequence[str] | None, bins: Sequence[float] = ()
) -> tuple[tuple[str, ...], np.ndarray]:
    """Names of the classes, and [N] int32 labels; a missing cell is no label.

    Labels are names, or whole numbers of any type. Without ``classes`` the classes are the labels
    that there are, in alphabetical or numerical order. With them a number is a place in that list
    and -1 is no label. ``bins`` are the edges that cut real numbers into classes.

    Raises:
      UserError: a label is neither, is none of the classes, or its meaning is not certain.
    """
    if len(bins):
        return _cut_labels(table, column, classes, bins)
    values = table.column(column)
    there = np.flatnonzero([not is_missing(value) for value in values])
    if not there.size:
        raise table.error(f"the column {shown(column)} has no label")
    names = None if classes is None else tuple(str(name) for name in classes)
    numbers = _whole_labels(table, column, there, names)
    label = np.full(len(values), UNLABELLED, np.int32)
    if numbers is None:
        found = [str(values[row]).strip() for row in there]
        if "nan" in found:
            # numpy makes this of a missing value in a list of texts.
            row = there[found.index("nan")]
            raise table.error(f"{table.place(row)}: the label is 'nan'; leave such a cell empty")
        names = names or tuple(sorted(set(found)))
        place = {name: number for number, name in enumerate(names)}
        for row, name in zip(there.tolist(), found):
            if name not in place:
                raise table.error(
                    f"{table.place(row)}: the label {shown(name)} is none of the classes "
                    f"{', '.join(names)}{_near(name, names)}; an empty cell means no label"
                )
            label[row] = place[name]
        return names, label
    if names is None:
        return _number_classes(table, column, there, numbers, label)
    _check_numbers(table, there, numbers, names)
    label[there] = numbers
    return names, label


def _cut_labels(
    table: Table, column: str, classes: Sequence[str] | None, bins: Sequence[float]
) -> tuple[tuple[str, ...], np.ndarray]:
    """As ``to_labels``, of real numbers."""
    if not all(low < high for low, high in zip(bins, bins[1:])):
        raise table.error(f"bins = {list(bins)}: have to be rising numbers, such as [-3, 0, 3]")
    numbers = []
    for row, value in enumerate(table.column(column)):
        number = math.nan if is_missing(value) else _as_number(value)
        if number is None:
            raise table.error(f"{table.place(row)}: the label is {value!r}, which bins cannot cut")
        numbers.append(number)
    label = cut_labels(np.array(numbers), bins)
    wrong = np.flatnonzero((label == UNLABELLED) & ~np.isnan(numbers))
    if wrong.size:
        raise table.error(
            f"{table.place(wrong[0])}: the label is {numbers[wrong[0]]:g}, outside of bins, which "
            f"go from {bins[0]:g} to {bins[-1]:g}"
        )
    names = name_bins(bins) if classes is None else tuple(str(name) for name in classes)
    if len(names) != len(bins) - 1:
        raise table.error(
            f"bins of {len(bins)} edges cut {len(bins) - 1} classes, but classes names {len(names)}"
        )
    return names, label


def _as_number(value: Any) -> float | None:
    """A number, or a text that spells one; None for anything else."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, str | Real):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _near(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def _whole_labels(
    table: Table, column: str, there: np.ndarray, names: tuple[str, ...] | None
) -> np.ndarray | None:
    """[n] int labels where all that are there are whole numbers; None where they are names."""
    values = table.column(column)[there]
    texts = [isinstance(value, str) for value in values]
    if all(texts) and names is not None and set(map(str.strip, values)) <= set(names):
        return None
    numbers = [_as_number(value) for value in values]
    if all(number is not None and math.isfinite(number) for number in numbers):
        for row, number in zip(there.tolist(), numbers):
            if number != round(number) or abs(number) > LARGEST_LABEL:
                raise table.error(f"{table.place(row)}: the label is {number:g}; {CUT_REAL_VALUES}")
        return np.array(numbers, np.int64)
    for row, value in zip(there.tolist(), values):
        if not isinstance(value, str) and _as_whole(value) is None:
            way_out = ", so decode it to text" if isinstance(value, bytes) else ""
            raise table.error(
                f"{table.place(row)}: the label is {value!r}; labels are names or whole numbers"
                f"{way_out}"
            )
    if not all(texts):
        raise table.error(f"the column {shown(column)} holds names and numbers; use one of them")
    return None


def _number_classes(
    table: Table, column: str, there: np.ndarray, numbers: np.ndarray, label: np.ndarray
) -> tuple[tuple[str, ...], np.ndarray]:
    """Classes that are named by their numbers."""
    known, place = np.unique(numbers, return_inverse=True)
    if known[0] < 0:
        row = int(there[numbers.argmin()])
        raise table.error(
            f"{table.place(row)}: the label is {known[0]}, which may be a class or no label; give "
            "the labels by name, with an empty cell for no label"
        )
    label[there] = place
    return tuple(str(number) for number in known), label


def _check_numbers(
    table: Table, there: np.ndarray, numbers: np.ndarray, names: tuple[str, ...]
) -> None:
    top = len(names) - 1
    found = sorted(set(numbers.tolist()) - {UNLABELLED})
    if are_crossed({n: names[n] if 0 <= n <= top else "" for n in found}, names):
        raise table.error(
            f"{table.place(there[0])}: the labels are numbers, and classes names others by them: "
            f"is {found[0]} the class {shown(str(found[0]))}, or the one at place {found[0]}, from "
            "0? Give the labels as text, with an empty cell for no label"
        )
    wrong = np.flatnonzero((numbers < UNLABELLED) | (numbers > top))
    if wrong.size:
        raise table.error(
            f"{table.place(there[wrong[0]])}: the label is {numbers[wrong[0]]}; the {len(names)} "
            f"classes are numbered from 0 to {top}, and an empty cell means no label"
        )
    if numbers.min() < 0 and not np.any(numbers == top):
        row = int(there[numbers.argmin()])
        raise table.error(
            f"{table.place(row)}: the label is -1 and no label is {top} ({names[top]}); is -1 the "
            "first class? Give the labels by name, with an empty cell for no label"
        )
