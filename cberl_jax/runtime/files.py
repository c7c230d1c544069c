"""How files are written: whole or not at all."""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from cberl_jax.errors import UserError

# How a file's name ends until it is complete.
PART = ".part"


def expand(path: str | os.PathLike, what: str = "the path") -> str:
    """A path with the home folder in place of a leading ``~``, as a shell writes it.

    Args:
      path: as a person gave it; a shell leaves ``--workdir=~/runs`` as it is.
      what: what the path is, for the message.

    Raises:
      UserError: it is empty, which would mean the current folder, or no path at all.
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"{what} has to be a path, not {type(path).__name__}")
    name = os.fspath(path)
    if not name:
        raise UserError(f"{what} is empty; name one ('.' is the current folder)")
    return os.path.expanduser(name)


@contextlib.contextmanager
def explaining_failure(path: str | os.PathLike) -> Iterator[None]:
    """Makes of a failure to write within the block a sentence that names the path.

    Raises:
      UserError: in place of any OSError.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a file that takes the place of ``path`` once it is complete, and not before.

    Raises:
      UserError: it cannot be written; what was there before is there still.
    """
    path = expand(path)
    folder, name = os.path.split(path)
    with explaining_failure(path):
        # In the same folder, since a rename is atomic within one file system only.
        handle, draft = tempfile.mkstemp(dir=folder or ".", prefix=f".{name}.", suffix=PART)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            # A temporary file is its owner's alone; this one is to have the usual permissions.
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(draft, 0o666 & ~mask)
            os.replace(draft, path)
        except BaseException:
            os.unlink(draft)
            raise


@contextlib.contextmanager
def creating_folder(path: pathlib.Path) -> Iterator[Callable[[str, bytes], None]]:
    """Makes a folder that is there once all of its files are, and not before.

    Args:
      path: of the folder; nothing is there yet, but the folder that it lies in is.

    Yields:
      A function that writes a file, given its name, which may lie in folders, and its contents.

    Raises:
      UserError: it cannot be written; nothing is left of it then.
    """
    with explaining_failure(path):
        draft = pathlib.Path(
            tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=PART)
        )

        def write(name: str, content: bytes) -> None:
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            with (draft / name).open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())

        try:
            yield write
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(draft, 0o777 & ~mask)
            os.rename(draft, path)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def hash_file(path: str | os.PathLike) -> str:
    """The sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
