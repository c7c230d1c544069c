"""From settings to what a training needs: corpus, packed rows, the static program, members."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cberl_jax.config.settings import (
    Value,
    check_config,
    list_frozen,
    model_settings,
    traced_settings,
    with_folds,
)
from cberl_jax.data.augmentation import place_generated
from cberl_jax.data.corpus import Corpus
from cberl_jax.data.dataset import SMOTE_NEIGHBOURS, Dataset, Layout, create_dataset
from cberl_jax.data.folded_dataset import FoldedDataset, fold_datasets
from cberl_jax.data.folds import Folds, check_unseen, make_folds, split_by_fold
from cberl_jax.data.holdout import with_other_dev
from cberl_jax.data.packing import choose_row_length
from cberl_jax.data.readers.fold_file import read_folds
from cberl_jax.data.readers.load import load_corpus
from cberl_jax.data.readers.options import ReadingOptions, parse_options
from cberl_jax.data.standardize import (
    Standardiser,
    fit_standardiser,
    model_widths,
    stack_standardisers,
)
from cberl_jax.data.subset import keep_train_share, select_modalities, select_views
from cberl_jax.data.validate import check_repeats, check_train
from cberl_jax.errors import UserError
from cberl_jax.models.cberl import CBERL
from cberl_jax.models.flow import Flow
from cberl_jax.models.gan import GAN
from cberl_jax.training.epoch import Program
from cberl_jax.training.transfer import (
    Start,
    check_splits,
    shared_modalities,
    start_standardiser,
)

# The remedies with networks of their own.
TRAINED = ("gan", "flow")


class Prepared(NamedTuple):
    """A corpus made ready for training.

    Attributes:
      corpus: the corpus, with the chosen modalities and views.
      standardiser: its train statistics; with folds those of all, leaves [F, ...].
      data: its packed rows.
      program: the static half of the training.
      generated: [C] generated utterances that each class is filled up by; with folds their mean,
        rounded up.
      folds: which fold each dialogue is tested in; None where the corpus's own splits count.
      by_fold: [F] each fold made ready as a corpus of its own; empty without folds.
      start: what members start from; None for parameters that are drawn.
    """

    corpus: Corpus
    standardiser: Standardiser
    data: Dataset | FoldedDataset
    program: Program
    generated: np.ndarray
    folds: Folds | None = None
    by_fold: tuple["Prepared", ...] = ()
    start: Start | None = None

    @property
    def each(self) -> tuple["Prepared", ...]:
        """Every fold as a corpus with its splits; without folds the corpus itself."""
        return self.by_fold or (self,)

    @property
    def splits(self) -> "Splits":
        """The corpus as it is split."""
        return Splits(self.folds, tuple(own.corpus for own in self.each))


def create_program(
    config: ConfigDict, widths: Mapping[str, int], generated: Sequence[int]
) -> Program:
    """The static half of a training on jax's devices.

    Args:
      config: the settings.
      widths: of the corpus, modality or view -> d.
      generated: [C] generated utterances per class; there is a GAN if that makes them.
    """
    classes = len(generated)
    kept = model_widths(widths, config.data.components)
    model = CBERL(model_settings(config, jax.default_backend()), tuple(kept.items()), classes)
    gan = None
    if config.augment.method == "gan" and any(generated):
        gan = GAN(config.gan.hidden, config.gan.noise, classes)
    elif config.augment.method == "flow" and any(generated):
        gan = Flow(config.gan.hidden, classes)
    return Program(
        model=model,
        gan=gan,
        gan_steps=config.gan.steps,
        gan_batch=config.gan.batch_size,
        rows=config.train.rows_per_batch,
        select=config.train.select,
        best_on_test=config.train.best_on_test,
        frozen=list_frozen(config),
        precision=config.train.precision,
    )


def reading_options(config: ConfigDict) -> ReadingOptions:
    """How the settings say that files are to be read.

    Raises:
      UserError: a setting is not of its form.
    """
    data = config.data
    options = parse_options(data.classes, data.corpus, data.splits, data.bins, data.dev_share)
    return dataclasses.replace(options, without_splits=with_folds(config))


def load_data(config: ConfigDict) -> Corpus:
    """Reads the corpus that the settings name, and of it what they choose.

    Raises:
      UserError: a setting is wrong, the corpus cannot be read or is not sound, its splits share
        dialogues and ``data.allow_repeats`` is off, or another dev split is to be drawn from train
        whose labels an encoder has seen and ``data.allow_seen`` is off.
    """
    check_config(config)
    if not config.data.path:
        raise UserError("no corpus is named: give --data=FILE, or --data=simulated:small")
    corpus = load_corpus(config.data.path, config.data.text_layers, reading_options(config))
    # With folds, the file's splits do not count: those of each fold are checked.
    if not (config.data.allow_repeats or with_folds(config)):
        check_repeats(corpus)
    corpus = select_modalities(select_views(corpus, config.data.views), config.data.modalities)
    if config.data.other_dev and not config.data.allow_seen:
        check_unseen(corpus)
    kept = keep_train_share(corpus, config.data.train_share)
    kept = with_other_dev(kept, config.data.other_dev)
    if kept is not corpus:
        check_train(kept)
    return kept


def check_labelled(corpus: Corpus, splits: Sequence[str] = ("dev", "test")) -> None:
    """Refuses a corpus without anything to choose an epoch or to compare scores by.

    Args:
      corpus: the corpus.
      splits: those whose labels are needed.

    Raises:
      UserError: one of them has no labelled utterance.
    """
    for split in splits:
        if not corpus.class_counts(split).any():
            raise corpus.error(f"split {split!r} has no labelled utterance")


def find_folds(config: ConfigDict, corpus: Corpus) -> Folds | None:
    """The folds that the settings ask for, None where the corpus's own splits count.

    Raises:
      UserError: they cannot be made.
    """
    data = config.data
    if data.folds and not data.folds.isdecimal():
        if data.fold_by:
            raise UserError(f"data.folds = {data.folds!r}: is a file, which needs no data.fold_by")
        return read_folds(corpus, data.folds)
    if data.folds or data.fold_by:
        return make_folds(corpus, int(data.folds or 0), data.fold_by)
    return None


class Splits(NamedTuple):
    """A corpus with its own splits, or with those of each fold.

    Attributes:
      folds: which fold each dialogue is tested in; None where the corpus's own splits count.
      corpora: [F] the corpus with the splits of each fold; else the corpus alone.
    """

    folds: Folds | None
    corpora: tuple[Corpus, ...]


def split_corpus(config: ConfigDict, corpus: Corpus) -> Splits:
    """Splits a corpus by the folds that the settings ask for.

    Raises:
      UserError: they cannot be made, or nothing could be learnt in one.
    """
    folds = find_folds(config, corpus)
    if folds is None:
        return Splits(None, (corpus,))
    if not config.data.allow_seen:
        check_unseen(corpus)
    corpora = []
    for number, name in enumerate(folds.names):
        try:
            own = split_by_fold(corpus, folds, number, config.data.fold_dev)
            check_train(own)
            if not config.data.allow_repeats:
                check_repeats(own)
        except UserError as error:
            raise UserError(f"fold {name}: {error}") from error
        corpora.append(own)
    return Splits(folds, tuple(corpora))


def prepare(config: ConfigDict, corpus: Corpus, start: Start | None = None) -> Prepared:
    """Standardises and packs a corpus, and plans its generated utterances.

    Args:
      config: the settings.
      corpus: the corpus.
      start: what members start from, whose statistics then count; None for nothing.

    Raises:
      UserError: dev has no labelled utterance, or test has none and is to be looked at
        (``train.best_on_test``); or folds cannot be made; or what members start from has learnt
        from their dev or test and ``data.allow_seen`` is off.
    """
    folds, corpora = split_corpus(config, corpus)
    if start is not None and not config.data.allow_seen:
        check_splits(start, corpora)
    if folds is None:
        return _prepare(config, corpus, start)
    # Every dialogue is in train of some fold.
    row_length = choose_row_length(corpus.length, config.train.rows_per_batch)
    own = [_prepare(config, split, start, row_length) for split in corpora]
    generated = np.ceil(np.mean([one.generated for one in own], axis=0)).astype(int)
    return Prepared(
        corpus,
        stack_standardisers([one.standardiser for one in own]),
        fold_datasets([one.data for one in own]),
        create_program(config, corpus.widths, generated),
        generated,
        folds,
        tuple(own),
        start,
    )


def _prepare(
    config: ConfigDict, corpus: Corpus, start: Start | None, row_length: int = 0
) -> Prepared:
    """A corpus whose own splits count; ``row_length`` as of ``Layout``."""
    check_labelled(corpus, ("dev", "test") if config.train.best_on_test else ("dev",))
    standardiser = fit_standardiser(corpus, config.data.components)
    if start is not None:
        shared = shared_modalities(start, corpus, config.data.components)
        standardiser = start_standardiser(standardiser, start, shared)
    method = config.augment.method
    placement = place_generated(
        corpus,
        balance=0.0 if method == "none" else config.augment.balance,
        max_ratio=config.augment.max_ratio,
        translated=method in TRAINED,
    )
    layout = Layout(
        config.train.rows_per_batch,
        row_length,
        with_test=config.train.best_on_test,
        with_gate=method in TRAINED and config.gan.gate,
    )
    neighbours = SMOTE_NEIGHBOURS if method == "smote" else 0
    data = create_dataset(corpus, standardiser, placement, layout, neighbours)
    program = create_program(config, corpus.widths, placement.generated)
    return Prepared(corpus, standardiser, data, program, placement.generated, start=start)


class Members(NamedTuple):
    """S members of one program.

    Attributes:
      seeds: [S] int.
      hyper: settings that the program takes as arrays, name -> [S] float; with folds ``fold`` ->
        [S] int, its own.
      settings: per member, in which settings it differs from the others of a sweep.
      folds: F, how many in a row are one seed's models of all folds; 1 without.
    """

    seeds: np.ndarray
    hyper: dict[str, np.ndarray]
    settings: Sequence[Mapping[str, Value]]
    folds: int = 1

    def part(self, start: int, end: int) -> "Members":
        """The members from ``start`` to before ``end``."""
        here = slice(start, end)
        hyper = {name: values[here] for name, values in self.hyper.items()}
        return Members(self.seeds[here], hyper, self.settings[here], self.folds)


def list_members(
    config: ConfigDict,
    seeds: Sequence[int],
    points: Sequence[Mapping[str, Value]] = ({},),
    folds: int = 1,
) -> Members:
    """Every seed at every point of a grid, of every fold.

    Args:
      config: the settings that all members share.
      seeds: the seeds.
      points: per point the settings in which it differs from the others; of these the numeric ones
        count here, the static ones are to be in ``config``.
      folds: F, 1 without.

    Returns:
      The members, point by point, seed by seed.
    """
    settings = [point for point in points for _ in seeds for _ in range(folds)]
    shared = traced_settings(config)
    hyper = {
        name: np.asarray([point.get(name, value) for point in settings], np.float32)
        for name, value in shared.items()
    }
    runs = len(points) * len(seeds)
    if folds > 1:
        hyper["fold"] = np.tile(np.arange(folds, dtype=np.int32), runs)
    each = np.repeat(np.tile(np.asarray(seeds, np.int32), len(points)), folds)
    return Members(each, hyper, settings, folds)
