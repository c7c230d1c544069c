"""Several text layers made one modality.

Section 2 of the design: some files hold four layers of the text encoder, ``roberta1`` to
``roberta4``. How they are combined is a setting [ours], so it happens after reading and not in
the file.
"""

import dataclasses
from typing import Literal, get_args

import numpy as np

from cberl_jax.data.corpus import TEXT_LAYER, Corpus
from cberl_jax.errors import UserError

TextLayers = Literal["mean", "concat", "1", "2", "3", "4"]


def combine_text_layers(corpus: Corpus, how: str) -> Corpus:
    """Replaces the text layers by one modality ``text``, placed first.

    Args:
      corpus: layers ``roberta<k>`` are [N, d] each.
      how: ``mean`` over the layers [N, d], ``concat`` [N, sum of d], or the number of one
      layer.

    Returns:
      The combined corpus; the same corpus if it has no such layers. The text counts as present
      where all layers that were used are.

    Raises:
      UserError: if ``how`` is none of these, names a layer that the file lacks, asks for the
        mean of layers of different widths, or the file has a ``text`` besides the layers.
    """
    if how not in get_args(TextLayers):
        choices = ", ".join(get_args(TextLayers))
        raise UserError(f"text layers cannot be combined by {how!r}; choose from {choices}.")
    layers = [name for name in corpus.features if name.startswith(TEXT_LAYER)]
    if not layers:
        return corpus
    if "text" in corpus.features:
        raise corpus.error(f"holds both text and {layers[0]}; which of them is the text?")
    used = layers if how in ("mean", "concat") else [TEXT_LAYER + how]
    if used[0] not in layers:
        raise corpus.error(f"has no text layer {how}, only {', '.join(layers)}.")
    arrays = [corpus.features[name] for name in used]
    present = np.all([corpus.present[name] for name in used], axis=0)
    if how == "mean" and len({array.shape for array in arrays}) > 1:
        raise corpus.error("the text layers differ in width, so they have no mean.")
    text = np.mean(arrays, axis=0) if how == "mean" else np.concatenate(arrays, axis=1)
    text[~present] = 0
    others = [name for name in corpus.features if name not in layers]
    return dataclasses.replace(
        corpus,
        features={"text": text} | {name: corpus.features[name] for name in others},
        present={"text": present} | {name: corpus.present[name] for name in others},
    )
