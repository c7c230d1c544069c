"""The packed corpus as it lies on the device, shared by all members."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from cberl_jax.data.augmentation import Placement
from cberl_jax.data.corpus import Corpus
from cberl_jax.data.gate import Reference, create_gate
from cberl_jax.data.packing import Rows, choose_row_length, pack, pack_dialogues, turns_of
from cberl_jax.data.standardize import Standardiser, standardiser_of

# Neighbours of SMOTE's original paper.
SMOTE_NEIGHBOURS = 5


class Table(NamedTuple):
    """Standardised utterances.

    Attributes:
      features: modality -> [N, d_m] float, zero where absent; with folds [F, N, d_m], since each is
        standardised by its own train split.
      present: modality -> [N] bool.
      fold: [] int, which of the F counts; None without folds.
    """

    features: Mapping[str, np.ndarray]
    present: Mapping[str, np.ndarray]
    fold: np.ndarray | None = None

    def look_up(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """The features of some utterances, modality -> [..., d_m]."""
        if self.fold is None:
            return {m: values[index] for m, values in self.features.items()}
        return {m: values[self.fold, index] for m, values in self.features.items()}

    def take(self, index: np.ndarray) -> "Table":
        """The table of some utterances [n], of all folds."""
        features = {m: values[..., index, :] for m, values in self.features.items()}
        return Table(features, {m: there[index] for m, there in self.present.items()}, self.fold)


class Domains(NamedTuple):
    """The GAN's two domains: utterances of the train split by class.

    Attributes:
      source: [S] int indices of majority utterances.
      target: [T] int indices of minority utterances, sorted by class.
      start: [Q] int, where each minority class begins in ``target``.
      count: [Q] int, its utterances.
      sources: [] int, S; ``source`` may be longer, as that of another fold is.
      groups: [] int, Q; likewise.
    """

    source: np.ndarray
    target: np.ndarray
    start: np.ndarray
    count: np.ndarray
    sources: np.ndarray
    groups: np.ndarray


class Dataset(NamedTuple):
    """All that training reads.

    Attributes:
      table: the corpus's N utterances.
      label: [N] int.
      train: rows of the train split.
      dev: rows of the dev split.
      test: rows of the test split, None unless training is to look at it after every epoch.
      place: [M] int, the train utterances whose place a generated one may take.
      sources: [M, k] int, what that one may be made from.
      neighbours: [M, n] int, the train utterances that SMOTE may move it towards; n = 0 where
        nothing is interpolated.
      counts: [C] real labelled train utterances per class.
      generated: [C] generated utterances that each class is filled up by.
      domains: the GAN's domains.
      gate: what the choice of the GAN's epoch is made by, from ``create_gate``; empty where the
        last one is kept.
    """

    table: Table
    label: np.ndarray
    train: Rows
    dev: Rows
    test: Rows | None
    place: np.ndarray
    sources: np.ndarray
    neighbours: np.ndarray
    counts: np.ndarray
    generated: np.ndarray
    domains: Domains
    gate: Mapping[str, Reference]


def create_table(corpus: Corpus, standardiser: Standardiser, folds: int = 0) -> Table:
    """Standardises all utterances of a corpus.

    Args:
      corpus: the corpus.
      standardiser: its train statistics; with folds those of all, leaves [F, ...].
      folds: F, 0 without.

    Returns:
      The table; with folds ``fold`` is still to be set.
    """
    present = standardiser.presence(corpus.present)
    if not folds:
        return Table(standardiser(corpus.features, corpus.present), present)
    each = (standardiser_of(standardiser, n) for n in range(folds))
    each = [own(corpus.features, corpus.present) for own in each]
    return Table({m: np.stack([features[m] for features in each]) for m in present}, present)


def own_table(table: Table, rows: Rows) -> tuple[Table, Rows]:
    """The utterances that rows [R, L] hold as a table of R L, and the rows that point into it."""
    used = rows.segment > 0
    # As many as there are cells: the program's shapes hang on the rows' shape alone.
    utterances = rows.index.reshape(-1)
    own = np.arange(utterances.size, dtype=np.int32).reshape(rows.index.shape)
    return table.take(utterances), rows._replace(index=np.where(used, own, 0))


def create_domains(corpus: Corpus, minority: np.ndarray) -> Domains:
    """Splits the labelled train utterances by whether their class is a minority one."""
    usable = np.flatnonzero(corpus.in_split("train") & (corpus.label >= 0))
    label = corpus.label[usable]
    rare = minority[label]
    target = usable[rare][np.argsort(label[rare], kind="stable")]
    _, start, count = np.unique(corpus.label[target], return_index=True, return_counts=True)
    fields = (usable[~rare], target, start, count, len(usable) - len(target), len(start))
    return Domains(*(np.asarray(field, np.int32) for field in fields))


def find_neighbours(corpus: Corpus, table: Table, place: np.ndarray, most: int) -> np.ndarray:
    """The train utterances of an utterance's class, and with its views, nearest to it.

    Distances are Euclidean over all standardised features, as in SMOTE (Chawla et al. 2002), whose
    k is ``most``. imbalanced-learn's SMOTE gives loose rows, not what each was made from: a row
    could then not take the place of an utterance in its conversation.

    Args:
      corpus: the corpus.
      table: its standardised utterances.
      place: [M] int, labelled train utterances.
      most: neighbours of each, at most; a class with fewer repeats them, one without any has
        itself.

    Returns:
      [M, most] int indices into the corpus.
    """
    # Imported in the functions of this wing that need it: that takes longer than to import jax.
    from sklearn.neighbors import NearestNeighbors

    found = np.repeat(place[:, None], most, axis=1).astype(np.int32)
    if not found.size:
        return found
    features = np.concatenate([table.features[m] for m in sorted(table.features)], axis=1)
    present = np.stack([corpus.present[name] for name in sorted(corpus.present)], axis=1)
    kind = np.column_stack([corpus.label, present])
    usable = np.flatnonzero(corpus.in_split("train"))
    for one in np.unique(kind[place], axis=0):
        pool = usable[np.all(kind[usable] == one, axis=1)]
        wanted = np.flatnonzero(np.all(kind[place] == one, axis=1))
        nearest = min(most, len(pool) - 1)
        if not nearest:
            continue
        search = NearestNeighbors(n_neighbors=nearest).fit(features[pool])
        # Asked about its own points, the search would count each as its own neighbour.
        own = np.searchsorted(pool, place[wanted])
        near = pool[search.kneighbors(return_distance=False)[own]]
        found[wanted] = near[:, np.arange(most) % nearest]
    return found


class Layout(NamedTuple):
    """What of a corpus lies on the devices, and in rows of which size.

    Attributes:
      rows_per_batch: rows in a step.
      row_length: turns in a row of train and dev; 0 for the length that pads least.
      with_test: whether the test split is packed too.
      with_gate: whether the generated classes of dev are measured.
    """

    rows_per_batch: int
    row_length: int = 0
    with_test: bool = False
    with_gate: bool = False


def create_dataset(
    corpus: Corpus,
    standardiser: Standardiser,
    placement: Placement,
    layout: Layout,
    neighbours: int = 0,
) -> Dataset:
    """Packs the train and the dev split into whole batches.

    Args:
      corpus: the corpus.
      standardiser: its train statistics.
      placement: its generated utterances.
      layout: of the rows.
      neighbours: how many SMOTE chooses from; 0 where nothing is interpolated.
    """
    rows_per_batch, row_length = layout.rows_per_batch, layout.row_length
    if not row_length:
        row_length = choose_row_length(corpus.length[corpus.split != "test"], rows_per_batch)
    packed = {
        name: pack(
            turns_of(corpus, np.flatnonzero(corpus.split == name)), row_length, rows_per_batch
        )
        for name in ("train", "dev")
    }
    table = create_table(corpus, standardiser)
    # In rows of its own length: how the other splits are packed must not depend on test.
    test = None
    if layout.with_test:
        test = pack_dialogues(corpus, corpus.split == "test", rows_per_batch)
    gate = {}
    if layout.with_gate and len(placement.place):
        first = placement.sources[:, 0]
        gate = create_gate(corpus, table.features, table.present, placement.place, first)
    return Dataset(
        table=table,
        label=corpus.label,
        train=packed["train"],
        dev=packed["dev"],
        test=test,
        place=placement.place,
        sources=placement.sources,
        neighbours=find_neighbours(corpus, table, placement.place, neighbours),
        counts=corpus.class_counts("train").astype(np.float32),
        generated=placement.generated.astype(np.float32),
        domains=create_domains(corpus, placement.minority),
        gate=gate,
    )
