"""Predictions for conversations: labels and probabilities with their spread, turn by turn."""

import dataclasses
import functools
import itertools
import os
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from cberl_jax.data.corpus import Corpus
from cberl_jax.features.optional import load_library
from cberl_jax.reports.plots.fonts import can_draw, drawable, warn_of_numbers
from cberl_jax.reports.plots.trace import Trace, draw_trace
from cberl_jax.runtime.files import expand, explaining_failure, write_text
from cberl_jax.runtime.summary import Summarised, Summary
from cberl_jax.serving.formats import write_predictions

_DECIMALS = 8
# Of a file's name: with four bytes a letter it fits what file systems allow.
_LONGEST_NAME = 50
# Turns in the text and in a notebook's table of predictions.
_FIRST_LINES, _FIRST_ROWS = 5, 20


def name_files(names: Sequence[str]) -> list[str]:
    """Names for files: without signs that a path could stumble over, and all different."""
    taken: set[str] = set()
    files = []
    for name in names:
        plain = re.sub(r"[^\w.-]+", "_", name).strip(".")[:_LONGEST_NAME] or "conversation"
        file, number = plain, 1
        # Some file systems take capitals for small letters.
        while file.casefold() in taken:
            number += 1
            file = f"{plain}_{number}"
        taken.add(file.casefold())
        files.append(file)
    return files


def _complain(line: str) -> None:
    print(line, file=sys.stderr)


@dataclasses.dataclass(frozen=True, repr=False)
class Predictions(Summarised):
    """What the members of a model say of N utterances; their number is its length.

    To go through it gives a record per turn, as of ``lines``.

    Attributes:
      corpus: the conversations, with the model's C classes.
      members: [S, N, C] probabilities of each of the S members, N in the corpus's order.
      diverged: seeds of the members whose training diverged, which are not among these.
    """

    corpus: Corpus
    members: np.ndarray
    diverged: Sequence[int] = ()

    @functools.cached_property
    def probability(self) -> np.ndarray:
        """[N, C] mean over the members."""
        return self.members.mean(axis=0, dtype=np.float64)

    @functools.cached_property
    def spread(self) -> np.ndarray | None:
        """[N, C] standard deviation over the members; None with one, which says nothing of it."""
        if len(self.members) < 2:
            return None
        return self.members.std(axis=0, ddof=1, dtype=np.float64)

    @functools.cached_property
    def label(self) -> np.ndarray:
        """[N] int, the class of the largest mean probability."""
        return self.probability.argmax(axis=-1)

    def __len__(self) -> int:
        return len(self.corpus.label)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.lines()

    def by_conversation(self, values: np.ndarray) -> list[np.ndarray]:
        """Cuts values [N, ...] into one array [T, ...] per conversation."""
        return np.split(values, self.corpus.start[1:])

    def lines(self) -> Iterator[dict[str, Any]]:
        """A record per turn.

        Yields:
          ``dialogue``, ``turn`` (from 0), ``speaker``, ``text`` where it is known, ``label``,
          ``probabilities`` and ``spread`` (class -> number; None with one member), and ``truth``
          where the input has a label.
        """
        corpus = self.corpus
        for n, (dialogue, turn) in enumerate(zip(corpus.dialogue_of, corpus.turn)):
            line = {
                "dialogue": str(corpus.dialogue[dialogue]),
                "turn": int(turn),
                "speaker": str(corpus.speaker[n]),
            }
            if corpus.utterance is not None and corpus.utterance[n]:
                line["text"] = str(corpus.utterance[n])
            line["label"] = corpus.classes[self.label[n]]
            line["probabilities"] = self._by_class(self.probability[n])
            line["spread"] = None if self.spread is None else self._by_class(self.spread[n])
            if corpus.label[n] >= 0:
                line["truth"] = corpus.classes[corpus.label[n]]
            yield line

    def columns(self) -> dict[str, list[Any]]:
        """The same as ``lines``, as a table with a row per turn.

        Returns:
          Name -> N values: ``dialogue``, ``turn``, ``speaker``, ``text``, ``label``, ``truth``,
          ``probability_<class>`` of every class and, of several members, ``spread_<class>``. A text
          or a true label that is not known is None.
        """
        corpus = self.corpus
        names = np.asarray([*corpus.classes, None], dtype=object)
        text = [None] * len(self) if corpus.utterance is None else corpus.utterance.tolist()
        found = {
            "dialogue": corpus.dialogue[corpus.dialogue_of].astype(str).tolist(),
            "turn": corpus.turn.tolist(),
            "speaker": corpus.speaker.astype(str).tolist(),
            "text": [line or None for line in text],
            "label": names[self.label].tolist(),
            "truth": names[corpus.label].tolist(),
        }
        for kind, values in (("probability", self.probability), ("spread", self.spread)):
            if values is not None:
                rounded = np.round(values, _DECIMALS).T.tolist()
                found |= {f"{kind}_{name}": own for name, own in zip(corpus.classes, rounded)}
        return found

    def to_pandas(self) -> Any:
        """The predictions as a data frame with a row per turn.

        Returns:
          A pandas DataFrame with the columns of ``columns``.

        Raises:
          UserError: pandas is not installed.
        """
        return load_library("pandas", "pandas").DataFrame(self.columns())

    def _by_class(self, values: np.ndarray) -> dict[str, float]:
        return dict(zip(self.corpus.classes, np.round(values, _DECIMALS).tolist()))

    def describe(self) -> str:
        """How much was predicted, by whom and from what, for a person."""
        corpus = self.corpus
        counts = len(corpus.length), len(corpus.label), len(self.members)
        parts = ["conversations {}, turns {}, members {}".format(*counts)]
        if self.diverged:
            seeds = ", ".join(map(str, self.diverged))
            parts.append(f"diverged and left out: seed {seeds}")
        for modality, present in corpus.present.items():
            if not present.all():
                parts.append(f"{modality} is absent in {100 * (1 - present.mean()):.1f} %")
        return "; ".join(parts)

    def _summarise(self) -> Summary:
        names = ("dialogue", "turn", "speaker", "label")
        rows = [
            (*(line[name] for name in names), f"{line['probabilities'][line['label']]:.2f}")
            for line in itertools.islice(self, _FIRST_ROWS)
        ]
        lines = [f"Predictions: {self.describe()}"]
        lines += [
            f"{dialogue}, turn {turn}, {speaker}: {label} ({sure})"
            for dialogue, turn, speaker, label, sure in rows[:_FIRST_LINES]
        ]
        if len(self) > _FIRST_LINES:
            lines.append(f"and {len(self) - _FIRST_LINES} more turns")
        return Summary(lines, (*names, "probability"), rows)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the predictions, whole or not at all, in UTF-8.

        Args:
          path: of the file. The end of its name decides: ``.jsonl`` has ``lines`` as JSON, ``.csv``
            and ``.parquet`` (which needs pyarrow) have ``columns``.

        Raises:
          UserError: the name ends otherwise, pyarrow is not installed, or the file cannot be
            written.
        """
        write_predictions(path, self.lines, self.columns)

    def draw(
        self, folder: str | os.PathLike[str], say: Callable[[str], None] = _complain
    ) -> list[pathlib.Path]:
        """Draws the emotions of each conversation into a PNG of its name.

        Where no installed font has the letters of the class names, the pictures number the classes
        and ``classes.txt`` beside them is the key.

        Args:
          folder: made if it is not there; the one that it lies in has to be.
          say: takes a warning that classes are numbered; by default it goes to the standard error.

        Returns:
          The pictures' paths, in the order of the conversations.

        Raises:
          UserError: a file cannot be written.
        """
        folder = pathlib.Path(expand(folder, "the folder of the pictures"))
        names = name_files([str(name) for name in self.corpus.dialogue])
        paths = [folder / f"{name}.png" for name in names]
        classes = drawable(self.corpus.classes)
        warning = warn_of_numbers(self.corpus.classes, classes)
        with explaining_failure(folder):
            folder.mkdir(exist_ok=True)
            for path, trace in zip(paths, self._traces(classes)):
                draw_trace(path, trace)
        if warning:
            key = [f"{n} {name}\n" for n, name in zip(classes, self.corpus.classes)]
            write_text(folder / "classes.txt", "".join(key))
            say(warning)
        return paths

    def _traces(self, classes: Sequence[str]) -> Iterator[Trace]:
        """What is drawn of each conversation, with the classes' names as they are drawn."""
        corpus = self.corpus
        speakers = list(dict.fromkeys(corpus.speaker.tolist()))
        shown = dict(zip(speakers, drawable(speakers, "speaker ")))
        for number, (name, start, length) in enumerate(
            zip(corpus.dialogue, corpus.start, corpus.length), start=1
        ):
            here = slice(start, start + length)
            yield Trace(
                title=str(name) if can_draw(str(name)) else f"conversation {number}",
                classes=classes,
                probability=self.probability[here],
                spread=None if self.spread is None else self.spread[here],
                label=self.label[here],
                speaker=[shown[speaker] for speaker in corpus.speaker[here].tolist()],
                truth=corpus.label[here],
            )
