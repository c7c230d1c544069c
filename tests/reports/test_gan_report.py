"""The report on generated utterances: measures by hand, known distributions, a run, mistakes."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib.image import imread
from tiny import QUIET, tiny_config

from cberl_jax.data.bayes import best_possible
from cberl_jax.data.gate import (
    COMPONENTS,
    FEWEST,
    Moments,
    fit_moments,
    fit_subspace,
    frechet_distance,
)
from cberl_jax.data.readers.npz import write_npz
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.errors import UserError
from cberl_jax.evaluation import generated_quality as quality
from cberl_jax.evaluation.gan_measures import create_gan_report
from cberl_jax.evaluation.generated import create_samples
from cberl_jax.reports.gan import format_gan_report
from cberl_jax.reports.plots.generated import draw_utterances
from cberl_jax.runtime.checkpoints import open_checkpoints
from cberl_jax.serving.restore import restore_run
from cberl_jax.studies.gan_report import gan_report, read_run
from cberl_jax.studies.train import train_and_evaluate
from cberl_jax.training.epoch import create_state
from cberl_jax.training.gan_step import Utterances
from cberl_jax.training.prepare import list_members, prepare

ROOT = Path(__file__).parents[2]
# The joint model plays no part in the report.
BARE = {f"model.{part}": False for part in ("djvae", "bilstm", "graph", "reconstruction")}
NO_PICTURE = {"picture": None}
FILES = {"gan_report.json", "gan_report.md", "gan_report.png"}


def utterances(label, present=None, **features):
    """A record from lists; all modalities are there unless ``present`` says otherwise."""
    label = np.asarray(label)
    present = {m: np.ones(len(label), bool) for m in features} | (present or {})
    return Utterances({m: np.asarray(x, np.float32) for m, x in features.items()}, present, label)


def points(values, label=None):
    return utterances(np.zeros(len(values), int) if label is None else label, text=values)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


# Fréchet distance


def test_the_frechet_distance_of_diagonal_gaussians_by_hand():
    # |(1, 2)|^2 = 5; sum of (sigma_1 - sigma_2)^2 = (1 - 3)^2 + (2 - 2)^2 = 4.
    first = Moments(np.array([1.0, 2.0]), np.diag([1.0, 4.0]))
    second = Moments(np.zeros(2), np.diag([9.0, 4.0]))
    assert frechet_distance(first, second) == pytest.approx(9.0)
    assert frechet_distance(first, first) == pytest.approx(0.0, abs=1e-12)


def test_the_frechet_distance_of_gaussians_that_do_not_commute():
    # In two dimensions Tr((AB)^1/2) = sqrt(Tr(AB) + 2 sqrt(det(AB))). Here AB has trace
    # 2 * 1 + 1 * 3 + 2 * 0.5 * 0.5 = 5.5 and determinant 1.75 * 2.75.
    first = Moments(np.zeros(2), np.array([[2.0, 0.5], [0.5, 1.0]]))
    second = Moments(np.zeros(2), np.array([[1.0, 0.5], [0.5, 3.0]]))
    expected = 7.0 - 2 * np.sqrt(5.5 + 2 * np.sqrt(1.75 * 2.75))
    assert frechet_distance(first, second) == pytest.approx(expected)
    assert frechet_distance(second, first) == pytest.approx(expected)


def test_a_flat_gaussian_has_a_distance():
    flat = Moments(np.zeros(2), np.diag([1.0, 0.0]))
    assert frechet_distance(flat, Moments(np.zeros(2), np.diag([1.0, 4.0]))) == pytest.approx(4.0)


def test_the_distance_of_samples_comes_near_that_of_their_distributions():
    # Means 2 apart; deviations 1 and 3 on the first axis, 1 and 1 on the second: 4 + 4.
    near = normal(0, 200_000, 2)
    far = normal(1, 200_000, 2) * [3.0, 1.0] + [2.0, 0.0]
    assert frechet_distance(*map(fit_moments, (near, far))) == pytest.approx(8.0, rel=0.02)


def test_groups_are_compared_at_equal_sizes_in_a_subspace_that_few_utterances_allow():
    groups = {"same": normal(0, 400, 30), "shifted": normal(1, 60, 30) + 1.0}
    held_out = normal(2, 11, 30)
    sizes = quality.plan_comparison(groups, held_out)
    assert sizes == (60, 11, 5)
    assert quality.plan_comparison(groups, normal(2, 200, 30)) == (60, 200, COMPONENTS)
    assert quality.plan_comparison(groups, normal(2, 200, 30)[:, :3])[2] == 3
    assert quality.plan_comparison(groups, held_out[: FEWEST - 1]) is None
    assert quality.plan_comparison(groups | {"few": normal(3, FEWEST - 1, 30)}, held_out) is None

    # The shift is the first principal axis of both groups together.
    subspace = fit_subspace(np.concatenate(list(groups.values())))
    found = quality.frechet_distances(groups, held_out, subspace, sizes, seed=0)
    # |(1, ..., 1)|^2 = 30, but for the noise of eleven points.
    assert found["same"] < 10 < 20 < found["shifted"]


def test_as_many_utterances_of_the_same_distribution_are_as_far():
    distances = []
    for seed in range(20):
        groups = {"generated": normal(seed, 80, 6), "real": normal(100 + seed, 300, 6)}
        held_out = normal(200 + seed, 30, 6)
        sizes = quality.plan_comparison(groups, held_out)
        subspace = fit_subspace(groups["real"])
        distances.append(quality.frechet_distances(groups, held_out, subspace, sizes, seed))
    generated, real = (np.mean([d[kind] for d in distances]) for kind in ("generated", "real"))
    assert generated == pytest.approx(real, rel=0.15)


# Copies


def test_copies_are_memorised_and_what_lies_far_away_is_not():
    real = points(normal(0, 50, 8))
    assert quality.memorised(real, real) == 1.0
    assert quality.memorised(points(real.features["text"] + 1e-4), real) == 1.0
    assert quality.memorised(points(real.features["text"] + 20.0), real) == 0.0


def test_memorised_by_hand():
    # Nearest neighbours of 0, 1, 3, 7 and 15 are 1, 1, 2, 4 and 8 away.
    real = points([[0.0], [1.0], [3.0], [7.0], [15.0]])
    # Of these the nearest are 7 (2 < 4), 3 (1.5 < 2), 0 (5 > 1), 15 (8 = 8) and 1 (0.4 < 1).
    candidates = points([[9.0], [4.5], [-5.0], [23.0], [1.4]])
    assert quality.memorised(candidates, real) == pytest.approx(4 / 5)


@pytest.mark.parametrize("width, expected", [(1, 0.67), (5, 0.47), (50, 0.24)])
def test_fresh_draws_are_memorised_as_often_as_chance_has_it(width, expected):
    shares = [
        quality.memorised(
            points(normal(2 * seed, 200, width)), points(normal(2 * seed + 1, 270, width))
        )
        for seed in range(12)
    ]
    assert np.mean(shares) == pytest.approx(expected, abs=0.04)


def test_only_whole_utterances_are_looked_at_for_copies():
    real = points(normal(0, 20, 3))
    lacking = np.arange(20) < 20 - FEWEST
    mixed = real._replace(
        features={"text": np.where(lacking[:, None], 50.0, real.features["text"])},
        present={"text": ~lacking},
    )
    assert quality.memorised(mixed, real) == 1.0
    lacking[-1] = True
    fewer = mixed._replace(present={"text": ~lacking})
    assert quality.memorised(fewer, real) is None
    assert quality.memorised(real, fewer) is None


def test_unmoved_by_hand():
    train = points([[0.0], [4.0], [10.0], [10.0], [20.0]], [0, 1, 0, 0, 1])
    sources = quality.choose(train, [0, 0, 0, 2, 3, 2])
    # Half way to the next is a tie that counts; beyond, the next is nearer. Of two that are alike
    # either may be the source.
    made = points([[1.0], [2.0], [2.1], [8.0], [14.9], [6.9]])
    assert quality.unmoved(made, sources, train) == pytest.approx(4 / 6)
    assert quality.unmoved(sources, sources, train) == 1.0
    few = np.arange(FEWEST - 1)
    assert quality.unmoved(*(quality.choose(x, few) for x in (made, sources)), train) is None


# Classifiers


def corpus_of(seed, counts, width=5):
    """Classes whose means are one apart on an axis of their own."""
    label = np.repeat(np.arange(len(counts)), counts)
    values = normal(seed, len(label), width) + 1.5 * np.eye(width)[label]
    return points(values, label)


def minority_scores(train, generated, sources):
    """Scores of every training set on fresh utterances; classes 1 and 2 are generated."""
    held_out, names = corpus_of(7, (200, 200, 200)), ("common", "rare", "rarer")
    sets = quality.train_sets(train, sources, generated, seed=3)
    return {
        name: quality.score_classifier(quality.fit_classifier(own), held_out, names, [1, 2])
        for name, own in sets.items()
    }


def test_real_utterances_that_pass_for_generated_are_as_good_as_real_ones():
    train = corpus_of(0, (300, 40, 30))
    rare = quality.choose(train, train.label > 0)
    scores = minority_scores(train, rare, corpus_of(1, (0, 40, 30)))
    assert scores["generated"] == scores["real"]
    # All classes weigh the same, so that every minority utterance twice is as good as once, but for
    # the penalty.
    twice = scores["real_and_generated"]["macro_f1"]
    assert twice == pytest.approx(scores["real"]["macro_f1"], abs=0.01)


def test_bad_generated_utterances_are_worse_than_fresh_ones():
    train = corpus_of(0, (300, 40, 30))
    noise = points(normal(1, 200, 5), np.repeat([1, 2], 100))
    fresh = quality.choose(found := corpus_of(2, (300, 100, 100)), found.label > 0)
    scores = minority_scores(train, generated=fresh, sources=noise)
    assert scores["sources"]["minority_f1"] < scores["generated"]["minority_f1"] - 0.1
    assert scores["generated"]["minority_f1"] == pytest.approx(
        scores["real"]["minority_f1"], abs=0.08
    )


def test_training_sets_hold_equally_many_of_each_class():
    train = corpus_of(0, (300, 40, 30))
    generated = points(np.full((130, 5), 9.0), np.repeat([1, 2], [10, 120]))
    sources = points(np.full((130, 5), 8.0), generated.label)
    sets = quality.train_sets(train, sources, generated, seed=0)
    counts = {name: np.bincount(own.label).tolist() for name, own in sets.items()}
    equal = [300, 10, 30]
    assert counts == {
        "real": equal, "generated": equal, "sources": equal, "real_and_generated": [300, 50, 150],
    }  # fmt: skip
    for name, value in (("generated", 9.0), ("sources", 8.0)):
        own = sets[name]
        assert np.all((own.features["text"] == value).all(axis=1) == (own.label > 0))
    assert not np.any(sets["real"].features["text"] == 9.0)
    # Which of the real ones is a matter of the seed.
    other = quality.train_sets(train, sources, generated, seed=1)
    assert np.any(other["real"].features["text"] != sets["real"].features["text"])


def test_scores_by_hand():
    classifier = quality.fit_classifier(points([[-1.0], [-1.0], [1.0], [1.0]], [0, 0, 1, 1]))
    # Of class 0 one in six is missed, of class 1 none: F1 2 * 5 / (2 * 5 + 1) and 12 / 13.
    held_out = points([[-2.0]] * 5 + [[2.0]] * 7, [0] * 6 + [1] * 6)
    names = ("calm", "fear", "joy")
    found = quality.score_classifier(classifier, held_out, names, [1, 2])
    assert found["f1"] == {"fear": pytest.approx(12 / 13), "joy": None}
    assert found["minority_f1"] == pytest.approx(12 / 13)
    assert found["macro_f1"] == pytest.approx((10 / 11 + 12 / 13) / 2)
    few = quality.choose(held_out, np.arange(6 + FEWEST - 1))
    found = quality.score_classifier(classifier, few, names, [1, 2])
    assert found["f1"]["fear"] is None and found["minority_f1"] is None


def test_agreement_by_hand():
    predicted = np.array([1, 1, 0, 1, 1, 1, 2, 2])
    label = np.array([1, 1, 1, 1, 1, 0, 2, 2])
    assert quality.agreement(predicted, label, 1) == pytest.approx(4 / 5)
    assert quality.agreement(predicted, label, 2) is None


def test_no_utterances_are_taken_for_no_class():
    classifier = quality.fit_classifier(points([[-1.0], [1.0]], [0, 1]))
    assert quality.predict_classes(classifier, points(np.zeros((0, 1)))).shape == (0,)


def test_modalities_are_joined_by_name():
    found = quality.vectors(utterances([0], text=[[1.0, 2.0]], audio=[[3.0]]))
    np.testing.assert_array_equal(found, [[3.0, 1.0, 2.0]])


# The picture


@pytest.mark.parametrize("count, width, method", [(120, 6, "t-SNE"), (40, 6, "PCA"), (3, 1, "PCA")])
def test_clusters_stay_apart_in_the_plane(count, width, method):
    values = normal(0, count, width) * 0.1
    values[: count // 2] += 10.0
    found, name = quality.project(values)
    assert found.shape == (count, 2) and name == method
    centres = found[: count // 2].mean(axis=0), found[count // 2 :].mean(axis=0)
    gaps = np.linalg.norm(found[:, None] - np.stack(centres), axis=-1)
    assert np.all(gaps.argmin(axis=1) == (np.arange(count) >= count // 2))


def test_few_points_are_shown_as_far_apart_as_they_are():
    found, name = quality.project(np.outer(np.arange(6.0), [3.0, 4.0, 0.0]))
    assert name == "PCA"
    # On a line, 5 a step.
    np.testing.assert_allclose(np.abs(np.diff(found[:, 0])), 5)
    np.testing.assert_allclose(found[:, 1], 0, atol=1e-9)
    for alike in (0.0, 1e-9 * np.arange(120)[:, None]):
        found, name = quality.project(np.ones((120, 3)) + alike)
        assert name == "PCA" and np.abs(found).max() < 1e-6


def pixels(image, colour):
    """Rows and columns of the pixels in a colour, below the legend."""
    same = np.abs(image[150:, :, :3] * 255 - colour).max(axis=-1) <= 1.0
    return np.nonzero(same)


def test_the_picture_has_a_panel_per_class_and_all_kinds_can_be_told_apart(tmp_path):
    kinds = ("sources", "real", "generated")
    # Sources left, generated right, real ones above both.
    clouds = {k: normal(0, 9, 2) * 0.5 + at for k, at in zip(kinds, ([-9, 0], [0, 9], [9, 0]))}
    shapes = []
    for panels in (1, 3, 4):
        path = tmp_path / f"{panels}.png"
        draw_utterances(path, [("fear $^{2}$ (PCA)", clouds)] * panels)
        image = imread(path)
        shapes.append(image.shape[:2])
        sources, real, generated = (
            pixels(image, colour) for colour in ((187, 187, 187), (0, 114, 178), (213, 94, 0))
        )
        assert min(len(x[0]) for x in (sources, real, generated)) > 100 * panels
        if panels == 1:
            assert sources[1].mean() < real[1].mean() < generated[1].mean()
            assert real[0].mean() < min(sources[0].mean(), generated[0].mean())
    heights, widths = zip(*shapes)
    assert heights[0] == heights[1] < heights[2] and widths[0] < widths[1] == widths[2]


def test_the_picture_shows_how_far_each_utterance_has_travelled(tmp_path):
    clouds = {kind: normal(0, 9, 2) for kind in ("sources", "real", "generated")}
    orange, areas = (230, 159, 0), []
    for travelled in (np.full(50, 0.05), np.full(50, 1.05)):
        path = tmp_path / "travelled.png"
        draw_utterances(path, [("fear", clouds | {"travelled": travelled})])
        rows, columns = pixels(imread(path), orange)
        assert len(rows) > 100
        areas.append(columns.mean())
    # Those that have arrived stand to the right of those that have not left.
    assert areas[0] < areas[1] - 50
    draw_utterances(path, [("fear", clouds)])
    assert not len(pixels(imread(path), orange)[0])


# A run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of two seeds, on a corpus with few utterances of the rarest classes."""
    folder = tmp_path_factory.mktemp("generated")
    write_npz(
        simulate_corpus(create_process(), SimulatedSize(80, 30, 30, 8, 8), seed=3),
        folder / "corpus.npz",
    )
    settings = {"data.path": str(folder / "corpus.npz"), "data.modalities": "text,visual"}
    settings |= {"gan.epochs": 1, "gan.steps": 2, "gan.hidden": 8, "augment.balance": 0.22}
    settings |= {"train.epochs": 1}
    config = tiny_config(**settings, **BARE)
    train_and_evaluate(config, str(folder / "run"), [3, 5], QUIET, pictures=False)
    return folder / "run"


@pytest.fixture(scope="module")
def reported(finished):
    return gan_report(finished)


def changed(finished, path, change, **config):
    """A copy of the run with other states in its newest checkpoint, and other settings."""
    shutil.copytree(finished, path, ignore=shutil.ignore_patterns("gan_report*"))
    run = restore_run(path)
    with open_checkpoints(path / "checkpoints") as checkpoints:
        checkpoints.save(checkpoints.latest + 1, change(run.state), run.standardiser)
    stored = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(stored | config))
    return path


def test_generated_utterances_are_those_that_training_places(finished):
    samples, run = read_run(finished), restore_run(finished)
    data = prepare(run.config, run.corpus).data
    assert [m.seed for m in samples.members] == [3, 5]
    np.testing.assert_array_equal(samples.minority, np.flatnonzero(run.generated))
    for member in samples.members:
        made = member.generated
        np.testing.assert_array_equal(made.label, run.corpus.label[data.place])
        assert set(member.taken_for) <= set(range(7))
        assert len(member.dev_taken_for) == len(samples.real["dev"].label)
        for modality, values in made.features.items():
            there = data.table.present[modality][data.sources[:, 0]]
            np.testing.assert_array_equal(made.present[modality], there)
            assert not values[~there].any()
            source = data.table.features[modality][data.sources[:, 0]]
            assert np.abs(values - source)[there].max(axis=1).min() > 1e-5
    first, second = (m.generated.features["text"] for m in samples.members)
    assert np.abs(first - second).max() > 0.01
    for split, own in samples.real.items():
        counts = np.bincount(own.label, minlength=7)
        np.testing.assert_array_equal(counts, run.corpus.class_counts(split))


def test_features_are_standardised_with_the_runs_own_statistics(finished):
    samples, run = read_run(finished), restore_run(finished)
    train = run.corpus.in_split("train") & run.corpus.present["text"]
    raw = run.corpus.features["text"][train]
    expected = (raw - raw.mean(axis=0)) / raw.std(axis=0)
    np.testing.assert_allclose(samples.real["train"].features["text"], expected, atol=1e-4)


def test_the_report_has_every_measure_of_every_class(finished, reported):
    counts = reported["real"]["counts"]
    assert list(counts) == reported["minority"] and len(counts) > 1
    for name, own in counts.items():
        assert set(own) == {"train", "dev", "test", "generated"} and own["generated"] > 0
        few = own["dev"] < FEWEST
        scores = reported["generated"]["utility"]["generated"]["dev"]
        assert (scores["f1"][name] is None) == few
        assert (reported["generated"]["agreement"][name]["gan_dev"] is None) == few
        assert (reported["generated"]["frechet"][name]["text"] is None) == (
            few or own["generated"] < FEWEST
        )
    # Both happen here, or there would be nothing to see.
    assert {own["dev"] < FEWEST for own in counts.values()} == {True, False}
    assert set(reported["generated"]["utility"]) == {
        *("real", "generated", "sources", "real_and_generated"),
    }


def leaves(tree):
    """Path -> value of a nested dict, down to its summaries."""
    return {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(
            tree, is_leaf=lambda x: x is None or isinstance(x, dict) and set(x) >= {"mean", "ci95"}
        )
    }


def test_summaries_are_those_of_the_members(reported):
    members = [leaves(m["measures"]) for m in reported["members"]]
    summary = leaves(reported["generated"])
    assert set(summary) == set(members[0]) == set(members[1]) and len(summary) > 20
    for name, found in summary.items():
        values = [own[name] for own in members]
        if found is None:
            assert values == [None, None]
        else:
            assert found["mean"] == pytest.approx(np.mean(values))
            # Two values deviate by their difference over the root of 2, and have no interval.
            deviation = abs(values[0] - values[1]) / np.sqrt(2)
            assert found["std"] == pytest.approx(deviation, rel=1e-4, abs=1e-9)
            assert found["ci95"] is None


def test_files_hold_the_report_and_the_picture_is_one(finished, reported):
    assert FILES < {path.name for path in finished.iterdir()}
    assert json.loads((finished / "gan_report.json").read_text()) == reported
    text = (finished / "gan_report.md").read_text()
    assert text == format_gan_report(reported)
    assert imread(finished / "gan_report.png").std() > 0.02
    for name in reported["minority"]:
        assert len(re.findall(rf"^\| {name} ", text, re.MULTILINE)) == 5 + 3
    assert "2 of 2 seeds" in text and "`gan_report.png`: utterances of seed 3" in text
    assert " nan" not in text.lower()


def test_a_simulated_corpus_has_its_exact_bayes_result_in_the_report(finished, reported):
    samples = read_run(finished)
    # As it was before a file was made of it.
    corpus = dataclasses.replace(samples.corpus, source="simulated:small")
    report = create_gan_report(samples._replace(corpus=corpus))
    assert report["bayes"] == best_possible(corpus) is not None
    densities = report["generated"].pop("true_density")
    assert set(reported["generated"]["true_density"].values()) == {None}
    rest = {n: own for n, own in reported["generated"].items() if n != "true_density"}
    assert report["generated"] == rest
    # The exact rule assigns more real utterances to their class than sources, which are of others.
    shares = {
        kind: np.mean([own[kind]["bayes"]["mean"] for own in densities.values()])
        for kind in ("real", "sources")
    }
    assert shares["real"] > shares["sources"]
    generated = rest | {"true_density": densities}
    text = format_gan_report(report | {"generated": generated, **NO_PICTURE})
    assert "exact mean log density" in text and "exact mean" not in format_gan_report(reported)


def test_a_flow_is_measured_as_a_gan_is():
    corpus = simulate_corpus(create_process(), SimulatedSize(60, 30, 30, 8, 8), seed=3)
    config = tiny_config(**{"augment.method": "flow", "data.modalities": "text"}, **BARE)
    ready, members = prepare(config, corpus), list_members(config, [3])
    hyper = {name: values[0] for name, values in members.hyper.items()}
    one = create_state(ready.program, 3, hyper)
    state = jax.tree.map(lambda leaf: np.asarray(leaf)[None], one)
    samples = create_samples(corpus, ready.data, ready.program, state, [0], ready.standardiser)
    report = create_gan_report(samples) | NO_PICTURE
    shares = report["generated"]["agreement"].values()
    assert {own["gan"] for own in shares} == {None}
    assert any(own["independent"] is not None for own in shares)
    assert format_gan_report(report).startswith("# Generated utterances")


def test_a_table_shows_what_the_report_says(reported):
    text = format_gan_report(reported)
    shares = {n: x["gan_dev"] for n, x in reported["generated"]["agreement"].items()}
    # Some classes have fewer than five dev utterances.
    assert {share is None for share in shares.values()} == {True, False}
    for name, share in shares.items():
        row = re.findall(rf"^\| {name} .*$", text, re.MULTILINE)[-1]
        cell = row.split("|")[5].strip()
        assert cell == "-" if share is None else cell.startswith(f"{share['mean']:.3f}")
    assert "Bayes" not in text and reported["bayes"] is None
    views = {"context_free": {"balanced_accuracy": 0.41}, "full": {"balanced_accuracy": 0.72}}
    told = format_gan_report(reported | {"bayes": views})
    assert "accuracy 0.410 from single utterances, 0.720 from whole conversations" in told
    whole = reported["real"]["utility"]["test"]["macro_f1"]
    row = next(line for line in text.splitlines() if line.startswith("| all real  "))
    assert row.split("|")[5].strip() == f"{whole:.3f}"


def test_a_class_name_shifts_no_figure_into_another_column(reported):
    name = reported["minority"][0]
    odd = json.loads(json.dumps(reported).replace(json.dumps(name), json.dumps("a | b")))
    found, wanted = (
        [re.findall(r"(?<!\\)\|", line) for line in format_gan_report(report).splitlines()]
        for report in (odd, reported)
    )
    assert found == wanted
    assert r"Generated utterances of a\*b\*:" in format_gan_report(odd | {"corpus": "a*b*"})


def test_a_generator_that_changes_nothing_is_found_out(finished, tmp_path):
    def identity(state):
        still = jax.tree.map(np.zeros_like, state.gan.best)
        return state.replace(gan=state.gan.replace(best=still))

    report = gan_report(changed(finished, tmp_path / "identity", identity))
    found = report["generated"]
    assert found["utility"]["generated"] == found["utility"]["sources"]
    compared = [d for own in found["frechet"].values() for d in own.values() if d is not None]
    assert compared
    for distances in compared:
        assert distances["generated"] == distances["sources"]
    assert {share["mean"] for share in found["unmoved"].values() if share} == {1.0}
    # It is not what trained generators do.
    assert found["utility"]["generated"] != found["utility"]["real"]


def test_a_diverged_member_is_named_and_left_out(finished, reported, tmp_path):
    def lose_first(state):
        diverged = np.array([0, -1], np.int32)
        return state.replace(joint=state.joint.replace(diverged=diverged))

    report = gan_report(changed(finished, tmp_path / "one", lose_first))
    assert [(m["seed"], m["status"]) for m in report["members"]] == [(3, "diverged"), (5, "ok")]
    assert report["members"][0]["measures"] is None
    assert report["members"][1] == reported["members"][1]
    text = format_gan_report(report)
    assert "1 of 2 seeds" in text and "Diverged and left out: seed 3." in text
    assert "utterances of seed 5" in text
    # One member has no interval.
    assert not re.search(r"\d \[", text)


def lose_all(state):
    return state.replace(joint=state.joint.replace(diverged=np.zeros(2, np.int32)))


def lose_gan(state):
    return state.replace(gan=None)


@pytest.mark.parametrize(
    "change, config, message",
    [
        (lose_all, {}, "all members of this run have diverged"),
        (lose_gan, {"generated": [0] * 7}, "this run has no GAN"),
    ],
)
def test_a_run_without_generated_utterances_is_refused(finished, tmp_path, change, config, message):
    path = changed(finished, tmp_path / "run", change, **config)
    before = {file.name for file in path.iterdir()}
    with pytest.raises(UserError, match=message):
        gan_report(path)
    assert {file.name for file in path.iterdir()} == before


def test_an_unfinished_run_and_another_corpus_are_refused(finished, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(finished, path, ignore=shutil.ignore_patterns("gan_report*"))
    other = tmp_path / "other.npz"
    write_npz(simulate_corpus(create_process(), SimulatedSize(24, 6, 6, 6, 8), seed=1), other)
    with pytest.raises(UserError, match="other.npz: is not the corpus that this run"):
        gan_report(path, str(other))
    (path / "report.json").unlink()
    with pytest.raises(UserError, match="not finished"):
        gan_report(path)
    with pytest.raises(UserError, match="holds no run"):
        gan_report(tmp_path)
    assert not FILES & {file.name for file in path.iterdir()}


def start(environment, *arguments):
    command = [sys.executable, str(ROOT / "experiments" / "gan_report.py"), *arguments]
    return subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_the_program_prints_and_writes_the_report(finished, program_environment, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(finished, path, ignore=shutil.ignore_patterns("gan_report*"))
    # The corpus may have moved since.
    corpus = shutil.copy(finished.parent / "corpus.npz", tmp_path / "moved.npz")
    done = start(program_environment, f"--workdir={path}", f"--data={corpus}")
    assert done.returncode == 0, done.stderr
    written = path / "gan_report.md"
    assert done.stdout == f"{written.read_text()}\nreport: {written}\n"
    assert FILES < {file.name for file in path.iterdir()}
    assert "Warning" not in done.stderr


def test_the_program_refuses_with_one_sentence_and_status_2(program_environment, tmp_path):
    done = start(program_environment, f"--workdir={tmp_path}")
    assert done.returncode == 2 and "holds no run" in done.stderr
    assert done.stderr.count("\n") == 1 and not any(tmp_path.iterdir())
