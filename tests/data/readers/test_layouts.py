"""Layouts of pickles: who is in which split, and every form of a table that has one meaning."""

import collections

import numpy as np
import pytest
from layouts import (
    NUMBERS,
    OFFICIAL,
    SESSIONS,
    columns,
    cosmic,
    cycle,
    one_hot,
    own,
    samples,
    write,
)

from cberl_jax.data.corpus import describe, fingerprint
from cberl_jax.data.readers.load import load_corpus, read_corpus
from cberl_jax.data.readers.options import parse_options
from cberl_jax.data.readers.splits import certain_order
from cberl_jax.errors import UserError

S = SESSIONS


def read(tmp_path, entries, **options):
    path = write(tmp_path / "c.pkl", tuple(entries) if isinstance(entries, list) else entries)
    return read_corpus(path, parse_options(**options))


def said_of(tmp_path, entries, **options) -> str:
    with pytest.raises(UserError) as error:
        read(tmp_path, entries, **options)
    text = str(error.value)
    assert text.startswith(f"{tmp_path / 'c.pkl'}: ") and "\n" not in text
    return text


def splits_of(corpus) -> dict[str, set[str]]:
    return {
        split: set(corpus.dialogue[corpus.split == split].tolist())
        for split in ("train", "dev", "test")
    }


# Lists of ids.

CERTAIN = {
    "train, dev, test of IEMOCAP": (S, (S[:12], S[12:15], S[15:])),
    "train, test, dev of IEMOCAP": (S, (S[:12], S[15:], S[12:15])),
    "dev by sessions": (S, (S[:12], S[12:16], S[16:])),
    "train, dev, test of MELD": (OFFICIAL, (OFFICIAL[:12], OFFICIAL[12:15], OFFICIAL[15:])),
    "train, test, dev of MELD": (OFFICIAL, (OFFICIAL[:12], OFFICIAL[15:], OFFICIAL[12:15])),
    "MELD's numbers as text": (
        tuple(map(str, OFFICIAL)),
        tuple(tuple(map(str, ids)) for ids in (OFFICIAL[:12], OFFICIAL[15:], OFFICIAL[12:15])),
    ),
}


@pytest.mark.parametrize("case", CERTAIN)
def test_three_lists_are_known_by_their_ids(tmp_path, case):
    ids, lists = CERTAIN[case]
    meld = ids[0] != S[0]
    entries = own(
        ids,
        one_hot(9) if meld else lambda p, t: "MF"[t % 2],
        cycle(*range(7 if meld else 6)),
        [list(part) for part in lists],
    )
    by_size = sorted(lists, key=len)
    dev = by_size[0] if case != "dev by sessions" else S[12:16]
    test = next(part for part in lists if part not in (dev, by_size[-1]))
    found = splits_of(corpus := read(tmp_path, entries))
    assert found["train"] == set(map(str, by_size[-1]))
    assert found["dev"] == set(map(str, dev)) and found["test"] == set(map(str, test))
    assert "the file's three lists of ids are read as train (12 dialogues)" in corpus.remarks[0]


UNCERTAIN = {
    "sessions in all lists": (S, (S[::2], S[1::4], S[3::4])),
    "a fold with the fifth session in train": (S, (S[4:], S[:2], S[2:4])),
    "numbers below MELD's dev": (NUMBERS, (NUMBERS[:12], NUMBERS[12:14], NUMBERS[14:])),
    "ids that say nothing": (
        tuple(f"d{k}" for k in NUMBERS),
        tuple(tuple(f"d{k}" for k in part) for part in (range(12), range(12, 15), range(15, 20))),
    ),
}


@pytest.mark.parametrize("case", UNCERTAIN)
def test_three_lists_of_uncertain_order_are_refused_until_they_are_named(tmp_path, case):
    ids, lists = UNCERTAIN[case]
    entries = own(ids, lists=[list(part) for part in lists])
    said = said_of(tmp_path, entries)
    assert "--splits=train,dev,test or --splits=train,test,dev" in said
    sizes = ", ".join(str(len(part)) for part in lists)
    assert f"which of its three lists of ids ({sizes} dialogues) is dev" in said
    for order in ("train,dev,test", "train,test,valid"):
        found = splits_of(corpus := read(tmp_path, entries, splits=order, corpus="iemocap"))
        names = order.replace("valid", "dev").split(",")
        assert [found[name] for name in names] == [set(map(str, part)) for part in lists]
        assert corpus.left_out == 0


def test_published_sizes_of_emorynlp_tell_the_order():
    for sizes in ((713, 99, 85), (659, 89, 79), (1038, 114, 280)):
        starts = np.cumsum([0, *sizes])
        train, dev, test = ({f"x{k}" for k in range(a, b)} for a, b in zip(starts, starts[1:]))
        assert certain_order([train, dev, test]) == ("train", "dev", "test")
        assert certain_order([train, test, dev]) == ("train", "test", "dev")
    assert certain_order([{f"train_{k}"} | {"dev_1"} for k in range(3)]) is None
    assert certain_order([{"train_1"}, {"test_1"}, {"val_1"}]) == ("train", "test", "dev")


def test_two_lists_are_train_and_test_unless_the_fifth_session_says_otherwise(tmp_path):
    found = splits_of(read(tmp_path, own()))
    assert found["test"] == set(S[14:]) and found["train"] | found["dev"] == set(S[:14])
    reversed_lists = [list(S[16:]), list(S[:16])]
    said = said_of(tmp_path, own(lists=reversed_lists))
    assert "the ids say test, train" in said and "--splits=test,train" in said
    corpus = read(tmp_path, own(lists=reversed_lists), splits="test,train")
    assert splits_of(corpus)["test"] == set(S[16:])
    assert not any("the ids say" in remark for remark in corpus.remarks)
    # Who names them otherwise is obeyed, and told.
    corpus = read(tmp_path, own(lists=reversed_lists), splits="train,test")
    assert splits_of(corpus)["test"] == set(S[:16])
    assert corpus.remarks[0].endswith("train, test, but the ids say test, train")
    # A fold of a cross-validation has the fifth session in train, and is as it says.
    found = splits_of(read(tmp_path, own(lists=[list(S[4:]), list(S[:4])])))
    assert found["test"] == set(S[:4])


def test_a_list_that_is_empty_is_no_split(tmp_path):
    found = splits_of(read(tmp_path, own(lists=[list(S[:14]), list(S[14:]), []])))
    assert found["test"] == set(S[14:]) and len(found["dev"]) == 1


def test_dialogues_in_no_split_are_counted_and_said(tmp_path):
    corpus = read(tmp_path, own(lists=[list(S[:10]), list(S[14:])]))
    assert corpus.left_out == 4 and not set(S[10:14]) & set(corpus.dialogue.tolist())
    assert "dialogues in no split, left out: 4" in describe(corpus).splitlines()


@pytest.mark.parametrize(
    "lists, options, part",
    [
        ((S[:12], S[12:15], S[14:]), {}, "is in two splits, dev and test"),
        ((S[:12], S[12:15], ("x", *S[15:])), {"splits": "train,dev,test"}, "'x' of test has no"),
        ((S[:14], S[14:]), {"splits": "train,dev,test"}, "2 lists of dialogue ids, but --splits"),
        ((S[:8], S[8:12], S[12:16], S[16:]), {}, "more than three lists of dialogue ids"),
    ],
)
def test_lists_that_cannot_be_splits_are_refused(tmp_path, lists, options, part):
    assert part in said_of(tmp_path, own(lists=[list(ids) for ids in lists]), **options)


def test_share_of_dev_can_be_chosen(tmp_path):
    corpus = read(tmp_path, own(), dev_share=0.4)
    assert np.sum(corpus.split == "dev") == 6 and np.sum(corpus.split == "test") == 6
    assert "6 of 14 train dialogues are held out as dev (--dev_share" in corpus.remarks[0]


# Ids of different types.


@pytest.mark.parametrize("tables, lists", [(int, str), (str, int), (str, np.int64)])
def test_numbers_and_the_same_as_text_are_one_id(tmp_path, tables, lists):
    ids = tuple(map(tables, NUMBERS))
    entries = own(ids, one_hot(9), cycle(*range(7)))
    entries[7:9] = [list(map(lists, part)) for part in (NUMBERS[:14], NUMBERS[14:])]
    found = splits_of(read(tmp_path, entries))
    assert found["test"] == {str(k) for k in range(14, 20)}
    entries[3] = {lists(int(key)): value for key, value in entries[3].items()}
    assert read(tmp_path, entries).length.tolist() == [len(v) for v in entries[3].values()]


def test_text_that_is_not_the_number_is_another_id(tmp_path):
    entries = own(NUMBERS, one_hot(9), cycle(*range(7)))
    entries[7] = [f"{k:02d}" for k in NUMBERS[:14]]
    assert "dialogue '00' of train has no speakers" in said_of(tmp_path, entries)


# Forms of the tables.


def objects(values):
    array = np.empty(len(values), object)
    array[:] = values
    return array


def recast(entries, place, function):
    entries = list(entries)
    entries[place] = {key: function(row) for key, row in entries[place].items()}
    return entries


FORMS = {
    "sentences as an object array": (6, objects),
    "speakers as an object array": (1, objects),
    "labels as an object array": (2, objects),
    "labels as an array": (2, np.array),
    "labels as whole floats": (2, lambda row: [float(x) for x in row]),
    "labels as float32": (2, lambda row: np.array(row, "f4")),
    "labels as digits": (2, lambda row: [str(x) for x in row]),
    "vectors in an object array": (4, objects),
    "numbers in an object array": (4, lambda row: np.array([x.tolist() for x in row], object)),
    "in Fortran's order": (
        4,
        lambda row: np.asfortranarray(np.array([x.tolist() for x in row], object)),
    ),
    "an array of the dialogue": (3, np.array),
    "an axis of one": (3, lambda row: np.array(row)[:, None]),
    "rows of one row": (3, lambda row: [x[None] for x in row]),
    "lists of one list": (3, lambda row: [[x.tolist()] for x in row]),
    "tuples": (5, lambda row: tuple(tuple(x.tolist()) for x in row)),
}


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("form", FORMS)
def test_other_forms_of_a_table_hold_the_same(tmp_path, form, protocol):
    place, function = FORMS[form]
    expected = fingerprint(read(tmp_path, own()))
    path = write(tmp_path / "d.pkl", tuple(recast(own(), place, function)), protocol)
    assert fingerprint(read_corpus(path)) == expected


def test_lists_of_ids_as_object_arrays_and_sets(tmp_path):
    expected = fingerprint(read(tmp_path, own()))
    lists = [objects(list(S[:14])), set(S[14:])]
    assert fingerprint(read(tmp_path, own(lists=lists))) == expected


def test_frames_in_place_of_vectors_are_refused_with_the_way_out(tmp_path):
    entries = recast(own(), 3, lambda row: np.stack([np.array(row)] * 3, axis=1))
    assert (
        "text at dialogue 'Ses01F_impro00', utterance 0 is not a vector of numbers but a table of "
        "shape (3, 8); where its rows are frames, their mean makes one vector"
        in said_of(tmp_path, entries)
    )


@pytest.mark.parametrize(
    "widths, found, known",
    [
        ((1582, 100, 342), "1582, 100, 342", "100, 1582, 342"),
        ((5, 342, 1582), "5, 342, 1582", "5, 1582, 342"),
        ((300, 600, 342), "300, 600, 342", "600, 300, 342"),
        ((8, 512, 100), "8, 512, 100", "8, 100, 512"),
    ],
)
def test_tables_in_each_others_places_are_refused_by_their_widths(tmp_path, widths, found, known):
    said = said_of(tmp_path, own(widths=widths))
    assert f"text, audio and visual are {found} wide, and {known} in the known files" in said
    assert "put the tables in the order text, audio, visual" in said


@pytest.mark.parametrize(
    "widths", [(100, 768, 512), (300, 1582, 342), (1024, 300, 342), (768, 1582)]
)
def test_widths_that_others_have_are_in_no_others_place(tmp_path, widths):
    names = ("text", "audio", "visual")
    corpus = read(tmp_path, own(widths=widths), corpus="iemocap")
    assert corpus.widths == dict(zip(names, widths))


def test_visual_without_audio_is_not_taken_for_audio(tmp_path):
    assert "counts as audio, but is 342 wide" in said_of(tmp_path, own(widths=(8, 342)))
    corpus = read(tmp_path, own(widths=(8, 0, 342)))
    assert corpus.widths == {"text": 8, "visual": 342}


def test_exchanged_tables_of_speakers_and_labels_are_refused(tmp_path):
    """As COSMIC numbers speakers: anew in every dialogue, as they appear."""
    ids = OFFICIAL
    lists = (list(ids[:12]), list(ids[15:]), list(ids[12:15]))
    entries = cosmic(ids, lambda p, t: t % 4, lambda p, t: (p + t % 2) % 7, lists)
    assert len(read(tmp_path, entries).classes) == 7
    said = said_of(tmp_path, [entries[1], entries[0], *entries[2:]], classes="a,b,c,d")
    assert "count up from 0" in said and "speakers and labels are exchanged" in said
    few = own(label=lambda p, t: min(t, 2), speaker=lambda p, t: (p + t) % 7)
    assert len(read(tmp_path, few, classes="a,b,c").classes) == 3


def test_three_lists_without_ids_are_cosmics_only_with_four_layers(tmp_path):
    entries = cosmic([f"d{k}" for k in NUMBERS])
    read(tmp_path, entries, corpus="iemocap")
    one = [*entries[:3], *entries[6:]]
    said = said_of(tmp_path, one, corpus="iemocap")
    assert "--splits=train,dev,test or --splits=train,test,dev" in said
    lists = [entries[9], entries[7], entries[8]]
    said = said_of(tmp_path, [*entries[:7], *lists], corpus="iemocap")
    assert "which of its three lists of ids (2, 12, 6 dialogues)" in said


def test_a_row_of_nan_is_an_absent_modality(tmp_path):
    entries = own()
    entries[4][S[0]][1] = np.full(6, np.nan)
    corpus = read(tmp_path, entries)
    assert np.flatnonzero(~corpus.present["audio"]).tolist() == [1]
    assert not corpus.features["audio"][1].any() and corpus.present["text"].all()
    assert "audio is nan in 1 of 84 utterances, which count as lacking it" in corpus.remarks
    entries[4][S[0]][1] = np.array([np.nan, 0, 0, 0, 0, 0])
    assert "where audio is missing, the whole row has to be nan" in said_of(tmp_path, entries)


@pytest.mark.parametrize(
    "change, part",
    [
        (
            lambda e: [{k.encode(): v for k, v in e[0].items()}, *e[1:]],
            "a key of type bytes; keys have to be text",
        ),
        (
            lambda e: [e[0], {k: [x.encode() for x in v] for k, v in e[1].items()}, *e[2:]],
            "entry 1 should be speakers as text, numbers or one-hot vectors, but holds bytes",
        ),
        (
            lambda e: [*e[:6], {k: [None] * len(v) for k, v in e[6].items()}, *e[7:]],
            "entry 6 should be sentences as text, but holds no values",
        ),
        (lambda e: {"ids": e[0], "text": e[3]}, "train, dev and test, not 'ids', 'text'."),
        (
            lambda e: {"trian": samples(), "test": samples(places=(3,))},
            "its keys would have to be train, dev and test, not 'trian', 'test'.",
        ),
        (lambda e: [*e[:7], [k.lower() for k in e[7]], e[8]], "'ses01f_impro00' of train has no"),
    ],
)
def test_what_strangers_put_there_is_named(tmp_path, change, part):
    assert part in said_of(tmp_path, change(own()))


@pytest.mark.parametrize(
    "form, names",
    [
        (lambda p, t: t % 2, ["speaker_0", "speaker_1"]),
        (lambda p, t: np.int32(t % 2), ["speaker_0", "speaker_1"]),
        (one_hot(2), ["speaker_0", "speaker_1"]),
        (lambda p, t: [float(x) for x in np.eye(10)[t % 2]], ["speaker_0", "speaker_1"]),
        (lambda p, t: f"Ses0{1 + p // 4}{'MF'[t % 2]}", ["Ses01M", "Ses01F"]),
    ],
)
def test_speakers_of_every_form_load(tmp_path, form, names):
    corpus = read(tmp_path, own(speaker=form))
    assert corpus.speaker[:2].tolist() == names and len(corpus.classes) == 6


# COSMIC's layout.


def test_cosmic_has_four_text_layers_and_no_ids(tmp_path):
    entries = cosmic()
    corpus = read(tmp_path, entries)
    assert [len(part) for part in splits_of(corpus).values()] == [12, 2, 6]
    assert splits_of(corpus)["dev"] == set(S[12:14])
    assert tuple(corpus.features) == tuple(f"text.roberta{k}" for k in (1, 2, 3, 4))
    assert corpus.speaker[:2].tolist() == ["M", "F"]
    assert corpus.label.tolist() == [x for row in entries[1].values() for x in row]
    np.testing.assert_array_equal(corpus.features["text.roberta3"][0], entries[4][S[0]][0])
    assert corpus.utterance[1] == "sentence 0 1"
    assert load_corpus(tmp_path / "c.pkl").widths == {"text": 16}


@pytest.mark.parametrize(
    "speaker", [one_hot(9), lambda p, t: (p + t) % 3, lambda p, t: "ABA"[t % 3]]
)
def test_cosmic_of_meld_with_sentiments(tmp_path, speaker):
    ids = OFFICIAL
    lists = (list(ids[:12]), list(ids[15:]), list(ids[12:15]))
    entries = cosmic(ids, speaker, cycle(*range(7)), lists, sentiment=cycle(0, 1, 2))
    corpus = read(tmp_path, entries)
    assert corpus.classes[:2] == ("neutral", "surprise") and len(corpus.classes) == 7
    assert [len(part) for part in splits_of(corpus).values()] == [12, 3, 5]
    assert corpus.label.tolist() == [x for row in entries[1].values() for x in row]


def test_cosmic_of_emorynlp_needs_its_name(tmp_path):
    ids = tuple(f"scene {k}" for k in NUMBERS)
    entries = cosmic(ids, one_hot(9), cycle(*range(7)))
    assert "--corpus=meld|iemocap|iemocap4|emorynlp" in said_of(tmp_path, entries)
    corpus = read(tmp_path, entries, corpus="emorynlp")
    assert corpus.classes[0] == "Joyful" and np.sum(corpus.split == "dev") == 2


def test_cosmic_in_the_other_order_is_refused_by_its_ids(tmp_path):
    lists = [list(S[:12]), list(S[12:14]), list(S[14:])]
    said = said_of(tmp_path, cosmic(lists=lists))
    assert "should be train, test, dev, but the ids say train, dev, test" in said
    found = splits_of(read(tmp_path, cosmic(lists=lists), splits="train,dev,test"))
    assert found["dev"] == set(S[12:14])


# CORECT's layout.


@pytest.mark.parametrize("dev", ["dev", "valid", "val", "validation", "Dev"])
def test_dictionaries_of_dialogues_load(tmp_path, dev):
    parts = {"train": samples(places=range(12)), dev: samples(places=range(12, 14))}
    corpus = read(tmp_path, parts | {"test": samples(places=range(14, 20), topic="x")})
    assert [len(part) for part in splits_of(corpus).values()] == [12, 2, 6]
    assert splits_of(corpus)["dev"] == set(S[12:14])
    assert corpus.widths == {"text": 8, "audio": 6, "visual": 5}
    assert corpus.utterance[1] == "sentence 0 1" and corpus.classes[0] == "happy"
    assert corpus.remarks == ("keys of dialogues that are not read: topic",)
    expected = [x for row in own()[2].values() for x in row]
    assert corpus.label.tolist() == expected


def test_dictionaries_without_dev_give_one(tmp_path):
    parts = {"train": samples(places=range(14)), "test": samples(places=range(14, 20))}
    corpus = read(tmp_path, collections.OrderedDict(parts))
    assert np.sum(corpus.split == "dev") == 1 and "--dev_share" in corpus.remarks[0]


def spoilt(change):
    parts = {"train": samples(places=range(14)), "test": samples(places=range(14, 20))}
    change(parts)
    return parts


SPOILT = {
    "twice": (lambda p: p["test"].append(p["train"][3]), "'Ses01F_impro03', which is in train"),
    "no name": (lambda p: p["test"][0].pop("vid"), "dialogue 0 of 'test' has no name ('vid')"),
    "no labels": (lambda p: p["test"][0].pop("labels"), "dialogue 0 of 'test' has no labels"),
    "no audio in one": (lambda p: p["test"][0].pop("audio"), "of test has no audio"),
    "no dictionary": (lambda p: p["train"].append(3), "dialogue 14 of 'train' is not a dictionary"),
    "no list": (lambda p: p.update(train=3), "'train' holds no list of dialogues"),
    "arrays of a split": (
        lambda p: p.update(train={"text": np.zeros((4, 5, 3)), "id": ["a"]}),
        "'train' holds arrays over all utterances of a split (text, id)",
    ),
    "two keys for one": (lambda p: p["train"][0].update(label=[1]), "two keys for its labels"),
    "two dev splits": (lambda p: p.update(val=[], dev=[]), "the split dev is there twice"),
    "splits named twice": (lambda p: None, "names its splits itself; take --splits away"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_wrong_dictionaries_are_named(tmp_path, case):
    change, part = SPOILT[case]
    options = {"splits": "train,test"} if case == "splits named twice" else {}
    assert part in said_of(tmp_path, spoilt(change), **options)


def test_files_without_features_say_so(tmp_path):
    entries = own()
    ids = list(entries[1])
    labels_first = (entries[0], entries[2], entries[1], columns(ids, lambda *_: "s"), ids[:14])
    said = said_of(tmp_path, (*labels_first, ids[14:]))
    assert "no dictionary of features follows the labels" in said
