"""Nearest-neighbour measures by hand and on known distributions; densities under a known law."""

import numpy as np
import pytest

from cberl_jax.data.simulate import (
    SimulatedSize,
    create_process,
    log_likelihood,
    simulate_corpus,
)
from cberl_jax.data.standardize import fit_standardiser
from cberl_jax.evaluation.generated_quality import choose
from cberl_jax.evaluation.manifold import (
    FEWEST,
    distance_travelled,
    neighbourhood_measures,
    two_sample_accuracy,
)
from cberl_jax.evaluation.true_density import true_densities
from cberl_jax.training.gan_step import Utterances


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def test_neighbourhood_measures_by_hand():
    # Real points 0 to 9: the fifth neighbour is 5, 4, 3, 3, 3, 3, 3, 3, 4, 5 away.
    real = np.arange(10.0)[:, None]
    # Nine candidates at 0.5 lie in the balls of 0 to 3 (5, 4, 3, 3 >= 0.5, 0.5, 1.5, 2.5), and not
    # in that of 4 (3 < 3.5); one at 100 in none. Among themselves they have a radius of 0, but the
    # one at 100 has 99.5, so all real points but 0 lie in its ball.
    candidates = np.array([[0.5]] * 9 + [[100.0]])
    found = neighbourhood_measures(candidates, real, seed=0)
    # Density: 9 * 4 / (5 * 10).
    expected = {"precision": 0.9, "recall": 0.9, "density": 0.72, "coverage": 0.4}
    assert found == pytest.approx(expected)


def test_the_same_distribution_fills_itself():
    measures = [
        neighbourhood_measures(normal(k, 60, 4), normal(100 + k, 80, 4), seed=k) for k in range(20)
    ]
    density, coverage = (np.mean([m[n] for m in measures]) for n in ("density", "coverage"))
    assert density == pytest.approx(1.0, abs=0.1)
    # Naeem et al. 2020, equation 9: 1 - (N - 1) ... (N - k) / ((2N - 1) ... (2N - k)), N = 60.
    n = 60
    expected = 1 - np.prod([(n - i) / (2 * n - i) for i in range(1, 6)])
    assert coverage == pytest.approx(expected, abs=0.02)


def test_one_point_repeated_is_precise_and_covers_little():
    real = normal(0, 60, 4)
    found = neighbourhood_measures(0.01 * normal(1, 60, 4), real, seed=0)
    same = neighbourhood_measures(normal(1, 60, 4), real, seed=0)
    assert found["precision"] == 1.0 and found["recall"] < 0.1
    assert found["density"] > 1.4 * same["density"]
    far = neighbourhood_measures(real + 50.0, real, seed=0)
    assert far == {"precision": 0.0, "recall": 0.0, "density": 0.0, "coverage": 0.0}


def test_two_samples_are_told_apart_only_where_they_differ():
    same = [two_sample_accuracy(normal(k, 60, 4), normal(50 + k, 90, 4), k) for k in range(20)]
    assert np.mean(same) == pytest.approx(0.5, abs=0.05)
    assert two_sample_accuracy(normal(0, 60, 4), normal(1, 90, 4) + 4.0, 0) > 0.98


def test_distance_travelled_by_hand():
    # The class is twenty points at 0; held-out ones lie at 1, sources at 3: a way of 2.
    real, held_out = np.zeros((20, 1)), np.ones((20, 1))
    sources = np.full((20, 1), 3.0)
    sources[0] = 4.0
    sources[1] = 2.0
    made = np.repeat([[3.0], [2.0], [1.0], [0.0]], 5, axis=0)
    made[0], made[1] = 4.0, 0.0
    found = distance_travelled(made, sources, real, held_out)
    expected = np.repeat([0.0, 0.5, 1.0, 1.5], 5)
    # From 4 to 4 and from 2 to 0.
    expected[0], expected[1] = 0.0, 1.0
    np.testing.assert_allclose(found, expected)
    # Sources as near as held-out points: there is no way to go.
    assert distance_travelled(made, held_out, real, held_out) is None


def test_too_few_points_have_no_measures():
    few, enough = normal(0, FEWEST - 1, 3), normal(1, 40, 3)
    for pair in ((few, enough), (enough, few)):
        assert neighbourhood_measures(*pair, 0) is None
        assert two_sample_accuracy(*pair, 0) is None
    assert distance_travelled(few, few, enough, enough) is None
    assert distance_travelled(enough, enough, enough, few) is None


@pytest.fixture(scope="module")
def simulated():
    """A simulated corpus, its standardiser and its standardised utterances of class 1."""
    corpus = simulate_corpus(create_process(), SimulatedSize(60, 20, 4), seed=0, name="small")
    standardiser = fit_standardiser(corpus)
    features = standardiser(corpus.features, corpus.present)
    own = choose(Utterances(features, corpus.present, corpus.label), corpus.label == 1)
    return corpus, standardiser, own


def test_densities_are_those_of_the_raw_features_of_whole_utterances(simulated):
    corpus, standardiser, own = simulated
    shifted = own._replace(features={m: x + 3.0 for m, x in own.features.items()})
    groups = {"real": own, "shifted": shifted}
    found = true_densities(groups, 1, corpus.source, standardiser)
    whole = np.all(list(corpus.present.values()), axis=0) & (corpus.label == 1)
    assert 5 < whole.sum() < (corpus.label == 1).sum()
    evidence = log_likelihood(create_process(), corpus.features, corpus.present)[whole]
    assert found["real"]["log_density"] == pytest.approx(evidence[:, 1].mean(), abs=1e-3)
    prior = np.log(create_process().base_rate)
    share = np.mean((evidence + prior).argmax(axis=1) == 1)
    assert found["real"]["bayes"] == pytest.approx(share)
    assert found["shifted"]["log_density"] < found["real"]["log_density"] - 10


def test_without_a_known_law_there_is_no_density(simulated):
    corpus, standardiser, own = simulated
    groups = {"real": own}
    assert true_densities(groups, 1, "meld.npz", standardiser) is None
    assert true_densities(groups, 1, corpus.source, fit_standardiser(corpus, 3)) is None
    none = {"real": own, "generated": choose(own, own.label < 0)}
    assert true_densities(none, 1, corpus.source, standardiser) is None
