"""Folds: who is tested with whom."""

import dataclasses

import numpy as np
import pytest

from cberl_jax.data.corpus import fingerprint
from cberl_jax.data.folds import check_unseen, make_folds, split_by_fold, warn_of_seen
from cberl_jax.data.readers.fold_file import read_folds
from cberl_jax.data.readers.npz import read_npz, write_npz
from cberl_jax.data.readers.options import ReadingOptions
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.errors import UserError

CORPUS = simulate_corpus(create_process(), SimulatedSize(40, 10, 10, 4, 9), 0)
DIALOGUES = len(CORPUS.dialogue)
FIRST = CORPUS.dialogue[0]


def with_names(names):
    return dataclasses.replace(CORPUS, dialogue=np.array(names))


def with_speakers(of_dialogue):
    """The corpus with one speaker, or several, per dialogue."""
    names = [str(name) for name in of_dialogue]
    speaker = [
        names[g].split("+")[n % len(names[g].split("+"))]
        for g, length in enumerate(CORPUS.length)
        for n in range(length)
    ]
    return dataclasses.replace(CORPUS, speaker=np.array(speaker))


def test_folds_hold_whole_dialogues_and_balance_the_classes():
    folds = make_folds(CORPUS, 5, "")
    assert folds.names == ("1", "2", "3", "4", "5")
    assert set(folds.of_dialogue) == set(range(5)) and len(folds.of_dialogue) == DIALOGUES
    of_utterance = folds.of_dialogue[CORPUS.dialogue_of]
    classes = len(CORPUS.classes)
    each = [CORPUS.label[of_utterance == k] for k in range(5)]
    counts = np.array([np.bincount(label, minlength=classes) for label in each])
    share, whole = counts / counts.sum(axis=1, keepdims=True), counts.sum(axis=0) / counts.sum()
    assert np.abs(share - whole).max() < 0.07
    again = make_folds(CORPUS, 5, "")
    np.testing.assert_array_equal(again.of_dialogue, folds.of_dialogue)
    assert np.any(make_folds(CORPUS, 5, "", seed=1).of_dialogue != folds.of_dialogue)


def test_the_splits_of_the_file_do_not_count():
    moved = dataclasses.replace(CORPUS, split=np.roll(CORPUS.split, 7))
    for one, other in zip(make_folds(CORPUS, 3, ""), make_folds(moved, 3, "")):
        np.testing.assert_array_equal(one, other)


def test_each_dialogue_is_tested_once_and_dev_is_a_share_of_the_rest():
    folds = make_folds(CORPUS, 4, "")
    splits = [split_by_fold(CORPUS, folds, k, 0.25) for k in range(4)]
    tested = sum((own.split == "test").astype(int) for own in splits)
    np.testing.assert_array_equal(tested, 1)
    for number, own in enumerate(splits):
        np.testing.assert_array_equal(own.split == "test", folds.of_dialogue == number)
        rest = np.sum(folds.of_dialogue != number)
        assert np.sum(own.split == "dev") == round(0.25 * rest)
        assert np.sum(own.split == "train") == rest - round(0.25 * rest)


def test_by_session_one_session_is_left_out():
    names = [f"Ses0{1 + g % 5}{'FM'[g % 2]}_impro{g:02d}" for g in range(DIALOGUES)]
    folds = make_folds(with_names(names), 0, "session")
    assert folds.names == ("Ses01", "Ses02", "Ses03", "Ses04", "Ses05")
    np.testing.assert_array_equal(folds.of_dialogue, np.arange(DIALOGUES) % 5)
    # Sessions stay whole in fewer folds, too.
    three = make_folds(with_names(names), 3, "session").of_dialogue
    assert len(set(three)) == 3
    assert all(len(set(three[np.arange(DIALOGUES) % 5 == k])) == 1 for k in range(5))


def test_by_speaker_dialogues_that_share_one_stay_together():
    # Chains: dialogue g has the speakers g//3 and g//3 + 0, so that three in a row are joined.
    names = [f"a{g // 3}+b{g}" for g in range(DIALOGUES)]
    corpus = with_speakers(names)
    folds = make_folds(corpus, 4, "speaker").of_dialogue
    of_speaker = {}
    for fold, dialogue in zip(folds[corpus.dialogue_of], corpus.dialogue_of):
        of_speaker.setdefault(dialogue // 3, set()).add(fold)
    assert all(len(own) == 1 for own in of_speaker.values()) and len(set(folds)) == 4
    # 20 groups of speakers are more than a fold each.
    assert len(set(make_folds(corpus, 0, "speaker").of_dialogue)) == 5


def test_by_a_group_that_the_file_names(tmp_path):
    site = np.array(["Bonn", "Köln", "Trier"])[np.arange(DIALOGUES) % 3]
    corpus = dataclasses.replace(CORPUS, groups={"site": site, "year": np.arange(DIALOGUES)})
    assert fingerprint(corpus) != fingerprint(CORPUS)
    write_npz(corpus, tmp_path / "c.npz")
    read = read_npz(tmp_path / "c.npz")
    np.testing.assert_array_equal(read.groups["site"], site)
    assert read.groups["year"].tolist() == [str(n) for n in range(DIALOGUES)]
    folds = make_folds(read, 0, "site")
    assert folds.names == ("Bonn", "Köln", "Trier")
    np.testing.assert_array_equal(np.array(folds.names)[folds.of_dialogue], site)


def test_a_file_without_splits_is_enough_for_folds(tmp_path):
    write_npz(CORPUS, tmp_path / "c.npz")
    arrays = dict(np.load(tmp_path / "c.npz"))
    del arrays["split"]
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(UserError, match="the key 'split' is missing"):
        read_npz(tmp_path / "d.npz")
    read = read_npz(tmp_path / "d.npz", ReadingOptions(without_splits=True))
    np.testing.assert_array_equal(read.label, CORPUS.label)


def test_a_table_of_folds(tmp_path):
    path = tmp_path / "folds.csv"
    order = np.random.default_rng(0).permutation(DIALOGUES)
    lines = [f"{CORPUS.dialogue[g]},{'xyz'[g % 3]}" for g in order]
    path.write_text("\n".join(["dialogue,fold", *lines]))
    folds = read_folds(CORPUS, str(path))
    assert folds.names == ("x", "y", "z")
    np.testing.assert_array_equal(folds.of_dialogue, np.arange(DIALOGUES) % 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dialogue,part\na,1", "needs the columns dialogue and fold; fold is missing"),
        ("dialogue,fold\nnobody,1", "line 2: dialogue 'nobody' is not in"),
        (
            f"dialogue,fold\n{FIRST},1\n{FIRST},2",
            "line 3: .* is there twice",
        ),
        (f"dialogue,fold\n{FIRST},", "line 2: .* has no fold"),
        (
            f"dialogue,fold\n{FIRST},1",
            "59 of 60 dialogues have no line",
        ),
        (
            "dialogue,fold\n" + "\n".join(f"{name},1" for name in CORPUS.dialogue),
            "folds need at least 2 parts",
        ),
    ],
)
def test_a_bad_table_of_folds_is_refused(tmp_path, text, message):
    path = tmp_path / "folds.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_folds(CORPUS, str(path))


@pytest.mark.parametrize(
    ("corpus", "count", "by", "message"),
    [
        (CORPUS, 1, "", "at least 2 parts, not 1"),
        (CORPUS, 61, "", "61 folds need as many dialogues; there are 60"),
        (
            CORPUS,
            0,
            "hospital",
            "nothing called 'hospital' to make folds by",
        ),
        (CORPUS, 0, "session", "the session of dialogue .* is not known"),
        (with_speakers([f"host+guest{g}" for g in range(DIALOGUES)]), 5, "speaker", "join all 60"),
        (with_speakers([g % 3 for g in range(DIALOGUES)]), 5, "speaker", "there are 3"),
    ],
)
def test_folds_that_cannot_be_made_are_refused(corpus, count, by, message):
    with pytest.raises(UserError, match=message):
        make_folds(corpus, count, by)


def test_too_few_dialogues_for_dev_are_refused():
    few = simulate_corpus(create_process(), SimulatedSize(1, 1, 1, 3, 3), 0)
    folds = make_folds(few, 3, "")
    with pytest.raises(UserError, match="without fold 1 too few dialogues"):
        split_by_fold(few, folds, 0, 0.2)


def test_features_that_have_seen_labels_are_refused_by_what_the_file_says():
    def made(**record):
        return dataclasses.replace(CORPUS, provenance={"text": record})

    fitted = {"tuning": {"seed": 0, "transcript": "1f"}, "crossfit": 5}
    for record in ({"encoder": "e", "tuning": None}, fitted | {"transcript": "1f"}, {}):
        check_unseen(made(**record))
    with pytest.raises(UserError, match="text are of encoders that were cross-fitted on another"):
        check_unseen(made(**fitted, transcript="2e"))
    with pytest.raises(UserError, match="features text are of an encoder that was tuned on labels"):
        check_unseen(made(tuning={"seed": 0}, crossfit=0))
    every = {name: {"extractor": "x"} for name in CORPUS.features}
    assert warn_of_seen(dataclasses.replace(CORPUS, provenance=every)) == []
    assert "does not say how audio, visual was made" in warn_of_seen(made(extractor="x"))[0]
