"""The space of a search: for each setting a range, or a list of choices.

A space is ``{setting: (low, high), setting: (low, high, "log"), setting: [choices]}``.
"""

import importlib.util
import itertools
import os
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cberl_jax.config.grid import (
    check_sweepable,
    parse_values,
    point_config,
    spell_value,
    static_settings,
)
from cberl_jax.config.settings import NUMERIC, SETTINGS, Value, check_types, check_value, flatten
from cberl_jax.errors import UserError


class Range(NamedTuple):
    """Numbers from ``low`` to ``high``, both included; whole ones where both are ints.

    Attributes:
      low: the smallest.
      high: the largest.
      log: whether factors count, not differences.
    """

    low: float
    high: float
    log: bool = False


Space = dict[str, Range | list[Value]]

# Where a search looks unless it is told: wide around the values that the presets have. Rates and
# weights of losses by factors, shares and exponents by differences.
DEFAULT: Space = {
    "optim.learning_rate": Range(2e-4, 1e-2, True),
    "optim.weight_decay": Range(0.01, 2.0, True),
    "optim.dropout": Range(0.0, 0.8),
    "optim.input_dropout": Range(0.0, 0.6),
    "loss.gamma": Range(0.0, 3.0),
    "loss.class_balance": [0.0, 0.9, 0.99, 0.999, 0.9999],
    "loss.label_smoothing": Range(0.0, 0.2),
    "loss.vae": Range(0.05, 2.0, True),
    "loss.align": Range(0.01, 1.0, True),
    "loss.mask": Range(0.05, 2.0, True),
    "mask.rate": Range(0.0, 0.5),
    "augment.weight": Range(0.0, 1.0),
    "augment.method": ["gan", "none"],
    "data.components": [0, 12, 48],
    "model.hidden": [64, 128, 256],
    "model.layers": [1, 2],
    "model.classifier_hidden": [32, 256],
    "model.residual_turns": [0, 2],
    "train.rows_per_batch": [2, 4, 8],
}
# Setting -> the one that has to have another value than the given one for it to matter.
_NEEDS: dict[str, tuple[str, Value]] = {
    "loss.vae": ("model.djvae", False),
    "loss.align": ("model.djvae", False),
    "loss.mask": ("model.reconstruction", False),
    "mask.rate": ("model.reconstruction", False),
    "augment.weight": ("augment.method", "none"),
    "model.layers": ("model.graph", False),
}
# Combinations of static settings that are checked one by one before a search begins.
_MOST_CHECKED = 2000


def default_space(config: ConfigDict, fixed: Mapping[str, Value]) -> Space:
    """The space of a search that names none: ``DEFAULT``, widened to hold the config's own values.

    Args:
      config: the settings that the search starts from, the fixed ones among them.
      fixed: settings that are left out. So are those of parts that the config switches off.
    """
    flat = flatten(config)
    space = {}
    for name, own in DEFAULT.items():
        needed, without = _NEEDS.get(name, ("", None))
        varies = needed in DEFAULT and needed not in fixed
        if name in fixed or (needed and not varies and flat[needed] == without):
            continue
        space[name] = _hold(own, flat[name])
    return space


def _hold(own: Range | list[Value], value: Value) -> Range | list[Value]:
    if isinstance(own, Range):
        assert not isinstance(value, str)
        # A factor of zero has no logarithm.
        log = own.log and value > 0
        return Range(min(own.low, value), max(own.high, value), log)
    return own if value in own else sorted([*own, value], key=lambda v: (isinstance(v, str), v))


def read_space(path: str | os.PathLike[str]) -> Space:
    """The space that a Python file's ``get_space()`` returns.

    Raises:
      UserError: there is no such file, it fails, or what it returns is no space.
    """
    if not os.path.isfile(path):
        raise UserError(f"{path}: there is no such file; --space takes one with get_space()")
    loader = SourceFileLoader("cberl_jax_space_file", os.fspath(path))
    spec = ModuleSpec(loader.name, loader, origin=os.fspath(path))
    module = importlib.util.module_from_spec(spec)
    try:
        loader.exec_module(module)
        space = module.get_space()
    except Exception as error:  # It is the person's own code, which can raise anything.
        reason = (str(error).strip().splitlines() or [""])[-1]
        raise UserError(f"{path}: {type(error).__name__}: {reason}") from error
    try:
        return check_space(space)
    except UserError as error:
        raise UserError(f"{path}: get_space(): {error}") from error


def check_space(space: object) -> Space:
    """A person's space in the settings' own types.

    Raises:
      UserError: it is none; the message names the setting and what it takes.
    """
    if not isinstance(space, Mapping) or not space:
        raise UserError(
            'a space is {setting: (low, high), setting: (low, high, "log"), setting: [choices]}'
        )
    checked: Space = {}
    for name, entry in space.items():
        check_sweepable(name if isinstance(name, str) else repr(name))
        try:
            checked[name] = (
                _check_range(name, entry) if isinstance(entry, tuple) else _check_list(name, entry)
            )
        except UserError as error:
            raise UserError(f"{name}: {entry!r}: {error}") from error
    return checked


def _check_range(name: str, entry: tuple[Any, ...]) -> Range:
    kind = type(SETTINGS[name].default)
    if kind not in (int, float):
        raise UserError("takes a list of choices")
    if not (len(entry) == 2 or (len(entry) == 3 and entry[2] == "log")):
        raise UserError('a range is (low, high) or (low, high, "log")')
    low, high = entry[:2]
    for value in (low, high):
        check_types({name: value})
        check_value(name, value)
    if not low < high:
        raise UserError("low has to be less than high")
    log = len(entry) == 3
    if log and low <= 0:
        raise UserError('with "log" low has to be greater than 0')
    return Range(kind(low), kind(high), log)


def _check_list(name: str, entry: object) -> list[Value]:
    if not isinstance(entry, list) or len(entry) < 2:
        raise UserError(
            "has to be a list of at least two choices, or a range (low, high); --fix gives a "
            "setting one value"
        )
    return parse_values(name, [spell_value(value).replace(",", "+") for value in entry])


def parse_fixed(arguments: Sequence[str]) -> dict[str, Value]:
    """Reads the arguments of ``--fix``, each ``setting=value``.

    Raises:
      UserError: an argument is at fault; the message names it.
    """
    fixed: dict[str, Value] = {}
    for argument in arguments:
        name, equals, word = (part.strip() for part in argument.partition("="))
        try:
            if not equals or name in fixed:
                raise UserError("has to be a setting and its one value, as in --fix=loss.gamma=1")
            (fixed[name],) = parse_values(name, [word])
        except UserError as error:
            raise UserError(f"--fix={argument}: {error}") from error
    return fixed


def complete(point: Mapping[str, Value], config: ConfigDict) -> dict[str, Value]:
    """A point of a space with what follows from it: without graph there is nothing to rebuild."""
    settled = dict(point)
    graph = settled.get("model.graph", config.model.graph)
    rebuilt = settled.get("model.reconstruction", config.model.reconstruction)
    if not graph and rebuilt and "model.graph" in settled:
        settled["model.reconstruction"] = False
    return settled


def static_choices(space: Space) -> dict[str, list[Value]]:
    """Static settings of a space -> their values; of a range its ends."""
    return {
        name: list(own) if isinstance(own, list) else [own.low, own.high]
        for name, own in space.items()
        if name not in NUMERIC
    }


def check_feasible(config: ConfigDict, space: Space) -> None:
    """Refuses a space with a combination that no training could follow.

    Raises:
      UserError: naming the combination.
    """
    choices = static_choices(space)
    for values in itertools.islice(itertools.product(*choices.values()), _MOST_CHECKED):
        point_config(config, complete(dict(zip(choices, values)), config))


def own_point(config: ConfigDict, space: Space) -> dict[str, Value] | None:
    """The config's own values of a space's settings; None where one is not in the space."""
    flat = flatten(config)
    inside = all(_holds(own, flat[name]) for name, own in space.items())
    return {name: flat[name] for name in space} if inside else None


def _holds(own: Range | list[Value], value: Value) -> bool:
    if isinstance(own, Range):
        return not isinstance(value, str) and own.low <= value <= own.high
    return value in own


def split_point(point: Mapping[str, Value]) -> tuple[dict[str, Value], dict[str, Value]]:
    """The static settings of a point, and its numeric ones."""
    static = static_settings(point)
    return static, {name: value for name, value in point.items() if name not in static}


def spell_entry(own: Range | Sequence[Value]) -> str:
    """What a setting may be, in words: ``0.0002 to 0.01 (log)``, ``64, 128, 256``."""
    if isinstance(own, Range):
        scale = " (log)" if own.log else ""
        return f"{spell_value(own.low)} to {spell_value(own.high)}{scale}"
    return ", ".join(map(spell_value, own))
