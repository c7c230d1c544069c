"""A search: points told once, one program a batch, the best again with other seeds, test once."""

import collections
import dataclasses
import json
import math
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from tiny import NO_PARTS, QUIET, TINY, tiny_config

import cberl_jax as cberl
from cberl_jax.config.presets import read_config
from cberl_jax.config.settings import flatten
from cberl_jax.config.space import Range, read_space
from cberl_jax.data.readers.npz import write_npz
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.errors import UserError
from cberl_jax.metrics import METRICS
from cberl_jax.reports.search import Finalists, Searched, create_search_report, format_scores
from cberl_jax.runtime.progress import Progress
from cberl_jax.runtime.signals import Stopper
from cberl_jax.runtime.workdir import Workdir
from cberl_jax.serving.restore import read_start
from cberl_jax.studies import fitting
from cberl_jax.studies.group import Group, create_member
from cberl_jax.studies.points import Execution
from cberl_jax.studies.run import train_chunk
from cberl_jax.studies.search import explain_no_other_dev, search
from cberl_jax.studies.search_batches import (
    Worker,
    choose_better,
    count_survivors,
    join_chunks,
    list_rungs,
    rung_scores,
    take_members,
)
from cberl_jax.studies.search_plan import Plan
from cberl_jax.studies.starting import prepare_members
from cberl_jax.studies.train import train_and_evaluate
from cberl_jax.studies.trials import LOCKS, Sampling, Trials, name_study
from cberl_jax.training.fleet import Fleet
from cberl_jax.training.prepare import load_data

pytest.importorskip("optuna", reason="needs pip install 'cberl-jax[search]'")
pytest.importorskip("cmaes", reason="needs pip install 'cberl-jax[search]'")

SPACE = {
    "optim.learning_rate": Range(1e-4, 1e-1, True),
    "loss.gamma": Range(0.0, 3.0),
    "model.classifier_hidden": [4, 8],
}
WIDTH = "model.classifier_hidden"
# Points of the search that several processes share.
COUNTED = 18
HOW = Execution(progress=QUIET, pictures=False)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.npz"
    write_npz(simulate_corpus(create_process(), SimulatedSize(12, 4, 4, 4, 4), seed=0), path)
    return str(path)


def config(corpus, **changes):
    return tiny_config(**{"data.path": corpus, "train.epochs": 2, **NO_PARTS, **changes})


def open_trials(path, sampler="tpe", space=SPACE, first=None):
    return Trials(path, space, name_study(space, 2), Sampling(sampler, first))


@pytest.mark.slow
def test_a_search_finds_trains_again_and_reads_test_once(corpus, tmp_path):
    folder, said = tmp_path / "search", []
    given = {
        "optim.learning_rate": (1e-4, 1e-1, "log"),
        "loss.gamma": (0, 3),
        "optim.dropout": (0, 0.5),
    }
    options = {"workdir": folder, "seeds": 1, "batch": 4, "best_seeds": 2, "space": given}
    options |= {"settings": {"optim.dropout": 0.2}, "say": said.append, "pictures": False}
    report = cberl.search(corpus, config(corpus), trials=12, **options)
    assert repr(report) == (folder / "search.md").read_text()
    assert list(report["space"]) == ["optim.learning_rate", "loss.gamma"]
    assert json.loads((folder / "search.json").read_text()) == report
    points = report["points"]
    assert [own["number"] for own in points] == list(range(12))
    for batch in {own["batch"] for own in points}:
        own = [p["settings"] for p in points if p["batch"] == batch]
        assert len(own) == 4 == len({p["optim.learning_rate"] for p in own})
    # Their chunks are gone; those of the second training have other seeds.
    seeds = [json.loads(p.read_text())["seeds"] for p in folder.glob("chunks/*/config.json")]
    assert {seed for own in seeds for seed in own} == {1, 2}
    # The config's own settings are the first point, trained again whatever their score.
    assert points[0]["settings"] == {n: flatten(config(corpus))[n] for n in report["space"]}
    assert 0 in report["finalists"] and 10 <= len(report["finalists"]) <= 11
    ranked = sorted((p["score"] for p in points), reverse=True)
    assert [points[n]["score"] for n in report["finalists"][:10]] == ranked[:10]
    second = [own["mean"] for own in report["again"]]
    assert report["winner"] == report["finalists"][int(np.argmax(second))]
    best = Workdir(folder / "best", create=False).read_report()
    assert best["test"] == report["test"] and len(report["looks"]) == 1
    means = [best["dev"][name]["mean"] for name in ("weighted_f1", "macro_f1")]
    assert sum(means) / 2 == pytest.approx(max(second))
    # The config that it leaves gives the run that it leaves.
    kept = read_config(folder / "best.py")
    stored = json.loads((folder / "best" / "config.json").read_text())
    for name, value in flatten(kept).items():
        if name != "data.path":
            assert stored.get(name, value) == value, name
    page = (folder / "search.html").read_text()
    assert page.count("data:image/png") == 3 and "Test was read once" in page
    assert report["on_others"] == [] and "too few dialogues (12 in train, 4 in dev" in page

    # The same command has nothing to do; more points are another look at test.
    said.clear()
    again = cberl.search(corpus, config(corpus), trials=12, **options)
    assert again["points"] == points and len(again["looks"]) == 1
    assert not any("members to train" in line for line in said)
    more = cberl.search(corpus, config(corpus), trials=13, **options)
    assert len(more["points"]) == 13 and more["points"][:12] == points
    if more["winner"] == report["winner"]:
        assert [look["points"] for look in more["looks"]] == [12, 13]
    assert "look 2 at this test split" in (folder / "search.md").read_text()


@pytest.mark.slow
def test_a_program_that_was_in_use_before_is_not_compiled_again(corpus, tmp_path, traces):
    """Points go to and fro between two widths: one program each, and one again for the best."""
    space = {"loss.gamma": Range(0.0, 3.0), "model.classifier_hidden": [4, 8]}
    plan = Plan(space, trials=8, seeds=1, batch=1, best_seeds=1)
    report = search(config(corpus), str(tmp_path / "search"), plan, HOW)
    widths = [own["settings"]["model.classifier_hidden"] for own in report["points"]]
    assert sum(a != b for a, b in zip(widths, widths[1:])) > 2
    assert traces == ["joint_epoch"] * 4


@pytest.mark.slow
def test_the_best_points_are_trained_with_other_dev_dialogues_too(tmp_path):
    path = tmp_path / "corpus.npz"
    made = simulate_corpus(create_process(), SimulatedSize(40, 10, 4, 3, 3), seed=0)
    write_npz(made, path)
    small = config(str(path))
    options = {"workdir": tmp_path / "search", "seeds": 1, "batch": 2, "best_seeds": 1}
    space = {"optim.learning_rate": (1e-3, 1e-2, "log")}
    report = cberl.search(path, small, trials=2, space=space, pictures=False, **options)
    assert len(report["on_others"]) == 2 == len(report["finalists"])
    place = report["finalists"].index(0)
    small.data.other_dev = 1
    # The point's own seeds: those that did not choose it.
    alone = train_and_evaluate(small, str(tmp_path / "alone"), [1], QUIET, False)
    wanted = [alone["dev"][name]["mean"] for name in ("weighted_f1", "macro_f1")]
    assert report["on_others"][place]["mean"] == pytest.approx(sum(wanted) / 2, abs=1e-6)
    text = (tmp_path / "search" / "search.md").read_text()
    assert "again, other dev dialogues" in text and "of 2." in text
    # Where they cannot be, the reason is said.
    tuned = dataclasses.replace(made, provenance={"text": {"tuning": {"epochs": 3}, "crossfit": 0}})
    assert "tuned on the labels" in explain_no_other_dev(small, tuned)
    start = read_start(tmp_path / "search" / "best")
    assert "start from has learnt" in explain_no_other_dev(small, made, start)
    assert explain_no_other_dev(small, made) == ""
    small.data.folds = "3"
    assert "folds" in explain_no_other_dev(small, made)


@pytest.mark.slow
def test_the_score_of_a_point_is_that_of_its_members_alone(corpus, tmp_path):
    plan = Plan(SPACE, trials=8, seeds=2, batch=2, best_seeds=1, sampler="random", seed=1)
    report = search(config(corpus), str(tmp_path / "search"), plan, HOW)
    for batch in {own["batch"] for own in report["points"]}:
        own = [p["settings"] for p in report["points"] if p["batch"] == batch]
        assert len(own) == 2 and len({p["model.classifier_hidden"] for p in own}) == 1
    wide = [p for p in report["points"] if p["settings"]["model.classifier_hidden"] == 8]
    point = wide[-1]
    alone = config(corpus, **point["settings"])
    found = train_and_evaluate(alone, str(tmp_path / "alone"), [0, 1], QUIET, False)
    scores = [member["dev"] for member in found["members"]]
    means = [(m["weighted_f1"] + m["macro_f1"]) / 2 for m in scores]
    # Half an utterance of dev may fall on the other side.
    np.testing.assert_allclose(point["scores"], means, atol=0.06)
    assert point["score"] == pytest.approx(np.mean(point["scores"]))


@pytest.mark.slow
def test_points_share_the_gans_of_their_seeds(corpus, tmp_path, traces):
    """They are trained once, whatever the batch, and a point has the scores that it has alone."""
    changes = {"augment.method": "gan", "gan.epochs": 3, "optim.learning_rate": 1e-2}
    settings, said = config(corpus, **changes), []
    plan = Plan({"loss.gamma": Range(0.0, 3.0)}, trials=4, seeds=2, batch=2, best_seeds=1)
    how = HOW._replace(progress=Progress(said.append))
    report = search(settings, str(tmp_path / "search"), plan, how)
    before = said.index(next(line for line in said if "best points again" in line))
    assert sum(line.startswith("gan ") for line in said[:before]) == 3
    # One program of GANs and one without, and both for the best points.
    assert sorted(traces) == ["gan_epoch"] * 2 + ["joint_epoch"] * 2
    alone = config(corpus, **changes, **report["points"][3]["settings"])
    found = train_and_evaluate(alone, str(tmp_path / "alone"), [0, 1], QUIET, False)
    scores = [member["dev"] for member in found["members"]]
    means = [(m["weighted_f1"] + m["macro_f1"]) / 2 for m in scores]
    np.testing.assert_allclose(report["points"][3]["scores"], means, atol=0.06)


@pytest.mark.slow
def test_points_whose_gans_differ_do_not_share_them(corpus, tmp_path):
    space = {"gan.learning_rate": Range(1e-5, 1e-2, True)}
    settings, said = config(corpus, **{"augment.method": "gan", "gan.epochs": 1}), []
    plan = Plan(space, trials=2, seeds=1, batch=2, best_seeds=1)
    search(settings, str(tmp_path / "search"), plan, HOW._replace(progress=Progress(said.append)))
    assert "members 2" in next(line for line in said if line.startswith("gan "))


@pytest.mark.parametrize("halving", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_points_that_diverge_are_told_as_worst(corpus, tmp_path, halving):
    space = {"optim.clip": [1.0, 1e30], "optim.learning_rate": [1e-3, 1e30]}
    plan = Plan(space, trials=6, seeds=1, batch=6, best_seeds=1, sampler="random")
    plan = plan._replace(halving=halving)
    report = search(config(corpus), str(tmp_path / "search"), plan, HOW)
    lost = [own for own in report["points"] if own["score"] is None and not own["stopped"]]
    assert report["diverged"] == len(lost) > 0
    assert {own["settings"]["optim.learning_rate"] for own in lost} == {1e30}
    assert not {own["number"] for own in lost} & set(report["finalists"])


@pytest.mark.slow
def test_points_that_do_not_fit_the_memory_are_told_and_the_search_goes_on(
    corpus, tmp_path, monkeypatch
):
    monkeypatch.setattr(fitting, "memory_of_device", lambda: 1)
    space = {"optim.learning_rate": Range(1e-3, 5e-2, True)}
    plan = Plan(space, trials=4, seeds=1, batch=2, best_seeds=1)
    report = search(config(corpus), str(tmp_path / "search"), plan, HOW)
    assert report["refused"] == 4 and report["diverged"] == 0
    assert report["winner"] is None and report["best"] is None
    text = (tmp_path / "search" / "search.md").read_text()
    assert "4 were not trained, as they did not fit the memory" in text
    monkeypatch.undo()
    more = search(config(corpus), str(tmp_path / "search"), plan._replace(trials=6), HOW)
    assert more["refused"] == 4 and more["winner"] in (4, 5)


@pytest.mark.parametrize("sampler", ["tpe", "random", "qmc", "cmaes"])
def test_a_batch_shares_its_static_settings_whatever_chooses(sampler, tmp_path):
    trials = open_trials(tmp_path, sampler)
    seen = []
    for _ in range(4):
        with trials.taking(5, 18, None) as batch:
            points = list(batch.points.values())
            for number, point in batch.points.items():
                trials.tell(number, -abs(point["loss.gamma"] - 1), {"scores": [0.0]})
        assert len({p["model.classifier_hidden"] for p in points}) == 1
        assert len({p["loss.gamma"] for p in points}) == len(points)
        seen += points
    assert len(seen) == 18 == len(trials.told())
    assert {p["model.classifier_hidden"] for p in seen} == {4, 8}
    for own in seen:
        assert 1e-4 <= own["optim.learning_rate"] <= 1e-1 and 0 <= own["loss.gamma"] <= 3
    with trials.taking(5, 18, None) as batch:
        assert batch is None


def test_tpe_tries_all_static_settings_and_then_the_best(tmp_path):
    """However long the first ones were kept: here for twenty points."""
    space = {"loss.gamma": Range(0.0, 3.0), "model.classifier_hidden": [2, 4, 8, 16]}
    first = {"loss.gamma": 1.0, "model.classifier_hidden": 4}
    trials = open_trials(tmp_path, "tpe", space, first)
    seen = []
    for number in range(22):
        with trials.taking(20 if number == 0 else 4, None, None) as batch:
            points = list(batch.points.values())
            (width,) = {point["model.classifier_hidden"] for point in points}
            for own in batch.points:
                trials.tell(own, 0.5 + 0.02 * (width == 16), {"scores": [0.0]})
            seen.append(width)
            if number == 0:
                assert points[0] == first
    assert seen[0] == 4 and set(seen[:14]) == {2, 4, 8, 16}
    assert seen[14:].count(16) >= 4


def test_static_values_take_their_turns_in_place_of_the_best_ones(tmp_path):
    """One value changes at a time, and a gain is kept."""
    space = {
        "loss.gamma": Range(0.0, 3.0),
        "model.classifier_hidden": [2, 4, 8],
        "model.layers": Range(1, 3),
        "model.graph": [True, False],
    }
    first = {"loss.gamma": 1.0, "model.classifier_hidden": 2, "model.layers": 1}
    trials = open_trials(tmp_path, "tpe", space, first | {"model.graph": True})
    assert trials.find_best_static() is None

    def score(own):
        return 0.1 * own["model.classifier_hidden"] - 0.1 * own["model.layers"]

    seen = []
    for _ in range(5):
        with trials.taking(2, None, None) as batch:
            for number, point in batch.points.items():
                trials.tell(number, score(point), {"scores": [score(point)]})
        own = {name: value for name, value in point.items() if name != "loss.gamma"}
        if seen:
            assert sum(own[name] != value for name, value in max(seen, key=score).items()) == 1
        seen.append(own)
        assert trials.find_best_static() == max(seen, key=score)
    # A second value of each setting comes before a third one of any.
    values = [[len({own[name] for own in seen[:count]}) for name in own] for count in (4, 5)]
    assert values == [[2, 2, 2], [3, 2, 2]]
    assert open_trials(tmp_path, "random", space).find_best_static() is None


def test_half_of_the_points_of_new_static_settings_are_drawn_at_random(tmp_path):
    """TPE stays near what was good with others, which may be bad with these."""
    space = {"optim.dropout": Range(0.0, 1.0), WIDTH: [4, 8]}
    trials = open_trials(tmp_path, "tpe", space, {"optim.dropout": 0.1, WIDTH: 4})

    def ask(points, static=None):
        with trials.taking(points, None, static) as batch:
            for number, point in batch.points.items():
                trials.tell(number, -abs(point["optim.dropout"] - 0.1), {"scores": [0.0]})
        return [point["optim.dropout"] for point in batch.points.values()]

    for _ in range(6):
        ask(8, {WIDTH: 4})
    new, known = ask(16), ask(16, {WIDTH: 8})
    assert np.mean(np.abs(np.asarray(new[0::2]) - 0.1)) < 0.15
    assert np.mean(np.abs(np.asarray(new[1::2]) - 0.1)) > 0.2
    assert np.mean(np.abs(np.asarray(known) - 0.1)) < 0.15


def test_static_settings_are_judged_by_points_that_were_stopped_too(tmp_path):
    """With halving one point of eight ends: by luck that of the worse static settings is better."""
    trials = open_trials(tmp_path)
    scores = {4: [0.80, 0.50, 0.50, math.nan], 8: [0.79, 0.75, 0.70, 0.40]}
    for width, own in scores.items():
        with trials.taking(4, None, {"model.classifier_hidden": width}) as batch:
            (survivor, score), *stopped = zip(batch.points, own, strict=True)
            trials.tell(survivor, score, {"scores": [score]})
            for number, reached in stopped:
                trials.stop(number, 1, reached, {"scores": []})
    assert trials.find_best_static() == {"model.classifier_hidden": 8}


@pytest.mark.parametrize("train_s, others", [(39, False), (41, True)])
@pytest.mark.parametrize("halving, share", [(False, 1.0), (True, 0.3)])
def test_other_static_settings_come_once_training_outweighs_compiling(
    corpus, tmp_path, train_s, others, halving, share
):
    """Halving does three tenths of the training, so that it tries as many of them."""
    trials = open_trials(tmp_path)
    with trials.taking(1, None, {"model.classifier_hidden": 8}) as batch:
        trials.tell(*batch.points, 0.5, {"scores": [0.5]})
    plan = Plan(SPACE, trials=128, halving=halving)
    worker = Worker(config(corpus), Workdir(tmp_path), plan, HOW)
    worker.compile_s, worker.train_s = 10.0, share * train_s
    assert (worker._choose_static(trials) is None) == others


def test_static_settings_are_kept_if_asked(tmp_path):
    trials = open_trials(tmp_path)
    for _ in range(3):
        with trials.taking(3, None, {"model.classifier_hidden": 8}) as batch:
            assert {p["model.classifier_hidden"] for p in batch.points.values()} == {8}
            for number in batch.points:
                trials.tell(number, 0.5, {"scores": [0.5]})


def test_a_process_takes_what_one_left_that_died_and_nothing_of_one_at_work(tmp_path):
    first, second = open_trials(tmp_path), open_trials(tmp_path)
    with first.taking(3, 5, None) as theirs, second.taking(3, 5, None) as ours:
        assert len(theirs.points) == 3 and len(ours.points) == 2
        assert not theirs.points.keys() & ours.points.keys()
        with open_trials(tmp_path).taking(3, 5, None) as none:
            assert none is None
        first.tell(min(theirs.points), 0.1, {"scores": [0.1]})
        for number in ours.points:
            second.tell(number, 0.2, {"scores": [0.2]})
        second.end(ours)
    # The lock of the first one is free, and two of its points were not told.
    with second.taking(0, 5, None) as left:
        assert left.name == theirs.name
        assert left.points == {n: theirs.points[n] for n in sorted(theirs.points)[1:]}
        for number in left.points:
            second.tell(number, 0.3, {"scores": [0.3]})
    assert [own.score for own in open_trials(tmp_path).told()] == [0.1, 0.3, 0.3, 0.2, 0.2]
    assert not (tmp_path / LOCKS / ours.name).exists()


def test_a_point_that_was_not_whole_is_asked_for_anew(tmp_path):
    trials = open_trials(tmp_path)
    trials._study.ask()  # As of a process that is killed while it asks.
    with trials.taking(2, 2, None) as batch:
        assert sorted(batch.points) == [1, 2]
        for number in batch.points:
            trials.tell(number, 0.5, {"scores": [0.5]})
    assert [own.number for own in trials.told()] == [1, 2]


def test_the_setting_that_matters_is_the_important_one(tmp_path):
    space = {"loss.gamma": Range(0.0, 3.0), "optim.dropout": Range(0.0, 0.9)}
    trials = open_trials(tmp_path, "random", space)
    with trials.taking(40, None, None) as batch:
        assert trials.measure_importance() == {}
        for number, point in batch.points.items():
            score = point["loss.gamma"] + 0.05 * point["optim.dropout"]
            trials.tell(number, score, {"scores": [score]})
    found = trials.measure_importance(repeats=4)
    assert min(found["loss.gamma"]) > 0.9 and max(found["optim.dropout"]) < 0.1
    assert np.sum(list(found.values()), axis=0) == pytest.approx(np.ones(4))


def test_intervals_are_told_by_the_members_that_are_left():
    """Of four seeds of the winner one diverged: three say nothing of other seeds."""
    told = {"number": 5, "point": {"loss.gamma": 1.0}, "batch": "b", "score": 0.5}
    told |= {"details": {"scores": [0.5]}}
    finalists = Finalists([5], [[0.4, None, 0.5, 0.6]], [], "too few")
    searched = Searched(tiny_config(), {"loss.gamma": Range(0.0, 3.0)}, "random", 1, 4)
    report = create_search_report(searched, [told], finalists, {}, {"versions": {}})
    scores = {name: {"mean": 0.5, "std": 0.1, "ci95": [0.4, 0.6]} for name in METRICS}
    text = format_scores(report | {"test": scores, "ensemble": scores, "looks": [{}]})
    assert "the winner on test, 3 seeds." in text and "other dialogues alone" in text
    assert "for other seeds" not in text


def test_a_point_with_a_member_that_diverged_does_not_win():
    """Seven of eight seeds lost, and the one left with the highest score of all."""
    again = [[0.9, *[None] * 7], [0.4] * 8, [0.5] * 8, [None] * 8]
    told = [
        {"number": n, "point": {"loss.gamma": n / 4}, "batch": "b", "score": 0.5}
        | {"details": {"scores": [0.5]}}
        for n in range(4)
    ]
    finalists = Finalists([0, 1, 2, 3], again, again, "")
    searched = Searched(tiny_config(), {"loss.gamma": Range(0.0, 3.0)}, "random", 1, 8)
    report = create_search_report(searched, told, finalists, {}, {"versions": {}})
    assert report["winner"] == 2
    scores = {name: {"mean": 0.5, "std": 0.1, "ci95": [0.4, 0.6]} for name in METRICS}
    text = format_scores(report | {"test": scores, "ensemble": scores, "looks": [{}]})
    places = [text.index(words) for words in ("0.500 ±", "0.400 ±", "7 diverged", "all diverged")]
    assert places == sorted(places)
    lost = Finalists([3], again[3:], [], "too few")
    assert create_search_report(searched, told, lost, {}, {"versions": {}})["winner"] is None


@pytest.mark.parametrize(
    "trials, points", [(3, 3), (20, 8), (64, 8), (128, 8), (256, 16), (9999, 32), (None, 8)]
)
def test_a_batch_is_a_sixteenth_of_a_long_search(trials, points):
    assert Plan({}, trials=trials, hours=1.0).points == points
    assert Plan({}, trials=trials, hours=1.0, batch=5).points == 5


def test_points_that_score_the_same_but_one_have_an_importance(tmp_path):
    """As on few dev dialogues; a third of the repeats would hold equal scores alone."""
    trials = open_trials(tmp_path, "random", {"loss.gamma": Range(0.0, 3.0)})
    with trials.taking(12, None, None) as batch:
        for number in batch.points:
            trials.tell(number, 0.6 if number == 5 else 0.5, {"scores": [0.5]})
    assert trials.measure_importance(repeats=6) == {"loss.gamma": [1.0] * 6}


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"trials": None}, "say how long"),
        ({"sampler": "bayes"}, "has to be one of tpe, random, qmc, cmaes"),
        ({"seeds": 0}, "greater than 0"),
        ({"best_seeds": "8"}, "has to be a whole number"),
        ({"space": {}}, "every setting of it is fixed"),
        ({"space": {"model.hidden": [8, 7]}}, "model.hidden = 7: has to be a multiple"),
        ({"space": {"data.modalities": ["text", "smell"]}}, "smell"),
        ({"storage": "mysql+none://nowhere"}, "Optuna cannot open this study"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_refused(corpus, tmp_path, changes, reason):
    plan = Plan(SPACE, trials=4)._replace(**changes)
    with pytest.raises(UserError, match=reason):
        search(config(corpus), str(tmp_path / "search"), plan, HOW)


def test_a_search_does_not_go_on_with_features_that_it_did_not_begin_with(tmp_path):
    """The config reads text alone, so that its own corpus stays the same."""
    path, folder = str(tmp_path / "corpus.npz"), str(tmp_path / "search")
    before = simulate_corpus(create_process(), SimulatedSize(12, 4, 4, 4, 4), seed=0)
    write_npz(before, path)
    alone = config(path, **{"data.modalities": "text"})
    plan = Plan({"loss.gamma": Range(0.0, 3.0), "data.modalities": ["audio"]}, trials=2)

    def until_the_first_batch(line):
        if line.startswith("compiling"):
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            search(alone, folder, plan, Execution(progress=Progress(until_the_first_batch)))
    turned = {**before.features, "audio": before.features["audio"][::-1]}
    write_npz(dataclasses.replace(before, features=turned), path)
    with pytest.raises(UserError, match="points at data.modalities=audio were trained on another"):
        search(alone, folder, plan, HOW)
    write_npz(before, path)
    with pytest.raises(KeyboardInterrupt):
        search(alone, folder, plan, Execution(progress=Progress(until_the_first_batch)))


@pytest.mark.parametrize(
    "epochs, points, rungs",
    [
        (40, 16, [5, 10, 20]),
        (12, 8, [2, 3, 6]),
        (12, 4, [3, 6]),
        (12, 3, [6]),
        (12, 1, []),
        (2, 8, [1]),
        (1, 8, []),
    ],
)
def test_rungs(epochs, points, rungs):
    assert list_rungs(epochs, points) == rungs


@pytest.mark.parametrize("points, rungs, left", [(16, 3, 2), (13, 2, 4), (5, 0, 5), (1, 3, 1)])
def test_each_rung_halves_the_points(points, rungs, left):
    assert count_survivors(points, range(rungs)) == left


def test_the_better_half_goes_on():
    assert choose_better(np.asarray([0.2, 0.5, np.nan, 0.4])) == [1, 3]
    assert choose_better(np.asarray([np.nan, 0.1, np.nan])) == [0, 1]
    assert choose_better(np.asarray([0.3, 0.3, 0.3])) == [0, 1]


def test_a_survivor_of_a_rung_ends_as_it_would_have_alone(corpus, tmp_path):
    """Two of four members go on after a rung, in a program of half the width."""
    settings = config(corpus, **{"train.epochs": 5, "optim.learning_rate": 1e-2})
    prepared = prepare_members(settings, load_data(settings))
    points = [{"loss.gamma": gamma} for gamma in (0.0, 0.5, 2.0, 3.0)]
    members = [create_member(settings, point, 4) for point in points]
    wide, narrow = Fleet(prepared.program, 4), Fleet(prepared.program, 2)
    group = Group(prepared, settings, Stopper(print), QUIET)
    group.train(members, wide, tmp_path / "whole")
    with group.opening(members, wide, tmp_path / "r0", until=2) as training:
        state = training.execute()
    assert (state.joint.epoch == 2).all()
    scores = rung_scores(state, 4)
    lines = Workdir(tmp_path / "whole", create=False).read_metrics()
    dev = {(x["member"], x["epoch"]): (x["dev_weighted_f1"] + x["dev_macro_f1"]) / 2 for x in lines}
    best = [max(dev[member, 0], dev[member, 1]) for member in range(4)]
    np.testing.assert_allclose(scores, best, atol=1e-5)
    taken, rest = take_members(state, [1, 3], 4), [members[1], members[3]]
    with group.opening(rest, narrow, tmp_path / "r1", taken) as training:
        train_chunk(training)
    one, other = (Workdir(tmp_path / name, create=False) for name in ("whole", "r1"))
    for split in ("dev", "test"):
        alone = one.read_predictions()[f"{split}.probability"]
        np.testing.assert_allclose(
            other.read_predictions()[f"{split}.probability"], alone[[1, 3]], atol=1e-5
        )
        assert np.abs(alone[0] - alone[1]).max() > 1e-3
    kept = [line["epoch"] for line in one.read_report()["members"]]
    assert [line["epoch"] for line in other.read_report()["members"]] == [kept[1], kept[3]]
    # What it says of the first epochs is in the rung's own file.
    assert {line["epoch"] for line in other.read_metrics()} == {2, 3, 4}


def test_a_survivor_ends_as_alone_beside_one_whose_chunk_ended_before_the_rung(corpus, tmp_path):
    """Such a learning rate diverges, so that its chunk ends after one epoch of three."""
    settings = config(corpus, **{"train.epochs": 5})
    prepared = prepare_members(settings, load_data(settings))
    members = [create_member(settings, {"optim.learning_rate": r}, 4) for r in (1e30, 1e-2)]
    group, one = Group(prepared, settings, Stopper(print), QUIET), Fleet(prepared.program, 1)

    def train(own, fleet, name, initial=None, until=None):
        with group.opening(own, fleet, tmp_path / name, initial, until) as training:
            return training.execute()

    alone = train(members[1:], one, "alone")
    rung = [train([own], one, f"r0-{number}", until=3) for number, own in enumerate(members)]
    assert [int(state.joint.epoch[0]) for state in rung] == [1, 3]
    beside = train(members, Fleet(prepared.program, 2), "r1", join_chunks(rung))
    assert {x["epoch"] for x in Workdir(tmp_path / "r1", create=False).read_metrics()} == {3, 4}
    wanted, found = (jax.tree.leaves(own.joint.average) for own in (alone, beside))
    for first, second in zip(wanted, found, strict=True):
        np.testing.assert_allclose(second[1], first[0], atol=1e-5)


@pytest.mark.slow
def test_halving_finds_what_full_training_of_all_points_finds(corpus, tmp_path):
    space = {"optim.learning_rate": Range(1e-4, 5e-2, True)}
    settings = config(corpus, **{"train.epochs": 8})
    plan = Plan(space, trials=16, seeds=2, batch=8, best_seeds=1, sampler="random")
    whole = search(settings, str(tmp_path / "whole"), plan, HOW)
    said = []

    def until_the_second_rung(line):
        if line.startswith("after epoch 2"):
            raise KeyboardInterrupt

    how = Execution(progress=Progress(until_the_second_rung), pictures=False)
    plan = plan._replace(halving=True)
    with pytest.raises(KeyboardInterrupt):
        search(settings, str(tmp_path / "halved"), plan, how)
    # Whoever takes over may have been started without it.
    how, plan = how._replace(progress=Progress(said.append)), plan._replace(trials=8, halving=False)
    search(settings, str(tmp_path / "halved"), plan, how)
    plan = plan._replace(trials=16, halving=True)
    halved = search(settings, str(tmp_path / "halved"), plan, how)
    assert any(line.startswith("going on after 2 epochs") for line in said)
    assert [p["settings"] for p in halved["points"]] == [p["settings"] for p in whole["points"]]
    assert halved["stopped"] == 14 and halved["diverged"] == 0
    counted = collections.Counter(point["stopped"] for point in halved["points"])
    assert counted == {1: 8, 2: 4, 4: 2, None: 2}
    for own, other in zip(halved["points"], whole["points"]):
        if own["score"] is not None:
            assert own["score"] == pytest.approx(other["score"], abs=0.02)
    text = (tmp_path / "halved" / "search.md").read_text()
    assert "14 were stopped early, as the worse half of their batch" in text


def start_search(folder, corpus, space, environment, log):
    """The command, as a person starts it."""
    changes = TINY | NO_PARTS | {"train.epochs": 25, "train.patience": 25}
    changes |= {"train.checkpoint_seconds": 0}
    command = [sys.executable, "-m", "cberl_jax", "search", "--config=default", f"--data={corpus}"]
    command += [f"--config.{name}={value}" for name, value in changes.items()]
    command += [f"--workdir={folder}", f"--space={space}", f"--trials={COUNTED}", "--batch=3"]
    command += ["--seeds=1", "--best_seeds=1", "--nopictures", "--cpu_devices=1"]
    with log.open("w") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)


def wait_for_line(log, beginning, running):
    late = time.monotonic() + 240
    while not any(line.startswith(beginning) for line in log.read_text().splitlines()):
        assert time.monotonic() < late and running.poll() is None, log.read_text()
        time.sleep(0.05)


@pytest.mark.slow
def test_three_processes_share_a_search_and_one_is_killed_in_mid_batch(
    corpus, tmp_path, program_environment
):
    folder, space = tmp_path / "search", tmp_path / "space.py"
    space.write_text(
        'def get_space():\n    return {"loss.gamma": (0, 3), "optim.learning_rate": (1e-3, 1e-1, '
        '"log")}\n'
    )
    logs = [tmp_path / f"{number}.log" for number in range(3)]
    started = [start_search(folder, corpus, space, program_environment, log) for log in logs]
    try:
        wait_for_line(logs[0], "joint 3/", started[0])
        started[0].kill()
        codes = [running.wait(timeout=400) for running in started]
    finally:
        for running in started:
            running.kill()
    assert codes == [-signal.SIGKILL, 0, 0], [log.read_text()[-2000:] for log in logs]
    taken = [int(line.split()[1]) for line in logs[0].read_text().splitlines() if "one pro" in line]
    # What the killed one was at went on where it was, in another process.
    others = logs[1].read_text() + logs[2].read_text()
    assert f"points {taken[-1]} to" in others and "going on after" in others
    report = json.loads((folder / "search.json").read_text())
    numbers = [own["number"] for own in report["points"]]
    assert len(set(numbers)) == len(numbers) == COUNTED
    assert all(own["score"] is not None for own in report["points"])
    # Each point was told once: a line of the journal sets a state and a score.
    lines = [json.loads(line) for line in (folder / "search.journal").read_text().splitlines()]
    told = [line["trial_id"] for line in lines if line.get("values")]
    assert len(set(told)) == len(told) == COUNTED
    own = Trials(folder, read_space(space), name_study(read_space(space), 1), Sampling("tpe"))
    stored = {point.number: point.score for point in own.told()}
    assert stored == {point["number"]: point["score"] for point in report["points"]}
    assert [text.count("report: ") for text in (log.read_text() for log in logs)].count(1) == 1
    again = start_search(folder, corpus, space, program_environment, logs[0])
    assert again.wait(timeout=200) == 0
    assert json.loads((folder / "search.json").read_text())["points"] == report["points"]
