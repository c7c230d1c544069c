"""Timing features: hand-worked values, what is cut, and MELD's own."""

import math
import os
from pathlib import Path

import numpy as np
import pytest

from cberl_jax.data.readers.npz import read_npz
from cberl_jax.data.readers.transcripts import Transcript, Turn
from cberl_jax.features.timing import timing_features


def transcript(dialogues):
    """From lists of (speaker, text, start, end)."""
    turns = tuple(
        Turn("", str(d), speaker, text, "", "", start, end, "")
        for d, own in enumerate(dialogues)
        for speaker, text, start, end in own
    )
    length = np.array([len(own) for own in dialogues])
    names = np.array([str(d) for d in range(len(dialogues))])
    label, file = np.full(len(turns), -1), np.zeros(len(turns), int)
    return Transcript(
        "t", (), names, np.full(len(names), "test"), False, length, label, turns, file
    )


def test_values_worked_by_hand():
    found = timing_features(
        transcript([[("A", "one two", 10, 12), ("B", "hello", 11.5, 13.5), ("A", "", 14, 15)]])
    )
    log2 = math.log(2)
    expected = [
        [2, log2, 1, 3.5, log2, 0, -0.5, 0, -1, 0],
        [2, log2, 0.5, 2.5, 0, -0.5, 0.5, 1, -1, 0],
        [1, 0, 0, 0, 0, 0.5, 0, 0, 2, 0],
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_dialogue_knows_nothing_of_the_one_before():
    one = [("A", "x", 1, 2), ("A", "y", 3, 4)]
    both = timing_features(transcript([one, one]))
    np.testing.assert_array_equal(both[:2], both[2:])
    assert both[1, 9] == 1


def test_slips_are_cut_and_unknown_times_are_absent():
    found = timing_features(
        transcript(
            [[("A", "x", 5, 4), ("B", "x", math.nan, 6), ("A", "x", 500, 600), ("A", "x", 1, 2)]]
        )
    )
    assert found[0, 0] == np.float32(0.05) and found[2, 0] == 30
    assert np.isnan(found[1]).all() and np.isfinite(found[[0, 2, 3]]).all()
    # The neighbour without a start leaves no gap after; without an end none before.
    assert found[0, 6] == 0 and found[2, 5] == 500 - 6 - 464
    assert found[2, 8] == 60 and found[3, 5] == -5 and found[3, 8] == -5


@pytest.mark.skipif("CBERL_DATA" not in os.environ, reason="CBERL_DATA names no real corpora")
def test_they_are_those_of_the_meld_file():
    meld = read_npz(Path(os.environ["CBERL_DATA"]) / "meld.npz")
    timing = meld.features["audio"]
    dialogues, rows = [], []
    for first, length in zip(meld.start, meld.length):
        own = timing[first : first + length]
        if np.isin(own[:, 0], np.float32((0.05, 30))).any() or np.isin(own[:, 5], (-5, 30)).any():
            continue  # cut: the times cannot be had back
        start = np.cumsum(own[:, 5] + np.append(0, own[:-1, 0]), dtype=float)
        names = zip(meld.speaker[first:], meld.utterance[first:], start, start + own[:, 0])
        dialogues.append(list(names))
        rows += range(first, first + length)
    assert len(rows) > 0.8 * len(timing)
    found = timing_features(transcript(dialogues))
    np.testing.assert_allclose(found, timing[rows], rtol=1e-3, atol=1e-3)
