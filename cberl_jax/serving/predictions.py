"""Predictions for conversations: labels and probabilities with their spread, as JSON lines."""

import dataclasses
import functools
import json
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cberl_jax.data.corpus import Corpus
from cberl_jax.reports.plots.trace import Trace, draw_trace
from cberl_jax.runtime.files import expand, explaining_failure, replacing

_DECIMALS = 8
# Of a file's name: with four bytes a letter it fits what file systems allow.
_LONGEST_NAME = 50


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


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What the members of a model say of N utterances.

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

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes ``lines`` as JSON lines in UTF-8, whole or not at all.

        Raises:
          UserError: the file cannot be written.
        """
        with replacing(path) as file:
            for line in self.lines():
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")

    def draw(self, folder: str | os.PathLike[str]) -> list[pathlib.Path]:
        """Draws the emotions of each conversation into a PNG of its name.

        Args:
          folder: made if it is not there; the one that it lies in has to be.

        Returns:
          The pictures' paths, in the order of the conversations.

        Raises:
          UserError: a file cannot be written.
        """
        folder = pathlib.Path(expand(folder, "the folder of the pictures"))
        names = name_files([str(name) for name in self.corpus.dialogue])
        paths = [folder / f"{name}.png" for name in names]
        with explaining_failure(folder):
            folder.mkdir(exist_ok=True)
            for path, trace in zip(paths, self._traces()):
                draw_trace(path, trace)
        return paths

    def _traces(self) -> Iterator[Trace]:
        corpus = self.corpus
        for name, start, length in zip(corpus.dialogue, corpus.start, corpus.length):
            here = slice(start, start + length)
            yield Trace(
                title=str(name),
                classes=corpus.classes,
                probability=self.probability[here],
                spread=None if self.spread is None else self.spread[here],
                label=self.label[here],
                speaker=corpus.speaker[here].tolist(),
                truth=corpus.label[here],
            )
