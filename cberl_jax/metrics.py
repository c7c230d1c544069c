"""Scores from a confusion matrix, on the device, for the choice of the epoch.

The figures of a report come from scikit-learn (``evaluate.py``); a test holds the two equal.
"""

import jax
import jax.numpy as jnp


def confusion_matrix(label: jax.Array, predicted: jax.Array, classes: int) -> jax.Array:
    """Counts utterances by true (row) and predicted (column) class.

    Args:
      label: [...] int; utterances below zero do not count.
      predicted: [...] int in 0..C-1.
      classes: number C of emotions.

    Returns:
      [C, C] float.
    """
    truth = jax.nn.one_hot(label, classes).reshape(-1, classes)
    guess = jax.nn.one_hot(predicted, classes).reshape(-1, classes)
    return truth.T @ guess


METRICS = ("accuracy", "weighted_f1", "macro_f1", "balanced_accuracy", "mean_f1")


def scores(confusion: jax.Array) -> dict[str, jax.Array]:
    """The field's metrics of a confusion matrix [C, C], each a [] float in [0, 1].

    ``accuracy``, ``weighted_f1``, ``macro_f1`` over the classes that occur in truth or prediction,
    ``balanced_accuracy`` over those that occur in truth, and ``mean_f1``, the mean of the two F1.
    """
    support = jnp.sum(confusion, axis=1)
    guessed = jnp.sum(confusion, axis=0)
    hit = jnp.diagonal(confusion)
    total = jnp.maximum(jnp.sum(support), 1.0)
    f1 = 2 * hit / jnp.maximum(support + guessed, 1.0)
    recall = hit / jnp.maximum(support, 1.0)
    occurs = support + guessed > 0
    weighted_f1 = jnp.sum(f1 * support) / total
    macro_f1 = jnp.sum(f1) / jnp.maximum(jnp.sum(occurs), 1.0)
    return {
        "accuracy": jnp.sum(hit) / total,
        "weighted_f1": weighted_f1,
        "macro_f1": macro_f1,
        "balanced_accuracy": jnp.sum(recall) / jnp.maximum(jnp.sum(support > 0), 1.0),
        "mean_f1": 0.5 * (weighted_f1 + macro_f1),
    }
