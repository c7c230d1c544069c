"""Measures of generated utterances by nearest neighbours: fidelity, diversity, distance travelled.

All take points [n, d] of one class; ``generated_quality.py`` says which utterances those are. A
measure that fewer than ``FEWEST`` points would decide is None.
"""

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

# Neighbours whose distance is the radius around a point (Naeem et al. 2020, section 4).
NEIGHBOURS = 5
# With fewer points than this a radius would reach nearly all others.
FEWEST = 2 * NEIGHBOURS


def _radii(points: np.ndarray) -> np.ndarray:
    """[n] distance of each point to its ``NEIGHBOURS``-th nearest other one."""
    between = cdist(points, points)
    np.fill_diagonal(between, np.inf)
    return np.sort(between, axis=1)[:, NEIGHBOURS - 1]


def neighbourhood_measures(
    candidates: np.ndarray, real: np.ndarray, seed: int
) -> dict[str, float] | None:
    """Precision, recall, density and coverage of candidates against real points.

    Around each point lies a ball whose radius is the distance to its ``NEIGHBOURS``-th nearest
    neighbour of its own kind. As many candidates are drawn as there are real points, or the other
    way round: the measures depend on both numbers.

    Args:
      candidates: [m, d].
      real: [n, d].
      seed: of the draw.

    Returns:
      ``precision``: share of candidates in the ball of a real point; ``recall``: share of real
      points in the ball of a candidate; ``density``: real balls that a candidate lies in, over
      ``NEIGHBOURS``: about 1 for draws of the same distribution, and higher where candidates crowd
      in the middle; ``coverage``: share of real points with a candidate in their ball.

    References:
      Kynkäänniemi et al., Improved Precision and Recall Metric for Assessing Generative Models,
      NeurIPS 2019; Naeem et al., Reliable Fidelity and Diversity Metrics, ICML 2020, equations 3
      and 4.
    """
    count = min(len(candidates), len(real))
    if count < FEWEST:
        return None
    candidates, real = (_draw(points, count, seed) for points in (candidates, real))
    between = cdist(candidates, real)
    in_real = between <= _radii(real)
    in_candidates = between <= _radii(candidates)[:, None]
    return {
        "precision": float(np.mean(in_real.any(axis=1))),
        "recall": float(np.mean(in_candidates.any(axis=0))),
        "density": float(np.mean(in_real.sum(axis=1) / NEIGHBOURS)),
        "coverage": float(np.mean(in_real.any(axis=0))),
    }


def _draw(points: np.ndarray, count: int, seed: int) -> np.ndarray:
    chosen = np.random.default_rng(seed).choice(len(points), count, replace=False)
    return np.asarray(points, np.float64)[chosen]


def two_sample_accuracy(first: np.ndarray, second: np.ndarray, seed: int) -> float | None:
    """How well a nearest-neighbour classifier tells two samples apart: 0.5 is not at all.

    Equally many points of each are used, in five folds; the neighbours are as many as the square
    root of the points that are learnt from.

    Args:
      first: [m, d].
      second: [n, d].
      seed: of the draw and of the folds.

    Returns:
      The share of held-out points that are assigned to their own sample.

    References:
      Lopez-Paz and Oquab, Revisiting Classifier Two-Sample Tests, ICLR 2017, section 3.
    """
    count = min(len(first), len(second))
    if count < FEWEST:
        return None
    points = np.concatenate([_draw(first, count, seed), _draw(second, count, seed)])
    sample = np.repeat([0, 1], count)
    model = KNeighborsClassifier(int(np.sqrt(1.6 * count)))
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    return float(np.mean(cross_val_predict(model, points, sample, cv=folds) == sample))


def distance_travelled(
    generated: np.ndarray, sources: np.ndarray, real: np.ndarray, held_out: np.ndarray
) -> np.ndarray | None:
    """How far each generated point has come from its source towards the class.

    The distance of a point to the class is its mean distance to the ``NEIGHBOURS`` nearest real
    ones. On the scale from the sources' mean distance (0) to that of held-out real points (1), a
    point has travelled from where its own source lies to where it lies itself. Above 1 it is
    nearer than real ones are: too typical.

    Args:
      generated: [n, d].
      sources: [n, d], what each was made from.
      real: [r, d] real train points of the class.
      held_out: [h, d] other real points of the class.

    Returns:
      [n], or None where the sources are no farther from the class than real points are.
    """
    if min(map(len, (generated, real, held_out))) < FEWEST:
        return None

    def distance(points):
        return np.sort(cdist(points, real), axis=1)[:, :NEIGHBOURS].mean(axis=1)

    start = distance(sources)
    way = start.mean() - distance(held_out).mean()
    return (start - distance(generated)) / way if way > 0 else None
