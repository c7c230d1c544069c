"""The folder of a tuned text encoder: the encoder, and a note of how it reads and was made."""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cberl_jax.errors import UserError
from cberl_jax.features.context import ALONE, Context, read_context
from cberl_jax.runtime.files import explaining_failure, hash_file, write_json

NOTE = "cberl_jax.json"
_WEIGHTS = (".safetensors", ".bin", ".pt")


class Kept(NamedTuple):
    """What a tuned encoder's folder says of it.

    Attributes:
      context: that it was tuned with.
      tuning: name -> value, how it was tuned.
    """

    context: Context
    tuning: Mapping[str, Any]


def list_seeds(folder: str) -> list[str]:
    """The encoders in a folder: one for each seed of a tuning with several, or itself."""
    seeds = [path for path in Path(folder).glob("s*") if re.fullmatch(r"s\d+", path.name)]
    return [os.fspath(path) for path in sorted(seeds) if (path / NOTE).is_file()] or [folder]


def save_kept(write: Callable[[str], None], kept: Kept, folder: Path) -> None:
    """Leaves an encoder in a new folder, whole or not at all.

    Args:
      write: writes the encoder into the folder that it is given.
      kept: how it reads and was made.
      folder: must not be there.

    Raises:
      UserError: it cannot be written.
    """
    draft = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        with explaining_failure(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            write(os.fspath(draft))
            note = {"context": kept.context._asdict(), "tuning": dict(kept.tuning)}
            write_json(draft / NOTE, note)
            os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def read_kept(name: str) -> Kept | None:
    """What the folder of an encoder says of it; None where it is none that was tuned here.

    Raises:
      UserError: the note is damaged.
    """
    note = Path(name) / NOTE
    if not note.is_file():
        return None
    try:
        content = json.loads(note.read_bytes())
        context = read_context(content["context"])
        if type(content["tuning"]["crossfit"]) is not int:
            raise ValueError("its values are of no use")
        return Kept(context, content["tuning"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{note}: is damaged ({error}); tune the encoder again.") from error


def resolve_context(name: str, asked: Context | None) -> Context:
    """The context that an encoder is to read with: the one asked for, or that it was tuned with.

    Raises:
      UserError: these are not the same.
    """
    kept = read_kept(name)
    if kept is None:
        return asked or ALONE
    if asked is not None and asked != kept.context:
        raise UserError(
            f"{name}: was tuned with {kept.context.describe()}, not {asked.describe()}; take these "
            "flags away."
        )
    return kept.context


def hash_weights(folder: str) -> dict[str, str]:
    """File -> sha256 of the weights in a folder and those below it; empty for no folder."""
    found = sorted(p for p in Path(folder).rglob("*") if p.suffix in _WEIGHTS and p.is_file())
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in found}


def check_harmless(folder: Path) -> None:
    """Refuses the folder of an encoder that would run a program of its own when it is loaded.

    A run's folder may come from anybody.

    Raises:
      UserError: naming the file.
    """
    programs = sorted(folder.rglob("*.py"))
    for file in folder.rglob("modules.json"):
        try:
            parts = [str(part["type"]) for part in json.loads(file.read_bytes())]
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise UserError(f"{file}: is damaged ({error})") from error
        if not all(part.startswith("sentence_transformers.") for part in parts):
            programs.append(file)
    if programs:
        raise UserError(
            f"{programs[0]}: is or names a program, and an encoder in a run's folder may hold none"
        )
