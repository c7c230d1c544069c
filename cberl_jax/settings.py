"""Every setting with its default, and the line between what is compiled in and what is traced.

A *numeric* setting is an array: members that differ only in these share one compiled program. All
others are *static*: they decide shapes or switch parts off. A setting's dotted name is the same in
a config file, in a flag (``--config.loss.gamma=2``) and in a sweep's grid.
"""

import math

from ml_collections import ConfigDict

from cberl_jax.errors import UserError
from cberl_jax.models.cberl import ModelSettings

# mean_f1 is the mean of weighted and macro F1.
SELECTIONS = ("weighted_f1", "macro_f1", "accuracy", "balanced_accuracy", "mean_f1")

# Every numeric setting with its bounds, both allowed.
NUMERIC = {
    "gan.learning_rate": (0.0, math.inf),
    "gan.identity": (0.0, math.inf),
    "gan.joint": (0.0, math.inf),
    "gan.classify": (0.0, math.inf),
    "gan.weight": (0.0, math.inf),
    "mask.rate": (0.0, 0.9),
    "mask.tau": (-4.0, 4.0),
    "mask.swap": (0.0, 1.0),
    "mask.alpha": (1.0, 10.0),
    "mask.classify": (0.0, 1.0),
    "loss.gamma": (0.0, 100.0),
    "loss.class_balance": (0.0, 0.999999),
    "loss.label_smoothing": (0.0, 0.9),
    "loss.mask": (0.0, math.inf),
    "loss.vae": (0.0, math.inf),
    "loss.beta": (0.0, math.inf),
    "loss.align": (0.0, math.inf),
    "loss.free_bits": (0.0, math.inf),
    "loss.kl_warmup": (0.0, 1.0),
    "optim.learning_rate": (0.0, math.inf),
    "optim.weight_decay": (0.0, math.inf),
    "optim.dropout": (0.0, 0.95),
    "optim.clip": (1e-6, math.inf),
    "optim.ema": (0.0, 0.99999),
    "optim.warmup": (0.0, 1.0),
}

AT_LEAST_ONE = (
    "gan.hidden",
    "gan.noise",
    "gan.epochs",
    "gan.steps",
    "gan.batch_size",
    "gan.max_copies",
    "model.hidden",
    "model.latent",
    "model.heads",
    "model.layers",
    "model.classifiers",
    "model.classifier_hidden",
    "train.epochs",
    "train.rows_per_batch",
    "train.patience",
)


def default_config() -> ConfigDict:
    """All settings at their defaults, tuned on the dev splits of MELD and MOSI (BUILD_NOTES.md)."""
    config = ConfigDict()
    # A path, or simulated:<size>; empty: to be named by --data.
    config.data = ConfigDict({"path": "", "text_layers": "mean", "modalities": "all"})
    config.gan = ConfigDict(
        {
            "enabled": True,
            "balance": 0.15,  # share of the largest class that every class is brought up to
            "max_copies": 4,  # copies of a dialogue at most
            "hidden": 128,
            "noise": 16,
            "epochs": 5,
            "steps": 60,  # optimiser steps an epoch
            "batch_size": 128,  # utterances of each domain
            "learning_rate": 5e-4,
            "identity": 5.0,  # weight of the L1 between a source feature and its way back
            "joint": 1.0,  # weight of the discriminator of the reconstructed triple
            "classify": 1.0,  # weight of the emotion classifier's word
            "weight": 0.3,  # weight of a generated utterance in the joint stage
        }
    )
    config.model = ConfigDict(
        {
            "djvae": True,
            "bilstm": True,
            "graph": True,
            "reconstruction": True,
            "residual": True,
            "causal": False,
            "hidden": 128,
            "latent": 32,
            "heads": 4,
            "layers": 1,
            "past": 8,
            "future": 8,
            "classifiers": 5,
            "classifier_hidden": 32,
            "subspace": 0.7,
        }
    )
    config.mask = ConfigDict(
        {
            "rate": 0.15,  # mean share of masked nodes
            "tau": 0.0,  # p(class) ~ n_class^-tau
            "swap": 0.1,  # share of masked nodes that get another node's features
            "alpha": 2.0,  # exponent of the scaled cosine error
            "classify": 1.0,  # weight of a masked node in the focal loss
        }
    )
    config.loss = ConfigDict(
        {
            "gamma": 1.0,  # focal loss
            "class_balance": 0.999,  # beta of the effective number of samples; 0 = equal weights
            "label_smoothing": 0.05,
            "mask": 0.5,  # lambda_mask
            "vae": 0.5,  # lambda_vae
            "beta": 1.0,  # weight of KL(q || N(0, I)); 1 = the evidence lower bound
            "align": 0.1,  # lambda_align, weight of sum_m KL(q || q_m)
            "free_bits": 0.1,  # nats per latent unit that cost nothing
            "kl_warmup": 0.3,  # share of the training over which beta grows from 0
        }
    )
    config.optim = ConfigDict(
        {
            "learning_rate": 2e-3,
            "weight_decay": 0.5,
            "dropout": 0.3,
            "clip": 1.0,  # largest norm of a gradient
            "ema": 0.98,  # decay of the averaged weights that are evaluated; 0 = the last weights
            "warmup": 0.05,  # share of the training over which the learning rate grows
        }
    )
    config.train = ConfigDict(
        {
            "epochs": 12,
            "rows_per_batch": 8,
            "patience": 10,  # epochs without a better dev score before a member stops
            "select": "mean_f1",  # dev metric that picks the epoch, one of SELECTIONS
            "checkpoint_seconds": 60.0,  # time between checkpoints; 0 = after every epoch
        }
    )
    return config


def flatten(config: ConfigDict) -> dict[str, bool | int | float | str]:
    """Dotted name -> value of every setting."""
    return {
        f"{group}.{name}": value
        for group, settings in config.items()
        for name, value in settings.items()
    }


def numeric_settings(config: ConfigDict) -> dict[str, float]:
    """Dotted name -> value of the numeric settings."""
    flat = flatten(config)
    return {name: float(flat[name]) for name in NUMERIC}


def model_settings(config: ConfigDict) -> ModelSettings:
    """The joint model's static settings."""
    return ModelSettings(**config.model.to_dict())


def check_config(config: ConfigDict) -> None:
    """Refuses settings that no training could follow.

    Raises:
      UserError: naming the setting, its value and what is allowed.
    """
    flat = flatten(config)
    for name, (low, high) in NUMERIC.items():
        if not low <= flat[name] <= high:
            raise UserError(f"{name} = {flat[name]}: has to be from {low} to {high}")
    positive = (
        "gan.hidden gan.noise gan.epochs gan.steps gan.batch_size gan.max_copies "
        "model.hidden model.latent model.heads model.layers model.classifiers "
        "model.classifier_hidden train.epochs train.rows_per_batch train.patience"
    )
    for name in positive.split():
        if flat[name] < 1:
            raise UserError(f"{name} = {flat[name]}: has to be at least 1")
    for name in ("model.past", "model.future", "train.checkpoint_seconds"):
        if flat[name] < 0:
            raise UserError(f"{name} = {flat[name]}: has to be at least 0")
    if not 0 <= flat["gan.balance"] <= 1:
        raise UserError(f"gan.balance = {flat['gan.balance']}: has to be from 0 to 1")
    if not 0 < flat["model.subspace"] <= 1:
        raise UserError(f"model.subspace = {flat['model.subspace']}: has to be above 0, at most 1")
    if flat["model.hidden"] % flat["model.heads"]:
        raise UserError(
            f"model.hidden = {flat['model.hidden']}: has to be a multiple of model.heads = "
            f"{flat['model.heads']}"
        )
    if flat["model.reconstruction"] and not flat["model.graph"]:
        raise UserError("model.reconstruction = True: needs model.graph = True")
    if flat["model.bilstm"] and flat["model.hidden"] % 2:
        raise UserError(f"model.hidden = {flat['model.hidden']}: has to be even with model.bilstm")
    if flat["train.select"] not in SELECTIONS:
        raise UserError(
            f"train.select = {flat['train.select']!r}: has to be one of {', '.join(SELECTIONS)}"
        )
