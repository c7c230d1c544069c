"""The corpus in memory: dialogues, their utterances, and what makes one sound.

Section 2 of the design. Everything a file can hold arrives here as one flat record; packing
into rows, standardisation and the device come later (``packing.py``).
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cberl_jax.config.views import group_views
from cberl_jax.errors import UserError
from cberl_jax.runtime.summary import Summarised, Summary, list_names

SPLITS = ("train", "dev", "test")
# How files call them, in small letters.
SPLIT_NAMES = (
    dict.fromkeys(("train", "training"), "train")
    | dict.fromkeys(("dev", "val", "valid", "validation", "development"), "dev")
    | dict.fromkeys(("test", "testing"), "test")
)
UNLABELLED = -1
USUAL_MODALITIES = ("text", "audio", "visual")


@dataclasses.dataclass(frozen=True, repr=False)
class Corpus(Summarised):
    """Conversations as flat arrays: G dialogues, N utterances in dialogue order, C classes.

    Attributes:
      classes: names of the C emotions; a label is an index into them.
      dialogue: [G] str, unique names.
      split: [G] str, each of ``SPLITS``.
      length: [G] int32, utterances per dialogue, each at least 1; their sum is N.
      speaker: [N] str.
      label: [N] int32 in 0..C-1, or ``UNLABELLED`` for context without a label.
      features: name -> [N, d] float32; a row is zero where the features are absent. A name is a
        modality, or a view of one: ``text.minilm`` and ``text.mpnet`` are two views of text.
      present: name -> [N] bool, same keys as ``features``.
      utterance: [N] str transcripts, or None where the file holds none.
      groups: name -> [G] str, what else is known of each dialogue, to make folds by.
      source: where it came from, for messages.
      left_out: dialogues of the file that stand in no split.
      remarks: what a person should know of how the file was read; see ``notices.py``.
      provenance: modality -> how its features were made, where the file says it; see
        ``provenance.py``. It is no part of the contents that ``fingerprint`` names.
    """

    classes: tuple[str, ...]
    dialogue: np.ndarray
    split: np.ndarray
    length: np.ndarray
    speaker: np.ndarray
    label: np.ndarray
    features: Mapping[str, np.ndarray]
    present: Mapping[str, np.ndarray]
    utterance: np.ndarray | None = None
    groups: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    source: str = "corpus"
    left_out: int = 0
    remarks: tuple[str, ...] = ()
    provenance: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities, in the file's order; the views of one are one."""
        return tuple(group_views(self.features))

    @property
    def name(self) -> str:
        """What reports call it: of a path the last part, since they are handed on."""
        return os.path.basename(self.source) or self.source

    @property
    def widths(self) -> dict[str, int]:
        """Width d of each modality's features, or of each view's."""
        return {name: array.shape[1] for name, array in self.features.items()}

    @property
    def start(self) -> np.ndarray:
        """[G] index of each dialogue's first utterance."""
        return np.concatenate([[0], np.cumsum(self.length)[:-1]]).astype(np.int64)

    @property
    def dialogue_of(self) -> np.ndarray:
        """[N] index of the dialogue that each utterance belongs to."""
        return np.repeat(np.arange(len(self.length)), self.length)

    @property
    def turn(self) -> np.ndarray:
        """[N] position of each utterance within its dialogue, from 0."""
        return np.arange(len(self.label)) - np.repeat(self.start, self.length)

    def in_split(self, split: str) -> np.ndarray:
        """[N] bool, the utterances of one split."""
        return np.repeat(self.split == split, self.length)

    def class_counts(self, split: str) -> np.ndarray:
        """[C] labelled utterances per class in one split."""
        label = self.label[self.in_split(split)]
        return np.bincount(label[label >= 0], minlength=len(self.classes))

    def _summarise(self) -> Summary:
        counts = {split: self.class_counts(split) for split in SPLITS}
        inside = {split: int(self.length[self.split == split].sum()) for split in SPLITS}
        widths = [f"{name} ({width})" for name, width in self.widths.items()]
        lines = [
            f"Corpus {self.source}: {len(self.dialogue)} dialogues, {len(self.label)} utterances, "
            f"{len(np.unique(self.speaker))} speakers",
            "labelled utterances: "
            + ", ".join(f"{split} {own.sum()} of {inside[split]}" for split, own in counts.items()),
            f"classes: {len(self.classes)} ({list_names(self.classes)})",
            f"features: {list_names(widths)}",
        ]
        head = ["split", "dialogues", "utterances", *self.classes]
        rows = [
            [split, int(np.sum(self.split == split)), inside[split], *own.tolist()]
            for split, own in counts.items()
        ]
        return Summary(lines, head, rows)

    def place(self, utterance: int) -> str:
        """The place of an utterance in words, for messages."""
        dialogue = self.dialogue_of[utterance]
        return f"dialogue {shown(self.dialogue[dialogue])}, utterance {self.turn[utterance]}"

    def error(self, message: str) -> UserError:
        """An error that opens with the name of the file."""
        return UserError(f"{self.source}: {message}")

    @classmethod
    def from_frame(
        cls,
        frame: Any,
        features: Mapping[str, Any],
        *,
        classes: Sequence[str] | None = None,
        bins: Sequence[float] = (),
        dev_share: float = 0.0,
        test_share: float = 0.0,
        seed: int = 0,
        feature_dialogue: Any = None,
        to_predict: bool = False,
        source: str = "frame",
        **columns: str | None,
    ) -> "Corpus":
        """Makes a corpus of your own table, a row per utterance, and arrays of features.

        Args:
          frame: a DataFrame, or a dictionary of lists: N rows, those of a dialogue together and in
            the order of its turns.
          features: modality -> [N, d] in the order of the rows, or modality -> a dictionary of
            dialogue -> [T, d]. A row of NaN is an utterance that lacks the modality. Several
            feature sets of a modality are views of it: ``text.minilm``, ``text.mpnet``.
          classes: names of the C classes, in the order of their numbers where labels are numbers.
            Without them the labels that there are.
          bins: C + 1 rising edges that cut labels that are real numbers into classes; a value on an
            edge belongs to the class above it, one on the last edge to the last class.
          dev_share: share of the train dialogues that become dev, where there is no dev split.
          test_share: the same for test.
          seed: of that choice.
          feature_dialogue: [N] the dialogue of each row of the features, or modality -> [N],
            for all of its views; it is compared with the table's.
          to_predict: whether it is only to be predicted, and needs no labels and no splits.
          source: what it is called in messages and reports.
          **columns: names of the table's columns where they are not ``dialogue``, ``speaker``,
            ``label``, ``split``, ``utterance`` (or ``text``; the transcript) and ``turn`` (a
            number to order a dialogue's rows by); None for a column that is not to be read.

        Returns:
          The corpus, checked.

        Raises:
          UserError: one sentence with the column, the row and the way out.
        """
        from cberl_jax.data import frames

        frames.check_columns(columns, source)
        return frames.from_frame(
            frame,
            features,
            columns=columns,
            classes=classes,
            bins=bins,
            splits=frames.Splits(dev_share, test_share, seed),
            feature_dialogue=feature_dialogue,
            to_predict=to_predict,
            source=source,
        )

    @classmethod
    def from_arrays(
        cls,
        *,
        bins: Sequence[float] = (),
        dev_share: float = 0.0,
        test_share: float = 0.0,
        seed: int = 0,
        to_predict: bool = False,
        source: str = "arrays",
        **arrays: Any,
    ) -> "Corpus":
        """Makes a corpus of arrays with the keys of a canonical file.

        Args:
          bins: as of ``from_frame``, and so are the next ones up to ``source``.
          dev_share: see there.
          test_share: see there.
          seed: see there.
          to_predict: see there.
          source: see there.
          **arrays: ``dialogue``, ``split`` and ``length`` [G], ``speaker`` and ``label`` [N],
            ``features``, a dictionary of modality -> [N, d]; optionally ``classes`` [C],
            ``utterance`` [N], ``present``, a dictionary of modality -> [N] bool, and
            ``feature_dialogue`` [N].

        Returns:
          The corpus, checked.

        Raises:
          UserError: one sentence with the key, the place and the way out.
        """
        from cberl_jax.data import frames

        splits = frames.Splits(dev_share, test_share, seed)
        return frames.from_arrays(arrays, splits, bins, to_predict, source)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the canonical ``.npz``, whole or not at all.

        Args:
          path: of the file, replaced if it is there.

        Raises:
          UserError: it cannot be written.
        """
        from cberl_jax.data.readers.npz import write_npz

        write_npz(self, path)


def shown(name: str) -> str:
    """A name in quotes, for messages; a long one is cut."""
    name = str(name)
    return repr(name) if len(name) <= 80 else repr(name[:77] + "...")


def describe(corpus: Corpus) -> str:
    """What a corpus holds, for a person.

    Args:
      corpus: a sound corpus (see ``validate.py``).

    Returns:
      Several lines: dialogues, utterances and class counts per split, dialogues in no split,
      feature widths with the share of utterances that lack the modality, missing modalities and
      the number of speakers.
    """
    head = ("split", "dialogues", "utterances", "unlabelled", *corpus.classes)
    table = [head]
    for split in SPLITS:
        inside = corpus.in_split(split)
        unlabelled = np.sum(corpus.label[inside] == UNLABELLED)
        counts = (np.sum(corpus.split == split), np.sum(inside), unlabelled)
        table.append((split, *map(str, counts), *map(str, corpus.class_counts(split))))
    columns = [max(map(len, column)) for column in zip(*table)]
    lines = [
        f"{corpus.source}: {len(corpus.dialogue)} dialogues, {len(corpus.label)} utterances, "
        f"{len(np.unique(corpus.speaker))} speakers",
        *("  ".join(f"{cell:>{width}}" for cell, width in zip(row, columns)) for row in table),
        f"dialogues in no split, left out: {corpus.left_out}",
    ]
    for name, width in corpus.widths.items():
        absent = 100 * (1 - np.mean(corpus.present[name]))
        lines.append(f"{name}: {width} wide, absent in {absent:.1f} % of the utterances")
    missing = [name for name in USUAL_MODALITIES if name not in corpus.modalities]
    lines.append("missing modalities: " + (", ".join(missing) or "none"))
    return "\n".join(lines)


def fingerprint(corpus: Corpus) -> str:
    """A name for the contents, whatever file they came from.

    Args:
      corpus: any corpus.

    Returns:
      64 hexadecimal digits (sha256). Equal contents give equal fingerprints on every machine;
      the source path does not count.
    """
    digest = hashlib.sha256()

    def add(name: str, array: np.ndarray, dtype: str) -> None:
        array = np.ascontiguousarray(array, dtype)
        digest.update(json.dumps([name, dtype, array.shape]).encode())
        digest.update(array.tobytes())

    # JSON escapes keep the borders between strings, which joining would lose.
    for strings in (corpus.classes, corpus.dialogue, corpus.split, corpus.speaker):
        digest.update(json.dumps([str(text) for text in strings]).encode())
    if corpus.utterance is not None:
        digest.update(json.dumps([str(text) for text in corpus.utterance]).encode())
    for name, values in corpus.groups.items():
        digest.update(json.dumps([name, *map(str, values)]).encode())
    add("length", corpus.length, "<i8")
    add("label", corpus.label, "<i8")
    for name, array in corpus.features.items():
        add(name, array, "<f4")
        add(name, corpus.present[name], "|b1")
    return digest.hexdigest()
