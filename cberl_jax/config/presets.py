"""The named configurations, and settings changed by their dotted names.

The figures that each configuration was measured to reach, and the command for it, are at the top of
the file of its name in ``experiments/configs/``.
"""

import copy
import importlib.util
import os
import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec, SourceFileLoader

import numpy as np
from ml_collections import ConfigDict

from cberl_jax.config import CONFIG_MODULE
from cberl_jax.config.settings import (
    SETTINGS,
    Value,
    check_known,
    check_types,
    default_config,
    flatten,
)
from cberl_jax.errors import UserError


def demo() -> ConfigDict:
    """The settings of ``make demo``: the small simulated corpus."""
    config = default_config()
    config.data.path = "simulated:small"
    # A corpus a fifth of MELD's size: smaller batches, or there are too few steps to learn in.
    config.train.rows_per_batch = 2
    config.train.epochs = 16
    config.loss.class_balance = 0.99
    config.gan.steps = 40
    return config


def iemocap() -> ConfigDict:
    """The settings for IEMOCAP: those of MELD, for fewer dialogues of more turns."""
    config = default_config()
    # Its rarest class, happy, is a third of its largest.
    config.augment.balance = 0.5
    config.model.past = 12
    config.model.future = 12
    config.train.rows_per_batch = 2
    config.train.epochs = 30
    return config


def meld() -> ConfigDict:
    """The settings for MELD with text features tuned on its train split, chosen on dev."""
    config = default_config()
    # In tuned features a handful of directions separate the train labels; the others lead to
    # overfitting.
    config.data.components = 12
    config.optim.dropout = 0.15
    config.optim.input_dropout = 0.3
    config.mask.tau = 0.5
    return config


def meld_frozen() -> ConfigDict:
    """The settings for MELD with features of a frozen encoder, chosen on dev."""
    config = default_config()
    # Layers that fuse wide features overfit the train split unless part of their input is dropped;
    # with that, wider classifiers gain.
    config.model.classifier_hidden = 256
    config.optim.dropout = 0.4
    config.optim.input_dropout = 0.4
    config.train.epochs = 16
    return config


def mosi() -> ConfigDict:
    """The settings for MOSI, chosen on its dev split."""
    config = default_config()
    # Both classes are equally frequent, so nothing is generated and nothing is reweighted.
    config.augment.method = "none"
    config.loss.class_balance = 0.0
    # Few videos, whose turns resemble each other: a nearly linear model does best.
    config.model.residual_turns = 2
    config.optim.dropout = 0.7
    config.optim.learning_rate = 5e-4
    # Sixty videos: smaller batches, or there are too few steps to learn in.
    config.train.rows_per_batch = 2
    config.train.select = "accuracy"
    return config


CONFIGS = {
    "default": default_config,
    "demo": demo,
    "iemocap": iemocap,
    "meld": meld,
    "meld_frozen": meld_frozen,
    "mosi": mosi,
}


def read_config(source: str | os.PathLike[str]) -> ConfigDict:
    """The configuration of a name, or of a config file.

    Args:
      source: one of ``CONFIGS``, or the path of a Python file with ``get_config()``; what follows a
        colon is an argument for it.

    Returns:
      All settings, of the right types.

    Raises:
      UserError: there is no such name or file, or the file does not return all settings.
    """
    name = os.fspath(source)
    if name in CONFIGS:
        return CONFIGS[name]().lock()
    path, *argument = name.split(":", 1)
    if not os.path.isfile(path):
        raise UserError(f"{path}: is neither a file nor one of the configs {', '.join(CONFIGS)}")
    loader = SourceFileLoader(CONFIG_MODULE, path)
    spec = ModuleSpec(loader.name, loader, origin=path)
    spec.has_location = True
    module = sys.modules[loader.name] = importlib.util.module_from_spec(spec)
    try:
        loader.exec_module(module)
        config = module.get_config(*argument)
    except Exception as error:  # It is the person's own code, which can raise anything.
        reason = (str(error).strip().splitlines() or [""])[-1]
        raise UserError(f"{path}: {type(error).__name__}: {reason}") from error
    try:
        check_whole(config)
    except UserError as error:
        raise UserError(f"{path}: get_config(): {error}") from error
    return config.lock()


def check_whole(config: object) -> dict[str, Value]:
    """Refuses what is not a config with all settings, each of the right type.

    Returns:
      Dotted name -> value of every setting.

    Raises:
      UserError: saying what is wrong.
    """
    try:
        flat = flatten(config) if isinstance(config, ConfigDict) else None
    except AttributeError:
        flat = None
    if flat is None:
        raise UserError("a config has to be what default_config() returns, changed")
    check_complete(flat)
    check_types(flat)
    return flat


def check_complete(names: Mapping[str, object]) -> None:
    """Refuses settings that do not exist, and configs that lack some.

    Raises:
      UserError: naming them.
    """
    check_known(names)
    missing = SETTINGS.keys() - names
    if missing:
        raise UserError(
            f"the config lacks {', '.join(sorted(missing))}; start from "
            "cberl_jax.config.settings.default_config()"
        )


def change(config: ConfigDict, settings: Mapping[str, object]) -> ConfigDict:
    """A copy of a config with some settings changed.

    Args:
      config: all settings.
      settings: dotted name -> value, as in ``{"loss.gamma": 2.0}``; numpy's numbers count as
        Python's.

    Returns:
      The changed config.

    Raises:
      UserError: there is no such setting, a value is of another type, or the config is not one.
    """
    flat = check_whole(config)
    check_known(settings)
    plain = {n: v.item() if isinstance(v, np.generic) else v for n, v in settings.items()}
    check_types(flat | plain)
    changed = copy.deepcopy(config)
    # A float setting may be given as an int.
    with changed.ignore_type():
        changed.update_from_flattened_dict(plain)
    return changed
