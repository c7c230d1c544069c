"""What unlike classifiers of scikit-learn make of a corpus's features: a floor, and a ceiling.

A deep model below these has a fault. Where classifiers that have nothing in common all end at the
same score, it is the features that end there, not the classifiers. Each is fitted on train, alone
and with the turns around an utterance; its few settings are chosen on dev, and test is read once.
Whether it is a difference between the splits that keeps them there is told by what they say of a
test dialogue once they have learnt from dev and the other test dialogues too, which no result may
do (``guess_from_test``).
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from cberl_jax.config.settings import with_folds
from cberl_jax.data.augmentation import name_minority
from cberl_jax.data.bayes import best_possible
from cberl_jax.data.corpus import Corpus
from cberl_jax.data.dataset import create_table
from cberl_jax.data.standardize import fit_standardiser
from cberl_jax.errors import UserError
from cberl_jax.evaluation.bootstrap import summarise_split
from cberl_jax.metrics import evaluate_predictions, select_score
from cberl_jax.training.prepare import check_labelled, load_data

# Columns that say what a row of the report is.
NAMED_BY = ("classifier", "turns around")
SEEDS = 3
WINDOW = 2
FOLDS = 5
NEIGHBOURS = (5, 15, 50)
# Labelled train utterances: as many as there are to be neighbours.
FEWEST = max(NEIGHBOURS)
_WEIGHTS = (None, "balanced")


class Kind(NamedTuple):
    """A classifier and what is chosen on dev.

    Attributes:
      create: takes the settings, and ``random_state`` if it is drawn.
      settings: name -> values; every combination is tried.
      drawn: whether it depends on a seed.
    """

    create: Callable[..., Any]
    settings: Mapping[str, Sequence[Any]]
    drawn: bool = False


KINDS = {
    "logistic regression": Kind(
        functools.partial(LogisticRegression, max_iter=300),
        {"C": (1e-4, 1e-3, 1e-2, 1e-1), "class_weight": _WEIGHTS},
    ),
    "linear discriminant": Kind(
        functools.partial(LinearDiscriminantAnalysis, solver="lsqr"), {"shrinkage": ("auto", 0.9)}
    ),
    "nearest neighbours": Kind(KNeighborsClassifier, {"n_neighbors": NEIGHBOURS}),
    "support vectors": Kind(SVC, {"C": (0.3, 1.0, 3.0), "class_weight": _WEIGHTS}),
    "random forest": Kind(
        functools.partial(RandomForestClassifier, n_estimators=200),
        {"min_samples_leaf": (2, 8), "class_weight": _WEIGHTS},
        drawn=True,
    ),
    "boosted trees": Kind(
        functools.partial(HistGradientBoostingClassifier, early_stopping=False),
        {"max_iter": (30, 100), "class_weight": _WEIGHTS},
        drawn=True,
    ),
    "perceptron": Kind(
        functools.partial(MLPClassifier, hidden_layer_sizes=(128,), early_stopping=True),
        {"alpha": (1e-2, 1.0)},
        drawn=True,
    ),
}


def join_turns(corpus: Corpus, features: np.ndarray, window: int) -> np.ndarray:
    """Features of the turns around each utterance beside its own.

    Args:
      corpus: the corpus.
      features: [N, d].
      window: turns before, and as many after; zero where the dialogue has none.

    Returns:
      [N, (2 window + 1) d].
    """
    count, dialogue = len(features), corpus.dialogue_of
    views = []
    for offset in range(-window, window + 1):
        index = np.arange(count) + offset
        near = np.clip(index, 0, count - 1)
        there = (index == near) & (dialogue[near] == dialogue)
        views.append(np.where(there[:, None], features[near], 0.0))
    return np.concatenate(views, axis=1)


def _score_dev(corpus: Corpus, guess: np.ndarray) -> dict[str, Any]:
    here = corpus.in_split("dev")
    probability = np.eye(len(corpus.classes))[guess[here]]
    return evaluate_predictions(corpus.label[here], probability, corpus.classes)


def _score_test(corpus: Corpus, guesses: Sequence[np.ndarray]) -> dict[str, Any]:
    """``summarise_split`` of the seeds' guesses."""
    here = corpus.in_split("test")
    probability = np.eye(len(corpus.classes))[np.stack(guesses)[:, here]]
    dialogue = corpus.dialogue[corpus.dialogue_of[here]]
    return summarise_split(probability, corpus.label[here], dialogue, corpus.classes)


def _fit_and_guess(
    kind: Kind,
    settings: Mapping[str, Any],
    corpus: Corpus,
    features: np.ndarray,
    fitted: np.ndarray,
) -> list[np.ndarray]:
    """[N] classes per seed, of classifiers that are fitted on a mask [N] of utterances."""
    seeds = [{"random_state": seed} for seed in range(SEEDS)] if kind.drawn else [{}]
    # Fits this small gain nothing from threads, and lose much where cores are shared.
    with threadpool_limits(1):
        return [
            kind.create(**settings, **seed)
            .fit(features[fitted], corpus.label[fitted])
            .predict(features)
            for seed in seeds
        ]


def guess_from_test(
    kind: Kind, settings: Mapping[str, Any], corpus: Corpus, features: np.ndarray
) -> list[np.ndarray]:
    """What classifiers say of a test dialogue that have learnt from the other test dialogues too.

    A ceiling for this kind of classifier alone; another model may well be above it. Where it is no
    higher than the honest score, there is no sign that a difference between the splits keeps that
    score down. Whole test dialogues are held out, one fold of ``FOLDS`` at a time; all other
    labelled utterances are learnt.

    Args:
      kind: of classifier.
      settings: its settings.
      corpus: the corpus; at least ``FOLDS`` test dialogues have labels.
      features: [N, d].

    Returns:
      Per seed [N] classes; -1 outside the test split, and where there is no label.
    """
    labelled = corpus.label >= 0
    test = np.flatnonzero(corpus.in_split("test") & labelled)
    guesses = [np.full(len(labelled), -1) for _ in range(SEEDS if kind.drawn else 1)]
    for _, place in GroupKFold(FOLDS).split(test, groups=corpus.dialogue_of[test]):
        held_out = test[place]
        fitted = labelled.copy()
        fitted[held_out] = False
        found = _fit_and_guess(kind, settings, corpus, features, fitted)
        for guess, own in zip(guesses, found):
            guess[held_out] = own[held_out]
    return guesses


def measure_kind(
    kind: Kind, corpus: Corpus, features: np.ndarray, ceiling: bool = False
) -> dict[str, Any]:
    """Fits a kind of classifier with all its settings, and keeps those that are best on dev.

    Args:
      kind: of classifier.
      corpus: the corpus.
      features: [N, d].
      ceiling: whether to also ask ``guess_from_test``, with the settings that are kept.

    Returns:
      ``settings``; ``dev``: per seed the ``evaluate_predictions``; ``test`` and, if asked for,
      ``ceiling`` (of test): ``summarise_split`` of the seeds.
    """
    fitted = corpus.in_split("train") & (corpus.label >= 0)
    best: dict[str, Any] = {}
    for values in itertools.product(*kind.settings.values()):
        settings = dict(zip(kind.settings, values))
        guesses = _fit_and_guess(kind, settings, corpus, features, fitted)
        dev = [_score_dev(corpus, guess) for guess in guesses]
        score = np.mean([select_score(one, "mean_f1") for one in dev])
        if not best or score > best["score"]:
            best = {"score": score, "settings": settings, "dev": dev, "guesses": guesses}
    test = _score_test(corpus, best["guesses"])
    result = {"settings": best["settings"], "dev": best["dev"], "test": test}
    if ceiling:
        guesses = guess_from_test(kind, best["settings"], corpus, features)
        result["ceiling"] = _score_test(corpus, guesses)
    return result


def check_fittable(corpus: Corpus, ceiling: bool = False) -> None:
    """Refuses splits that are too small for some of the classifiers, or for a ceiling.

    Args:
      corpus: the corpus.
      ceiling: whether ``guess_from_test`` will be asked.

    Raises:
      UserError: it has a single class, or fewer labelled utterances than neighbours are asked for,
        or a ceiling is asked for and fewer test dialogues than folds have labels.
    """
    counts = corpus.class_counts("train")
    if np.sum(counts > 0) < 2:
        raise corpus.error("split 'train' has a single class, which tells a classifier nothing")
    if counts.sum() < FEWEST:
        raise corpus.error(f"split 'train' has {counts.sum()} labelled utterances, not {FEWEST}")
    told = len(np.unique(corpus.dialogue_of[corpus.in_split("test") & (corpus.label >= 0)]))
    if ceiling and told < FOLDS:
        raise corpus.error(
            f"split 'test' has {told} dialogues with labels, fewer than the {FOLDS} that a ceiling "
            "takes"
        )


def measure_baselines(
    config: ConfigDict,
    kinds: Sequence[str] = tuple(KINDS),
    say: Callable[[str], None] = print,
    ceiling: bool = False,
) -> dict[str, Any]:
    """Fits all kinds of classifiers on single utterances, and with the turns around them.

    Args:
      config: the settings; those of ``data`` and the balance count.
      kinds: names of ``KINDS``.
      say: takes a line of progress.
      ceiling: whether each is also asked what it makes of test once it has learnt from test.

    Returns:
      ``corpus``, ``minority`` (names of the minority classes), ``bayes`` (``best_possible``) and
      ``lines``: ``kind``, ``turns`` seen on each side, and the result of ``measure_kind``.

    Raises:
      UserError: the corpus is at fault, or folds are asked for.
    """
    if with_folds(config):
        raise UserError(
            "baselines are fitted and tested by the corpus's own splits, not by folds: leave "
            "data.folds and data.fold_by out"
        )
    corpus = load_data(config)
    check_labelled(corpus)
    check_fittable(corpus, ceiling)
    table = create_table(corpus, fit_standardiser(corpus, config.data.components))
    features = np.concatenate([table.features[m] for m in sorted(table.features)], axis=1)
    lines = []
    for window, name in itertools.product((0, WINDOW), kinds):
        result = measure_kind(KINDS[name], corpus, join_turns(corpus, features, window), ceiling)
        lines.append({"kind": name, "turns": window, **result})
        say(f"{name}, {window} turns on each side: {result['settings']}")
    minority = name_minority(corpus, config.augment.balance)
    best = best_possible(corpus)
    return {"corpus": corpus.name, "minority": minority, "bayes": best, "lines": lines}
