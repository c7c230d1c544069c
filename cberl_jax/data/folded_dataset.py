"""The datasets of several folds as one that lies on the device.

All folds share the utterances; what differs is standardised, chosen or counted by each fold's own
train split. Arrays of different lengths are padded with entries that nothing reads.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cberl_jax.data.dataset import Dataset, Domains, Table
from cberl_jax.data.gate import Reference
from cberl_jax.data.packing import Rows


class FoldedDataset(NamedTuple):
    """All that the training of F folds reads.

    Attributes:
      table: the corpus's N utterances, features [F, N, d_m].
      label: [N] int.
      folds: leaves [F, ...]; its table and labels are None.
    """

    table: Table
    label: np.ndarray
    folds: Dataset

    def of_fold(self, fold: Any) -> Dataset:
        """What a member of one fold reads; its number may be traced."""
        own = jax.tree.map(lambda leaf: leaf[fold], self.folds)
        return own._replace(table=self.table._replace(fold=fold), label=self.label)


def dataset_of(data: Dataset | FoldedDataset, hyper: Mapping[str, Any]) -> Dataset:
    """What a member reads; with folds its settings name its own."""
    return data.of_fold(hyper["fold"]) if isinstance(data, FoldedDataset) else data


def fold_datasets(datasets: Sequence[Dataset]) -> FoldedDataset:
    """Joins the datasets of all folds, whose rows have the same length; test is not looked at."""
    label, tables = datasets[0].label, [own.table for own in datasets]
    features = {m: np.stack([own.features[m] for own in tables]) for m in tables[0].features}
    table = Table(features, tables[0].present)
    folds = Dataset(
        table=None,
        label=None,
        train=stack_rows([own.train for own in datasets]),
        dev=stack_rows([own.dev for own in datasets]),
        test=None,
        # No utterance has that place.
        place=_stack([own.place for own in datasets], fill=len(label)),
        sources=_stack([own.sources for own in datasets]),
        neighbours=_stack([own.neighbours for own in datasets]),
        counts=np.stack([own.counts for own in datasets]),
        generated=np.stack([own.generated for own in datasets]),
        domains=Domains(*map(_stack, zip(*(own.domains for own in datasets)))),
        gate=_stack_gates([own.gate for own in datasets]),
    )
    return FoldedDataset(table, label, folds)


def stack_rows(each: Sequence[Rows]) -> Rows:
    """Rows [R, L] of F folds as [F, R, L], padded with empty rows."""
    fills = Rows(index=0, segment=0, speaker=0, label=-1, weight=0)
    return Rows(*(_stack(arrays, fill) for arrays, fill in zip(zip(*each), fills)))


def _stack(arrays: Sequence[np.ndarray], fill: float = 0) -> np.ndarray:
    """[F, ...] of arrays that are padded at the end of every axis to the longest."""
    arrays = [np.asarray(array) for array in arrays]
    shape = np.max([array.shape for array in arrays], axis=0).astype(int)
    stacked = np.full((len(arrays), *shape), fill, arrays[0].dtype)
    for number, array in enumerate(arrays):
        stacked[(number, *map(slice, array.shape))] = array
    return stacked


def _stack_gates(gates: Sequence[Mapping[str, Reference]]) -> dict[str, Reference]:
    """The references of all modalities that any fold can compare; those of the others are empty."""
    stacked = {}
    for modality in dict.fromkeys(name for gate in gates for name in gate):
        some = next(gate[modality] for gate in gates if modality in gate)
        # Without a known distance before, a class does not count, whatever it holds.
        nothing = jax.tree.map(np.zeros_like, some)
        each = [gate.get(modality, nothing) for gate in gates]
        leaves, structure = zip(*map(jax.tree.flatten, each))
        joined = jax.tree.unflatten(structure[0], [_stack(own) for own in zip(*leaves)])
        # Moments of no points would not be finite.
        compared = joined.before > 0
        chosen = np.where(compared[..., None], joined.chosen, 1.0).astype(np.float32)
        stacked[modality] = joined._replace(chosen=chosen)
    return stacked
