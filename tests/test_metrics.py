"""Scores against scikit-learn, and intervals against scipy."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from cberl_jax.metrics import (
    METRICS,
    confusion_matrix,
    evaluate_predictions,
    scores,
    summarise,
    summarise_members,
)

CLASSES = ("neutral", "surprise", "fear", "sadness")


def reference(truth: np.ndarray, guess: np.ndarray) -> dict[str, float]:
    """scikit-learn's word on labelled utterances."""
    held = np.unique(truth)
    recall = sklearn_metrics.recall_score(
        truth, guess, labels=held, average="macro", zero_division=0.0
    )
    return {
        "accuracy": sklearn_metrics.accuracy_score(truth, guess),
        "weighted_f1": sklearn_metrics.f1_score(
            truth, guess, average="weighted", zero_division=0.0
        ),
        "macro_f1": sklearn_metrics.f1_score(
            truth, guess, labels=held, average="macro", zero_division=0.0
        ),
        "balanced_accuracy": recall,
    }


def draw_case(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels, with -1 for none, and guesses of 4 classes."""
    generator = np.random.default_rng(0)
    label, guess = generator.integers(0, 4, 60), generator.integers(0, 4, 60)
    if name == "unlabelled":
        label[::3] = -1
    if name == "class absent in truth":
        label[label == 2] = 0
    if name == "class never guessed":
        guess[guess == 2] = 0
    if name == "class absent in both":
        label[label == 2], guess[guess == 2] = 0, 1
    if name == "one class only":
        label[:], guess[:] = 1, 1
    if name == "all wrong":
        guess = (label + 1) % 4
    if name == "all right":
        guess = label.copy()
    return label, guess


CASES = (
    "all classes",
    "unlabelled",
    "class absent in truth",
    "class never guessed",
    "class absent in both",
    "one class only",
    "all wrong",
    "all right",
)


def probabilities(guess: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(1).random((len(guess), 4))
    noise[np.arange(len(guess)), guess] += 2
    return noise / noise.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("case", CASES)
def test_device_scores_are_those_of_scikit_learn(case):
    label, guess = draw_case(case)
    found = scores(confusion_matrix(jnp.asarray(label), jnp.asarray(guess), 4))
    expected = reference(label[label >= 0], guess[label >= 0])
    for name in METRICS:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6, err_msg=name)
    mean_f1 = (expected["weighted_f1"] + expected["macro_f1"]) / 2
    np.testing.assert_allclose(found["mean_f1"], mean_f1, rtol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_report_scores_are_those_of_scikit_learn(case):
    label, guess = draw_case(case)
    found = evaluate_predictions(label, probabilities(guess), CLASSES)
    expected = reference(label[label >= 0], guess[label >= 0])
    for name in METRICS:
        np.testing.assert_allclose(found[name], expected[name], err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_report_per_class_is_that_of_scikit_learn(case):
    label, guess = draw_case(case)
    found = evaluate_predictions(label, probabilities(guess), CLASSES)["per_class"]
    expected = sklearn_metrics.classification_report(
        label[label >= 0],
        guess[label >= 0],
        labels=range(4),
        target_names=CLASSES,
        output_dict=True,
        zero_division=0.0,
    )
    for name in CLASSES:
        wanted = expected[name]
        assert found[name]["support"] == wanted["support"]
        got = [found[name][field] for field in ("precision", "recall", "f1")]
        np.testing.assert_allclose(got, [wanted["precision"], wanted["recall"], wanted["f1-score"]])


def test_scores_by_hand():
    # Truth 0 0 0 1, guess 0 0 1 1. Class 0: precision 1, recall 2/3, F1 4/5. Class 1: 1/2, 1, 2/3.
    found = evaluate_predictions(
        np.array([0, 0, 0, 1]), np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]]), "ab"
    )
    assert found["accuracy"] == pytest.approx(3 / 4)
    assert found["weighted_f1"] == pytest.approx((3 * 4 / 5 + 2 / 3) / 4)
    assert found["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)


def test_confusion_matrix_counts_as_scikit_learn():
    label, guess = draw_case("unlabelled")
    found = confusion_matrix(
        jnp.asarray(label).reshape(6, 10), jnp.asarray(guess).reshape(6, 10), 4
    )
    expected = sklearn_metrics.confusion_matrix(label[label >= 0], guess[label >= 0])
    np.testing.assert_array_equal(found, expected)


def test_scores_of_nothing_are_zero():
    nothing = confusion_matrix(jnp.full(5, -1), jnp.zeros(5, jnp.int32), 4)
    assert all(value == 0 for value in scores(nothing).values())


def test_unlabelled_utterances_do_not_count():
    label, guess = draw_case("unlabelled")
    probability = probabilities(guess)
    with_them = evaluate_predictions(label, probability, CLASSES)
    without = evaluate_predictions(label[label >= 0], probability[label >= 0], CLASSES)
    assert with_them == without


def test_members_are_summarised_by_hand():
    # (0.5, 0.5, 0.7, 0.7): mean 0.6, std sqrt(4 * 0.01 / 3) = 0.11547005. Seeds alone give no
    # interval, however many they are.
    found = summarise([0.5, 0.7, 0.5, 0.7])
    assert found["mean"] == pytest.approx(0.6) and found["std"] == pytest.approx(0.11547005)
    assert found["ci95"] is None
    # std sqrt(2 * 0.01 / 1) = 0.14142136.
    assert summarise([0.5, 0.7])["std"] == pytest.approx(0.14142136)
    assert summarise([0.25] * 4) == {"mean": 0.25, "std": 0.0, "ci95": None}


def test_a_single_member_has_no_deviation():
    assert summarise([0.6]) == {"mean": 0.6, "std": None, "ci95": None}


def test_members_are_summarised_entry_by_entry():
    label, guess = draw_case("all classes")
    members = [
        evaluate_predictions(label, probabilities(other), CLASSES)
        for other in (guess, label, (label + 1) % 4, label)
    ]
    found = summarise_members(members)
    for name in METRICS:
        assert found[name] == summarise([m[name] for m in members])
    fear = found["per_class"]["fear"]
    recall = summarise([m["per_class"]["fear"]["recall"] for m in members])
    assert fear["recall"] == recall
    assert fear["support"] == np.sum(label == 2)
    assert set(found["per_class"]) == set(CLASSES)
