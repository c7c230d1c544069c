"""What an entry of a pickle holds: tables of dialogues, lists of ids, and their values.

A table is a dictionary: dialogue id -> one value per utterance, as a list, a tuple or an array.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from cberl_jax.data.readers.unpickling import MAX_KEY, PickledArray
from cberl_jax.errors import UserError

Table = Mapping[str, object]
_NUMBERS = (int, float, bool, np.integer, np.floating, np.bool_)


def rows_of(value: object) -> Sequence | None:
    """The utterances of a dialogue, or None if this is no list of anything.

    An array [T, 1, d] is read as [T, d].
    """
    value = value.value if isinstance(value, PickledArray) else value
    if isinstance(value, np.ndarray):
        if value.ndim == 3 and value.shape[1] == 1:
            return value[:, 0]
        return value if value.ndim else None
    return value if isinstance(value, list | tuple) else None


def utterances(table: Table, ids: Sequence[str]) -> Iterator[tuple[str, int, object]]:
    """The dialogue id, the turn and the value of every utterance."""
    for key in ids:
        for turn, value in enumerate(rows_of(table[key])):
            yield key, turn, value


def place_of(key: object, turn: int) -> str:
    """The place of an utterance in words, for messages."""
    return f"dialogue {shown(key)}, utterance {turn}"


def vector_of(value: object) -> np.ndarray | None:
    """[d] numbers, or None if this is no vector; [1, d] is read as [d]."""
    rows = rows_of(value)
    if rows is not None and len(rows) == 1 and rows_of(rows[0]) is not None:
        rows = rows_of(rows[0])
    # Nested lists never reach numpy: shared ones would grow without bound there.
    if rows is None or (
        not isinstance(rows, np.ndarray) and not all(isinstance(x, _NUMBERS) for x in rows)
    ):
        return None
    try:
        array = np.asarray(rows)
    except OverflowError:  # an integer beyond any float
        return None
    return array if array.ndim == 1 and array.dtype.kind in "biuf" else None


def width_of(value: object) -> int:
    """Numbers in a row, 0 if it is none."""
    rows = rows_of(value)
    return 0 if rows is None else len(rows)


def kind_of(entry: object) -> str:
    """What an entry of the file holds, judged by its first utterance."""
    if isinstance(entry, dict):
        rows = (rows_of(value) for value in entry.values())
        first = next((row[0] for row in rows if row is not None and len(row)), None)
        if isinstance(first, str):
            return "text"
        if isinstance(first, bool | np.bool_):
            return "booleans"
        if isinstance(first, int | np.integer):
            return "integers"
        if isinstance(first, float | np.floating):
            return "real numbers"
        if rows_of(first) is not None:
            return "vectors"
        if isinstance(first, bytes):
            return "bytes (decode them)"
        return "no values" if first is None else f"values of type {type(first).__name__}"[:60]
    return "ids" if rows_of(entry) is not None or isinstance(entry, set) else "no dictionary"


def keyed_by_text(table: Mapping, source: str) -> dict[str, object]:
    """A table whose dialogue ids are text: files mix the number 7 and the text '7'.

    Raises:
      UserError: two ids would become one.
    """
    keyed = {str(key): value for key, value in table.items()}
    if len(keyed) < len(table):
        names = sorted(map(str, table))
        twice = next(a for a, b in zip(names, names[1:]) if a == b)
        raise UserError(f"{source}: two dialogues are named {shown(twice)}.")
    return keyed


def ids_of(entry: object, what: str, source: str) -> frozenset[str]:
    """The dialogue ids of a list.

    Args:
      entry: a list, a tuple, an array or a set of text and integers.
      what: the list's name, for messages.
      source: the file's name.

    Returns:
      The ids as text.

    Raises:
      UserError: one is of another type, or is there twice.
    """
    values = entry if isinstance(entry, set) else rows_of(entry)
    values = values.tolist() if isinstance(values, np.ndarray) else values
    # Larger integers can be chosen so that all land in one slot of a set.
    if not all(isinstance(x, str) or (isinstance(x, int) and abs(x) < MAX_KEY) for x in values):
        raise UserError(f"{source}: an id of {what} is neither text nor an integer of 32 bits.")
    unique = frozenset(map(str, values))
    if len(unique) < len(values):
        raise UserError(f"{source}: an id is listed twice in {what}.")
    return unique


def shown(value: object) -> str:
    """A value in quotes, for messages; a long one is cut."""
    # Python refuses to print integers of thousands of digits.
    is_long = isinstance(value, int) and value.bit_length() > 256
    return "a huge number" if is_long else repr(str(value))[:80]
