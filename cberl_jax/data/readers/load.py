"""Any corpus that a person can name: a canonical file, a pickle of the field, the simulation.

Section 2 of the design. What a file is, is read off its first bytes, never off its name.
"""

import dataclasses
import os
import stat

from cberl_jax.data.corpus import Corpus
from cberl_jax.data.labels import keep_used_classes
from cberl_jax.data.readers.foreign import LOOKED_AT, is_json, refuse_foreign
from cberl_jax.data.readers.jsonl import parse_json_lines
from cberl_jax.data.readers.npz import read_npz, write_npz
from cberl_jax.data.readers.options import ReadingOptions
from cberl_jax.data.readers.pickles import read_pickle
from cberl_jax.data.readers.transcripts import Transcript, is_table, read_transcripts
from cberl_jax.data.simulate import SIMULATED, simulate
from cberl_jax.data.text_layers import combine_text_layers
from cberl_jax.data.validate import validate
from cberl_jax.errors import UserError
from cberl_jax.runtime.files import expand

_ZIP_MAGIC = b"PK"
_ANYTHING = ReadingOptions()
# What a pickled tuple or list begins with, and a conversation in JSON does not: the mark of the
# protocols from 2 on, or an opcode.
_PICKLE_MAGICS = (b"\x80", b"(", b"]", b")")


def load_corpus(
    path: str | os.PathLike, text_layers: str = "mean", options: ReadingOptions = _ANYTHING
) -> Corpus:
    """Reads a corpus that is ready to train on.

    Args:
      path: an ``.npz`` file, a pickle of one of the known layouts, or ``simulated:<size>``.
      text_layers: how several text layers become one, see ``combine_text_layers``.
      options: what the file does not say.

    Returns:
      A validated corpus.

    Raises:
      UserError: if it cannot be read, or is not sound.
    """
    corpus = combine_text_layers(read_corpus(path, options), text_layers)
    return validate(corpus, without_splits=options.without_splits)


def read_corpus(path: str | os.PathLike, options: ReadingOptions = _ANYTHING) -> Corpus:
    """Reads a corpus as the file holds it, several text layers kept apart.

    Classes that no utterance of a file has are left out, and said in the corpus's remarks.

    Args:
      path: as for ``load_corpus``.
      options: as for ``load_corpus``.

    Returns:
      A validated corpus.

    Raises:
      UserError: if it cannot be read, or is not sound.
    """
    check_path(path)
    name = expand(path, "the path of the corpus")
    if name.startswith(SIMULATED):
        if dataclasses.replace(options, without_splits=False) != _ANYTHING:
            raise UserError(
                f"{name}: is simulated, which needs no --classes, --corpus or the like."
            )
        return validate(simulate(name.removeprefix(SIMULATED)))
    first = _first_bytes(name)
    refuse_foreign(name, first)
    read = read_npz if first.startswith(_ZIP_MAGIC) else read_pickle
    return keep_used_classes(read(name, options))


def check_path(data: object) -> None:
    """Refuses what is no path, such as a table of a person's own.

    Raises:
      UserError: naming the function that makes a corpus of a table.
    """
    if not isinstance(data, str | os.PathLike):
        raise UserError(
            f"data is a path or a Corpus, not {type(data).__name__}; make a Corpus of a table and "
            'its features by cberl_jax.Corpus.from_frame(frame, features={"text": array})'
        )


def load_conversations(
    path: str | os.PathLike, text_layers: str = "mean", options: ReadingOptions = _ANYTHING
) -> Corpus | Transcript:
    """Reads conversations that are only to be predicted.

    Args:
      path: as for ``load_corpus``, or JSON lines (``jsonl.py``), or a table (``transcripts.py``).
        Splits do not count, and labels need not be there.
      text_layers: as for ``load_corpus``.
      options: as for ``load_corpus``; JSON lines need none.

    Returns:
      A corpus validated for prediction; its classes are those of the file, which may be none. A
      transcript where the file holds no features: a table, or JSON lines without them.

    Raises:
      UserError: if it cannot be read, or is not sound.
    """
    name = expand(path, "the path of the conversations")
    if name.startswith(SIMULATED):
        return simulate(name.removeprefix(SIMULATED))
    first = _first_bytes(name)
    if first and not is_json(first):
        refuse_foreign(name, first)
    if first.startswith(_ZIP_MAGIC):
        # It names its classes itself but for those of bins, and no split counts.
        own = ReadingOptions(classes=options.classes, bins=options.bins)
        corpus = read_npz(name, own, to_predict=True)
    elif first.startswith(_PICKLE_MAGICS):
        corpus = read_pickle(name, options, to_predict=True)
    elif not is_json(first) and is_table(name, first):
        return read_transcripts([name])
    else:
        written = parse_json_lines(name)
        return written.transcript() if written.is_raw else written.corpus()
    return validate(combine_text_layers(corpus, text_layers), to_predict=True)


def _first_bytes(name: str) -> bytes:
    try:
        # Before it is opened: a pipe would make us wait, and a device need not end.
        mode = os.stat(name).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UserError(f"{name}: is not a file but a pipe or a device; write it to a file.")
        with open(name, "rb") as file:
            return file.read(LOOKED_AT)
    except OSError as error:
        raise UserError(f"{name}: cannot be read ({error.strerror or error}).") from error


def convert(
    source: str | os.PathLike, target: str | os.PathLike, options: ReadingOptions = _ANYTHING
) -> Corpus:
    """Writes any readable corpus as a canonical file.

    Args:
      source: as for ``load_corpus``.
      target: the ``.npz`` to write, replaced in one step if it is there.
      options: what the source does not say.

    Returns:
      The corpus that was written.

    Raises:
      UserError: if the source cannot be read or the target cannot be written.
    """
    corpus = read_corpus(source, options)
    write_npz(corpus, target)
    return corpus
