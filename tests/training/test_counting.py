"""A generated utterance counts what it weighs, so that augmentation lowers no class's emphasis."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_config

from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.losses import class_balanced_weights
from cberl_jax.training.epoch import create_state, joint_epoch
from cberl_jax.training.generation import class_mass, label_weight, make_epoch
from cberl_jax.training.prepare import list_members, prepare

MELD_TRAIN = np.array([4710, 1205, 268, 683, 1743, 271, 1109])


def loss_share(mass, beta):
    """[C] each class's share of the classification loss, at equal losses of all utterances."""
    emphasis = np.asarray(class_balanced_weights(jnp.asarray(mass, jnp.float32), beta=beta)) * mass
    return emphasis / emphasis.sum()


CORPUS = simulate_corpus(create_process(), SimulatedSize(40, 4, 4, 6, 8), seed=1)
# The joint model without what plays no part here.
BARE = {f"model.{part}": False for part in ("djvae", "bilstm", "graph", "reconstruction")}


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_counts_of_the_classes_are_what_their_utterances_weigh(weight):
    data, hyper = prepare(tiny_config(), CORPUS).data, {"augment.weight": jnp.float32(weight)}
    label = data.train.label
    assert data.generated.sum() > 10
    weighed = data.train.weight * label_weight(data, label, hyper)
    expected = np.bincount(label[label >= 0], weights=weighed[label >= 0], minlength=7)
    mass = class_mass(data, hyper)
    np.testing.assert_allclose(mass, expected, rtol=1e-5)
    np.testing.assert_allclose(mass, data.counts + weight * data.generated, rtol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_generated_utterances_weigh_in_expectation_what_each_class_lacks(weight):
    prepared = prepare(tiny_config(**{"augment.method": "repeat"}), CORPUS)
    data, hyper = prepared.data, {"augment.weight": jnp.float32(weight)}
    draw = jax.jit(lambda data, key: make_epoch(None, None, data, hyper, key).number)
    number = np.stack([draw(data, jax.random.key(k)) for k in range(200)])
    weighed = np.where(number >= 0, label_weight(data, data.label, hyper), 0.0).mean(axis=0)
    found = np.bincount(data.label, weights=weighed, minlength=7)
    np.testing.assert_allclose(found, weight * data.generated, rtol=0.1)
    # Each stands where it was made for.
    draws, utterances = np.nonzero(number >= 0)
    np.testing.assert_array_equal(data.place[number[draws, utterances]], utterances)


def test_generated_utterances_without_weight_change_no_training():
    trained = []
    for method in ("none", "repeat"):
        config = tiny_config(**BARE, **{"augment.method": method, "augment.weight": 0.0})
        prepared, members = prepare(config, CORPUS), list_members(config, [3])
        assert prepared.generated.any() == (method == "repeat")
        hyper = {name: values[0] for name, values in members.hyper.items()}
        state = create_state(prepared.program, 3, hyper)
        epoch = jax.jit(functools.partial(joint_epoch, prepared.program))
        trained.append(epoch(state, prepared.data, hyper))
    chex.assert_trees_all_close(*trained, rtol=1e-4, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    real=st.lists(st.integers(1, 5000), min_size=2, max_size=8),
    ratio=st.floats(0.0, 4.0),
    weight=st.floats(0.0, 1.0),
    beta=st.sampled_from([0.0, 0.99, 0.999, 0.9999]),
)
def test_augmentation_lowers_no_minority_class_beside_a_majority_class(real, ratio, weight, beta):
    real = np.array(real, float)
    mass = real + weight * ratio * real * (np.arange(len(real)) > 0)
    before, after = loss_share(real, beta), loss_share(mass, beta)
    assert np.all(after[1:] / after[0] >= before[1:] / before[0] * (1 - 1e-4))


def test_the_rare_classes_of_meld_gain_by_augmentation():
    # Filled up to 15 % of neutral: 706.
    generated = np.maximum(706 - MELD_TRAIN, 0)
    before, honest = loss_share(MELD_TRAIN, 0.999), loss_share(MELD_TRAIN + 0.3 * generated, 0.999)
    rare = [2, 5]
    # (1 - 0.999) / (1 - 0.999^268) * 268 = 1.1396 for fear; 13.900 for all classes.
    assert before[2] == pytest.approx(0.0820, abs=2e-4)
    assert np.all(honest[rare] > before[rare])
    # What counting in full does: class weights as of 706, for a mass of 399.
    weights = np.asarray(
        class_balanced_weights(jnp.float32(np.maximum(MELD_TRAIN, 706)), beta=0.999)
    )
    full = weights * (MELD_TRAIN + 0.3 * generated)
    assert np.all((full / full.sum())[rare] < before[rare])
