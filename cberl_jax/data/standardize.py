"""Standardised features, and their principal components, by statistics of the train split."""

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cberl_jax.config.views import group_views
from cberl_jax.data.corpus import Corpus

# Standardised features beyond this many standard deviations are cut: openSMILE functionals have
# columns with a few values hundreds of deviations out, which would drown a batch.
LARGEST_DEVIATION = 10.0


class Standardiser(NamedTuple):
    """Train statistics of each view, kept with the model: d_v features in, w_v numbers out.

    A modality without views is one of its own name. Each view is standardised and reduced for
    itself; the views of a modality are then joined side by side, in the order of their names. Where
    an utterance lacks a view and has another, the columns of the one it lacks are zero, which is
    their mean over train.

    Attributes:
      mean: view -> [d_v].
      scale: view -> [d_v], the standard deviation; 1 for a constant column.
      axes: view -> [d_v, w_v], of views that are reduced: the principal axes of the standardised
        features, scaled so that the components have unit variance.
    """

    mean: Mapping[str, np.ndarray]
    scale: Mapping[str, np.ndarray]
    axes: Mapping[str, np.ndarray]

    @property
    def widths(self) -> dict[str, int]:
        """View -> d_v."""
        return {view: mean.shape[-1] for view, mean in self.mean.items()}

    def __call__(
        self, features: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Standardises features, view -> [N, d_v], and joins them.

        Returns:
          modality -> [N, w_m], the sum of its views' w_v; zero where ``present`` is false.
        """
        return self.join(self.of_views(features, present))

    def of_views(
        self, features: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Standardises features, view -> [N, w_v]; zero where ``present`` is false."""
        standardised = {}
        for view in self.mean:
            values = self.transform(view, features[view].astype(np.float64))
            values[~present[view]] = 0.0
            standardised[view] = values.astype(np.float32)
        return standardised

    def transform(self, view: str, values: Any) -> Any:
        """Standardises [N, d_v] values of one view: numpy's or jax's, in their precision."""
        values = _cut((values - self.mean[view]) / self.scale[view])
        if view in self.axes:
            values = _cut(values @ self.axes[view].astype(values.dtype))
        return values

    def join(
        self, values: Mapping[str, Any], concatenate: Callable[..., Any] = np.concatenate
    ) -> dict[str, Any]:
        """Joins what the views of a modality hold, view -> [..., w_v], to modality -> [..., w_m].

        Args:
          values: numpy's arrays, or jax's.
          concatenate: of ``numpy``, or of ``jax.numpy``.
        """
        return {
            modality: values[views[0]]
            if len(views) == 1
            else concatenate([values[view] for view in views], axis=-1)
            for modality, views in group_views(self.mean).items()
        }

    def presence(self, present: Mapping[str, Any]) -> dict[str, Any]:
        """Whether any view of a modality is there: view -> [N] bool to modality -> [N] bool."""
        return {
            modality: functools.reduce(operator.or_, (present[view] for view in views))
            for modality, views in group_views(self.mean).items()
        }


def _cut(deviations: Any) -> Any:
    return deviations.clip(-LARGEST_DEVIATION, LARGEST_DEVIATION)


def standardised_widths(widths: Mapping[str, int], components: int) -> dict[str, int]:
    """View -> w_v, given its width d_v and how many components are kept (0 = all)."""
    return {view: min(width, components or width) for view, width in widths.items()}


def model_widths(widths: Mapping[str, int], components: int) -> dict[str, int]:
    """Modality -> w_m, as the model sees it, given the width d_v of each view."""
    kept = standardised_widths(widths, components)
    return {m: sum(kept[view] for view in views) for m, views in group_views(widths).items()}


def empty_standardiser(widths: Mapping[str, int], components: int) -> Standardiser:
    """A standardiser of the right shapes, to read a stored one into."""
    kept = standardised_widths(widths, components)
    statistics = {v: np.zeros(width, np.float32) for v, width in widths.items()}
    axes = {
        v: np.zeros((width, kept[v]), np.float32) for v, width in widths.items() if kept[v] < width
    }
    return Standardiser(statistics, statistics, axes)


def stack_standardisers(each: Sequence[Standardiser]) -> Standardiser:
    """The standardisers of F folds as one, leaves [F, ...]."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *each)


def standardiser_of(folds: Standardiser, number: int) -> Standardiser:
    """That of one fold, of leaves [F, ...]."""
    return jax.tree.map(lambda leaf: leaf[number], folds)


def fit_standardiser(corpus: Corpus, components: int = 0) -> Standardiser:
    """Fits on the train utterances in which the view is present.

    Args:
      corpus: the corpus.
      components: principal components that wider views are reduced to; 0 = as they are.
    """
    train = corpus.in_split("train")
    widths = standardised_widths(corpus.widths, components)
    mean, scale, axes = {}, {}, {}
    for view, values in corpus.features.items():
        seen = values[train & corpus.present[view]].astype(np.float64)
        mean[view] = seen.mean(axis=0).astype(np.float32)
        deviation = seen.std(axis=0)
        constant = deviation <= 1e-6 * np.abs(seen).max(axis=0)
        scale[view] = np.where(constant, 1.0, deviation).astype(np.float32)
        if widths[view] < values.shape[1]:
            standardised = _cut((seen - mean[view]) / scale[view])
            axes[view] = _principal_axes(standardised, widths[view])
    return Standardiser(mean, scale, axes)


def _principal_axes(values: np.ndarray, components: int) -> np.ndarray:
    """[d, w] axes onto which [n, d] values with mean zero have unit variance, or none at all."""
    from sklearn.decomposition import PCA

    found = PCA(min(components, *values.shape), svd_solver="full").fit(values)
    deviation = np.sqrt(found.explained_variance_)
    # Directions that the train split does not have stay empty.
    there = deviation > 1e-6 * deviation.max()
    axes = np.zeros((values.shape[1], components), np.float32)
    axes[:, : len(there)] = np.where(there, found.components_.T / np.where(there, deviation, 1), 0)
    return axes
