"""The field's pickles: all seven layouts load, and nothing that a file asks for is run."""

import collections
import os
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import COUNTS, IEMOCAP_IDS, LENGTHS, MELD_IDS, TESTED, layout, recast, write

from cberl_jax.data.corpus import fingerprint
from cberl_jax.data.holdout import hold_out_dev
from cberl_jax.data.readers import unpickling
from cberl_jax.data.readers.known import IEMOCAP_CLASSES, MELD_CLASSES
from cberl_jax.data.readers.load import load_corpus
from cberl_jax.data.readers.npz import read_npz
from cberl_jax.data.readers.pickles import read_pickle
from cberl_jax.data.readers.unpickling import RestrictedUnpickler
from cberl_jax.errors import UserError


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
    names = [f"text.{name}" if name.startswith("roberta") else name for name in names]
    assert tuple(corpus.features) == tuple(names)
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


# Wrong files; most are in test_bad_data.py.


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


# Contents that are shared within a pickle: a small file could describe a vast corpus.


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
    rows = ["u", "M", 5, np.ones(1, np.float32), np.ones(1, np.float32), "s"]
    rows = [changes.get(place, shared(value, turns)) for place, value in enumerate(rows)]
    ids = [f"Ses01_{k}" for k in range(4 if changes else 100)]
    entries = [dict.fromkeys(ids, row) for row in rows] + [ids[:-1], ids[-1:]]
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
    rows = ["u", [1, 0], 6, np.ones(300, np.float32), np.ones(342, np.float32), "s"]
    rows.insert(3, np.ones(4, np.float32))
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
