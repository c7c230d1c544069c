"""The simulated corpus follows its stated law, and is the same however it is drawn."""

import itertools

import numpy as np
import pytest

from cberl_jax.data import simulate
from cberl_jax.errors import UserError

TINY = simulate.SimulatedSize(train=20, dev=5, test=10, mean_length=6.0, max_length=12)


def assert_same_corpus(one, other):
    for name in ("dialogue", "split", "length", "speaker", "label"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for modality in one.modalities:
        np.testing.assert_array_equal(one.features[modality], other.features[modality])
        np.testing.assert_array_equal(one.present[modality], other.present[modality])


def standard_errors(frequency, probability, effective):
    return (frequency - probability) / np.sqrt(probability * (1 - probability) / effective)


def test_named_size_has_the_corpus_layout():
    corpus = simulate.simulate("small", seed=3)
    assert corpus.source == "simulated:small"
    assert corpus.widths == {"text": 24, "audio": 12, "visual": 12}
    assert corpus.classes == simulate.MELD_CLASSES
    splits, counts = np.unique(corpus.split, return_counts=True)
    assert dict(zip(splits, counts)) == {"train": 240, "dev": 60, "test": 120}
    assert len(set(corpus.dialogue)) == len(corpus.dialogue)
    num_utterances = corpus.length.sum()
    assert corpus.length.min() >= 1
    assert corpus.label.shape == corpus.speaker.shape == (num_utterances,)
    for modality, features in corpus.features.items():
        assert features.dtype == np.float32
        assert features.shape == (num_utterances, corpus.widths[modality])
        np.testing.assert_array_equal(corpus.present[modality], np.any(features != 0, axis=1))


def test_absence_follows_the_missing_rate():
    corpus = simulate.simulate("small")
    assert corpus.present["text"].all()
    for modality, rate in (("audio", 0.05), ("visual", 0.1)):
        absent = ~corpus.present[modality]
        assert abs(standard_errors(absent.mean(), rate, len(absent))) < 4


def test_unknown_size_names_the_known_ones():
    with pytest.raises(UserError, match="'medium'.*small, meld, huge"):
        simulate.simulate("medium")


def test_negative_seed_is_refused():
    with pytest.raises(UserError, match="at least 0"):
        simulate.simulate_corpus(simulate.create_process(), TINY, seed=-1)


@pytest.mark.parametrize("inertia, contagion", [(-0.1, 0.2), (0.7, 0.4)])
def test_impossible_law_is_refused(inertia, contagion):
    with pytest.raises(UserError, match="add up to at most 1"):
        simulate.create_process(inertia, contagion)


@pytest.mark.parametrize("base_rate", [(1.0, 0.0), (0.6, 0.6)])
def test_impossible_base_rate_is_refused(base_rate):
    with pytest.raises(UserError, match="must be above 0 and add up to 1"):
        simulate.Process(("a", "b"), np.array(base_rate), 0.5, 0.3, {})


def test_impossible_length_is_refused():
    with pytest.raises(UserError, match="between 1 and"):
        simulate.SimulatedSize(1, 1, 1, mean_length=13, max_length=12)


def test_empty_corpus_is_refused():
    with pytest.raises(UserError, match="at least one dialogue"):
        simulate.stack_dialogues(simulate.create_process(), [])


def test_seed_determines_the_corpus():
    process = simulate.create_process()
    one, same, other = (simulate.simulate_corpus(process, TINY, seed) for seed in (5, 5, 6))
    assert_same_corpus(one, same)
    assert not np.array_equal(one.features["text"][:5], other.features["text"][:5])


def test_law_is_shared_by_seeds_and_changed_by_the_law_seed():
    first, second, other = (simulate.create_process(law_seed=s) for s in (0, 0, 1))
    for modality, emission in first.emissions.items():
        np.testing.assert_array_equal(emission.centres, second.emissions[modality].centres)
        assert not np.allclose(emission.centres, other.emissions[modality].centres)


@pytest.mark.parametrize("block", [1, 7, 100])
def test_blocks_of_the_lazy_stream_are_the_materialised_corpus(block):
    process = simulate.create_process()
    whole = simulate.simulate_corpus(process, TINY, seed=2)
    stream = simulate.iter_dialogues(process, TINY, seed=2)
    blocks = []
    while taken := list(itertools.islice(stream, block)):
        blocks.append(simulate.stack_dialogues(process, taken))
    np.testing.assert_array_equal(np.concatenate([b.label for b in blocks]), whole.label)
    np.testing.assert_array_equal(np.concatenate([b.length for b in blocks]), whole.length)
    features = np.concatenate([b.features["visual"] for b in blocks])
    np.testing.assert_array_equal(features, whole.features["visual"])


def test_a_larger_train_split_keeps_its_beginning_and_the_test_split():
    process = simulate.create_process()
    larger = simulate.SimulatedSize(40, 5, 10, TINY.mean_length, TINY.max_length)
    small = simulate.simulate_corpus(process, TINY)
    large = simulate.simulate_corpus(process, larger)
    shared = np.isin(large.dialogue, small.dialogue)
    chosen = np.repeat(shared, large.length)
    assert shared.sum() == len(small.dialogue)
    np.testing.assert_array_equal(large.features["text"][chosen], small.features["text"])


def test_splits_do_not_share_dialogues():
    corpus = simulate.simulate_corpus(simulate.create_process(), TINY)
    first_turns = corpus.features["text"][corpus.start]
    assert len(np.unique(first_turns, axis=0)) == len(corpus.dialogue)


def test_huge_is_drawn_lazily():
    stream = simulate.iter_dialogues(simulate.create_process(), simulate.SIZES["huge"])
    assert [d.name for d in itertools.islice(stream, 2)] == ["train_0", "train_1"]


@pytest.mark.parametrize("turns", [1, 36, 112])
def test_mean_length_at_the_maximum_makes_equal_lengths(turns):
    size = simulate.SimulatedSize(2, 1, 1, mean_length=turns, max_length=turns)
    corpus = simulate.simulate_corpus(simulate.create_process(), size)
    np.testing.assert_array_equal(corpus.length, turns)


def test_lengths_have_the_wanted_mean_and_melds_spread():
    corpus = simulate.simulate("meld")
    error = corpus.length.std() / np.sqrt(len(corpus.length))
    assert abs(corpus.length.mean() - 9.6) < 4 * error
    assert corpus.length.max() <= 33
    assert corpus.length.std() == pytest.approx(5.8, abs=0.5)


def test_every_turn_has_the_base_rate():
    # Dialogues are independent, so the k-th turns of all dialogues are an independent sample.
    process = simulate.create_process()
    size = simulate.SimulatedSize(3000, 0, 0, mean_length=6, max_length=6)
    corpus = simulate.simulate_corpus(process, size)
    label = corpus.label.reshape(3000, 6)
    for turn in range(6):
        frequency = np.bincount(label[:, turn], minlength=7) / 3000
        assert np.abs(standard_errors(frequency, process.base_rate, 3000)).max() < 4.5


def test_second_turn_follows_inertia_and_contagion():
    process = simulate.create_process(inertia=0.5, contagion=0.2)
    size = simulate.SimulatedSize(6000, 0, 0, mean_length=2, max_length=2)
    corpus = simulate.simulate_corpus(process, size, seed=1)
    label, speaker = corpus.label.reshape(-1, 2), corpus.speaker.reshape(-1, 2)
    switched = speaker[:, 0] != speaker[:, 1]
    copied = label[:, 0] == label[:, 1]
    assert abs(standard_errors(switched.mean(), process.switch_rate, 6000)) < 4
    by_chance = np.sum(process.base_rate**2)
    for chosen, rate in ((~switched, process.inertia), (switched, process.contagion)):
        expected = rate + (1 - rate) * by_chance
        assert abs(standard_errors(copied[chosen].mean(), expected, chosen.sum())) < 4


def test_log_likelihood_by_hand():
    # One mode at 0 and one at 2, deviation 2: p(x) = (phi(x / 2) + phi((x - 2) / 2)) / 4.
    emission = simulate.Emission(np.array([[[0.0], [2.0]]]), deviation=2.0)
    process = simulate.Process(("only",), np.ones(1), 0.0, 0.0, {"text": emission})
    value = simulate.log_likelihood(process, {"text": np.ones((1, 1))}, {"text": np.ones(1, bool)})
    expected = 2 * np.exp(-0.125) / np.sqrt(2 * np.pi) / 4
    np.testing.assert_allclose(value, np.log(expected).reshape(1, 1), rtol=1e-12)


def test_density_normalises():
    emission = simulate.create_emission((4, 0), num_classes=3, width=2, separation=1.5, rank=2)
    process = simulate.Process(("a", "b", "c"), np.full(3, 1 / 3), 0.2, 0.2, {"text": emission})
    axis = np.linspace(-14, 14, 281)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    present = {"text": np.ones(len(grid), bool)}
    density = np.exp(simulate.log_likelihood(process, {"text": grid}, present))
    np.testing.assert_allclose(density.sum(axis=0) * (axis[1] - axis[0]) ** 2, 1, rtol=1e-6)


def test_features_are_drawn_from_the_density():
    # If q is the density that drew x, then E[p(x) / q(x)] = 1 for every density p.
    process = simulate.create_process()
    corpus = simulate.simulate_corpus(process, simulate.SimulatedSize(600, 0, 0))
    audio = {"audio": corpus.features["audio"]}
    density = simulate.log_likelihood(process, audio, corpus.present)
    shown = corpus.present["audio"]
    for true, other in itertools.permutations(range(7), 2):
        rows = density[shown & (corpus.label == true)]
        ratio = np.exp(rows[:, other] - rows[:, true])
        assert abs(ratio.mean() - 1) < 5 * ratio.std() / np.sqrt(len(ratio))


def test_noise_has_the_stated_deviation():
    centres = np.array([[[0.0, 1.0]], [[3.0, -2.0]]])
    emission = simulate.Emission(centres, deviation=1.5)
    process = simulate.Process(("a", "b"), np.array([0.7, 0.3]), 0.3, 0.3, {"text": emission})
    corpus = simulate.simulate_corpus(process, simulate.SimulatedSize(500, 0, 0))
    squared = ((corpus.features["text"] - centres[corpus.label, 0]) / 1.5) ** 2
    # A squared standard normal has mean 1 and variance 2.
    assert abs(squared.mean() - 1) < 4 * np.sqrt(2 / squared.size)


def test_absent_modalities_add_nothing():
    process = simulate.create_process()
    corpus = simulate.simulate_corpus(process, TINY)
    total = simulate.log_likelihood(process, corpus.features, corpus.present)
    parts = [
        simulate.log_likelihood(process, {name: corpus.features[name]}, corpus.present)
        for name in corpus.modalities
    ]
    np.testing.assert_allclose(total, sum(parts), rtol=1e-12)
    absent = ~corpus.present["visual"]
    assert absent.any()
    np.testing.assert_array_equal(parts[2][absent], 0)
