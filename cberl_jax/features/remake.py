"""Raw conversations for a trained run: its features made again, by the very same extractors.

A run keeps how its features were made (``provenance.py``). Its records name encoders by the sha256
of their weights; where an encoder is, is looked up: among the folders that are named, in the run's
own folder, where the record says, and in the installed packages.
"""

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cberl_jax.data.corpus import Corpus
from cberl_jax.data.readers.transcripts import Transcript, Turn
from cberl_jax.errors import UserError
from cberl_jax.features.context import ALONE, read_context
from cberl_jax.features.encode import TextReader
from cberl_jax.features.extract import make_corpus
from cberl_jax.features.kept import check_harmless, hash_weights, list_seeds
from cberl_jax.features.provenance import hash_state
from cberl_jax.features.sound_and_sight import (
    EGEMAPS,
    FUNCTIONALS,
    MediaSources,
    describe_media,
    media_rows,
    parse_pooling,
)
from cberl_jax.features.text import PACKAGED, find_folder, load_encoder
from cberl_jax.features.timing import timing_features
from cberl_jax.runtime.files import expand, explaining_failure, hash_file

Records = Mapping[str, Mapping[str, Any]]
TEXT, TIMING, FUNCTIONAL, SPEECH, SIGHT = "text", "timing", "functionals", "audio", "visual"
_SOUND = (FUNCTIONAL, SPEECH)
# What is kept of features beside their encoder, under their name and this: the face detector.
_FACES = "+faces"


class Folders(NamedTuple):
    """Where the files of raw conversations are.

    Attributes:
      audio: as of ``MediaSources``.
      video: as of ``MediaSources``.
    """

    audio: Sequence[str | os.PathLike] = ()
    video: Sequence[str | os.PathLike] = ()


NO_FOLDERS = Folders()


class Remaker:
    """Makes the features of a run of raw conversations."""

    def __init__(
        self,
        records: Records,
        names: Sequence[str],
        kept: Path,
        encoders: Sequence[str | os.PathLike] = (),
    ):
        """Nothing is loaded yet, but the encoders that are named are looked at.

        Args:
          records: name of features -> how they were made; some may be missing.
          names: of the features that the run was trained with.
          kept: the folder ``encoders`` of the run, which need not be there.
          encoders: folders of encoders, known by their weights.

        Raises:
          UserError: one of these is none of the run's encoders.
        """
        self._records = {name: records.get(name, {}) for name in names}
        self._kinds = {name: find_kind(record) for name, record in self._records.items()}
        self._kept, self._given = kept, choose_encoders(self._records, encoders)
        self._texts: dict[str, TextReader] = {}

    def remake(
        self,
        transcript: Transcript,
        folders: Folders = NO_FOLDERS,
        say: Callable[[str], None] | None = None,
    ) -> Corpus:
        """The conversations with the run's features.

        Args:
          transcript: the conversations.
          folders: where their sounds and clips are.
          say: is told progress and which files are missing; by default the corpus's remarks are.

        Returns:
          The corpus, for prediction. Features that cannot be made are left out, and named in its
          remarks.

        Raises:
          UserError: an encoder cannot be found or is another one; or nothing can be made.
        """
        self._check_folders(folders)
        remarks: list[str] = []
        say = say or remarks.append
        lost = {name: self._why_not(name, folders) for name in self._kinds}
        rows: dict[str, np.ndarray] = {}
        made: dict[str, dict[str, Any]] = {}
        for name in [n for n, kind in self._kinds.items() if kind == TIMING]:
            rows[name] = timing_features(transcript, self._records[name]["causal"])
            made[name] = dict(self._records[name])
            if np.isnan(rows[name]).all():
                lost[name] = "no turn has both a start and an end"
        # All encoders are looked for before the first one works.
        texts = {name: self._text(name) for name, kind in self._kinds.items() if kind == TEXT}
        for media in self._media(folders, [name for name, why in lost.items() if not why]):
            with tempfile.TemporaryDirectory() as drafts:
                rows |= media_rows(transcript, media, Path(drafts) / "rows", say)
            made |= describe_media(transcript, media)
        for name, reader in texts.items():
            rows[name], made[name] = reader.encode(transcript, say), reader.describe(transcript)
        here = {name: rows[name] for name, why in lost.items() if not why}
        reasons = [f"{name} ({why})" for name, why in lost.items() if why]
        if not here:
            raise UserError(
                f"{transcript.source}: holds no features of {' or '.join(lost)}, and they cannot "
                f"be made again: {', '.join(reasons)}."
            )
        corpus = make_corpus(transcript, here, made, to_predict=True)
        absent = [f"absent in all turns: {', '.join(reasons)}"] if reasons else []
        return dataclasses.replace(corpus, remarks=(*corpus.remarks, *absent, *remarks))

    def remake_last(self, turns: Sequence[Turn]) -> Corpus:
        """The last turn of a conversation in progress with the run's features of text and times.

        Args:
          turns: all so far.

        Raises:
          UserError: a feature depends on later turns; or as of ``remake``.
        """
        rows: dict[str, np.ndarray] = {}
        for name, kind in self._kinds.items():
            if kind == TIMING:
                if not self._records[name]["causal"]:
                    raise UserError(
                        f"the features {name} of this run look at the next turn, so raw turns "
                        "cannot be followed live; train on features of cberl extract --causal, or "
                        "give each turn its features"
                    )
                rows[name] = timing_features(_conversation(turns), causal=True)[-1:]
            elif kind == TEXT:
                reader = self._text(name)
                if reader.context.future:
                    raise UserError(
                        f"the text encoder of this run reads {reader.context.future} later turns, "
                        "so raw turns cannot be followed live; train on features of cberl extract "
                        "--causal, or give each turn its features"
                    )
                window = turns[-reader.context.past - 1 :]
                rows[name] = reader.encode(_conversation(window), last=True)
        if not rows:
            raise UserError(
                f"{turns[-1].place}: holds no features, and of this run neither text nor times "
                "can be made into some again"
            )
        last = _conversation(turns[-1:])
        return make_corpus(last, rows, {name: {} for name in rows}, to_predict=True)

    def _check_folders(self, folders: Folders) -> None:
        kinds = set(self._kinds.values())
        for flag, given, served in (
            ("audio_dir", folders.audio, {*_SOUND}),
            ("video_dir", folders.video, {*_SOUND, SIGHT}),
        ):
            if given and not kinds & served:
                raise UserError(
                    f"{flag} changes nothing: no features of the run ({', '.join(self._kinds)}) "
                    "can be made again from it"
                )
        if folders.audio and folders.video and SIGHT not in kinds:
            raise UserError(
                "video_dir changes nothing: the run has no features of sight, and the sound is "
                "that of audio_dir"
            )

    def _why_not(self, name: str, folders: Folders) -> str:
        """Why features cannot be made; empty where they can."""
        kind, record = self._kinds[name], self._records[name]
        if not record:
            return "the run does not say how they were made"
        if not kind:
            return "they are no features of cberl extract"
        if kind in _SOUND and not (folders.audio or folders.video):
            return "audio_dir or video_dir names no folder of sounds"
        if kind == SIGHT and not folders.video:
            return "video_dir names no folder of clips"
        return ""

    def _text(self, name: str) -> TextReader:
        if name not in self._texts:
            held = self._records[name]["context"]
            context = ALONE if held is None else read_context(held)
            self._texts[name] = TextReader(self._find(name), context, hold=True)
        return self._texts[name]

    def _media(self, folders: Folders, names: Sequence[str]) -> list[MediaSources]:
        """The features to make of sounds and clips; several where layers or frame rates differ."""
        layers: dict[str, dict[str, str]] = {}
        looks: dict[tuple[float, str], dict[str, str]] = {}
        for name in names:
            how = parse_pooling(self._records[name].get("pooling", ""))
            if self._kinds[name] == SPEECH:
                layers.setdefault(str(how), {})[name] = self._find(name)
            elif self._kinds[name] == SIGHT:
                look = (float(how or 0), self._find_detector(name))
                looks.setdefault(look, {})[name] = self._find(name)
        for name in [name for name in names if self._kinds[name] == FUNCTIONAL]:
            layers.setdefault(next(iter(layers), "-1"), {})[name] = EGEMAPS
        return [
            MediaSources(
                folders.audio,
                folders.video,
                layers[layer] if layer is not None else {},
                layer or "-1",
                looks[look] if look is not None else {},
                *(look or (1.0, "")),
            )
            for layer, look in zip_longest(layers, looks)
        ]

    def _find_detector(self, name: str) -> str:
        """The file of the detector of the faces that features are made of; empty for none."""
        record, key = self._records[name], f"{name}{_FACES}"
        if not record.get("faces"):
            return ""
        kept = [path for path in (self._kept / key).glob("*") if path.is_file()]
        for file in [self._given.get(key, ""), *kept, str(record.get("face_detector", ""))]:
            if Path(file).is_file() and _is_detector(record, file):
                return os.fspath(file)
        raise UserError(
            f"the run's features {name} were made of faces that the detector "
            f"{record.get('face_detector')} found, and no such file (sha256 "
            f"{record['faces']['sha256'][:12]}...) is at hand; name it by --face_detector=FILE "
            "(encoders=[FILE] in Python)"
        )

    def _find(self, name: str) -> str:
        """The folder, or the name, of the encoder that made features."""
        if name in self._given:
            return self._given[name]
        record, kept = self._records[name], self._kept / name
        flag = f"--{self._kinds[name]}_encoder=FOLDER (encoders=[FOLDER] in Python)"
        if kept.is_dir():
            check_harmless(kept)
            if not _is_made_by(record, str(kept)):
                raise UserError(
                    f"{kept}: its weights are not those that the run's features {name} were made "
                    f"with; it is damaged: name the encoder's folder by {flag}"
                )
            return str(kept)
        called = record["encoder"]
        if Path(called).is_dir() and _is_made_by(record, called):
            return called
        if self._kinds[name] == TEXT and _is_packaged(record):
            return PACKAGED
        # Of a name alone nothing can be compared; of loaded weights the state can.
        weights = record["weights"].keys()
        if weights == {"name"} or (weights == {"state"} and _is_made_by(record, called)):
            return called
        raise UserError(
            f"the run's features {name} were made by the encoder {called}, and no folder with its "
            f"weights (sha256 {_digests(record)[0][:12]}...) is at hand; name it by {flag}"
        )


def find_kind(record: Mapping[str, Any]) -> str:
    """What makes features of a record: a constant of this module; empty where it is not known."""
    if record.get("extractor") == "timing" and type(record.get("causal")) is bool:
        return TIMING
    if record.get("extractor") == FUNCTIONALS:
        return FUNCTIONAL
    weights, pooling = record.get("weights"), record.get("pooling")
    named = isinstance(record.get("encoder"), str) and isinstance(pooling, str)
    if not named or not isinstance(weights, Mapping) or not weights:
        return ""
    if "context" in record:
        try:
            read_context(ALONE._asdict() if record["context"] is None else record["context"])
        except ValueError:
            return ""
        return TEXT
    how = parse_pooling(pooling)
    faces = record.get("faces")
    if faces is not None and not (isinstance(faces, Mapping) and type(faces.get("sha256")) is str):
        return ""
    return "" if how is None else SPEECH if isinstance(how, str) else SIGHT


def choose_encoders(
    records: Records, folders: Sequence[str | os.PathLike], strict: bool = True
) -> dict[str, str]:
    """Which folder holds the encoder of which features.

    Args:
      records: name of features -> how they were made.
      folders: of encoders, or of the seeds that one was tuned with; or files of face detectors.
      strict: whether one that is of none of them is refused, else passed over.

    Returns:
      Name of features -> folder, of those whose encoder is there; and a name of their own -> file,
      of face detectors.

    Raises:
      UserError: one is not there, or is of none of them.
    """
    learnt = {n: r for n, r in records.items() if find_kind(r) in (TEXT, SPEECH, SIGHT)}
    chosen: dict[str, str] = {}
    for folder in [expand(folder, "the encoder") for folder in folders]:
        own: dict[str, str]
        if Path(folder).is_dir():
            parts = list_seeds(folder)
            own = {n: part for part in parts for n, r in learnt.items() if _is_made_by(r, part)}
        elif Path(folder).is_file():
            own = {f"{n}{_FACES}": folder for n, r in learnt.items() if _is_detector(r, folder)}
        else:
            raise UserError(f"{folder}: is no folder; name the folder of an encoder")
        if not own and strict:
            known = ", ".join(f"{name} by {r['encoder']}" for name, r in learnt.items())
            if Path(folder).is_file():
                raise UserError(
                    f"{folder}: is no folder of an encoder, and no face detector that found the "
                    f"faces of the run's features (by an encoder: {known or 'none'})"
                )
            raise UserError(
                f"{folder}: its weights made none of the run's features (by an encoder: "
                f"{known or 'none'}); name the folder that cberl extract read, or wrote by "
                "--finetune"
            )
        chosen |= own
    return chosen


def check_encoders(records: Records, folders: Sequence[str | os.PathLike]) -> dict[str, str]:
    """As ``choose_encoders``, of folders that a run may keep.

    Raises:
      UserError: as of ``choose_encoders``; or an encoder holds a program.
    """
    chosen = choose_encoders(records, folders)
    for folder in set(chosen.values()):
        check_harmless(Path(folder))
    return chosen


def keep_encoders(chosen: Mapping[str, str], target: Path) -> None:
    """Puts encoders into the folder of a run, without a second copy where the disk allows that.

    Args:
      chosen: as of ``check_encoders``.
      target: the folder ``encoders`` of the run.

    Raises:
      UserError: it cannot be written.
    """
    for name, folder in chosen.items():
        if (target / name).exists():
            continue
        draft = target / f".{name}.{os.getpid()}.tmp"
        with explaining_failure(target):
            try:
                _copy(Path(folder), draft)
                os.replace(draft, target / name)
            finally:
                shutil.rmtree(draft, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    """Copies a folder, or a file into a new folder."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link)
    else:
        target.mkdir(parents=True)
        _link(os.fspath(source), os.fspath(target / source.name))


def _link(source: str, target: str) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        # Another disk.
        shutil.copy2(source, target)


def _digests(record: Mapping[str, Any]) -> list[str]:
    return sorted(map(str, record["weights"].values()))


def _is_made_by(record: Mapping[str, Any], folder: str) -> bool:
    """Whether the encoder in a folder has the weights that a record names."""
    if "state" in record["weights"]:
        return [hash_state(load_encoder(folder))] == _digests(record)
    return sorted(hash_weights(folder).values()) == _digests(record)


def _is_detector(record: Mapping[str, Any], file: str | os.PathLike) -> bool:
    """Whether a file is the detector that a record names."""
    sees_faces = find_kind(record) == SIGHT and record.get("faces")
    return bool(sees_faces) and hash_file(file) == record["faces"]["sha256"]


def _is_packaged(record: Mapping[str, Any]) -> bool:
    """Whether it is the encoder that comes with the extra ``features``."""
    try:
        folder = find_folder(PACKAGED)
    except UserError:
        if record["encoder"] == PACKAGED:
            raise
        return False
    return "state" not in record["weights"] and _is_made_by(record, folder)


def _conversation(turns: Sequence[Turn]) -> Transcript:
    """One conversation as a transcript."""
    return Transcript(
        turns[-1].place,
        (),
        np.array(["stream"]),
        np.array(["test"]),
        False,
        np.array([len(turns)], np.int32),
        np.full(len(turns), -1, np.int32),
        tuple(turns),
        np.zeros(len(turns), int),
    )
