"""The pickles that the field's researchers already have, read without running anything.

Section 2 of the design. ``unpickling.py`` turns a file into plain Python data, ``layouts.py`` says
what its entries are, ``splits.py`` which list of ids is which split, and ``known.py`` whose classes
its labels are.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cberl_jax.data.corpus import SPLITS, UNLABELLED, Corpus
from cberl_jax.data.holdout import USUAL_SHARE, with_dev
from cberl_jax.data.notices import say_absent
from cberl_jax.data.readers.entries import (
    kind_of,
    place_of,
    rows_of,
    shown,
    utterances,
    vector_of,
    width_of,
)
from cberl_jax.data.readers.known import (
    DENSEFACE,
    KNOWN_TRIPLES,
    KNOWN_WIDTHS,
    MELD_DEV_IDS,
    Evidence,
    identify,
)
from cberl_jax.data.readers.labels import (
    NamedLabels,
    RawLabels,
    UncertainClasses,
    name_labels,
    read_labels,
)
from cberl_jax.data.readers.layouts import Layout, check_tables, read_sentences, recognise
from cberl_jax.data.readers.options import ReadingOptions
from cberl_jax.data.readers.splits import (
    check_disjoint,
    meld_order,
    name_lists,
    say_contradiction,
    say_order,
)
from cberl_jax.data.readers.unpickling import read_bytes, unpickle
from cberl_jax.data.validate import validate
from cberl_jax.errors import UserError

_ANYTHING = ReadingOptions()
# Labels of so many dialogues, one with so many of them, do not count up from 0 by chance.
_FEW_DIALOGUES, _MANY_SPEAKERS = 5, 4


def read_pickle(
    path: str | os.PathLike, options: ReadingOptions = _ANYTHING, *, to_predict: bool = False
) -> Corpus:
    """Reads and validates a pickle of one of the field's layouts.

    Dialogues are in the order of the label table; those in no split are left out and counted.
    A file without a dev split gives one: in MELD with its official dev ids among the train ids
    those, else a share of train (``with_dev``).

    Args:
      path: the file.
      options: what the file does not say.
      to_predict: it is only to be predicted: the dialogues in no split are there too, and every
        one counts as test.

    Returns:
      The corpus; dialogues are named by their ids, one-hot and numbered speakers ``speaker_<k>``.

    Raises:
      UserError: naming the file, if it is no such pickle, asks for any code to be run, holds an
        unsound corpus, or its classes or splits are not certain.
    """
    source = os.fspath(path)
    data = read_bytes(source)
    layout = recognise(unpickle(data, source), source)
    splits, said = _splits(layout, options, to_predict, source)
    ids = _ordered_ids(layout, splits, source)
    length = np.array(check_tables(layout, ids, source), np.int64)
    # Entries may be shared within a pickle, so that a small file describes a vast corpus.
    if length.sum() > len(data):
        raise UserError(f"{source}: declares more utterances than it has bytes.")
    room = 64 * len(data) + 2**26
    speakers = _read_speakers(layout, ids, room, source)
    raw = read_labels(layout.labels, ids, source)
    # Names are no labels, so the two cannot be exchanged.
    if speakers.form != "text":
        _check_no_speakers(raw, length, source)
    features = {}
    for name, table in layout.features.items():
        features[name] = _read_features(table, ids, name, room, source)
        room -= features[name].nbytes
    _check_order(features, source)
    try:
        named = _name(raw, options, layout, ids, length, speakers, features)
    except UncertainClasses as error:
        if not to_predict:
            raise
        # Their truth is a nicety there: without names it is left out, not guessed.
        unlabelled = np.full(len(raw.values), UNLABELLED, np.int32)
        remark = f"the labels are left out: {str(error).removeprefix(source).lstrip(': ')}"
        named = NamedLabels(unlabelled, (), remarks=(remark,))
    if not to_predict and "dev" not in splits:
        splits = _official_dev(layout, splits, options, named)
    sentences = read_sentences(layout, ids) or None
    where = {key: split for split, held in splits.items() for key in held}
    present = {name: ~np.isnan(array).all(axis=1) for name, array in features.items()}
    corpus = Corpus(
        classes=named.classes,
        dialogue=_text_array(ids, "the ids", room, source),
        split=np.array([where[key] for key in ids], "U5"),
        length=length,
        speaker=_text_array(speakers.names, "the speakers", room, source),
        label=named.label,
        features=features,
        present=present,
        utterance=sentences and _text_array(sentences, "the sentences", room, source),
        source=source,
        left_out=len(layout.labels) - len(ids),
        remarks=layout.remarks + said + named.remarks + say_absent(present, features),
    )
    if not to_predict:
        corpus = with_dev(corpus, options.dev_share or USUAL_SHARE)
    return validate(corpus, to_predict=to_predict)


def _splits(
    layout: Layout, options: ReadingOptions, to_predict: bool, source: str
) -> tuple[dict[str, frozenset[str]], tuple[str, ...]]:
    """Split -> ids, and what was decided; all are test where they are only to be predicted."""
    if to_predict:
        return {"test": frozenset(layout.labels)}, ()
    order = layout.names
    if not layout.certain:
        order = name_lists(layout.lists, options.splits, layout.names, source)
    elif options.splits:
        raise UserError(f"{source}: names its splits itself; take --splits away.")
    splits = dict(zip(order, layout.lists))
    check_disjoint(splits, source)
    if layout.certain:
        return splits, ()
    if options.splits:
        return splits, say_contradiction(layout.lists, order)
    return splits, (say_order(layout.lists, order),) if len(order) == 3 else ()


def _ordered_ids(layout: Layout, splits: Mapping[str, frozenset[str]], source: str) -> list[str]:
    """The dialogues of all splits, each of which every table has to hold."""
    for split in SPLITS:
        for what, table in layout.tables.items():
            lost = [key for key in splits.get(split, ()) if key not in table]
            if lost:
                raise UserError(f"{source}: dialogue {shown(min(lost))} of {split} has no {what}.")
    chosen = frozenset().union(*splits.values())
    return [key for key in layout.labels if key in chosen]


def _check_no_speakers(raw: RawLabels, length: np.ndarray, source: str) -> None:
    """Refuses labels that every dialogue numbers as they appear in it, from 0 on: speakers."""
    if len(length) < _FEW_DIALOGUES or not all(isinstance(value, int) for value in raw.values):
        return
    start, most = 0, 0
    for count in length.tolist():
        found = list(dict.fromkeys(raw.values[start : start + count]))
        if found != list(range(len(found))):
            return
        start, most = start + count, max(most, len(found))
    if most >= _MANY_SPEAKERS:
        raise UserError(
            f"{source}: the labels of every dialogue count up from 0 in the order in which they "
            "appear, as speakers do: the tables of speakers and labels are exchanged."
        )


class _Speakers(NamedTuple):
    """The names [N], what the file has them as (text, vectors or integers), and their width.

    The width is that of one-hot vectors, 0 where there are none or of several widths.
    """

    names: list[str]
    form: str
    width: int


def _read_speakers(layout: Layout, ids: Sequence[str], room: int, source: str) -> _Speakers:
    kind = kind_of(layout.speakers)
    form = {"vectors": "a one-hot vector", "integers": "a number"}.get(kind, "text")
    names, widths = [], set()
    for key, turn, value in utterances(layout.speakers, ids):
        if kind == "vectors":
            # One wide vector may be shared by all utterances, and each would be searched whole.
            room -= 16 * width_of(value)
            widths.add(width_of(value))
        if room < 0:
            raise UserError(f"{source}: declares far more speakers than it has bytes.")
        name = _speaker(value, kind)
        if name is None:
            raise UserError(f"{source}: the speaker at {place_of(key, turn)} is not {form}.")
        names.append(name)
    return _Speakers(names, kind, widths.pop() if len(widths) == 1 else 0)


def _speaker(value: object, kind: str) -> str | None:
    """A speaker's name, None where it is not of the kind that the others are."""
    if kind == "vectors":
        vector = vector_of(value)
        if vector is None or np.count_nonzero(vector) != 1 or vector.max() != 1:
            return None
        return f"speaker_{vector.argmax()}"
    if kind == "integers":
        is_number = isinstance(value, int | np.integer) and not isinstance(value, bool)
        return f"speaker_{value}" if is_number and abs(value) < 2**31 else None
    return value if isinstance(value, str) else None


def _read_features(
    table: Mapping, ids: Sequence[str], name: str, room: int, source: str
) -> np.ndarray:
    """[N, d] float32 of one modality."""
    count = sum(len(rows_of(table[key])) for key in ids)
    features = None
    for row, (key, turn, value) in enumerate(utterances(table, ids)):
        vector = vector_of(value)
        if vector is None:
            raise UserError(
                f"{source}: {name} at {place_of(key, turn)} is not a vector of numbers"
                f"{_instead(value)}."
            )
        if features is None:
            if 4 * count * len(vector) > room:
                raise UserError(f"{source}: declares far more features than it has bytes.")
            features = np.zeros((count, len(vector)), np.float32)
        if len(vector) != features.shape[1]:
            raise UserError(
                f"{source}: {name} at {place_of(key, turn)} is {len(vector)} wide, but "
                f"{features.shape[1]} wide before it."
            )
        # A number beyond float32 becomes infinite, which the validation reports.
        with np.errstate(over="ignore"):
            features[row] = vector
    return np.zeros((0, 0), np.float32) if features is None else features


def _instead(value: object) -> str:
    """What to do with nothing, or a table, in place of a vector."""
    if value is None:
        return " but None; where it is missing, put a vector of nan"
    rows = rows_of(value)
    if not isinstance(rows, np.ndarray) or rows.ndim != 2:
        return ""
    return (
        f" but a table of shape {rows.shape}; where its rows are frames, their mean makes one "
        "vector of an utterance"
    )


def _check_order(features: Mapping[str, np.ndarray], source: str) -> None:
    """Refuses tables of features that stand in each other's places by their widths."""
    held = [next(iter(features)), "audio", "visual"]
    widths = tuple(features[name].shape[1] if name in features else 0 for name in held)
    known = next((w for w in KNOWN_TRIPLES if sorted(w) == sorted(widths)), widths)
    if widths[:0:-1] in KNOWN_WIDTHS:
        known = (widths[0], widths[2], widths[1])
    if widths != known and widths not in KNOWN_TRIPLES:
        raise UserError(
            f"{source}: text, audio and visual are {_joined(widths)} wide, and {_joined(known)} in "
            "the known files: they are exchanged; put the tables in the order text, audio, visual."
        )
    if widths[1:] == (DENSEFACE, 0):
        raise UserError(
            f"{source}: the second table of features counts as audio, but is {DENSEFACE} wide as "
            "visual in the known files; put a table of empty vectors before it if it is visual."
        )


def _joined(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _name(
    raw: RawLabels,
    options: ReadingOptions,
    layout: Layout,
    ids: Sequence[str],
    length: np.ndarray,
    speakers: _Speakers,
    features: Mapping[str, np.ndarray],
) -> NamedLabels:
    """The labels as numbers of named classes."""

    def find_corpus(labels: Counter) -> tuple[str, str]:
        seen = Evidence(
            ids=ids,
            length=length.tolist(),
            speakers=speakers.names,
            form=speakers.form,
            one_hot=speakers.width,
            labels=labels,
            widths={m: array.shape[1] for m, array in features.items() if array.shape[1]},
            lists=[len(held) for held in layout.lists],
            official=meld_order(layout.lists) is not None,
        )
        return identify(seen)

    return name_labels(raw, options, find_corpus)


def _official_dev(
    layout: Layout,
    splits: Mapping[str, frozenset[str]],
    options: ReadingOptions,
    named: NamedLabels,
) -> dict[str, frozenset[str]]:
    """The splits with MELD's official dev ids as dev, where train holds them all."""
    official = frozenset(map(str, MELD_DEV_IDS))
    is_meld = "meld" in (options.corpus, named.corpus) or meld_order(layout.lists) is not None
    if options.dev_share or not is_meld or not official <= splits.get("train", frozenset()):
        return dict(splits)
    return {**splits, "train": splits["train"] - official, "dev": official}


def _text_array(values: Sequence[str], what: str, room: int, source: str) -> np.ndarray:
    # numpy gives every string the width of the longest.
    if 4 * len(values) * max(map(len, values), default=0) > room:
        raise UserError(f"{source}: one of {what} is far too long.")
    # numpy drops it where it ends a string, and two names become one.
    if any("\0" in value for value in values):
        raise UserError(f"{source}: one of {what} holds the character NUL.")
    return np.array(values, np.str_)
