"""A corpus of a person's own data: a table with a row per utterance, and arrays of features.

``Corpus.from_frame`` and ``Corpus.from_arrays`` come here. A table is anything that has columns: a
DataFrame, or a mapping of names to lists; no library of tables is imported. What can be
brought into the corpus's form without loss is brought into it (``columns.py``,
``feature_tables.py``); all else is refused by a sentence that names the row and the way out.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import numpy as np

from cberl_jax.data.columns import Table, to_labels, to_names, to_numbers, to_splits, to_text
from cberl_jax.data.corpus import UNLABELLED, Corpus, shown
from cberl_jax.data.feature_tables import Rows, nearest, to_features
from cberl_jax.data.splits import hold_out
from cberl_jax.data.validate import validate
from cberl_jax.errors import UserError

# The columns of ``from_frame``; those from ``label`` on need not be there.
COLUMNS = ("dialogue", "speaker", "label", "split", "utterance", "turn")
NEEDED = ("dialogue", "speaker")
# Columns that hold the transcript, of which the first that is there is read.
TRANSCRIPTS = ("utterance", "text")
OPTIONS = (
    "features",
    "classes",
    "bins",
    "dev_share",
    "test_share",
    "seed",
    "feature_dialogue",
    "source",
)
UNKNOWN = 0.75  # likeness from which a column's name is taken for a slip of the pen


class Splits(NamedTuple):
    """How splits come about.

    Attributes:
      dev: share of the train dialogues that become dev, where there is no dev split.
      test: the same for test.
      seed: of the choice.
    """

    dev: float = 0.0
    test: float = 0.0
    seed: int = 0


def check_columns(columns: Mapping[str, Any], source: str) -> None:
    """Refuses names that are none of ``COLUMNS``.

    Raises:
      UserError: with the nearest that is.
    """
    for name in columns:
        if name not in COLUMNS:
            raise UserError(
                f"{source}: {shown(name)} is no column of a corpus and no option"
                f"{nearest(name, (*COLUMNS, *OPTIONS))}; the columns are {', '.join(COLUMNS)}"
            )


def _check_forms(source: str, classes: Any, bins: Any) -> None:
    """Refuses names of classes that are one text, and bins that are no list of numbers.

    A text is a list too, of its letters.
    """
    for what, given in (("classes", classes), ("bins", bins)):
        if given is None:
            continue
        if isinstance(given, str | bytes) or not isinstance(given, Iterable):
            raise UserError(f"{source}: {what} has to be a list, not {given!r}")
    if not all(isinstance(edge, Real) for edge in bins):
        raise UserError(f"{source}: bins has to be a list of numbers, not {list(bins)!r}")


def from_frame(
    frame: Any,
    features: Mapping[str, Any],
    *,
    columns: Mapping[str, str | None],
    classes: Sequence[str] | None,
    splits: Splits,
    bins: Sequence[float] = (),
    feature_dialogue: Any = None,
    to_predict: bool = False,
    source: str = "frame",
) -> Corpus:
    """Makes a corpus of a table; arguments as of ``Corpus.from_frame``.

    Args:
      frame: the table.
      features: modality -> rows, or dialogue -> rows.
      columns: of ``COLUMNS``, the name of the column in the table, or None for none; what is not
        named is the column of that name, where there is one.
      classes: names of the classes, or None.
      bins: edges that cut labels that are real numbers, or none.
      splits: shares to hold out.
      feature_dialogue: names of dialogues to check the rows of features by, or None.
      to_predict: whether labels and splits are not needed.
      source: name of the table, for messages.

    Raises:
      UserError: naming the column and the row.
    """
    _check_forms(source, classes, bins)
    table = Table(frame, source)
    chosen = _choose_columns(table, columns, to_predict)
    names = to_names(table, chosen["dialogue"])
    order, dialogue, length = _order_rows(table, names, chosen["turn"])
    rows = Rows(table.error, order, dialogue, length, names[order])
    if isinstance(features, Mapping):
        features = {m: _find_features(table, frame, m, given) for m, given in features.items()}
    values, present = to_features(rows, features, feature_dialogue)
    label = np.full(len(order), UNLABELLED, np.int32)
    if chosen["label"]:
        classes, label = to_labels(table, chosen["label"], classes, bins)
    label = label[order]
    split = np.full(len(dialogue), "test")
    if not to_predict:
        split = _read_splits(table, chosen["split"], names, dialogue, splits)
        split = _draw_splits(table, split, label, length, splits)
    corpus = Corpus(
        classes=tuple(classes or ()),
        dialogue=dialogue,
        split=split,
        length=length,
        speaker=to_names(table, chosen["speaker"])[order],
        label=label,
        features=values,
        present=present,
        utterance=to_text(table, chosen["utterance"])[order] if chosen["utterance"] else None,
        source=source,
    )
    return validate(corpus, to_predict=to_predict)


def _find_features(table: Table, frame: Any, modality: str, given: Any) -> Any:
    """Features as they were given, or the column of vectors that was named.

    Raises:
      UserError: there is no such column, or two DataFrames have rows in different orders.
    """
    if isinstance(given, str):
        if given not in table.names:
            raise table.error(
                f"has no column {shown(given)} for {modality}{nearest(given, table.names)}; of a "
                "file give the array: numpy.load(...)"
            )
        return table.column(given)
    own, other = getattr(given, "index", None), getattr(frame, "index", None)
    if hasattr(own, "equals") and hasattr(other, "equals") and not own.equals(other):
        raise table.error(
            f"the index of {modality} is not that of the table, so their rows may be in different "
            "orders; bring both into one order, or give an array"
        )
    return given


def _choose_columns(
    table: Table, asked: Mapping[str, str | None], to_predict: bool
) -> dict[str, str | None]:
    """The table's column for each of ``COLUMNS``, None where there is none."""
    chosen: dict[str, str | None] = {}
    for what in COLUMNS:
        if what in asked:
            name = asked[what]
            if name is not None and name not in table.names:
                held = ", ".join(table.names)[:200]
                raise table.error(
                    f"has no column {shown(name)}{nearest(name, table.names)}; there are {held}"
                )
            chosen[what] = name
            continue
        usual = TRANSCRIPTS if what == "utterance" else (what,)
        chosen[what] = next((name for name in usual if name in table.names), None)
    needed = NEEDED if to_predict else (*NEEDED, "label")
    for what in needed:
        if chosen[what] is None:
            raise table.error(
                f"has no column {what!r}{nearest(what, table.names)}; name another by "
                f"{what}='...' (from the shell --columns={what}=...)"
            )
    return chosen


def _order_rows(
    table: Table, names: np.ndarray, turn: str | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows in the order of the corpus.

    Returns:
      [N] int rows of the table, those of a dialogue together and in the order of its turns; [G]
      names of the dialogues, in the order in which they begin; [G] int32 their lengths.
    """
    if not len(names):
        raise table.error("has no row")
    _, first, number = np.unique(names, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    number = rank[number]
    dialogue = names[np.sort(first)]
    length = np.bincount(number).astype(np.int32)
    if turn is None:
        _check_together(table, names, number)
        return np.arange(len(names)), dialogue, length
    turns = to_numbers(table, turn)
    order = np.lexsort((turns, number))
    twice = (np.diff(number[order]) == 0) & (np.diff(turns[order]) == 0)
    if twice.any():
        here = int(twice.argmax())
        one, other = sorted(order[here : here + 2].tolist())
        raise table.error(
            f"{table.place(one)} and {table.place(other)} are both turn {turns[one]:g} of dialogue "
            f"{shown(names[one])}; turn=None (from the shell --columns=turn=) keeps the order of "
            "the rows"
        )
    return order, dialogue, length


def _check_together(table: Table, names: np.ndarray, number: np.ndarray) -> None:
    """Refuses a dialogue whose rows are not together: two may have one name."""
    starts = np.flatnonzero(np.diff(number, prepend=-1))
    seen: set[int] = set()
    for row in starts.tolist():
        if number[row] in seen:
            raise table.error(
                f"{table.place(row)}: dialogue {shown(names[row])} goes on here after another one; "
                "put its rows together, name a column with the number of each turn (turn=...), or "
                "give two dialogues two names"
            )
        seen.add(number[row])


def _read_splits(
    table: Table, column: str | None, names: np.ndarray, dialogue: np.ndarray, shares: Splits
) -> np.ndarray:
    """[G] the split of each dialogue; all are train where there is no column."""
    if column is None:
        alike = difflib.get_close_matches("split", table.names, 1, UNKNOWN)
        if alike or not (shares.dev and shares.test):
            raise table.error(
                f"has no column 'split'{nearest('split', table.names)}; name it by split='...', or "
                "have dialogues drawn by dev_share=0.1 and test_share=0.2"
            )
        return np.full(len(dialogue), "train")
    given = to_splits(table, column)
    place = {name: row for row, name in reversed(list(enumerate(names.tolist())))}
    first = np.asarray([place[name] for name in names.tolist()])
    differs = np.flatnonzero(given != given[first])
    if differs.size:
        row = int(differs[0])
        raise table.error(
            f"{table.place(row)}: dialogue {shown(names[row])} is in {given[row]} here and in "
            f"{given[first[row]]} at {table.place(first[row])}; a dialogue has one split"
        )
    return given[[place[name] for name in dialogue.tolist()]]


def _draw_splits(
    table: Table, split: np.ndarray, label: np.ndarray, length: np.ndarray, shares: Splits
) -> np.ndarray:
    """[G] splits, those that have no dialogue drawn from train by their shares."""
    try:
        drawn = hold_out(
            split, label, length, {"dev": shares.dev, "test": shares.test}, shares.seed
        )
    except UserError as error:
        raise table.error(str(error)) from error
    for name in ("dev", "test"):
        if not np.any(drawn == name):
            raise table.error(
                f"the {name} split has no dialogue; {name}_share=0.1 draws one from train"
            )
    return drawn


KEYS = (
    *("classes", "dialogue", "split", "length", "speaker", "label", "features", "present"),
    *("utterance", "feature_dialogue"),
)


def from_arrays(
    arrays: Mapping[str, Any],
    splits: Splits,
    bins: Sequence[float],
    to_predict: bool,
    source: str,
) -> Corpus:
    """Makes a corpus of the arrays of a canonical file; arguments as of ``Corpus.from_arrays``."""
    arrays = {name: value for name, value in arrays.items() if value is not None}
    _check_forms(source, arrays.get("classes"), bins)
    for name, value in arrays.items():
        if name not in KEYS:
            raise UserError(f"{source}: unknown key {shown(name)}{nearest(name, KEYS)}")
        if name in ("features", "present") and not isinstance(value, Mapping):
            raise UserError(f"{source}: {name} has to be a dictionary: modality -> array")
    for name in ("dialogue", "length", "speaker", "features"):
        if name not in arrays:
            raise UserError(f"{source}: the key {name!r} is missing{nearest(name, arrays)}")
    ends = Table({n: arrays[n] for n in ("dialogue", "split", "length") if n in arrays}, source)
    dialogue, length = to_names(ends, "dialogue"), to_numbers(ends, "length")
    wrong = np.flatnonzero((length < 1) | (length != np.round(length)))
    if wrong.size:
        place = shown(dialogue[wrong[0]])
        raise ends.error(f"dialogue {place} has the length {length[wrong[0]]:g}, no count of turns")
    repeated = [name for name, count in zip(*np.unique(dialogue, return_counts=True)) if count > 1]
    if repeated:
        raise ends.error(f"two dialogues are named {shown(repeated[0])}")
    length = length.astype(np.int64)
    columns = {name: arrays[name] for name in ("speaker", "label", "utterance") if name in arrays}
    if "label" in columns and not len(bins):
        # In a canonical file -1 is no label, and can be nothing else.
        columns["label"] = [None if _is_none(value) else value for value in columns["label"]]
    for name, values in columns.items():
        if len(values) != length.sum():
            raise ends.error(
                f"{name} has {len(values)} entries, but the lengths sum to {length.sum()}"
            )
    columns["dialogue"] = np.repeat(dialogue, length)
    if "split" in arrays:
        columns["split"] = np.repeat(ends.column("split"), length)
    return from_frame(
        columns,
        _with_absent(arrays["features"], arrays.get("present", {}), int(length.sum()), source),
        columns={"turn": None},
        classes=arrays.get("classes"),
        splits=splits,
        bins=bins,
        feature_dialogue=arrays.get("feature_dialogue"),
        to_predict=to_predict,
        source=source,
    )


def _is_none(label: Any) -> bool:
    return not isinstance(label, str) and label == UNLABELLED


def _with_absent(
    features: Mapping[str, Any], present: Mapping[str, Any], count: int, source: str
) -> dict[str, Any]:
    """Features whose rows are NaN where ``present`` says that the modality is absent."""
    features = dict(features)
    for name, flags in present.items():
        if name not in features:
            raise UserError(
                f"{source}: present names {shown(name)}, which features lacks"
                f"{nearest(name, features)}"
            )
        if isinstance(features[name], Mapping):
            raise UserError(
                f"{source}: present[{name!r}] needs features[{name!r}] as one array, a row per "
                "utterance; of a dictionary leave out the dialogues that lack it"
            )
        flags = np.asarray(flags)
        if flags.shape != (count,) or flags.dtype != bool:
            raise UserError(f"{source}: present[{name!r}] must hold one boolean per utterance")
        values = np.array(features[name], np.float32)
        if len(values) == count:
            values[~flags] = np.nan
        features[name] = values
    return features
