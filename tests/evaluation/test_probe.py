"""The probe of a corpus: right on corpora that are misaligned on purpose, silent on sound ones."""

import dataclasses
import os
import time
from pathlib import Path

import numpy as np
import pytest

import cberl_jax as cberl
from cberl_jax.data.readers.load import load_corpus
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.errors import UserError
from cberl_jax.evaluation.probe import AS_THEY_ARE, EARLIER, LATER, probe

PROCESS = create_process()
SIZE = SimulatedSize(100, 30, 10, 8, 20)


def simulated(seed=0, size=SIZE):
    return simulate_corpus(PROCESS, size, seed)


def rearrange(corpus, rows, modality="audio"):
    """The corpus with other rows of one modality."""
    kinds = ("features", "present")
    changed = {k: dict(getattr(corpus, k)) for k in kinds}
    for k in kinds:
        changed[k][modality] = changed[k][modality][rows]
    return dataclasses.replace(corpus, **changed)


def blocks(corpus, order):
    """Rows that are written dialogue after dialogue in another order."""
    ends = corpus.start + corpus.length
    return np.concatenate([np.arange(corpus.start[g], ends[g]) for g in order])


def shuffled(corpus, split=None):
    rows = np.arange(len(corpus.label))
    here = np.flatnonzero(corpus.in_split(split)) if split else rows
    rows[here] = np.random.default_rng(0).permutation(here)
    return rows


MISALIGNED = {
    "late": lambda corpus: np.roll(np.arange(len(corpus.label)), 1),
    "early": lambda corpus: np.roll(np.arange(len(corpus.label)), -1),
    "none": shuffled,
    "order": lambda corpus: blocks(corpus, np.argsort(corpus.dialogue)),
    "dev": lambda corpus: shuffled(corpus, "dev"),
}
SENTENCES = {
    "late": "audio looks one turn late",
    "early": "audio looks one turn early",
    "none": "audio carries no signal",
    "order": "dialogues are ordered by name as text",
    "dev": "and none in dev",
}


@pytest.mark.parametrize("kind", MISALIGNED)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_modality_that_is_misaligned_on_purpose_is_found(kind, seed):
    size = SimulatedSize(240, 90, 20, 10) if kind in ("none", "dev") else SIZE
    corpus = simulated(seed, size)
    found = probe(rearrange(corpus, MISALIGNED[kind](corpus)))
    assert {m.name: m.verdict for m in found.modalities.values()} == {
        "text": "signal",
        "audio": kind,
        "visual": "signal",
    }
    (alarm,) = found.alarms
    assert SENTENCES[kind] in alarm and alarm in str(found)


def test_one_view_that_is_misaligned_is_found_beside_a_sound_one():
    corpus = simulated()
    late, two = rearrange(corpus, MISALIGNED["late"](corpus)), {}
    for kind in ("features", "present"):
        sound = getattr(corpus, kind)
        views = {"audio.a": sound["audio"], "audio.b": getattr(late, kind)["audio"]}
        two[kind] = {"text": sound["text"], **views}
    found = probe(dataclasses.replace(corpus, **two))
    verdicts = {m.name: m.verdict for m in found.modalities.values()}
    assert verdicts == {"text": "signal", "audio.a": "signal", "audio.b": "late"}
    (alarm,) = found.alarms
    assert "audio.b looks one turn late" in alarm


def test_dialogues_that_are_exchanged_leave_no_signal():
    corpus = simulated(0, SimulatedSize(240, 90, 20, 10))
    order = np.random.default_rng(3).permutation(len(corpus.dialogue))
    found = probe(rearrange(corpus, blocks(corpus, order)))
    assert found.modalities["audio"].verdict == "none"
    fit = found.modalities["audio"].dev[AS_THEY_ARE]
    assert abs(fit.r) < 3 * fit.error


def test_the_moved_fits_say_how_the_rows_are_moved():
    corpus = simulated()
    late = probe(rearrange(corpus, MISALIGNED["late"](corpus))).modalities["audio"]
    right = probe(corpus).modalities["audio"]
    # Moved back, all but the turns at the edges have the rows that they had.
    assert late.dev[LATER].r == pytest.approx(right.dev[AS_THEY_ARE].r, abs=0.05)
    assert late.dev[LATER].r > late.dev[AS_THEY_ARE].r > late.dev[EARLIER].r - 0.1
    for control in ("other dialogues", "shuffled"):
        fit = right.dev[control]
        assert abs(fit.r) < 4 * fit.error < right.dev[AS_THEY_ARE].r


def test_sound_corpora_raise_no_alarm():
    for seed in range(12):
        found = probe(simulated(100 + seed))
        assert found.alarms == [], seed
        assert {m.verdict for m in found.modalities.values()} == {"signal"}


def test_a_corpus_that_is_too_small_to_tell_is_undecided():
    corpus = simulated(0, SimulatedSize(12, 5, 2, 6, 12))
    found = probe(rearrange(corpus, shuffled(corpus)))
    assert found.modalities["audio"].verdict == "undecided" and found.alarms == []


def test_a_constant_modality_carries_nothing_and_breaks_nothing():
    corpus = simulated()
    features = dict(corpus.features) | {"audio": np.full_like(corpus.features["audio"], 3.0)}
    found = probe(dataclasses.replace(corpus, features=features))
    assert found.modalities["audio"].verdict == "constant"
    assert "audio is constant" in found.alarms[0]


def test_wide_modalities_are_probed_in_seconds():
    corpus = simulated()
    random, audio = np.random.default_rng(0), corpus.features["audio"]
    mixed = audio @ random.normal(size=(audio.shape[1], 3000)) + random.normal(
        size=(len(audio), 3000)
    )
    wide = dict(corpus.features) | {"audio": mixed.astype(np.float32)}
    start = time.process_time()
    found = probe(dataclasses.replace(corpus, features=wide))
    assert found.modalities["audio"].verdict == "signal" and time.process_time() - start < 30
    # Of what is reduced it is never said that it carries nothing.
    lost = probe(rearrange(dataclasses.replace(corpus, features=wide), shuffled(corpus)))
    assert lost.modalities["audio"].verdict == "undecided"


def test_a_path_is_probed_too_and_the_same_call_gives_the_same(tmp_path):
    corpus = simulated()
    corpus.save(tmp_path / "c.npz")
    first, second = cberl.probe(tmp_path / "c.npz"), cberl.probe(str(tmp_path / "c.npz"))
    assert str(first) == str(second) and "c.npz" in str(first)


def test_labels_of_one_class_are_refused():
    corpus = simulated()
    label = np.where(corpus.in_split("dev"), 0, corpus.label).astype(np.int32)
    with pytest.raises(UserError, match="the dev split has labels of one class or none"):
        probe(dataclasses.replace(corpus, label=label))


@pytest.mark.parametrize("name", ["meld", "meld_frozen", "mosi"])
@pytest.mark.skipif("CBERL_DATA" not in os.environ, reason="real data: set CBERL_DATA")
def test_real_corpora_raise_no_alarm_and_are_found_late(name):
    corpus = load_corpus(Path(os.environ["CBERL_DATA"]) / f"{name}.npz")
    assert probe(corpus).alarms == []
    late = np.roll(np.arange(len(corpus.label)), 1)
    moved = probe(rearrange(corpus, late, "text"))
    assert moved.modalities["text"].verdict == "late"
