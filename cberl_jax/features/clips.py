"""Features of every utterance's clip, kept as they are made, so that a run goes on where it ended.

A clip is decoded once for all encoders, by threads that are a few clips ahead of them. One that
cannot be decoded is named, and its utterance lacks what it would have given.
"""

import collections
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cberl_jax.data.readers.transcripts import Transcript, Turn
from cberl_jax.errors import UserError
from cberl_jax.features.audio import ENDINGS as SOUNDS
from cberl_jax.features.folders import check_owners, folder_of_each
from cberl_jax.features.media import Span, Unreadable, read_frames, read_sound
from cberl_jax.runtime.files import replacing, write_json
from cberl_jax.version import __version__

VIDEOS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg")
# Clips that are decoded before they are needed, for each thread.
AHEAD = 2
# Clips whose rows are written together.
TOGETHER = 50
SECONDS_BETWEEN_LINES = 15.0


class Clips(NamedTuple):
    """Where the clip of each utterance is.

    Attributes:
      spans: [N] part of a file; None where there is none.
      missing: what was looked for in vain.
      untimed: places of utterances whose dialogue has a file, and which no times cut out of it.
    """

    spans: list[Span | None]
    missing: tuple[str, ...]
    untimed: tuple[str, ...] = ()


class Task(NamedTuple):
    """One encoder and what it is given.

    Attributes:
      of_sound: whether it takes sound, [n] float32; else frames, [n, height, width, 3] uint8.
      encode: gives a row [width] float32, or None where that is too little.
      width: of a row.
      identity: all that its rows depend on, but for the clips.
    """

    of_sound: bool
    encode: Callable[[np.ndarray], np.ndarray | None]
    width: int
    identity: str


class Reading(NamedTuple):
    """How clips are decoded.

    Attributes:
      rate: frames a second.
      most: frames of a clip at most.
      longest: seconds of sound at most.
      threads: that decode.
    """

    rate: float = 2.0
    most: int = 64
    longest: float = 30.0
    threads: int = 2


class Made(NamedTuple):
    """What clips gave.

    Attributes:
      rows: task -> [N, width] float32, nan where there is none.
      broken: files that cannot be decoded, each with the reason.
    """

    rows: dict[str, np.ndarray]
    broken: tuple[str, ...]


def find_clips(transcript: Transcript, folders: Sequence[str | os.PathLike], flag: str) -> Clips:
    """Finds the clip of each utterance: a file of its own, or its time in that of its dialogue.

    Args:
      transcript: the utterances. A file is called as the table says (in MELD ``dia0_utt0``), or as
        the dialogue; then start and end of the utterance have to be known. Of a video and a sound
        of one name the flag says which is meant.
      folders: one for all tables, or one for each of them in their order.
      flag: that names the folders, for messages.

    Raises:
      UserError: a folder is missing, no utterance has a clip, or two have the same one.
    """
    own = folder_of_each(transcript, folders, flag)
    endings = SOUNDS + VIDEOS if flag == "--audio_dir" else VIDEOS + SOUNDS
    spans = [_find(folder, turn, endings) for folder, turn in zip(own, transcript.turns)]
    missing, untimed = [], []
    for folder, turn, span in zip(own, transcript.turns, spans):
        if span is None and _file(folder, turn.dialogue, endings):
            untimed.append(turn.place)
        elif span is None:
            missing.append(turn.audio or turn.dialogue)
    check_owners(
        transcript,
        [span and span.path for span in spans],
        flag,
        [span is not None and not math.isinf(span.end) for span in spans],
    )
    if all(span is None for span in spans):
        if untimed:
            raise UserError(
                f"{untimed[0]}: has no start and end after it, by which the file of its dialogue "
                "could be cut, and no other utterance has a clip."
            )
        raise UserError(
            f"{own[0]}: holds no clip of the transcript, such as {missing[0]}{endings[0]}."
        )
    return Clips(spans, tuple(missing), tuple(untimed))


def _find(folder: Path, turn: Turn, endings: Sequence[str]) -> Span | None:
    own = _file(folder, turn.audio, endings)
    if own is not None:
        return Span(own)
    whole = _file(folder, turn.dialogue, endings)
    if whole is None or math.isnan(turn.start + turn.end) or turn.end <= turn.start:
        return None
    return Span(whole, turn.start, turn.end)


def _file(folder: Path, name: str, endings: Sequence[str]) -> Path | None:
    if not name:
        return None
    names = [folder / name, *(folder / f"{name}{ending}" for ending in endings)]
    return next((path for path in names if path.is_file()), None)


class _Store:
    """Rows in files, under a name that depends on all that they are made from."""

    def __init__(self, folder: Path, identity: str):
        """Opens a folder; what it holds of anything else is removed."""
        self._folder, note = folder, folder / "made_from.json"
        if not note.is_file() or json.loads(note.read_bytes()) != identity:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_json(note, identity)
        self._files = len(list(folder.glob("*.npz")))

    def read(self) -> Iterator[tuple[int, str, dict[str, np.ndarray]]]:
        """The number of each clip that is done, why it is broken, and its rows."""
        for path in sorted(self._folder.glob("*.npz")):
            with np.load(path, allow_pickle=False) as stored:
                arrays = dict(stored)
            for place, number in enumerate(arrays.pop("number")):
                yield (
                    int(number),
                    str(arrays["broken"][place]),
                    {name: rows[place] for name, rows in arrays.items() if name != "broken"},
                )

    def write(self, done: Sequence[tuple[int, str, Mapping[str, np.ndarray]]]) -> None:
        """Adds clips."""
        arrays = {name: np.stack([rows[name] for _, _, rows in done]) for name in done[0][2]}
        with replacing(self._folder / f"{self._files:05d}.npz") as file:
            np.savez(
                file,
                number=np.array([number for number, _, _ in done]),
                broken=np.array([why for _, why, _ in done], np.str_),
                **arrays,
            )
        self._files += 1


def make_rows(
    spans: Sequence[Span | None],
    tasks: Mapping[str, Task],
    reading: Reading,
    folder: Path,
    say: Callable[[str], None],
) -> Made:
    """Encodes all clips; goes on with those that a call of the same kind left undone.

    Args:
      spans: [N] where the clips are.
      tasks: name -> encoder.
      reading: how clips are decoded.
      folder: where rows are kept until all are there; the caller removes it.
      say: takes a line of progress now and then.

    Returns:
      The rows.
    """
    there = [number for number, span in enumerate(spans) if span is not None]
    store = _Store(folder, _identify(spans, tasks, reading))
    rows = {name: np.full((len(spans), t.width), np.nan, np.float32) for name, t in tasks.items()}
    broken: dict[int, str] = {}

    def keep(number: int, why: str, found: Mapping[str, np.ndarray]) -> None:
        if why:
            broken[number] = why
        for name, row in found.items():
            rows[name][number] = row

    done = set()
    for number, why, found in store.read():
        keep(number, why, found)
        done.add(number)
    left = [number for number in there if number not in done]
    if done and left:
        say(f"clips that are there from before: {len(done)} of {len(there)}")
    begin, told, batch = time.monotonic(), time.monotonic(), []
    for count, (number, why, found) in enumerate(_encode(spans, left, tasks, reading), start=1):
        keep(number, why, found)
        batch.append((number, why, found))
        now = time.monotonic()
        if len(batch) == TOGETHER or count == len(left):
            store.write(batch)
            batch = []
        if now - told > SECONDS_BETWEEN_LINES or count == len(left):
            told = now
            seconds = round((now - begin) / count * (len(left) - count))
            say(f"clips {len(done) + count}/{len(there)}, broken {len(broken)}, {seconds} s left")
    return Made(rows, tuple(f"{spans[n].path} ({why})" for n, why in sorted(broken.items())))


def _identify(
    spans: Sequence[Span | None], tasks: Mapping[str, Task], reading: Reading
) -> list[str]:
    """All that the rows depend on: version, encoders, and place, size and time of every file."""
    digest = hashlib.sha256()
    for number, span in enumerate(spans):
        if span is not None:
            stat = span.path.stat()
            own = [number, str(span.path), span.start, str(span.end), stat.st_size]
            own.append(stat.st_mtime_ns)
            digest.update(json.dumps(own).encode())
    how = [str(value) for value in reading[:3]]
    each = [f"{name}: {task.identity}" for name, task in tasks.items()]
    return [__version__, digest.hexdigest(), str(len(spans)), *how, *each]


def _encode(
    spans: Sequence[Span | None],
    numbers: Sequence[int],
    tasks: Mapping[str, Task],
    reading: Reading,
) -> Iterator[tuple[int, str, dict[str, np.ndarray]]]:
    """Number, why it is broken, and rows of each clip, in order."""
    kinds = {task.of_sound for task in tasks.values()}
    left = iter(numbers)
    with ThreadPoolExecutor(reading.threads) as pool:
        waiting: collections.deque[tuple[int, Future]] = collections.deque()

        def fill() -> None:
            while len(waiting) < AHEAD * reading.threads:
                number = next(left, None)
                if number is None:
                    return
                waiting.append((number, pool.submit(_decode, spans[number], kinds, reading)))

        fill()
        while waiting:
            number, future = waiting.popleft()
            media, why = future.result()
            fill()
            yield number, why, {name: _row(task, media) for name, task in tasks.items()}


def _decode(span: Span, kinds: set[bool], reading: Reading) -> tuple[dict[bool, np.ndarray], str]:
    """Sound (True) and frames (False) of a clip, and why it gave none."""
    try:
        media = {}
        if True in kinds:
            media[True] = read_sound(span, reading.longest)
        if False in kinds:
            media[False] = read_frames(span, reading.rate, reading.most)
        return media, ""
    except Unreadable as error:
        return {}, str(error)


def _row(task: Task, media: Mapping[bool, np.ndarray]) -> np.ndarray:
    """[width], nan where there is nothing to encode."""
    given = media.get(task.of_sound)
    row = None if given is None or not len(given) else task.encode(given)
    return np.full(task.width, np.nan, np.float32) if row is None else row
