"""Every loss against hand arithmetic, a known loss, its mask, its numerical gradient, extremes."""

import doctest

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
from absl.testing import parameterized

from cberl_jax import losses

# Compiled whole: operation by operation takes ten times as long.
class_balanced_weights = jax.jit(losses.class_balanced_weights)
focal_loss = jax.jit(losses.focal_loss)
free_bits = jax.jit(losses.free_bits)
gaussian_kl = jax.jit(losses.gaussian_kl)
gaussian_reconstruction = jax.jit(losses.gaussian_reconstruction)
identity_loss = jax.jit(losses.identity_loss)
least_squares_adversarial = jax.jit(losses.least_squares_adversarial)
scaled_cosine_error = jax.jit(losses.scaled_cosine_error)
weighted_mean = jax.jit(losses.weighted_mean)

MELD_TRAIN = np.array([4710, 1205, 268, 683, 1743, 271, 1109])
# One value to a row: what lies under a mask may be anything.
GARBAGE = jnp.array([[np.nan], [np.inf], [-np.inf], [1e38]])


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def assert_finite(function, *arguments) -> None:
    """The value and the gradient of its sum, by every argument, are finite."""
    arguments = [jnp.asarray(a, jnp.float32) for a in arguments]

    def total(*arguments):
        return jnp.sum(function(*arguments))

    everything = tuple(range(len(arguments)))
    value, gradient = jax.jit(jax.value_and_grad(total, argnums=everything))(*arguments)
    chex.assert_tree_all_finite((value, gradient))


def assert_gradient(function, *arguments) -> None:
    """Automatic equals numerical differentiation, in float64."""
    with jax.enable_x64(True):
        arguments = [jnp.asarray(a, jnp.float64) for a in arguments]
        chex.assert_numerical_grads(
            function, arguments, order=1, atol=1e-6, rtol=1e-6, modes=("rev",)
        )


def test_docstring_examples_run():
    result = doctest.testmod(losses, extraglobs={"jnp": jnp})
    assert result.attempted >= 6
    assert result.failed == 0


# Focal loss.


def test_focal_loss_by_hand():
    # Logits (0, ln 3) give p = (1/4, 3/4).
    # y = 0: (3/4)^2 ln 4     = 0.5625 * 1.38629436 = 0.77979058
    # y = 1: (1/4)^2 ln (4/3) = 0.0625 * 0.28768207 = 0.01798013
    logits = jnp.log(jnp.array([[1.0, 3.0], [1.0, 3.0]]))
    loss = focal_loss(logits, jnp.array([0, 1]), gamma=2.0)
    np.testing.assert_allclose(loss, [0.77979058, 0.01798013], rtol=1e-6)


def test_focal_loss_with_class_weights_by_hand():
    # As above, times alpha_y = (0.5, 3).
    logits = jnp.log(jnp.array([[1.0, 3.0], [1.0, 3.0]]))
    weights = jnp.array([0.5, 3.0])
    loss = focal_loss(logits, jnp.array([0, 1]), gamma=2.0, class_weights=weights)
    np.testing.assert_allclose(loss, [0.38989529, 0.05394039], rtol=1e-6)


def test_focal_loss_with_label_smoothing_by_hand():
    # p = (1/4, 3/4), y = 1, gamma = 1: the factor is 1 - p_y = 1/4. With a tenth spread over both
    # classes the target is (0.05, 0.95), and its cross entropy
    # 0.05 * 1.38629436 + 0.95 * 0.28768207 = 0.34261269; a quarter of it is 0.08565317.
    logits = jnp.log(jnp.array([[1.0, 3.0]]))
    loss = focal_loss(logits, jnp.array([1]), gamma=1.0, label_smoothing=0.1)
    np.testing.assert_allclose(loss, [0.08565317], rtol=1e-6)


def test_focal_loss_without_focus_is_cross_entropy():
    logits, labels = jnp.asarray(normal(0, 20, 7)), jnp.arange(20) % 7
    expected = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    np.testing.assert_allclose(focal_loss(logits, labels, gamma=0.0), expected, rtol=1e-5)


def test_smoothed_focal_loss_without_focus_is_smoothed_cross_entropy():
    logits, labels = jnp.asarray(normal(1, 20, 7)), jnp.arange(20) % 7
    target = optax.smooth_labels(jax.nn.one_hot(labels, 7), 0.2)
    loss = focal_loss(logits, labels, gamma=0.0, label_smoothing=0.2)
    np.testing.assert_allclose(loss, optax.softmax_cross_entropy(logits, target), rtol=1e-5)


def test_two_class_focal_loss_is_the_sigmoid_focal_loss():
    # Softmax over (0, x) is the sigmoid of x.
    x, labels = jnp.asarray(normal(2, 30)), jnp.arange(30) % 2
    loss = focal_loss(jnp.stack([jnp.zeros_like(x), x], axis=-1), labels, gamma=2.0)
    expected = optax.sigmoid_focal_loss(x, labels.astype(x.dtype), gamma=2.0)
    np.testing.assert_allclose(loss, expected, rtol=2e-5)


@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.5])
def test_focal_loss_against_float64(gamma):
    logits, labels = 3 * normal(3, 4, 5, 7), np.arange(20).reshape(4, 5) % 7
    weights = np.linspace(0.2, 2.0, 7)
    log_p = np.take_along_axis(
        scipy.special.log_softmax(logits, axis=-1), labels[..., None], axis=-1
    )[..., 0]
    expected = -weights[labels] * (1 - np.exp(log_p)) ** gamma * log_p
    loss = focal_loss(
        jnp.asarray(logits, jnp.float32), labels, gamma=gamma, class_weights=jnp.asarray(weights)
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-7)


def copied_focal_loss(logits: np.ndarray, labels: np.ndarray, gamma: float) -> np.ndarray:
    """The ``FocalLoss`` of MMGCN and its descendants, which weighs the other classes by -log p."""
    log_p = scipy.special.log_softmax(logits, axis=-1)
    of_target = np.eye(logits.shape[-1])[labels] * log_p
    return (-((1 - of_target) ** gamma) * log_p).sum(axis=-1)


def test_focal_loss_is_not_the_copied_one():
    # A sure and right answer costs nothing; the copied loss charges -log p of the other classes.
    logits, labels = np.array([[20.0, 0.0, 0.0]], np.float32), np.array([0])
    assert copied_focal_loss(logits, labels, 2.0)[0] > 30
    assert focal_loss(logits, labels, gamma=2.0)[0] < 1e-6


def test_focal_loss_sees_only_the_true_class_probability():
    # Both rows have p_0 = 1/2; the rest is shared differently. The copied loss tells them apart.
    probability, labels = np.array([[0.5, 0.25, 0.25], [0.5, 0.49, 0.01]]), np.array([0, 0])
    loss = focal_loss(jnp.log(probability), labels, gamma=2.0)
    np.testing.assert_allclose(loss[0], loss[1], rtol=1e-6)
    copied = copied_focal_loss(np.log(probability), labels, 2.0)
    assert abs(copied[0] - copied[1]) > 1


def test_focal_loss_under_the_mask_is_zero_and_row_removal():
    logits, labels = jnp.asarray(normal(4, 6, 3)), jnp.array([0, 1, 2, 0, 1, -1])
    where = jnp.array([True, False, True, True, False, False])
    loss = focal_loss(logits, labels, gamma=2.0, where=where, label_smoothing=0.1)
    kept = focal_loss(logits[where], labels[where], gamma=2.0, label_smoothing=0.1)
    np.testing.assert_array_equal(loss[~where], 0.0)
    np.testing.assert_allclose(loss[where], kept, rtol=1e-6)


def test_focal_loss_values_under_the_mask_reach_nothing():
    clean = jnp.asarray(normal(5, 6, 4))
    where = jnp.array([True, False, False, False, False, True])
    weights = jnp.arange(1.0, 5.0)

    @jax.jit
    @jax.value_and_grad
    def total(logits, labels):
        loss = focal_loss(logits, labels, gamma=1.5, class_weights=weights, where=where)
        return jnp.sum(loss)

    found = total(clean.at[1:5].set(GARBAGE), jnp.array([0, -1, -1, 9, 9, 2]))
    chex.assert_trees_all_equal(found, total(clean, jnp.array([0, 1, 1, 1, 1, 2])))
    np.testing.assert_array_equal(found[1][1:5], 0.0)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_gradient_is_the_numerical_one(gamma):
    weights = np.array([0.5, 1.0, 1.5])

    def total(logits):
        return focal_loss(
            logits, np.array([0, 2]), gamma=gamma, class_weights=weights, label_smoothing=0.1
        )

    assert_gradient(total, normal(6, 2, 3))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 5.0])
def test_focal_loss_is_finite_at_extreme_logits(gamma):
    pairs = [(100, -100), (-100, 100), (100, 100), (0, 1e30), (1e30, 0), (0, -1e30)]
    labels = jnp.arange(2)[:, None]
    assert_finite(
        lambda x: focal_loss(x, jnp.broadcast_to(labels, (2, 6)), gamma=gamma), [pairs, pairs]
    )


def test_focal_loss_of_a_sure_mistake_is_its_cross_entropy():
    # p_y = e^-200: the factor is one, -log p_y = 200; the gradient pulls with full force.
    logits = jnp.array([100.0, -100.0])
    value, gradient = jax.value_and_grad(focal_loss)(logits, jnp.array(1), gamma=2.0)
    np.testing.assert_allclose(value, 200.0, rtol=1e-6)
    np.testing.assert_allclose(gradient, [1.0, -1.0], rtol=1e-5)


# Class weights.


def test_class_balanced_weights_by_hand():
    # beta = 1/2, n = (1, 2): E = (1, (1 - 1/4) / (1/2)) = (1, 3/2); 1 / E = (1, 2/3), sum 5/3;
    # times 2 / (5/3): (6/5, 4/5).
    weights = class_balanced_weights(jnp.array([1.0, 2.0]), beta=0.5)
    np.testing.assert_allclose(weights, [1.2, 0.8], rtol=1e-6)


@pytest.mark.parametrize("beta", [0.9, 0.99, 0.999, 0.9999])
def test_class_balanced_weights_follow_the_paper(beta):
    inverse = (1 - beta) / (1 - beta**MELD_TRAIN)
    expected = inverse * len(MELD_TRAIN) / inverse.sum()
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            class_balanced_weights(jnp.asarray(MELD_TRAIN, jnp.float64), beta=beta), expected
        )
    single = class_balanced_weights(jnp.asarray(MELD_TRAIN, jnp.float32), beta=beta)
    np.testing.assert_allclose(single, expected, rtol=1e-3)


def test_class_balanced_weights_are_equal_without_overlap():
    np.testing.assert_allclose(class_balanced_weights(jnp.asarray(MELD_TRAIN), beta=0.0), 1.0)


def test_class_balanced_weights_tend_to_the_inverse_frequency():
    inverse = 1 / MELD_TRAIN
    weights = class_balanced_weights(jnp.asarray(MELD_TRAIN), beta=1 - 2**-23)
    np.testing.assert_allclose(weights, inverse * 7 / inverse.sum(), rtol=1e-3)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.999, 1 - 2**-23])
def test_class_balanced_weights_are_finite_with_an_empty_class(beta):
    weights = class_balanced_weights(jnp.array([0.0, 5.0, 1e6]), beta=beta)
    chex.assert_tree_all_finite(weights)
    # The class nobody has seen weighs nothing, and takes nothing from the others.
    assert float(weights[0]) == 0.0
    np.testing.assert_allclose(jnp.mean(weights[1:]), 1.0, rtol=1e-6)


def test_class_balanced_weights_gradient_by_beta_is_the_numerical_one():
    assert_gradient(lambda beta: class_balanced_weights(jnp.array([2.0, 9.0]), beta=beta), 0.7)


# Logit adjustment.


def test_log_prior_by_hand():
    # A class that nobody has seen counts as one: 1 + 1 + 6 = 8.
    np.testing.assert_allclose(
        losses.log_prior(jnp.array([0.0, 1.0, 6.0])), np.log([1 / 8, 1 / 8, 6 / 8]), rtol=1e-6
    )


def test_logit_adjustment_leaves_logits_free_of_the_prior():
    # One feature that says nothing: the cross entropy alone would learn the prior.
    counts = jnp.array([900.0, 90.0, 10.0])
    label = jnp.repeat(jnp.arange(3), counts.astype(int), total_repeat_length=1000)

    def loss(logits, strength):
        adjusted = jnp.broadcast_to(logits + strength * losses.log_prior(counts), (1000, 3))
        return jnp.mean(losses.focal_loss(adjusted, label, gamma=0.0))

    gradient = jax.grad(loss)
    np.testing.assert_allclose(gradient(jnp.zeros(3), 1.0), 0.0, atol=1e-6)
    np.testing.assert_allclose(gradient(losses.log_prior(counts), 0.0), 0.0, atol=1e-6)
    assert np.abs(gradient(jnp.zeros(3), 0.0)).max() > 0.1


# Scaled cosine error.


@pytest.mark.parametrize("alpha, expected", [(1.0, 0.04), (2.0, 0.0016), (3.0, 6.4e-5)])
def test_scaled_cosine_error_by_hand(alpha, expected):
    # cos((3, 4), (4, 3)) = (12 + 12) / (5 * 5) = 0.96; (1 - 0.96)^alpha.
    error = scaled_cosine_error(jnp.array([3.0, 4.0]), jnp.array([4.0, 3.0]), alpha=alpha)
    np.testing.assert_allclose(error, expected, rtol=1e-4)


def test_scaled_cosine_error_of_opposites_is_two_to_the_alpha():
    x = jnp.asarray(normal(7, 4, 6))
    np.testing.assert_allclose(scaled_cosine_error(x, -x, alpha=3.0), 8.0, rtol=1e-5)


def test_scaled_cosine_error_of_equals_is_nothing():
    x = jnp.asarray(normal(7, 4, 6))
    np.testing.assert_allclose(scaled_cosine_error(x, x, alpha=1.0), 0.0, atol=1e-6)


def test_scaled_cosine_error_with_alpha_one_is_the_cosine_distance():
    x, y = jnp.asarray(normal(8, 5, 6)), jnp.asarray(normal(9, 5, 6))
    expected = optax.cosine_distance(x, y)
    np.testing.assert_allclose(scaled_cosine_error(x, y, alpha=1.0), expected, rtol=1e-5)


def test_scaled_cosine_error_against_float64():
    x, y = normal(10, 3, 5, 6), normal(11, 3, 5, 6)
    norms = np.linalg.norm(x, axis=-1) * np.linalg.norm(y, axis=-1)
    expected = (1 - (x * y).sum(axis=-1) / norms) ** 1.7
    error = scaled_cosine_error(jnp.asarray(x), jnp.asarray(y), alpha=1.7)
    np.testing.assert_allclose(error, expected, rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-2, 1e3, 1e30])
def test_scaled_cosine_error_does_not_see_the_length(scale):
    x, y = jnp.asarray(normal(12, 5, 6)), jnp.asarray(normal(13, 5, 6))
    expected = scaled_cosine_error(x, y, alpha=2.0)
    np.testing.assert_allclose(scaled_cosine_error(scale * x, y, alpha=2.0), expected, rtol=1e-4)
    np.testing.assert_allclose(scaled_cosine_error(x, scale * y, alpha=2.0), expected, rtol=1e-4)


def test_scaled_cosine_error_values_under_the_mask_reach_nothing():
    x, y = jnp.asarray(normal(14, 6, 4)), jnp.asarray(normal(15, 6, 4))
    where = jnp.array([True, False, False, False, False, True])

    @jax.jit
    def both(x, y):
        def total(x, y):
            return jnp.sum(scaled_cosine_error(x, y, alpha=2.0, where=where))

        return jax.value_and_grad(total, argnums=(0, 1))(x, y)

    found = both(x.at[1:5].set(GARBAGE), y.at[1:5].set(GARBAGE))
    chex.assert_trees_all_equal(found, both(x, y))
    kept = scaled_cosine_error(x[where], y[where], alpha=2.0)
    np.testing.assert_allclose(found[0], jnp.sum(kept), rtol=1e-6)


@pytest.mark.parametrize("alpha", [1.0, 2.0, 2.5])
def test_scaled_cosine_error_gradient_is_the_numerical_one(alpha):
    def error(x, y):
        return scaled_cosine_error(x, y, alpha=alpha)

    # Entries above and below one: the guard against overflow divides by the larger ones.
    assert_gradient(error, 0.3 * normal(16, 2, 3), 4 * normal(17, 2, 3))


@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_scaled_cosine_error_is_finite_at_extreme_features(alpha):
    values = [0.0, 1e-30, 1e30, -1e30]
    vectors = [[v, v, v] for v in values] + [[v, 1.0, 0.0] for v in values]
    first, second = np.repeat(vectors, 8, axis=0), np.tile(vectors, (8, 1))
    assert_finite(lambda x, y: scaled_cosine_error(x, y, alpha=alpha), first, second)


# Gaussian divergence.


def test_gaussian_kl_to_the_prior_by_hand():
    # q = N(1, 4): 1/2 (4 + 1 - 1 - ln 4) = 1/2 (4 - 1.38629436) = 1.30685282
    kl = gaussian_kl(jnp.array(1.0), jnp.log(jnp.array(4.0)))
    np.testing.assert_allclose(kl, 1.30685282, rtol=1e-6)


def test_gaussian_kl_of_two_gaussians_by_hand():
    # q = N(1, 1), p = N(3, 4): 1/2 (ln 4 - 0 + (1 + 4) / 4 - 1) = 1/2 (1.38629436 + 0.25)
    kl = gaussian_kl(jnp.array(1.0), jnp.array(0.0), jnp.array(3.0), jnp.log(jnp.array(4.0)))
    np.testing.assert_allclose(kl, 0.81814718, rtol=1e-6)


@pytest.mark.parametrize("q, p", [((0.3, 0.5), (0.0, 1.0)), ((-1.0, 2.0), (0.7, 1.3))])
def test_gaussian_kl_is_the_integral(q, p):
    q_law, p_law = scipy.stats.norm(*q), scipy.stats.norm(*p)
    expected, _ = scipy.integrate.quad(
        lambda z: q_law.pdf(z) * (q_law.logpdf(z) - p_law.logpdf(z)), -30, 30
    )
    arguments = [jnp.array(a) for a in (q[0], 2 * np.log(q[1]), p[0], 2 * np.log(p[1]))]
    np.testing.assert_allclose(gaussian_kl(*arguments), expected, rtol=1e-5)


def test_gaussian_kl_against_float64():
    m, v, n, w = (normal(s, 3, 4) for s in (20, 21, 22, 23))
    expected = 0.5 * (w - v + (np.exp(v) + (m - n) ** 2) / np.exp(w) - 1)
    kl = gaussian_kl(*(jnp.asarray(a, jnp.float32) for a in (m, v, n, w)))
    np.testing.assert_allclose(kl, expected, rtol=1e-4, atol=1e-6)


def test_gaussian_kl_is_zero_between_equals():
    m, v = jnp.asarray(normal(24, 5)), jnp.asarray(normal(25, 5))
    np.testing.assert_array_equal(gaussian_kl(m, v, m, v), 0.0)


def test_gaussian_kl_is_not_negative_near_the_prior():
    # KL(N(0, e^g) || N(0, 1)) = (e^g - 1 - g) / 2, about g^2 / 4.
    gap = np.concatenate([np.linspace(-1e-2, 1e-2, 201), np.linspace(-1e-4, 1e-4, 200)])
    kl = gaussian_kl(jnp.zeros(len(gap)), jnp.asarray(gap, jnp.float32))
    assert np.min(kl) >= 0
    np.testing.assert_allclose(kl, 0.5 * (np.expm1(gap) - gap), atol=2e-9, rtol=1e-3)


def test_gaussian_kl_gradient_is_the_numerical_one():
    assert_gradient(gaussian_kl, *(normal(s, 3) for s in (26, 27, 28, 29)))


def test_gaussian_kl_is_finite_over_the_range_of_the_experts():
    mean, log_variance = np.meshgrid([0.0, 100.0, 1e15], [-6.0, 4.0])
    assert_finite(gaussian_kl, mean, log_variance, mean[::-1], log_variance[::-1])
    assert_finite(gaussian_kl, mean, 0 * mean, -mean, log_variance)


# Free bits.


def test_free_bits_by_hand():
    # Unit means (1 + 3) / 2 = 2 and (0.1 + 0.3) / 2 = 0.2; max(0.5, .) gives 2 + 0.5.
    kl = jnp.array([[1.0, 0.1], [3.0, 0.3]])
    np.testing.assert_allclose(free_bits(kl, jnp.ones(2), minimum=0.5), 2.5, rtol=1e-6)


def test_free_bits_take_the_weighted_mean():
    # Weights (3, 1): (3 * 1 + 3) / 4 = 1.5 and (3 * 0.1 + 0.3) / 4 = 0.15, at least 0.5: 2.
    kl = jnp.array([[1.0, 0.1], [3.0, 0.3]])
    np.testing.assert_allclose(free_bits(kl, jnp.array([3.0, 1.0]), minimum=0.5), 2.0, rtol=1e-6)


def test_free_bits_of_zero_are_the_summed_mean():
    kl = np.abs(normal(30, 4, 5, 3))
    value = free_bits(jnp.asarray(kl), jnp.ones((4, 5)), minimum=0.0)
    np.testing.assert_allclose(value, kl.mean(axis=(0, 1)).sum(), rtol=1e-5)


def test_free_bits_leave_no_gradient_below_the_minimum():
    kl = jnp.array([[1.0, 0.1], [3.0, 0.3]])
    gradient = jax.grad(lambda kl: free_bits(kl, jnp.ones(2), minimum=0.5))(kl)
    np.testing.assert_allclose(gradient, [[0.5, 0.0], [0.5, 0.0]])


def test_free_bits_values_without_weight_reach_nothing():
    kl = jnp.abs(jnp.asarray(normal(31, 6, 2)))
    weights = jnp.array([1.0, 0.0, 0.0, 0.0, 0.0, 2.0])
    value = jax.jit(jax.value_and_grad(lambda kl: free_bits(kl, weights, minimum=0.1)))
    found = value(kl.at[1:5].set(GARBAGE))
    chex.assert_trees_all_equal(found, value(kl))
    kept = free_bits(kl[np.array([0, 5])], jnp.array([1.0, 2.0]), minimum=0.1)
    np.testing.assert_allclose(found[0], kept, rtol=1e-6)


def test_free_bits_gradient_is_the_numerical_one():
    kl, weight = 1 + np.abs(normal(32, 3, 2)), np.array([1.0, 0.5, 2.0])
    assert_gradient(lambda kl: free_bits(kl, jnp.asarray(weight), minimum=0.1), kl)


# Reconstruction, adversarial and identity loss.


def test_gaussian_reconstruction_by_hand():
    # (1 - 0)^2 / 2 + (3 - 1)^2 / 2 = 0.5 + 2
    value = gaussian_reconstruction(jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 1.0]]))
    np.testing.assert_allclose(value, [2.5])


def test_gaussian_reconstruction_is_a_log_density_without_its_constant():
    x, y = normal(33, 4, 5), normal(34, 4, 5)
    expected = -scipy.stats.norm(x).logpdf(y).sum(axis=-1) - 2.5 * np.log(2 * np.pi)
    value = gaussian_reconstruction(jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@pytest.mark.parametrize("score, wanted, expected", [(3.0, 1.0, 2.0), (-3.0, 0.0, 4.5)])
def test_least_squares_adversarial_by_hand(score, wanted, expected):
    # (3 - 1)^2 / 2 = 2 and (-3 - 0)^2 / 2 = 4.5
    np.testing.assert_allclose(least_squares_adversarial(jnp.array([score]), wanted), [expected])


def test_least_squares_adversarial_takes_a_score_for_each_example():
    scores, wanted = normal(35, 6), np.array([0.0, 1.0] * 3)
    value = least_squares_adversarial(jnp.asarray(scores), wanted)
    np.testing.assert_allclose(value, (scores - wanted) ** 2 / 2, rtol=1e-5)


def test_identity_loss_by_hand():
    # (|1 - 0| + |-2 - 2|) / 2 = 2.5
    value = identity_loss(jnp.array([[1.0, -2.0]]), jnp.array([[0.0, 2.0]]))
    np.testing.assert_allclose(value, [2.5])


def test_identity_loss_against_float64():
    x, y = normal(36, 3, 4, 5), normal(37, 3, 4, 5)
    value = identity_loss(jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(value, np.abs(x - y).mean(axis=-1), rtol=1e-5)


@pytest.mark.parametrize(
    "loss", [gaussian_reconstruction, least_squares_adversarial, identity_loss]
)
def test_distance_gradients_are_the_numerical_ones(loss):
    assert_gradient(loss, normal(38, 2, 3), normal(39, 2, 3))


@pytest.mark.parametrize(
    "loss", [gaussian_reconstruction, least_squares_adversarial, identity_loss]
)
def test_distances_are_finite_at_extremes(loss):
    values = np.array([[0.0], [100.0], [-100.0], [1e18]]) * np.ones(3)
    assert_finite(loss, values, np.zeros((4, 3)))
    assert_finite(loss, values, values)


def test_identity_loss_is_finite_at_features_of_1e30():
    assert_finite(identity_loss, np.full((2, 3), 1e30), np.zeros((2, 3)))


# Weighted mean.


def test_weighted_mean_by_hand():
    # (1 * 1 + 2 * 1 + 6 * 2) / (1 + 1 + 2) = 15 / 4
    value = weighted_mean(jnp.array([1.0, 2.0, 6.0]), jnp.array([1.0, 1.0, 2.0]))
    np.testing.assert_allclose(value, 3.75)


def test_weighted_mean_is_the_average_of_numpy():
    values, weights = normal(40, 4, 5), np.abs(normal(41, 4, 5))
    value = weighted_mean(jnp.asarray(values), jnp.asarray(weights))
    np.testing.assert_allclose(value, np.average(values, weights=weights), rtol=1e-4)


def test_weighted_mean_broadcasts_weights():
    values = normal(42, 3, 2)
    value = weighted_mean(jnp.asarray(values), jnp.array([[1.0], [0.0], [3.0]]))
    np.testing.assert_allclose(value, (values[0] + 3 * values[2]).sum() / 8, rtol=1e-5)


def test_weighted_mean_of_nothing_is_zero_with_zero_gradient():
    value, gradient = jax.value_and_grad(weighted_mean)(jnp.append(GARBAGE, 1.0), jnp.zeros(5))
    np.testing.assert_array_equal(value, 0.0)
    np.testing.assert_array_equal(gradient, 0.0)


def test_weighted_mean_values_without_weight_reach_nothing():
    values = jnp.concatenate([GARBAGE[:, 0], jnp.array([1.0, 2.0])])
    value, gradient = jax.value_and_grad(weighted_mean)(values, jnp.array([0.0] * 4 + [1.0, 3.0]))
    np.testing.assert_allclose(value, 7 / 4)
    np.testing.assert_allclose(gradient, [0, 0, 0, 0, 0.25, 0.75])


def test_weighted_mean_gradient_is_the_numerical_one():
    assert_gradient(weighted_mean, normal(43, 4), 0.5 + np.abs(normal(44, 4)))


X, Y, KL = (np.asarray(normal(seed, 4, 3), np.float32) for seed in (50, 51, 52))
KEEP = np.array([True, False, True, True])

CASES = {
    "focal": (
        lambda x: losses.focal_loss(
            x,
            jnp.array([0, 1, 2, 0]),
            gamma=1.5,
            class_weights=jnp.array([1.0, 2.0, 3.0]),
            label_smoothing=0.1,
            where=jnp.asarray(KEEP),
        ),
        (X,),
    ),
    "class_weights": (
        lambda n: losses.class_balanced_weights(n, beta=0.99),
        (np.float32([1, 9, 500]),),
    ),
    "log_prior": (losses.log_prior, (np.float32([1, 9, 500]),)),
    "cosine": (
        lambda x, y: losses.scaled_cosine_error(x, y, alpha=2.0, where=jnp.asarray(KEEP)),
        (X, Y),
    ),
    "kl": (losses.gaussian_kl, (X, Y, KL, X)),
    "free_bits": (
        lambda kl, w: losses.free_bits(kl, w, minimum=0.5),
        (KL**2, KEEP.astype(np.float32)),
    ),
    "reconstruction": (losses.gaussian_reconstruction, (X, Y)),
    "adversarial": (losses.least_squares_adversarial, (X, Y)),
    "identity": (losses.identity_loss, (X, Y)),
    "weighted_mean": (losses.weighted_mean, (X, Y**2)),
}


class VariantsTest(chex.TestCase):
    """With and without jit the losses are the same, and those of float64."""

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.named_parameters((name, name) for name in CASES)
    def test_loss(self, name):
        loss, arguments = CASES[name]
        value = self.variant(loss)(*arguments)
        assert value.dtype == jnp.float32
        with jax.enable_x64(True):
            exact = jax.jit(loss)(*(jnp.asarray(a, jnp.float64) for a in arguments))
        np.testing.assert_allclose(value, exact, rtol=1e-4, atol=1e-6)
