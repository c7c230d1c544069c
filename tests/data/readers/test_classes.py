"""Class names by all the evidence, and labels of every form; nothing is guessed, nothing lost."""

import numpy as np
import pytest
from layouts import NUMBERS, OFFICIAL, SESSIONS, cycle, one_hot, own, write
from tiny import tiny_config

from cberl_jax.data.corpus import fingerprint
from cberl_jax.data.labels import cut_labels, keep_used_classes
from cberl_jax.data.readers.known import (
    CORPORA,
    EMORYNLP_CLASSES,
    IEMOCAP_CLASSES,
    MELD_CLASSES,
)
from cberl_jax.data.readers.load import convert, load_conversations, load_corpus, read_corpus
from cberl_jax.data.readers.options import parse_options
from cberl_jax.errors import UserError
from cberl_jax.training.prepare import load_data

SEVEN = cycle(*range(7))
NAMES = lambda place, turn: ("Ann", "Bob", "Cleo")[turn % 3]  # noqa: E731


def read(tmp_path, entries, **options):
    path = write(tmp_path / "c.pkl", tuple(entries))
    return read_corpus(path, parse_options(**options))


def said_of(tmp_path, entries, **options) -> str:
    with pytest.raises(UserError) as error:
        read(tmp_path, entries, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def flat(table):
    return [x for row in table.values() for x in row]


CERTAIN = {
    "IEMOCAP by its ids, speakers one-hot": (own(speaker=one_hot(2)), IEMOCAP_CLASSES),
    "IEMOCAP by its ids, ten speakers": (own(speaker=one_hot(10)), IEMOCAP_CLASSES),
    "IEMOCAP by its widths": (
        own([f"d{k}" for k in NUMBERS], lambda p, t: "AB"[t % 2], widths=(100, 1582, 342)),
        IEMOCAP_CLASSES,
    ),
    "IEMOCAP by its widths, of COGMEN": (
        own([f"d{k}" for k in NUMBERS], one_hot(2), widths=(768, 100, 512)),
        IEMOCAP_CLASSES,
    ),
    "IEMOCAP with unlabelled": (own(label=cycle(-1, 0, 1, 2, 3, 4, 5)), IEMOCAP_CLASSES),
    "MELD by its form": (own(NUMBERS, one_hot(9), SEVEN), MELD_CLASSES),
    "MELD by its widths": (own(NUMBERS, NAMES, SEVEN, widths=(600, 300, 342)), MELD_CLASSES),
    "MELD by its official ids": (
        own(OFFICIAL, NAMES, SEVEN, [list(OFFICIAL[:15]), list(OFFICIAL[15:])]),
        MELD_CLASSES,
    ),
    "EmoryNLP by its ids": (
        own([f"s01_e{k:02d}_c01" for k in NUMBERS], NAMES, SEVEN),
        EMORYNLP_CLASSES,
    ),
}


@pytest.mark.parametrize("case", CERTAIN)
def test_classes_are_those_of_the_corpus(tmp_path, case):
    entries, classes = CERTAIN[case]
    corpus = read(tmp_path, entries)
    assert corpus.classes == classes
    assert corpus.label.tolist() == flat(entries[2])
    weak = any("--classes or --corpus sets others" in remark for remark in corpus.remarks)
    assert weak == (case == "MELD by its form")


# What is not certain: the entries, what is said, and options by which it loads.

UNCERTAIN = {
    "seven labels under IEMOCAP's ids": (
        own(speaker=NAMES, label=SEVEN),
        "a dialogue has more than two speakers",
        {"corpus": "emorynlp"},
    ),
    "seven labels of M and F": (
        own(label=SEVEN),
        "label '6' at dialogue 'Ses01F_impro00', utterance 3 is out of range: labels of iemocap",
        {"classes": "a,b,c,d,e,f,g"},
    ),
    "seven labels and named speakers": (
        own(NUMBERS, NAMES, SEVEN),
        "nothing in the file tells its corpus (labels go from 0 to 6)",
        {"corpus": "emorynlp"},
    ),
    "seven labels of numbered dialogues, speakers of another width": (
        own(NUMBERS, one_hot(7), SEVEN),
        "numbered dialogues, one-hot speakers and seven labels are meld's, but other corpora have",
        {"corpus": "emorynlp"},
    ),
    "seven labels of numbered dialogues, without sound": (
        own(NUMBERS, one_hot(9), SEVEN, widths=(8,)),
        "one-hot speakers and seven labels are meld's, but other corpora have them too",
        {"corpus": "meld"},
    ),
    "seven labels of dialogues numbered beyond MELD's": (
        own(range(5000, 5020), one_hot(9), SEVEN),
        "one-hot speakers and seven labels are meld's, but other corpora have them too",
        {"classes": "a,b,c,d,e,f,g"},
    ),
    "six labels of M and F alone": (
        own([f"d{k}" for k in NUMBERS]),
        "speakers M and F are iemocap's, but other corpora have them too",
        {"corpus": "iemocap"},
    ),
    "seven labels and text ids": (
        own([f"d{k}" for k in NUMBERS], one_hot(9), SEVEN),
        "nothing in the file tells its corpus",
        {"corpus": "meld"},
    ),
    "IEMOCAP's ids and MELD's widths": (
        own(label=SEVEN, widths=(600, 300, 342)),
        "the evidence for its corpus disagrees",
        {"corpus": "meld"},
    ),
    "MELD's sentiments": (
        own(NUMBERS, one_hot(9), cycle(0, 1, 2), widths=(600, 300, 342)),
        "audio 300 and visual 342 wide are meld's, but labels go from 0 to 2, not to 6",
        {"classes": "neutral,positive,negative"},
    ),
    "two labels": (
        own(label=cycle(0, 1)),
        "are iemocap's, but labels go from 0 to 1, not to 5 (six-way) or 3 (four-way)",
        {"corpus": "mosi"},
    ),
    "three labels": (own(label=cycle(0, 1, 2)), "labels go from 0 to 2", {"classes": "a,b,c"}),
    "five labels": (own(label=cycle(*range(5))), "from 0 to 4", {"classes": "a,b,c,d,e"}),
    "four labels of M and F alone": (
        own(NUMBERS, label=cycle(*range(4))),
        "speakers M and F are iemocap's, but other corpora have them too",
        {"corpus": "iemocap4"},
    ),
    "-1, 0 and 1": (
        own(label=cycle(-1, 0, 1)),
        "the labels are -1, 0, 1; name a class for each by --classes=negative,neutral,positive, "
        "or one for each but -1 where that is no label",
        {"classes": "a,b,c"},
    ),
    "-1 and 1": (
        own(label=cycle(-1, 1)),
        "the labels are -1, 1; name a class for each",
        {"classes": "a,b"},
    ),
    "-3 to 3": (
        own(label=cycle(-3, -2, -1, 0, 1, 2, 3)),
        "the labels go from -3 to 3; cut them into classes by edges, such as --bins=-3,0,3",
        {"classes": "a,b,c,d,e,f,g"},
    ),
    "real numbers": (
        own(label=cycle(-2.5, 0.0, 1.25)),
        "the labels are real numbers from -2.5 to 1.25; cut them",
        {"bins": "-3,0,3"},
    ),
    "real numbers that are whole": (
        own(label=cycle(-3.0, 0.0, 2.0)),
        "--bins=-3,0,3",
        {"bins": "-3,0,3"},
    ),
}


@pytest.mark.parametrize("case", UNCERTAIN)
def test_uncertain_classes_are_refused_until_they_are_named(tmp_path, case):
    entries, part, options = UNCERTAIN[case]
    said = said_of(tmp_path, entries)
    assert part in said and ("--classes" in said or "--bins" in said)
    corpus = read(tmp_path, entries, **options)
    named = options.get("classes", "").split(",") if "classes" in options else None
    expected = named or CORPORA.get(options.get("corpus"), ("-3 to 0", "0 to 3"))
    assert corpus.classes == tuple(expected)
    assert (corpus.label >= 0).all()


NINE = one_hot(9)
# Of 100 utterances, those of each class of MELD and of EmoryNLP.
MELD_COUNTS = (47, 12, 3, 7, 17, 3, 11)
EMORYNLP_COUNTS = (22, 10, 9, 30, 7, 9, 13)


def counted(counts, dialogues=20, speaker=NINE, widths=(3, 2)):
    """Numbered dialogues, each with so many utterances of every class, in no order."""
    ids = list(range(dialogues))
    labels = np.random.default_rng(0).permutation(np.repeat(range(7), counts)).tolist()
    table = lambda make: {key: [make(key, t) for t in range(len(labels))] for key in ids}  # noqa: E731
    vectors = [table(lambda *_, w=w: np.ones(w, "f4")) for w in widths]
    entries = [table(lambda *_: "u"), table(speaker), dict.fromkeys(ids, labels), *vectors]
    return [*entries, table(lambda *_: "s"), ids[:-4], ids[-4:]]


@pytest.mark.parametrize("speaker", [NINE, one_hot(4), NAMES])
def test_shares_of_many_labels_tell_meld(tmp_path, speaker):
    corpus = read(tmp_path, counted(MELD_COUNTS, speaker=speaker))
    assert corpus.classes == MELD_CLASSES
    assert not any("taken for" in remark for remark in corpus.remarks)
    said_of(tmp_path, counted(MELD_COUNTS, dialogues=9, speaker=NAMES))


@pytest.mark.parametrize("dialogues", [9, 20])
@pytest.mark.parametrize("counts", [EMORYNLP_COUNTS, EMORYNLP_COUNTS[3:] + EMORYNLP_COUNTS[:3]])
def test_shares_of_labels_tell_others_from_meld(tmp_path, counts, dialogues):
    """EmoryNLP with sound in MELD's form, and a corpus whose label 0 has 30 of 100."""
    entries = counted(counts, dialogues)
    assert "seven labels are meld's, but " in said_of(tmp_path, entries)
    assert read(tmp_path, entries, corpus="emorynlp").classes == EMORYNLP_CLASSES


@pytest.mark.parametrize(
    "counts, other, part",
    [
        ((9, 14, 23, 15, 14, 25), (15, 14, 25, 9, 23, 14), "label 3 is the rarest, not 0 (happy)"),
        ((16, 11, 17, 11), (11, 16, 11, 17), "label 3 is the most frequent, not 2 (neutral)"),
    ],
)
def test_frequencies_of_many_labels_tell_other_orders_of_iemocaps_classes(
    tmp_path, counts, other, part
):
    """Six classes in alphabetical order, and four as angry, happy, sad, neutral."""

    def entries(counts):
        labels = np.random.default_rng(0).permutation(np.repeat(range(len(counts)), counts))
        made = [{key: [row[0]] * len(labels) for key, row in e.items()} for e in own()[:7]]
        made[0] = {key: [f"{key}_{n}" for n in range(len(labels))] for key in SESSIONS}
        made[2] = dict.fromkeys(SESSIONS, labels.tolist())
        return [*made, *own()[7:]]

    assert read(tmp_path, entries(counts)).classes == IEMOCAP_CLASSES[: len(counts)]
    assert f"are iemocap's, but {part}" in said_of(tmp_path, entries(other))


def test_frequencies_of_many_labels_tell_other_orders_of_melds_classes(tmp_path):
    """MELD's widths under alphabetical numbers, 4 for neutral."""
    counts = (11, 3, 3, 17, 47, 7, 12)
    entries = counted(counts, widths=(600, 300, 342))
    assert "label 4 is the most frequent, not 0 (neutral)" in said_of(tmp_path, entries)


def test_four_way_iemocap_has_four_classes_in_an_order_that_can_be_set(tmp_path):
    entries = own(label=cycle(*range(4)))
    corpus = read(tmp_path, entries)
    assert corpus.classes == ("happy", "sad", "neutral", "angry")
    assert "read as happy, sad, neutral, angry (COGMEN's order" in corpus.remarks[0]
    other = read(tmp_path, entries, classes="angry,happy,sad,neutral")
    assert other.classes == ("angry", "happy", "sad", "neutral")
    assert other.label.tolist() == corpus.label.tolist() == flat(entries[2])


def test_classes_that_no_utterance_has_are_left_out(tmp_path):
    entries = own(label=cycle(0, 1, 3, 5))
    corpus = read(tmp_path, entries)
    assert corpus.classes == ("happy", "sad", "angry", "frustrated")
    assert "left out: neutral, excited" in corpus.remarks[-1]
    names = [corpus.classes[c] for c in corpus.label]
    assert names == [IEMOCAP_CLASSES[c] for c in flat(entries[2])]
    assert keep_used_classes(corpus) is corpus


# Numbers below 0.


def test_the_number_of_names_says_whether_minus_one_is_a_class(tmp_path):
    entries = own(label=cycle(-1, 0, 1))
    three = read(tmp_path, entries, classes="low,mid,high")
    assert three.label.tolist() == [x + 1 for x in flat(entries[2])]
    assert "the labels are read as: -1 low, 0 mid, 1 high" in three.remarks
    two = read(tmp_path, entries, classes="mid,high")
    assert two.label.tolist() == flat(entries[2])
    sentiment = read(tmp_path, entries, corpus="mosei")
    assert sentiment.classes == ("negative", "neutral", "positive")
    assert "label '-3' at" in said_of(tmp_path, own(label=cycle(-3, 0, 1)), classes="a,b")


@pytest.mark.parametrize("numbers", [(-1, 1), (-1, 0)])
def test_minus_one_without_the_last_class_may_be_the_first_one(tmp_path, numbers):
    """Sentiments of which one is absent: negative is not none, nor positive neutral."""
    entries = own(label=cycle(*numbers))
    said = said_of(tmp_path, entries, classes="negative,neutral,positive")
    assert f"the labels are {numbers[0]}, {numbers[1]}, and none is 2 (positive): is -1" in said
    corpus = read(tmp_path, entries, classes="negative,other")
    assert corpus.label.tolist() == [numbers.index(x) for x in flat(entries[2])]
    without = own(label=cycle(float("nan"), 0.0, 1.0))
    assert read(tmp_path, without, classes="a,b,c").classes == ("a", "b")


def test_minus_one_beside_the_last_class_is_no_label(tmp_path):
    """Six numbers for six names, but 5 is the sixth class: 4 is absent, and -1 none of them."""
    corpus = read(tmp_path, entries := own(label=cycle(-1, 0, 1, 2, 3, 5)), classes="a,b,c,d,e,f")
    assert corpus.classes == ("a", "b", "c", "d", "f")
    assert corpus.label.tolist() == [min(x, 4) for x in flat(entries[2])]


def test_numbers_that_name_other_classes_than_those_at_their_places_are_refused(tmp_path):
    """Of ratings 1 to 3 without a 3, the names 1, 2, 3 would be one too high."""
    said = "names others by them; it names them from 0 on"
    assert said in said_of(tmp_path, entries := own(label=cycle(1, 2)), classes="1,2,3")
    assert read(tmp_path, entries, classes="0,1,2,3").classes == ("1", "2")
    assert said in said_of(tmp_path, own(label=cycle(-1, 0, 1)), classes="1,0,-1")
    # As text they are names.
    named = read(tmp_path, entries := own(label=cycle("1", "2")), classes="1,2,3")
    assert [named.classes[c] for c in named.label] == flat(entries[2])


# Labels as text.


def test_names_keep_their_meaning_in_any_order(tmp_path):
    names = ("sad", "happy", "neutral")
    corpus = read(tmp_path, entries := own(label=cycle(*names)))
    # The order of IEMOCAP, which has them all.
    assert corpus.classes == ("happy", "sad", "neutral")
    assert [corpus.classes[c] for c in corpus.label] == flat(entries[2])
    corpus = read(tmp_path, entries := own(label=cycle("zeal", "", "awe")))
    assert corpus.classes == ("awe", "zeal")
    assert [("awe", "zeal", "")[c] for c in corpus.label] == flat(entries[2])
    given = read(tmp_path, entries, classes="zeal,awe")
    assert given.classes == ("zeal", "awe")
    assert [("zeal", "awe", "")[c] for c in given.label] == flat(entries[2])


def test_a_name_outside_of_the_classes_says_that_an_empty_label_is_none(tmp_path):
    said = said_of(tmp_path, own(label=cycle("sad", "xxx", "ang")), classes="sad,ang")
    assert "label 'xxx' at dialogue 'Ses01F_impro00', utterance 2 is none of the classes" in said
    assert "add it to --classes, or leave the label empty where an utterance has none" in said


# Real numbers.


def test_values_on_an_edge_belong_to_the_class_above(tmp_path):
    values = np.array([-3, -0.5, 0, 1, 3, np.nan, -3.1, 3.1])
    assert cut_labels(values, (-3, 0, 3)).tolist() == [0, 0, 1, 1, 1, -1, -1, -1]
    assert cut_labels(values, (-np.inf, -1, 1, np.inf)).tolist() == [0, 1, 1, 2, 2, -1, 0, 2]


def test_real_labels_are_cut_into_named_classes(tmp_path):
    entries = own(label=cycle(-2.5, 0.0, 1.25, float("nan")))
    corpus = read(tmp_path, entries, bins="-3,0,3", classes="negative,positive")
    expected = [-1 if x != x else int(x >= 0) for x in flat(entries[2])]
    assert corpus.classes == ("negative", "positive") and corpus.label.tolist() == expected
    said = said_of(tmp_path, entries, bins="-1,0,3")
    assert "label '-2.5' at dialogue 'Ses01F_impro00', utterance 0 lies outside of --bins" in said
    assert "the labels are text" in said_of(tmp_path, own(label=cycle("a", "b")), bins="-1,0,1")


def test_real_labels_of_an_archive_are_cut_too(tmp_path):
    count = 12
    np.savez(
        tmp_path / "c.npz",
        classes=np.array(["unused", "unused too"]),
        dialogue=np.array(["a", "b", "c"]),
        split=np.array(["train", "dev", "test"]),
        length=np.full(3, 4),
        speaker=np.array(["A"] * count),
        label=np.resize([-1.5, 0.5, np.nan, 2], count),
        **{"features.text": np.random.default_rng(0).normal(size=(count, 1, 3))},
    )
    corpus = read_corpus(tmp_path / "c.npz", parse_options(bins="-2,0,2", classes="low,high"))
    assert corpus.classes == ("low", "high") and corpus.label[:4].tolist() == [0, 1, -1, 1]
    assert corpus.widths == {"text": 3}
    with pytest.raises(UserError, match="label -1.5 of utterance 0 lies outside of --bins"):
        read_corpus(tmp_path / "c.npz", parse_options(bins="-1,0,2"))


# Options.


@pytest.mark.parametrize(
    "options, part",
    [
        ({"classes": "a"}, "classes = 'a': has to be at least two different names"),
        ({"classes": "a,a"}, "at least two different names"),
        ({"classes": "a,,b"}, "at least two different names"),
        ({"corpus": "imdb"}, "corpus = 'imdb': has to be one of meld, iemocap, iemocap4"),
        ({"splits": "train,train"}, "has to name the lists of ids in the file's order"),
        ({"splits": "train,luck,test"}, "has to name the lists of ids"),
        ({"bins": "0"}, "at least three rising numbers"),
        ({"bins": "0,0,1"}, "at least three rising numbers"),
        ({"bins": "0,x,1"}, "at least three rising numbers"),
        ({"bins": "0,1,2", "classes": "a,b,c"}, "3 edges cut 2 classes, but"),
        ({"dev_share": 0.6}, "dev_share = 0.6: has to be from 0 to 0.5"),
    ],
)
def test_wrong_options_are_named(options, part):
    with pytest.raises(UserError) as error:
        parse_options(**options)
    assert part in str(error.value)


def test_an_archive_names_its_classes_and_splits_itself(tmp_path):
    path = write(tmp_path / "c.pkl", tuple(own(label=cycle(*range(4)))))
    convert(path, tmp_path / "c.npz", parse_options(classes="ang,hap,sad,neu"))
    corpus = read_corpus(tmp_path / "c.npz", parse_options(classes="ang,hap,sad,neu"))
    assert corpus.classes == ("ang", "hap", "sad", "neu")
    for options, part in (
        ({"classes": "a,b,c,d"}, "names its classes itself, ang, hap, sad, neu, which are not"),
        # Its labels are numbers of its own order, which no other one can follow.
        ({"classes": "hap,ang,sad,neu"}, "ang, hap, sad, neu, in another order than --classes"),
        ({"corpus": "meld"}, "which are not those of meld"),
        ({"splits": "train,test"}, "names its splits itself"),
        ({"bins": "0,1,2"}, "whole numbers are class numbers already"),
    ):
        with pytest.raises(UserError) as error:
            read_corpus(tmp_path / "c.npz", parse_options(**options))
        assert part in str(error.value)
    with pytest.raises(UserError, match="is simulated, which needs no --classes"):
        load_corpus("simulated:small", options=parse_options(corpus="meld"))


def test_training_reads_a_pickle_as_convert_does(tmp_path):
    entries = own(
        label=cycle(-1, 0, 1),
        lists=[list(part) for part in (SESSIONS[::2], SESSIONS[1::4], SESSIONS[3::4])],
    )
    path = write(tmp_path / "c.pkl", tuple(entries))
    options = {"classes": "low,mid,high", "splits": "train,test,dev"}
    convert(path, tmp_path / "c.npz", parse_options(**options))
    settings = {f"data.{name}": value for name, value in options.items()}
    config = tiny_config(**{"data.path": str(path)} | settings)
    assert fingerprint(load_data(config)) == fingerprint(load_corpus(tmp_path / "c.npz"))
    config = tiny_config(**{"data.path": str(path), "data.splits": "train"})
    with pytest.raises(UserError, match="splits = 'train': has to name"):
        load_data(config)


def test_real_labels_of_an_archive_to_predict_are_cut_into_the_same_classes(tmp_path):
    convert(write(tmp_path / "c.pkl", tuple(own(label=cycle(0, 1)))), tmp_path / "c.npz",
            parse_options(classes="low,high"))  # fmt: skip
    with np.load(tmp_path / "c.npz") as stored:
        arrays = dict(stored)
    np.savez(tmp_path / "real.npz", **arrays | {"label": arrays["label"] - 0.5})
    options = parse_options(classes="down,up", bins="-1,0,1")
    for read in (load_corpus, load_conversations):
        corpus = read(tmp_path / "real.npz", options=options)
        assert corpus.classes == ("down", "up")
        np.testing.assert_array_equal(corpus.label, arrays["label"])
    # Of whole numbers the file names the classes, whatever the run was trained on.
    whole = load_conversations(tmp_path / "c.npz", options=options)
    assert whole.classes == ("low", "high")


def test_conversations_to_predict_are_read_by_the_same_options(tmp_path):
    entries = own(label=cycle(0, 1))
    path = write(tmp_path / "c.pkl", tuple(entries))
    # Without names the labels are left out, which is said.
    nameless = load_conversations(path)
    assert nameless.label.max() == -1 and "--classes" in nameless.remarks[-1]
    corpus = load_conversations(path, options=parse_options(classes="no,yes", bins=""))
    assert corpus.classes == ("no", "yes") and set(corpus.split.tolist()) == {"test"}
    assert len(corpus.dialogue) == 20
    unlabelled = write(tmp_path / "d.pkl", tuple(own(label=cycle(-1))))
    assert load_conversations(unlabelled).label.max() == -1
    # A file that was converted is read without them.
    convert(path, tmp_path / "c.npz", parse_options(classes="no,yes"))
    options = parse_options(classes="x,y", splits="train,test", bins="0,1,2")
    assert load_conversations(tmp_path / "c.npz", options=options).classes == ("no", "yes")


def test_official_dev_of_meld_is_kept_under_other_class_names(tmp_path):
    ids = range(1160)
    rows = ("u", [1, 0], 0, np.ones(3, np.float32), np.ones(2, np.float32), "s")
    entries = [{key: [value] for key in ids} for value in rows]
    entries[2] = {key: [key % 2] for key in ids}
    entries += [list(range(1153)), list(range(1153, 1160))]
    corpus = read(tmp_path, entries, classes="calm,stirred")
    dev = corpus.dialogue[corpus.split == "dev"].tolist()
    assert dev == [str(k) for k in range(1039, 1153)]
