"""The text of a transcript as features: by an encoder as it is, or tuned first."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cberl_jax.data.readers.transcripts import Transcript
from cberl_jax.errors import UserError
from cberl_jax.features.context import Context, embed_all, make_inputs
from cberl_jax.features.crossfit import (
    align_folds,
    combine,
    fold_of,
    read_alignments,
    write_alignments,
)
from cberl_jax.features.kept import Kept, hash_weights, read_kept, resolve_context, save_kept
from cberl_jax.features.optional import load_library
from cberl_jax.features.provenance import describe_text, fingerprint_transcript, hash_state
from cberl_jax.features.text import PACKAGED, find_folder, load_encoder, text_features
from cberl_jax.features.tuning import Tuning, check_tuning, labelled_rows
from cberl_jax.runtime.workdir import list_differences

ALIGNMENT = "alignment.npz"
# The splits that a tuning needs labels of.
LEARNED = ("train", "dev")


class TextSource(NamedTuple):
    """Which encoder makes features of text, and how.

    Attributes:
      encoder: a folder or name, see ``load_encoder``.
      context: what it reads with an utterance; None for what it was tuned with, or the utterance
        alone.
      tuned: folder to leave the tuned encoder in, or that has it already; empty to leave the
        encoder as it is.
      tuning: how it is tuned.
      causal: whether a context with later turns is refused.
    """

    encoder: str = PACKAGED
    context: Context | None = None
    tuned: str = ""
    tuning: Tuning = Tuning()
    causal: bool = False


class TextReader:
    """An encoder that makes features of text, as it is or was tuned.

    Attributes:
      context: what it reads with an utterance.
    """

    def __init__(self, name: str, context: Context | None = None, hold: bool = False):
        """Finds an encoder.

        Args:
          name: a folder or name, see ``load_encoder``.
          context: as of ``TextSource``.
          hold: whether what is loaded stays in memory, also the encoders of all folds.

        Raises:
          UserError: the folder's note is damaged, or asks for another context.
        """
        self.context = resolve_context(name, context)
        self._name, self._hold, self._kept = name, hold, read_kept(name)
        self._folds = self._kept.tuning["crossfit"] if self._kept else 0
        self._loaded: dict[str, Any] = {}

    def encode(
        self, transcript: Transcript, say: Callable[[str], None] = print, last: bool = False
    ) -> np.ndarray:
        """The features of every utterance.

        Args:
          transcript: the conversations.
          say: is told what a person should know.
          last: only of the last utterance.

        Returns:
          [N, d] float32, or [1, d]; a row is nan where there is no text.
        """
        if not self._folds:
            return _encode(self._load(self._name), transcript, self.context, last)
        assert self._kept is not None
        ways = read_alignments(Path(self._name) / ALIGNMENT, self._folds)
        features = [
            _encode(self._load(f"{self._name}/fold{k}"), transcript, self.context, last)
            for k in range(len(ways))
        ]
        fold = np.full(len(features[0]), -1)
        if last:
            return combine(features, ways, fold)
        if self._kept.tuning["transcript"] == fingerprint_transcript(transcript):
            fold = fold_of(transcript, len(ways), self._kept.tuning["seed"])
        elif "train" in transcript.split and transcript.has_splits:
            say(
                f"{self._name}: was cross-fitted on another transcript; of this one all "
                "utterances, those of train too, get the mean over the folds"
            )
        return combine(features, ways, fold)

    def describe(self, transcript: Transcript) -> dict[str, Any]:
        """How the features of a transcript were made."""
        weights = hash_weights(self._name if self._folds else find_folder(self._name))
        weights = weights or {"state": hash_state(self._load(self._name))}
        return describe_text(self._name, weights, self.context, self._kept, transcript)

    def _load(self, name: str):
        if name in self._loaded:
            return self._loaded[name]
        encoder = load_encoder(name)
        # Of the encoders of folds, which may be large, one at a time.
        if self._hold or not self._folds:
            self._loaded[name] = encoder
        return encoder


class Encoded(NamedTuple):
    """Features of text.

    Attributes:
      rows: [N, d] float32; a row is nan where the transcript is empty.
      record: how they were made, see ``provenance.py``.
    """

    rows: np.ndarray
    record: dict[str, Any]


def encode_text(
    transcript: Transcript, source: TextSource, say: Callable[[str], None] = print
) -> Encoded:
    """The features of every utterance.

    Args:
      transcript: the conversations.
      source: the encoder.
      say: is told the progress.

    Returns:
      The features and how they were made.

    Raises:
      UserError: the encoder cannot be had, does not read in context, or there is nothing to tune
        it on.
    """
    context = resolve_context(source.encoder, source.context)
    if source.causal and context.future:
        raise UserError(
            f"--causal: the text encoder {source.encoder} would read {context.future} later turns; "
            "take --context_future away, or tune an encoder without it."
        )
    name = source.encoder
    if source.tuned:
        check_tuning(source.tuning)
        for split in LEARNED:
            labelled_rows(transcript, split)
        if not is_tuned(transcript, source):
            _tune(transcript, source, context, say)
        name = source.tuned
    reader = TextReader(name, context)
    return Encoded(reader.encode(transcript, say), reader.describe(transcript))


def is_tuned(transcript: Transcript, source: TextSource) -> bool:
    """Whether the folder for the tuned encoder has it already.

    Raises:
      UserError: the folder has something else.
    """
    if not os.path.lexists(source.tuned):
        return False
    kept = read_kept(source.tuned)
    if kept is None:
        raise UserError(f"{source.tuned}: holds no tuned encoder; name another --finetune.")
    context = resolve_context(source.encoder, source.context)
    asked = _describe_tuning(load_encoder(source.encoder), transcript, source.tuning)
    if source.tuning.precision == "auto":
        # The note says what was chosen.
        del asked["precision"]
    there = {name: kept.tuning.get(name) for name in asked} | kept.context._asdict()
    differences = list_differences(there, asked | context._asdict(), ())
    if differences:
        raise UserError(
            f"{source.tuned}: was tuned otherwise ({differences}); name another folder to "
            "--finetune."
        )
    return True


def _encode(encoder, transcript: Transcript, context: Context, last: bool = False) -> np.ndarray:
    count = len(transcript.turns)
    if context.is_alone:
        turns = transcript.turns[-1:] if last else transcript.turns
        return text_features(encoder, [turn.text for turn in turns])
    inputs = make_inputs(encoder, transcript, context)
    if last:
        inputs = inputs.only(inputs.rows == count - 1)
    rows = embed_all(encoder, inputs, count)
    return rows[-1:] if last else rows


def _tune(transcript: Transcript, source: TextSource, context: Context, say) -> None:
    """Leaves a tuned encoder, or those of all folds, in the folder that the source names."""
    trainer = load_library("cberl_jax.features.trainer")
    tuning, folder = source.tuning, Path(f"{source.tuned}.tuning")
    encoder = load_encoder(source.encoder)
    inputs = make_inputs(encoder, transcript, context)
    note = _describe_tuning(encoder, transcript, tuning)
    trainer.claim(folder, note | context._asdict())
    train, dev = (np.searchsorted(inputs.rows, labelled_rows(transcript, s)) for s in LEARNED)
    label, classes = transcript.label[inputs.rows], len(transcript.classes)

    def learn(rows: np.ndarray, place: Path) -> dict[str, Any]:
        task = trainer.Task(inputs, label, classes, rows, dev)
        return trainer.tune(encoder, task, tuning, place, say)

    def write(draft: str) -> None:
        encoder.save(draft, create_model_card=False)

    if not tuning.crossfit:
        outcome = learn(train, folder)
        save_kept(write, Kept(context, note | outcome), Path(source.tuned))
        shutil.rmtree(folder, ignore_errors=True)
        return
    fold = fold_of(transcript, tuning.crossfit, tuning.seed)
    for k in range(tuning.crossfit):
        if not (folder / f"fold{k}").exists():
            encoder = load_encoder(source.encoder)
            place = folder / f"learning{k}"
            trainer.claim(place, {"fold": k})
            say(f"text encoder of fold {k + 1}/{tuning.crossfit}:")
            outcome = learn(train[fold[inputs.rows[train]] != k], place)
            save_kept(write, Kept(context, note | outcome | {"crossfit": 0}), folder / f"fold{k}")
            shutil.rmtree(place, ignore_errors=True)
    features = [
        _encode(load_encoder(str(folder / f"fold{k}")), transcript, context)
        for k in range(tuning.crossfit)
    ]
    seen = inputs.rows[train]
    ways = align_folds(features, lambda k: seen[fold[seen] != k])

    def gather(draft: str) -> None:
        for k in range(tuning.crossfit):
            shutil.copytree(folder / f"fold{k}", Path(draft) / f"fold{k}")
        write_alignments(Path(draft) / ALIGNMENT, ways)

    save_kept(gather, Kept(context, note), Path(source.tuned))
    shutil.rmtree(folder, ignore_errors=True)


def _describe_tuning(encoder, transcript: Transcript, tuning: Tuning) -> dict[str, Any]:
    """What makes a tuning the same one, besides the context: it goes on where it was stopped."""
    return {
        "encoder": hash_state(encoder),
        "transcript": fingerprint_transcript(transcript),
        **tuning.flatten(),
    }
