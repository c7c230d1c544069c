"""Several text layers made one modality, or kept as views of it.

Section 2 of the design: some files hold four layers of the text encoder, ``roberta1`` to
``roberta4``. They are views of the text, ``text.roberta1`` and so on. How they are combined is a
setting [ours], so it happens after reading and not in the file.
"""

import dataclasses
import re
from typing import Literal, get_args

import numpy as np

from cberl_jax.config.views import is_view, modality_of
from cberl_jax.data.corpus import Corpus
from cberl_jax.errors import UserError

# How files call the layers, and how a corpus does.
FILE_LAYER, TEXT_LAYER = "roberta", "text.roberta"
_LAYER = re.compile(rf"{re.escape(TEXT_LAYER)}\d+")
TextLayers = Literal["mean", "concat", "views", "1", "2", "3", "4"]


def name_layers(corpus: Corpus) -> Corpus:
    """The corpus, its features ``roberta<k>`` renamed to views of the text.

    Raises:
      UserError: there are features of the new name already.
    """
    old = [n for n in corpus.features if n.startswith(FILE_LAYER) and not is_view(n)]
    new = {name: f"text.{name}" for name in old}
    if not new:
        return corpus
    for name, view in new.items():
        if view in corpus.features:
            raise corpus.error(f"holds both {name} and {view}, which are one name.")
    return dataclasses.replace(
        corpus,
        features={new.get(name, name): array for name, array in corpus.features.items()},
        present={new.get(name, name): there for name, there in corpus.present.items()},
    )


def _number(layer: str) -> int:
    return int(layer.removeprefix(TEXT_LAYER))


def combine_text_layers(corpus: Corpus, how: str) -> Corpus:
    """Replaces the text layers by one modality ``text``, placed first.

    Args:
      corpus: layers ``text.roberta<k>`` are [N, d] each.
      how: ``mean`` over the layers [N, d], ``concat`` [N, sum of d] in the order of their numbers,
        the number of one layer, or ``views``, which leaves them as they are: each is then
        standardised for itself.

    Returns:
      The combined corpus; the same corpus if it has no such layers. The text counts as present
      where all layers that were used are.

    Raises:
      UserError: if ``how`` is none of these, names a layer that the file lacks, asks for the
        mean of layers of different widths, or the file has other text besides the layers.
    """
    if how not in get_args(TextLayers):
        choices = ", ".join(get_args(TextLayers))
        raise UserError(f"text layers cannot be combined by {how!r}; choose from {choices}.")
    # By their numbers: another file of the same layers may hold them in another order.
    layers = sorted(filter(_LAYER.fullmatch, corpus.features), key=_number)
    if not layers or how == "views":
        return corpus
    others = [name for name in corpus.features if name not in layers]
    other_text = [name for name in others if modality_of(name) == "text"]
    if other_text:
        raise corpus.error(
            f"holds both {other_text[0]} and {layers[0]}; data.text_layers=views takes the layers "
            "as views beside the others."
        )
    used = layers if how in ("mean", "concat") else [TEXT_LAYER + how]
    if used[0] not in layers:
        raise corpus.error(f"has no text layer {how}, only {', '.join(layers)}.")
    arrays = [corpus.features[name] for name in used]
    present = np.all([corpus.present[name] for name in used], axis=0)
    if how == "mean" and len({array.shape for array in arrays}) > 1:
        raise corpus.error("the text layers differ in width, so they have no mean.")
    text = np.mean(arrays, axis=0) if how == "mean" else np.concatenate(arrays, axis=1)
    text[~present] = 0
    return dataclasses.replace(
        corpus,
        features={"text": text} | {name: corpus.features[name] for name in others},
        present={"text": present} | {name: corpus.present[name] for name in others},
    )
