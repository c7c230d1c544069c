"""The text of a transcript as features: by an encoder as it is, or tuned first."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cberl_jax.data.readers.transcripts import Transcript
from cberl_jax.errors import UserError
from cberl_jax.features.context import Context, Inputs, embed_all, make_inputs
from cberl_jax.features.kept import Kept, resolve_context, save_kept
from cberl_jax.features.optional import load_library
from cberl_jax.features.text import PACKAGED, load_encoder, text_features
from cberl_jax.features.tuning import Tuning, labelled_rows


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


def encode_text(
    transcript: Transcript, source: TextSource, say: Callable[[str], None] = print
) -> np.ndarray:
    """The features of every utterance.

    Args:
      transcript: the conversations.
      source: the encoder.
      say: is told the progress.

    Returns:
      [N, d] float32; a row is nan where the transcript is empty.

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
    if source.tuned:
        for split in ("train", "dev"):
            labelled_rows(transcript, split)
    encoder = load_encoder(source.encoder)
    inputs = make_inputs(encoder, transcript, context)
    if source.tuned:
        _tune(encoder, inputs, transcript, source, context, say)
    if context.is_alone:
        return text_features(encoder, [turn.text for turn in transcript.turns])
    return embed_all(encoder, inputs, len(transcript.turns))


def _tune(encoder, inputs: Inputs, transcript: Transcript, source: TextSource, context, say):
    """Tunes the encoder in place, and saves it."""
    trainer = load_library("cberl_jax.features.trainer")
    folder = Path(f"{source.tuned}.tuning")
    trainer.claim(folder, _identity(encoder, transcript, source, context))
    task = trainer.Task(
        inputs,
        transcript.label[inputs.rows],
        len(transcript.classes),
        *(np.searchsorted(inputs.rows, labelled_rows(transcript, s)) for s in ("train", "dev")),
    )
    outcome = trainer.tune(encoder, task, source.tuning, folder, say)
    save_kept(
        lambda draft: encoder.save(draft, create_model_card=False),
        Kept(context, source.tuning.flatten() | outcome),
        Path(source.tuned),
    )
    shutil.rmtree(folder, ignore_errors=True)


def _identity(encoder, transcript: Transcript, source: TextSource, context: Context) -> dict:
    """What makes a tuning the same one: it goes on where it was stopped."""
    state = hashlib.sha256()
    for name, array in encoder.state_dict().items():
        state.update(name.encode() + array.cpu().float().numpy().tobytes())
    return {
        "encoder": state.hexdigest(),
        "transcript": fingerprint_transcript(transcript),
        **context._asdict(),
        **source.tuning.flatten(),
    }


def fingerprint_transcript(transcript: Transcript) -> str:
    """A name for the conversations, their labels and splits: 64 hexadecimal digits (sha256)."""
    turns = [(t.speaker, t.text) for t in transcript.turns]
    held = [transcript.classes, transcript.dialogue.tolist(), transcript.split.tolist()]
    held += [transcript.length.tolist(), transcript.label.tolist(), turns]
    return hashlib.sha256(json.dumps(held).encode()).hexdigest()
