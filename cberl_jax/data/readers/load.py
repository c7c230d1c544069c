"""Any corpus that a person can name: a canonical file, a pickle of the field, the simulation.

Section 2 of the design. What a file is, is read off its first bytes, never off its name.
"""

import os
import stat

from cberl_jax.data.corpus import Corpus
from cberl_jax.data.readers.jsonl import read_json_lines
from cberl_jax.data.readers.npz import read_npz, write_npz
from cberl_jax.data.readers.pickles import read_pickle
from cberl_jax.data.simulate import SIMULATED, simulate
from cberl_jax.data.text_layers import combine_text_layers
from cberl_jax.data.validate import validate
from cberl_jax.errors import UserError
from cberl_jax.runtime.files import expand

_ZIP_MAGIC = b"PK"
# What other files begin with -> what is said of them.
_NO_CORPUS = {
    b"": "is empty",
    b"{": "is JSON, which holds no splits to train on; bring an .npz or a pickle",
    b"\x93NUMPY": "is a single numpy array; bring an .npz with the keys of a corpus",
    b"\x1f\x8b": "is compressed by gzip; unpack it first",
    b"BZh": "is compressed by bzip2; unpack it first",
    b"\xfd7zXZ": "is compressed by xz; unpack it first",
    b"\x89HDF": "is HDF5, which is not read; bring an .npz or a pickle",
    b"version https://git-lfs": "is a pointer that git-lfs left; fetch the file by git lfs pull",
}
_LONGEST = max(map(len, _NO_CORPUS))
# What a pickled tuple or list begins with, and a conversation in JSON does not: the mark of the
# protocols from 2 on, or an opcode.
_PICKLE_MAGICS = (b"\x80", b"(", b"]", b")")


def load_corpus(path: str | os.PathLike, text_layers: str = "mean") -> Corpus:
    """Reads a corpus that is ready to train on.

    Args:
      path: an ``.npz`` file, a pickle of one of the known layouts, or ``simulated:<size>``.
      text_layers: how several text layers become one, see ``combine_text_layers``.

    Returns:
      A validated corpus.

    Raises:
      UserError: if it cannot be read, or is not sound.
    """
    return validate(combine_text_layers(read_corpus(path), text_layers))


def read_corpus(path: str | os.PathLike) -> Corpus:
    """Reads a corpus as the file holds it, several text layers kept apart.

    Args:
      path: as for ``load_corpus``.

    Returns:
      A validated corpus.

    Raises:
      UserError: if it cannot be read, or is not sound.
    """
    name = expand(path, "the path of the corpus")
    if name.startswith(SIMULATED):
        return validate(simulate(name.removeprefix(SIMULATED)))
    first = _first_bytes(name)
    for magic, what in _NO_CORPUS.items():
        if first.startswith(magic) and (magic or not first):
            raise UserError(f"{name}: {what}.")
    return read_npz(name) if first.startswith(_ZIP_MAGIC) else read_pickle(name)


def load_conversations(path: str | os.PathLike, text_layers: str = "mean") -> Corpus:
    """Reads conversations that are only to be predicted.

    Args:
      path: as for ``load_corpus``, or JSON lines (``conversations.py``). Splits do not count, and
        labels need not be there.
      text_layers: as for ``load_corpus``.

    Returns:
      A corpus validated for prediction; its classes are those of the file, which may be none.

    Raises:
      UserError: if it cannot be read, or is not sound.
    """
    name = expand(path, "the path of the conversations")
    if name.startswith(SIMULATED):
        return simulate(name.removeprefix(SIMULATED))
    first = _first_bytes(name)
    if first.startswith(_ZIP_MAGIC):
        corpus = read_npz(name, to_predict=True)
    elif first.startswith(_PICKLE_MAGICS):
        corpus = read_pickle(name, to_predict=True)
    else:
        return read_json_lines(name)
    return validate(combine_text_layers(corpus, text_layers), to_predict=True)


def _first_bytes(name: str) -> bytes:
    try:
        # Before it is opened: a pipe would make us wait, and a device need not end.
        mode = os.stat(name).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UserError(f"{name}: is not a file but a pipe or a device; write it to a file.")
        with open(name, "rb") as file:
            return file.read(_LONGEST)
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror or error}).") from error


def convert(source: str | os.PathLike, target: str | os.PathLike) -> Corpus:
    """Writes any readable corpus as a canonical file.

    Args:
      source: as for ``load_corpus``.
      target: the ``.npz`` to write, replaced in one step if it is there.

    Returns:
      The corpus that was written.

    Raises:
      UserError: if the source cannot be read or the target cannot be written.
    """
    corpus = read_corpus(source)
    write_npz(corpus, target)
    return corpus
