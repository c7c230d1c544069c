"""Features of a person's own data as [N, d] tables in the order of the corpus."""

import difflib
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from cberl_jax.config.views import modality_of
from cberl_jax.data.columns import as_name, is_missing
from cberl_jax.data.corpus import shown
from cberl_jax.errors import UserError


class Rows(NamedTuple):
    """How rows of a table become utterances.

    Attributes:
      error: makes an error that opens with the table's name.
      order: [N] int, the row of each utterance.
      dialogue: [G] str, names.
      length: [G] int32, utterances per dialogue.
      name: [N] str, the dialogue of each utterance.
    """

    error: Callable[[str], UserError]
    order: np.ndarray
    dialogue: np.ndarray
    length: np.ndarray
    name: np.ndarray


def nearest(name: str, known: Iterable[str]) -> str:
    """``; the nearest known is 'x'``, or nothing where no name is alike."""
    found = difflib.get_close_matches(str(name), [str(k) for k in known], n=1)
    return f"; the nearest is {shown(found[0])}" if found else ""


def to_features(
    rows: Rows, features: Mapping[str, Any], feature_dialogue: Any = None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Features and presence of each modality.

    Args:
      rows: of the table.
      features: modality -> [N, d] in the order of the table's rows, or dialogue -> [T, d] in the
        order of its turns. A row of NaN, or None, is an absent modality.
      feature_dialogue: [N] names of dialogues, of each row of all such [N, d], or modality -> [N],
        which counts for all views of the modality.

    Returns:
      modality -> [N, d] float32 with zeros where it is absent, and modality -> [N] bool.

    Raises:
      UserError: naming the modality and what does not fit.
    """
    if not isinstance(features, Mapping) or not features:
        raise rows.error("features has to be a dictionary: modality -> array, or -> dialogues")
    if isinstance(feature_dialogue, Mapping):
        _check_names(rows, features, feature_dialogue)
    values, present = {}, {}
    for modality, given in features.items():
        if isinstance(given, Mapping):
            table = _join_dialogues(rows, modality, given)
        else:
            table = _to_table(rows, modality, given)
            if len(table) != len(rows.order):
                turned = "; it is transposed" * (table.shape[1] == len(rows.order))
                raise rows.error(
                    f"{modality} has {len(table)} rows and the table has {len(rows.order)}{turned}"
                )
            _check_alignment(rows, modality, feature_dialogue)
            table = table[rows.order]
        absent = np.isnan(table).all(axis=1)
        present[modality] = ~absent
        values[modality] = np.where(absent[:, None], np.float32(0), table)
    return values, present


def _name(value: Any) -> str:
    return as_name(value) or str(value)


def _check_names(rows: Rows, features: Iterable[str], given: Iterable[Any]) -> None:
    """Refuses dialogues of what is not there: nothing would be compared with them."""
    names = list(map(str, features))
    known = {*names, *map(modality_of, names)}
    for name in map(str, given):
        if name not in known:
            raise rows.error(
                f"feature_dialogue names {shown(name)}, which features lacks{nearest(name, known)}"
            )


def _check_alignment(rows: Rows, modality: str, given: Any) -> None:
    """Compares the dialogue that each row of features is of with the table's."""
    if isinstance(given, Mapping):
        # Of a modality it counts for all of its views.
        given = given.get(modality, given.get(modality_of(modality)))
    if given is None:
        return
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise rows.error(f"feature_dialogue of {modality} has to be a list, not {given!r}")
    given = np.array([_name(name) for name in given], np.str_)
    if len(given) != len(rows.order):
        raise rows.error(
            f"feature_dialogue of {modality} has {len(given)} entries for {len(rows.order)} rows"
        )
    differs = np.flatnonzero(given[rows.order] != rows.name)
    if differs.size:
        row = int(rows.order[differs].min())
        where = int(np.flatnonzero(rows.order == row)[0])
        raise rows.error(
            f"row {row} of {modality} is of dialogue {shown(given[row])}, and row {row} of the "
            f"table of {shown(rows.name[where])}: bring the features into the order of the table"
        )


def _join_dialogues(rows: Rows, modality: str, given: Mapping[Any, Any]) -> np.ndarray:
    """[N, d] of arrays per dialogue; NaN for the dialogues that are not among them."""
    by_name = {_name(name): value for name, value in given.items()}
    if len(by_name) < len(given):
        names = sorted(map(_name, given))
        twice = next(one for one, other in zip(names, names[1:]) if one == other)
        raise rows.error(f"{modality} has two arrays for dialogue {shown(twice)}")
    known = set(rows.dialogue.tolist())
    for name in by_name:
        if name not in known:
            raise rows.error(
                f"{modality} names {shown(name)}, which is no dialogue of the table"
                f"{nearest(name, known)}; its keys are dialogues, each with an array of a row per "
                "turn"
            )
    parts: list[np.ndarray | None] = []
    for name, length in zip(rows.dialogue.tolist(), rows.length.tolist()):
        table = _to_table(rows, modality, by_name[name]) if name in by_name else None
        if table is not None and len(table) != length:
            raise rows.error(
                f"dialogue {shown(name)} has {length} turns and {len(table)} rows of {modality}"
            )
        parts.append(table)
    widths = {part.shape[1] for part in parts if part is not None}
    if len(widths) != 1:
        found = f"widths {', '.join(map(str, sorted(widths)))}" if widths else "no dialogue"
        raise rows.error(f"{modality} has {found}; one width is needed")
    width = widths.pop()
    filled = [
        np.full((length, width), np.nan, np.float32) if part is None else part
        for part, length in zip(parts, rows.length)
    ]
    return np.concatenate(filled)


def _to_table(rows: Rows, modality: str, given: Any) -> np.ndarray:
    """[n, d] float32 of anything that is a table of numbers; a missing row is NaN."""
    if isinstance(given, os.PathLike):
        raise rows.error(f"{modality} is a path; give the array: numpy.load({os.fspath(given)!r})")
    try:
        array = np.asarray(given)
    except ValueError:  # Rows of different lengths.
        array = np.empty(len(given), object)
        array[:] = list(given)
    except Exception as error:  # What a tensor on another device raises is the library's own.
        raise rows.error(f"{modality} cannot become a numpy array ({error})") from error
    if array.dtype == object and array.ndim == 1:
        array = _stack(rows, modality, array)
    if array.ndim == 3 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 1 and array.dtype != object:
        array = array[:, None]
    if array.ndim != 2:
        raise rows.error(
            f"{modality} has the shape {array.shape}; a row of numbers per utterance is needed"
            f"{'; the mean over axis 1 makes one of frames' if array.ndim == 3 else ''}"
        )
    try:
        if array.dtype.kind not in "biufO":
            raise TypeError(f"holds {array.dtype} values")
        # A number beyond float32 becomes infinite, which is reported as such.
        with np.errstate(over="ignore"):
            return array.astype(np.float32)
    except (TypeError, ValueError) as error:
        way_out = "; make it one by astype('float32')" if array.dtype.kind in "OSU" else ""
        raise rows.error(f"{modality} is no table of numbers ({error}){way_out}") from error


def _stack(rows: Rows, modality: str, cells: np.ndarray) -> np.ndarray:
    """[n, d] of a list of vectors, in which None or NaN stands for a missing one."""
    vectors = [None if np.ndim(cell) == 0 and is_missing(cell) else cell for cell in cells]
    flat = [None if vector is None else np.ravel(vector) for vector in vectors]
    widths = {len(vector): row for row, vector in enumerate(flat) if vector is not None}
    if len(widths) != 1:
        found = ", ".join(f"row {row} has {width}" for width, row in widths.items())
        raise rows.error(f"{modality} needs vectors of one width; {found or 'there is none'}")
    nothing = np.full(next(iter(widths)), np.nan)
    return np.stack([nothing if vector is None else vector for vector in flat])
