"""Vectors from elsewhere, such as video features, for the utterances of a transcript.

The file is an ``.npz`` with one array per dialogue, named as the dialogue is, [T, d] of floats with
a row per turn. A row of nan is a turn that lacks the modality, and so is every turn of a dialogue
that the file does not hold.
"""

import os
import re
from collections.abc import Callable

import numpy as np

from cberl_jax.data.readers.foreign import LOOKED_AT, refuse_foreign
from cberl_jax.data.readers.npz import read_arrays
from cberl_jax.data.readers.transcripts import Transcript
from cberl_jax.errors import UserError

BRING_VECTORS = (
    "write an .npz with one array [turns, width] for each dialogue, named as the dialogue is"
)


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
    _refuse_other_forms(source)
    arrays = read_arrays(source, _known_names(source, transcript))
    arrays = {name: _without_axis(array) for name, array in arrays.items()}
    if not arrays:
        raise UserError(f"{source}: holds no dialogue.")
    width = None
    for name, array in arrays.items():
        if array.ndim != 2 or array.dtype.kind != "f":
            found = f"{array.dtype} of shape {array.shape}"
            hint = "; the mean over axis 1 makes one vector of a turn" if array.ndim == 3 else ""
            raise UserError(f"{source}: {name!r} has to be a table of floats, not {found}{hint}.")
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


def _known_names(source: str, transcript: Transcript) -> Callable[[str], bool]:
    """Whether an array is a dialogue's; refuses the first that is not."""
    names = set(transcript.dialogue.tolist())
    turns = {turn.audio for turn in transcript.turns} - {""}

    def is_known(name: str) -> bool:
        if name in names:
            return True
        form = "an utterance's" if name in turns or "utt" in name else "no dialogue's"
        if name.isdecimal() or re.fullmatch(r"arr_\d+", name):
            form = "a number"
        raise UserError(
            f"{source}: the name {name[:80]!r} of an array is {form}; each array has to have the "
            f"name of a dialogue, such as {str(transcript.dialogue[0])!r}, and hold [turns, width]."
        )

    return is_known


def _refuse_other_forms(source: str) -> None:
    try:
        with open(source, "rb") as file:
            first = file.read(LOOKED_AT)
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror or error}).") from error
    refuse_foreign(source, first, BRING_VECTORS)


def _without_axis(array: np.ndarray) -> np.ndarray:
    """[T, 1, d] as [T, d]."""
    return array[:, 0] if array.ndim == 3 and array.shape[1] == 1 else array
