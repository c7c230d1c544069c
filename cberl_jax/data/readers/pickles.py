"""The pickles that the field's researchers already have, read without running anything.

Section 2 of the design: seven layouts, all tuples of dictionaries keyed by dialogue id, each
value holding one entry per utterance. ``unpickling.py`` turns a file into plain Python data.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cberl_jax.data.corpus import TEXT_LAYER, UNLABELLED, Corpus
from cberl_jax.data.readers.unpickling import MAX_KEY, PickledArray, read_bytes, unpickle
from cberl_jax.data.validate import validate
from cberl_jax.errors import UserError

IEMOCAP_CLASSES = ("happy", "sad", "neutral", "angry", "excited", "frustrated")
MELD_CLASSES = ("neutral", "surprise", "fear", "sadness", "joy", "disgust", "anger")
MELD_DEV_IDS = frozenset(range(1039, 1153))

# Number of feature dictionaries -> what they hold, in order.
_FEATURE_ENTRIES = {
    2: ("text", "audio"),
    3: ("text", "audio", "visual"),
    6: (*(f"{TEXT_LAYER}{layer}" for layer in (1, 2, 3, 4)), "audio", "visual"),
}
# Entries that are looked at; the known layouts have up to 14. A small file can hold millions of
# references to one large dictionary.
_MAX_ENTRIES = 20
# Audio and visual widths of the known files, to notice when the two are exchanged.
_KNOWN_WIDTHS = ((1582, 342), (100, 512), (300, 342))

_NUMBERS = (int, float, bool, np.integer, np.floating, np.bool_)


class _Layout(NamedTuple):
    """The entries of a file; every dictionary is dialogue id -> one entry per utterance."""

    speakers: Mapping
    labels: Mapping
    features: Mapping[str, Mapping]
    sentences: Mapping
    train: frozenset
    test: frozenset


def read_pickle(path: str | os.PathLike, *, to_predict: bool = False) -> Corpus:
    """Reads and validates a pickle of one of the field's seven layouts.

    What an entry is, is decided by what it holds: dictionaries of text, of integers or of
    vectors, and collections of ids. In order there must be ids, speakers (text or one-hot
    vectors), labels, perhaps sentiments, the features, sentences, train ids and test ids, and
    at most one entry that is not used. Six feature dictionaries are four text layers
    (``roberta1`` to ``roberta4``), audio and visual; three are text, audio and visual; two are
    text and audio.

    The speakers decide whose classes the labels are: 'M' and 'F' make it IEMOCAP; one-hot
    vectors, or other names along with a label of 6, make it MELD.

    These files have no dev split. In MELD with the official dev ids (integers 1039 to 1152)
    among the train ids those are dev; else ``hold_out_dev`` takes dialogues out of train.
    Dialogues are in the order of the label dictionary; those in no split are left out.

    Args:
      path: the file.
      to_predict: it is only to be predicted: the dialogues in no split are there too, and every
        one counts as test.

    Returns:
      The corpus; dialogues are named by their ids, one-hot speakers ``speaker_<k>``.

    Raises:
      UserError: naming the file, if it is no such pickle, asks for any code to be run, or holds
        an unsound corpus.
    """
    source = os.fspath(path)
    data = read_bytes(source)
    layout = _recognise(unpickle(data, source), source)
    if to_predict:
        layout = layout._replace(train=frozenset(), test=frozenset(layout.labels))
    ids = _ordered_ids(layout, source)
    length = _lengths(layout, ids, source)
    # Entries may be shared within a pickle, so that a small file describes a vast corpus.
    if length.sum() > len(data):
        raise UserError(f"{source}: declares more utterances than it has bytes.")
    room = 64 * len(data) + 2**26
    speaker, is_meld = _read_speakers(layout, ids, room, source)
    classes = MELD_CLASSES if is_meld else IEMOCAP_CLASSES
    label = _read_labels(layout.labels, ids, len(classes), source)
    features = {}
    for name, table in layout.features.items():
        features[name] = _read_features(table, ids, name, room, source)
        room -= features[name].nbytes
    _check_order(features, source)
    sentences = [_text(value) for _, _, value in _utterances(layout.sentences, ids)]
    corpus = Corpus(
        classes=classes,
        dialogue=_text_array([str(key) for key in ids], "the ids", room, source),
        split=_split(layout, ids, label, length, is_meld, source),
        length=length,
        speaker=_text_array(speaker, "the speakers", room, source),
        label=label,
        features=features,
        present={name: np.ones(len(label), bool) for name in features},
        utterance=_text_array(sentences, "the sentences", room, source),
        source=source,
    )
    return validate(corpus, to_predict=to_predict)


def hold_out_dev(
    label: np.ndarray, length: np.ndarray, share: float = 0.1, seed: int = 0
) -> np.ndarray:
    """Chooses whole dialogues for a dev split, stratified by each dialogue's rarest class.

    The dialogues are sorted by their rarest class, at random within it, and every (1 /
    share)-th is taken. One that is alone with its rarest class is never taken, so that train
    keeps the class.

    Args:
      label: [N] int labels of the train split, ``UNLABELLED`` where there is none.
      length: [G] int utterances per dialogue.
      share: part of the dialogues to take, at least one; at most a half.
      seed: of the random choice.

    Returns:
      [G] bool, the dialogues to hold out; none if every dialogue is alone with its rarest
      class.
    """
    counts = np.bincount(label[label != UNLABELLED], minlength=1)
    # Unlabelled utterances rank behind all classes, so they decide only where nothing else can.
    rank = np.append(np.argsort(np.argsort(counts, kind="stable")), len(counts))
    starts = np.concatenate([[0], np.cumsum(length)[:-1]])
    rarest = np.minimum.reduceat(rank[label], starts)
    random = np.random.default_rng(seed)
    order = np.lexsort([random.random(len(length)), rarest])
    alone = np.bincount(rarest)[rarest] == 1
    pool = order[~alone[order]]
    taken = np.zeros(len(length), bool)
    if pool.size:
        count = min(max(1, round(share * len(length))), (pool.size + 1) // 2)
        steps = (np.arange(count) + random.random()) * pool.size / count
        taken[pool[steps.astype(int)]] = True
    return taken


def _rows(value: object) -> Sequence | None:
    """The utterances of a dialogue, or None if this is no list of anything."""
    value = value.value if isinstance(value, PickledArray) else value
    if isinstance(value, np.ndarray):
        return value if value.ndim else None
    return value if isinstance(value, list | tuple) else None


def _utterances(table: Mapping, ids: Sequence) -> Iterator[tuple[str | int, int, object]]:
    for key in ids:
        for turn, value in enumerate(_rows(table[key])):
            yield key, turn, value


def _width(value: object) -> int:
    rows = _rows(value)
    return 0 if rows is None else len(rows)


def _vector(value: object) -> np.ndarray | None:
    """[d] numbers, or None if this is no vector."""
    rows = _rows(value)
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


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _kind(entry: object) -> str:
    """What an entry of the file holds, judged by its first utterance."""
    if isinstance(entry, dict):
        rows = (_rows(value) for value in entry.values())
        first = next((row[0] for row in rows if row is not None and len(row)), None)
        if isinstance(first, str):
            return "text"
        if isinstance(first, bool | np.bool_):
            return "booleans"
        if isinstance(first, int | np.integer):
            return "integers"
        if isinstance(first, float | np.floating):
            return "real numbers"
        return "nothing that is known" if _rows(first) is None else "vectors"
    return "ids" if _rows(entry) is not None or isinstance(entry, set) else "no dictionary"


def _recognise(entries: object, source: str) -> _Layout:
    if not isinstance(entries, list | tuple):
        found = type(entries).__name__.strip("_")
        raise UserError(f"{source}: is not a tuple of dictionaries, but of type {found}.")
    kinds = [_kind(entry) for entry in entries[:_MAX_ENTRIES]]
    start = 4 if kinds[2:4] == ["integers", "integers"] else 3
    count = 0
    while kinds[start + count : start + count + 1] == ["vectors"]:
        count += 1
    end = start + count
    wanted = {
        0: ("ids of utterances", ("text", "integers")),
        1: ("speakers as text or one-hot vectors", ("text", "vectors")),
        2: ("labels as integers", ("integers",)),
        end: ("sentences as text", ("text",)),
        end + 1: ("the ids of the train split", ("ids",)),
        end + 2: ("the ids of the test split", ("ids",)),
    }
    for place, (what, admitted) in wanted.items():
        found = kinds[place] if place < len(kinds) else "nothing"
        if found not in admitted:
            raise UserError(f"{source}: entry {place} should be {what}, but holds {found}.")
    if count not in _FEATURE_ENTRIES or len(entries) > end + 4:
        raise UserError(
            f"{source}: {count} dictionaries of features in {len(entries)} entries are none of "
            "the known layouts, which have 2, 3 or 6 in up to 14 entries."
        )
    return _Layout(
        speakers=entries[1],
        labels=entries[2],
        features=dict(zip(_FEATURE_ENTRIES[count], entries[start:end])),
        sentences=entries[end],
        train=_ids(entries[end + 1], "train", source),
        test=_ids(entries[end + 2], "test", source),
    )


def _ids(entry: object, split: str, source: str) -> frozenset:
    values = entry if isinstance(entry, set) else _rows(entry)
    values = values.tolist() if isinstance(values, np.ndarray) else values
    # Larger integers can be chosen so that all land in one slot of a set.
    if not all(isinstance(x, str) or (isinstance(x, int) and abs(x) < MAX_KEY) for x in values):
        raise UserError(
            f"{source}: an id of the {split} split is neither text nor an integer of 32 bits."
        )
    unique = frozenset(values)
    if len(unique) < len(values):
        raise UserError(f"{source}: an id is listed twice in the {split} split.")
    return unique


def _ordered_ids(layout: _Layout, source: str) -> list:
    both = layout.train & layout.test
    if both:
        name = min(map(_shown, both))
        raise UserError(f"{source}: dialogue {name} is in two splits, train and test.")
    tables = {
        "speakers": layout.speakers,
        "labels": layout.labels,
        **layout.features,
        "sentences": layout.sentences,
    }
    for split in ("train", "test"):
        for what, table in tables.items():
            lost = [key for key in getattr(layout, split) if key not in table]
            if lost:
                name = min(map(_shown, lost))
                raise UserError(f"{source}: dialogue {name} of {split} has no {what}.")
    return [key for key in layout.labels if key in layout.train or key in layout.test]


def _lengths(layout: _Layout, ids: Sequence, source: str) -> np.ndarray:
    tables = {"speakers": layout.speakers, **layout.features, "sentences": layout.sentences}
    lengths = [len(_checked_rows(layout.labels, key, "labels", source)) for key in ids]
    for what, table in tables.items():
        for key, length in zip(ids, lengths):
            found = len(_checked_rows(table, key, what, source))
            if found != length:
                raise UserError(
                    f"{source}: dialogue {_shown(key)} has {length} labels, but {what} for "
                    f"{found} utterances."
                )
    return np.array(lengths, np.int64)


def _checked_rows(table: Mapping, key: str | int, what: str, source: str) -> Sequence:
    rows = _rows(table[key])
    if rows is None:
        raise UserError(f"{source}: dialogue {_shown(key)} holds no list of {what}.")
    return rows


def _read_labels(table: Mapping, ids: Sequence, classes: int, source: str) -> np.ndarray:
    labels = []
    for key, turn, value in _utterances(table, ids):
        place = f"dialogue {_shown(key)}, utterance {turn}"
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            found = "a vector (one-hot?)" if _vector(value) is not None else type(value).__name__
            raise UserError(f"{source}: the label at {place} is {found}, not an integer.")
        if not UNLABELLED <= value < classes:
            raise UserError(
                f"{source}: label {_shown(value)} at {place} is out of range: labels go from 0 "
                f"to {classes - 1}, or {UNLABELLED} for none."
            )
        labels.append(int(value))
    return np.array(labels, np.int32)


def _read_speakers(
    layout: _Layout, ids: Sequence, room: int, source: str
) -> tuple[list[str], bool]:
    """The speakers, and whether their form makes the corpus MELD rather than IEMOCAP."""
    speakers = []
    one_hot = _kind(layout.speakers) == "vectors"
    for key, turn, value in _utterances(layout.speakers, ids):
        # One wide vector may be shared by all utterances, and each would be searched whole.
        room -= 16 * _width(value) if one_hot else 0
        if room < 0:
            raise UserError(f"{source}: declares far more speakers than it has bytes.")
        name = _one_hot_speaker(value) if one_hot else value
        if not isinstance(name, str):
            place = f"dialogue {_shown(key)}, utterance {turn}"
            form = "a one-hot vector" if one_hot else "text"
            raise UserError(f"{source}: the speaker at {place} is not {form}.")
        speakers.append(name)
    if one_hot or set(speakers) <= {"M", "F"}:
        return speakers, one_hot
    seventh = len(MELD_CLASSES) - 1
    labels = (value for _, _, value in _utterances(layout.labels, ids))
    if not any(type(value) is int and value == seventh for value in labels):
        raise UserError(
            f"{source}: the speakers are neither 'M' and 'F' (IEMOCAP) nor one-hot vectors "
            "(MELD) and no label is 6, so its classes are unknown; bring it as an .npz."
        )
    return speakers, True


def _one_hot_speaker(value: object) -> str | None:
    vector = _vector(value)
    if vector is None or np.count_nonzero(vector) != 1 or vector.max() != 1:
        return None
    return f"speaker_{vector.argmax()}"


def _read_features(table: Mapping, ids: Sequence, name: str, room: int, source: str) -> np.ndarray:
    """[N, d] float32 of one modality."""
    count = sum(len(_rows(table[key])) for key in ids)
    features = None
    for row, (key, turn, value) in enumerate(_utterances(table, ids)):
        place = f"dialogue {_shown(key)}, utterance {turn}"
        vector = _vector(value)
        if vector is None:
            raise UserError(f"{source}: {name} at {place} is not a vector of numbers.")
        if features is None:
            if 4 * count * len(vector) > room:
                raise UserError(f"{source}: declares far more features than it has bytes.")
            features = np.zeros((count, len(vector)), np.float32)
        if len(vector) != features.shape[1]:
            raise UserError(
                f"{source}: {name} at {place} is {len(vector)} wide, but {features.shape[1]} "
                "wide before it."
            )
        # A number beyond float32 becomes infinite, which the validation reports.
        with np.errstate(over="ignore"):
            features[row] = vector
    return np.zeros((0, 0), np.float32) if features is None else features


def _check_order(features: Mapping[str, np.ndarray], source: str) -> None:
    widths = tuple(features[name].shape[1] for name in ("audio", "visual") if name in features)
    if widths[::-1] in _KNOWN_WIDTHS:
        raise UserError(
            f"{source}: audio is {widths[0]} wide and visual {widths[1]}, the known files have "
            f"{widths[1]} and {widths[0]}: the two are exchanged."
        )


def _split(
    layout: _Layout,
    ids: Sequence,
    label: np.ndarray,
    length: np.ndarray,
    is_meld: bool,
    source: str,
) -> np.ndarray:
    """[G] split of each dialogue, dev taken out of train where there is one."""
    split = np.array(["train" if key in layout.train else "test" for key in ids], "U5")
    train = split == "train"
    if not train.any():
        return split
    if is_meld and MELD_DEV_IDS <= layout.train:
        split[[key in MELD_DEV_IDS for key in ids]] = "dev"
        return split
    if length.size and length.min() < 1:
        name = _shown(ids[int(length.argmin())])
        raise UserError(f"{source}: dialogue {name} is empty (length 0).")
    dev = hold_out_dev(label[np.repeat(train, length)], length[train])
    if not dev.any():
        raise UserError(f"{source}: train has too few dialogues to hold some out for dev.")
    split[np.flatnonzero(train)[dev]] = "dev"
    return split


def _text_array(values: Sequence[str], what: str, room: int, source: str) -> np.ndarray:
    # numpy gives every string the width of the longest.
    if 4 * len(values) * max(map(len, values), default=0) > room:
        raise UserError(f"{source}: one of {what} is far too long.")
    # numpy drops it where it ends a string, and two names become one.
    if any("\0" in value for value in values):
        raise UserError(f"{source}: one of {what} holds the character NUL.")
    return np.array(values, np.str_)


def _shown(value: str | int) -> str:
    # Python refuses to print integers of thousands of digits.
    is_long = isinstance(value, int) and value.bit_length() > 256
    return "a huge number" if is_long else repr(str(value))[:80]
