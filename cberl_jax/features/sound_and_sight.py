"""Sound and sight of a transcript's utterances as features, by any number of encoders."""

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cberl_jax.data.readers.transcripts import Transcript
from cberl_jax.errors import UserError
from cberl_jax.features import audio
from cberl_jax.features.clips import Clips, Reading, Task, find_clips, make_rows
from cberl_jax.features.faces import CROP, Faces
from cberl_jax.features.kept import hash_weights
from cberl_jax.features.media import RATE
from cberl_jax.features.optional import load_library
from cberl_jax.features.provenance import describe_encoder, describe_extractor, name_file
from cberl_jax.features.speech import LONGEST, SpeechEncoder
from cberl_jax.features.vision import MOST_FRAMES, VisualEncoder
from cberl_jax.runtime.files import hash_file

EGEMAPS = "egemaps"
# What a record calls it.
FUNCTIONALS = "eGeMAPSv02 functionals"
# What a task is called that counts frames and those with a face; no name of features.
_COUNT = "frames and faces"
_LAYER, _RATE = "summed up over time, layer ", " frames a second"


class MediaSources(NamedTuple):
    """Where sound and sight come from, and what makes features of them.

    Attributes:
      audio_folders: with the utterances' sounds; one for all transcripts or one for each; empty for
        the sound of the videos.
      video_folders: with the utterances' clips or the dialogues' videos; likewise.
      audio_encoders: name of features -> encoder (``SpeechEncoder``), or ``egemaps``.
      audio_layer: of the speech encoders, see ``SpeechEncoder``.
      visual_encoders: name of features -> encoder (``VisualEncoder``).
      frame_rate: frames a second.
      face_detector: file of a detector (``Faces``): visual encoders see faces alone. Empty for
        whole frames.
    """

    audio_folders: Sequence[str | os.PathLike] = ()
    video_folders: Sequence[str | os.PathLike] = ()
    audio_encoders: Mapping[str, str] = {"audio": EGEMAPS}
    audio_layer: str = "-1"
    visual_encoders: Mapping[str, str] = {}
    frame_rate: float = 2.0
    face_detector: str = ""

    @property
    def names(self) -> list[str]:
        """Of the features that it gives."""
        sound = self.audio_encoders if self.audio_folders or self.video_folders else ()
        return [*sound, *self.visual_encoders]


def check_media(media: MediaSources) -> None:
    """Refuses encoders that are given nothing.

    Raises:
      UserError: a visual encoder, or a speech encoder, has no folder to read from.
    """
    if media.visual_encoders and not media.video_folders:
        raise UserError("--visual_encoder needs --video_dir, the folder of the clips.")
    if media.face_detector and not media.visual_encoders:
        raise UserError("--face_detector needs --visual_encoder, which sees the faces.")
    learnt = [name for name in media.audio_encoders.values() if name != EGEMAPS]
    if learnt and not (media.audio_folders or media.video_folders):
        raise UserError(
            f"--audio_encoder={learnt[0]} needs --audio_dir or --video_dir, the folder of the "
            "sounds or clips."
        )


def check_folders(media: MediaSources) -> None:
    """Refuses folders that nothing would be read from.

    Raises:
      UserError: no encoder reads the sounds, or the clips.
    """
    if media.audio_folders and not media.audio_encoders:
        raise UserError("--audio_dir changes nothing without --audio_encoder.")
    sound_of_clips = media.audio_encoders and not media.audio_folders
    if media.video_folders and not (media.visual_encoders or sound_of_clips):
        sound = (
            "the sound is that of --audio_dir"
            if media.audio_folders
            else "no --audio_encoder reads their sound"
        )
        raise UserError(
            f"--video_dir changes nothing: no --visual_encoder reads the clips, and {sound}."
        )


def media_rows(
    transcript: Transcript,
    media: MediaSources,
    output: str | os.PathLike,
    say: Callable[[str], None],
) -> dict[str, np.ndarray]:
    """The features of sound and sight.

    Args:
      transcript: the utterances.
      media: the sources.
      output: the file that they are for; rows are kept beside it until ``forget_rows``, so that the
        same call goes on if it is cut off.
      say: is told the progress, and what is missing or broken.

    Returns:
      Name -> [N, width] float32; a row is nan where there is nothing.

    Raises:
      UserError: a folder or an encoder is at fault.
    """
    rows: dict[str, np.ndarray] = {}
    sound = dict(media.audio_encoders) if media.audio_folders or media.video_folders else {}
    if media.audio_folders:
        # openSMILE reads the files themselves, at their own rate.
        for name in [name for name, encoder in sound.items() if encoder == EGEMAPS]:
            rows[name] = _egemaps_of_files(transcript, media.audio_folders, say)
            del sound[name]
    speech = {name: _speech_task(encoder, media.audio_layer) for name, encoder in sound.items()}
    faces = Faces(media.face_detector) if media.face_detector else None
    visual = {name: _visual_task(e, faces) for name, e in media.visual_encoders.items()}
    if faces is not None:
        visual[_COUNT] = _counting_task(faces)
    of_videos = visual if media.audio_folders else speech | visual
    of_sounds = speech if media.audio_folders else {}
    reading = Reading(media.frame_rate, MOST_FRAMES, LONGEST, max(2, os.cpu_count() or 1))
    for tasks, folders, flag in (
        (of_sounds, media.audio_folders, "--audio_dir"),
        (of_videos, media.video_folders, "--video_dir"),
    ):
        if tasks:
            clips = find_clips(transcript, folders, flag)
            folder = _folder(output) / flag.strip("-")
            made = make_rows(clips.spans, tasks, reading, folder, say)
            _tell(clips, made.broken, say)
            rows |= made.rows
            if faces is not None and _COUNT in tasks:
                _tell_faces(clips, made.rows[_COUNT], say)
    return {name: rows[name] for name in media.names}


def describe_media(transcript: Transcript, media: MediaSources) -> dict[str, dict[str, Any]]:
    """The record of each name of features: how they were made."""
    records = {}
    for name in media.names:
        encoder = {**media.audio_encoders, **media.visual_encoders}[name]
        if encoder == EGEMAPS:
            records[name] = describe_extractor(FUNCTIONALS, transcript)
            continue
        of_sound = name in media.audio_encoders
        rate = f"summed up over time, {media.frame_rate:g}{_RATE}"
        pooling = f"{_LAYER}{media.audio_layer}" if of_sound else rate
        more = {} if of_sound else _describe_faces(media.face_detector)
        records[name] = describe_encoder(encoder, _weights(encoder), pooling, transcript, **more)
    return records


def _describe_faces(detector: str) -> dict[str, Any]:
    """What the record of a visual encoder says of the faces that it sees, if these are all."""
    if not detector:
        return {"faces": None}
    made = {"sha256": hash_file(detector), "crop": CROP}
    return {"faces": made, "face_detector": name_file(detector)}


def parse_pooling(pooling: str) -> str | float | None:
    """What a record of ``describe_media`` says of how an encoder was read.

    Returns:
      The layer, str, of a speech encoder; the frames a second, float, of a visual one; None where
      the record is of neither.
    """
    if pooling.startswith(_LAYER):
        return pooling.removeprefix(_LAYER)
    match = re.fullmatch(rf"summed up over time, ([\d.e+-]{{1,12}}){_RATE}", pooling)
    try:
        return float(match[1]) if match else None
    except ValueError:
        return None


def forget_rows(output: str | os.PathLike) -> None:
    """Removes the rows that were kept for a file that is now whole."""
    shutil.rmtree(_folder(output), ignore_errors=True)


def _folder(output: str | os.PathLike) -> Path:
    return Path(f"{os.fspath(output)}.clips")


def _tell(clips: Clips, broken: Sequence[str], say: Callable[[str], None]) -> None:
    if clips.missing:
        say(f"clips that are not there: {len(clips.missing)}, such as {clips.missing[0]}")
    if clips.untimed:
        say(
            f"utterances that no times cut out of the file of their dialogue: {len(clips.untimed)},"
            f" such as {clips.untimed[0]}"
        )
    for what in broken:
        say(f"a clip that cannot be decoded, so that its utterance lacks it: {what}")


def _tell_faces(clips: Clips, counts: np.ndarray, say: Callable[[str], None]) -> None:
    """Says in how many frames a face was found; ``counts`` [N, 2] are frames and faces."""
    frames, faces = np.nan_to_num(counts).sum(axis=0).astype(int)
    without = np.flatnonzero((counts[:, 0] > 0) & (counts[:, 1] == 0))
    say(f"faces: found in {faces} of {frames} frames")
    if len(without):
        path = getattr(clips.spans[without[0]], "path", "")
        say(f"clips without a face, whose utterances lack sight: {len(without)}, such as {path}")


def _egemaps_of_files(
    transcript: Transcript, folders: Sequence[str | os.PathLike], say: Callable[[str], None]
) -> np.ndarray:
    made = audio.audio_features(transcript, folders)
    for what, files in (
        ("not there", made.missing),
        ("empty", made.empty),
        ("too short", made.too_short),
    ):
        if files:
            say(f"sounds that are {what}: {len(files)}, such as {files[0]}")
    return made.rows


def _speech_task(name: str, layer: str) -> Task:
    if name == EGEMAPS:
        functionals = audio.make_functionals()
        version = load_library("opensmile").__version__
        return Task(True, lambda x: functionals(x, RATE), audio.WIDTH, f"openSMILE {version}")
    encoder = SpeechEncoder(name, layer)
    return Task(True, encoder, encoder.width, f"{_identify(name)}, layer {layer}")


def _visual_task(name: str, faces: Faces | None) -> Task:
    encoder = VisualEncoder(name)
    if faces is None:
        return Task(False, encoder, encoder.width, _identify(name))
    how = f"{_identify(name)}, {faces.identity}"
    return Task(False, lambda frames: encoder(faces(frames)), encoder.width, how)


def _counting_task(faces: Faces) -> Task:
    def count(frames: np.ndarray) -> np.ndarray:
        return np.array([len(frames), len(faces(frames))], np.float32)

    return Task(False, count, 2, faces.identity)


def _identify(name: str) -> str:
    """An encoder by its weights, so that another one in the same folder is another one."""
    return f"{name} {sorted(_weights(name).values())}"


def _weights(name: str) -> dict[str, str]:
    """File -> sha256 of an encoder's weights; its name alone where they are in no folder."""
    return hash_weights(name) or {"name": name}
