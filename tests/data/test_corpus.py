"""The corpus record: validation message by message, description, fingerprint, text layers."""

import dataclasses

import numpy as np
import pytest

from cberl_jax.data.corpus import Corpus, describe, fingerprint
from cberl_jax.data.holdout import with_other_dev
from cberl_jax.data.readers.load import load_corpus
from cberl_jax.data.subset import keep_train_share
from cberl_jax.data.text_layers import combine_text_layers
from cberl_jax.data.validate import validate
from cberl_jax.errors import UserError


def small_corpus() -> Corpus:
    """Three dialogues of 2, 1 and 2 utterances."""
    text = np.arange(10, dtype=np.float32).reshape(5, 2)
    return Corpus(
        classes=("calm", "glad"),
        dialogue=np.array(["a", "b", "c"]),
        split=np.array(["train", "dev", "test"]),
        length=np.array([2, 1, 2], np.int32),
        speaker=np.array(["Zoë", "M", "M", "F", "F"]),
        label=np.array([0, 1, 1, -1, 0], np.int32),
        features={"text": text, "audio": np.ones((5, 3), np.float32)},
        present={"text": np.ones(5, bool), "audio": np.array([1, 1, 1, 0, 1], bool)},
        utterance=np.array(["hi", "ho", "", "well", "no"]),
        source="small.npz",
    )


def altered(array: np.ndarray, index, value) -> np.ndarray:
    copy = array.copy()
    copy[index] = value
    return copy


BASE = small_corpus()
TEXT, AUDIO = BASE.features["text"], BASE.features["audio"]

# What no file can bring about; the faults of files are in test_bad_data.py.
FAULTS = {
    "float labels": (
        {"label": BASE.label.astype(np.float32)},
        "labels must be one integer per utterance.",
    ),
    "one-hot labels": (
        {"label": np.eye(2, dtype=np.int32)[[0, 1, 1, 0, 0]]},
        "labels must be one integer per utterance.",
    ),
    "presence flags missing": (
        {"present": {"text": np.ones(5, bool)}},
        "present.audio must hold one boolean per utterance.",
    ),
    "features as integers": (
        {"features": {"text": TEXT.astype(int), "audio": AUDIO}},
        "features.text must be a table of real numbers, [N, width].",
    ),
    "no modality": (
        {"features": {}, "present": {}},
        "no modality is present in any utterance.",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_named(fault):
    changes, message = FAULTS[fault]
    with pytest.raises(UserError) as error:
        validate(dataclasses.replace(BASE, **changes))
    assert str(error.value) == f"small.npz: {message}"


def test_sound_corpus_keeps_its_contents():
    corpus = validate(BASE)
    np.testing.assert_array_equal(corpus.features["text"], TEXT)
    assert corpus.features["text"].dtype == np.float32
    assert fingerprint(corpus) != fingerprint(BASE)  # the absent audio row became zero


def test_absent_rows_become_zero_even_if_not_finite():
    audio = altered(AUDIO, 3, np.nan)
    corpus = validate(dataclasses.replace(BASE, features={"text": TEXT, "audio": audio}))
    np.testing.assert_array_equal(corpus.features["audio"][3], 0)
    np.testing.assert_array_equal(corpus.features["audio"][[0, 1, 2, 4]], 1)
    assert np.isnan(audio[3]).all()  # the caller's array is left alone


@pytest.mark.parametrize("width, flag", [(0, True), (4, False)])
def test_modality_that_is_absent_throughout_is_dropped(width, flag):
    features = {**BASE.features, "visual": np.full((5, width), np.nan)}
    present = {**BASE.present, "visual": np.full(5, flag)}
    corpus = validate(dataclasses.replace(BASE, features=features, present=present))
    assert corpus.modalities == ("text", "audio")
    assert tuple(corpus.present) == ("text", "audio")


def test_unusual_but_sound_corpora_pass():
    one_class = dataclasses.replace(BASE, label=np.array([0, 0, 1, 1, 1], np.int32))
    assert validate(one_class).class_counts("train").tolist() == [2, 0]
    constant = dataclasses.replace(BASE, features={"text": TEXT * 0, "audio": AUDIO})
    assert validate(constant).widths == {"text": 2, "audio": 3}


def test_description_counts_everything():
    assert describe(BASE).splitlines() == [
        "small.npz: 3 dialogues, 5 utterances, 3 speakers",
        "split  dialogues  utterances  unlabelled  calm  glad",
        "train          1           2           0     1     1",
        "  dev          1           1           0     0     1",
        " test          1           2           1     1     0",
        "dialogues in no split, left out: 0",
        "text: 2 wide, absent in 0.0 % of the utterances",
        "audio: 3 wide, absent in 20.0 % of the utterances",
        "missing modalities: visual",
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": ("calm", "sad")},
        {"dialogue": np.array(["a", "b", "d"])},
        {"split": np.array(["train", "test", "dev"])},
        {"length": np.array([1, 2, 2], np.int32)},
        {"speaker": np.array(["Zoe", "M", "M", "F", "F"])},
        {"label": altered(BASE.label, 0, 1)},
        {"features": {"text": altered(TEXT, (0, 0), 9), "audio": AUDIO}},
        {"features": {"voice": TEXT, "audio": AUDIO}, "present": {**BASE.present, "voice": 1}},
        {"present": {**BASE.present, "audio": np.ones(5, bool)}},
        {"utterance": None},
    ],
)
def test_fingerprint_sees_every_change(changes):
    assert fingerprint(dataclasses.replace(BASE, **changes)) != fingerprint(BASE)


def test_fingerprint_sees_contents_only():
    other = dataclasses.replace(
        BASE,
        source="elsewhere.pkl",
        label=BASE.label.astype(np.int64),
        speaker=BASE.speaker.astype("U99"),
        features={name: np.asfortranarray(array) for name, array in BASE.features.items()},
    )
    assert fingerprint(other) == fingerprint(BASE)


def layered_corpus() -> Corpus:
    layers = {f"text.roberta{k}": np.full((5, 2), float(k), np.float32) for k in (1, 2, 3, 4)}
    present = dict.fromkeys(layers, np.ones(5, bool)) | {"audio": BASE.present["audio"]}
    return dataclasses.replace(BASE, features={"audio": AUDIO, **layers}, present=present)


@pytest.mark.parametrize(
    "how, row",
    [("mean", [2.5, 2.5]), ("concat", [1, 1, 2, 2, 3, 3, 4, 4]), ("1", [1, 1]), ("4", [4, 4])],
)
def test_text_layers_become_one_modality(how, row):
    corpus = combine_text_layers(layered_corpus(), how)
    assert corpus.modalities == ("text", "audio")
    np.testing.assert_array_equal(corpus.features["text"], [row] * 5)
    assert corpus.features["text"].dtype == np.float32
    assert validate(corpus).widths["text"] == len(row)


def test_layers_stand_side_by_side_by_their_numbers_whatever_the_order_of_the_file():
    layered = layered_corpus()
    turned = dict(reversed(layered.features.items()))
    other = combine_text_layers(dataclasses.replace(layered, features=turned), "concat")
    np.testing.assert_array_equal(other.features["text"], [[1, 1, 2, 2, 3, 3, 4, 4]] * 5)


def test_text_is_present_where_all_layers_are():
    layered = layered_corpus()
    present = dict(layered.present) | {"text.roberta2": np.array([1, 0, 1, 1, 1], bool)}
    layered = dataclasses.replace(layered, present=present)
    assert combine_text_layers(layered, "mean").present["text"].tolist() == [1, 0, 1, 1, 1]
    assert combine_text_layers(layered, "mean").features["text"][1].tolist() == [0, 0]
    assert combine_text_layers(layered, "1").present["text"].all()
    np.testing.assert_array_equal(layered.features["text.roberta2"], 2)


def test_corpus_without_layers_passes_through():
    assert combine_text_layers(BASE, "concat") is BASE


def test_wrong_choice_of_layers_is_refused():
    with pytest.raises(UserError, match="choose from mean, concat, views, 1, 2, 3, 4"):
        combine_text_layers(BASE, "sum")
    layered = layered_corpus()
    features = {name: layered.features[name] for name in ("text.roberta1", "text.roberta2")}
    with pytest.raises(UserError, match="has no text layer 3, only text.roberta1, text.roberta2"):
        combine_text_layers(dataclasses.replace(layered, features=features), "3")
    with pytest.raises(UserError, match="holds both text and text.roberta1"):
        combine_text_layers(
            dataclasses.replace(layered, features={"text": TEXT, **features}), "mean"
        )
    uneven = {"text.roberta1": TEXT, "text.roberta2": AUDIO}
    with pytest.raises(UserError, match="differ in width"):
        combine_text_layers(dataclasses.replace(layered, features=uneven), "mean")


def test_simulated_corpus_has_a_name():
    corpus = load_corpus("simulated:small")
    assert len(corpus.label) == corpus.length.sum()
    with pytest.raises(UserError, match="enormous"):
        load_corpus("simulated:enormous")


# A share of the train dialogues.


def test_a_share_of_train_keeps_whole_dialogues_and_all_of_dev_and_test():
    corpus = load_corpus("simulated:small")
    kept = {share: keep_train_share(corpus, share) for share in (0.5, 0.25)}
    trained = {share: set(one.dialogue[one.split == "train"]) for share, one in kept.items()}
    assert [len(names) for names in trained.values()] == [120, 60]
    assert trained[0.25] < trained[0.5] < set(corpus.dialogue[corpus.split == "train"])
    for one in kept.values():
        validate(one)
        for split in ("dev", "test"):
            for name in one.features:
                np.testing.assert_array_equal(
                    one.features[name][one.in_split(split)],
                    corpus.features[name][corpus.in_split(split)],
                )
    # A dialogue that was kept is as it was.
    name = min(trained[0.25])
    for one in (corpus, kept[0.25]):
        there = one.dialogue[one.dialogue_of] == name
        labels = one.label[there].tolist()
        assert labels == corpus.label[corpus.dialogue[corpus.dialogue_of] == name].tolist()


def test_the_whole_of_train_is_the_corpus_itself_and_some_is_always_kept():
    corpus = small_corpus()
    assert keep_train_share(corpus, 1.0) is corpus
    assert keep_train_share(corpus, 1e-6) is corpus
    kept = keep_train_share(load_corpus("simulated:small"), 1e-6)
    assert np.sum(kept.split == "train") == 1


def test_other_dialogues_take_the_place_of_dev():
    corpus = load_corpus("simulated:small")
    own = set(corpus.dialogue[corpus.split == "dev"])
    drawn = []
    for seed in (1, 2):
        other = with_other_dev(corpus, seed)
        validate(other)
        taken = set(other.dialogue[other.split == "dev"])
        assert len(taken) == len(own) and not taken & own
        assert own < set(other.dialogue[other.split == "train"])
        np.testing.assert_array_equal(other.split == "test", corpus.split == "test")
        assert other.class_counts("dev")[2] > 0
        drawn.append(taken)
    assert drawn[0] != drawn[1]
    assert with_other_dev(corpus, 0) is corpus
    few = keep_train_share(corpus, 0.1)
    with pytest.raises(UserError, match="has 60 dialogues in dev and 24 in train"):
        with_other_dev(few, 1)
