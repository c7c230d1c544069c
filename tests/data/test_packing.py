"""Standardisation, dialogues packed into rows, and where generated utterances go."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cberl_jax.data.augmentation import SOURCES, place_generated
from cberl_jax.data.corpus import Corpus
from cberl_jax.data.dataset import (
    Layout,
    create_dataset,
    create_domains,
    create_table,
    find_neighbours,
)
from cberl_jax.data.packing import (
    Turns,
    assign_rows,
    choose_row_length,
    pack,
    speaker_numbers,
    turns_of,
)
from cberl_jax.data.standardize import fit_standardiser

CLASSES = ("neutral", "fear", "disgust")


def make_corpus(dialogues: list[tuple[str, str, list[int]]], seed: int = 0) -> Corpus:
    """A corpus of (split, speakers, labels) dialogues; a letter of ``speakers`` speaks a turn."""
    generator = np.random.default_rng(seed)
    label = np.array([x for _, _, labels in dialogues for x in labels], np.int32)
    count = len(label)
    present = {"text": np.ones(count, bool), "audio": np.arange(count) % 3 > 0}
    features = {
        m: (5 + 3 * generator.normal(size=(count, 2))).astype(np.float32) * there[:, None]
        for m, there in present.items()
    }
    return Corpus(
        classes=CLASSES,
        dialogue=np.array([f"d{k}" for k in range(len(dialogues))]),
        split=np.array([split for split, _, _ in dialogues]),
        length=np.array([len(labels) for _, _, labels in dialogues], np.int32),
        speaker=np.array([name for _, speakers, _ in dialogues for name in speakers]),
        label=label,
        features=features,
        present=present,
    )


# Train: 8 neutral, 2 fear, 1 disgust, 1 unlabelled. Z never says anything neutral in train.
CORPUS = make_corpus(
    [
        ("train", "ABAB", [0, 1, 0, -1]),
        ("train", "ZAA", [2, 0, 0]),
        ("dev", "AZ", [1, 0]),
        ("train", "AAAZA", [0, 0, 0, 1, 0]),
        ("test", "BZB", [2, 2, 0]),
    ]
)


def make_turns(length: np.ndarray) -> Turns:
    total = int(np.sum(length))
    return Turns(
        length=np.asarray(length, np.int32),
        index=np.arange(total, dtype=np.int32) + 1,
        speaker=(np.arange(total) % 3).astype(np.int32),
        label=(np.arange(total) % 4).astype(np.int32) - 1,
        weight=(np.arange(total) % 2).astype(np.float32),
    )


# Rows.

lengths = st.lists(st.integers(1, 12), min_size=1, max_size=30).map(np.array)


@settings(max_examples=60, deadline=None)
@given(length=lengths, spare=st.integers(0, 9), multiple=st.integers(1, 4))
def test_every_turn_is_packed_exactly_once(length, spare, multiple):
    turns = make_turns(length)
    rows = pack(turns, int(length.max()) + spare, multiple)
    used = rows.segment > 0
    assert sorted(rows.index[used]) == list(turns.index)
    # The index says which turn a cell holds: every other field has to be that turn's.
    for field in ("speaker", "label", "weight"):
        expected = getattr(turns, field)[rows.index[used] - 1]
        np.testing.assert_array_equal(getattr(rows, field)[used], expected)
    assert rows.index.shape == (len(rows.index), length.max() + spare)
    assert len(rows.index) % multiple == 0


@settings(max_examples=60, deadline=None)
@given(length=lengths, spare=st.integers(0, 9))
def test_segments_are_whole_dialogues_in_order(length, spare):
    turns = make_turns(length)
    rows = pack(turns, int(length.max()) + spare)
    start = np.concatenate([[0], np.cumsum(length)[:-1]]) + 1
    dialogues = {tuple(range(s, s + n)) for s, n in zip(start, length)}
    found = []
    for segment, index in zip(rows.segment, rows.index):
        numbers = segment[segment > 0]
        # Numbered 1, 2, ... without a gap, and padding comes last.
        np.testing.assert_array_equal(segment, np.pad(numbers, (0, len(segment) - len(numbers))))
        assert np.all(np.isin(np.diff(numbers), (0, 1)))
        assert not len(numbers) or numbers[0] == 1
        found += [tuple(index[segment == n]) for n in np.unique(numbers)]
    assert len(found) == len(length)
    assert set(found) == dialogues


def test_padding_holds_nothing():
    rows = pack(make_turns([2, 2]), 3, multiple=4)
    unused = rows.segment == 0
    assert rows.segment.shape == (4, 3)
    assert unused.sum() == 12 - 4
    assert np.all(rows.label[unused] == -1)
    assert np.all(rows.weight[unused] == 0)
    assert np.all(rows.index[unused] == 0)


def fill(length: np.ndarray, row_length: int) -> float:
    return np.sum(length) / (row_length * len(assign_rows(length, row_length)))


@pytest.mark.parametrize("seed", range(3))
def test_rows_of_meld_like_lengths_are_full(seed):
    # 1,038 dialogues of 1 to 33 turns, 9.6 on average with a deviation of 5.8, as in MELD.
    generator = np.random.default_rng(seed)
    length = 1 + generator.binomial(32, generator.beta(1.6, 4.4, size=1038))
    assert fill(length, choose_row_length(length)) >= 0.99


def test_rows_of_meld_are_full():
    folder = os.environ.get("CBERL_DATA")
    if not folder:
        pytest.skip("CBERL_DATA names no folder with meld.npz")
    with np.load(Path(folder) / "meld.npz") as file:
        length = file["length"][file["split"] == "train"]
    assert fill(length, choose_row_length(length)) >= 0.99


@settings(max_examples=40, deadline=None)
@given(length=lengths)
def test_row_length_is_the_shortest_of_those_that_pad_least(length):
    chosen = choose_row_length(length)
    longest = int(length.max())
    wide_enough = [w for w in range(4, 2 * longest + 4, 4) if w >= longest]
    within = [w for w in wide_enough if w <= 1.5 * longest] or wide_enough[:1]
    cells = [w * len(assign_rows(length, w)) for w in within]
    assert chosen == within[int(np.argmin(cells))]


def test_no_dialogue_is_packed_into_no_row():
    rows = pack(turns_of(CORPUS, np.zeros(0, np.int64)), 4, multiple=2)
    assert rows.segment.shape == (2, 4)
    assert not rows.segment.any()


# Turns.


def test_speakers_are_numbered_as_they_first_speak():
    corpus = make_corpus([("train", "BABC", [0] * 4), ("dev", "CB", [0] * 2)])
    np.testing.assert_array_equal(speaker_numbers(corpus), [0, 1, 0, 2, 0, 1])


def test_turns_are_those_of_the_dialogues_asked_for():
    turns = turns_of(CORPUS, np.array([1, 0]))
    np.testing.assert_array_equal(turns.length, [3, 4])
    np.testing.assert_array_equal(turns.index, [4, 5, 6, 0, 1, 2, 3])
    np.testing.assert_array_equal(turns.speaker, [0, 1, 1, 0, 1, 0, 1])
    np.testing.assert_array_equal(turns.label, [2, 0, 0, 0, 1, 0, -1])
    np.testing.assert_array_equal(turns.weight, [1, 1, 1, 1, 1, 1, 0])


# Standardisation.


def test_train_features_are_standardised_where_present():
    table = fit_standardiser(CORPUS)(CORPUS.features, CORPUS.present)
    train = CORPUS.in_split("train")
    for modality, values in table.items():
        seen = values[train & CORPUS.present[modality]]
        np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-6)
        np.testing.assert_allclose(seen.std(axis=0), 1, rtol=1e-5)
        assert values.dtype == np.float32


def test_only_train_is_looked_at():
    others = ~CORPUS.in_split("train")
    text = np.where(others[:, None], 1e6, CORPUS.features["text"]).astype(np.float32)
    shifted = dataclasses.replace(CORPUS, features={**CORPUS.features, "text": text})
    for before, after in zip(fit_standardiser(CORPUS, 1), fit_standardiser(shifted, 1)):
        np.testing.assert_array_equal(before["text"], after["text"])


def test_absent_rows_do_not_count_and_are_zero():
    absent = ~CORPUS.present["audio"]
    audio = np.where(absent[:, None], 777, CORPUS.features["audio"]).astype(np.float32)
    filled = {**CORPUS.features, "audio": audio}
    standardiser = fit_standardiser(dataclasses.replace(CORPUS, features=filled))
    np.testing.assert_array_equal(
        standardiser.mean["audio"], fit_standardiser(CORPUS).mean["audio"]
    )
    values = standardiser(filled, CORPUS.present)["audio"]
    assert absent.any()
    np.testing.assert_array_equal(values[absent], 0)


@pytest.mark.parametrize("constant", [0.0, 0.1, 12345.678, -3e7])
def test_a_constant_column_becomes_zero(constant):
    text = CORPUS.features["text"].copy()
    text[:, 0] = constant
    corpus = dataclasses.replace(CORPUS, features={**CORPUS.features, "text": text})
    values = fit_standardiser(corpus)(corpus.features, corpus.present)["text"]
    np.testing.assert_allclose(values[:, 0], 0, atol=1e-2)
    assert values[CORPUS.in_split("train"), 1].std() > 0.9


def test_an_outlier_cannot_drown_the_rest():
    text = CORPUS.features["text"].copy()
    text[~CORPUS.in_split("train")] = 1e30
    values = fit_standardiser(CORPUS)({**CORPUS.features, "text": text}, CORPUS.present)["text"]
    assert np.all(np.isfinite(values))
    assert np.abs(values).max() <= 10


def correlated_corpus(rank, width=6):
    text = np.random.default_rng(0).normal(size=(len(CORPUS.label), rank))
    mixed = (text @ np.random.default_rng(1).normal(size=(rank, width))).astype(np.float32)
    return dataclasses.replace(CORPUS, features={**CORPUS.features, "text": mixed})


def test_principal_components_are_uncorrelated_and_the_largest():
    corpus = correlated_corpus(rank=6)
    there = corpus.in_split("train")
    whole = fit_standardiser(corpus)(corpus.features, corpus.present)
    standardiser = fit_standardiser(corpus, 3)
    reduced = standardiser(corpus.features, corpus.present)
    assert reduced["text"].shape == (len(corpus.label), 3)
    # Audio is 2 wide: not reduced.
    np.testing.assert_array_equal(reduced["audio"], whole["audio"])
    seen = reduced["text"][there]
    np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.cov(seen.T), np.eye(3), atol=1e-4)
    # Up to sign they are the leading eigenvectors of the correlations.
    values, vectors = np.linalg.eigh(np.cov(whole["text"][there].T))
    expected = whole["text"] @ (vectors / np.sqrt(values))[:, ::-1][:, :3]
    overlap = np.abs(np.sum(expected * reduced["text"], axis=0))
    norms = np.linalg.norm(expected, axis=0) * np.linalg.norm(reduced["text"], axis=0)
    np.testing.assert_allclose(overlap, norms, rtol=1e-4)


def test_components_that_train_does_not_have_are_zero():
    corpus = correlated_corpus(rank=2)
    values = fit_standardiser(corpus, 4)(corpus.features, corpus.present)["text"]
    assert np.all(np.isfinite(values))
    np.testing.assert_array_equal(values[:, 2:], 0)
    assert np.all(values[corpus.in_split("train"), :2].std(axis=0) > 0.9)


# Generated utterances. In CORPUS a balance of 0.5 brings every class to 4.


def place(corpus=CORPUS, balance=0.5, max_ratio=10, **options):
    return place_generated(corpus, balance=balance, max_ratio=max_ratio, **options)


def test_every_labelled_minority_utterance_of_train_is_a_place():
    placement = place()
    np.testing.assert_array_equal(placement.minority, [False, True, True])
    wanted = np.flatnonzero(CORPUS.in_split("train") & (CORPUS.label > 0))
    np.testing.assert_array_equal(placement.place, wanted)


def test_every_class_reaches_its_share_unless_it_has_too_few():
    # 8 neutral; fear has 2 and lacks 2, disgust has 1 and lacks 3.
    np.testing.assert_array_equal(place().generated, [0, 2, 3])
    np.testing.assert_array_equal(place(max_ratio=2).generated, [0, 2, 2])
    np.testing.assert_array_equal(place(balance=1.0, max_ratio=2).generated, [0, 4, 2])


def test_sources_are_majority_train_utterances_of_the_speaker_if_any():
    placement = place()
    usable = CORPUS.in_split("train") & (CORPUS.label == 0)
    assert np.all(usable[placement.sources]) and placement.sources.shape == (3, SOURCES)
    held = set(CORPUS.speaker[usable])
    speakers = CORPUS.speaker[placement.place]
    assert "Z" not in held and {"Z", "B"} <= set(speakers)
    for speaker, sources in zip(speakers, placement.sources):
        assert speaker not in held or set(CORPUS.speaker[sources]) == {speaker}
    np.testing.assert_array_equal(place(seed=0).sources, placement.sources)
    assert np.any(place(seed=1).sources != placement.sources)


def test_an_utterance_that_is_not_translated_is_made_from_the_one_that_it_replaces():
    placement = place(translated=False)
    np.testing.assert_array_equal(placement.sources, placement.place[:, None])
    np.testing.assert_array_equal(placement.generated, place().generated)


def test_nothing_is_generated_where_classes_are_balanced():
    corpus = make_corpus([("train", "AB", [0, 1]), ("train", "A", [2]), ("dev", "A", [0])])
    placement = place(corpus, balance=1.0)
    assert not placement.minority.any() and not placement.generated.any()
    assert len(placement.place) == len(placement.sources) == 0


def test_nothing_is_generated_at_a_balance_of_zero():
    placement = place(balance=0.0)
    assert len(placement.place) == 0 and not placement.generated.any()


def test_a_class_that_train_lacks_is_not_generated():
    corpus = make_corpus([("train", "ABAB", [0, 0, 0, 1]), ("dev", "A", [2])])
    placement = place(corpus, balance=1.0)
    np.testing.assert_array_equal(placement.minority, [False, True, False])
    np.testing.assert_array_equal(placement.generated, [0, 2, 0])


# The dataset.


def test_domains_are_complete_and_sorted_by_class():
    domains = create_domains(CORPUS, np.array([False, True, True]))
    train = CORPUS.in_split("train")
    assert sorted(domains.source) == list(np.flatnonzero(train & (CORPUS.label == 0)))
    assert sorted(domains.target) == list(np.flatnonzero(train & (CORPUS.label > 0)))
    labels = CORPUS.label[domains.target]
    assert domains.groups == 2 and domains.sources == len(domains.source)
    for label, start, count in zip([1, 2], domains.start, domains.count):
        assert np.all(labels[start : start + count] == label)
        assert count == np.sum(labels == label) > 0


def test_domains_without_a_minority_have_no_target():
    domains = create_domains(CORPUS, np.zeros(3, bool))
    assert len(domains.target) == len(domains.start) == domains.groups == 0


def test_dataset_trains_on_train_and_never_on_test():
    dataset = create_dataset(CORPUS, fit_standardiser(CORPUS), place(), Layout(2))
    for split, rows in (("train", dataset.train), ("dev", dataset.dev)):
        expected = np.flatnonzero(CORPUS.in_split(split))
        assert sorted(rows.index[rows.segment > 0]) == list(expected)
    assert len(dataset.train.index) % 2 == len(dataset.dev.index) % 2 == 0


def test_neighbours_share_class_and_modalities_and_a_lone_utterance_has_itself():
    corpus = make_corpus([("train", "AAAAAA", [0, 1, 1, 1, 1, 2]), ("dev", "A", [1])])
    there = np.array([True, True, True, False, True, True, True])
    corpus.present["audio"] = there
    table = create_table(corpus, fit_standardiser(corpus))
    found = find_neighbours(corpus, table, np.array([1, 3, 5]), 3)
    # Utterances 1, 2 and 4 are of class 1 and have audio; 3 and 5 are alone.
    assert set(found[0]) == {2, 4}
    np.testing.assert_array_equal(found[1:], [[3, 3, 3], [5, 5, 5]])
    assert find_neighbours(corpus, table, np.array([1, 3, 5]), 0).shape == (3, 0)


def test_dataset_counts_real_and_generated_utterances():
    dataset = create_dataset(CORPUS, fit_standardiser(CORPUS), place(), Layout(1))
    weighed = dataset.train.weight > 0
    counted = np.bincount(dataset.train.label[weighed], minlength=3)
    np.testing.assert_array_equal(dataset.counts, counted)
    np.testing.assert_array_equal(dataset.counts, [8, 2, 1])
    np.testing.assert_array_equal(dataset.generated, [0, 2, 3])
