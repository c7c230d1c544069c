"""How often which node is masked, and what may stand in for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cberl_jax.models import masking as masking_module
from cberl_jax.models.masking import no_masking

# Compiled once for all rates: a member's settings are traced.
class_mask_probability = jax.jit(masking_module.class_mask_probability)
draw_masking = jax.jit(masking_module.draw_masking)

MELD_TRAIN = np.array([4710, 1205, 268, 683, 1743, 271, 1109])
CAP = 0.9


def draw(seed, labels, valid, probability, rate=0.15, swap=0.1):
    masking = draw_masking(
        jax.random.key(seed),
        jnp.asarray(labels),
        jnp.asarray(valid),
        jnp.asarray(probability, jnp.float32),
        rate=rate,
        swap=swap,
    )
    return jax.tree.map(np.asarray, masking)


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.15, 0.5, 0.9])
@pytest.mark.parametrize("tau", [-0.5, 0.0, 0.5, 1.0, 3.0])
def test_mean_mask_rate_is_kept(rate, tau):
    probability = class_mask_probability(jnp.asarray(MELD_TRAIN), rate=rate, tau=tau)
    mean = np.average(probability, weights=MELD_TRAIN)
    np.testing.assert_allclose(mean, rate, rtol=1e-4, atol=1e-6)
    assert np.all(probability >= 0)
    assert np.all(probability <= CAP + 1e-6)


def test_classes_are_masked_in_proportion_to_the_power_of_their_count():
    probability = class_mask_probability(jnp.asarray(MELD_TRAIN), rate=0.15, tau=0.5)
    assert np.max(probability) < CAP
    shape = MELD_TRAIN**-0.5
    expected = shape * 0.15 * MELD_TRAIN.sum() / np.sum(MELD_TRAIN * shape)
    np.testing.assert_allclose(probability, expected, rtol=1e-4)


def test_mask_probability_by_hand():
    # n = (90, 10), tau = 1, rate 0.1: p = k (1/90, 1/10), mean (0.9 / 90 + 0.1 / 10) k = 0.02 k,
    # so k = 5 and p = (1/18, 1/2).
    probability = class_mask_probability(jnp.array([90.0, 10.0]), rate=0.1, tau=1.0)
    np.testing.assert_allclose(probability, [1 / 18, 1 / 2], rtol=1e-4)


def test_a_capped_class_leaves_the_rest_of_the_mean_to_the_others():
    # n = (90, 10), tau = 2, rate 0.2: the ratio 81 would need p_1 > 1, so p_1 = 0.9 and
    # p_0 = (0.2 - 0.1 * 0.9) / 0.9 = 0.12222.
    probability = class_mask_probability(jnp.array([90.0, 10.0]), rate=0.2, tau=2.0)
    np.testing.assert_allclose(probability, [0.11 / 0.9, 0.9], rtol=1e-4)


def test_without_tau_all_classes_are_masked_alike():
    probability = class_mask_probability(jnp.asarray(MELD_TRAIN), rate=0.15, tau=0.0)
    np.testing.assert_allclose(probability, 0.15, rtol=1e-5)


def test_mask_probability_is_finite_with_an_empty_class():
    probability = class_mask_probability(jnp.array([0.0, 10.0, 1e6]), rate=0.15, tau=2.0)
    assert np.all(np.isfinite(probability))


def test_members_with_different_rates_share_one_program():
    rate, tau = jnp.array([0.1, 0.3]), jnp.array([0.0, 1.0])

    def of_member(rate, tau):
        return class_mask_probability(jnp.asarray(MELD_TRAIN), rate=rate, tau=tau)

    together = jax.jit(jax.vmap(of_member))(rate, tau)
    for k in range(2):
        np.testing.assert_allclose(together[k], of_member(rate[k], tau[k]), rtol=1e-5)


def test_empirical_rates_are_those_of_the_classes():
    labels = np.arange(128 * 128).reshape(128, 128) % 4 - 1
    masking = draw(0, labels, np.ones_like(labels, bool), [0.1, 0.4, 0.8], rate=0.25, swap=0.3)
    for label, expected in ((-1, 0.25), (0, 0.1), (1, 0.4), (2, 0.8)):
        # 4,096 nodes of each: five standard deviations of the mean are at most 0.04.
        deviation = np.sqrt(expected * (1 - expected) / 4096)
        assert abs(masking.masked[labels == label].mean() - expected) < 5 * deviation
    swapped = masking.swapped[masking.masked]
    assert abs(swapped.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / len(swapped))


def test_only_masked_nodes_are_swapped():
    labels = np.zeros((16, 16), int)
    masking = draw(1, labels, np.ones_like(labels, bool), [0.5], swap=0.9)
    assert masking.swapped.any()
    assert not np.any(masking.swapped & ~masking.masked)


@pytest.mark.parametrize("seed", range(5))
def test_padding_is_neither_masked_nor_a_donor(seed):
    generator = np.random.default_rng(seed)
    valid = generator.random((6, 8)) < 0.4
    labels = np.where(valid, generator.integers(-1, 2, valid.shape), -1)
    masking = draw(seed, labels, valid, [0.9, 0.9], rate=0.9, swap=0.9)
    assert masking.swapped.any()
    assert not np.any(masking.masked & ~valid)
    assert np.all(valid.reshape(-1)[masking.donor[masking.swapped]])


@pytest.mark.parametrize("seed", range(5))
def test_nobody_is_its_own_donor(seed):
    valid = np.zeros((2, 3), bool)
    valid[0, :2] = valid[1, 1] = True
    masking = draw(seed, np.zeros((2, 3), int), valid, [0.9], swap=0.9)
    itself = np.arange(6).reshape(2, 3)
    assert not np.any(masking.swapped & (masking.donor == itself))


def test_many_different_nodes_are_donors():
    labels = np.zeros((16, 16), int)
    masking = draw(2, labels, np.ones_like(labels, bool), [0.5], swap=0.9)
    donors = masking.donor[masking.swapped]
    assert len(np.unique(donors)) > len(donors) / 3


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("nodes", [0, 1])
def test_without_another_node_nothing_is_swapped(nodes, seed):
    valid = np.arange(4).reshape(1, 4) < nodes
    masking = draw(seed, np.zeros((1, 4), int), valid, [0.9], swap=1.0)
    assert not masking.swapped.any()
    assert np.all((masking.donor >= 0) & (masking.donor < 4))


def test_a_single_node_can_still_be_masked():
    valid = np.array([[True, False]])
    drawn = [draw(seed, [[0, -1]], valid, [0.9]).masked[0] for seed in range(10)]
    assert np.any(drawn, axis=0).tolist() == [True, False]


def test_the_same_key_draws_the_same_masking():
    labels = np.zeros((4, 4), int)
    one, same, other = (draw(s, labels, np.ones((4, 4), bool), [0.5]) for s in (3, 3, 4))
    np.testing.assert_array_equal(one.masked, same.masked)
    np.testing.assert_array_equal(one.donor, same.donor)
    assert np.any(one.masked != other.masked)


def test_no_masking_masks_nothing():
    masking = no_masking((2, 3))
    assert masking.masked.shape == masking.swapped.shape == masking.donor.shape == (2, 3)
    assert not masking.masked.any()
    assert not masking.swapped.any()
