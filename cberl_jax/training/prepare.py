"""From settings to what a training needs: corpus, packed rows, the static program, members."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cberl_jax.config.settings import Value, check_config, model_settings, numeric_settings
from cberl_jax.data.augmentation import place_generated
from cberl_jax.data.corpus import Corpus
from cberl_jax.data.dataset import SMOTE_NEIGHBOURS, Dataset, create_dataset
from cberl_jax.data.readers.load import load_corpus
from cberl_jax.data.readers.options import ReadingOptions, parse_options
from cberl_jax.data.standardize import Standardiser, fit_standardiser, standardised_widths
from cberl_jax.data.subset import keep_train_share, select_modalities
from cberl_jax.data.validate import check_repeats, check_train
from cberl_jax.errors import UserError
from cberl_jax.models.cberl import CBERL
from cberl_jax.models.flow import Flow
from cberl_jax.models.gan import GAN
from cberl_jax.training.epoch import Program

# The remedies with networks of their own.
TRAINED = ("gan", "flow")


class Prepared(NamedTuple):
    """A corpus made ready for training.

    Attributes:
      corpus: the corpus, with the chosen modalities.
      standardiser: its train statistics.
      data: its packed rows.
      program: the static half of the training.
      generated: [C] generated utterances that each class is filled up by.
    """

    corpus: Corpus
    standardiser: Standardiser
    data: Dataset
    program: Program
    generated: np.ndarray


def create_program(
    config: ConfigDict, widths: Mapping[str, int], generated: Sequence[int]
) -> Program:
    """The static half of a training.

    Args:
      config: the settings.
      widths: modality -> d_m of the corpus.
      generated: [C] generated utterances per class; there is a GAN if that makes them.
    """
    classes = len(generated)
    kept = standardised_widths(widths, config.data.components)
    model = CBERL(model_settings(config), tuple(kept.items()), classes)
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
        epochs=config.train.epochs,
        patience=config.train.patience,
        select=config.train.select,
        best_on_test=config.train.best_on_test,
    )


def reading_options(config: ConfigDict) -> ReadingOptions:
    """How the settings say that files are to be read.

    Raises:
      UserError: a setting is not of its form.
    """
    data = config.data
    return parse_options(data.classes, data.corpus, data.splits, data.bins, data.dev_share)


def load_data(config: ConfigDict) -> Corpus:
    """Reads the corpus that the settings name, and of it what they choose.

    Raises:
      UserError: a setting is wrong, the corpus cannot be read or is not sound, or its splits share
        dialogues and ``data.allow_repeats`` is off.
    """
    check_config(config)
    if not config.data.path:
        raise UserError("no corpus is named: give --data=FILE, or --data=simulated:small")
    corpus = load_corpus(config.data.path, config.data.text_layers, reading_options(config))
    if not config.data.allow_repeats:
        check_repeats(corpus)
    corpus = select_modalities(corpus, config.data.modalities)
    kept = keep_train_share(corpus, config.data.train_share)
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


def prepare(config: ConfigDict, corpus: Corpus) -> Prepared:
    """Standardises and packs a corpus, and plans its generated utterances.

    Raises:
      UserError: dev has no labelled utterance, or test has none and is to be looked at
        (``train.best_on_test``).
    """
    check_labelled(corpus, ("dev", "test") if config.train.best_on_test else ("dev",))
    standardiser = fit_standardiser(corpus, config.data.components)
    method = config.augment.method
    placement = place_generated(
        corpus,
        balance=0.0 if method == "none" else config.augment.balance,
        max_ratio=config.augment.max_ratio,
        translated=method in TRAINED,
    )
    data = create_dataset(
        corpus,
        standardiser,
        placement,
        config.train.rows_per_batch,
        neighbours=SMOTE_NEIGHBOURS if method == "smote" else 0,
        with_test=config.train.best_on_test,
        with_gate=method in TRAINED and config.gan.gate,
    )
    program = create_program(config, corpus.widths, placement.generated)
    return Prepared(corpus, standardiser, data, program, placement.generated)


class Members(NamedTuple):
    """S members of one program.

    Attributes:
      seeds: [S] int.
      hyper: numeric settings, name -> [S] float.
      settings: per member, in which settings it differs from the others of a sweep.
    """

    seeds: np.ndarray
    hyper: dict[str, np.ndarray]
    settings: Sequence[Mapping[str, Value]]

    def part(self, start: int, end: int) -> "Members":
        """The members from ``start`` to before ``end``."""
        here = slice(start, end)
        hyper = {name: values[here] for name, values in self.hyper.items()}
        return Members(self.seeds[here], hyper, self.settings[here])


def list_members(
    config: ConfigDict, seeds: Sequence[int], points: Sequence[Mapping[str, Value]] = ({},)
) -> Members:
    """Every seed at every point of a grid.

    Args:
      config: the settings that all members share.
      seeds: the seeds.
      points: per point the settings in which it differs from the others; of these the numeric ones
        count here, the static ones are to be in ``config``.

    Returns:
      The members, point by point.
    """
    settings = [point for point in points for _ in seeds]
    shared = numeric_settings(config)
    hyper = {
        name: np.asarray([point.get(name, value) for point in settings], np.float32)
        for name, value in shared.items()
    }
    return Members(np.tile(np.asarray(seeds, np.int32), len(points)), hyper, settings)
