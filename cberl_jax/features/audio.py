"""eGeMAPS functionals (Eyben et al., IEEE TAC 2016) of every utterance, by openSMILE."""

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cberl_jax.data.readers.transcripts import Transcript
from cberl_jax.errors import UserError
from cberl_jax.features.folders import check_owners, folder_of_each
from cberl_jax.features.optional import load_library

WIDTH = 88
# Forms that libsndfile decodes, the most faithful first.
ENDINGS = (".wav", ".flac", ".ogg", ".mp3")


class AudioFeatures(NamedTuple):
    """What the sounds of a transcript gave.

    Attributes:
      rows: [N, 88] float32; a row is nan where there is no sound or too little.
      missing: files that are not there, of utterances that should have one.
      too_short: files with less sound than one window of the analysis.
      empty: files that hold no sound at all.
    """

    rows: np.ndarray
    missing: tuple[str, ...]
    too_short: tuple[str, ...]
    empty: tuple[str, ...]


def find_sounds(
    transcript: Transcript, folders: Sequence[str | os.PathLike]
) -> tuple[list[Path | None], tuple[str, ...]]:
    """Finds the file of each utterance.

    Args:
      transcript: the utterances, with the names of their files.
      folders: one for all tables, or one for each of them in their order.

    Returns:
      [N] paths, None where there is no file, and the names that were looked for in vain.

    Raises:
      UserError: a folder is missing, no utterance names a file or has one, or two utterances have
        the same one.
    """
    own = folder_of_each(transcript, folders, "--audio_dir")
    if not any(turn.audio for turn in transcript.turns):
        raise UserError(f"{transcript.source}: no column audio names the files of the utterances.")
    found = [_find_sound(*pair) for pair in zip(own, (turn.audio for turn in transcript.turns))]
    missing = [t.audio for t, path in zip(transcript.turns, found) if path is None and t.audio]
    check_owners(transcript, found, "--audio_dir", [False] * len(found))
    if all(path is None for path in found):
        raise UserError(f"{own[0]}: holds no file of the transcript, such as {missing[0]}.")
    return found, tuple(missing)


def _find_sound(folder: Path, name: str) -> Path | None:
    if not name:
        return None
    names = [folder / name, *(folder / f"{name}{ending}" for ending in ENDINGS)]
    return next((path for path in names if path.is_file()), None)


def audio_features(transcript: Transcript, folders: Sequence[str | os.PathLike]) -> AudioFeatures:
    """Computes the 88 functionals of eGeMAPS v02 over each utterance's sound.

    Args:
      transcript: the utterances, with the names of their files.
      folders: as for ``find_sounds``.

    Returns:
      The features, and the files that gave none.

    Raises:
      UserError: naming the file that cannot be decoded, and as ``find_sounds``. All files are
        opened before any is analysed, which takes long.
    """
    paths, missing = find_sounds(transcript, folders)
    empty = {path for path in paths if path is not None and _is_empty(path)}
    if empty.issuperset(path for path in paths if path is not None):
        raise UserError(f"{min(empty)}: holds no sound, and nor does any other file.")
    functionals = make_functionals()
    rows = np.full((len(paths), WIDTH), np.nan, np.float32)
    too_short = []
    for row, path in enumerate(paths):
        if path is not None and path not in empty:
            found = functionals(*_read(path))
            if found is None:
                too_short.append(str(path))
            else:
                rows[row] = found
    return AudioFeatures(rows, missing, tuple(too_short), tuple(sorted(map(str, empty))))


def _is_empty(path: Path) -> bool:
    """Whether a file has no byte or no sample; refuses one that cannot be decoded."""
    if not path.stat().st_size:
        return True
    soundfile = load_library("soundfile")
    try:
        return soundfile.info(path).frames == 0
    except (OSError, RuntimeError) as error:
        raise _undecodable(path, error) from error


def _undecodable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be decoded as sound ({error}); wav, flac, ogg and mp3 can.")


def _read(path: Path) -> tuple[np.ndarray, int]:
    """A file's sound [n], its channels mixed, and its samples a second."""
    try:
        samples, rate = load_library("soundfile").read(path, dtype="float32", always_2d=True)
    except (OSError, RuntimeError) as error:
        raise _undecodable(path, error) from error
    return samples.mean(axis=1), rate


def make_functionals() -> Callable[[np.ndarray, int], np.ndarray | None]:
    """From sound [n] and its samples a second to 88 functionals; None where it is too short."""
    opensmile = load_library("opensmile")
    smile = opensmile.Smile(
        feature_set=opensmile.FeatureSet.eGeMAPSv02,
        feature_level=opensmile.FeatureLevel.Functionals,
    )

    def functionals(samples: np.ndarray, rate: int) -> np.ndarray | None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Segment too short")
            row = smile.process_signal(samples, rate).to_numpy()[0].astype(np.float32)
        return None if np.isnan(row).any() else row

    return functionals
