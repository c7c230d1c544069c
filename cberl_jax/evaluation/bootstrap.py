"""Intervals of scores on a split: a bootstrap over dialogues, an analysis of variance over members.

A score varies with the seed of the training and with the dialogues that happen to be in the split.
Utterances of one dialogue are not independent, and neither are the scores of one seed on them, so
whole dialogues are drawn anew. All figures come from confusion matrices per dialogue: thousands of
draws are a few matrix products.

Dialogues are many and are drawn. Members are few, and drawing them has two faults: the variance of
a mean over S drawn members is (S - 1) / S of what it should be, and drawing both rows and columns
of a table counts the part of the variance that is particular to one member on one dialogue three
times (Owen 2007, section 3). Their part is therefore computed from the members themselves, in the
model score = mean + member + dialogue + rest, of which with A, B and R the variances

  V_members   = A / S + R / (S G)    from the spread of the members' scores,
  V_dialogues = B / G + R / (S G)    from the draws of dialogues, the members as they are,
  V_rest      = R / (S G)            from the spread over draws around the mean of the members,
  V           = V_members + V_dialogues - V_rest,

and an interval takes Student's quantile at the degrees of freedom of Satterthwaite (1946).

References:
  Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapters 12 and 13.
  Owen, The Pigeonhole Bootstrap, Annals of Applied Statistics 1(2), 2007.
  Satterthwaite, An Approximate Distribution of Estimates of Variance Components, 1946.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.special

from cberl_jax.metrics import FEWEST_SEEDS, PER_CLASS, SELECTIONS, class_scores, scores

DRAWS = 2000
# Draws handled at once: bounds the memory for many members.
BLOCK = 250
LEVEL = 0.95
# Test utterances of a class under which its scores have no interval and are marked.
FEWEST_UTTERANCES = 10
# What of ``Draws`` is a score.
_SCORES = ("observed", "drawn")
_TITLES = {"precision": "precision", "recall": "recall", "f1": "F1"}


def confusions(probability: np.ndarray, label: np.ndarray, dialogue: np.ndarray) -> np.ndarray:
    """Counts true and predicted classes dialogue by dialogue.

    Args:
      probability: [S, n, C].
      label: [n] int; utterances below zero do not count, and nor do dialogues of these alone: to
        draw them as well would make intervals too narrow.
      dialogue: [n] str.

    Returns:
      [G, S, C, C] float of the G dialogues that have labels, rows are true classes, columns
      predicted ones.
    """
    members, _, classes = probability.shape
    counted = np.flatnonzero(label >= 0)
    names, of_dialogue = np.unique(dialogue[counted], return_inverse=True)
    shape = (len(names), members, classes, classes)
    guess = probability.argmax(axis=-1)[:, counted]
    place = (of_dialogue, np.arange(members)[:, None], label[counted], guess)
    flat = np.ravel_multi_index(np.broadcast_arrays(*place), shape)
    counts = np.bincount(flat.ravel(), minlength=int(np.prod(shape)))
    return counts.reshape(shape).astype(np.float64)


def named_scores(confusion: np.ndarray, classes: Sequence[str]) -> dict[str, np.ndarray]:
    """Every score of confusion matrices under one name each.

    Args:
      confusion: [..., C, C], rows are true classes.
      classes: names of the C classes.

    Returns:
      ``SELECTIONS``, and ``precision <class>``, ``recall <class>`` and ``F1 <class>``, each [...].
    """
    own = class_scores(confusion)
    by_class = {
        class_metric(field, name): own[field][..., number]
        for number, name in enumerate(classes)
        for field in PER_CLASS
    }
    return scores(confusion) | by_class


def class_metric(field: str, name: str) -> str:
    """The name that ``named_scores`` gives one of ``PER_CLASS`` of a class."""
    return f"{_TITLES[field]} {name}"


def supports(confusion: np.ndarray, classes: Sequence[str]) -> dict[str, np.ndarray]:
    """The labelled utterances that each of ``named_scores`` depends on, each [...].

    Where there are none the score has no meaning.
    """
    support = confusion.sum(axis=-1)
    of_class = {
        class_metric(field, name): support[..., number]
        for number, name in enumerate(classes)
        for field in PER_CLASS
    }
    return dict.fromkeys(SELECTIONS, support.sum(axis=-1)) | of_class


class Draws(NamedTuple):
    """One score of S members, as it is and on drawn dialogues.

    Attributes:
      observed: [S].
      drawn: [D, S]; draws without an utterance that the score depends on are left out.
      dialogues: number of dialogues.
    """

    observed: np.ndarray
    drawn: np.ndarray
    dialogues: int


def draw_scores(
    counts: np.ndarray, classes: Sequence[str], draws: int = DRAWS, seed: int = 0
) -> dict[str, Draws]:
    """Scores every member on drawn dialogues.

    The same number of dialogues, draws and seed give the same dialogues, so that the draws of two
    models are pairs.

    Args:
      counts: [G, S, C, C], from ``confusions``.
      classes: names of the C classes.
      draws: number D of draws.
      seed: of the draws.

    Returns:
      Metric of ``named_scores`` -> its draws.
    """
    number = len(counts)
    generator = np.random.default_rng(seed)
    times = generator.multinomial(number, np.full(number, 1 / number), size=draws)
    flat = counts.reshape(number, -1)
    found: list[dict[str, np.ndarray]] = []
    there: list[dict[str, np.ndarray]] = []
    for start in range(0, draws, BLOCK):
        drawn = times[start : start + BLOCK].astype(np.float64) @ flat
        drawn = drawn.reshape(-1, *counts.shape[1:])
        found.append(named_scores(drawn, classes))
        there.append(supports(drawn[:, 0], classes))
    observed = named_scores(counts.sum(axis=0), classes)
    result = {}
    for name, own in observed.items():
        known = np.concatenate([part[name] for part in there]) > 0
        result[name] = Draws(own, np.concatenate([part[name] for part in found])[known], number)
    return result


class Error(NamedTuple):
    """How exactly a mean over members is known.

    Attributes:
      variance: of the mean.
      freedom: degrees of freedom of that estimate.
    """

    variance: float
    freedom: float

    @property
    def half(self) -> float:
        """Half of the interval's width."""
        return float(scipy.special.stdtrit(self.freedom, (1 + LEVEL) / 2) * np.sqrt(self.variance))


def estimate_error(mean: np.ndarray, dialogues: int, members: Sequence[Draws]) -> Error | None:
    """The variance of a score: the equation at the head of this module.

    Args:
      mean: [D], the score, or the difference of two, on drawn dialogues.
      dialogues: how many there are.
      members: whose spread over seeds counts, as far as there are ``FEWEST_SEEDS``: the score's,
        the differences of two in pairs, or both sides of a difference that is not in pairs.

    Returns:
      The error; None where nothing varies, of which nothing can be concluded.
    """
    if dialogues < 2 or len(mean) < 2:
        return None
    grown = dialogues / (dialogues - 1)
    of_dialogues = grown * float(mean.var(ddof=1))
    squares = of_dialogues**2 / (dialogues - 1)
    of_members = of_rest = 0.0
    for draws in members:
        seeds = len(draws.observed)
        if seeds < FEWEST_SEEDS:
            continue
        own = float(draws.observed.var(ddof=1)) / seeds
        rest = draws.drawn - draws.drawn.mean(axis=1, keepdims=True)
        of_members += own
        of_rest += grown * float(rest.var(axis=0, ddof=1).sum()) / (seeds * (seeds - 1))
        squares += own**2 / (seeds - 1)
    # None of the three components can be below zero, whatever their estimates say.
    variance = max(of_members + of_dialogues - of_rest, of_members, of_dialogues)
    # Rounding aside, equal scores do not vary.
    if variance < 1e-18:
        return None
    return Error(variance, variance**2 / squares)


def summarise_score(draws: Draws) -> dict[str, Any]:
    """A score of S members with its interval.

    The interval is made on the scale asin(sqrt(score)), which ends where the score does, so it lies
    within 0 and 1.

    Returns:
      ``mean``; ``std``, the standard deviation over members, None for one; ``ci95``, the interval
      of the mean over seeds and dialogues, over dialogues alone under ``FEWEST_SEEDS``, None where
      nothing varies.
    """
    scaled = draws._replace(**{n: _stretch(getattr(draws, n)) for n in _SCORES})
    error = estimate_error(scaled.drawn.mean(axis=1), draws.dialogues, [scaled])
    mean = float(draws.observed.mean())
    interval = None
    if error is not None:
        middle = _stretch(mean)
        ends = np.clip([middle - error.half, middle + error.half], 0.0, np.pi / 2)
        interval = (np.sin(ends) ** 2).tolist()
    several = len(draws.observed) > 1
    std = float(draws.observed.std(ddof=1)) if several else None
    return {"mean": mean, "std": std, "ci95": interval}


def _stretch(score):
    """Scores on the scale where their spread depends least on their size."""
    # Rounding may take a mean of ones above one.
    return np.arcsin(np.sqrt(np.clip(score, 0.0, 1.0)))


def summarise_named(
    counts: np.ndarray, classes: Sequence[str], names: Sequence[str], draws: int = DRAWS
) -> dict[str, dict[str, Any]]:
    """Scores of S members by their names, with intervals.

    Args:
      counts: [G, S, C, C], from ``confusions``.
      classes: names of the C classes.
      names: of ``named_scores``.
      draws: of dialogues.

    Returns:
      Name -> ``summarise_score``, without an interval where the score depends on under
      ``FEWEST_UTTERANCES`` utterances.
    """
    drawn = draw_scores(counts, classes, draws)
    there = supports(counts[:, 0].sum(axis=0), classes)
    summaries = {name: summarise_score(drawn[name]) for name in names}
    few = [name for name in names if there[name] < FEWEST_UTTERANCES]
    return summaries | {name: summaries[name] | {"ci95": None} for name in few}


def summarise_split(
    probability: np.ndarray, label: np.ndarray, dialogue: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """Scores S members on a split, with intervals.

    Args:
      probability: [S, n, C]; of an average of members S is 1.
      label: [n] int; utterances below zero do not count.
      dialogue: [n] str.
      classes: names of the C classes.

    Returns:
      ``SELECTIONS`` -> ``summarise_score``, and ``per_class``: name -> ``PER_CLASS`` ->
      ``summarise_score``, and ``support``, from ``summarise_named``.
    """
    counts = confusions(probability, label, dialogue)
    support = counts[:, 0].sum(axis=(0, 2))
    of_class = {name: {f: class_metric(f, name) for f in PER_CLASS} for name in classes}
    names = [name for own in of_class.values() for name in own.values()]
    found = summarise_named(counts, classes, [*SELECTIONS, *names])
    per_class = {
        name: {field: found[metric] for field, metric in own.items()} | {"support": int(count)}
        for (name, own), count in zip(of_class.items(), support)
    }
    return {name: found[name] for name in SELECTIONS} | {"per_class": per_class}


def summarise_models(
    probability: np.ndarray, label: np.ndarray, dialogue: np.ndarray, classes: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Scores the members and the one model that averages their probabilities.

    Args:
      probability: [S, n, C], of the members that did not diverge.
      label: [n] int; utterances below zero do not count.
      dialogue: [n] str.
      classes: names of the C classes.

    Returns:
      ``test`` and ``ensemble``, each from ``summarise_split``.
    """
    models = {"test": probability, "ensemble": probability.mean(axis=0, keepdims=True)}
    return {n: summarise_split(own, label, dialogue, classes) for n, own in models.items()}


def summarise_difference(first: Draws, second: Draws, paired: bool) -> dict[str, Any]:
    """The difference of two models in a score, with its interval and p value.

    Args:
      first: A.
      second: B, on the same drawn dialogues.
      paired: whether their members are pairs, with the same seeds.

    Returns:
      ``mean`` (A - B), ``ci95`` and ``p``, two-sided, from the same error: the interval leaves out
      zero exactly where p is below 0.05. Where nothing varies the interval has no width.
    """
    mean = float(first.observed.mean() - second.observed.mean())
    gap = first.drawn.mean(axis=1) - second.drawn.mean(axis=1)
    members = [first, second]
    if paired:
        pairs = {n: getattr(first, n) - getattr(second, n) for n in _SCORES}
        members = [first._replace(**pairs)]
    error = estimate_error(gap, first.dialogues, members)
    smallest = 1 / (len(gap) + 1)
    if error is None:
        return {"mean": mean, "ci95": [mean, mean], "p": smallest if mean else 1.0}
    ends = np.clip([mean - error.half, mean + error.half], -1.0, 1.0)
    p = 2 * scipy.special.stdtr(error.freedom, -abs(mean) / np.sqrt(error.variance))
    return {"mean": mean, "ci95": ends.tolist(), "p": float(max(p, smallest))}
