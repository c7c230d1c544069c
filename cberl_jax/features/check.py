"""What is wrong with transcripts and clips at hand, and what extraction does about it.

MELD as it is published has known faults: clips that cannot be decoded (dia125_utt3 of train,
dia110_utt7 of dev), clips that are minutes longer than their utterance, times out of order, and
turns that are missing. Characters in a wrong encoding are mended as the tables are read.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from cberl_jax.data.readers.transcripts import Transcript, Turn
from cberl_jax.features.clips import find_clips
from cberl_jax.features.media import Span, Unreadable, measure
from cberl_jax.features.speech import LONGEST
from cberl_jax.features.timing import DURATION
from cberl_jax.features.vision import MOST_FRAMES

# A clip is too long if it lasts this many times as long as its utterance, and so many seconds more.
TIMES, SECONDS = 2.0, 5.0
# Places that are named of each kind of fault.
NAMED = 5


class Fault(NamedTuple):
    """One kind of fault.

    Attributes:
      what: it is.
      places: where it was found.
      action: what extraction does about it.
    """

    what: str
    places: tuple[str, ...]
    action: str

    def __str__(self) -> str:
        lines = [f"{self.what}: {len(self.places)}. {self.action}"]
        lines += [f"  {place}" for place in self.places[:NAMED]]
        if len(self.places) > NAMED:
            lines.append(f"  and {len(self.places) - NAMED} more")
        return "\n".join(lines)


def check_transcript(transcript: Transcript) -> list[Fault]:
    """The faults of the tables.

    Args:
      transcript: as read, so that what stopped the reading is no fault here.
    """
    found: dict[str, list[str]] = {name: [] for name in _ACTIONS}
    for first, length in zip(transcript.start, transcript.length):
        for name, place in _of_dialogue(transcript.turns[first : first + length]):
            found[name].append(place)
    return [Fault(name, tuple(places), _ACTIONS[name]) for name, places in found.items() if places]


_ACTIONS = {
    "turns that are missing by their numbers": "The turns around them become neighbours.",
    "utterances without text": "They lack text.",
    "utterances without start or end": "They lack timing, and a part of a longer video.",
    "ends that are before their starts": (
        f"The duration counts as {DURATION[0]:g} s; a part of a longer video is absent."
    ),
    f"utterances longer than {DURATION[1]:g} s": (
        f"The duration counts as {DURATION[1]:g} s. Times may have slipped."
    ),
    "turns that start before the one before them": (
        "The order of the numbers counts, not that of the times."
    ),
}
_MISSING, _NO_TEXT, _NO_TIMES, _BACKWARDS, _LONG, _EARLY = _ACTIONS


def _of_dialogue(turns: Sequence[Turn]) -> Iterator[tuple[str, str]]:
    """Kind and place of each fault of one dialogue."""
    before = None
    for turn in turns:
        if not turn.text:
            yield _NO_TEXT, turn.place
        if np.isnan(turn.start + turn.end):
            yield _NO_TIMES, turn.place
        elif turn.end < turn.start:
            yield _BACKWARDS, turn.place
        elif turn.end - turn.start > DURATION[1]:
            yield _LONG, turn.place
        if before is not None:
            if None not in (before.number, turn.number) and turn.number > before.number + 1:
                yield _MISSING, f"before {turn.place}"
            if turn.start < before.start:
                yield _EARLY, turn.place
        before = turn


def check_clips(
    transcript: Transcript,
    folders: Sequence[str | os.PathLike],
    flag: str,
    say: Callable[[str], None],
) -> list[Fault]:
    """The faults of the clips.

    Args:
      transcript: the utterances.
      folders: as of ``find_clips``.
      flag: that names them.
      say: is told how many are opened.

    Raises:
      UserError: as of ``find_clips``.
    """
    clips = find_clips(transcript, folders, flag)
    pairs = [(turn, span) for turn, span in zip(transcript.turns, clips.spans) if span is not None]
    say(f"opening {len(pairs)} clips")
    with ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
        each = list(pool.map(_measure, [span for _, span in pairs]))
    broken, long, late = [], [], []
    for (turn, span), (seconds, why) in zip(pairs, each):
        said = turn.end - turn.start
        if why:
            broken.append(f"{span.path.name}: {why}")
        elif span.start and span.start >= seconds:
            late.append(f"{turn.place}: at {span.start:.0f} s, {span.path.name} has {seconds:.0f}")
        # A part of a video is cut by its times.
        elif np.isinf(span.end) and seconds > max(TIMES * said, said + SECONDS):
            long.append(f"{span.path.name}: {seconds:.0f} s, by its times {said:.0f} s")
    counts = f"{MOST_FRAMES} frames from all of it and the first {LONGEST:g} s of sound count"
    if flag == "--audio_dir":
        # openSMILE reads files of sound whole.
        counts = f"All of it counts for eGeMAPS, the first {LONGEST:g} s for speech encoders"
    faults = (
        Fault("clips that are not there", clips.missing, "Their utterances lack them."),
        Fault("clips that cannot be decoded", tuple(broken), "Their utterances lack them."),
        Fault(
            "clips much longer than their utterance",
            tuple(long),
            f"{counts}; take the file away if it is of something else.",
        ),
        Fault(
            "utterances after the end of their dialogue's file",
            tuple(late),
            "They lack it. Their times may be in another unit than seconds.",
        ),
    )
    return [fault for fault in faults if fault.places]


def _measure(span: Span) -> tuple[float, str]:
    """Seconds that a clip lasts, and why it cannot be opened."""
    try:
        return measure(span.path), ""
    except Unreadable as error:
        return np.nan, str(error)
