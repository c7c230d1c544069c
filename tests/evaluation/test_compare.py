"""The comparison of two runs: scores by scikit-learn, draws by hand, intervals that cover."""

import numpy as np
import pytest

from cberl_jax.errors import UserError
from cberl_jax.evaluation.bootstrap import confusions, named_scores
from cberl_jax.evaluation.compare import compare, holm
from cberl_jax.evaluation.outcomes import Outcome, check_comparable, read_outcome
from cberl_jax.metrics import METRICS, evaluate_predictions
from cberl_jax.reports.compare import format_comparison
from cberl_jax.runtime.workdir import Workdir

CLASSES = ["neutral", "fear", "joy"]


def outcome(name, generator, skill, seeds=4, dialogues=40, length=8, noise_of_dialogue=0.0):
    """Members that are right with probability ``skill``, on labels that do not depend on it."""
    labels = np.random.default_rng(7).choice(3, p=[0.6, 0.1, 0.3], size=dialogues * length)
    dialogue = np.repeat([f"d{i}" for i in range(dialogues)], length)
    luck = np.repeat(generator.normal(size=dialogues) * noise_of_dialogue, length)
    right = generator.random((seeds, len(labels))) < np.clip(skill + luck, 0, 1)
    wrong = (labels + generator.integers(1, 3, size=right.shape)) % 3
    probability = np.eye(3)[np.where(right, labels, wrong)] * 0.5 + 1 / 6
    turn = np.tile(np.arange(length), dialogues)
    return Outcome(name, CLASSES, np.arange(seeds), probability, labels, dialogue, turn)


def test_scores_of_confusions_are_those_of_the_report():
    generator = np.random.default_rng(0)
    probability = generator.dirichlet(np.ones(3), size=(2, 30))
    # One class is not in the split, and an utterance has no label.
    label = generator.choice([0, 2], size=30)
    label[3] = -1
    counts = confusions(probability, label, np.repeat(["a", "b", "c"], 10))
    assert counts.shape == (3, 2, 3, 3) and counts.sum() == 2 * 29
    scores = named_scores(counts.sum(axis=0), CLASSES)
    for member in range(2):
        expected = evaluate_predictions(label, probability[member], CLASSES)
        for name in METRICS:
            assert scores[name][member] == pytest.approx(expected[name])
        for name in CLASSES:
            own = expected["per_class"][name]
            assert scores[f"F1 {name}"][member] == pytest.approx(own["f1"])
            assert scores[f"recall {name}"][member] == pytest.approx(own["recall"])


def test_a_run_against_itself_is_level():
    run = outcome("a", np.random.default_rng(0), 0.7)
    for line in compare(run, run, draws=200):
        assert line["difference"] == 0 and line["ci95"] == [0, 0] and line["p"] == 1


def test_a_better_run_is_found_and_the_sign_is_the_firsts():
    generator = np.random.default_rng(1)
    better, worse = outcome("better", generator, 0.8), outcome("worse", generator, 0.6)
    for line in compare(better, worse, ("accuracy", "F1 fear")):
        assert line["difference"] > 0.1 and line["ci95"][0] > 0 and line["p"] < 0.01
        assert line["difference"] == pytest.approx(line["first"] - line["second"])
    back = compare(worse, better, ("accuracy", "F1 fear"))
    assert all(line["difference"] < -0.1 and line["ci95"][1] < 0 for line in back)
    text = format_comparison(better, worse, compare(better, worse, draws=100))
    assert "| better" in text and "in pairs" in text and "weighted F1" in text


def test_an_ensemble_averages_probabilities_before_it_decides():
    generator = np.random.default_rng(3)
    run, other = outcome("a", generator, 0.6, seeds=9), outcome("b", generator, 0.6, seeds=9)
    members, ensemble = compare(run, other, ("accuracy",), draws=50)
    guess = run.probability.mean(axis=0).argmax(axis=-1)
    assert ensemble["first"] == pytest.approx(np.mean(guess == run.label))
    assert ensemble["first"] > members["first"] + 0.1


def test_seeds_are_drawn_on_their_own_where_they_are_not_the_same():
    generator = np.random.default_rng(4)
    run = outcome("a", generator, 0.7, seeds=2)
    other = outcome("b", generator, 0.7, seeds=5)
    assert "those of each on their own" in format_comparison(
        run, other, compare(run, other, draws=50)
    )


def test_holm_by_hand():
    # Sorted 0.01, 0.03, 0.04: times 3, 2, 1, and never falling.
    np.testing.assert_allclose(holm([0.04, 0.01, 0.03]), [0.06, 0.03, 0.06])
    np.testing.assert_allclose(holm([0.9, 0.8]), [1.0, 1.0])


def test_on_simulated_runs_each_ones_share_of_its_best_possible_is_told():
    run, other = (outcome(n, np.random.default_rng(4), 0.6) for n in ("one", "other"))
    assert "best possible" not in format_comparison(run, other, compare(run, other, draws=10))
    best = {"accuracy": 0.9, "balanced_accuracy": 0.8}
    views = {"full": best, "context_free": {name: value / 2 for name, value in best.items()}}
    told = format_comparison(run._replace(bayes=views), other, compare(run, other, draws=10))
    accuracy = np.mean(run.probability.argmax(axis=-1) == run.label)
    (line,) = told[told.index("## Share") :].splitlines()[-1:]
    assert line.startswith("| one ") and f"| {100 * accuracy / 0.9:.1f} % of 0.900" in line
    assert f"| {100 * accuracy / 0.45:.1f} % of 0.450" in line


def test_runs_of_other_utterances_and_unknown_metrics_are_refused():
    generator = np.random.default_rng(5)
    run = outcome("a", generator, 0.7)
    for other, field in (
        (run._replace(classes=["a", "b", "c"]), "classes"),
        (run._replace(label=1 - run.label), "label"),
        (outcome("b", generator, 0.7, dialogues=20, length=16), "dialogue"),
    ):
        with pytest.raises(UserError, match=f"differ in {field}"):
            check_comparable(run, other)
    with pytest.raises(UserError, match="there is no metric 'luck', only accuracy"):
        compare(run, run, ("luck",), draws=10)


def test_a_folder_is_read_without_its_diverged_members(tmp_path):
    run = outcome("run", np.random.default_rng(6), 0.7, seeds=3)
    folder = Workdir(tmp_path / "run")
    with pytest.raises(UserError, match="holds no run"):
        read_outcome(folder.path)
    folder.claim({})
    with pytest.raises(UserError, match="not finished"):
        read_outcome(folder.path)
    folder.write_predictions(
        {
            "seed": run.seeds,
            "classes": np.asarray(CLASSES),
            "test.probability": run.probability,
            "test.label": run.label,
            "test.dialogue": run.dialogue,
            "test.utterance": run.utterance,
        }
    )
    members = [{"status": status} for status in ("ok", "diverged", "ok")]
    folder.write_json(folder.report_file, {"members": members, "bayes": {"full": {}}})
    read = read_outcome(folder.path)
    assert read.bayes == {"full": {}}
    assert read.seeds.tolist() == [0, 2] and read.classes == CLASSES
    np.testing.assert_array_equal(read.probability, run.probability[[0, 2]])
    folder.write_json(folder.report_file, {"members": [{"status": "diverged"}] * 3})
    with pytest.raises(UserError, match="have diverged"):
        read_outcome(folder.path)
