"""Classes out of what a file holds instead: real numbers, and names that nothing is labelled by."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from cberl_jax.data.corpus import UNLABELLED, Corpus


def cut_labels(values: np.ndarray, edges: Sequence[float]) -> np.ndarray:
    """Real numbers cut into classes.

    Args:
      values: [N] float; nan where there is no label.
      edges: [C + 1] rising. A value on an edge belongs to the class above it, one on the last
        edge to the last class.

    Returns:
      [N] int32 in 0..C-1, ``UNLABELLED`` for nan and for what lies outside of the edges.
    """
    values, edges = np.asarray(values, float), np.asarray(edges, float)
    label = np.searchsorted(edges, values, side="right") - 1
    label[values == edges[-1]] = len(edges) - 2
    outside = np.isnan(values) | (label < 0) | (label > len(edges) - 2)
    return np.where(outside, UNLABELLED, label).astype(np.int32)


def name_bins(edges: Sequence[float]) -> tuple[str, ...]:
    """Names of the classes that ``cut_labels`` makes: ``-3 to 0``, ``0 to 3``."""
    return tuple(f"{low:g} to {high:g}" for low, high in zip(edges, edges[1:]))


def are_crossed(reading: Mapping[int, str], classes: Sequence[str]) -> bool:
    """Whether numbers that are read as places in a list of classes are also names in it.

    Labels 1 and 2 of the classes ``1``, ``2`` and ``3`` would by their places be ``2`` and ``3``.

    Args:
      reading: number -> the class that it is read as; empty beyond the list.
      classes: names of all.
    """
    named = all(str(number) in classes for number in reading)
    return named and any(str(number) != name for number, name in reading.items())


def keep_used_classes(corpus: Corpus) -> Corpus:
    """The corpus without the classes that no utterance of the file has.

    A model would have outputs for them and could predict them, though nothing teaches it when.

    Args:
      corpus: any corpus; its labels are in range.

    Returns:
      The corpus, its labels renumbered; the same corpus where all classes are used, or fewer than
      two are.
    """
    counts = np.bincount(corpus.label[corpus.label >= 0], minlength=len(corpus.classes))
    used = np.flatnonzero(counts)
    if len(used) < 2 or len(used) == len(corpus.classes):
        return corpus
    number = np.full(len(counts) + 1, UNLABELLED, np.int32)
    number[used] = np.arange(len(used))
    absent = ", ".join(name for name, count in zip(corpus.classes, counts) if not count)
    remark = f"classes that no utterance has, which are left out: {absent}"
    return dataclasses.replace(
        corpus,
        classes=tuple(corpus.classes[c] for c in used),
        label=number[corpus.label],
        remarks=(*corpus.remarks, remark),
    )
