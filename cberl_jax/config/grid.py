"""A grid of settings: from ``--grid`` arguments to the points of a sweep, and to groups of them.

A point is one combination of the swept values. Points that differ only in numeric settings are
members of one compiled program (section 4), so they form a group; each combination of the static
settings is a group of its own.
"""

import copy
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from cberl_jax.config.settings import (
    NUMERIC,
    SETTINGS,
    Value,
    check_config,
    check_known,
    check_value,
    flatten,
)
from cberl_jax.errors import UserError

Point = Mapping[str, Value]

# Settings whose values are several names, which a grid joins by +.
_NAMES = ("data.modalities", "data.views")
# Settings that change the classes, and those that change which dialogues dev has.
_LABELS = ("data.classes", "data.corpus", "data.bins")
_DEV = (
    *("data.splits", "data.dev_share", "data.other_dev"),
    *("data.folds", "data.fold_by", "data.fold_dev"),
)
# What a sweep does not vary, why, and where it is given instead.
_FIXED = {
    **{name: f"all points need the same classes; give --config.{name}" for name in _LABELS},
    **{name: f"all points need the same dev dialogues; give --config.{name}" for name in _DEV},
    "data.path": "a sweep is over one corpus; name it by --data",
    "data.allow_repeats": "a sweep is over one corpus; give --config.data.allow_repeats",
    "train.checkpoint_seconds": "changes no score; give --config.train.checkpoint_seconds",
    "train.corpus_bytes": "changes no score; give --config.train.corpus_bytes",
    "train.select": "all points are compared by one metric; give --config.train.select",
}
_BOOLEANS = {"True": True, "true": True, "False": False, "false": False}
# Type of a setting -> how a value of it is read, and what it is called.
_READERS: dict[type, tuple[Callable[[str], Value], str]] = {
    bool: (_BOOLEANS.__getitem__, "True or False"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    str: (str, "text"),
}
_EXAMPLE = "as in --grid=loss.gamma=0,1,2"


class Group(NamedTuple):
    """Points that one compiled program serves.

    Attributes:
      static: the swept static settings, which all its points share.
      points: the points, whole, in the grid's order.
    """

    static: Point
    points: list[Point]


def parse_grid(arguments: Sequence[str]) -> dict[str, list[Value]]:
    """Reads the arguments of ``--grid``.

    Args:
      arguments: each ``name=v1,v2,...``. Values of ``data.modalities`` and ``data.views``, which
        may be several names, join these by ``+``: ``data.modalities=text,text+audio``.

    Returns:
      Name -> values in the settings' own types and spelling, in the given order.

    Raises:
      UserError: an argument is at fault; the message names it.
    """
    grid: dict[str, list[Value]] = {}
    for argument in arguments:
        try:
            name, values = _parse_argument(argument)
            if name in grid:
                raise UserError(f"{name} is in the grid already; give all its values at once")
        except UserError as error:
            raise UserError(f"--grid={argument}: {error}") from error
        grid[name] = values
    return grid


def _parse_argument(argument: str) -> tuple[str, list[Value]]:
    name, equals, text = argument.partition("=")
    name = name.strip()
    if not equals:
        raise UserError(f"has to be a setting and its values, {_EXAMPLE}")
    words = [word.strip() for word in text.split(",")]
    return name, parse_values(name, words)


def parse_values(name: str, words: Sequence[str]) -> list[Value]:
    """Reads values of a setting, each a word; names are joined by ``+``.

    Raises:
      UserError: one is missing, of another type, out of bounds or there twice.
    """
    check_sweepable(name)
    if not words or "" in words:
        raise UserError(f"a value is missing; join values by single commas, {_EXAMPLE}")
    values = [_parse_value(name, word) for word in words]
    met = [_identity(name, value) for value in values]
    for number, word in enumerate(words):
        if met[number] in met[:number]:
            raise UserError(f"{word} repeats a value; name each value once")
    return values


def check_grid(grid: Mapping[str, Sequence[Value]]) -> dict[str, list[Value]]:
    """A grid from Python, as ``parse_grid`` would read it from flags.

    Args:
      grid: name -> values; several modalities or views are joined by commas, ``"text,audio"``.

    Returns:
      Name -> values in the settings' own types and spelling.

    Raises:
      UserError: a name or a value is at fault.
    """
    checked = {}
    for name, values in grid.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise UserError(f"grid: {name}: {values!r} has to be a list of values")
        # Both ways have to give the same points, so that a sweep can be resumed by either.
        words = [spell_value(value).replace(",", "+") for value in values]
        try:
            checked[name] = parse_values(name, words)
        except UserError as error:
            raise UserError(f"grid: {name}: {error}") from error
    return checked


def check_sweepable(name: str) -> None:
    """Refuses a setting that does not exist, or that members cannot differ in.

    Raises:
      UserError: naming it, and where it is given instead.
    """
    check_known([name])
    if name in _FIXED:
        raise UserError(f"{name} cannot be swept: {_FIXED[name]}")


def _parse_value(name: str, word: str) -> Value:
    setting = SETTINGS[name]
    read, wanted = _READERS[type(setting.default)]
    try:
        value = read(word)
    except (KeyError, ValueError) as error:
        raise UserError(f"{name} = {word!r}: has to be {wanted}") from error
    if name in _NAMES:
        return _parse_names(word)
    check_value(name, value)
    return value


def _parse_names(word: str) -> str:
    names = [name.strip() for name in word.split("+")]
    if "" in names:
        raise UserError(f"{word!r} lacks a name beside its +; write text+audio")
    return ",".join(names)


def _identity(name: str, value: Value) -> Value | frozenset[str]:
    """Equal for values that ask for the same: the order of names is the corpus's own."""
    return frozenset(str(value).split(",")) if name in _NAMES else value


def expand(grid: Mapping[str, Sequence[Value]]) -> list[Point]:
    """Every combination of the grid's values, the last setting varying fastest.

    An empty grid has one point, which changes nothing.
    """
    return [dict(zip(grid, values)) for values in itertools.product(*grid.values())]


def point_config(config: ConfigDict, point: Mapping[str, Value]) -> ConfigDict:
    """The settings at one point of the grid, as a copy.

    Raises:
      UserError: no training could follow them; the message names the point.
    """
    config = copy.deepcopy(config)
    # A config file may give a float setting as an int, which would refuse to become a float.
    with config.ignore_type():
        config.update_from_flattened_dict(point)
    try:
        check_config(config)
    except UserError as error:
        place = f"at {spell_point(point)}: " if point else ""
        raise UserError(f"{place}{error}") from error
    return config


def static_settings(point: Mapping[str, Value]) -> dict[str, Value]:
    """The settings of a point that are compiled in."""
    return {name: value for name, value in point.items() if name not in NUMERIC}


def data_settings(point: Mapping[str, Value]) -> dict[str, Value]:
    """The settings of a point by which it reads a corpus."""
    return {name: value for name, value in point.items() if name.startswith("data.")}


def own_settings(config: ConfigDict, point: Mapping[str, Value]) -> dict[str, Value]:
    """The settings of a point that are not the config's anyway, in their own types."""
    usual = flatten(config)
    read = {name: type(SETTINGS[name].default)(value) for name, value in point.items()}
    return {name: value for name, value in read.items() if value != usual[name]}


def group_points(points: Sequence[Point]) -> list[Group]:
    """Gathers the points that share their static settings, in order of first appearance."""
    groups: dict[frozenset[tuple[str, Value]], Group] = {}
    for point in points:
        static = static_settings(point)
        groups.setdefault(frozenset(static.items()), Group(static, [])).points.append(point)
    return list(groups.values())


def spell_value(value: Value) -> str:
    """A value as a flag takes it: the shortest spelling that reads back as the same value."""
    if not isinstance(value, float):
        return str(value)
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def spell_point(point: Mapping[str, Value]) -> str:
    """A point in words: ``loss.gamma=2, model.hidden=64``."""
    return ", ".join(f"{name}={spell_value(value)}" for name, value in point.items())
