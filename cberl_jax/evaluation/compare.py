"""Two finished runs compared: paired bootstrap over dialogues and seeds (section 5).

Utterances of one dialogue are not independent, and neither are the scores of one seed on them:
whole dialogues and whole members are drawn anew, the same ones for both runs. All figures come from
confusion matrices, so that thousands of draws are a few matrix products.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cberl_jax.errors import UserError
from cberl_jax.metrics import class_scores, scores
from cberl_jax.runtime.workdir import Workdir

DRAWS = 4000


class Outcome(NamedTuple):
    """What a run predicted on test.

    Attributes:
      name: of its folder.
      classes: names of the C classes.
      seeds: [S] int, of the members that did not diverge.
      probability: [S, n, C].
      label: [n] int.
      dialogue: [n] str.
      bayes: of a run's report: ``best_possible`` on a simulated corpus, else None.
    """

    name: str
    classes: list[str]
    seeds: np.ndarray
    probability: np.ndarray
    label: np.ndarray
    dialogue: np.ndarray
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
        # A chunk of a sweep has none.
        report.get("bayes"),
    )


def check_comparable(first: Outcome, second: Outcome) -> None:
    """Refuses runs that were not tested on the same utterances.

    Raises:
      UserError: the classes, the labels or the dialogues differ.
    """
    for field in ("classes", "label", "dialogue"):
        if not np.array_equal(getattr(first, field), getattr(second, field)):
            raise UserError(
                f"{first.name} and {second.name} cannot be compared: their test splits differ in "
                f"{field}"
            )


def confusions(probability: np.ndarray, label: np.ndarray, dialogue: np.ndarray) -> np.ndarray:
    """Counts true and predicted classes dialogue by dialogue.

    Args:
      probability: [S, n, C].
      label: [n] int; utterances below zero do not count.
      dialogue: [n] str.

    Returns:
      [G, S, C, C] float, rows are true classes, columns predicted ones.
    """
    members, _, classes = probability.shape
    _, of_dialogue = np.unique(dialogue, return_inverse=True)
    counted = np.flatnonzero(label >= 0)
    guess = probability.argmax(axis=-1)[:, counted]
    counts = np.zeros((of_dialogue.max() + 1, members, classes, classes))
    for member in range(members):
        where = (of_dialogue[counted], member, label[counted], guess[member])
        np.add.at(counts, where, 1.0)
    return counts


def named_scores(confusion: np.ndarray, classes: Sequence[str]) -> dict[str, np.ndarray]:
    """Every score of confusion matrices under one name each.

    Args:
      confusion: [..., C, C], rows are true classes.
      classes: names of the C classes.

    Returns:
      ``SELECTIONS``, and ``F1 <class>`` and ``recall <class>``, each [...].
    """
    own = class_scores(confusion)
    by_class = {
        f"{title} {name}": own[field][..., number]
        for number, name in enumerate(classes)
        for title, field in (("F1", "f1"), ("recall", "recall"))
    }
    return scores(confusion) | by_class


def _draw(generator: np.random.Generator, count: int, draws: int) -> np.ndarray:
    """How often each of ``count`` things is drawn when as many are drawn: [draws, count]."""
    return generator.multinomial(count, np.full(count, 1 / count), size=draws).astype(np.float64)


def _bootstrap_means(
    counts: np.ndarray, dialogues: np.ndarray, members: np.ndarray, classes: Sequence[str]
) -> dict[str, np.ndarray]:
    """Metric -> [draws] mean over the drawn members on the drawn dialogues."""
    flat = counts.reshape(len(counts), -1)
    drawn = (dialogues @ flat).reshape(-1, *counts.shape[1:])
    weight = members / members.sum(axis=-1, keepdims=True)
    return {n: np.sum(v * weight, axis=-1) for n, v in named_scores(drawn, classes).items()}


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's correction for several tests at once.

    Returns:
      [m] adjusted p values, in the given order.

    References:
      Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.
    """
    order = np.argsort(p_values, kind="stable")
    sorted_ = np.asarray(p_values, np.float64)[order]
    grown = np.maximum.accumulate(sorted_ * np.arange(len(order), 0, -1))
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(grown, 1.0)
    return adjusted


def compare(
    first: Outcome,
    second: Outcome,
    metrics: Sequence[str] = ("weighted_f1", "macro_f1"),
    draws: int = DRAWS,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Compares two runs metric by metric, member means and ensembles.

    Where both runs have the same seeds these are drawn in pairs, else each run's on their own. An
    ensemble averages the probabilities of a run's members; it has no seeds to draw.

    Args:
      first: A.
      second: B.
      metrics: names of ``named_scores``.
      draws: of the bootstrap.
      seed: of the draws.

    Returns:
      Per kind (``members``, ``ensemble``) and metric a line: ``kind``, ``metric``, ``first`` and
      ``second`` (the scores), ``difference`` (A - B), ``ci95``, ``p`` (two-sided) and ``p_holm``,
      corrected for the metrics of its kind.

    Raises:
      UserError: the runs were not tested on the same utterances, or there is no such metric.

    References:
      Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 13 and 16.
    """
    check_comparable(first, second)
    generator = np.random.default_rng(seed)
    dialogues = _draw(generator, len(np.unique(first.dialogue)), draws)
    paired = np.array_equal(first.seeds, second.seeds)
    members = [_draw(generator, len(first.seeds), draws)]
    members.append(members[0] if paired else _draw(generator, len(second.seeds), draws))
    lines = []
    for kind in ("members", "ensemble"):
        scores, drawn = [], []
        for outcome, weight in zip((first, second), members):
            probability = outcome.probability
            if kind == "ensemble":
                probability, weight = probability.mean(axis=0, keepdims=True), np.ones((draws, 1))
            counts = confusions(probability, outcome.label, outcome.dialogue)
            observed = named_scores(counts.sum(axis=0), outcome.classes)
            scores.append({name: float(values.mean()) for name, values in observed.items()})
            drawn.append(_bootstrap_means(counts, dialogues, weight, outcome.classes))
        for name in metrics:
            if name not in scores[0]:
                raise UserError(f"there is no metric {name!r}, only {', '.join(scores[0])}")
        own = [_line(kind, name, scores, drawn) for name in metrics]
        for line, adjusted in zip(own, holm([line["p"] for line in own])):
            line["p_holm"] = float(adjusted)
        lines += own
    return lines


def _line(
    kind: str,
    name: str,
    scores: Sequence[Mapping[str, float]],
    drawn: Sequence[Mapping[str, np.ndarray]],
) -> dict[str, Any]:
    gaps = drawn[0][name] - drawn[1][name]
    # The draw that was observed counts too, so that p is never zero.
    below, above = ((np.sum(side) + 1) / (len(gaps) + 1) for side in (gaps <= 0, gaps >= 0))
    return {
        "kind": kind,
        "metric": name,
        "first": scores[0][name],
        "second": scores[1][name],
        "difference": scores[0][name] - scores[1][name],
        "ci95": np.quantile(gaps, [0.025, 0.975]).tolist(),
        "p": float(min(1.0, 2 * min(below, above))),
    }
