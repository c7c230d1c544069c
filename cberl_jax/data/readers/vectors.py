"""Vectors from elsewhere, such as video features, for the utterances of a transcript.

The file is an ``.npz`` with one array per dialogue, named as the dialogue is, [T, d] of floats with
a row per turn. A row of nan is a turn that lacks the modality, and so is every turn of a dialogue
that the file does not hold.
"""

import os

import numpy as np

from cberl_jax.data.readers.npz import read_arrays
from cberl_jax.data.readers.transcripts import Transcript
from cberl_jax.errors import UserError


def read_vectors(path: str | os.PathLike, transcript: Transcript) -> np.ndarray:
    """Reads one modality's vectors.

    Args:
      path: an ``.npz`` as above.
      transcript: the utterances that they belong to.

    Returns:
      [N, d] float32; a row is nan where the modality is absent.

    Raises:
      UserError: naming the file and the dialogue, for what is not such a file, for a dialogue that
        the transcript lacks and for another number of turns or another width.
    """
    source = os.fspath(path)
    names = transcript.dialogue.tolist()
    arrays = read_arrays(source, set(names).__contains__)
    if not arrays:
        raise UserError(f"{source}: holds no dialogue.")
    width = None
    for name, array in arrays.items():
        if array.ndim != 2 or array.dtype.kind != "f":
            found = f"{array.dtype} of shape {array.shape}"
            raise UserError(f"{source}: {name!r} has to be a table of floats, not {found}.")
        width = array.shape[1] if width is None else width
        turns = transcript.length[names.index(name)]
        if array.shape != (turns, width):
            raise UserError(
                f"{source}: dialogue {name!r} is {array.shape[0]} turns of {array.shape[1]} "
                f"numbers; {turns} turns of {width} numbers are needed."
            )
    rows = np.full((len(transcript.turns), width), np.nan, np.float32)
    # A number beyond float32 becomes infinite, which is reported.
    with np.errstate(over="ignore"):
        for name, first, length in zip(names, transcript.start, transcript.length):
            if name in arrays:
                rows[first : first + length] = arrays[name]
    wrong = ~np.isfinite(rows).all(axis=1) & ~np.isnan(rows).all(axis=1)
    if wrong.any():
        place = transcript.turns[int(wrong.argmax())].place
        raise UserError(
            f"{source}: the vector of {place} holds a number that is not finite; only a whole row "
            "may be nan, where the modality is absent."
        )
    return rows
