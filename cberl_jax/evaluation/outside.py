"""Predictions of a model from outside, brought into the order of a run's test utterances.

A ``.csv`` file has a line per utterance: ``dialogue``, ``utterance`` (the turn, from 0), and either
``label`` (the name of a class) or a column of probabilities per class, named by the class. A column
``seed`` tells several trainings of the model apart. An ``.npz`` file has the arrays ``dialogue``
[n] str, ``utterance`` [n] int and ``probability`` [n, C] or [S, n, C], the classes in the run's
order or in that of an array ``classes``, or ``label`` [n] or [S, n], names or numbers of classes.
Whole numbers count classes in the run's order, from 0, where not all labels are names of classes.
"""

import csv
import os
import pathlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cberl_jax.data.labels import are_crossed
from cberl_jax.errors import UserError
from cberl_jax.evaluation.outcomes import Outcome

KEY = ("dialogue", "utterance")
# How far the probabilities of an utterance may be from a sum of 1: files are often rounded.
TOLERANCE = 0.02


class Rows(NamedTuple):
    """Predictions in the order of their file.

    Attributes:
      dialogue: [n] str.
      utterance: [n] str or int.
      probability: [S, n, C], classes in the run's order.
    """

    dialogue: Sequence[str]
    utterance: Sequence[str]
    probability: np.ndarray


def read_predictions(path: str | os.PathLike, run: Outcome) -> Outcome:
    """Reads predictions for exactly the test utterances of a run.

    Args:
      path: of a ``.csv`` or ``.npz`` file, see the head of this module.
      run: whose test split it is.

    Returns:
      The outcome, with the labels of the run. Its seeds are below zero: they are no run's.

    Raises:
      UserError: the file cannot be read, or does not fit the test split; the message names the
        place.
    """
    path = pathlib.Path(path)
    readers = {".csv": _read_csv, ".npz": _read_npz}
    if path.suffix.lower() not in readers:
        raise UserError(f"{path}: predictions are read from .csv or .npz files")
    try:
        tables = readers[path.suffix.lower()](path, run.classes)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    members = [member for rows in tables for member in _bring_in_order(path, rows, run)]
    return Outcome(
        path.stem,
        run.classes,
        -1 - np.arange(len(members)),
        np.stack(members),
        run.label,
        run.dialogue,
        run.utterance,
    )


def _bring_in_order(path: pathlib.Path, rows: Rows, run: Outcome) -> np.ndarray:
    """[S, n, C] probabilities in the run's order."""
    _check_probabilities(path, rows)
    place: dict[tuple[str, int], int] = {}
    for number, key in enumerate(zip(rows.dialogue, rows.utterance)):
        try:
            named = (str(key[0]), int(key[1]))
            if named[1] != float(key[1]):
                raise ValueError
        except (ValueError, OverflowError):
            raise UserError(
                f"{path}: utterance {key[1]!r} of dialogue {key[0]!r} is no turn number, from 0"
            ) from None
        if named in place:
            raise UserError(f"{path}: {_spell(named)} is there twice")
        place[named] = number
    wanted = list(zip(map(str, run.dialogue.tolist()), run.utterance.tolist()))
    for lacking, what in (
        ([key for key in wanted if key not in place], f"lacks {{}} of the {len(wanted)}"),
        (sorted(place.keys() - set(wanted)), "has {} that are not among the"),
    ):
        if lacking:
            raise UserError(
                f"{path}: {what.format(len(lacking))} test utterances of {run.name}, such as "
                f"{_spell(lacking[0])}; dialogues are named as in the corpus, turns count from 0"
            )
    return rows.probability[:, [place[key] for key in wanted]]


def _spell(key: tuple[str, int]) -> str:
    return f"utterance {key[1]} of dialogue {key[0]!r}"


def _check_probabilities(path: pathlib.Path, rows: Rows) -> None:
    values = rows.probability
    total = values.sum(axis=-1)
    wrong = ~np.isfinite(values).all(axis=-1) | (values < 0).any(axis=-1)
    wrong |= ~(np.abs(total - 1) <= TOLERANCE)
    if wrong.any():
        number = int(np.argwhere(wrong)[0][1])
        raise UserError(
            f"{path}: dialogue {rows.dialogue[number]!r}, utterance {rows.utterance[number]}: the "
            "probabilities of the classes have to be from 0 to 1 and to sum to 1"
        )


def _one_hot(numbers: np.ndarray, classes: int) -> np.ndarray:
    return np.eye(classes)[numbers]


def _place_labels(
    path: pathlib.Path, labels: Sequence[object], classes: Sequence[str]
) -> dict[str, int]:
    """Each label's place: labels are names, or numbers where not all of them are names."""
    names = {name: place for place, name in enumerate(classes)}
    numbers = {str(place): place for place in names.values()}
    texts = {str(label) for label in labels}
    if texts <= numbers.keys():
        crossed = are_crossed({numbers[text]: classes[numbers[text]] for text in texts}, classes)
        if crossed and not any(isinstance(label, str) for label in labels):
            raise UserError(
                f"{path}: its labels are numbers, and so are the names of classes, in other places "
                f"({', '.join(classes)}); write the names as text"
            )
        if not texts <= names.keys():
            return numbers
    for label in labels:
        if str(label) not in names:
            raise UserError(f"{path}: there is no class {str(label)!r}, only {', '.join(classes)}")
    return names


def _read_csv(path: pathlib.Path, classes: Sequence[str]) -> list[Rows]:
    """The rows of a .csv file, a table per seed."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        lines = list(reader)
        columns = list(reader.fieldnames or [])
    repeated = next((name for name in columns if columns.count(name) > 1), None)
    if repeated is not None:
        raise UserError(f"{path}: the column {repeated!r} is there twice")
    lacking = [name for name in KEY if name not in columns]
    if lacking or not ("label" in columns or set(classes) <= set(columns)):
        needed = ", ".join([*KEY, "and label, or a column per class"])
        raise UserError(
            f"{path}: needs the columns {needed} ({', '.join(classes)}); it has "
            f"{', '.join(columns) or 'none'}"
        )
    for number, line in enumerate(lines, start=2):
        if None in line or None in line.values():
            raise UserError(f"{path}: line {number} has another number of columns than the first")
    if not lines:
        raise UserError(f"{path}: holds no prediction")
    places = None
    if not set(classes) <= set(columns):
        # Of all seeds together: one may lack the label that tells names from numbers.
        places = _place_labels(path, [line["label"] for line in lines], classes)
    by_seed: dict[str, list[dict[str, str]]] = {}
    for line in lines:
        by_seed.setdefault(line.get("seed", ""), []).append(line)
    return [_read_lines(path, own, classes, places) for own in by_seed.values()]


def _read_lines(
    path: pathlib.Path,
    lines: Sequence[dict[str, str]],
    classes: Sequence[str],
    places: Mapping[str, int] | None,
) -> Rows:
    """A seed's lines; ``places`` of labels, None where there is a column per class."""
    if places is None:
        try:
            values = np.asarray([[float(line[name]) for name in classes] for line in lines])
        except ValueError as error:
            raise UserError(f"{path}: a probability is no number ({error})") from error
    else:
        values = _one_hot(np.asarray([places[line["label"]] for line in lines]), len(classes))
    dialogue, utterance = ([line[name] for line in lines] for name in KEY)
    return Rows(dialogue, utterance, values[None])


def _read_npz(path: pathlib.Path, classes: Sequence[str]) -> list[Rows]:
    """The one table of an .npz file."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    lacking = [name for name in KEY if name not in arrays]
    if lacking or not {"probability", "label"} & arrays.keys():
        raise UserError(
            f"{path}: needs the arrays {', '.join(KEY)} and probability or label; it has "
            f"{', '.join(arrays) or 'none'}"
        )
    shapes = {name: arrays[name].shape for name in KEY}
    number = arrays["dialogue"].size
    if set(shapes.values()) != {(number,)} or not number:
        raise UserError(
            f"{path}: dialogue and utterance have to be lists of one length, an entry per test "
            f"utterance, not arrays of shape {' and '.join(map(str, shapes.values()))}"
        )
    if "probability" in arrays:
        values = _order_classes(path, arrays, classes)
    else:
        label = np.atleast_2d(arrays["label"])
        places = _place_labels(path, label.ravel().tolist(), classes)
        numbers = [places[str(value)] for value in label.ravel().tolist()]
        values = _one_hot(np.reshape(np.asarray(numbers, int), label.shape), len(classes))
    if values.shape != (len(values), number, len(classes)) or not len(values):
        raise UserError(
            f"{path}: its arrays do not fit together: {number} dialogue names, predictions "
            f"{values.shape} (members, utterances, classes)"
        )
    return [Rows(arrays["dialogue"].tolist(), arrays["utterance"].tolist(), values)]


def _order_classes(
    path: pathlib.Path, arrays: dict[str, np.ndarray], classes: Sequence[str]
) -> np.ndarray:
    """[S, n, C] probabilities, classes in the run's order."""
    if arrays["probability"].dtype.kind not in "fiu":
        raise UserError(f"{path}: its probabilities are {arrays['probability'].dtype}, no numbers")
    values = arrays["probability"].astype(np.float64)
    values = values[None] if values.ndim == 2 else values
    own = arrays["classes"].tolist() if "classes" in arrays else list(classes)
    if values.ndim != 3 or values.shape[2] != len(own) or sorted(own) != sorted(classes):
        raise UserError(
            f"{path}: its probabilities {arrays['probability'].shape} have to have one column per "
            f"class of the run: {', '.join(classes)}"
        )
    return values[:, :, [own.index(name) for name in classes]]
