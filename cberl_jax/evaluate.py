"""From probabilities to the figures of a report: scikit-learn's metrics, and means over seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats
from sklearn import metrics

METRICS = ("accuracy", "weighted_f1", "macro_f1", "balanced_accuracy")
PER_CLASS = ("precision", "recall", "f1")


def evaluate_predictions(
    label: np.ndarray, probability: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """Scores one member on one split.

    Args:
      label: [N] int; utterances below zero do not count.
      probability: [N, C].
      classes: names of the C classes.

    Returns:
      ``METRICS`` -> float, and ``per_class``: name -> precision, recall, f1, support. A class
      that the split does not hold takes no part in the means, but in macro F1 where it is
      predicted, as in scikit-learn. A score without a definition is 0.
    """
    counted = label >= 0
    truth, guess = label[counted], probability[counted].argmax(axis=-1)
    names = np.arange(len(classes))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        truth, guess, labels=names, zero_division=0.0
    )
    held = support > 0
    return {
        "accuracy": float(metrics.accuracy_score(truth, guess)),
        "weighted_f1": float(np.average(f1, weights=support)),
        "macro_f1": float(f1[held | (np.bincount(guess, minlength=len(names)) > 0)].mean()),
        "balanced_accuracy": float(recall[held].mean()),
        "per_class": {
            name: {
                "precision": float(precision[c]),
                "recall": float(recall[c]),
                "f1": float(f1[c]),
                "support": int(support[c]),
            }
            for c, name in enumerate(classes)
        },
    }


def select_score(scores: Mapping[str, Any], select: str) -> float:
    """A member's score in the metric that picks epochs and settings, a ``settings.SELECTIONS``."""
    if select == "mean_f1":
        return (scores["weighted_f1"] + scores["macro_f1"]) / 2
    return scores[select]


def summarise(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation and Student's 95 % interval of the mean over members.

    With a single member the deviation and the interval are None: one seed says nothing of them.
    """
    array = np.asarray(values, np.float64)
    mean = float(array.mean())
    if len(array) < 2:
        return {"mean": mean, "std": None, "ci95": None}
    std = float(array.std(ddof=1))
    half = float(scipy.stats.t.ppf(0.975, len(array) - 1) * std / np.sqrt(len(array)))
    return {"mean": mean, "std": std, "ci95": [mean - half, mean + half]}


def summarise_members(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Summarises ``evaluate_predictions`` of several members, entry by entry."""
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
