"""Names for what a compiled program is traced from: equal names mean equal programs.

A name is a text. It holds the function with the values that it has captured, the shapes of its
arguments, all code that it is traced through, the settings of jax and XLA, and the processor. Where
no such name is certain there is none, and the function is traced as usual: a program that is found
under a wrong name would compute something else without a message.
"""

import dataclasses
import functools
import importlib
import os
import pathlib
import platform
import site
import sys
import sysconfig
import types
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
from jax.api_util import shaped_abstractify

from cberl_jax.config import CONFIG_MODULE
from cberl_jax.runtime.files import hash_file

PACKAGE = pathlib.Path(__file__).parent.parent
# Beside the package in the repository: programs that run its commands.
EXPERIMENTS = PACKAGE.parent / "experiments"
# Libraries that a function is traced through.
TRACED = ("jax", "flax", "optax", "jraph")
# Variables of the environment that begin so change what is traced or compiled.
VARIABLES = ("JAX_", "XLA_", "TF_", "FLAX_", "NNX_", "NPROC")
# Settings with such a name say where programs are kept, or the device, which is named apart.
NO_MATTER = ("cache", "default_device")


class Unnamed(Exception):
    """There is no certain name."""


class Sources:
    """The code of this process; its files hold the same, unless they have changed since the start.

    Code of a person's own may replace functions of the package in memory, as it likes: where any is
    loaded, no function has a name. A config file is an exception: its text is part of the name.
    """

    def __init__(self, started: float):
        """Args: seconds since 1970, before any code of the package was loaded."""
        self._started = started
        self._package = _stamps(_python_files(PACKAGE))
        self._text: str | None = None

    def name(self) -> str:
        """A name of all code.

        Raises:
          Unnamed: a file has changed since the start, or some code is a person's own.
        """
        own = _stamps(_list_own_files())
        package = _stamps(_python_files(PACKAGE))
        latest = max(time for time, _ in [*own.values(), *package.values()])
        if package != self._package or latest >= self._started * 1e9:
            raise Unnamed("a file has changed")
        if self._text is None:
            hashes = [f"{path} {hash_file(path)}" for path in own | package]
            if _stamps(own | package) != own | package:
                raise Unnamed("a file has changed while it was read")
            self._text = "\n".join([*hashes, str(_stamps(_list_installed_files()))])
        return self._text


def _python_files(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for path in folder.rglob("*.py") if path.is_file())


def _stamps(paths: Iterable[pathlib.Path]) -> dict[pathlib.Path, tuple[int, int]]:
    """File -> time of its last change in ns, and size."""
    states = {path: path.stat() for path in paths}
    # A copy may keep the time of its source, but not the time at which it was made.
    return {p: (max(s.st_mtime_ns, s.st_ctime_ns), s.st_size) for p, s in states.items()}


def _loaded_files() -> dict[str, str]:
    """Loaded module -> its file, of those that have one."""
    # Some modules load others when an attribute is asked for.
    named = {n: getattr(m, "__dict__", {}).get("__file__") for n, m in list(sys.modules.items())}
    return {name: str(file) for name, file in named.items() if file}


@functools.cache
def _installed_folders() -> tuple[str, ...]:
    """Where Python and installed libraries lie."""
    paths = sysconfig.get_paths()
    folders = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    folders += [*site.getsitepackages(), site.getusersitepackages()]
    return tuple(os.path.join(folder, "") for folder in folders)


def _list_own_files() -> list[pathlib.Path]:
    """The files of the program and of the config, the package's left out.

    Raises:
      Unnamed: other code than theirs, the package's and installed libraries' is loaded.
    """
    package = os.path.join(PACKAGE, "")
    files = {n: file for n, file in _loaded_files().items() if not file.startswith(package)}
    main = getattr(sys.modules["__main__"], "__file__", None) or ""
    program = pathlib.Path(main)
    is_ours = program.name == "cberl" or program.parent in (PACKAGE, EXPERIMENTS)
    if not program.is_file() or not is_ours:
        raise Unnamed("the program is a person's own")
    config = files.pop(CONFIG_MODULE, None)
    for file in files.values():
        # Libraries may list the program under another name.
        if file != main and not file.startswith(_installed_folders()):
            raise Unnamed(f"{file} is a person's own")
    own = [main] if main in files.values() else []
    return [pathlib.Path(file) for file in [*own, config] if file]


def _list_installed_files() -> list[pathlib.Path]:
    """The files of the libraries that functions are traced through, and of all that are loaded."""
    loaded = {pathlib.Path(file) for file in _loaded_files().values() if os.path.isfile(file)}
    folders = [pathlib.Path(str(importlib.import_module(n).__file__)).parent for n in TRACED]
    return sorted(loaded.union(*map(_python_files, folders)))


def name_settings() -> str:
    """A name of versions, processor, jax's settings, and variables that jax, flax and XLA read."""
    variables = {n: value for n, value in os.environ.items() if n.startswith(VARIABLES)}
    values = variables | jax.config.values
    used = [n for n in sorted(values) if not any(word in n.lower() for word in NO_MATTER)]
    return "\n".join([_name_machine(), *(f"{name}={values[name]}" for name in used)])


@functools.cache
def _name_machine() -> str:
    """Versions, the processor and its instructions, and how many cores this process may use."""
    versions = f"{sys.version} {version('jax')} {version('jaxlib')}"
    try:
        cores = len(os.sched_getaffinity(0))
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except (AttributeError, OSError):  # Not Linux.
        return f"{versions} {os.cpu_count()} {platform.processor()} {platform.node()}"
    known = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return f"{versions} {cores} {sorted(known)}"


def name_shapes(arguments: Any) -> str:
    """A name of trees of arrays, or of their shapes, as far as a program is traced with them."""

    def of_leaf(leaf: Any) -> str:
        placed = getattr(leaf, "sharding", None), getattr(leaf, "committed", None)
        shaped = shaped_abstractify(leaf)
        return f"{shaped.shape} {shaped.dtype} {shaped.weak_type} {placed}"

    leaves, structure = jax.tree.flatten(arguments)
    return "\n".join([str(structure), *map(of_leaf, leaves)])


def name_value(value: Any) -> str:
    """A name of a function or of a value that it has captured; other values have other names.

    Raises:
      Unnamed: there is none.
    """
    # Not at the top: a command that trains nothing does not load it.
    from flax import linen as nn

    if value is None or type(value) in (bool, int, float, str) or isinstance(value, np.dtype):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"{_name_type(value)}[{', '.join(map(name_value, value))}]"
    if isinstance(value, Mapping):
        return f"{_name_type(value)}{name_value([(key, own) for key, own in value.items()])}"
    if isinstance(value, functools.partial):
        return f"{_name_type(value)}{name_value([value.func, value.args, value.keywords])}"
    if isinstance(value, types.MethodType):
        return f"method{name_value([value.__func__, value.__self__])}"
    if isinstance(value, types.FunctionType):
        try:
            captured = [cell.cell_contents for cell in value.__closure__ or ()]
        except ValueError as error:
            raise Unnamed("a variable that is not set yet") from error
        rest = [captured, value.__defaults__, value.__kwdefaults__]
        return f"{_name_code(value.__code__)} {name_value(rest)}"
    if isinstance(value, nn.Module):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return f"{_name_type(value)}{name_value(fields)}"
    if type(value).__module__.startswith("cberl_jax.") and hasattr(value, "__dict__"):
        return f"{_name_type(value)}{name_value(vars(value))}"
    if isinstance(value, jax.sharding.Sharding):
        return repr(value)
    # What a module holds: classes, and functions of jax and of C.
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
    if module in sys.modules and getattr(sys.modules[module], name, None) is value:
        return f"{module}.{name}"
    raise Unnamed(f"{type(value)}")


def _name_type(value: Any) -> str:
    return name_value(type(value))


def _name_code(code: types.CodeType) -> str:
    inner = [each for each in code.co_consts if isinstance(each, types.CodeType)]
    values = [
        sorted(map(repr, each)) if isinstance(each, frozenset) else each
        for each in code.co_consts
        if not isinstance(each, types.CodeType)
    ]
    place = code.co_filename, code.co_qualname, list(code.co_positions())
    content = code.co_code.hex(), code.co_names, code.co_freevars, values
    return f"{place} {content} {[_name_code(each) for each in inner]}"
