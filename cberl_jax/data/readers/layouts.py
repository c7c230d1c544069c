"""The layouts of the field's pickles, brought into one form.

Most are tuples of tables (dialogue id -> one value per utterance) and of lists of ids::

    ids, speakers, labels, [sentiments,] features..., sentences, train, [dev,] test, [unused]
    speakers, labels, [sentiments,] four text layers, sentences, train, test, dev

The second is COSMIC's. CORECT's is a dictionary from split to a list of dialogues, each a
dictionary. What an entry is, is decided by what it holds.
"""

import re
from collections.abc import Mapping, Sequence, Set
from typing import Any, NamedTuple

from cberl_jax.data.corpus import SPLIT_NAMES, SPLITS
from cberl_jax.data.readers.entries import (
    Table,
    ids_of,
    keyed_by_text,
    kind_of,
    rows_of,
    shown,
    utterances,
    width_of,
)
from cberl_jax.data.text_layers import FILE_LAYER
from cberl_jax.errors import UserError

_LAYERS = tuple(f"{FILE_LAYER}{layer}" for layer in (1, 2, 3, 4))
# Number of feature tables -> what they hold, in order.
_FEATURE_TABLES = {
    1: ("text",),
    2: ("text", "audio"),
    3: ("text", "audio", "visual"),
    4: _LAYERS,
    6: (*_LAYERS, "audio", "visual"),
}
# Entries that are looked at; the known layouts have up to 14. A small file can hold millions of
# references to one large dictionary.
_MAX_ENTRIES = 20
COSMIC_ORDER = ("train", "test", "dev")
_LETTERS = {"text": "T", "integers": "I", "real numbers": "R", "vectors": "V", "ids": "L"}
_WITH_IDS = re.compile(r"[TI][TVI][TIR][TIR]?(V+)T")
_WITHOUT_IDS = re.compile(r"[TVI][TIR][TIR]?(V+)T")

# Keys of a dialogue -> what it is.
_SAMPLE_KEYS = {
    **dict.fromkeys(("vid", "id", "video_id", "dialogue", "dialogue_id", "conversation"), "id"),
    **dict.fromkeys(("speakers", "speaker"), "speakers"),
    **dict.fromkeys(("labels", "label", "emotions", "emotion"), "labels"),
    **dict.fromkeys(("sentence", "sentences", "utterance", "utterances"), "sentences"),
    **dict.fromkeys(("visual", "video", "vision"), "visual"),
    **{name: name for name in ("text", "audio", *_LAYERS)},
}
_SAMPLE_NEEDS = ("id", "speakers", "labels")
_SAMPLE_FEATURES = ("text", *_LAYERS, "audio", "visual")


class Layout(NamedTuple):
    """A file's tables and lists.

    Attributes:
      speakers: as text, one-hot vectors or numbers.
      labels: as whole or real numbers, or text.
      features: modality -> table of vectors.
      sentences: as text, or None where there are none.
      lists: the lists of dialogue ids.
      names: the splits of the lists, where the file or its layout names them.
      certain: whether these names are the file's own.
      remarks: what was left unread.
    """

    speakers: Table
    labels: Table
    features: Mapping[str, Table]
    sentences: Table | None
    lists: tuple[Set[str], ...]
    names: tuple[str, ...] = ()
    certain: bool = False
    remarks: tuple[str, ...] = ()

    @property
    def tables(self) -> dict[str, Table]:
        """All tables by the names that messages give them."""
        sentences = {} if self.sentences is None else {"sentences": self.sentences}
        return {"speakers": self.speakers, "labels": self.labels, **self.features, **sentences}


def recognise(entries: object, source: str) -> Layout:
    """The layout that a file is of.

    Args:
      entries: what ``unpickle`` returned.
      source: name of the file.

    Returns:
      Its tables and lists, all keyed by text.

    Raises:
      UserError: it is none of the layouts; naming the entry.
    """
    if isinstance(entries, dict) and entries and _names_splits(entries):
        return _from_samples(entries, source)
    if not isinstance(entries, list | tuple):
        found = type(entries).__name__.strip("_")
        keys = ""
        if isinstance(entries, dict):
            held = ", ".join(shown(key) for key in list(entries)[:3]) or "none"
            keys = f"; its keys would have to be train, dev and test, not {held}"
        raise UserError(f"{source}: is not a tuple of dictionaries, but of type {found}{keys}.")
    return _from_tables(entries, source)


def _from_tables(entries: Sequence[object], source: str) -> Layout:
    kinds = [kind_of(entry) for entry in entries[:_MAX_ENTRIES]]
    letters = "".join(_LETTERS.get(kind, "-") for kind in kinds)
    first = 1 if _has_ids(letters, entries) else 0
    start = first + 2 + (letters[first + 2 : first + 4] in ("IV", "TV", "RV"))
    count = len(letters[start:]) - len(letters[start:].lstrip("V"))
    end = start + count
    _check_kinds(kinds, first, end, source)
    names = _FEATURE_TABLES.get(count, ())
    tables = [keyed_by_text(entry, source) for entry in entries[start:end]]
    if not count:
        raise UserError(
            f"{source}: no dictionary of features follows the labels; features that lie in files "
            "of their own have to be put in."
        )
    if not names or (names == _LAYERS and not _equal_widths(tables)):
        raise UserError(
            f"{source}: {count} dictionaries of features in {len(entries)} entries are none of "
            "the known layouts, which have 1, 2, 3 or 6, or 4 text layers of one width."
        )
    labels = keyed_by_text(entries[first + 1], source)
    lists = _read_lists(entries[end + 1 :], kinds[end + 1 :], labels, source)
    usual: tuple[str, ...] = ("train", "test") if len(lists) == 2 else ()
    if len(lists) == 3 and not first and names == _LAYERS:
        usual = COSMIC_ORDER
    return Layout(
        speakers=keyed_by_text(entries[first], source),
        labels=labels,
        features=dict(zip(names, tables)),
        sentences=keyed_by_text(entries[end], source),
        lists=lists,
        names=usual,
    )


def _has_ids(letters: str, entries: Sequence[object]) -> bool:
    """Whether the first entry holds ids of utterances, not the speakers."""
    with_ids, without = _WITH_IDS.match(letters), _WITHOUT_IDS.match(letters)
    if without is None or letters[0] == "V":
        return without is None
    if with_ids is None or letters[1] in "TI":
        return _are_ids(entries[0])
    return True


def _are_ids(table: Mapping) -> bool:
    """Whether no value repeats within a dialogue, as speakers do; or all are a mere filler."""
    rows = [rows_of(value) or () for value in table.values()]
    texts = [[str(value) for value in row if isinstance(value, str | int)] for row in rows]
    differ = all(len(set(row)) == len(row) for row in texts)
    return differ or len(set().union(*texts)) == 1


def _check_kinds(kinds: Sequence[str], first: int, end: int, source: str) -> None:
    """Refuses the first entry that is not what its place asks for."""
    wanted = {
        first: ("speakers as text, numbers or one-hot vectors", ("text", "vectors", "integers")),
        first + 1: ("labels as integers", ("integers", "real numbers", "text")),
        end: ("sentences as text", ("text",)),
        end + 1: ("the ids of the train split", ("ids",)),
        end + 2: ("the ids of the test split", ("ids",)),
    }
    if first:
        wanted = {0: ("ids of utterances", ("text", "integers"))} | wanted
    for place, (what, admitted) in wanted.items():
        found = kinds[place] if place < len(kinds) else "nothing"
        if found not in admitted:
            way_out = "; of one-hot labels take the argmax" * (place == first + 1)
            raise UserError(
                f"{source}: entry {place} should be {what}, but holds {found}"
                f"{way_out if found == 'vectors' else ''}."
            )


def _equal_widths(tables: Sequence[Table]) -> bool:
    widths = set()
    for table in tables:
        rows = next((r for r in map(rows_of, table.values()) if r is not None and len(r)), ())
        widths |= {width_of(row) for row in rows[:1]}
    return len(widths) == 1


def _read_lists(
    entries: Sequence[object], kinds: Sequence[str], known: Table, source: str
) -> tuple[Set[str], ...]:
    """The two or three lists of ids that follow the sentences; one more entry may be anything."""
    count = 3 if kinds[2:3] == ["ids"] and _lists_dialogues(entries[2], known) else 2
    if len(entries) > count + 1:
        raise UserError(
            f"{source}: {len(entries)} entries follow the sentences, where the known layouts have "
            "two or three lists of dialogue ids and at most one entry that is not used."
        )
    if count < len(entries) and kinds[count] == "ids" and _lists_dialogues(entries[count], known):
        raise UserError(
            f"{source}: more than three lists of dialogue ids follow the sentences; keep those of "
            "train, dev and test."
        )
    names = ("the train split", "the test split")
    if count == 3:
        names = ("the first list", "the second list", "the third list")
    lists = [ids_of(entry, what, source) for entry, what in zip(entries, names)]
    # An empty list beside two others says that there is no such split.
    return tuple(ids for ids in lists if ids or count == 2)


def _lists_dialogues(entry: object, known: Table) -> bool:
    values = entry if isinstance(entry, set) else rows_of(entry)
    return any(isinstance(v, str | int) and str(v)[:100] in known for v in values)


def _names_splits(entries: Mapping) -> bool:
    return all(isinstance(key, str) and key.lower() in SPLIT_NAMES for key in entries)


def _from_samples(entries: Mapping[str, object], source: str) -> Layout:
    """A dictionary from split to dialogues, each a dictionary of its columns."""
    tables: dict[str, dict[str, object]] = {}
    lists: dict[str, list[str]] = {}
    unread: set[str] = set()
    for key, dialogues in entries.items():
        split = SPLIT_NAMES[key.lower()]
        if split in lists:
            raise UserError(f"{source}: the split {split} is there twice, once as {shown(key)}.")
        lists[split] = []
        for number, sample in enumerate(_samples(dialogues, key, source)):
            place = f"{source}: dialogue {number} of {shown(key)}"
            columns = _columns(sample, unread, place)
            name = _sample_name(columns.pop("id"), place)
            if name in tables.get("labels", ()):
                before = next(split for split, ids in lists.items() if name in ids)
                raise UserError(f"{place} is {shown(name)}, which is in {before} already.")
            lists[split].append(name)
            for column, value in columns.items():
                tables.setdefault(column, {})[name] = value
    features = {name: tables[name] for name in _SAMPLE_FEATURES if name in tables}
    if not features:
        raise UserError(f"{source}: no dialogue holds features (text, audio or visual).")
    names = tuple(split for split in SPLITS if split in lists)
    return Layout(
        speakers=tables["speakers"],
        labels=tables["labels"],
        features=features,
        sentences=tables.get("sentences"),
        lists=tuple(frozenset(lists[name]) for name in names),
        names=names,
        certain=True,
        remarks=(f"keys of dialogues that are not read: {', '.join(sorted(unread))}",)
        if unread
        else (),
    )


def _samples(dialogues: object, key: str, source: str) -> Sequence[object]:
    if isinstance(dialogues, dict):
        if all(isinstance(value, dict) for value in dialogues.values()):
            return [{"id": name, **value} for name, value in dialogues.items()]
        raise UserError(
            f"{source}: {shown(key)} holds arrays over all utterances of a split ("
            f"{', '.join(map(str, dialogues))[:80]}), which names no dialogues; bring a list of "
            "dialogues, or an .npz with features averaged over each utterance's frames."
        )
    rows = rows_of(dialogues)
    if rows is None:
        raise UserError(f"{source}: {shown(key)} holds no list of dialogues.")
    return rows


def _columns(sample: object, unread: set[str], place: str) -> dict[str, Any]:
    """Column -> value of one dialogue; notes the keys that are not read."""
    if not isinstance(sample, dict):
        raise UserError(f"{place} is not a dictionary.")
    columns = {}
    for key, value in sample.items():
        column = _SAMPLE_KEYS.get(str(key).lower())
        if column is None:
            unread.add(str(key)[:40])
        elif column in columns:
            raise UserError(f"{place} has two keys for its {column}, one of them {shown(key)}.")
        else:
            columns[column] = value
    missing = [column for column in _SAMPLE_NEEDS if column not in columns]
    if missing:
        what = "no name ('vid')" if missing[0] == "id" else f"no {missing[0]}"
        raise UserError(f"{place} has {what}.")
    return columns


def _sample_name(value: object, place: str) -> str:
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise UserError(f"{place}: its name is neither text nor a number.")
    return str(value)


def check_tables(layout: Layout, ids: Sequence[str], source: str) -> list[int]:
    """The utterances of each dialogue.

    Args:
      layout: with all of the dialogues in all of its tables.
      ids: the dialogues.
      source: name of the file.

    Returns:
      Per dialogue, how many labels there are.

    Raises:
      UserError: a table has no list for a dialogue, an empty one, or one of another length.
    """
    lengths = [len(_checked_rows(layout.labels, key, "labels", source)) for key in ids]
    if not all(lengths):
        raise UserError(f"{source}: dialogue {shown(ids[lengths.index(0)])} is empty (length 0).")
    for what, table in layout.tables.items():
        for key, length in zip(ids, lengths):
            found = len(_checked_rows(table, key, what, source))
            if found != length:
                raise UserError(
                    f"{source}: dialogue {shown(key)} has {length} labels, but {what} for "
                    f"{found} utterances."
                )
    return lengths


def _checked_rows(table: Table, key: str, what: str, source: str) -> Sequence[object]:
    rows = rows_of(table[key])
    if rows is None:
        raise UserError(f"{source}: dialogue {shown(key)} holds no list of {what}.")
    return rows


def read_sentences(layout: Layout, ids: Sequence[str]) -> list[str] | None:
    """[N] transcripts, empty where an utterance has none; None without a table of them."""
    if layout.sentences is None:
        return None
    values = utterances(layout.sentences, ids)
    return [value if isinstance(value, str) else "" for _, _, value in values]
