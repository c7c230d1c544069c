"""What a model predicted on test: read from a finished run's folder."""

import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from cberl_jax.errors import UserError
from cberl_jax.runtime.workdir import Workdir


class Outcome(NamedTuple):
    """What a model predicted on test, or on dev.

    Attributes:
      name: of its folder or file.
      classes: names of the C classes.
      seeds: [S] int, of the members that did not diverge.
      probability: [S, n, C].
      label: [n] int.
      dialogue: [n] str.
      utterance: [n] int, the turn from 0.
      bayes: of a run's report: ``best_possible`` on a simulated corpus, else None.
    """

    name: str
    classes: list[str]
    seeds: np.ndarray
    probability: np.ndarray
    label: np.ndarray
    dialogue: np.ndarray
    utterance: np.ndarray
    bayes: Mapping[str, Mapping[str, float]] | None = None


def read_outcome(workdir: str | os.PathLike) -> Outcome:
    """Reads a finished run.

    Raises:
      UserError: there is no finished run, none of its members is left, or test has no labels.
    """
    folder = Workdir(workdir, create=False)
    folder.read_config()
    if not folder.finished:
        raise UserError(f"{folder.path}: this run is not finished (there is no report.json)")
    report = folder.read_report()
    sound = [m["status"] == "ok" for m in report["members"]]
    if not any(sound):
        raise UserError(f"{folder.path}: all members of this run have diverged")
    stored = folder.read_predictions()
    if not np.any(stored["test.label"] >= 0):
        raise UserError(
            f"{folder.path}: its test split has no labels, and test is what is compared"
        )
    return Outcome(
        folder.path.name,
        stored["classes"].tolist(),
        stored["seed"][sound],
        stored["test.probability"][sound],
        stored["test.label"],
        stored["test.dialogue"],
        stored["test.utterance"],
        # A chunk of a sweep has none.
        report.get("bayes"),
    )


def check_comparable(first: Outcome, second: Outcome) -> None:
    """Refuses models that were not tested on the same utterances.

    Raises:
      UserError: the classes, the labels or the dialogues differ, or there is a single dialogue.
    """
    for field in ("classes", "label", "dialogue"):
        if not np.array_equal(getattr(first, field), getattr(second, field)):
            raise UserError(
                f"{first.name} and {second.name} cannot be compared: their test splits differ in "
                f"{field}"
            )
    if count_dialogues(first) < 2:
        raise UserError(
            f"{first.name} and {second.name} cannot be compared: their test split has labels in "
            "fewer than two dialogues, so nothing is known of others"
        )


def count_dialogues(outcome: Outcome) -> int:
    """How many test dialogues have labels: those that are drawn for intervals."""
    return len(np.unique(outcome.dialogue[outcome.label >= 0]))


def average(outcome: Outcome) -> Outcome:
    """The one model that averages the members' probabilities, which has no seeds to vary."""
    together = outcome.probability.mean(axis=0, keepdims=True)
    return outcome._replace(probability=together, seeds=np.zeros(1, int))
