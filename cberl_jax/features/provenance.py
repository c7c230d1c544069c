"""How features were made, for the file that holds them: a record for each modality.

``weights``, ``pooling``, ``faces``, ``context``, ``crossfit``, ``extractor`` and ``causal`` decide
what a feature means, and are compared before a prediction (``data/provenance.py``).
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cberl_jax.data.readers.transcripts import Transcript
from cberl_jax.features.context import Context
from cberl_jax.version import __version__

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from cberl_jax.features.kept import Kept


def describe_text(
    name: str,
    weights: Mapping[str, str],
    context: Context,
    kept: "Kept | None",
    transcript: Transcript,
) -> dict[str, Any]:
    """The record of features of text.

    Args:
      name: of the encoder.
      weights: file -> sha256.
      context: what it read with an utterance.
      kept: how it was tuned, if it was.
      transcript: what it read.
    """
    tuning = dict(kept.tuning) if kept else None
    return {
        "encoder": name_file(name),
        "weights": dict(weights),
        "pooling": "the encoder's own" if context.is_alone else "mean over the utterance's tokens",
        "context": None if context.is_alone else context._asdict(),
        "tuning": tuning,
        "crossfit": tuning["crossfit"] if tuning else 0,
        **_common(transcript),
    }


def describe_extractor(name: str, transcript: Transcript, **more: Any) -> dict[str, Any]:
    """The record of features by an extractor that learns nothing."""
    return {"extractor": name, **more, **_common(transcript)}


def describe_encoder(
    name: str, weights: Mapping[str, str], pooling: str, transcript: Transcript, **more: Any
) -> dict[str, Any]:
    """The record of features of sound or sight.

    Args:
      name: of the encoder.
      weights: file -> sha256.
      pooling: how what it gives becomes one row.
      transcript: whose utterances they are.
      more: to say of it.
    """
    return {
        "encoder": name_file(name),
        "weights": dict(weights),
        "pooling": pooling,
        **more,
        **_common(transcript),
    }


def describe_vectors(path: str, transcript: Transcript) -> dict[str, Any]:
    """The record of vectors from elsewhere."""
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return {"file": Path(path).name, "sha256": digest, **_common(transcript)}


def fingerprint_transcript(transcript: Transcript) -> str:
    """A name for the conversations, their labels and splits: 64 hexadecimal digits (sha256)."""
    turns = [(t.speaker, t.text) for t in transcript.turns]
    held = [transcript.classes, transcript.dialogue.tolist(), transcript.split.tolist()]
    held += [transcript.length.tolist(), transcript.label.tolist(), turns]
    return hashlib.sha256(json.dumps(held).encode()).hexdigest()


def hash_state(encoder: "SentenceTransformer") -> str:
    """A name for an encoder's weights, whatever files they came from (sha256)."""
    state = hashlib.sha256()
    for name, array in encoder.state_dict().items():
        state.update(name.encode() + array.cpu().float().numpy().tobytes())
    return state.hexdigest()


def name_file(name: str) -> str:
    """What is handed on of an encoder's or file's name: of an absolute path the last part."""
    return Path(name).name if Path(name).is_absolute() else name


def _common(transcript: Transcript) -> dict[str, Any]:
    return {"transcript": fingerprint_transcript(transcript), "version": __version__}
