"""Two models compared on test: differences with intervals and p values (section 5)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cberl_jax.errors import UserError
from cberl_jax.evaluation.bootstrap import (
    DRAWS,
    confusions,
    draw_scores,
    summarise_difference,
    supports,
)
from cberl_jax.evaluation.outcomes import Outcome, average, check_comparable

KINDS = ("members", "ensemble")


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


def check_metrics(metrics: Sequence[str], outcome: Outcome) -> dict[str, int]:
    """Refuses metrics that there are not, or of which the test split says nothing.

    Returns:
      Metric -> the labelled test utterances that it depends on.

    Raises:
      UserError: there is no such metric, or no test utterance of its class.
    """
    counts = confusions(outcome.probability[:1], outcome.label, outcome.dialogue)
    there = supports(counts.sum(axis=(0, 1)), outcome.classes)
    for name in metrics:
        if name not in there:
            raise UserError(f"there is no metric {name!r}, only {', '.join(there)}")
        if not there[name]:
            raise UserError(f"{name}: the test split of {outcome.name} has no such utterance")
    return {name: int(there[name]) for name in metrics}


def compare(
    first: Outcome,
    second: Outcome,
    metrics: Sequence[str] = ("weighted_f1", "macro_f1"),
    draws: int = DRAWS,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Compares two models metric by metric, member means and averages of probabilities.

    Both are scored on the same drawn dialogues. Where both have the same seeds the members are
    pairs, else each side varies on its own; a side with few members (``metrics.FEWEST_SEEDS``) is
    taken as it is, and so is an ensemble, which averages the probabilities of the members.

    Args:
      first: A.
      second: B.
      metrics: names of ``named_scores``.
      draws: of the bootstrap.
      seed: of the draws.

    Returns:
      Per kind (``members``, ``ensemble``) and metric a line: ``kind``, ``metric``, ``support`` (the
      test utterances that it depends on), ``first`` and ``second`` (the scores), ``difference``
      (A - B), ``ci95``, ``p`` (two-sided) and ``p_holm``, corrected for the metrics of its kind.

    Raises:
      UserError: the models were not tested on the same utterances, or there is no such metric.
    """
    check_comparable(first, second)
    there = check_metrics(metrics, first)
    lines = []
    for kind in KINDS:
        pair = [average(one) if kind == "ensemble" else one for one in (first, second)]
        paired = np.array_equal(*(one.seeds for one in pair))
        drawn = []
        for one in pair:
            counts = confusions(one.probability, one.label, one.dialogue)
            drawn.append(draw_scores(counts, one.classes, draws, seed))
        own = []
        for name in metrics:
            sides = [of_side[name] for of_side in drawn]
            gap = summarise_difference(*sides, paired)
            scores = {n: float(s.observed.mean()) for n, s in zip(("first", "second"), sides)}
            line = {"kind": kind, "metric": name, "support": there[name], **scores}
            own.append(line | {"difference": gap["mean"], "ci95": gap["ci95"], "p": gap["p"]})
        for line, adjusted in zip(own, holm([line["p"] for line in own])):
            line["p_holm"] = float(adjusted)
        lines += own
    return lines
