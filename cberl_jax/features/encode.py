"""The text of a transcript as features: by an encoder as it is, or tuned first."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cberl_jax.data.readers.transcripts import Transcript
from cberl_jax.errors import UserError
from cberl_jax.features.context import Context, embed_all, make_inputs
from cberl_jax.features.kept import Kept, resolve_context, save_kept
from cberl_jax.features.text import PACKAGED, load_encoder, text_features
from cberl_jax.features.tuning import Tuning, labelled_rows, tune


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
        tune(encoder, inputs, transcript, source.tuning, say)
        save_kept(
            lambda folder: encoder.save(folder, create_model_card=False),
            Kept(context, source.tuning._asdict()),
            Path(source.tuned),
        )
    if context.is_alone:
        return text_features(encoder, [turn.text for turn in transcript.turns])
    return embed_all(encoder, inputs, len(transcript.turns))
