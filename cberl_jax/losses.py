"""Every loss of CBERL as arrays in, unreduced array out (section 3 of the design).

Class means, modality sums and weights between terms belong to the steps; of the batch axes only
``weighted_mean`` and ``free_bits`` reduce, since the mean is part of what they define. Letters:
``...`` any leading axes, C classes, d features, z latent units.
"""

import jax
import jax.numpy as jnp
import optax


def _masked(values: jax.Array, where: jax.Array | None) -> jax.Array:
    return values if where is None else jnp.where(where, values, 0.0)


def weighted_mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Mean of ``values`` under ``weights``; zero, with a zero gradient, where all weights are zero.

    Args:
      values: [...] float.
      weights: [...] float, not negative, broadcastable to ``values``.

    Returns:
      [] float.
    """
    weights = jnp.broadcast_to(weights, values.shape)
    total = jnp.sum(weights)
    safe = jnp.where(total > 0, total, 1.0)
    return jnp.sum(jnp.where(weights > 0, values, 0.0) * weights) / safe


def focal_loss(
    logits: jax.Array,
    labels: jax.Array,
    *,
    gamma: jax.typing.ArrayLike,
    class_weights: jax.Array | None = None,
    label_smoothing: jax.typing.ArrayLike = 0.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """Softmax focal loss: cross entropy that fades where the true class is already likely.

    Rare emotions stay hard for long; the factor leaves the gradient to them. With p the softmax
    probability of the true class y::

        loss = - alpha_y (1 - p)^gamma log p

    ``gamma = 0`` is the weighted cross entropy. The factor is computed from log(1 - p), itself a
    difference of two log-sum-exps, so that value and gradient stay finite for any finite logits
    and any ``gamma >= 0``.

    Args:
      logits: [..., C] float.
      labels: [...] int in 0..C-1; any value where ``where`` is false.
      gamma: [] the focusing (CBERL: adjustment) factor, not negative.
      class_weights: [C] alpha, or None for one.
      label_smoothing: [] share of the target spread evenly over all classes; the focal factor
        stays that of the true class.
      where: [...] bool, False gives a loss of zero.

    Returns:
      [...] float, not negative.

    Example:
      >>> focal_loss(jnp.array([[0.0, 0.0]]), jnp.array([0]), gamma=2.0).round(4)
      Array([0.1733], dtype=float32)

    References:
      Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, equations 4 and 5; CBERL
      (arXiv 2312.06337), the loss drawn in its figure of the classifier.
    """
    classes = logits.shape[-1]
    if where is not None:
        # Values under the mask must not reach the gradient either.
        logits = jnp.where(where[..., None], logits, 0.0)
        labels = jnp.where(where, labels, 0)
    target = jax.nn.one_hot(labels, classes, dtype=logits.dtype)
    log_probability = jax.nn.log_softmax(logits)
    log_true = jnp.sum(target * log_probability, axis=-1)
    others = jnp.where(target > 0, -jnp.inf, logits)
    log_others = jax.nn.logsumexp(others, axis=-1) - jax.nn.logsumexp(logits, axis=-1)
    factor = jnp.exp(gamma * jnp.minimum(log_others, 0.0))
    log_spread = jnp.mean(log_probability, axis=-1)
    loss = -factor * ((1 - label_smoothing) * log_true + label_smoothing * log_spread)
    if class_weights is not None:
        loss = loss * class_weights[labels]
    return _masked(loss, where)


def class_balanced_weights(counts: jax.Array, *, beta: jax.typing.ArrayLike) -> jax.Array:
    """Class weights by the effective number of samples, so that rare classes count.

    The n-th sample of a class adds less than the first::

        E_c = (1 - beta^n_c) / (1 - beta),    alpha_c ~ 1 / E_c,    sum_c alpha_c = C

    Args:
      counts: [C] samples per class, which need not be whole: a sample counts what it weighs.
      beta: [] in [0, 1); 0 gives equal weights, towards 1 the inverse frequency.

    Returns:
      [C] float weights with mean one over the classes that have samples, zero for the others.

    Example:
      >>> class_balanced_weights(jnp.array([10.0, 10.0]), beta=0.9)
      Array([1., 1.], dtype=float32)

    References:
      Cui et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019, equation 2.
    """
    counts = jnp.asarray(counts, float)
    held = counts > 0
    exponent = jnp.where(held, counts, 1.0) * jnp.log(jnp.maximum(beta, 1e-30))
    weights = jnp.where(held, (1.0 - beta) / -jnp.expm1(exponent), 0.0)
    return weights * (jnp.sum(held).astype(weights.dtype) / jnp.sum(weights))


def log_prior(counts: jax.Array) -> jax.Array:
    """Log share of each class, for logit adjustment.

    Added ``tau`` times to the logits in a cross entropy, it leaves the logits themselves free of
    the prior: at ``tau = 1`` their largest minimises the balanced error.

    Args:
      counts: [C] samples per class, which need not be whole; under one counts as one.

    Returns:
      [C] float, at most zero.

    Example:
      >>> log_prior(jnp.array([1.0, 3.0])).round(4)
      Array([-1.3863, -0.2877], dtype=float32)

    References:
      Menon et al., Long-Tail Learning via Logit Adjustment, ICLR 2021, equation 10.
    """
    held = jnp.maximum(jnp.asarray(counts, float), 1.0)
    return jnp.log(held / jnp.sum(held))


def scaled_cosine_error(
    prediction: jax.Array,
    target: jax.Array,
    *,
    alpha: jax.typing.ArrayLike,
    where: jax.Array | None = None,
) -> jax.Array:
    """Reconstruction error of masked nodes: direction counts, easy nodes fade.

    ::

        error = (1 - cos(prediction, target))^alpha

    Args:
      prediction: [..., d] float.
      target: [..., d] float.
      alpha: [] at least 1.
      where: [...] bool, the masked nodes; False gives an error of zero.

    Returns:
      [...] float in [0, 2^alpha].

    Example:
      >>> scaled_cosine_error(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]]), alpha=2.0)
      Array([1.], dtype=float32)

    References:
      Hou et al., GraphMAE, KDD 2022, equation 2.
    """
    if where is not None:
        prediction = jnp.where(where[..., None], prediction, 1.0)
        target = jnp.where(where[..., None], target, 1.0)
    # Features of 1e30 must not overflow in the norm, nor a zero vector divide by zero.
    prediction, target = _bounded(prediction), _bounded(target)
    distance = 1.0 - optax.cosine_similarity(prediction, target, epsilon=1e-12)
    # The floor keeps the gradient of the power finite at a perfect reconstruction.
    return _masked(jnp.maximum(distance, 1e-7) ** alpha, where)


def _bounded(vectors: jax.Array) -> jax.Array:
    """Divides vectors by their largest entry where that is over one; their direction stays."""
    largest = jnp.max(jnp.abs(vectors), axis=-1, keepdims=True)
    return vectors / jax.lax.stop_gradient(jnp.maximum(largest, 1.0))


def gaussian_kl(
    mean: jax.Array,
    log_variance: jax.Array,
    other_mean: jax.typing.ArrayLike = 0.0,
    other_log_variance: jax.typing.ArrayLike = 0.0,
) -> jax.Array:
    """Divergence KL(q || p) between diagonal Gaussians, per latent unit, in nats.

    ::

        KL = 1/2 (log v_p - log v_q + (v_q + (m_q - m_p)^2) / v_p - 1)

    Args:
      mean: [..., z] of q.
      log_variance: [..., z] of q.
      other_mean: [..., z] of p; by default p is N(0, I).
      other_log_variance: [..., z] of p.

    Returns:
      [..., z] float, not negative.

    Example:
      >>> gaussian_kl(jnp.array([1.0]), jnp.array([0.0]))
      Array([0.5], dtype=float32)

    References:
      Kingma and Welling, Auto-Encoding Variational Bayes, ICLR 2014, appendix B.
    """
    gap = log_variance - other_log_variance
    square = (mean - other_mean) ** 2 * jnp.exp(-other_log_variance)
    return 0.5 * (jnp.expm1(gap) - gap + square)


def free_bits(kl: jax.Array, weights: jax.Array, *, minimum: jax.typing.ArrayLike) -> jax.Array:
    """Batch-mean divergence in which the first ``minimum`` nats of every latent unit are free.

    Without them a decoder that ignores the latent is the cheapest solution (posterior collapse).

    Args:
      kl: [..., z] divergence per latent unit.
      weights: [...] weight of each utterance; the mean is taken under it.
      minimum: [] nats per unit that cost nothing.

    Returns:
      [] float: the sum over units of max(minimum, mean divergence).

    References:
      Kingma et al., Improved Variational Inference with Inverse Autoregressive Flow, NeurIPS 2016,
      equation 15 in the appendix on free bits.
    """
    per_unit = jax.vmap(weighted_mean, in_axes=(-1, None))(kl, weights)
    return jnp.sum(jnp.maximum(per_unit, minimum))


def gaussian_reconstruction(prediction: jax.Array, target: jax.Array) -> jax.Array:
    """Negative log density of a unit-variance Gaussian, constant left out, in nats.

    Args:
      prediction: [..., d] the decoder's mean.
      target: [..., d] features.

    Returns:
      [...] float, half the squared distance.

    Example:
      >>> gaussian_reconstruction(jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 1.0]]))
      Array([2.5], dtype=float32)
    """
    return jnp.sum(optax.l2_loss(prediction, target), axis=-1)


def least_squares_adversarial(scores: jax.Array, wanted: jax.typing.ArrayLike) -> jax.Array:
    """Least-squares adversarial loss, which keeps a gradient where a discriminator is sure.

    A discriminator's target is 1 for real and 0 for generated examples; a generator's is 1.

    Args:
      scores: [...] the discriminator's scores.
      wanted: [] or [...] the target score of the network that is trained.

    Returns:
      [...] float, 1/2 (scores - wanted)^2.

    Example:
      >>> least_squares_adversarial(jnp.array([3.0]), 1.0)
      Array([2.], dtype=float32)

    References:
      Mao et al., Least Squares GAN, ICCV 2017, equation 2 with a = 0, b = c = 1.
    """
    return optax.l2_loss(scores, jnp.broadcast_to(wanted, scores.shape).astype(scores.dtype))


def identity_loss(source: jax.Array, reconstructed: jax.Array) -> jax.Array:
    """Mean absolute distance between a source feature and its way there and back.

    Args:
      source: [..., d] x.
      reconstructed: [..., d] G_{T>S}(G_{S>T}(x)).

    Returns:
      [...] float, not negative.

    References:
      CBERL, the zeta_identity of its GAN figure; Zhu et al., CycleGAN, ICCV 2017, equation 2.
    """
    return jnp.mean(jnp.abs(source - reconstructed), axis=-1)
