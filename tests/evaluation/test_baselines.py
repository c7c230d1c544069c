"""Baselines: what a window holds, that test decides nothing, and the program's files."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_config

from cberl_jax.data.dataset import create_table
from cberl_jax.data.readers.load import load_corpus
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.data.standardize import fit_standardiser
from cberl_jax.errors import UserError
from cberl_jax.evaluation.baselines import (
    FOLDS,
    KINDS,
    SEEDS,
    check_fittable,
    guess_from_test,
    join_turns,
    measure_baselines,
    measure_kind,
)
from cberl_jax.metrics import evaluate_predictions
from cberl_jax.reports.baselines import format_baselines

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def corpus():
    return simulate_corpus(create_process(), SimulatedSize(80, 20, 40, 8, 12), seed=0)


@pytest.fixture(scope="module")
def features(corpus):
    table = create_table(corpus, fit_standardiser(corpus))
    return np.concatenate([table.features[m] for m in sorted(table.features)], axis=1)


def test_a_window_ends_at_the_border_of_its_dialogue(corpus):
    number = np.arange(len(corpus.label), dtype=float)[:, None] + 1
    joined = join_turns(corpus, number, 2)
    first = corpus.start[3]
    assert corpus.length[3] >= 3
    np.testing.assert_array_equal(joined[first], [0, 0, first + 1, first + 2, first + 3])
    last = first + corpus.length[3] - 1
    np.testing.assert_array_equal(joined[last], [last - 1, last, last + 1, 0, 0])
    np.testing.assert_array_equal(join_turns(corpus, number, 0), number)


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_beats_the_most_frequent_class(name, corpus, features):
    kind = KINDS[name]
    # One of each setting's values is enough to see that it learns; of trees, the few.
    middle = {n: values[len(values) // 2 :][:1] for n, values in kind.settings.items()}
    few = {"max_iter": (4,)} if name == "boosted trees" else {}
    short = kind._replace(settings=middle | few)
    result = measure_kind(short, corpus, features)
    assert len(result["dev"]) == (SEEDS if kind.drawn else 1)
    assert (result["test"]["accuracy"]["std"] is not None) == kind.drawn
    frequent = np.bincount(corpus.label[corpus.in_split("train")]).argmax()
    test = corpus.in_split("test")
    guess = np.eye(7)[np.full(test.sum(), frequent)]
    floor = evaluate_predictions(corpus.label[test], guess, corpus.classes)["macro_f1"]
    assert result["test"]["macro_f1"]["mean"] > floor + 0.03


def test_settings_are_chosen_on_dev_and_test_decides_nothing(corpus, features):
    kind = KINDS["logistic regression"]
    result = measure_kind(kind, corpus, features)
    test = corpus.in_split("test")
    shuffled = np.where(test, np.roll(corpus.label, 1), corpus.label)
    other = measure_kind(kind, dataclasses.replace(corpus, label=shuffled), features)
    assert other["settings"] == result["settings"] and other["dev"] == result["dev"]
    assert other["test"] != result["test"]

    def dev_score(settings):
        only = kind._replace(settings={n: (v,) for n, v in settings.items()})
        scores = measure_kind(only, corpus, features)["dev"][0]
        return scores["weighted_f1"] + scores["macro_f1"]

    best = dev_score(result["settings"])
    for value in kind.settings["C"]:
        assert dev_score(result["settings"] | {"C": value}) <= best


def test_a_train_split_that_tells_nothing_is_refused(corpus):
    alike = np.where(corpus.in_split("train"), 0, corpus.label)
    with pytest.raises(UserError, match="'train' has a single class"):
        check_fittable(dataclasses.replace(corpus, label=alike))
    few = np.where(np.cumsum(corpus.in_split("train")) > 49, -1, corpus.label)
    with pytest.raises(UserError, match="'train' has 49 labelled utterances, not 50"):
        check_fittable(dataclasses.replace(corpus, label=few))


def test_folds_are_refused():
    """Scores by the corpus's own splits would stand beside those of a run of folds."""
    with pytest.raises(UserError, match="not by folds"):
        measure_baselines(tiny_config(**{"data.path": "simulated:small", "data.folds": "3"}))


def test_a_ceiling_learns_from_the_other_test_dialogues_and_never_from_the_same(corpus):
    kind, settings = KINDS["nearest neighbours"], {"n_neighbors": 1}
    test, number = corpus.in_split("test"), corpus.dialogue_of
    hidden = np.arange(len(number)) % 9 == 0
    label = np.where(hidden, -1, np.where(test, number % 7, corpus.label))
    told = dataclasses.replace(corpus, label=label)
    # Seven kinds of test dialogues that train knows nothing of.
    features = np.where(test, 1 + number % 7, 0.0)[:, None]
    (guess,) = guess_from_test(kind, settings, told, features)
    np.testing.assert_array_equal(guess, np.where(test, label, -1))
    # Where only a dialogue's own utterances are like it, nothing can be known.
    features = np.where(test, 1 + number, -1e9)[:, None]
    (guess,) = guess_from_test(kind, settings, told, features)
    known = test & ~hidden
    assert np.mean(guess[known] == label[known]) < 0.1


def test_a_ceiling_stands_beside_the_result_and_changes_nothing_of_it(corpus, features):
    kind = KINDS["linear discriminant"]
    plain, result = (measure_kind(kind, corpus, features, ceiling) for ceiling in (False, True))
    ceiling = result.pop("ceiling")
    assert result == plain
    report = {"corpus": "x", "minority": ["fear"], "bayes": None}
    lines = [{"kind": "a", "turns": 0, **plain, "ceiling": ceiling}]
    told = format_baselines(report | {"lines": lines}).split("## The ceiling")[1]
    low, high = ceiling["macro_f1"]["ci95"]
    assert f"| {ceiling['macro_f1']['mean']:.3f} [{low:.3f}, {high:.3f}]" in told
    bare = [{"kind": "a", "turns": 0, **plain}]
    assert "ceiling" not in format_baselines(report | {"lines": bare})
    few = corpus.label.copy()
    few[np.isin(corpus.dialogue_of, np.flatnonzero(corpus.split == "test")[FOLDS - 1 :])] = -1
    with pytest.raises(UserError, match="'test' has 4 dialogues with labels, fewer than the 5"):
        check_fittable(dataclasses.replace(corpus, label=few), ceiling=True)


def test_context_helps_where_emotions_linger(corpus, features):
    kind = KINDS["logistic regression"]
    alone, around = (
        measure_kind(kind, corpus, join_turns(corpus, features, window))["test"]["accuracy"]["mean"]
        for window in (0, 2)
    )
    assert around > alone


@pytest.mark.slow
def test_the_program_prints_and_writes_the_table(program_environment, tmp_path):
    command = [sys.executable, str(ROOT / "experiments" / "baselines.py")]
    command += ["--config=experiments/configs/demo.py", f"--out={tmp_path / 'out'}"]
    command += ["--kinds=linear discriminant", "--kinds=nearest neighbours"]
    done = subprocess.run(
        command, env=program_environment, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "baselines.json").read_text())
    assert (tmp_path / "out" / "baselines.md").read_text() == format_baselines(report)
    assert format_baselines(report) in done.stdout
    assert [(x["kind"], x["turns"]) for x in report["lines"]] == [
        ("linear discriminant", 0),
        ("nearest neighbours", 0),
        ("linear discriminant", 2),
        ("nearest neighbours", 2),
    ]
    test, best = report["lines"][0]["test"], report["bayes"]["context_free"]
    for name in ("accuracy", "balanced_accuracy"):
        mean = test[name]["mean"]
        assert mean < best[name]
        assert f"| {100 * mean / best[name]:.1f} % of {best[name]:.3f}" in done.stdout
    label = load_corpus("simulated:small").label
    assert test["accuracy"]["mean"] > np.bincount(label).max() / len(label)
