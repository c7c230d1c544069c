"""The text of a transcript as features: by an encoder as it is, or tuned first."""

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

ALIGNMENT = "alignment.npz"
# The splits that a tuning needs labels of.
LEARNED = ("train", "dev")


class TextSource(NamedTuple):
    """Which encoder makes features of text, and how.

    Attributes:
      encoder: a folder or name, see ``load_encoder``.
      context: what it reads with an utterance; None for what it was tuned with, or the utterance
        alone.
      tuned: folder to leave the tuned encoder in; empty to leave the encoder as it is.
      tuning: how it is tuned.
      causal: whether a context with later turns is refused.
    """

    encoder: str = PACKAGED
    context: Context | None = None
    tuned: str = ""
    tuning: Tuning = Tuning()
    causal: bool = False


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
        _tune(transcript, source, context, say)
        name = source.tuned
    kept = read_kept(name)
    folds = kept.tuning["crossfit"] if kept else 0
    if folds:
        rows = _encode_crossfitted(name, kept, transcript, say)
        weights = hash_weights(name)
    else:
        encoder = load_encoder(name)
        rows = _encode(encoder, transcript, context)
        weights = hash_weights(find_folder(name)) or {"state": hash_state(encoder)}
    return Encoded(rows, describe_text(name, weights, context, kept, transcript))


def _encode(encoder, transcript: Transcript, context: Context) -> np.ndarray:
    if context.is_alone:
        return text_features(encoder, [turn.text for turn in transcript.turns])
    return embed_all(encoder, make_inputs(encoder, transcript, context), len(transcript.turns))


def _encode_crossfitted(name: str, kept: Kept, transcript: Transcript, say) -> np.ndarray:
    """By the encoders of all folds, in one space."""
    ways = read_alignments(Path(name) / ALIGNMENT, kept.tuning["crossfit"])
    features = [
        _encode(load_encoder(str(Path(name) / f"fold{k}")), transcript, kept.context)
        for k in range(len(ways))
    ]
    fold = np.full(len(transcript.turns), -1)
    if kept.tuning["transcript"] == fingerprint_transcript(transcript):
        fold = fold_of(transcript, len(ways), kept.tuning["seed"])
    elif "train" in transcript.split and transcript.has_splits:
        say(
            f"{name}: was cross-fitted on another transcript; of this one all utterances, those of "
            "train too, get the mean over the folds"
        )
    return combine(features, ways, fold)


def _tune(transcript: Transcript, source: TextSource, context: Context, say) -> None:
    """Leaves a tuned encoder, or those of all folds, in the folder that the source names."""
    trainer = load_library("cberl_jax.features.trainer")
    tuning, folder = source.tuning, Path(f"{source.tuned}.tuning")
    encoder = load_encoder(source.encoder)
    inputs = make_inputs(encoder, transcript, context)
    trainer.claim(folder, _identity(encoder, transcript, source, context))
    train, dev = (np.searchsorted(inputs.rows, labelled_rows(transcript, s)) for s in LEARNED)
    note = tuning.flatten() | {"transcript": fingerprint_transcript(transcript)}
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


def _identity(encoder, transcript: Transcript, source: TextSource, context: Context) -> dict:
    """What makes a tuning the same one: it goes on where it was stopped."""
    return {
        "encoder": hash_state(encoder),
        "transcript": fingerprint_transcript(transcript),
        **context._asdict(),
        **source.tuning.flatten(),
    }
