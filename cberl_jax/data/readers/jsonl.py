r"""Conversations as people write them down: JSON lines, or the same as Python objects.

A line holds one conversation (here it is broken for reading)::

    {"dialogue": "scene 1",
     "turns": [{"speaker": "Ross", "text": "We were on a break!", "label": "anger",
                "features": {"text": [0.31, -1.2, 0.08], "audio": null}}]}

``text`` is the transcript and ``label`` the name of a class; both may be missing or null, and so
may each modality of an utterance, or all of them. A view of a modality is named as ``text.minilm``
is. This is input for a model that is trained already: there are no splits.

Conversations without any features are raw: a run makes those that it needs of ``text``, ``start``
and ``end`` (seconds) and ``audio`` (a file in the folder of sounds), which are optional.
"""

import codecs
import json
import math
import os
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cberl_jax.config.views import FEATURE_NAME, NAMING
from cberl_jax.data.corpus import UNLABELLED, Corpus
from cberl_jax.data.readers.transcripts import Transcript, Turn
from cberl_jax.data.validate import validate
from cberl_jax.errors import UserError

CONVERSATION_KEYS = ("dialogue", "turns")
TURN_KEYS = ("speaker", "text", "features", "label", "start", "end", "audio")
# A conversation of 10,000 turns of 2,000 features takes a fifth.
MAX_LINE_BYTES = 2**30


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


class _Turn(NamedTuple):
    """One utterance as it was written; ``text`` is empty and ``label`` None where not given."""

    place: str
    speaker: str
    text: str
    label: str | None
    features: Mapping[str, np.ndarray]
    start: float
    end: float
    audio: str


class Written(NamedTuple):
    """Conversations as they were written.

    Attributes:
      source: what messages call them.
      names: of the dialogues.
      lengths: turns of each.
      turns: of all of them.
    """

    source: str
    names: list[str]
    lengths: list[int]
    turns: list[_Turn]

    @property
    def is_raw(self) -> bool:
        """Whether no turn has features."""
        return not any(turn.features for turn in self.turns)

    def corpus(self) -> Corpus:
        """The conversations with the features that were given, validated."""
        turns, source = self.turns, self.source
        classes, label = self._label()
        features, present = _stack(turns, source)
        has_text = any(turn.text for turn in turns)
        corpus = Corpus(
            classes=classes,
            dialogue=_strings(self.names, "names of dialogues", source),
            split=np.full(len(self.names), "test"),
            length=np.asarray(self.lengths, np.int32),
            speaker=_strings([turn.speaker for turn in turns], "speakers", source),
            label=label,
            features=features,
            present=present,
            utterance=_strings([t.text for t in turns], "transcripts", source)
            if has_text
            else None,
            source=source,
        )
        return validate(corpus, to_predict=True)

    def transcript(self) -> Transcript:
        """The conversations as a table holds them."""
        # What becomes of them later is as wide as the longest.
        _strings([turn.speaker for turn in self.turns], "speakers", self.source)
        _strings([turn.text for turn in self.turns], "transcripts", self.source)
        names = np.repeat(np.array(self.names, dtype=object), self.lengths)
        turns = tuple(
            Turn(
                own.place, name, own.speaker, own.text.strip(), "", own.label or "",
                own.start, own.end, own.audio,
            )
            for name, own in zip(names, self.turns)
        )  # fmt: skip
        classes, label = self._label()
        return Transcript(
            source=self.source,
            classes=classes,
            dialogue=_strings(self.names, "names of dialogues", self.source),
            split=np.full(len(self.names), "test"),
            has_splits=False,
            length=np.asarray(self.lengths, np.int32),
            label=label,
            turns=turns,
            file=np.zeros(len(turns), int),
        )

    def _label(self) -> tuple[tuple[str, ...], np.ndarray]:
        """The classes, in alphabetical order, and [N] labels."""
        classes = tuple(sorted({turn.label for turn in self.turns if turn.label is not None}))
        number = {None: UNLABELLED} | {name: c for c, name in enumerate(classes)}
        return classes, np.asarray([number[turn.label] for turn in self.turns], np.int32)


def parse_json_lines(path: str | os.PathLike) -> Written:
    """Reads conversations to be predicted.

    Args:
      path: a file in UTF-8 with a conversation a line, as above; empty lines do not count.

    Raises:
      UserError: naming the file, and the line and turn where there is one.
    """
    source = os.fspath(path)
    return _join(_read_lines(source), source)


def read_json_lines(path: str | os.PathLike) -> Corpus:
    """As ``parse_json_lines``: a validated corpus.

    Its classes are the labels that are there, in alphabetical order, and its modalities those that
    are there.
    """
    return parse_json_lines(path).corpus()


def from_turns(conversations: Iterable[Any], source: str = "conversations") -> Corpus:
    """As ``parse_turns``: a validated corpus, as of ``read_json_lines``."""
    return parse_turns(conversations, source).corpus()


def parse_turns(conversations: Iterable[Any], source: str = "conversations") -> Written:
    """Joins conversations that are Python objects.

    Args:
      conversations: each a list of turns, or a dictionary with ``dialogue`` and ``turns``, as
        above; features may be numpy's arrays. A list of turns is named by its place, from 0.
      source: what messages call them.

    Raises:
      UserError: naming the conversation and the turn where there is one.
    """
    if not isinstance(conversations, Iterable) or isinstance(conversations, str | bytes | Mapping):
        raise UserError(
            f"{source}: have to be a list of conversations, not {_shown(conversations)}"
        )
    named = (
        (f"{source}: conversation {number}", _named(value, number))
        for number, value in enumerate(conversations)
    )
    return _join(named, source)


def _named(value: Any, number: int) -> Any:
    return value if isinstance(value, Mapping) else {"dialogue": number, "turns": value}


def _read_lines(source: str) -> Iterator[tuple[str, Any]]:
    """The place and the contents of every line that is not empty."""
    for number, line in enumerate(_raw_lines(source), start=1):
        place = f"{source}: line {number}"
        if len(line) > MAX_LINE_BYTES:
            raise UserError(f"{place} is longer than {MAX_LINE_BYTES} bytes")
        line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if line.strip():
            yield place, _parse(line, place)


def _raw_lines(source: str) -> Iterator[bytes]:
    """The lines of a file; a longer one than is read is cut."""
    try:
        with open(source, "rb") as file:
            yield from iter(lambda: file.readline(MAX_LINE_BYTES + 1), b"")
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror or error})") from error


def _parse(line: bytes, place: str) -> Any:
    def refuse_repeated(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            names = sorted(name for name, _ in pairs)
            twice = next(a for a, b in zip(names, names[1:]) if a == b)
            raise UserError(f"{place}: the key {_shown(twice)} is there twice")
        return value

    try:
        return json.loads(line.decode("utf-8"), object_pairs_hook=refuse_repeated)
    except UserError:
        raise
    except UnicodeDecodeError as error:
        raise UserError(f"{place} is not UTF-8 (byte {error.start})") from error
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", "too deep or too large")
        raise UserError(
            f"{place} is not JSON ({reason}); each line has to hold one whole conversation"
        ) from error


def _join(conversations: Iterable[tuple[str, Any]], source: str) -> Written:
    """Reads conversations, each after its place."""
    names, lengths, turns = [], [], []
    for place, value in conversations:
        name, own = _read_conversation(value, place)
        names.append(name)
        lengths.append(len(own))
        turns += own
    if not names:
        raise UserError(f"{source}: there is no conversation")
    return Written(source, names, lengths, turns)


def _read_conversation(value: Any, place: str) -> tuple[str, list[_Turn]]:
    """The name and the turns of one conversation."""
    if not isinstance(value, Mapping) or "turns" not in value:
        raise UserError(f"{place}: a conversation needs a list of 'turns', unlike {_shown(value)}")
    _check_keys(value, CONVERSATION_KEYS, place)
    name = _name(value.get("dialogue"), "the name of the dialogue", place)
    turns = value["turns"]
    if not isinstance(turns, Sequence) or isinstance(turns, str | bytes):
        raise UserError(f"{place}: the turns have to be a list, not {_shown(turns)}")
    if not turns:
        raise UserError(f"{place}: dialogue {name!r} has no turns")
    return name, [_read_turn(turn, f"{place}, turn {t}") for t, turn in enumerate(turns)]


def _read_turn(value: Any, place: str) -> _Turn:
    if not isinstance(value, Mapping):
        raise UserError(f"{place} has to name its speaker and features, unlike {_shown(value)}")
    _check_keys(value, TURN_KEYS, place)
    return _Turn(
        place,
        _name(_stripped(value.get("speaker")), "the speaker", place),
        _text(value.get("text"), "the text", place) or "",
        _text(value.get("label"), "the label", place),
        _read_features(value.get("features"), place),
        _seconds(value.get("start"), "the start", place),
        _seconds(value.get("end"), "the end", place),
        _text(value.get("audio"), "the name of the sound", place) or "",
    )


def _seconds(value: Any, what: str, place: str) -> float:
    """A time, nan where there is none."""
    if value is None:
        return math.nan
    if not _is_number(type(value)) or not math.isfinite(value):
        raise UserError(f"{place}: {what} has to be a number of seconds, not {_shown(value)}")
    return float(value)


def _read_features(value: Any, place: str) -> dict[str, np.ndarray]:
    """Modality -> [d_m] float32 of one utterance; an absent modality is left out."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise UserError(f"{place}: features have to be named by modality, unlike {_shown(value)}")
    for name in map(str, value):
        if not FEATURE_NAME.fullmatch(name):
            raise UserError(f"{place}: {_shown(name)} cannot name a modality; {NAMING}")
    held = {str(m): _vector(x, f"{place}: {m}") for m, x in value.items() if x is not None}
    return {modality: vector for modality, vector in held.items() if len(vector)}


def _vector(value: Any, place: str) -> np.ndarray:
    # Other contents never reach numpy: it gives every string the width of the longest.
    if isinstance(value, list | tuple) and not all(map(_is_number, set(map(type, value)))):
        raise UserError(f"{place} has to be a list of numbers, not {_shown(value)}")
    try:
        array = np.asarray(value)
    except (ValueError, OverflowError):  # an integer beyond any float
        array = np.asarray(None)
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise UserError(f"{place} has to be a list of numbers, not {_shown(value)}")
    # A number beyond float32 becomes infinite, which the validation reports.
    with np.errstate(over="ignore"):
        return array.astype(np.float32)


def _is_number(kind: type) -> bool:
    return issubclass(kind, int | float | np.integer | np.floating) and kind is not bool


def _check_keys(value: Mapping, known: Sequence[str], place: str) -> None:
    unknown = [key for key in value if key not in known]
    if unknown:
        raise UserError(
            f"{place}: unknown key {_shown(unknown[0])}; there may be {', '.join(known)}"
        )


def _stripped(value: Any) -> Any:
    """A speaker without the blanks around it, as in tables: one person is one name."""
    return value.strip() if isinstance(value, str) else value


def _name(value: Any, what: str, place: str) -> str:
    """A name, which may be a number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if value is None or value == "":
        raise UserError(f"{place}: {what} is missing")
    return _text(value, what, place)


def _text(value: Any, what: str, place: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise UserError(f"{place}: {what} has to be text, not {_shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{place}: {what} holds half a character, \\ud800 to \\udfff") from error
    # numpy drops it where it ends a string, and two names become one.
    if "\0" in value:
        raise UserError(f"{place}: {what} holds the character NUL")
    return value


def _stack(
    turns: Sequence[_Turn], source: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Features modality -> [N, d_m] and presence modality -> [N]; an utterance may lack any."""
    held, widths = 0, {}
    for turn in turns:
        for modality, vector in turn.features.items():
            held += len(vector)
            widths[modality] = max(widths.get(modality, 0), len(vector))
    # A table has a row for every turn, also where the modality is absent in all turns but one.
    if len(turns) * sum(widths.values()) > 64 * held + 2**26:
        raise UserError(f"{source}: has modalities that are absent in nearly all of its turns")
    features, present = {}, {}
    for row, turn in enumerate(turns):
        for modality, vector in turn.features.items():
            if modality not in features:
                features[modality] = np.zeros((len(turns), len(vector)), np.float32)
                present[modality] = np.zeros(len(turns), bool)
            width = features[modality].shape[1]
            if len(vector) != width:
                raise UserError(
                    f"{turn.place}: {modality} is {len(vector)} wide, but {width} wide before it"
                )
            features[modality][row] = vector
            present[modality][row] = True
    return features, present


def _strings(values: Sequence[str], what: str, source: str) -> np.ndarray:
    lengths = [len(value) for value in values]
    # numpy gives every string the width of the longest.
    if 4 * len(values) * max(lengths, default=0) > 64 * sum(lengths) + 2**26:
        raise UserError(f"{source}: one of the {what} is far too long")
    return np.asarray(values, np.str_)


def _shown(value: Any) -> str:
    """The beginning of a value, for a message in one line."""
    # Bounded in depth and length: the value may be as large as the file.
    text = " ".join(_SHORT.repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
