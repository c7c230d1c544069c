"""The field's metrics, from confusion matrices, and means over members (section 5).

One implementation serves the device, where the epoch is chosen, and the reports: numpy arrays give
numpy arrays, jax arrays jax arrays. scikit-learn's metrics are what the tests compare it with.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

METRICS = ("accuracy", "weighted_f1", "macro_f1", "balanced_accuracy")
# What may pick an epoch or a setting: also the mean of weighted and macro F1.
SELECTIONS = (*METRICS, "mean_f1")
PER_CLASS = ("precision", "recall", "f1")
# Under so many seeds their spread is not known well enough to say what others would give.
FEWEST_SEEDS = 4

Array = np.ndarray | jax.Array


def confusion_matrix(label: Array, predicted: Array, classes: int) -> Array:
    """Counts utterances by true (row) and predicted (column) class.

    Args:
      label: [...] int; utterances below zero do not count.
      predicted: [...] int in 0..C-1.
      classes: number C of emotions.

    Returns:
      [C, C] float.
    """
    xp, dtype = (jnp, jnp.float32) if isinstance(label, jax.Array) else (np, np.float64)
    numbers = xp.arange(classes, dtype=label.dtype)
    truth = (label[..., None] == numbers).reshape(-1, classes).astype(dtype)
    guess = (predicted[..., None] == numbers).reshape(-1, classes).astype(dtype)
    return truth.T @ guess


def class_scores(confusion: Array) -> dict[str, Array]:
    """``PER_CLASS`` and ``support`` of confusion matrices [..., C, C], each [..., C].

    A score without a definition, such as the precision of a class that is never predicted, is 0.
    """
    xp = jnp if isinstance(confusion, jax.Array) else np
    hit = xp.diagonal(confusion, axis1=-2, axis2=-1)
    support, guessed = xp.sum(confusion, axis=-1), xp.sum(confusion, axis=-2)
    # Counts are whole numbers: below one there is nothing, and the numerator is 0.
    return {
        "precision": hit / xp.maximum(guessed, 1.0),
        "recall": hit / xp.maximum(support, 1.0),
        "f1": 2 * hit / xp.maximum(support + guessed, 1.0),
        "support": support,
    }


def scores(confusion: Array) -> dict[str, Array]:
    """``SELECTIONS`` of confusion matrices [..., C, C], each [...] in [0, 1].

    ``macro_f1`` and ``balanced_accuracy`` are means over the classes that occur in truth, so that
    the denominator is the same for all members: ``sklearn.metrics.f1_score`` with ``labels`` those
    classes and ``average="macro"``.
    """
    xp = jnp if isinstance(confusion, jax.Array) else np
    own = class_scores(confusion)
    support, f1 = own["support"], own["f1"]
    held = support > 0
    hits = xp.sum(xp.diagonal(confusion, axis1=-2, axis2=-1), axis=-1)
    total = xp.maximum(xp.sum(support, axis=-1), 1.0)

    def mean_over(values, classes):
        return xp.sum(values, axis=-1) / xp.maximum(xp.sum(classes.astype(f1.dtype), axis=-1), 1.0)

    weighted_f1 = xp.sum(f1 * support, axis=-1) / total
    macro_f1 = mean_over(f1, held)
    return {
        "accuracy": hits / total,
        "weighted_f1": weighted_f1,
        "macro_f1": macro_f1,
        "balanced_accuracy": mean_over(own["recall"], held),
        "mean_f1": 0.5 * (weighted_f1 + macro_f1),
    }


def evaluate_predictions(
    label: np.ndarray, probability: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """Scores one member on one split.

    Args:
      label: [N] int; utterances below zero do not count.
      probability: [N, C].
      classes: names of the C classes.

    Returns:
      ``METRICS`` -> float, and ``per_class``: name -> ``PER_CLASS`` -> float, and ``support``.
    """
    confusion = confusion_matrix(label, probability.argmax(axis=-1), len(classes))
    overall, own = scores(confusion), class_scores(confusion)
    return {
        **{name: float(overall[name]) for name in METRICS},
        "per_class": {
            name: {field: float(own[field][c]) for field in PER_CLASS}
            | {"support": int(own["support"][c])}
            for c, name in enumerate(classes)
        },
    }


def select_score(scores: Mapping[str, Any], select: str) -> float:
    """A member's score in the metric that picks epochs and settings, one of ``SELECTIONS``."""
    if select == "mean_f1":
        return (scores["weighted_f1"] + scores["macro_f1"]) / 2
    return scores[select]


def summarise(values: Sequence[float]) -> dict[str, Any]:
    """Mean and standard deviation over members; of a single one the deviation is None.

    There is no interval (``ci95`` is None): members alone do not say what other dialogues would
    give. The intervals of test scores are those of ``evaluation/bootstrap.py``.
    """
    array = np.asarray(values, np.float64)
    std = float(array.std(ddof=1)) if len(array) > 1 else None
    return {"mean": float(array.mean()), "std": std, "ci95": None}


def summarise_members(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``summarise`` of ``evaluate_predictions`` of several members, entry by entry."""
    summary: dict[str, Any] = {name: summarise([s[name] for s in scores]) for name in METRICS}
    summary["per_class"] = {
        name: {
            **{
                field: summarise([s["per_class"][name][field] for s in scores])
                for field in PER_CLASS
            },
            "support": first["support"],
        }
        for name, first in scores[0]["per_class"].items()
    }
    return summary
