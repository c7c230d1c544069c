"""How good generated utterances are: measures on single utterances, without any network.

Four questions, all asked in the standardised feature space: can a classifier learn the minority
classes from them (``train_sets``, ``score_classifier``), are they distributed as real ones that
nothing was fitted on (``frechet_distances``), are they more than copies (``memorised``,
``unmoved``), and are they taken for the class that they were to express (``agreement``)? Real
utterances are measured by the same rules beside them, since none of the figures means much alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from cberl_jax.data.gate import FEWEST, count_axes, fit_moments, frechet_distance
from cberl_jax.evaluation.manifold import distance_travelled
from cberl_jax.metrics import evaluate_predictions
from cberl_jax.training.gan_step import Utterances

# Weight of half the squared norm beside the mean loss of a logistic regression: of 0.001 to 1 the
# best on dev of both forms of MELD and, within the noise, of the other corpora.
PENALTY = 0.1
# A neighbourhood of t-SNE holds 30 points.
FEWEST_FOR_TSNE = 100
# As its authors do: van der Maaten and Hinton, Visualizing Data using t-SNE, JMLR 2008, section 4.
COMPONENTS_FOR_TSNE = 30


def choose(utterances: Utterances, where: np.ndarray) -> Utterances:
    """The utterances at some indices, or where a mask [n] is true."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[where], utterances)


def of_class(utterances: Utterances, label: int) -> Utterances:
    """The utterances of one class."""
    return choose(utterances, utterances.label == label)


def vectors(utterances: Utterances) -> np.ndarray:
    """[n, sum d_m] the modalities side by side, by name; zero where absent."""
    return np.concatenate(
        [np.asarray(utterances.features[m]) for m in sorted(utterances.features)], axis=1
    )


def complete(utterances: Utterances) -> Utterances:
    """The utterances that have all modalities."""
    return choose(utterances, np.all(list(utterances.present.values()), axis=0))


def values_of(utterances: Utterances, modality: str) -> np.ndarray:
    """[n, d_m] one modality of the utterances that have it."""
    return np.asarray(utterances.features[modality])[np.asarray(utterances.present[modality])]


def fit_classifier(utterances: Utterances) -> LogisticRegression:
    """Fits a logistic regression on single utterances, in which all classes weigh the same.

    Else more utterances of a class would raise its recall whatever they look like, and that would
    pass for a merit of the generated ones.
    """
    model = LogisticRegression(
        C=1 / (PENALTY * len(utterances.label)), class_weight="balanced", max_iter=1000
    )
    return model.fit(vectors(utterances), utterances.label)


def predict_classes(classifier: LogisticRegression, utterances: Utterances) -> np.ndarray:
    """[n] int, the class that each utterance is taken for."""
    if not len(utterances.label):
        return np.zeros(0, np.int64)
    return classifier.predict(vectors(utterances))


def score_classifier(
    classifier: LogisticRegression,
    utterances: Utterances,
    classes: Sequence[str],
    minority: np.ndarray,
) -> dict[str, Any]:
    """Scores a classifier on real utterances that it has not seen.

    Args:
      classifier: from ``fit_classifier``.
      utterances: labelled ones, at least one.
      classes: names of the C classes.
      minority: [Q] int, the classes that are generated.

    Returns:
      ``macro_f1``; ``f1``, name of minority class -> F1, None with fewer than ``FEWEST``
      utterances; ``minority_f1``, the mean of those that are not None, or None.
    """
    guess = np.eye(len(classes))[predict_classes(classifier, utterances)]
    scores = evaluate_predictions(utterances.label, guess, classes)
    per_class = {classes[label]: scores["per_class"][classes[label]] for label in minority}
    f1 = {n: own["f1"] if own["support"] >= FEWEST else None for n, own in per_class.items()}
    known = [value for value in f1.values() if value is not None]
    return {
        "minority_f1": float(np.mean(known)) if known else None,
        "macro_f1": scores["macro_f1"],
        "f1": f1,
    }


def concatenate(*parts: Utterances) -> Utterances:
    """All utterances of several records."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def train_sets(
    train: Utterances, sources: Utterances, generated: Utterances, seed: int
) -> dict[str, Utterances]:
    """What classifiers are trained on to compare generated utterances with real ones.

    Args:
      train: real labelled train utterances.
      sources: what the generated ones were made from, labelled as those are.
      generated: their classes are the minority.
      seed: of the draw of as many utterances of a minority class as there are both real and
        generated.

    Returns:
      ``real``, ``generated`` and ``sources``: the real majority, and of each minority class equally
      many utterances, all real, all generated, or all sources, which shows what a generator that
      changes nothing would reach. ``real_and_generated``: everything.

    References:
      Esteban, Hyland and Rätsch, Real-valued (Medical) Time Series Generation with Recurrent
      Conditional GANs, 2017 (train on synthetic, test on real).
    """
    minority = np.unique(generated.label)
    fewest = {c: min(np.sum(x.label == c) for x in (train, generated)) for c in minority}
    majority = choose(train, ~np.isin(train.label, minority))

    def with_majority(utterances):
        generator = np.random.default_rng(seed)
        places = {label: np.flatnonzero(utterances.label == label) for label in minority}
        drawn = [generator.choice(places[c], fewest[c], replace=False) for c in minority]
        return concatenate(majority, choose(utterances, np.concatenate(drawn)))

    return {
        "real": with_majority(train),
        "generated": with_majority(generated),
        "sources": with_majority(sources),
        "real_and_generated": concatenate(train, generated),
    }


class Comparison(NamedTuple):
    """How a class's distributions of one modality are compared; a size the figures depend on.

    Attributes:
      sample: utterances of each group that the held-out ones are compared with.
      held_out: utterances.
      components: principal axes.
    """

    sample: int
    held_out: int
    components: int


def plan_comparison(groups: Mapping[str, np.ndarray], held_out: np.ndarray) -> Comparison | None:
    """Sizes that are fair to all groups: as many of each as the smallest has.

    The fewer utterances, the fewer axes: at least two utterances for each.

    Args:
      groups: name -> [n, d].
      held_out: [h, d].

    Returns:
      The sizes, or None with fewer than ``FEWEST`` utterances on either side.
    """
    sample = min(map(len, groups.values()))
    smallest = min(sample, len(held_out))
    if smallest < FEWEST:
        return None
    return Comparison(sample, len(held_out), count_axes(smallest, held_out.shape[1]))


def frechet_distances(
    groups: Mapping[str, np.ndarray],
    held_out: np.ndarray,
    subspace: PCA,
    sizes: Comparison,
    seed: int,
) -> dict[str, float]:
    """The Fréchet distance of each group to the held-out utterances.

    Few points make the distance of even equal distributions larger than zero: it means something
    only beside that of another group of equally many.

    Args:
      groups: name -> [n, d].
      held_out: [h, d].
      subspace: from ``fit_subspace``; its first axes are used.
      sizes: from ``plan_comparison``.
      seed: of the draw of ``sizes.sample`` points from each group.

    Returns:
      Name -> distance.
    """

    def fit(values):
        return fit_moments(subspace.transform(values)[:, : sizes.components])

    target, distances = fit(held_out), {}
    for name, values in groups.items():
        generator = np.random.default_rng(seed)
        drawn = generator.choice(len(values), sizes.sample, replace=False)
        distances[name] = float(frechet_distance(fit(values[drawn]), target))
    return distances


def memorised(candidates: Utterances, real: Utterances) -> float | None:
    """The share of candidates that lie as close to a real utterance as only a copy should.

    A candidate counts where its nearest real utterance r is at least as close to it as r's own
    nearest real neighbour is to r: each is the other's nearest. A share of 1 means copies, but it
    is far from 0 for fresh draws of the same distribution too: for 270 points of a standard normal
    one 0.67 in one dimension, 0.47 in 5, 0.24 in 50. Hence it is to be read beside the share of
    held-out real utterances. Below that, the candidates keep away from the real ones: they are not
    copies, and not like them either.

    Args:
      candidates: of one class.
      real: the train utterances of that class.

    Returns:
      The share among candidates that have all modalities; None with fewer than ``FEWEST``
      candidates or real utterances.
    """
    points, others = (vectors(complete(x)).astype(np.float64) for x in (candidates, real))
    if min(len(points), len(others)) < FEWEST:
        return None
    between = cdist(others, others)
    np.fill_diagonal(between, np.inf)
    to_real = cdist(points, others)
    nearest = to_real.argmin(axis=1)
    return float(np.mean(to_real.min(axis=1) <= between.min(axis=1)[nearest]))


def unmoved(generated: Utterances, sources: Utterances, train: Utterances) -> float | None:
    """The share of generated utterances that are still nearest to what they were made from.

    Args:
      generated: of one class.
      sources: of each the train utterance that it was made from.
      train: the real train utterances of all classes.

    Returns:
      The share for which no real train utterance is nearer than the source, among those that have
      all modalities; None with fewer than ``FEWEST`` of these.
    """
    points, own, others = (
        vectors(complete(x)).astype(np.float64) for x in (generated, sources, train)
    )
    if len(points) < FEWEST:
        return None
    search = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(others)
    nearest = others[search.kneighbors(points, return_distance=False)[:, 0]]
    # The distances of the search itself are rounded.
    gaps = (np.linalg.norm(points - there, axis=1) for there in (own, nearest))
    return float(np.mean(np.less_equal(*gaps)))


def travelled_by(
    generated: Utterances, sources: Utterances, train: Utterances, held_out: Utterances
) -> np.ndarray | None:
    """How far each generated utterance has come from its source towards its class.

    Args:
      generated: of one class.
      sources: of each the train utterance that it was made from.
      train: the real train utterances of that class.
      held_out: other real utterances of that class.

    Returns:
      ``distance_travelled`` of those that have all modalities.
    """
    return distance_travelled(
        *(vectors(complete(x)) for x in (generated, sources, train, held_out))
    )


def agreement(predicted: np.ndarray, label: np.ndarray, wanted: int) -> float | None:
    """The share of a class's utterances that are taken for it; None with fewer than ``FEWEST``.

    Args:
      predicted: [n] int.
      label: [n] int.
      wanted: the class.
    """
    own = predicted[label == wanted]
    return float(np.mean(own == wanted)) if len(own) >= FEWEST else None


def project(values: np.ndarray) -> tuple[np.ndarray, str]:
    """Lays points out in the plane, near ones near, always the same way.

    Args:
      values: [n, d], two points at least.

    Returns:
      [n, 2] and the method: ``t-SNE``, or ``PCA`` where those are fewer than
      ``FEWEST_FOR_TSNE``, or all alike.
    """
    # Two columns at least, so that there are two axes.
    values = np.pad(values, ((0, 0), (0, max(0, 2 - values.shape[1]))))
    spread = np.ptp(values, axis=0).max()
    if not spread:
        return np.zeros((len(values), 2)), "PCA"
    if len(values) < FEWEST_FOR_TSNE or spread < 1e-6:
        return PCA(2, svd_solver="full").fit_transform(values), "PCA"
    # Against scikit-learn's own settings neighbours are kept as well, in a third of the time (700
    # utterances of MELD: trustworthiness 0.922 and 0.919). On a busy machine threads that wait for
    # each other take far longer than one.
    with threadpool_limits(1):
        if min(values.shape) > COMPONENTS_FOR_TSNE:
            values = PCA(COMPONENTS_FOR_TSNE, svd_solver="full").fit_transform(values)
        return TSNE(max_iter=400, angle=0.8, random_state=0).fit_transform(values), "t-SNE"
