"""Frames and sound out of video files, by PyAV, whose wheel carries FFmpeg's libraries."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cberl_jax.features.optional import load_library

# What speech encoders are trained on, in samples a second.
RATE = 16_000
# Sound is decoded from so many seconds before a part on: in Matroska a packet is found late.
EARLIER = 1.0


class Span(NamedTuple):
    """A part of a file: the whole of it, or from ``start`` to ``end`` seconds of its beginning."""

    path: Path
    start: float = 0.0
    end: float = math.inf


class Unreadable(Exception):
    """A file that cannot be decoded; the message says why, without its name."""


def _open(path: Path) -> Any:
    av = load_library("av")
    try:
        return av.open(str(path))
    except (OSError, ValueError) as error:  # PyAV's own errors are of these kinds.
        raise Unreadable(_why(error)) from error


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def measure(path: Path) -> float:
    """Seconds that a file lasts, by what it says of itself; nan where it does not say.

    Raises:
      Unreadable: it cannot be opened.
    """
    with _open(path) as container:
        if container.duration is None:
            return math.nan
        return container.duration / 1e6


def read_frames(span: Span, rate: float, most: int) -> np.ndarray:
    """Frames of a part of a video, evenly spaced.

    Args:
      span: the part.
      rate: frames a second.
      most: frames; of a longer part fewer a second are taken.

    Returns:
      [n, height, width, 3] uint8, RGB; n is 0 where the file has no picture in this part. Frame k
      is the one that is shown at (k + 1/2) / rate seconds, or the last one before it.

    Raises:
      Unreadable: it cannot be decoded.
    """
    with _open(span.path) as container:
        if not container.streams.video:
            return np.zeros((0, 0, 0, 3), np.uint8)
        stream = container.streams.video[0]
        first = _begin(container)
        start, end = first + span.start, min(first + span.end, _end(container, stream))
        # Of a whole file it may say that it lasts no time.
        if start >= end and span.start > 0:
            return np.zeros((0, 0, 0, 3), np.uint8)
        times = _times(start, end, rate, most)
        shown = list(_shown_at(times, _decode(container, stream, span.start)))
    return np.stack(shown) if shown else np.zeros((0, 0, 0, 3), np.uint8)


def _begin(container: Any) -> float:
    """The time of a file's beginning in seconds: in some formats a file does not begin at zero."""
    return max(0.0, (container.start_time or 0) / 1e6)


def _end(container: Any, stream: Any) -> float:
    """The time of a video's end in seconds, as far as the file says."""
    if stream.duration is not None:
        return float((stream.start_time or 0) + stream.duration) * float(stream.time_base)
    if container.duration is None:
        return math.inf
    return _begin(container) + container.duration / 1e6


def _times(start: float, end: float, rate: float, most: int) -> Iterator[float]:
    """When frames are taken; without an end until there are no more."""
    if math.isinf(end):
        return (start + (n + 0.5) / rate for n in range(most))
    count = max(1, round((end - start) * rate))
    step = (end - start) / min(count, most)
    return (start + (n + 0.5) * step for n in range(min(count, most)))


def _decode(container: Any, stream: Any, start: float) -> Iterator[Any]:
    """The frames of a stream, from the last one that can be decoded by itself before ``start``."""
    try:
        if start > 0:
            time = _begin(container) + start
            container.seek(int(time / stream.time_base), stream=stream)
        yield from container.decode(stream)
    except (OSError, ValueError) as error:
        raise Unreadable(_why(error)) from error


def _shown_at(times: Iterator[float], frames: Iterator[Any]) -> Iterator[np.ndarray]:
    """The picture that is shown at each time; none before the first frame."""
    wanted, last = next(times, None), None
    for frame in frames:
        while wanted is not None and last is not None and frame.time > wanted:
            yield _picture(last)
            wanted = next(times, None)
        if wanted is None:
            return
        last = frame
    # The last frame is shown until the end.
    while wanted is not None and last is not None:
        yield _picture(last)
        wanted = next(times, None)


def _picture(frame: Any) -> np.ndarray:
    """[height, width, 3] uint8, RGB, upright: a phone turns its videos by a note in the file."""
    return np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))


def read_sound(span: Span, longest: float) -> np.ndarray:
    """The sound of a part of a file, its channels mixed.

    Args:
      span: the part.
      longest: seconds that are read at most.

    Returns:
      [n] float32 in -1..1, ``RATE`` samples a second; empty where the file has no sound there.

    Raises:
      Unreadable: it cannot be decoded.
    """
    av = load_library("av")
    with _open(span.path) as container:
        if not container.streams.audio:
            return np.zeros(0, np.float32)
        stream = container.streams.audio[0]
        start = _begin(container) + span.start
        end = start + min(span.end - span.start, longest)
        resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
        parts, first = [], None
        for frame in _decode(container, stream, max(0.0, span.start - EARLIER)):
            if frame.time is not None and frame.time >= end:
                break
            first = frame.time if first is None else first
            parts += [own.to_ndarray()[0] for own in resampler.resample(frame)]
        parts += [own.to_ndarray()[0] for own in resampler.resample(None)] if parts else []
    if not parts:
        return np.zeros(0, np.float32)
    samples, begin = np.concatenate(parts), first or 0.0
    here = [max(0, round((time - begin) * RATE)) for time in (start, end) if time < math.inf]
    return samples[slice(*here)].astype(np.float32)
