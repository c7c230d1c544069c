"""Compiled programs that outlive the process, found without tracing them again.

jax keeps what was compiled, too, but finds it by the traced program, and to trace an epoch takes
several times as long as to read its program. Here a program has a name made of all that it is
traced from: its function with the values that this has captured, the shapes and devices of its
arguments, every line of this package and of a person's own modules, the versions and files of the
libraries below, the settings of jax and XLA, and the processor. What cannot be named for certain,
such as a captured array, is traced each time.

A program that has another name but the same text is read, too: an edit that does not change it
costs its tracing alone.

This is for commands with one process on a CPU. jax's own files are not used meanwhile: a program
that was read from them cannot be written again (jaxlib 0.10). On accelerators, with several
processes and in the Python interface, nothing here is used, and jax keeps its own.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import os
import pathlib
import pickle
import platform
import stat
import sys
import sysconfig
import types
import zlib
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from flax import linen as nn
from jax.api_util import shaped_abstractify
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

from cberl_jax.errors import UserError
from cberl_jax.runtime.files import replacing

PACKAGE = pathlib.Path(__file__).parent.parent
# Libraries that a function is traced through.
TRACED = ("jax", "flax", "optax", "jraph")
# Variables of the environment that begin so change what is compiled.
VARIABLES = ("JAX_", "XLA_", "TF_")
# Settings that have this in their name say where to keep it.
WHERE = "cache"
TRACE, SHAPES, PROGRAM = ".trace", ".shapes", ".program"
LARGEST = 2 * 2**30  # bytes of all programs; beyond it the ones that were not used for longest go
FOR_OTHERS = stat.S_IWGRP | stat.S_IWOTH
Compiled = Callable[..., Any]
_kept = False


class _Unnamed(Exception):
    """No name says all about a captured value."""


def keep_compiled() -> None:
    """Keeps this process's programs from now on, in the folder of jax's own setting.

    For a process that runs commands alone. Who changes a function of the package in memory, in a
    notebook for instance, changes what is traced, but not its name.
    """
    global _kept
    _kept = True


def find_or_trace(
    function: Callable,
    arguments: tuple[Any, ...],
    lower: Callable[[], jax.stages.Lowered],
    made_for: Sequence[Any],
    devices: Sequence[jax.Device],
    options: Mapping[str, Any] | None = None,
) -> Callable[[], Compiled]:
    """Reads a program, or traces its function, for a compiler that may have its own thread.

    Args:
      function: that is compiled, with all that it has captured.
      arguments: of it, or their shapes.
      lower: traces it.
      made_for: whatever else ``lower`` depends on.
      devices: that the program runs on, in order.
      options: of XLA.

    Returns:
      A function without arguments that returns the compiled one.
    """
    options = dict(options) if options else None
    folder, source = _open(), _name_source((function, made_for))
    if folder is None or source is None:
        return functools.partial(lower().compile, options)
    target = _name((options, [device.id for device in devices]))
    rest = f"{_settings()}\n{target}\n{_name_shapes(arguments)}"
    given = jax.tree.structure((arguments, {}))
    return _Files(folder, source, rest, given, tuple(devices), options).find_or_trace(lower)


def shapes_of(function: Callable, *arguments: Any) -> Any:
    """The shapes of a function's results, as ``jax.eval_shape``, but it is traced once for all.

    Args:
      function: pure, with all that it has captured.
      *arguments: of it, or their shapes.
    """
    folder, source = _open(), _name_source(function)
    if folder is None or source is None:
        return jax.eval_shape(function, *arguments)
    path = folder / _file_name((_settings(), _name_shapes(arguments), source), SHAPES)
    shapes = _read(path)
    if shapes is None:
        shapes = jax.eval_shape(function, *arguments)
        _write(path, shapes)
    return shapes


@dataclasses.dataclass(frozen=True)
class _Files:
    """One program and its two files; ``<name>.trace`` holds the name of the one with the program.

    Attributes:
      folder: that they lie in.
      source: a name of all that is traced.
      rest: a name of all else that the program depends on.
      given: the structure of its arguments.
      devices: that it runs on.
      options: of XLA.
    """

    folder: pathlib.Path
    source: str
    rest: str
    given: Any
    devices: tuple[jax.Device, ...]
    options: dict[str, Any] | None

    def find_or_trace(self, lower: Callable[[], jax.stages.Lowered]) -> Callable[[], Compiled]:
        """Does what the function of the same name says."""
        trace = self.folder / _file_name((self.rest, self.source), TRACE)
        known = _read(trace)
        kept = None if known is None else self._load(known[0], jax.tree.structure(known[1]))
        if kept is not None:
            return lambda: kept
        lowered = lower()

        def compile_and_keep() -> Compiled:
            name = _file_name((self.rest, lowered.as_text()), PROGRAM)
            compiled = self._load(name, lowered.out_tree)
            if compiled is None:
                compiled = lowered.compile(self.options)
                _write(self.folder / name, serialize_executable.serialize(compiled)[0])
                _remove_oldest(self.folder)
            results = lowered.out_tree.unflatten(range(lowered.out_tree.num_leaves))
            _write(trace, (name, results))
            return compiled

        return compile_and_keep

    def _load(self, name: str, results: Any) -> Compiled | None:
        """The program of a file; None where it is not there, or cannot be read."""
        path = self.folder / name
        program = _read(path)
        if program is None:
            return None
        backend = self.devices[0].client
        load = serialize_executable.deserialize_and_load
        try:
            os.utime(path)
            return load(program, self.given, results, backend, self.devices)
        except Exception:  # Whatever it is, to compile again is right.
            logging.exception("%s: cannot be read, so the program is compiled again", path)
            return None


@functools.cache
def _open() -> pathlib.Path | None:
    """The folder of the programs; None where they are left to jax."""
    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    wanted = _kept and jax.config.jax_enable_compilation_cache  # type: ignore[attr-defined]
    alone = jax.process_count() == 1 and jax.default_backend() == "cpu"
    # A program without a file may have changed what is traced.
    known = hasattr(sys.modules["__main__"], "__file__")
    if not wanted or not alone or not known or not folder or "://" in folder:
        return None
    path = pathlib.Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None  # Nor can jax write there, which says so.
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # It has looked at the setting already.
    # A program that is read calls LAPACK by addresses that jaxlib looks up when it lowers a call of
    # it, and not when it reads one: without them the process would crash.
    jax.jit(jnp.linalg.qr).lower(jax.ShapeDtypeStruct((1, 1), np.float32))
    return path


def _read(path: pathlib.Path) -> Any:
    """What ``_write`` has written; None where it is not there, damaged, or of somebody else."""
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            own = not hasattr(os, "getuid") or state.st_uid == os.getuid()
            if not own or state.st_mode & FOR_OTHERS:
                return None
            content = file.read()
    except OSError:
        return None
    stated, packed = content[:32], content[32:]
    return pickle.loads(zlib.decompress(packed)) if _sum(packed) == stated else None


def _write(path: pathlib.Path, content: Any) -> None:
    packed = zlib.compress(pickle.dumps(content), level=1)
    # A full disk, for instance: the next start compiles again.
    with contextlib.suppress(UserError, OSError):
        with replacing(path) as file:
            file.write(_sum(packed) + packed)
        path.chmod(stat.S_IRUSR | stat.S_IWUSR)


def _remove_oldest(folder: pathlib.Path) -> None:
    """Makes room for what comes: the programs that were not used for longest are removed."""
    with contextlib.suppress(OSError):  # Another process removes them, too.
        files = [(path.stat(), path) for path in folder.glob("*" + PROGRAM)]
        files.sort(key=lambda file: file[0].st_mtime)
        total = sum(state.st_size for state, _ in files)
        for state, path in files:
            if total <= LARGEST:
                break
            path.unlink()
            total -= state.st_size


def _sum(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _file_name(parts: Sequence[str], ending: str) -> str:
    return _sum("\n".join(parts).encode()).hex() + ending


def _name_source(value: Any) -> str | None:
    """A name of all that is traced with a function; None where there is none, or no need."""
    try:
        return None if _open() is None else f"{_sources()}\n{_name(value)}"
    except (_Unnamed, RecursionError):
        return None


@functools.cache
def _settings() -> str:
    """Versions, the processor, and the settings of jax and XLA."""
    variables = {n: value for n, value in os.environ.items() if n.startswith(VARIABLES)}
    values = variables | jax.config.values
    return "\n".join(
        [sys.version, version("jax"), version("jaxlib"), _processor()]
        + [f"{name}={values[name]}" for name in sorted(values) if WHERE not in name.lower()]
    )


def _processor() -> str:
    """The processor, its instructions, and how many cores this process may use."""
    try:
        cores = len(os.sched_getaffinity(0))
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except (AttributeError, OSError):  # Not Linux.
        return f"{os.cpu_count()} {platform.processor()} {platform.node()}"
    known = {line for line in lines if line.startswith(("model name", "flags", "Features"))}
    return f"{cores} {sorted(known)}"


@functools.cache
def _sources() -> str:
    """All code that a function may be traced through, or that may have changed it in memory."""
    paths = sysconfig.get_paths()
    installed = tuple(paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    loaded = {getattr(module, "__file__", None) for module in sys.modules.values()}
    files = {pathlib.Path(file) for file in loaded if file and os.path.isfile(file)}
    own = set(PACKAGE.rglob("*.py")) | {f for f in files if not str(f).startswith(installed)}
    for name in TRACED:
        files |= set(pathlib.Path(str(importlib.import_module(name).__file__)).parent.rglob("*.py"))
    parts = [f"{path} {_sum(path.read_bytes()).hex()}" for path in own]
    for path in files - own:
        state = path.stat()
        parts.append(f"{path} {state.st_size} {state.st_mtime_ns}")
    return "\n".join(sorted(parts))


def _name_shapes(arguments: Any) -> str:
    """A name for trees of arrays that says what of them a program is traced with."""

    def of_leaf(leaf: Any) -> str:
        placed = getattr(leaf, "sharding", None), getattr(leaf, "committed", None)
        shaped = shaped_abstractify(leaf)
        return f"{shaped.shape} {shaped.dtype} {shaped.weak_type} {placed}"

    leaves, structure = jax.tree.flatten(arguments)
    return "\n".join([str(structure), *map(of_leaf, leaves)])


def _name(value: Any) -> str:
    """A name for a captured value that is the same for the same value alone.

    Raises:
      _Unnamed: there is none.
    """
    if value is None or isinstance(value, bool | int | float | str | np.dtype):
        return repr(value)
    if isinstance(value, types.ModuleType):
        return value.__name__
    if isinstance(value, types.BuiltinFunctionType):
        return f"{_name(value.__self__)}.{value.__qualname__}"
    if isinstance(value, type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, tuple | list):
        return f"{type(value).__qualname__}({', '.join(map(_name, value))})"
    if isinstance(value, Mapping):
        return _name([(key, own) for key, own in value.items()])
    if isinstance(value, functools.partial):
        return f"partial{_name([value.func, value.args, value.keywords])}"
    if isinstance(value, types.MethodType):
        return f"method{_name([value.__func__, value.__self__])}"
    if isinstance(value, types.FunctionType):
        try:
            captured = [cell.cell_contents for cell in value.__closure__ or ()]
        except ValueError as error:
            raise _Unnamed("a variable that is not set yet") from error
        place = value.__module__, value.__qualname__, list(value.__code__.co_positions())
        return f"{place} {_name([captured, value.__defaults__, value.__kwdefaults__])}"
    if isinstance(value, nn.Module):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return f"{_name(type(value))}{_name(fields)}"
    if type(value).__module__.startswith("cberl_jax.") and hasattr(value, "__dict__"):
        return f"{_name(type(value))}{_name(vars(value))}"
    if isinstance(value, jax.sharding.Sharding):
        return repr(value)
    if type(value).__module__.startswith("jax") and hasattr(value, "__wrapped__"):
        return f"{type(value).__qualname__}({_name(value.__wrapped__)})"
    raise _Unnamed(f"{type(value)}")
