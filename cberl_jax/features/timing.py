"""Ten timing features of every utterance, from its start, its end and its words.

They need no sound: subtitles or a recogniser's stamps give them. ``gap after`` looks at the next
turn, so a model that follows a conversation live (``train.py --causal``) has to do without it.
"""

import numpy as np

from cberl_jax.data.readers.transcripts import Transcript, Turn

GAP_AFTER = "gap after (s)"
NAMES = (
    "duration (s)",
    "log duration",
    "words per second",
    "characters per second",
    "log words",
    "gap before (s)",
    GAP_AFTER,
    "overlaps the turn before",
    "time since the speaker's last turn (s)",
    "same speaker as before",
)
# Subtitles have slips of minutes; an end before its start counts as the shortest utterance.
DURATION = (0.05, 30.0)
GAP = (-5.0, 30.0)
SINCE = (-5.0, 60.0)
NO_TURN_BEFORE = -1.0


def timing_features(transcript: Transcript, causal: bool = False) -> np.ndarray:
    """Describes when and how fast each utterance was said.

    Times are seconds, logarithms natural, words what blanks separate. Durations are cut to
    ``DURATION``, gaps to ``GAP``, the time since the speaker's last turn in this dialogue (end to
    start) to ``SINCE``; it is -1 where there was none. A gap is negative where turns overlap, and 0
    where there is no turn on that side or its times are not known.

    Args:
      transcript: the utterances.
      causal: whether ``gap after``, which looks at the next turn, is left out.

    Returns:
      [N, 10] float32, columns as in ``NAMES``, or [N, 9]; a row is nan where a start or an end is
      not known.
    """
    rows = np.full((len(transcript.turns), len(NAMES)), np.nan, np.float32)
    for first, length in zip(transcript.start, transcript.length):
        turns = transcript.turns[first : first + length]
        last_end: dict[str, float] = {}
        for t, turn in enumerate(turns):
            if np.isnan(turn.start + turn.end):
                continue
            before = turns[t - 1] if t else None
            after = turns[t + 1] if t + 1 < length else None
            rows[first + t] = _describe(turn, before, after, last_end.get(turn.speaker))
            last_end[turn.speaker] = turn.end
    return np.delete(rows, NAMES.index(GAP_AFTER), axis=1) if causal else rows


def _describe(
    turn: Turn, before: Turn | None, after: Turn | None, last_end: float | None
) -> list[float]:
    duration = np.clip(turn.end - turn.start, *DURATION)
    words = len(turn.text.split())
    gap_before = _gap(before, turn)
    since = NO_TURN_BEFORE if last_end is None else np.clip(turn.start - last_end, *SINCE)
    return [
        duration,
        np.log(duration),
        words / duration,
        len(turn.text) / duration,
        np.log(max(words, 1)),
        gap_before,
        _gap(turn, after),
        gap_before < 0,
        since,
        before is not None and before.speaker == turn.speaker,
    ]


def _gap(earlier: Turn | None, later: Turn | None) -> float:
    if earlier is None or later is None:
        return 0.0
    gap = later.start - earlier.end
    return 0.0 if np.isnan(gap) else float(np.clip(gap, *GAP))
