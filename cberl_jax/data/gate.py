"""How far generated utterances are from the real ones of dev, for the choice of a GAN's epoch.

The more a GAN learns, the better its generators pass, until they know the few minority utterances
of train by heart or please the classifier alone. So the epoch that is kept is the one whose
generated utterances are nearest to dev, by the Fréchet distance of every class and modality, with
the same number of utterances in all epochs.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cberl_jax.data.corpus import Corpus

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

Array = np.ndarray | jax.Array

# Axes of the subspace of Fréchet distances: a covariance of d axes has d (d + 1) / 2 entries, and a
# rare class has a few dozen held-out utterances to tell them by.
COMPONENTS = 8
# With fewer utterances than this a distance is not taken: it would be luck.
FEWEST = 5


class Moments(NamedTuple):
    """Mean [k] and covariance [k, k]."""

    mean: Array
    covariance: Array


def fit_moments(values: Array, weight: Array | None = None) -> Moments:
    """Mean and covariance of points.

    Args:
      values: [n, k].
      weight: [n] 1 for the points that count, 0 for the others; by default all do. Two points at
        least have to count.

    Returns:
      The mean and the unbiased covariance.
    """
    xp = jnp if isinstance(values, jax.Array) else np
    if xp is np:
        values = np.asarray(values, np.float64)
    weight = xp.ones(len(values)) if weight is None else weight
    total = xp.sum(weight)
    mean = weight @ values / total
    offsets = (values - mean) * weight[:, None]
    return Moments(mean, offsets.T @ offsets / (total - 1.0))


def frechet_distance(first: Moments, second: Moments) -> Array:
    """The squared Fréchet distance of two Gaussians.

      |mu_1 - mu_2|^2 + Tr(Sigma_1 + Sigma_2 - 2 (Sigma_1^1/2 Sigma_2 Sigma_1^1/2)^1/2)

    Args:
      first: of numpy or jax arrays.
      second: the same.

    Returns:
      [] float.

    References:
      Dowson and Landau, The Fréchet Distance between Multivariate Normal Distributions, 1982.
      Heusel et al., GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
      Equilibrium, 2017, equation 6 (FID).
    """
    xp = jnp if isinstance(second.mean, jax.Array) else np
    scale, axes = xp.linalg.eigh(first.covariance)
    root = (axes * xp.sqrt(xp.maximum(scale, 0.0))) @ axes.T
    product = xp.linalg.eigvalsh(root @ second.covariance @ root)
    overlap = xp.sum(xp.sqrt(xp.maximum(product, 0.0)))
    spread = xp.trace(first.covariance) + xp.trace(second.covariance) - 2 * overlap
    # Rounding may take the distance of equal ones below zero.
    return xp.maximum(xp.sum((first.mean - second.mean) ** 2) + spread, 0.0)


def fit_subspace(values: np.ndarray) -> "PCA":
    """The ``COMPONENTS`` principal axes of points [n, d], or as many as there can be."""
    from sklearn.decomposition import PCA

    return PCA(min(COMPONENTS, *values.shape), svd_solver="covariance_eigh").fit(values)


def count_axes(held_out: int, width: int) -> int:
    """How many of the axes are used: at least two held-out utterances for each."""
    return min(COMPONENTS, width, held_out // 2)


class Reference(NamedTuple):
    """One modality of the Q generated classes in dev; M generated utterances are compared with it.

    Attributes:
      centre: [d] of the subspace.
      axes: [d, k] of the subspace.
      used: [Q, k] 1 for the axes that a class's held-out utterances suffice for, else 0.
      dev: Moments with leading axis Q, in the used axes.
      chosen: [Q, M] 1 for the generated utterances of the class that have the modality, else 0; 1
        for all where there is nothing to compare.
      before: [Q] the sources' distance; 0 where there are too few utterances to compare.
    """

    centre: np.ndarray
    axes: np.ndarray
    used: np.ndarray
    dev: Moments
    chosen: np.ndarray
    before: np.ndarray


def create_gate(
    corpus: Corpus,
    features: Mapping[str, np.ndarray],
    present: Mapping[str, np.ndarray],
    place: np.ndarray,
    source: np.ndarray,
) -> dict[str, Reference]:
    """Measures the classes of dev, and the sources of the generated utterances.

    Args:
      corpus: N utterances.
      features: modality -> [N, d_m], standardised.
      present: modality -> [N] bool.
      place: [M] int, the utterances whose place the generated ones take.
      source: [M] int, what those are made from.

    Returns:
      Modality -> its reference, of those in which there is a class to compare.
    """
    gate, classes = {}, np.unique(corpus.label[place])
    for modality, values in features.items():
        there = present[modality]
        chosen = (corpus.label[place] == classes[:, None]) & there[source]
        of_dev = corpus.in_split("dev") & (corpus.label == classes[:, None]) & there
        if not np.any(_enough(of_dev, chosen)):
            continue
        # A constant modality has no share of variance, and later no distance.
        with np.errstate(invalid="ignore"):
            subspace = fit_subspace(values[corpus.in_split("train") & there])
        gate[modality] = _create_reference(subspace, values, of_dev, source, chosen)
    return gate


def _enough(of_dev: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """[Q] bool, classes with enough utterances on both sides."""
    return np.minimum(of_dev.sum(axis=1), chosen.sum(axis=1)) >= FEWEST


def _create_reference(
    subspace: "PCA", values: np.ndarray, of_dev: np.ndarray, source: np.ndarray, chosen: np.ndarray
) -> Reference:
    """The reference of one modality, given values [N, d], of_dev [Q, N] and chosen [Q, M]."""
    projected = subspace.transform(values)
    known, width = _enough(of_dev, chosen), projected.shape[1]
    used = np.array([count_axes(n, width) for n in of_dev.sum(axis=1)])
    used = np.arange(width) < np.where(known, used, 0)[:, None]
    # A class that is not compared has no axes; any two points have moments all the same.
    points = [projected[own if k else slice(2)] * u for own, k, u in zip(of_dev, known, used)]
    dev = [fit_moments(own) for own in points]
    before = [
        float(frechet_distance(m, fit_moments(projected[source[own]] * u))) if k else 0.0
        for m, own, u, k in zip(dev, chosen, used, known)
    ]
    arrays = (
        subspace.mean_,
        subspace.components_.T,
        used,
        Moments(*map(np.stack, zip(*dev))),
        chosen | ~known[:, None],
        np.array(before),
    )
    return Reference(*jax.tree.map(np.float32, arrays))


def _class_distances(reference: Reference, values: jax.Array) -> jax.Array:
    """[Q] distance of the generated [M, d] of each class to its dev utterances."""
    projected = (values - reference.centre) @ reference.axes

    def of_class(used, dev, chosen):
        return frechet_distance(dev, fit_moments(projected * used, chosen))

    return jax.vmap(of_class)(reference.used, reference.dev, reference.chosen)


def gate_distance(gate: Mapping[str, Reference], made: Mapping[str, jax.Array]) -> jax.Array:
    """How far generated utterances are from dev, as a share of how far their sources are.

    Args:
      gate: from ``create_gate``, not empty.
      made: modality -> [M, d_m].

    Returns:
      [] float, the mean over modalities and classes: 1 for unchanged sources, 0 at best; also 1
      where there is nothing to compare, as in constant features.
    """
    shares, compared = jnp.float32(0.0), jnp.int32(0)
    for modality, reference in gate.items():
        known = reference.before > 0
        before = jnp.where(known, reference.before, 1.0)
        share = _class_distances(reference, made[modality]) / before
        shares += jnp.sum(jnp.where(known, share, 0.0))
        compared += jnp.sum(known)
    mean = shares / jnp.maximum(compared, 1).astype(shares.dtype)
    return jnp.where(compared > 0, mean, 1.0)
