"""Conversations brought into the terms of a trained model: its classes and modalities.

Section 2 of the design: any subset of the modalities works. What a file does not hold is absent.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from cberl_jax.config.views import modality_of, views_left_out
from cberl_jax.data.corpus import UNLABELLED, USUAL_MODALITIES, Corpus

# What ``cberl extract`` calls its features by itself. Another name may be a slip of the pen.
EXTRACTED = (*USUAL_MODALITIES, "timing")


def match_model(
    corpus: Corpus,
    classes: Sequence[str],
    widths: Mapping[str, int],
    is_ignored: Callable[[str], bool] = lambda name: False,
) -> Corpus:
    """The conversations with the model's classes and modalities, in the model's order.

    Args:
      corpus: conversations, validated (to predict).
      classes: the model's C classes; labels are matched by name.
      widths: modality or view -> width, of the model.
      is_ignored: whether the model was trained without a modality or view on purpose, which the
        file may hold then.

    Returns:
      The corpus; a modality or view that the file lacks is absent in all of its utterances.

    Raises:
      UserError: a label, a modality or a width is not the model's, or no modality is.
    """
    unknown = [m for m in corpus.features if m not in widths and not is_ignored(m)]
    if unknown:
        raise corpus.error(
            f"holds features of {unknown[0]!r}{_first(corpus, unknown[0])}, but the model was "
            f"trained with {', '.join(widths)}"
        )
    if not any(corpus.present[m].any() for m in corpus.features if m in widths):
        raise corpus.error(f"holds no features of {' or '.join(widths)}")
    features, present = {}, {}
    for modality, width in widths.items():
        features[modality], present[modality] = _modality(corpus, modality, width)
    return dataclasses.replace(
        corpus,
        classes=tuple(classes),
        label=_labels(corpus, classes),
        features=features,
        present=present,
    )


def left_out(modalities: str, views: str) -> Callable[[str], bool]:
    """Whether features of a name were left out of a training on purpose.

    Args:
      modalities: the setting ``data.modalities``.
      views: the setting ``data.views``.

    Returns:
      A function that is true of modalities of ``EXTRACTED``, and of views, that the settings leave
      out.
    """
    kept = [name.strip() for name in modalities.split(",")]

    def is_left_out(name: str) -> bool:
        modality = modality_of(name)
        without = modalities != "all" and modality in EXTRACTED and modality not in kept
        return without or views_left_out(name, views)

    return is_left_out


def _first(corpus: Corpus, modality: str) -> str:
    """Where a modality is first present, for messages."""
    return f" ({corpus.place(int(corpus.present[modality].argmax()))})"


def _modality(corpus: Corpus, modality: str, width: int) -> tuple[np.ndarray, np.ndarray]:
    """[N, width] features and [N] presence."""
    if modality not in corpus.features:
        count = len(corpus.label)
        return np.zeros((count, width), np.float32), np.zeros(count, bool)
    found = corpus.widths[modality]
    if found != width:
        raise corpus.error(
            f"{modality} is {found} wide{_first(corpus, modality)}, but the model was trained "
            f"with {width}"
        )
    return corpus.features[modality], corpus.present[modality]


def _labels(corpus: Corpus, classes: Sequence[str]) -> np.ndarray:
    """[N] labels as indices into the model's classes."""
    number = {name: c for c, name in enumerate(classes)}
    lookup = np.asarray([number.get(name, UNLABELLED) for name in corpus.classes] + [UNLABELLED])
    label = lookup[corpus.label].astype(np.int32)
    wrong = np.flatnonzero((corpus.label != UNLABELLED) & (label == UNLABELLED))
    if wrong.size:
        name = corpus.classes[corpus.label[wrong[0]]]
        raise corpus.error(
            f"the label {name!r} at {corpus.place(wrong[0])} is none of the model's classes "
            f"({', '.join(classes)})"
        )
    return label
