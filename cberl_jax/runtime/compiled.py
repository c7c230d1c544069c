"""Compiled programs on disk, found without tracing them again.

jax has a cache, too, but has to trace a function before it can look there, and tracing an epoch
takes several times as long as reading its program. Here a program is found by a name of all that it
is traced from (``origins.py``). A function without a certain name is traced at every start.

After an edit a function is traced again. If that gives a program that is on disk already, nothing
is compiled.

This is for commands with one process on a CPU. jax's own cache is off meanwhile: a program that jax
has read from its cache cannot be written by another (jaxlib 0.10). On accelerators, with several
processes, in the Python interface and in programs of a person's own, jax's cache serves alone.

A file holds machine code, and is read by pickle: only if the user owns it, and others have no right
to write it.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
import pickle
import stat
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.experimental import serialize_executable
from jax.experimental.compilation_cache import compilation_cache

from cberl_jax.runtime.origins import Sources, Unnamed, name_settings, name_shapes, name_value

TRACE, SHAPES, PROGRAM, DRAFT = ".trace", ".shapes", ".program", ".draft"
LARGEST = 2 * 2**30  # bytes of all files; beyond it those that were not used for longest go
FOR_OTHERS = stat.S_IWGRP | stat.S_IWOTH

Compiled = Callable[..., Any]
Lower = Callable[[], jax.stages.Lowered]
_sources: Sources | None = None


def keep_compiled(started: float) -> None:
    """Keeps this process's programs from now on, in the folder of jax's own setting.

    It is not for processes that may replace functions of the package in memory, such as notebooks:
    a program of the functions as they were would be found.

    Args:
      started: seconds since 1970, before any code of the package was loaded.
    """
    global _sources
    with contextlib.suppress(OSError):  # A file that an editor has just replaced.
        _sources = Sources(started)


def find_or_trace(
    function: Callable,
    arguments: tuple[Any, ...],
    lower: Lower,
    made_for: Sequence[Any],
    devices: Sequence[jax.Device],
    options: Mapping[str, Any] | None = None,
) -> Callable[[], Compiled]:
    """Reads a program. Where there is none, the function is traced, and has to be compiled.

    Args:
      function: to be compiled; the values that it has captured are part of its name.
      arguments: of it, or their shapes.
      lower: traces it.
      made_for: whatever else ``lower`` depends on.
      devices: that the program runs on, in order.
      options: of XLA.

    Returns:
      A function without arguments that returns the compiled one; in any thread.
    """
    options = dict(options) if options else None
    named = devices[0].platform == "cpu" and _name((function, made_for))
    if not named:
        return functools.partial(lower().compile, options)
    target = f"{options} {[device.id for device in devices]}"
    rest = f"{name_settings()}\n{target}\n{name_shapes(arguments)}"
    given = jax.tree.structure((arguments, {}))
    return _Files(*named, rest, given, tuple(devices), options).find_or_trace(lower)


def shapes_of(function: Callable, *arguments: Any) -> Any:
    """The shapes of a function's results, as ``jax.eval_shape``, but read where they are on disk.

    Args:
      function: pure; the values that it has captured are part of its name.
      *arguments: of it, or their shapes.
    """
    named = _name(function)
    if not named:
        return jax.eval_shape(function, *arguments)
    folder, code, source = named
    path = folder / _file_name((name_settings(), name_shapes(arguments), code, source), SHAPES)
    shapes = _read(path)
    if shapes is None:
        shapes = jax.eval_shape(function, *arguments)
        with _going_on(path):
            _write(path, shapes, code)
    return shapes


@dataclasses.dataclass(frozen=True)
class _Files:
    """One program and its two files: a ``.trace`` holds the name of the ``.program``.

    Attributes:
      folder: that they lie in.
      code: a name of all code that the function may be traced through.
      source: a name of the function.
      rest: a name of all else that the program depends on.
      given: the structure of its arguments.
      devices: that it runs on.
      options: of XLA.
    """

    folder: pathlib.Path
    code: str
    source: str
    rest: str
    given: Any
    devices: tuple[jax.Device, ...]
    options: dict[str, Any] | None

    def find_or_trace(self, lower: Lower) -> Callable[[], Compiled]:
        """Does what the function of the same name says."""
        trace = self.folder / _file_name((self.rest, self.code, self.source), TRACE)
        known = _read(trace)
        kept = None if known is None else self._load(known[0], jax.tree.structure(known[1]))
        if kept is not None:
            return lambda: kept
        lowered = lower()
        results = lowered.out_tree

        def compile_and_keep() -> Compiled:
            name = compiled = None
            with _going_on(trace):
                name = _file_name((self.rest, _name_lowered(lowered)), PROGRAM)
                compiled = self._load(name, results)
            program = compiled or lowered.compile(self.options)
            with _going_on(trace):
                if name and compiled is None:
                    content = serialize_executable.serialize(program)[0]
                    _write(self.folder / name, content, self.code)
                if name:
                    tree = results.unflatten(range(results.num_leaves))
                    _write(trace, (name, tree), self.code)
                    _remove_oldest(self.folder)
            return program

        return compile_and_keep

    def _load(self, name: str, results: Any) -> Compiled | None:
        """The program of a file; None where it is not there, or cannot be read."""
        program = _read(self.folder / name)
        if program is None:
            return None
        backend = self.devices[0].client
        with _going_on(self.folder / name):
            load = serialize_executable.deserialize_and_load
            return load(program, self.given, results, backend, self.devices)


def _name_lowered(lowered: jax.stages.Lowered) -> str:
    """A name of a traced function: its text, and what the text does not say.

    An argument that is not used is not in the text, so that functions of different arguments may
    have the same one. Nor is the weak type of a result.
    """
    made = lowered._lowering.compile_args
    unsaid = [made[name] for name in ("kept_var_idx", "global_out_avals", "out_shardings")]
    return f"{[sorted(unsaid[0]), *unsaid[1:]]}\n{lowered.as_text()}"


def _name(value: Any) -> tuple[pathlib.Path, str, str] | None:
    """The folder of the programs, and names of all code and of a value that is traced.

    None where there is no certain name, or nothing is kept.
    """
    folder = _open()
    if folder is None or _sources is None:
        return None
    try:
        return folder, _sources.name(), name_value(value)
    except Exception:  # Such as a module whose attributes cannot be read.
        return None


@functools.cache
def _open() -> pathlib.Path | None:
    """The folder of the programs; None where they are left to jax, whose cache is off otherwise."""
    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    wanted = jax.config.jax_enable_compilation_cache and folder  # type: ignore[attr-defined]
    alone = jax.process_count() == 1 and jax.default_backend() == "cpu"
    if _sources is None or not wanted or not alone or "://" in folder:
        return None
    path = pathlib.Path(folder)
    probe = path / f"{os.getpid()}{DRAFT}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        # A file system may not say whose its files are.
        _write(probe, True, _sources.name())
        private = _read(probe)
        probe.unlink()
    except Exception:  # Such as code of a person's own, or a full disk.
        private = None
    if not private:
        return None
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # jax reads the setting only once.
    # A program may call LAPACK, whose addresses jaxlib looks up when it lowers such a call, but not
    # when it reads a program: the process would crash.
    jax.jit(jnp.linalg.qr).lower(jax.ShapeDtypeStruct((1, 1), np.float32))
    return path


@contextlib.contextmanager
def _going_on(path: pathlib.Path) -> Iterator[None]:
    """Reports any failure within the block: without the file the next start takes longer."""
    try:
        yield
    except Exception as error:
        logging.warning("%s: a compiled program is not kept, or not read (%s)", path, error)


def _read(path: pathlib.Path) -> Any:
    """What ``_write`` has written; None where it is missing, damaged, or may be a stranger's."""
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            own = not hasattr(os, "getuid") or state.st_uid == os.getuid()
            if not own or state.st_mode & FOR_OTHERS:
                return None
            content = file.read()
        stated, packed = content[:32], content[32:]
        if _sum(path.name, packed) != stated:
            return None
        os.utime(path)  # It was used.
        return pickle.loads(zlib.decompress(packed))
    except Exception:  # Whatever it is, the program is compiled again, and the file replaced.
        return None


def _write(path: pathlib.Path, content: Any, code: str) -> None:
    """Writes a file that only the user may read, whole or not at all.

    Raises:
      Unnamed: the code is not what its name says any more.
    """
    packed = zlib.compress(pickle.dumps(content), level=1)
    handle, draft = tempfile.mkstemp(dir=path.parent, suffix=DRAFT)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_sum(path.name, packed) + packed)
        if _sources is None or _sources.name() != code:
            raise Unnamed("the code has changed")
        os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise


def _remove_oldest(folder: pathlib.Path) -> None:
    """Removes the files that were not used for longest, as far as all are too large."""
    paths = [path for path in folder.iterdir() if path.suffix in (TRACE, SHAPES, PROGRAM, DRAFT)]
    with contextlib.suppress(FileNotFoundError):  # Another process removes them, too.
        files = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in paths)
        total = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total <= LARGEST:
                break
            path.unlink()
            total -= size


def _sum(name: str, packed: bytes) -> bytes:
    return hashlib.sha256(name.encode() + packed).digest()


def _file_name(parts: Sequence[str], ending: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest() + ending
