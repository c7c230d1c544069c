"""The field's pickles: all seven layouts load, and nothing that a file asks for is run."""

import collections
import copyreg
import datetime
import os
import pickle
import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cberl_jax.data import unpickling
from cberl_jax.data.corpus import fingerprint
from cberl_jax.data.load import load_corpus
from cberl_jax.data.npz import read_npz
from cberl_jax.data.pickles import (
    IEMOCAP_CLASSES,
    MELD_CLASSES,
    hold_out_dev,
    read_pickle,
)
from cberl_jax.data.unpickling import RestrictedUnpickler
from cberl_jax.errors import UserError

LENGTHS = (3, 1, 4, 2, 3, 2, 5, 1, 2, 3, 2, 4, 3, 2)
IEMOCAP_IDS = tuple(f"Ses0{k}F_é" for k in range(len(LENGTHS)))
MELD_IDS = tuple(range(len(LENGTHS)))
TESTED = 3  # the last so many dialogues are the test split


def table(ids, make):
    return {
        key: [make(where, turn) for turn in range(length)]
        for where, (key, length) in enumerate(zip(ids, LENGTHS))
    }


def vectors(ids, width, salt):
    random = np.random.default_rng(salt)
    return table(ids, lambda *_: random.normal(size=width).astype(np.float32))


def layout(name):
    """The entries of one of the seven files, small but with the true order and forms."""
    meld = "meld" in name.lower() or name == "GraphSmile" or name == "DialogueRNN"
    ids = MELD_IDS if meld else IEMOCAP_IDS
    classes = 7 if meld else 6
    texts, widths = {
        "MMGCN IEMOCAP": (1, (100, 1582, 342)),
        "COGMEN IEMOCAP": (1, (768, 100, 512)),
        "MMGCN MELD": (1, (600, 300, 342)),
        "SDT IEMOCAP": (4, (1024, 1582, 342)),
        "SDT MELD": (4, (1024, 300, 342)),
        "GraphSmile": (4, (1024, 300, 342)),
        "DialogueRNN": (1, (600, 300)),
    }[name]
    one_hot = np.eye(9, dtype=int).tolist()
    speakers = table(ids, lambda d, t: one_hot[(d + t) % 9] if meld else "MF"[t % 2])
    sentiment = table(ids, lambda d, t: (d + t) % 3)
    entries = [
        table(ids, lambda d, t: f"utt_{d}_{t}"),
        speakers,
        table(ids, lambda d, t: (d + 2 * t) % classes),
    ]
    entries += [sentiment] if name == "GraphSmile" else []
    entries += [vectors(ids, widths[0], salt) for salt in range(texts)]
    entries += [vectors(ids, width, 10 + salt) for salt, width in enumerate(widths[1:])]
    entries += [
        table(ids, lambda d, t: f"Sentence é {d} {t}"),
        list(ids[:-TESTED]),
        list(ids[-TESTED:]),
    ]
    entries += {"DialogueRNN": [sentiment]}.get(name, [None] if meld else [])
    return tuple(entries)


COUNTS = {
    "MMGCN IEMOCAP": 9,
    "COGMEN IEMOCAP": 9,
    "MMGCN MELD": 10,
    "SDT IEMOCAP": 12,
    "SDT MELD": 13,
    "GraphSmile": 14,
    "DialogueRNN": 9,
}


def write(path, entries, protocol=2):
    path.write_bytes(pickle.dumps(entries, protocol=protocol))
    return path


def message(path) -> str:
    with pytest.raises(UserError) as error:
        read_pickle(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text.removeprefix(f"{path}: ")


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", COUNTS)
def test_layout_round_trips(tmp_path, name, protocol):
    entries = layout(name)
    assert len(entries) == COUNTS[name]
    corpus = read_pickle(write(tmp_path / "c.pkl", entries, protocol))
    meld = "IEMOCAP" not in name
    assert corpus.classes == (MELD_CLASSES if meld else IEMOCAP_CLASSES)
    assert corpus.dialogue.tolist() == [str(key) for key in entries[2]]
    assert corpus.length.tolist() == list(LENGTHS)
    assert corpus.label.tolist() == [label for row in entries[2].values() for label in row]
    first = 4 if name == "GraphSmile" else 3
    texts = [f"roberta{k}" for k in (1, 2, 3, 4)] if COUNTS[name] > 10 else ["text"]
    names = texts + (["audio"] if name == "DialogueRNN" else ["audio", "visual"])
    assert corpus.modalities == tuple(names)
    for place, modality in enumerate(names, first):
        expected = np.concatenate(list(entries[place].values()))
        np.testing.assert_array_equal(corpus.features[modality], expected)
    assert corpus.utterance[3] == "Sentence é 1 0"
    assert corpus.speaker[1] == ("speaker_1" if meld else "F")
    assert corpus.split[-TESTED:].tolist() == ["test"] * TESTED
    assert sorted(corpus.split[:-TESTED].tolist()) == ["dev"] + ["train"] * 10


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_gives_the_same_corpus(tmp_path, protocol):
    entries = layout("MMGCN MELD")
    first = read_pickle(write(tmp_path / "a.pkl", entries, 2))
    other = read_pickle(write(tmp_path / "b.pkl", entries, protocol))
    assert fingerprint(other) == fingerprint(first)


def test_layers_are_combined_on_loading(tmp_path):
    path = write(tmp_path / "c.pkl", layout("SDT IEMOCAP"))
    assert load_corpus(path).widths == {"text": 1024, "audio": 1582, "visual": 342}
    assert load_corpus(path, text_layers="concat").widths["text"] == 4096


def test_dialogues_as_arrays_tuples_and_numpy_scalars(tmp_path):
    entries = list(layout("DialogueRNN"))
    plain = read_pickle(write(tmp_path / "a.pkl", entries))
    entries[2] = {key: np.array(row) for key, row in entries[2].items()}
    entries[3] = {key: np.asfortranarray(row) for key, row in entries[3].items()}
    entries[4] = {key: tuple(vector.tolist() for vector in row) for key, row in entries[4].items()}
    entries[5] = {key: np.array(row) for key, row in entries[5].items()}
    entries[6] = np.array(entries[6])
    entries[7] = [np.int64(key) for key in entries[7]]
    entries = collections.OrderedDict(enumerate(entries))
    held = read_pickle(write(tmp_path / "b.pkl", list(entries.values())))
    assert fingerprint(held) == fingerprint(plain)


@pytest.mark.parametrize("kind", [collections.OrderedDict, "default", set, frozenset])
@pytest.mark.parametrize("protocol", [2, 4])
def test_other_builtin_containers(tmp_path, kind, protocol):
    entries = list(layout("MMGCN IEMOCAP"))
    plain = read_pickle(write(tmp_path / "a.pkl", entries))
    if kind in (set, frozenset):
        entries[7:9] = kind(entries[7]), kind(entries[8])
    else:
        make = collections.OrderedDict if kind != "default" else None
        for place in range(7):
            held = make() if make else collections.defaultdict(list)
            held.update(entries[place])
            entries[place] = held
    other = read_pickle(write(tmp_path / "b.pkl", entries, protocol))
    assert fingerprint(other) == fingerprint(plain)


def test_python_2_pickle_is_read_as_latin1():
    """An array, a numpy scalar and a byte string as Python 2 wrote them in protocol 0."""
    stream = (
        b"(S'caf\\xe9'\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
        b"(I1\n(I2\ntcnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
        b"I00\nS'\\x00\\x00\\x80?\\x00\\x00\\x00\\xc0'\ntb"
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'i8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\n"
        b"I-1\nI0\ntbS'\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff'\ntRc__builtin__\nset\n((lp1\nI5\natRt."
    )
    text, array, scalar, ids = RestrictedUnpickler(stream, "old.pkl").load()
    assert (text, scalar, ids) == ("café", -1, {5})
    np.testing.assert_array_equal(array.value, np.array([1, -2], np.float32))


def test_real_meld_pickle_equals_its_npz():
    if "CBERL_DATA" not in os.environ:
        pytest.skip("CBERL_DATA does not name the folder with the real files")
    folder = Path(os.environ["CBERL_DATA"])
    held = read_pickle(folder / "MELD_features_raw1.pkl")
    corpus = read_npz(folder / "meld.npz")
    assert held.classes == corpus.classes
    assert held.modalities == corpus.modalities == ("text", "audio")
    for field in ("split", "length", "label", "utterance"):
        np.testing.assert_array_equal(getattr(held, field), getattr(corpus, field))
    for name in corpus.modalities:
        np.testing.assert_array_equal(held.features[name], corpus.features[name])
    # The pickle only numbers a dialogue's speakers: compare where neighbours share one.
    same = corpus.speaker[1:] == corpus.speaker[:-1]
    inside = corpus.turn[1:] > 0
    agree = (held.speaker[1:] == held.speaker[:-1]) == same
    assert agree[inside].all()


# Splits.


def test_official_dev_of_meld(tmp_path):
    """1153 dialogues before the test split, each of one utterance."""
    ids = range(1160)
    entries = [
        {key: [value] for key in ids}
        for value in ("u", [1, 0], 6, np.ones(3, np.float32), np.ones(2, np.float32), "s")
    ]
    entries += [list(range(1153)), list(range(1153, 1160))]
    corpus = read_pickle(write(tmp_path / "c.pkl", entries))
    assert corpus.dialogue[corpus.split == "dev"].tolist() == [str(k) for k in range(1039, 1153)]
    assert np.sum(corpus.split == "train") == 1039


def test_dialogues_in_no_split_are_left_out(tmp_path):
    entries = list(layout("MMGCN MELD"))
    entries[7] = entries[7][1:]
    corpus = read_pickle(write(tmp_path / "c.pkl", entries))
    assert corpus.dialogue.tolist() == [str(key) for key in MELD_IDS[1:]]


def test_hold_out_takes_a_tenth_of_every_rarest_class():
    """200 dialogues, a class 2 in every tenth; those must be a tenth of dev as well."""
    random = np.random.default_rng(0)
    length = random.integers(2, 9, size=200)
    label = random.integers(0, 2, size=length.sum())
    starts = np.concatenate([[0], np.cumsum(length)[:-1]])
    label[starts[::10]] = 2
    held = hold_out_dev(label, length)
    assert held.sum() == 20
    assert held[::10].sum() == 2
    np.testing.assert_array_equal(held, hold_out_dev(label, length))
    assert (held != hold_out_dev(label, length, seed=1)).any()


def test_hold_out_never_takes_the_only_dialogue_of_a_class():
    label = np.array([0] * 30 + [1])
    length = np.ones(31, int)
    chosen = [hold_out_dev(label, length, share=0.5, seed=seed) for seed in range(50)]
    assert all(held.sum() == 15 or held.sum() == 16 for held in chosen)
    assert not any(held[30] for held in chosen)
    assert not hold_out_dev(np.array([0, 1]), np.array([1, 1])).any()


def test_hold_out_with_unlabelled_dialogues():
    label = np.array([-1, -1, 0, -1, 1, 0] * 10)
    held = hold_out_dev(label, np.full(20, 3))
    assert held.sum() == 2


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(-1, 4), min_size=1, max_size=5), min_size=2, max_size=40))
def test_hold_out_leaves_train_every_class(dialogues):
    label = np.concatenate(dialogues)
    length = np.array([len(dialogue) for dialogue in dialogues])
    kept = np.repeat(~hold_out_dev(label, length), length)
    assert kept.any()
    counts = np.bincount(label[label >= 0], minlength=1)
    rarest = np.flatnonzero(counts == counts[counts > 0].min()) if counts.any() else []
    if len(rarest) == 1:
        assert rarest[0] in label[kept]


# Wrong files.


def change(place, value, key=None):
    """Replaces an entry of the MMGCN MELD layout, or one dialogue of it."""

    def apply(entries):
        if key is None:
            entries[place] = value
        else:
            entries[place][key] = value

    return apply


def drop(place, key):
    return lambda entries: entries[place].pop(key)


def recast(place, function):
    def apply(entries):
        entries[place] = {
            key: [function(value) for value in row] for key, row in entries[place].items()
        }

    return apply


ONE_HOT = np.eye(9, dtype=int).tolist()
WRONG = {
    "label too large": (
        change(2, [0, 9, 1], 0),
        "label '9' at dialogue '0', utterance 1 is out",
    ),
    "label beyond printing": (
        change(2, [0, 10**6000, 1], 0),
        "label a huge number at dialogue '0', utterance 1 is out of range",
    ),
    "feature beyond any float": (
        change(4, [np.ones(300), [10**400, 0.5], np.ones(300)], 0),
        "audio at dialogue '0', utterance 1 is not a vector of numbers.",
    ),
    "label huge": (
        change(2, [0, 10**30, 1], 0),
        "at dialogue '0', utterance 1 is out of range",
    ),
    "float labels": (
        recast(2, float),
        "entry 2 should be labels as integers, but holds real n",
    ),
    "string labels": (recast(2, str), "entry 2 should be labels as integers, but holds text."),
    "boolean labels": (recast(2, bool), "entry 2 should be labels as integers, but holds bool"),
    "one-hot labels": (
        recast(2, lambda label: ONE_HOT[label]),
        "entry 2 should be labels as integers, but holds vectors.",
    ),
    "one float label": (
        change(2, [0, 1.0, 1], 0),
        "the label at dialogue '0', utterance 1 is fl",
    ),
    "one one-hot label": (
        change(2, [0, [1, 0], 1], 0),
        "utterance 1 is a vector (one-hot?), not",
    ),
    "ragged labels": (
        change(2, [0, [1, [2]], 1], 0),
        "dialogue '0', utterance 1 is list, not an",
    ),
    "fewer labels": (
        change(2, [0], 0),
        "dialogue '0' has 1 labels, but speakers for 3 utteran",
    ),
    "fewer audio": (
        change(4, [np.ones(300)], 0),
        "'0' has 3 labels, but audio for 1 utterances",
    ),
    "fewer sentences": (
        change(6, ["a"], 0),
        "'0' has 3 labels, but sentences for 1 utterances",
    ),
    "empty dialogue": (
        lambda entries: [entry.update({13: []}) for entry in entries[:7]],
        "dialogue '13' is empty (length 0).",
    ),
    "width changes": (
        change(4, [np.ones(300), np.ones(299), np.ones(300)], 0),
        "audio at dialogue '0', utterance 1 is 299 wide, but 300 wide before it.",
    ),
    "matrix as a feature": (
        change(4, [np.ones(300), np.ones((300, 1)), np.ones(300)], 0),
        "audio at dialogue '0', utterance 1 is not a vector of numbers.",
    ),
    "text in a feature": (
        change(4, [np.ones(300), ["a"] * 300, np.ones(300)], 0),
        "audio at dialogue '0', utterance 1 is not a vector of numbers.",
    ),
    "missing feature": (
        change(4, [np.ones(300), None, np.ones(300)], 0),
        "audio at dialogue '0', utterance 1 is not a vector of numbers.",
    ),
    "NaN": (
        change(4, [np.ones(300), np.full(300, np.nan), np.ones(300)], 0),
        "feature 0 of audio at dialogue '0', utterance 1 is nan, not a finite float32 number.",
    ),
    "audio and visual exchanged": (
        lambda entries: entries.__setitem__(slice(4, 6), entries[5:3:-1]),
        "audio is 342 wide and visual 300, the known files have 300 and 342: the two are exch",
    ),
    "speaker not one-hot": (
        change(1, [ONE_HOT[0], [1] * 9, ONE_HOT[1]], 0),
        "the speaker at dialogue '0', utterance 1 is not a one-hot vector.",
    ),
    "speaker of all zeros": (
        change(1, [ONE_HOT[0], [0] * 9, ONE_HOT[1]], 0),
        "the speaker at dialogue '0', utterance 1 is not a one-hot vector.",
    ),
    "speakers as numbers": (
        recast(1, np.argmax),
        "entry 1 should be speakers as text or one-hot",
    ),
    "speakers absent": (
        change(1, None),
        "entry 1 should be speakers as text or one-hot vectors,",
    ),
    "no list in a dialogue": (change(4, "abc", 0), "dialogue '0' holds no list of audio."),
    "in train and test": (
        change(8, [0, 11, 12, 13]),
        "dialogue '0' is in two splits, train and t",
    ),
    "train id twice": (change(7, [0, 0, 1]), "an id is listed twice in the train split."),
    "id without labels": (drop(2, 3), "dialogue '3' of train has no labels."),
    "id without audio": (drop(4, 13), "dialogue '13' of test has no audio."),
    "unknown id": (change(8, [99]), "dialogue '99' of test has no speakers."),
    "id that is a list": (
        change(8, [[1]]),
        "an id of the test split is neither text nor an int",
    ),
    "splits as a dictionary": (
        change(7, {0: 1}),
        "entry 7 should be the ids of the train split, ",
    ),
    "no test": (change(8, []), "the test split has no dialogue."),
    "no train": (change(7, []), "the train split has no dialogue."),
    "too little to hold out": (
        change(7, [0]),
        "train has too few dialogues to hold some out for",
    ),
    "same name as text": (
        lambda entries: (
            [entry.update({"0": entry[0]}) for entry in entries[:7]],
            entries[7].append("0"),
        ),
        "two dialogues are named '0'.",
    ),
    "too many entries": (
        lambda entries: entries.extend([None] * 3),
        "3 dictionaries of features",
    ),
    "too few entries": (
        lambda entries: entries.__delitem__(slice(8, 10)),
        "entry 8 should be the",
    ),
    "four feature tables": (
        lambda entries: entries.insert(5, entries[5]),
        "4 dictionaries of features in 11 entries are none of the known layouts",
    ),
    "unknown speakers": (
        lambda entries: (
            recast(1, lambda _: "Ross")(entries),
            recast(2, lambda label: label % 6)(entries),
        ),
        "the speakers are neither 'M' and 'F' (IEMOCAP) nor one-hot vectors (MELD) and no lab",
    ),
}


@pytest.mark.parametrize("fault", WRONG)
def test_wrong_file_is_named(tmp_path, fault):
    entries = list(layout("MMGCN MELD"))
    apply, part = WRONG[fault]
    apply(entries)
    assert part in message(write(tmp_path / "c.pkl", entries, 4))


def test_iemocap_with_a_seventh_label_is_out_of_range(tmp_path):
    entries = layout("MMGCN IEMOCAP")
    entries[2][IEMOCAP_IDS[0]][1] = 6
    assert "label '6' at dialogue 'Ses00F_é', utterance 1" in message(
        write(tmp_path / "c.pkl", entries)
    )


def test_named_speakers_with_seven_labels_are_meld(tmp_path):
    entries = list(layout("MMGCN MELD"))
    recast(1, lambda vector: f"person {np.argmax(vector)}")(entries)
    corpus = read_pickle(write(tmp_path / "c.pkl", entries))
    assert corpus.classes == MELD_CLASSES and corpus.speaker[0] == "person 0"


@pytest.mark.parametrize("share", [0, 0.001, 0.1, 0.5, 0.9, 0.9999])
def test_truncated_pickle(tmp_path, share):
    data = pickle.dumps(layout("MMGCN MELD"), 4)
    path = tmp_path / "c.pkl"
    path.write_bytes(data[: int(share * len(data))])
    assert "is not a pickle" in message(path)


@pytest.mark.parametrize(
    "content", [b"", b"hello world\n", b"{}", b"\x00" * 100, b"a,b\n1,2\n", b"\x80\x63.", b"."]
)
def test_file_that_is_no_pickle(tmp_path, content):
    path = tmp_path / "c.pkl"
    path.write_bytes(content)
    assert "is not a pickle" in message(path)


@pytest.mark.parametrize("value", [{}, 5, "text", None, {"a": 1}])
def test_pickle_of_something_else(tmp_path, value):
    assert "is not a tuple of dictionaries" in message(write(tmp_path / "c.pkl", value))


def test_oversized_file_is_not_read(tmp_path, monkeypatch):
    path = write(tmp_path / "c.pkl", layout("DialogueRNN"))
    monkeypatch.setattr(unpickling, "MAX_FILE_BYTES", 100)
    assert message(path) == "is over 100 bytes, too large for a pickle."


# Hostile pickles. None may run anything; each is one UserError, with bounded memory and time.


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) + ((state,) if state is not None else ())

    def __reduce__(self):
        return self.reduced


def in_protocols(value):
    return [pickle.dumps(value, protocol) for protocol in range(6)]


def unicode(text):
    return b"X" + struct.pack("<I", len(text.encode())) + text.encode()


def stack_global(module, name):
    return b"\x80\x04" + unicode(module) + unicode(name) + b"\x93"


TOUCH = "touch CANARY"
OBJECTS = np.array([Calls(os.system, TOUCH), None], object)
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
FLOAT = b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"

NAMED = {  # what the message must name -> streams
    "posix.system": in_protocols(Calls(os.system, TOUCH)),
    "os.system": [
        b"cos\nsystem\n(S'touch CANARY'\ntR.",
        stack_global("os", "system") + unicode(TOUCH) + b"\x85R.",
        b"(cos\nsystem\nS'touch CANARY'\no.",
        b"(S'touch CANARY'\nios\nsystem\n.",
        b"\x80\x02cos\nsystem\n" + unicode(TOUCH) + b"\x85\x81.",
        b"\x80\x04cos\nsystem\n)}\x92.",
        b"(lp0\ncos\nsystem\np1\n0g1\n(S'touch CANARY'\ntR.",
    ],
    "builtins.eval": [
        stack_global("builtins", "eval") + unicode("open('CANARY', 'w')") + b"\x85R."
    ],
    "builtins.exec": [
        stack_global("builtins", "exec") + unicode("open('CANARY', 'w')") + b"\x85R."
    ],
    "builtins.getattr": [stack_global("builtins", "getattr") + b"."],
    "__builtin__.eval": in_protocols(Calls(eval, "open('CANARY', 'w')"))[:3],
    "__builtin__.open": [b"c__builtin__\nopen\n(S'CANARY'\nS'w'\ntR."],
    "builtins.__import__": [
        stack_global("builtins", "__import__") + unicode("antigravity") + b"\x85R."
    ],
    "builtins.list.append": [stack_global("builtins", "list.append") + b"."],
    "builtins.bytearray": [stack_global("builtins", "bytearray") + b"J\xff\xff\xff\x7f\x85R."],
    "builtins.range": [stack_global("builtins", "range") + b"."],
    "builtins.map": [stack_global("builtins", "map") + b"."],
    "numpy.load": [b"cnumpy\nload\n(S'CANARY'\ntR."],
    "numpy.fromfile": [b"cnumpy\nfromfile\n(S'/etc/passwd'\ntR."],
    "numpy.ndarray.tofile": [stack_global("numpy", "ndarray.tofile") + b"."],
    "numpy.matrix": [b"cnumpy\nmatrix\n."],
    "numpy.core.multiarray.fromstring": [b"cnumpy.core.multiarray\nfromstring\n."],
    "numpy.testing._private.utils.runstring": [b"cnumpy.testing._private.utils\nrunstring\n."],
    "numpy.f2py.crackfortran.myeval": [b"cnumpy.f2py.crackfortran\nmyeval\n."],
    "_codecs.decode": [b"c_codecs\ndecode\n(S'aa'\nS'hex'\ntR."],
    "_codecs.lookup": [b"c_codecs\nlookup\n."],
    "codecs.encode": [b"ccodecs\nencode\n."],
    "copy_reg._reconstructor": [b"ccopy_reg\n_reconstructor\n."],
    "copyreg.__newobj__": [stack_global("copyreg", "__newobj__") + b"."],
    "copyreg.add_extension": [stack_global("copyreg", "add_extension") + b"."],
    "functools.partial": [stack_global("functools", "partial") + b"."],
    "operator.attrgetter": [stack_global("operator", "attrgetter") + b"."],
    "subprocess.Popen": [stack_global("subprocess", "Popen") + unicode(TOUCH) + b"\x85R."],
    "socket.socket": [stack_global("socket", "socket") + b")R."],
    "torch._utils._rebuild_tensor_v2": [b"ctorch._utils\n_rebuild_tensor_v2\n."],
    "pandas.core.frame.DataFrame": [b"cpandas.core.frame\nDataFrame\n."],
    "datetime.datetime": in_protocols(datetime.datetime(2020, 1, 1))[2:],
    "pickle.loads": [stack_global("pickle", "loads") + b"C\x01.\x85R."],
    "cberl_jax.data.pickles.read_pickle": [b"ccberl_jax.data.pickles\nread_pickle\n."],
    "collections.Counter": [stack_global("collections", "Counter") + b"."],
    "collections.deque": [stack_global("collections", "deque") + b"."],
    "a persistent id": [b"Pid\n.", b"\x80\x02K\x01Q."],
    "an extension code": [
        b"\x80\x02\x82\x01.", b"\x80\x02\x83\x01\x00.", b"\x80\x02\x84\x01\0\0\0."
    ],
    "a buffer outside the file": [b"\x80\x05\x97.", b"\x80\x05C\x01a\x98."],
    "an object's state to be set": [
        b"\x80\x02}" + unicode("a") + b"b.",
        b"cnumpy\ndtype\n}" + unicode("__doc__") + b"K\x01sb.",
        b"c__builtin__\nset\nN}" + unicode("__defaults__") + b"Ns\x86b.",
    ],
    "an instance of a class": [
        b"(cnumpy\nndarray\nI1000000000\no.", b"cnumpy\nndarray\n(I9\nt\x81."
    ],
}  # fmt: skip


@pytest.mark.parametrize("what", NAMED)
def test_hostile_pickle_is_refused_by_name(tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(copyreg._inverted_registry, 1, ("os", "system"))
    for number, stream in enumerate(NAMED[what]):
        path = tmp_path / f"{number}.pkl"
        path.write_bytes(stream)
        text = message(path)
        assert what in text
        assert text.endswith("refused: only numpy arrays and builtin containers are read.")
        assert "which is refused: only numpy arrays and builtin containers are read." in message(
            path
        )
    assert not (tmp_path / "CANARY").exists()


def repeated(opcode, count, head=b"", tail=b""):
    return head + opcode * count + tail


def nested_tuples(depth):
    """A tuple of twice the same tuple, over and over: 2^depth leaves if anyone walks it."""
    return b")" + b"q\x00h\x00\x86" * depth


BOMBS = {
    "memo index": b"\x80\x02Nr\xff\xff\xff\xff0j\xff\xff\xff\xff.",
    "memo index in text": b"Np99999999999999999999\n.",
    "negative memo index": b"Np-1\n.",
    "missing memo index": b"g7\n.",
    "bytes of 4 GiB": b"\x80\x03B\xff\xff\xff\xffab",
    "bytes of an exabyte": b"\x80\x04\x8e" + struct.pack("<Q", 2**60) + b"ab",
    "bytes beyond any size": b"\x80\x04\x8e" + b"\xff" * 8 + b"ab",
    "bytearray of an exabyte": b"\x80\x05\x96" + struct.pack("<Q", 2**60) + b"ab",
    "bytearray beyond any size": b"\x80\x05\x96" + b"\xff" * 8 + b"ab",
    "text of an exabyte": b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"ab",
    "frame of an exabyte": b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"N.",
    "negative string": b"T\xff\xff\xff\xffab.",
    "long of 2 GiB": b"\x80\x02\x8b\xff\xff\xff\x7fab.",
    "negative long": b"\x80\x02\x8b\xff\xff\xff\xffab.",
    "long in a million digits": b"I" + b"9" * 10**6 + b"\n.",
    "tuple as a key": b"}" + nested_tuples(100) + b"Ns.",
    "tuples as keys": b"}(" + nested_tuples(100) + b"Nu.",
    "tuple in a set": b"\x80\x04\x8f(" + nested_tuples(100) + b"\x90.",
    "pairs in a set": b"\x80\x04\x8f(" + unicode("a") + nested_tuples(100) + b"u.",
    "tuple in a frozen set": b"\x80\x04(" + nested_tuples(100) + b"\x91.",
    "tuple in a called set": b"c__builtin__\nset\n(" + nested_tuples(100) + b"lttR.",
    "tuple in a dict opcode": b"(" + nested_tuples(100) + b"Nd.",
    "key of many digits": b"}I" + str(2**61 - 1).encode() + b"\nNs.",
    "list as a key": b"}]Ns.",
    "unknown opcode": b"\xfe.",
    "future protocol": b"\x80\xff.",
    "marks": repeated(b"(", 1_000_100),
    "empty sets": repeated(b"\x8f", 1_000_100, b"\x80\x04"),
    "nested lists": repeated(b"]", 100_000, tail=repeated(b"a", 99_999) + b"0."),
    "stack underflow": b"0.",
    "append to nothing": b"Na.",
    "append to a number": b"K\x01Na.",
    "update of a number": b"K\x01(K\x01Nu.",
    "call of a number": b"K\x01)R.",
    "call of text": unicode("os.system") + b")R.",
    "array of objects": in_protocols(OBJECTS)[4],
    "array of objects, empty": in_protocols(np.array([], object))[2],
    "structured array": in_protocols(np.zeros(2, "i4,f4"))[2],
    "array of dates": in_protocols(np.zeros(2, "M8[s]"))[4],
    "array of void": in_protocols(np.zeros(2, "V8"))[4],
    "array of objects by state": ARRAY
    + b"(I1\n(I1\ntcnumpy\ndtype\n(S'O8'\nI0\nI1\ntRI00\n(lNatb.",
    "array given a list": ARRAY + b"(I1\n(I1\nt" + FLOAT + b"I00\n(lNatb.",
    "array of a petabyte": ARRAY + b"(I1\n(I999999999999\nt" + FLOAT + b"I00\nS'abcd'\ntb.",
    "array of overflowing shape": ARRAY
    + b"(I1\n(I4294967296\nI4294967296\nt" + FLOAT + b"I00\nS''\ntb.",
    "array of a billion empty rows": ARRAY
    + b"(I1\n(I1000000000\nI0\nt" + FLOAT + b"I00\nS''\ntb.",
    "array of negative shape": ARRAY + b"(I1\n(I-1\nt" + FLOAT + b"I00\nS'abcd'\ntb.",
    "array of many axes": ARRAY + b"(I1\n(" + b"I1\n" * 9 + b"t" + FLOAT + b"I00\nS'abcd'\ntb.",
    "array without type": ARRAY + b"(I1\n(I1\ntNI00\nS'abcd'\ntb.",
    "array with a short state": ARRAY + b"(I1\n(I1\nttb.",
    "numpy's own array type": b"cnumpy\nndarray\n((I1000000000\nttR.",
    "array of billion strings of width 0": ARRAY
    + b"(I1\n(I999999999\ntcnumpy\ndtype\n(S'U0'\nI0\nI1\ntRI00\nS''\ntb.",
    "array of impossible characters": ARRAY
    + b"(I1\n(I1\ntcnumpy\ndtype\n(S'U1'\nI0\nI1\ntRI00\nS'\\xff\\xff\\xff\\xff'\ntb.",
    "type of a file name": b"cnumpy\ndtype\n(S'f4,f4'\ntR.",
    "type that is a list": b"cnumpy\ndtype\n((lS'f4'\natR.",
    "type with metadata as fields": b"cnumpy\ndtype\n(S'f4'\ntR(I3\nS'<'\nN(lNI8\nI1\nI16\ntb.",
    "scalar of an object": b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\ntRN tR.",
    "scalar of a wrong size": b"cnumpy.core.multiarray\nscalar\n(" + FLOAT + b"S'ab'\ntR.",
    "encoding to hex": b"c_codecs\nencode\n(S'ab'\nS'hex'\ntR.",
    "encoding with a bomb": b"c_codecs\nencode\n(S'ab'\nS'zlib_codec'\ntR.",
    "encoding repeated": b"\x80\x02(c_codecs\nencode\nq\x01X\x40\x42\x0f\x00" + b"a" * 10**6
    + b"q\x02X\x06\x00\x00\x00latin1q\x03" + b"h\x01h\x02h\x03\x86R" * 1000 + b"t.",
    "list repeated": b"\x80\x02(c__builtin__\nlist\nq\x01]q\x02(" + b"N" * 10**5 + b"e"
    + b"h\x01h\x02\x85R" * 2000 + b"t.",
    "lists that double": b"\x80\x02]q\x01Na" + b"(h\x01h\x01eq\x01" * 100 + b".",
    "self in itself": b"\x80\x02]q\x01h\x01ah\x01a.",
}  # fmt: skip


@pytest.mark.parametrize("bomb", BOMBS)
def test_bomb_is_refused_in_bounded_memory_and_time(tmp_path, monkeypatch, bomb):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.pkl"
    path.write_bytes(BOMBS[bomb])
    began = time.process_time()
    tracemalloc.start()
    try:
        message(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.process_time() - began < 30
    assert peak < 2**20 + 300 * path.stat().st_size
    assert os.listdir(tmp_path) == ["c.pkl"]


def shared(value, count):
    """A list of one object many times over: a few bytes a reference in the file."""
    return [value] * count


SHARED = {
    "vast vector": (
        {3: shared(np.ones(10**5, np.float32), 10**4)},
        "far more features than it",
    ),
    "vast sentence": ({5: shared("a" * 10**5, 10**4)}, "one of the sentences is far too long."),
    "vast dialogue": ({}, "declares more utterances than it has bytes."),
}


@pytest.mark.parametrize("case", SHARED)
def test_shared_entries_do_not_outgrow_the_file(tmp_path, case):
    changes, part = SHARED[case]
    turns = 10**4
    rows = ["u", [1, 0], 6, np.ones(1, np.float32), np.ones(1, np.float32), "s"]
    rows = [changes.get(place, shared(value, turns)) for place, value in enumerate(rows)]
    dialogues = 4 if changes else 1000
    entries = [dict.fromkeys(range(dialogues), row) for row in rows]
    entries += [list(range(dialogues - 1)), [dialogues - 1]]
    path = write(tmp_path / "c.pkl", entries)
    tracemalloc.start()
    try:
        assert part in message(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**26 + 100 * path.stat().st_size


def test_one_long_id_does_not_widen_all(tmp_path):
    """numpy would give each of the 1000 ids the width of the longest, 4 GB in all."""
    ids = [*range(999), "9" * 10**6]
    rows = ["u", [1, 0], 6, np.ones(3, np.float32), np.ones(2, np.float32), "s"]
    entries = [dict.fromkeys(ids, [row]) for row in rows] + [ids[:900], ids[900:]]
    assert message(write(tmp_path / "c.pkl", entries)) == "one of the ids is far too long."


SEED = pickle.dumps(tuple(layout("DialogueRNN")[:3]) + ({1: [np.ones(2)]}, {1}), 4)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, len(SEED)), st.integers(0, 50))
def test_any_bytes_give_a_user_error(tmp_path_factory, middle, place, gap):
    path = tmp_path_factory.getbasetemp() / "fuzz.pkl"
    path.write_bytes(SEED[:place] + middle + SEED[place + gap :])
    with pytest.raises(UserError):
        read_pickle(path)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**30) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.integers(0, 3) | st.text(max_size=2), inner, max_size=3)
        | st.sets(st.integers(0, 14), max_size=3)
        | st.builds(np.zeros, st.sampled_from([0, 3, (2, 2), (0, 4)]))
    ),
)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 9), st.none() | st.integers(0, 13), st.none() | st.integers(0, 4), ANYTHING)
def test_any_replaced_entry_gives_a_user_error_or_a_corpus(
    tmp_path_factory, place, dialogue, turn, value
):
    entries = list(layout("MMGCN MELD"))
    if dialogue is None or place > 6:
        entries[place] = value
    elif turn is None or turn >= LENGTHS[dialogue]:
        entries[place][dialogue] = value
    else:
        entries[place][dialogue][turn] = value
    path = write(tmp_path_factory.getbasetemp() / "fuzz.pkl", entries, 4)
    try:
        assert read_pickle(path).length.sum() > 0
    except UserError as error:
        assert str(error).startswith(f"{path}: ")
