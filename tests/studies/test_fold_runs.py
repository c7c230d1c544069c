"""A run of folds from data to report: trained, scored, grown, swept, compared, used."""

import dataclasses
import json

import numpy as np
import pytest
from tiny import NO_PARTS, QUIET, TINY, tiny_config, tiny_corpus

import cberl_jax as cberl
from cberl_jax.config.variants import Preset, Variant
from cberl_jax.data.bayes import best_possible
from cberl_jax.data.folds import pool_splits
from cberl_jax.data.labels import keep_used_classes
from cberl_jax.data.readers.npz import write_npz
from cberl_jax.errors import UserError
from cberl_jax.metrics import evaluate_predictions
from cberl_jax.studies.ablation import ablate, list_minority
from cberl_jax.studies.evaluate import evaluate_run
from cberl_jax.studies.points import Execution
from cberl_jax.studies.sweep import best_at, sweep
from cberl_jax.studies.train import train_and_evaluate
from cberl_jax.training.prepare import load_data, prepare

CORPUS = keep_used_classes(tiny_corpus())
EPOCHS = 2


def settings(path, **changes):
    small = {"train.epochs": EPOCHS, "data.path": str(path), "data.folds": "3"}
    return tiny_config(**NO_PARTS | small | changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "c.npz"
    write_npz(CORPUS, path)
    return path


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "run"
    report = train_and_evaluate(settings(data), str(workdir), [0, 1], QUIET, pictures=False)
    return workdir, report


def test_every_utterance_is_tested_once_a_seed(run, data):
    workdir, report = run
    stored = np.load(workdir / "predictions.npz")
    np.testing.assert_array_equal(stored["seed"], [0, 1])
    assert stored["test.probability"].shape == (2, len(CORPUS.label), len(CORPUS.classes))
    np.testing.assert_array_equal(stored["test.label"], CORPUS.label)
    config = settings(data)
    folds = prepare(config, load_data(config)).folds
    np.testing.assert_array_equal(stored["test.fold"], folds.of_dialogue[CORPUS.dialogue_of])
    for number, line in enumerate(report["members"]):
        assert line["seed"] == number and len(line["folds"]) == 3
        own = stored["test.probability"][number]
        assert line["test"] == evaluate_predictions(CORPUS.label, own, CORPUS.classes)
    assert [own["fold"] for own in report["folds"]] == ["1", "2", "3"]
    assert sum(own["test_utterances"] for own in report["folds"]) == np.sum(CORPUS.label >= 0)
    text = (workdir / "report.md").read_text()
    assert "each fold on its own" in text and "Forman and Scholz" in text
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert {(x["member"], x["seed"], x["fold"]) for x in lines} == {
        (3 * seed + fold, seed, str(fold + 1)) for seed in (0, 1) for fold in range(3)
    }


def test_the_probabilities_are_those_of_the_models_that_did_not_learn_them(run):
    workdir, _ = run
    model = cberl.load(workdir)
    assert len(model.seeds) == 6 and "a model per fold" in str(model)
    each = model.predictions(CORPUS).members
    stored = np.load(workdir / "predictions.npz")
    for seed in (0, 1):
        picked = each[3 * seed + stored["test.fold"], np.arange(len(CORPUS.label))]
        np.testing.assert_allclose(picked, stored["test.probability"][seed], atol=1e-5)


def test_a_run_of_folds_is_handed_on_as_a_folder(run, data, tmp_path):
    workdir, _ = run
    cberl.export(workdir, tmp_path / "model", format="folder")
    model = cberl.load(tmp_path / "model")
    assert "a model per fold" in str(model)
    np.testing.assert_array_equal(
        model.predictions(data).members, cberl.load(workdir).predictions(data).members
    )
    with pytest.raises(UserError, match="a run of folds cannot be exported"):
        cberl.export(tmp_path / "model", tmp_path / "model.bin")


def test_a_run_of_folds_is_scored_again_on_its_own_corpus_only(run, tmp_path):
    workdir, report = run
    again = evaluate_run(str(workdir))
    for name in ("accuracy", "macro_f1"):
        np.testing.assert_allclose(
            again["test"][name]["mean"], report["test"][name]["mean"], atol=1e-6
        )
    turned = dataclasses.replace(CORPUS, dialogue=CORPUS.dialogue[::-1], label=1 - CORPUS.label % 2)
    write_npz(turned, tmp_path / "other.npz")
    with pytest.raises(UserError, match="are not those of the run"):
        evaluate_run(str(workdir), str(tmp_path / "other.npz"))


def test_it_gets_more_seeds_and_the_old_ones_keep_their_numbers(run, data, tmp_path):
    workdir, report = run
    grown = tmp_path / "grown"
    config = settings(data)
    train_and_evaluate(config, str(grown), [0, 1], QUIET, pictures=False)
    more = train_and_evaluate(config, str(grown), [0, 1, 2], QUIET, pictures=False)
    assert [line["seed"] for line in more["members"]] == [0, 1, 2]
    assert more["members"][:2] == report["members"]
    before, after = (np.load(path / "predictions.npz") for path in (workdir, grown))
    np.testing.assert_array_equal(after["test.probability"][:2], before["test.probability"])
    np.testing.assert_array_equal(after["test.fold"], before["test.fold"])
    assert len(cberl.load(grown).seeds) == 9


@pytest.mark.slow
def test_a_sweep_scores_its_points_out_of_fold(data, tmp_path):
    grid = {"loss.gamma": [0.0, 2.0]}
    found = sweep(settings(data), tmp_path / "sweep", [0, 1], grid, Execution(2, progress=QUIET))
    assert len(found["points"]) == 2
    stored = np.load(tmp_path / "sweep" / "best" / "predictions.npz")
    assert stored["test.probability"].shape[:2] == (2, len(CORPUS.label))
    alone = train_and_evaluate(
        settings(data, **found["best"]), str(tmp_path / "r"), [0, 1], QUIET, False
    )
    best = json.loads((tmp_path / "sweep" / "best" / "report.json").read_text())
    for one, other in zip(best["members"], alone["members"]):
        assert one["epoch"] == other["epoch"]
        np.testing.assert_allclose(one["test"]["macro_f1"], other["test"]["macro_f1"], atol=0.02)


def test_the_splits_of_the_file_do_not_count_in_an_ablation(tmp_path):
    unsplit = pool_splits(CORPUS, "train")
    write_npz(unsplit, tmp_path / "c.npz")
    config = settings(tmp_path / "c.npz")
    preset = Preset([Variant("full", {}), Variant("gamma = 0", {"loss.gamma": 0.0})], "full")
    # It comes as far as the members, of which there are none.
    with pytest.raises(UserError, match="2 of 2 members are not trained yet"):
        ablate(config, tmp_path / "a", [0], preset, Execution(collect=True, progress=QUIET))
    # A class that the file has in test alone is learnt and told of with folds, and only then.
    rare = CORPUS.classes.index("disgust")
    there = np.isin(np.arange(len(CORPUS.split)), CORPUS.dialogue_of[CORPUS.label == rare])
    apart = dataclasses.replace(CORPUS, split=np.where(there, "test", "train"))
    own = settings(tmp_path / "c.npz", **{"data.folds": ""})
    assert "disgust" not in list_minority(own, apart)
    assert "disgust" in list_minority(config, apart) == list_minority(own, unsplit)


def test_the_best_possible_of_folds_is_that_of_all_utterances():
    config = tiny_config(**{"data.path": "simulated:small", "data.folds": "3"})
    corpus = load_data(config)
    found = best_at(config)({"data.modalities": "all"})
    assert found == best_possible(pool_splits(corpus, "test"))


@pytest.mark.slow
def test_from_python_with_a_corpus_without_splits(tmp_path):
    one_split = dataclasses.replace(CORPUS, split=np.full(len(CORPUS.split), "train"))
    small = TINY | NO_PARTS | {"train.epochs": 1, "data.folds": "2"}
    run = cberl.train(one_split, workdir=tmp_path / "r", settings=small, say=lambda line: None)
    report = json.loads((tmp_path / "r" / "report.json").read_text())
    assert len(report["folds"]) == 2
    other = cberl.train(
        one_split,
        workdir=tmp_path / "s",
        settings=small | {"loss.gamma": 0.0},
        say=lambda line: None,
    )
    assert "macro F1" in str(cberl.compare(run, other))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.folds": "1"}, "at least 2 parts"),
        ({"data.folds": "nowhere.csv"}, "nowhere.csv: cannot be read"),
        ({"data.folds": "f.csv", "data.fold_by": "speaker"}, "needs no data.fold_by"),
        ({"train.best_on_test": True}, "train.best_on_test cannot be set where folds are made"),
        ({"data.fold_dev": 0.9}, "data.fold_dev = 0.9: has to be from"),
        ({"data.folds": "", "data.fold_dev": 0.3}, "data.fold_dev = 0.3: counts only where folds"),
    ],
)
def test_bad_settings_are_refused_and_nothing_is_written(data, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train_and_evaluate(settings(data, **changes), str(tmp_path / "r"), [0], QUIET, False)
    assert not (tmp_path / "r").exists()


def test_other_folds_in_the_same_folder_are_refused(run, data):
    workdir, _ = run
    with pytest.raises(UserError, match="folds"):
        train_and_evaluate(settings(data, **{"data.folds": "2"}), str(workdir), [0, 1], QUIET)
