"""Every setting with its default, bounds and meaning; which are compiled in and which are traced.

A *numeric* setting is an array: members that differ only in these share one compiled program. All
others are *static*: they decide shapes or switch parts off. A setting's dotted name is the same in
a config file, in a flag (``--config.loss.gamma=2``) and in a sweep's grid.
"""

import dataclasses
import difflib
import importlib.util
import math
import os
import sys
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ml_collections import ConfigDict

from cberl_jax.errors import UserError
from cberl_jax.metrics import SELECTIONS
from cberl_jax.models.cberl import PARTS, ModelSettings
from cberl_jax.models.mgnn import ATTENTIONS, BLOCKS
from cberl_jax.models.precision import DEFAULT, PRECISIONS

Value = bool | int | float | str

# Launches of kernels are half of an epoch on a GPU, and the LSTM's loop is half of them. Rows of
# more turns keep a loop: the program grows with the turns in a round.
GPU_UNROLL = 64
AUGMENTATIONS = ("gan", "flow", "smote", "repeat", "none")
# Programs that can show curves -> the package that writes for them.
CURVE_PROGRAMS = {"tensorboard": "tensorboardX", "wandb": "wandb"}


class Setting(NamedTuple):
    """One setting.

    Attributes:
      default: tuned on the dev splits of MELD and MOSI (docs/defaults.md).
      meaning: in a few words.
      low: smallest value allowed.
      high: largest value allowed.
      numeric: traced, not compiled in.
    """

    default: Value
    meaning: str
    low: float = -math.inf
    high: float = math.inf
    numeric: bool = False


def _numeric(default: float, meaning: str, high: float = math.inf, low: float = 0.0) -> Setting:
    return Setting(default, meaning, low, high, numeric=True)


def _count(default: int, meaning: str, low: int = 1) -> Setting:
    # Counts become integers of 32 bits.
    return Setting(default, meaning, low, 2**31 - 1)


SETTINGS = {
    "data.path": Setting("", "canonical .npz, pickle of the field, or simulated:<size>"),
    "data.classes": Setting("", "names of a pickle's classes in order, joined by commas"),
    "data.corpus": Setting(
        "", "whose classes a pickle's are: meld, iemocap, iemocap4, emorynlp, ..."
    ),
    "data.splits": Setting("", "a pickle's lists of ids in their order, such as train,test,dev"),
    "data.bins": Setting("", "edges that cut real-valued labels into classes, such as -3,0,3"),
    "data.dev_share": Setting(
        0.0, "share of train held out as dev where a file has none; 0 = the reader's", 0.0, 0.5
    ),
    "data.text_layers": Setting(
        "mean", "how roberta1..4 become text: mean, concat, 1 to 4, or views, each for itself"
    ),
    "data.modalities": Setting("all", "all, or names joined by commas"),
    "data.views": Setting(
        "", "views that are kept of their modality, such as text.minilm,text.mpnet; empty = all"
    ),
    "data.components": _count(
        0, "principal components that wider modalities or views are reduced to; 0 = all", 0
    ),
    "data.train_share": Setting(1.0, "share of the train dialogues that is used", 1e-6, 1.0),
    "data.other_dev": _count(
        0, "seed that draws other dialogues as dev, out of train; dev's own join train; 0 = none", 0
    ),
    "data.folds": Setting("", "number of folds, or a CSV of dialogue and fold; empty for none"),
    "data.fold_by": Setting(
        "", "what stays in one fold: speaker, session or a group of the file; empty for none"
    ),
    "data.fold_dev": Setting(0.15, "share of a fold's other dialogues that is dev", 1e-6, 0.5),
    "data.allow_seen": Setting(
        False,
        "make folds, or draw another dev, of features that were tuned on labels of train, or start "
        "from a run that was trained by other splits",
    ),
    "data.allow_repeats": Setting(False, "accept dialogues of train that are in dev or test too"),
    "augment.method": Setting("gan", f"what fills minority classes up: {', '.join(AUGMENTATIONS)}"),
    "augment.balance": Setting(
        0.15, "share of the largest class that every class is brought up to", 0.0, 1.0
    ),
    "augment.max_ratio": _count(4, "generated utterances for each real one of a class at most"),
    "augment.weight": _numeric(0.3, "weight of a generated utterance in the joint stage"),
    "gan.hidden": _count(128, "width of the GAN's hidden layers"),
    "gan.noise": _count(16, "width of the noise that the modalities share"),
    "gan.epochs": _count(12, "epochs of the GAN stage"),
    "gan.steps": _count(60, "optimiser steps in each of them"),
    "gan.batch_size": _count(64, "utterances of each domain in a step"),
    "gan.learning_rate": _numeric(5e-4, "Adam's learning rate in the GAN stage"),
    "gan.identity": _numeric(2.0, "weight of the L1 between a source feature and its way back"),
    "gan.adversarial": _numeric(1.0, "weight of all discriminators of the target"),
    "gan.triple": _numeric(1.0, "weight among them of the one of the generated triple"),
    "gan.joint": _numeric(1.0, "weight of the discriminator of the reconstructed triple"),
    "gan.classify": _numeric(0.05, "weight of the GAN's emotion classifier"),
    "gan.ema": _numeric(0.98, "decay of the averaged weights that generate", 0.99999),
    "gan.gate": Setting(True, "keep the epoch that is nearest to dev; else the last one"),
    "model.djvae": Setting(True, "fuse by the joint autoencoder; else by concatenation"),
    "model.bilstm": Setting(True, "run the BiLSTM"),
    "model.graph": Setting(True, "run the graph encoder"),
    "model.reconstruction": Setting(True, "mask nodes in training and rebuild them; needs graph"),
    "model.residual": Setting(True, "feed the standardised features to the classifiers too"),
    "model.residual_turns": _count(0, "with those of so many turns before it and after it", 0),
    "model.causal": Setting(False, "see no future turn"),
    "model.hidden": _count(128, "width of fusion, BiLSTM and graph; a multiple of heads, even"),
    "model.unroll": _count(
        0, f"turns in a round of the LSTM's loop; 0 = {GPU_UNROLL} on a GPU, 1 elsewhere", 0
    ),
    "model.latent": _count(32, "width of the autoencoder's latent"),
    "model.heads": _count(4, "attention heads"),
    "model.layers": _count(1, "graph attention layers"),
    "model.past": _count(8, "turns before an utterance that it sees in the graph", 0),
    "model.future": _count(8, "turns after it that it sees, unless causal", 0),
    "model.attention": Setting(
        BLOCKS, f"how attention in the graph is computed, not what: {', '.join(ATTENTIONS)}"
    ),
    "model.classifiers": _count(5, "weak classifiers"),
    "model.classifier_hidden": _count(32, "width of each one's hidden layer"),
    "model.subspace": Setting(0.7, "share of the features that each sees", 1e-6, 1.0),
    "mask.rate": _numeric(0.15, "mean share of masked nodes", 0.9),
    "mask.tau": _numeric(0.0, "masking by class, p(c) ~ n_c^-tau", 4.0, -4.0),
    "mask.swap": _numeric(0.1, "share of masked nodes that get another node's features", 1.0),
    "mask.alpha": _numeric(2.0, "exponent of the scaled cosine error", 10.0, 1.0),
    "mask.classify": _numeric(1.0, "weight of a masked node in the focal loss", 1.0),
    "loss.gamma": _numeric(1.0, "focusing factor of the focal loss", 100.0),
    "loss.class_balance": _numeric(
        0.999, "beta of the effective number of samples; 0 = equal class weights", 0.9999999
    ),
    "loss.logit_adjustment": _numeric(
        0.0, "times log prior, added to the logits in the focal loss", 10.0
    ),
    "loss.label_smoothing": _numeric(0.05, "share of the target spread over all classes", 0.9),
    "loss.mask": _numeric(0.5, "lambda_mask, weight of the scaled cosine error"),
    "loss.vae": _numeric(0.5, "lambda_vae, weight of the autoencoder's loss"),
    "loss.beta": _numeric(1.0, "weight of KL(q || N(0, I)); 1 = the evidence lower bound"),
    "loss.align": _numeric(0.1, "lambda_align, weight of sum_m KL(q || q_m)"),
    "loss.free_bits": _numeric(0.1, "nats per latent unit that cost nothing"),
    "loss.kl_warmup": _numeric(0.3, "share of the training over which beta grows from 0", 1.0),
    "optim.learning_rate": _numeric(2e-3, "AdamW's peak learning rate in the joint stage"),
    "optim.weight_decay": _numeric(0.5, "AdamW's weight decay, on matrices"),
    "optim.dropout": _numeric(0.3, "dropout rate of all layers", 0.95),
    "optim.input_dropout": _numeric(0.0, "dropout rate of the features that are fused", 0.95),
    "optim.clip": _numeric(1.0, "largest norm of a gradient", low=1e-6),
    "optim.ema": _numeric(0.98, "decay of the averaged weights that are evaluated", 0.99999),
    "optim.warmup": _numeric(0.05, "share of the training over which the rate grows", 1.0),
    "train.epochs": _count(12, "epochs of the joint stage"),
    "train.rows_per_batch": _count(8, "packed rows in a step"),
    "train.patience": _count(10, "epochs without a better dev score before a member stops"),
    "train.select": Setting("mean_f1", f"dev metric that picks the epoch: {', '.join(SELECTIONS)}"),
    "train.best_on_test": Setting(
        False, "also report the epoch that is best on test, as much published code does"
    ),
    "train.precision": Setting(
        DEFAULT,
        "of the training's matrix products: default (jax's: TF32 on GPUs since Ampere, bfloat16 on "
        "TPUs), float32, or bfloat16 (rounded factors, float32 sums; slow on a CPU)",
    ),
    "train.init": Setting("", "folder of a run whose members these start from; empty for none"),
    "train.freeze": Setting(
        "", f"parts that keep their parameters: {', '.join(PARTS)} (joined by commas)"
    ),
    "train.metrics": Setting(
        "", "also show every member's curves in: tensorboard, wandb (joined by commas)"
    ),
    "train.corpus_bytes": Setting(
        0,
        "bytes of a corpus's features on a device; rows of a larger one come from the host, in "
        "blocks; 0 = by the device's memory",
        0,
        2**50,
    ),
    "train.checkpoint_seconds": Setting(
        60.0, "time between checkpoints; 0 = after every epoch", 0.0
    ),
}
# No result depends on these: where the corpus lies, on disk and in memory, how it is read and by
# what its folds are made, as contents and folds are checked; where a run lies that it starts from,
# since that is checked, too; and what is written of a training, and when.
FREE_SETTINGS = (
    # No setting, but beside them in a run's config.json: how the features were made.
    "provenance",
    "data.path",
    "data.classes",
    "data.corpus",
    "data.splits",
    "data.bins",
    "data.dev_share",
    "data.folds",
    "data.fold_by",
    "data.allow_seen",
    "data.allow_repeats",
    "train.checkpoint_seconds",
    "train.corpus_bytes",
    "train.init",
    "train.metrics",
)
# Their values may be paths. Only the run's own folder keeps more of them than the last part.
PATHS = ("data.path", "data.folds", "train.init")
NUMERIC = tuple(name for name, setting in SETTINGS.items() if setting.numeric)
# With the length of a training, which is traced as well: another one compiles nothing. All members
# of a program share it, since the loop counts epochs for all of them.
TRACED = (*NUMERIC, "train.epochs", "train.patience")


def default_config() -> ConfigDict:
    """All settings at their defaults, by group."""
    groups: dict[str, dict[str, Value]] = {}
    for name, setting in SETTINGS.items():
        group, own = name.split(".")
        groups.setdefault(group, {})[own] = setting.default
    return ConfigDict(groups)


def describe_settings() -> str:
    """A line per setting, for the help."""
    return "\n".join(f"{name} = {s.default!r}: {s.meaning}" for name, s in SETTINGS.items())


def flatten(config: ConfigDict) -> dict[str, Value]:
    """Dotted name -> value of every setting."""
    return {
        f"{group}.{name}": value
        for group, settings in config.items()
        for name, value in settings.items()
    }


def without_folders(flat: Mapping[str, Value]) -> dict[str, Value]:
    """Settings that can be handed on: of paths the last part is left."""
    names = {name: str(flat[name]).rstrip("/") for name in PATHS if name in flat}
    return {**flat, **{name: os.path.basename(path) for name, path in names.items()}}


def traced_settings(config: ConfigDict) -> dict[str, float]:
    """Dotted name -> value of the settings that a program takes as arrays."""
    flat = flatten(config)
    return {name: float(flat[name]) for name in TRACED}


def model_settings(config: ConfigDict, platform: str) -> ModelSettings:
    """The joint model's static settings.

    Args:
      config: the settings.
      platform: that the program is for: ``cpu``, ``gpu`` or ``tpu``, as jax names its backends.
    """
    settings = ModelSettings(**config.model.to_dict())
    by_platform = GPU_UNROLL if platform == "gpu" else 1
    return dataclasses.replace(settings, unroll=settings.unroll or by_platform)


def with_folds(config: ConfigDict) -> bool:
    """Whether the corpus is split by folds."""
    return bool(config.data.folds or config.data.fold_by)


def list_frozen(config: ConfigDict) -> tuple[str, ...]:
    """The parts that ``train.freeze`` names.

    Raises:
      UserError: there is no such part.
    """
    named = {name.strip() for name in config.train.freeze.split(",") if name.strip()}
    unknown = sorted(named - PARTS.keys())
    if unknown:
        raise UserError(
            f"train.freeze = {config.train.freeze!r}: there is no part {unknown[0]!r}, only "
            f"{', '.join(PARTS)}"
        )
    return tuple(part for part in PARTS if part in named)


def curve_programs(config: ConfigDict) -> list[str]:
    """The programs that ``train.metrics`` names.

    Raises:
      UserError: there is no such program.
    """
    named = [name.strip() for name in config.train.metrics.split(",") if name.strip()]
    for name in named:
        if name not in CURVE_PROGRAMS:
            raise UserError(
                f"train.metrics = {config.train.metrics!r}: there is no {name!r}, only "
                f"{', '.join(CURVE_PROGRAMS)}"
            )
    return named


def check_known(names: Iterable[str]) -> None:
    """Refuses a setting that does not exist.

    Raises:
      UserError: naming it and the nearest one.
    """
    for name in names:
        if name not in SETTINGS:
            near = difflib.get_close_matches(name, SETTINGS, 1, 0.0)[0]
            raise UserError(f"there is no setting {name!r}; the nearest is {near!r}")


def check_types(flat: Mapping[str, object]) -> None:
    """Refuses a setting of another type than its default's; a float may be written as an int.

    Raises:
      UserError: naming the setting, its value and its type.
    """
    for name, value in flat.items():
        wanted = type(SETTINGS[name].default)
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise UserError(f"{name} = {value!r}: has to be of type {wanted.__name__}")
        if wanted is float and type(value) is int and abs(value) > sys.float_info.max:
            raise UserError(f"{name}: is a number with too many digits")


def check_value(name: str, value: Value) -> None:
    """Refuses a number out of its setting's bounds.

    Raises:
      UserError: naming the setting, the value and what is allowed.
    """
    setting = SETTINGS[name]
    if isinstance(value, str):
        return
    # An int may be beyond any float, where isfinite fails.
    finite = abs(value) <= sys.float_info.max
    if not (finite and setting.low <= value <= setting.high):
        raise UserError(f"{name} = {value}: has to be from {setting.low} to {setting.high}")


def check_config(config: ConfigDict) -> None:
    """Refuses settings that no training could follow.

    Raises:
      UserError: naming the setting, its value and what is allowed.
    """
    for name, value in flatten(config).items():
        check_value(name, value)
    alone = ("data.train_share", "data.other_dev", "train.best_on_test", "train.corpus_bytes")
    for name in alone:
        if with_folds(config) and flatten(config)[name] != SETTINGS[name].default:
            raise UserError(f"{name} cannot be set where folds are made (data.folds, data.fold_by)")
    if not with_folds(config) and config.data.fold_dev != SETTINGS["data.fold_dev"].default:
        raise UserError(
            f"data.fold_dev = {config.data.fold_dev}: counts only where folds are made "
            "(data.folds, data.fold_by); without folds the share is data.dev_share"
        )
    model = config.model
    if model.hidden % model.heads:
        raise UserError(
            f"model.hidden = {model.hidden}: has to be a multiple of model.heads = {model.heads}"
        )
    if model.bilstm and model.hidden % 2:
        raise UserError(f"model.hidden = {model.hidden}: has to be even with model.bilstm")
    if model.reconstruction and not model.graph:
        raise UserError("model.reconstruction = True: needs model.graph = True")
    frozen = list_frozen(config)
    if len(frozen) == len(PARTS):
        raise UserError(f"train.freeze = {config.train.freeze!r}: nothing is left to train")
    if frozen and not config.train.init:
        raise UserError(
            f"train.freeze = {config.train.freeze!r}: needs train.init, the run whose parameters "
            "are kept; without it they would stay as they are drawn"
        )
    for program in curve_programs(config):
        if importlib.util.find_spec(CURVE_PROGRAMS[program]) is None:
            raise UserError(
                f"train.metrics = {config.train.metrics!r}: needs {CURVE_PROGRAMS[program]}: pip "
                f"install 'cberl-jax[{program}]'"
            )
    for name, known in (
        ("train.select", SELECTIONS),
        ("augment.method", AUGMENTATIONS),
        ("model.attention", ATTENTIONS),
        ("train.precision", PRECISIONS),
    ):
        value = flatten(config)[name]
        if value not in known:
            raise UserError(f"{name} = {value!r}: has to be one of {', '.join(known)}")
