"""Conversations brought into the terms of a trained model: its classes and modalities.

Section 2 of the design: any subset of the modalities works. What a file does not hold is absent.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from cberl_jax.data.corpus import UNLABELLED, USUAL_MODALITIES, Corpus


def match_model(
    corpus: Corpus, classes: Sequence[str], widths: Mapping[str, int], ignored: Sequence[str] = ()
) -> Corpus:
    """The conversations with the model's classes and modalities, in the model's order.

    Args:
      corpus: conversations, validated (to predict).
      classes: the model's C classes; labels are matched by name.
      widths: modality -> width, of the model.
      ignored: modalities that the model was trained without on purpose, which the file may hold.

    Returns:
      The corpus; a modality that the file lacks is absent in all of its utterances.

    Raises:
      UserError: a label, a modality or a width is not the model's, or no modality is.
    """
    unknown = [m for m in corpus.modalities if m not in widths and m not in ignored]
    if unknown:
        raise corpus.error(
            f"holds features of {unknown[0]!r}{_first(corpus, unknown[0])}, but the model was "
            f"trained with {', '.join(widths)}"
        )
    if not any(corpus.present[m].any() for m in corpus.modalities if m in widths):
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


def modalities_left_out(chosen: str) -> tuple[str, ...]:
    """The usual modalities that the setting ``data.modalities`` leaves out."""
    if chosen == "all":
        return ()
    kept = [name.strip() for name in chosen.split(",")]
    return tuple(name for name in USUAL_MODALITIES if name not in kept)


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
