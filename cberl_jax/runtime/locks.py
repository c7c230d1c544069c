"""Locks that end with their process, however that ends."""

import fcntl
import pathlib
from typing import BinaryIO

from cberl_jax.errors import UserError
from cberl_jax.runtime.files import explaining_failure


def take_lock(path: pathlib.Path, wait: bool = False) -> BinaryIO | None:
    """Takes the lock of a file.

    Args:
      path: of the file; made where it is not there.
      wait: until another process gives it back.

    Returns:
      The open file, whose closing gives the lock back; None where another process has it.

    Raises:
      UserError: the file cannot be written, or its file system has no locks.
    """
    with explaining_failure(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        file.close()
        raise UserError(
            f"{path}: this file system has no locks ({error.strerror}), so that processes could "
            "not tell whose work is whose; name a --workdir elsewhere, or mount it with flock"
        ) from error
    return file
