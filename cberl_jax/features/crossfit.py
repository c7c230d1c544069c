"""Cross-fitting: train features by encoders that did not see their labels, all in one space.

The dialogues of train are divided into K folds, and K encoders are tuned, each without one fold. An
utterance of train has the features of the encoder that did not see it, so that they are no more
separable than those of new conversations; any other has the mean over the K encoders.

Each tuning ends in a space of its own. Those of the encoders 1 to K-1 are brought into that of
encoder 0 by a rotation (with reflections), the solution of the orthogonal Procrustes problem
(Schoenemann, Psychometrika 1966) on the features, less their means, of the train utterances that
both encoders have learned from: distances and angles within a space remain what they are.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cberl_jax.data.holdout import rank_dialogues
from cberl_jax.data.readers.npz import read_arrays
from cberl_jax.data.readers.transcripts import Transcript
from cberl_jax.errors import UserError
from cberl_jax.runtime.files import replacing

# The parts of an alignment.
_PARTS = ("mean", "rotation", "target")


class Alignment(NamedTuple):
    """How features come from one space into another: ``(x - mean) rotation + target``.

    Attributes:
      mean: [d] float32, of the space's own features.
      rotation: [d, d] float32, orthogonal.
      target: [d] float32, mean of the other space's.
    """

    mean: np.ndarray
    rotation: np.ndarray
    target: np.ndarray

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Features [..., d] of the one space in the other."""
        return ((features - self.mean) @ self.rotation + self.target).astype(np.float32)


def align(features: np.ndarray, wanted: np.ndarray) -> Alignment:
    """The rotation and shift that bring features nearest to others of the same utterances.

    Args:
      features: [n, d] float.
      wanted: [n, d] float.

    Returns:
      The alignment with the least squared distance.
    """
    mean, target = features.mean(axis=0), wanted.mean(axis=0)
    product = (features - mean).astype(np.float64).T @ (wanted - target).astype(np.float64)
    left, _, right = np.linalg.svd(product)
    parts = (mean, left @ right, target)
    return Alignment(*(part.astype(np.float32) for part in parts))


def fold_of(transcript: Transcript, folds: int, seed: int = 0) -> np.ndarray:
    """The fold of every utterance of train.

    Args:
      transcript: the conversations.
      folds: K, at least 2.
      seed: of the choice.

    Returns:
      [N] int in 0..K-1, whole dialogues, those with rare emotions spread over the folds; -1 outside
      of train.

    Raises:
      UserError: train has fewer dialogues than folds.
    """
    train = np.flatnonzero(transcript.split == "train")
    if len(train) < folds:
        raise UserError(
            f"{transcript.source}: --crossfit={folds} needs as many train dialogues, and there are "
            f"{len(train)}."
        )
    label = transcript.label[transcript.in_split("train")]
    order = rank_dialogues(label, transcript.length[train], np.random.default_rng(seed))
    fold = np.full(len(transcript.dialogue), -1)
    fold[train[order]] = np.arange(len(train)) % folds
    return np.repeat(fold, transcript.length)


def combine(
    features: Sequence[np.ndarray], alignments: Sequence[Alignment | None], fold: np.ndarray
) -> np.ndarray:
    """One set of features out of those of K encoders.

    Args:
      features: K times [N, d], of all utterances; rows of nan remain.
      alignments: K ways into the common space; None for the encoder whose space it is.
      fold: [N] int, the encoder that has not seen the utterance; -1 where none has.

    Returns:
      [N, d] float32.
    """
    there = np.stack([a.apply(f) if a else f for f, a in zip(features, alignments)])
    mean = there.mean(axis=0, dtype=np.float64).astype(np.float32)
    out_of_fold = there[np.maximum(fold, 0), np.arange(len(fold))]
    return np.where(fold[:, None] >= 0, out_of_fold, mean)


def align_folds(
    features: Sequence[np.ndarray], learned: Callable[[int], np.ndarray]
) -> list[Alignment | None]:
    """The ways of the encoders' features into the space of encoder 0.

    Args:
      features: K times [N, d].
      learned: fold -> [n] int, the rows that its encoder has learned from.

    Returns:
      K alignments, None for encoder 0.
    """
    ways: list[Alignment | None] = [None]
    for k in range(1, len(features)):
        both = np.intersect1d(learned(0), learned(k))
        ways.append(align(features[k][both], features[0][both]))
    return ways


def write_alignments(path: Path, ways: Sequence[Alignment | None]) -> None:
    """Writes the ways into the common space; the first encoder's is none."""
    arrays = {f"{name}{k}": part for k, way in enumerate(ways) for name, part in _named(way)}
    with replacing(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_alignments(path: Path, folds: int) -> list[Alignment | None]:
    """The ways that ``write_alignments`` has written, of K folds.

    Raises:
      UserError: the file is not there or damaged.
    """
    known = {f"{name}{k}" for k in range(1, folds) for name in _PARTS}
    arrays = read_arrays(str(path), known.__contains__)
    missing = sorted(known - arrays.keys())
    if missing:
        raise UserError(f"{path}: the key {missing[0]!r} is missing; tune the encoder again.")
    return [None] + [Alignment(*(arrays[f"{n}{k}"] for n in _PARTS)) for k in range(1, folds)]


def _named(way: Alignment | None) -> list[tuple[str, np.ndarray]]:
    return list(zip(_PARTS, way)) if way else []
