"""Standardised features, and their principal components, by statistics of the train split."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from sklearn.decomposition import PCA

from cberl_jax.data.corpus import Corpus

# Standardised features beyond this many standard deviations are cut: openSMILE functionals have
# columns with a few values hundreds of deviations out, which would drown a batch.
LARGEST_DEVIATION = 10.0


class Standardiser(NamedTuple):
    """Train statistics of each modality, kept with the model: d_m features in, w_m numbers out.

    Attributes:
      mean: modality -> [d_m].
      scale: modality -> [d_m], the standard deviation; 1 for a constant column.
      axes: modality -> [d_m, w_m], of modalities that are reduced: the principal axes of the
        standardised features, scaled so that the components have unit variance.
    """

    mean: Mapping[str, np.ndarray]
    scale: Mapping[str, np.ndarray]
    axes: Mapping[str, np.ndarray]

    @property
    def widths(self) -> dict[str, int]:
        """Modality -> d_m."""
        return {modality: mean.shape[-1] for modality, mean in self.mean.items()}

    def __call__(
        self, features: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Standardises features, modality -> [N, w_m]; zero where ``present`` is false."""
        standardised = {}
        for modality in self.mean:
            values = self.transform(modality, features[modality].astype(np.float64))
            values[~present[modality]] = 0.0
            standardised[modality] = values.astype(np.float32)
        return standardised

    def transform(self, modality: str, values: Any) -> Any:
        """Standardises [N, d_m] values of one modality: numpy's or jax's, in their precision."""
        values = _cut((values - self.mean[modality]) / self.scale[modality])
        if modality in self.axes:
            values = _cut(values @ self.axes[modality].astype(values.dtype))
        return values


def _cut(deviations: Any) -> Any:
    return deviations.clip(-LARGEST_DEVIATION, LARGEST_DEVIATION)


def standardised_widths(widths: Mapping[str, int], components: int) -> dict[str, int]:
    """Modality -> w_m, given its width d_m and how many components are kept (0 = all)."""
    return {m: min(width, components or width) for m, width in widths.items()}


def empty_standardiser(widths: Mapping[str, int], components: int) -> Standardiser:
    """A standardiser of the right shapes, to read a stored one into."""
    kept = standardised_widths(widths, components)
    statistics = {m: np.zeros(width, np.float32) for m, width in widths.items()}
    axes = {
        m: np.zeros((width, kept[m]), np.float32) for m, width in widths.items() if kept[m] < width
    }
    return Standardiser(statistics, statistics, axes)


def stack_standardisers(each: Sequence[Standardiser]) -> Standardiser:
    """The standardisers of F folds as one, leaves [F, ...]."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *each)


def standardiser_of(folds: Standardiser, number: int) -> Standardiser:
    """That of one fold, of leaves [F, ...]."""
    return jax.tree.map(lambda leaf: leaf[number], folds)


def fit_standardiser(corpus: Corpus, components: int = 0) -> Standardiser:
    """Fits on the train utterances in which the modality is present.

    Args:
      corpus: the corpus.
      components: principal components that wider modalities are reduced to; 0 = as they are.
    """
    train = corpus.in_split("train")
    widths = standardised_widths(corpus.widths, components)
    mean, scale, axes = {}, {}, {}
    for modality, values in corpus.features.items():
        seen = values[train & corpus.present[modality]].astype(np.float64)
        mean[modality] = seen.mean(axis=0).astype(np.float32)
        deviation = seen.std(axis=0)
        constant = deviation <= 1e-6 * np.abs(seen).max(axis=0)
        scale[modality] = np.where(constant, 1.0, deviation).astype(np.float32)
        if widths[modality] < values.shape[1]:
            standardised = _cut((seen - mean[modality]) / scale[modality])
            axes[modality] = _principal_axes(standardised, widths[modality])
    return Standardiser(mean, scale, axes)


def _principal_axes(values: np.ndarray, components: int) -> np.ndarray:
    """[d, w] axes onto which [n, d] values with mean zero have unit variance, or none at all."""
    found = PCA(min(components, *values.shape), svd_solver="full").fit(values)
    deviation = np.sqrt(found.explained_variance_)
    # Directions that the train split does not have stay empty.
    there = deviation > 1e-6 * deviation.max()
    axes = np.zeros((values.shape[1], components), np.float32)
    axes[:, : len(there)] = np.where(there, found.components_.T / np.where(there, deviation, 1), 0)
    return axes
