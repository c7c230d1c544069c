"""Bad data: every kind of wrong or odd corpus, and what is said of it or done with it.

All go through the door of every training, ``load_data`` and ``prepare``. Messages are quoted whole,
but for the path that they open with.
"""

import dataclasses
import gzip
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from layouts import change, drop, layout, recast, write
from readers import ARRAYS, LINE, pickled_corpus, zipped
from tiny import tiny_config

from cberl_jax.data.readers.known import HOW_TO_NAME
from cberl_jax.data.readers.labels import HOW_TO_CUT
from cberl_jax.data.readers.load import load_corpus
from cberl_jax.data.validate import check_repeats
from cberl_jax.errors import UserError
from cberl_jax.metrics import evaluate_predictions
from cberl_jax.training.prepare import load_data, prepare

# Three dialogues of 2, 1 and 2 utterances, in train, dev and test; text is absent in one.
BASE = ARRAYS | {
    "utterance": np.array(["hi", "", "you’re", "well", "no"]),
    "features.audio": np.linspace(0, 1, 15, dtype=np.float32).reshape(5, 3),
}
TEXT, AUDIO = BASE["features.text"], BASE["features.audio"]


def open_corpus(path, **settings):
    """What a training does with a file before it trains."""
    config = tiny_config(**{"data.path": str(path)} | settings)
    return prepare(config, load_data(config))


def said_of(path, **settings) -> str:
    """The message without the path that it opens with."""
    with pytest.raises(UserError) as error:
        open_corpus(path, **settings)
    text = str(error.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text.removeprefix(f"{path}: ")


def saved(path, **changes) -> Path:
    """Writes the arrays above with some replaced, or left out where None."""
    arrays = {key: value for key, value in (BASE | changes).items() if value is not None}
    np.savez(path, **arrays)
    return path


def altered(array: np.ndarray, index, value) -> np.ndarray:
    copy = array.copy()
    copy[index] = value
    return copy


def text(value) -> dict[str, np.ndarray]:
    return {"features.text": np.asarray(value)}


def audio(value) -> dict[str, np.ndarray]:
    return {"features.audio": np.asarray(value)}


# Files that are no corpus at all: what makes one at a path, and the message.


def absent(path):
    pass


def content(data: bytes):
    return lambda path: path.write_bytes(data)


FILES = {
    "missing file": (absent, "cannot be read (No such file or directory)."),
    "directory": (Path.mkdir, "cannot be read (Is a directory)."),
    "pipe": (os.mkfifo, "is not a file but a pipe or a device; write it to a file."),
    "device": (
        lambda path: path.symlink_to("/dev/zero"),
        "is not a file but a pipe or a device; write it to a file.",
    ),
    "link to nowhere": (
        lambda path: path.symlink_to("nowhere.npz"),
        "cannot be read (No such file or directory).",
    ),
    "link to itself": (
        lambda path: path.symlink_to(path),
        "cannot be read (Too many levels of symbolic links).",
    ),
    "empty file": (content(b""), "is empty."),
    "one byte": (content(b"\x80"), "is not a pickle, or is damaged."),
    "text": (content(b"hello world\n"), "is not a pickle, or is damaged."),
    "table in text": (content(b"dialogue,label\na,1\n"), "is not a pickle, or is damaged."),
    "JSON lines": (
        content(json.dumps(LINE).encode()),
        "is JSON, which holds no splits to train on; bring an .npz or a pickle.",
    ),
    "page of the web": (
        content(b"<!DOCTYPE html><title>404 Not Found</title>"),
        "is a web page, not data; the download failed, so fetch the file itself.",
    ),
    "large file that git keeps elsewhere": (
        content(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        "is a pointer that git-lfs left; fetch the file by git lfs pull.",
    ),
    "HDF5": (
        content(b"\x89HDF\r\n\x1a\n" + bytes(100)),
        "is HDF5, which is not read; bring an .npz or a pickle.",
    ),
    "one array": (
        content(b"\x93NUMPY\x01\x00"),
        "is a single numpy array; bring an .npz or a pickle.",
    ),
    "gzipped pickle": (
        content(gzip.compress(pickled_corpus(2), mtime=0)),
        "is compressed by gzip; unpack it first.",
    ),
    "archive of something else": (
        content(b"PK\x05\x06" + bytes(18)),
        "the key 'classes' is missing.",
    ),
    "half an archive": (
        content(zipped(BASE)[:900]),
        "is not an .npz file, or is damaged (File is not a zip file).",
    ),
    "half a pickle": (content(pickled_corpus(2)[:400]), "is not a pickle, or ends too early."),
    "pickle of a dictionary": (
        content(pickle.dumps({"a": 1})),
        (
            "is not a tuple of dictionaries, but of type dict; its keys would have to be train, "
            "dev and test, not 'a'."
        ),
    ),
    "pickle of a number": (
        content(pickle.dumps(5)),
        "is not a tuple of dictionaries, but of type int.",
    ),
    "pickle of an empty tuple": (
        content(pickle.dumps(())),
        "entry 0 should be ids of utterances, but holds nothing.",
    ),
    "pickle of a list of arrays": (
        content(pickle.dumps([np.ones(3)] * 9)),
        "entry 0 should be ids of utterances, but holds ids.",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_what_is_no_corpus_is_refused(tmp_path, case):
    make, message = FILES[case]
    path = tmp_path / "corpus"
    make(path)
    assert said_of(path) == message


# Archives of the right keys with one thing wrong: the arrays that are replaced, and the message.

NOT_FINITE = (
    "nan, not a finite float32 number; where audio is missing, the whole row has to be nan (null "
    "in JSON)."
)
NO_DEV = (
    "the dev split has no dialogue; --dev_share=0.1 takes a tenth of train (data.dev_share in a "
    "config)."
)
ARCHIVES = {
    # keys
    "unknown key": ({"feature.text": TEXT}, "unknown key 'feature.text.npy'."),
    "no features at all": (
        {"features.text": None, "features.audio": None, "present.text": None},
        "no modality is present in any utterance.",
    ),
    "presence of nothing": (
        {"present.smell": np.ones(5, bool)},
        "'present.smell' has no features.smell.",
    ),
    "modality with a comma in its name": (
        {"features.text,audio": AUDIO},
        "unknown key 'features.text,audio.npy'.",
    ),
    "text beside text layers": (
        {"features.roberta1": TEXT.astype("f4")},
        "holds both text and text.roberta1; which of them is the text? Two views of it need two "
        "names, such as text.first.",
    ),
    "text beside a view of the text": (
        {"features.text.minilm": TEXT.astype("f4")},
        "holds both text and text.minilm; which of them is the text? Two views of it need two "
        "names, such as text.first.",
    ),
    "view with a second dot in its name": (
        {"features.text.minilm.v2": TEXT.astype("f4")},
        "unknown key 'features.text.minilm.v2.npy'.",
    ),
    "presence of another view": (
        {"present.text.minilm": np.ones(5, bool)},
        "'present.text.minilm' has no features.text.minilm.",
    ),
    "view that train lacks": (
        {"features.audio": None, "features.audio.one": AUDIO.astype("f4")}
        | {"features.audio.two": AUDIO.astype("f4"), "present.audio": None}
        | {"present.audio.two": np.array([0, 0, 0, 1, 1], bool)},
        "the modality audio.two is absent from the whole train split.",
    ),
    # labels
    "labels as strings": (
        {"label": np.array(["0"] * 5)},
        "'label' must hold one integer per entry, not <U1 of shape (5,).",
    ),
    "float labels": (
        {"label": np.zeros(5)},
        (
            "'label' must hold one integer per entry, not float64 of shape (5,); where labels are "
            f"real numbers, {HOW_TO_CUT}."
        ),
    ),
    "NaN labels": (
        {"label": np.full(5, np.nan, "f4")},
        (
            "'label' must hold one integer per entry, not float32 of shape (5,); where labels are "
            f"real numbers, {HOW_TO_CUT}."
        ),
    ),
    "boolean labels": (
        {"label": np.zeros(5, bool)},
        "'label' must hold one integer per entry, not bool of shape (5,).",
    ),
    "one-hot labels": (
        {"label": np.eye(5, dtype=int)},
        ("'label' must hold one integer per entry, not int64 of shape (5, 5) (one-hot?)."),
    ),
    "labels in a column": (
        {"label": np.zeros((5, 1), int)},
        ("'label' must hold one integer per entry, not int64 of shape (5, 1) (one-hot?)."),
    ),
    "labels as records": (
        {"label": np.zeros(5, "i4,f4")},
        ("'label' holds [('f0', '<i4'), ('f1', '<f4')] values, which are not read."),
    ),
    "labels as dates": (
        {"label": np.zeros(5, "M8[s]")},
        "'label' holds datetime64[s] values, which are not read.",
    ),
    "label over 32 bits": (
        {"label": np.full(5, 2**40)},
        "'label' holds 1099511627776, which is over 32 bits.",
    ),
    "unsigned label over 63 bits": (
        {"label": np.full(5, 2**64 - 1, np.uint64)},
        "'label' holds 18446744073709551615, which is over 32 bits.",
    ),
    "label too large": (
        {"label": np.array([0, 1, 2, -1, 0])},
        (
            "label 2 at dialogue 'b', utterance 0 is out of range: labels go from 0 to 1, or "
            "-1 for none."
        ),
    ),
    "labels from 1 on": (
        {"label": np.array([1, 2, 2, 1, 1])},
        (
            "label 2 at dialogue 'a', utterance 1 is out of range: labels go from 0 to 1, or "
            "-1 for none."
        ),
    ),
    "label too small": (
        {"label": np.array([0, -2, 1, -1, 0])},
        (
            "label -2 at dialogue 'a', utterance 1 is out of range: labels go from 0 to 1, or"
            " -1 for none."
        ),
    ),
    "train without labels": (
        {"label": np.array([-1, -1, 1, 1, 0])},
        "the train split has no labelled utterance.",
    ),
    "dev without labels": (
        {"label": np.array([0, 1, -1, 1, 0])},
        "split 'dev' has no labelled utterance",
    ),
    "too few labels": (
        {"label": np.zeros(4, int)},
        "label has 4 rows, but the dialogues' lengths sum to 5.",
    ),
    "no labels": (
        {"label": np.zeros(0, int)},
        "label has 0 rows, but the dialogues' lengths sum to 5.",
    ),
    # classes
    "one class": ({"classes": np.array(["calm"])}, "there must be at least 2 classes, not 1."),
    "class twice": ({"classes": np.array(["calm", "calm"])}, "the class 'calm' is listed twice."),
    "class without a name": ({"classes": np.array(["calm", ""])}, "a class has an empty name."),
    "classes as numbers": (
        {"classes": np.arange(2)},
        "'classes' must be a list of strings, not int64 of shape (2,).",
    ),
    "classes as one string": (
        {"classes": np.array("calm, glad")},
        "'classes' must be a list of strings, not <U10 of shape ().",
    ),
    # dialogues and splits
    "no dialogues": (
        {"dialogue": np.array([], "U1"), "split": np.array([], "U1"), "length": np.array([], int)},
        "there is no dialogue.",
    ),
    "names as bytes": (
        {"dialogue": np.array([b"a", b"b", b"c"])},
        "'dialogue' holds |S1 values, which are not read; make it text or numbers by astype.",
    ),
    "dialogue twice": (
        {"dialogue": np.array(["a", "b", "b"]), "split": np.array(["train", "dev", "dev"])},
        "two dialogues are named 'b'.",
    ),
    "dialogue in two splits": (
        {"dialogue": np.array(["a", "b", "a"])},
        "dialogue 'a' is in two splits, train and test.",
    ),
    "half a character": (
        {"dialogue": np.array(["a", "b", "\ud800"])},
        "dialogue holds half a character, \\ud800 to \\udfff, which is no text.",
    ),
    "empty dialogue": ({"length": np.array([3, 0, 2])}, "dialogue 'b' is empty (length 0)."),
    "negative length": ({"length": np.array([4, -1, 2])}, "dialogue 'b' is empty (length -1)."),
    "float lengths": (
        {"length": np.array([2.0, 1.0, 2.0])},
        "'length' must hold one integer per entry, not float64 of shape (3,).",
    ),
    "lengths that add up to more": (
        {"length": np.array([2, 1, 3])},
        "label has 5 rows, but the dialogues' lengths sum to 6.",
    ),
    "huge lengths": (
        {"length": np.full(3, 2**31 - 1)},
        "label has 5 rows, but the dialogues' lengths sum to 6442450941.",
    ),
    "fewer lengths than dialogues": (
        {"length": np.array([3, 2])},
        "length has 2 entries for 3 dialogues.",
    ),
    "fewer splits than dialogues": (
        {"split": np.array(["train", "test"])},
        "split has 2 entries for 3 dialogues.",
    ),
    "unknown split": (
        {"split": np.array(["train", "valid", "test"])},
        "dialogue 'b' is in an unknown split 'valid'; use train, dev or test.",
    ),
    "split in capitals": (
        {"split": np.array(["Train", "Dev", "Test"])},
        "dialogue 'a' is in an unknown split 'Train'; use train, dev or test.",
    ),
    "splits as numbers": (
        {"split": np.arange(3)},
        "'split' must be a list of strings, not int64 of shape (3,).",
    ),
    "no train": ({"split": np.array(["dev", "dev", "test"])}, "the train split has no dialogue."),
    "no dev": ({"split": np.array(["train", "test", "test"])}, NO_DEV),
    "no test": ({"split": np.array(["train", "dev", "dev"])}, "the test split has no dialogue."),
    # speakers and transcripts
    "speakers as numbers": (
        {"speaker": np.zeros(5)},
        "'speaker' must be a list of strings, not float64 of shape (5,).",
    ),
    "speakers as objects": (
        {"speaker": np.array([None] * 5)},
        "'speaker' holds object values, which are not read; make it text or numbers by astype.",
    ),
    "too few speakers": (
        {"speaker": np.array(["M"] * 4)},
        "speaker has 4 rows, but the dialogues' lengths sum to 5.",
    ),
    "a speaker for each dialogue": (
        {"speaker": np.array(["M", "F", "M"])},
        "speaker has 3 rows, but the dialogues' lengths sum to 5.",
    ),
    "too few transcripts": (
        {"utterance": np.array(["hi"] * 4)},
        "utterance has 4 rows, but the dialogues' lengths sum to 5.",
    ),
    "transcripts as numbers": (
        {"utterance": np.zeros(5)},
        "'utterance' must be a list of strings, not float64 of shape (5,).",
    ),
    # features
    "NaN in one utterance": (
        audio(altered(AUDIO, (4, 1), np.nan)),
        f"feature 1 of audio at dialogue 'c', utterance 1 is {NOT_FINITE}",
    ),
    "infinite feature": (
        audio(altered(AUDIO, (0, 0), -np.inf)),
        "feature 0 of audio at dialogue 'a', utterance 0 is -inf, not a finite float32 number.",
    ),
    "feature beyond float32": (
        audio(AUDIO.astype("f8") * 1e300),
        "feature 1 of audio at dialogue 'a', utterance 0 is inf, not a finite float32 number.",
    ),
    "features as integers": (
        audio(np.ones((5, 3), int)),
        (
            "'features.audio' must be a table of float16, float32 or float64, [N, width], not"
            " int64 of shape (5, 3)."
        ),
    ),
    "features as booleans": (
        audio(np.ones((5, 3), bool)),
        (
            "'features.audio' must be a table of float16, float32 or float64, [N, width], not"
            " bool of shape (5, 3)."
        ),
    ),
    "features as complex numbers": (
        audio(np.ones((5, 3), complex)),
        "'features.audio' holds complex128 values, which are not read.",
    ),
    "features as strings": (
        audio(AUDIO.astype("U9")),
        (
            "'features.audio' must be a table of float16, float32 or float64, [N, width], not"
            " <U9 of shape (5, 3)."
        ),
    ),
    "features as objects": (
        audio(np.array([[None]] * 5)),
        "'features.audio' holds object values, which are not read; make it text or numbers by "
        "astype.",
    ),
    "features in one dimension": (
        audio(np.ones(5, "f4")),
        (
            "'features.audio' must be a table of float16, float32 or float64, [N, width], not"
            " float32 of shape (5,)."
        ),
    ),
    "features in three": (
        audio(np.ones((5, 2, 2), "f4")),
        (
            "'features.audio' must be a table of float16, float32 or float64, [N, width], not"
            " float32 of shape (5, 2, 2); the mean over axis 1 makes one vector of an utterance."
        ),
    ),
    "features transposed": (
        audio(AUDIO.T.copy()),
        "features.audio has 3 rows, but the dialogues' lengths sum to 5.",
    ),
    "features of one utterance too many": (
        audio(np.ones((6, 3), "f4")),
        "features.audio has 6 rows, but the dialogues' lengths sum to 5.",
    ),
    "features of a split": (
        audio(AUDIO[:2]),
        "features.audio has 2 rows, but the dialogues' lengths sum to 5.",
    ),
    "all features of width 0": (
        text(np.zeros((5, 0), "f4")) | audio(np.zeros((5, 0), "f4")),
        "no modality is present in any utterance.",
    ),
    "all modalities missing": (
        {"present.text": np.zeros(5, bool), "present.audio": np.zeros(5, bool)},
        "no modality is present in any utterance.",
    ),
    "modality absent from train": (
        {"present.text": np.array([0, 0, 1, 1, 1], bool)},
        "the modality text is absent from the whole train split.",
    ),
    "presence as numbers": (
        {"present.text": np.ones(5)},
        "'present.text' must be a list of booleans, not float64 of shape (5,).",
    ),
    "presence in a table": (
        {"present.text": np.ones((5, 2), bool)},
        "'present.text' must be a list of booleans, not bool of shape (5, 2).",
    ),
    "too few presence flags": (
        {"present.text": np.ones(4, bool)},
        "present.text has 4 rows, but the dialogues' lengths sum to 5.",
    ),
    # splits that share dialogues; see also below
    "one dialogue three times": (
        {"length": np.ones(3, int), "label": np.zeros(3, int), "speaker": np.array(["M"] * 3)}
        | {"utterance": None, "present.text": None}
        | text(np.ones((3, 2), "f4"))
        | audio(np.ones((3, 3), "f4")),
        (
            "dialogue 'b' of dev has the features and labels of dialogue 'a' of train (1 of 1"
            " dialogues of dev repeat others); take them out of one split, or accept them by "
            "--config.data.allow_repeats=True."
        ),
    ),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_wrong_archive_is_named(tmp_path, case):
    changes, message = ARCHIVES[case]
    assert said_of(saved(tmp_path / "c.npz", **changes)) == message


@pytest.mark.parametrize("key", ["classes", "dialogue", "split", "length", "speaker", "label"])
def test_missing_key(tmp_path, key):
    assert said_of(saved(tmp_path / "c.npz", **{key: None})) == f"the key {key!r} is missing."


# The field's pickle of MELD with one thing wrong: how, and the message.

ONE_HOT = np.eye(9, dtype=int).tolist()


def float_speaker(vector):
    return float(np.argmax(vector))


PICKLES = {
    "label too large": (
        change(2, [0, 9, 1], 0),
        (
            "label '9' at dialogue '0', utterance 1 is out of range: labels of meld go from 0 to "
            "6, or -1 for none; --classes and --corpus name others."
        ),
    ),
    "label beyond printing": (
        change(2, [0, 10**6000, 1], 0),
        "label a huge number at dialogue '0', utterance 1 is out of range.",
    ),
    "feature beyond any float": (
        change(4, [np.ones(300), [10**400, 0.5], np.ones(300)], 0),
        "audio at dialogue '0', utterance 1 is not a vector of numbers.",
    ),
    "label huge": (
        change(2, [0, 10**30, 1], 0),
        "label '1000000000000000000000000000000' at dialogue '0', utterance 1 is out of range.",
    ),
    "real labels": (
        recast(2, lambda label: label + 0.5),
        f"the labels are real numbers from 0.5 to 6.5; {HOW_TO_CUT}.",
    ),
    "text among the labels": (
        change(2, [0, "joy", 1], 0),
        "label 'joy' at dialogue '0', utterance 1 is text, others are not.",
    ),
    "a number among text labels": (
        lambda entries: (recast(2, str)(entries), entries[2].update({0: ["joy", 1, "fear"]})),
        "label '1' at dialogue '0', utterance 1 is a number, others are not.",
    ),
    "boolean labels": (
        recast(2, bool),
        "entry 2 should be labels as integers, but holds booleans.",
    ),
    "one-hot labels": (
        recast(2, lambda label: ONE_HOT[label]),
        "entry 2 should be labels as integers, but holds vectors; of one-hot labels take the "
        "argmax.",
    ),
    "one missing label": (
        change(2, [0, None, 1], 0),
        "the label at dialogue '0', utterance 1 is NoneType, not an integer.",
    ),
    "one one-hot label": (
        change(2, [0, [1, 0], 1], 0),
        ("the label at dialogue '0', utterance 1 is a vector (one-hot?), not an integer."),
    ),
    "ragged labels": (
        change(2, [0, [1, [2]], 1], 0),
        "the label at dialogue '0', utterance 1 is list, not an integer.",
    ),
    "fewer labels": (
        change(2, [0], 0),
        "dialogue '0' has 1 labels, but speakers for 3 utterances.",
    ),
    "fewer audio": (
        change(4, [np.ones(300)], 0),
        "dialogue '0' has 3 labels, but audio for 1 utterances.",
    ),
    "fewer sentences": (
        change(6, ["a"], 0),
        "dialogue '0' has 3 labels, but sentences for 1 utterances.",
    ),
    "empty dialogue": (
        lambda entries: [entry.update({13: []}) for entry in entries[:7]],
        "dialogue '13' is empty (length 0).",
    ),
    "width changes": (
        change(4, [np.ones(300), np.ones(299), np.ones(300)], 0),
        ("audio at dialogue '0', utterance 1 is 299 wide, but 300 wide before it."),
    ),
    "matrix as a feature": (
        change(4, [np.ones(300), np.ones((300, 1)), np.ones(300)], 0),
        (
            "audio at dialogue '0', utterance 1 is not a vector of numbers but a table of shape "
            "(300, 1); where its rows are frames, their mean makes one vector of an utterance."
        ),
    ),
    "frames in a dialogue": (
        change(4, np.ones((3, 5, 300)), 0),
        (
            "audio at dialogue '0', utterance 0 is not a vector of numbers but a table of shape "
            "(5, 300); where its rows are frames, their mean makes one vector of an utterance."
        ),
    ),
    "text in a feature": (
        change(4, [np.ones(300), ["a"] * 300, np.ones(300)], 0),
        "audio at dialogue '0', utterance 1 is not a vector of numbers.",
    ),
    "missing feature": (
        change(4, [np.ones(300), None, np.ones(300)], 0),
        "audio at dialogue '0', utterance 1 is not a vector of numbers but None; where it is "
        "missing, put a vector of nan.",
    ),
    "NaN": (
        change(4, [np.ones(300), np.array([np.nan, *[1] * 299]), np.ones(300)], 0),
        f"feature 0 of audio at dialogue '0', utterance 1 is {NOT_FINITE}",
    ),
    "audio and visual exchanged": (
        lambda entries: entries.__setitem__(slice(4, 6), entries[5:3:-1]),
        (
            "text, audio and visual are 600, 342, 300 wide, and 600, 300, 342 in the known files: "
            "they are exchanged; put the tables in the order text, audio, visual."
        ),
    ),
    "speaker not one-hot": (
        change(1, [ONE_HOT[0], [1] * 9, ONE_HOT[1]], 0),
        "the speaker at dialogue '0', utterance 1 is not a one-hot vector.",
    ),
    "speaker of all zeros": (
        change(1, [ONE_HOT[0], [0] * 9, ONE_HOT[1]], 0),
        "the speaker at dialogue '0', utterance 1 is not a one-hot vector.",
    ),
    "speakers as real numbers": (
        recast(1, float_speaker),
        ("entry 1 should be speakers as text, numbers or one-hot vectors, but holds real numbers."),
    ),
    "speakers absent": (
        change(1, None),
        (
            "entry 1 should be speakers as text, numbers or one-hot vectors, but holds no "
            "dictionary."
        ),
    ),
    "no list in a dialogue": (change(4, "abc", 0), "dialogue '0' holds no list of audio."),
    "in train and test": (
        change(8, [0, 11, 12, 13]),
        "dialogue '0' is in two splits, train and test.",
    ),
    "train id twice": (change(7, [0, 0, 1]), "an id is listed twice in the train split."),
    "id without labels": (drop(2, 3), "dialogue '3' of train has no labels."),
    "id without audio": (drop(4, 13), "dialogue '13' of test has no audio."),
    "unknown id": (change(8, [99]), "dialogue '99' of test has no speakers."),
    "id that is a list": (
        change(8, [[1]]),
        "an id of the test split is neither text nor an integer of 32 bits.",
    ),
    "splits as a dictionary": (
        change(7, {0: 1}),
        "entry 7 should be the ids of the train split, but holds no values.",
    ),
    "no test": (change(8, []), "the test split has no dialogue."),
    "no train": (change(7, []), "the train split has no dialogue."),
    "too little to hold out": (
        lambda entries: entries.__setitem__(slice(7, 9), ([0], [6])),
        "train has too few dialogues to hold some out for dev.",
    ),
    "test before train": (
        lambda entries: entries.__setitem__(slice(7, 9), (entries[8], entries[7])),
        "it is not certain which of its two lists of ids (3, 11 dialogues) is train; name them in "
        "order by --splits=train,test or --splits=test,train (data.splits in a config).",
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
        (
            "6 entries follow the sentences, where the known layouts have two or three lists of "
            "dialogue ids and at most one entry that is not used."
        ),
    ),
    "too few entries": (
        lambda entries: entries.__delitem__(slice(8, 10)),
        "entry 8 should be the ids of the test split, but holds nothing.",
    ),
    "four feature tables": (
        lambda entries: entries.insert(5, entries[5]),
        (
            "4 dictionaries of features in 11 entries are none of the known layouts, which "
            "have 1, 2, 3 or 6, or 4 text layers of one width."
        ),
    ),
    "unknown speakers": (
        lambda entries: (
            recast(1, lambda _: "Ross")(entries),
            recast(2, lambda label: label % 6)(entries),
        ),
        (
            "audio 300 and visual 342 wide are meld's, but labels go from 0 to 5, not to 6; "
            f"{HOW_TO_NAME}."
        ),
    ),
}


@pytest.mark.parametrize("case", PICKLES)
def test_wrong_pickle_is_named(tmp_path, case):
    entries = list(layout("MMGCN MELD"))
    spoil, message = PICKLES[case]
    spoil(entries)
    assert said_of(write(tmp_path / "c.pkl", entries, 4)) == message


# Odd, but sound: the arrays that are replaced, and what has to hold of what is prepared.


def long_dialogue(turns: int) -> dict[str, np.ndarray]:
    """Three dialogues of so many turns each."""
    count = 3 * turns
    return {
        "length": np.full(3, turns),
        "speaker": np.resize(["M", "F"], count),
        "label": np.resize([0, 1, 1], count),
        "utterance": None,
        "present.text": None,
    } | {
        f"features.{name}": np.random.default_rng(0).normal(size=(count, width)).astype("f4")
        for name, width in (("text", 2), ("audio", 3))
    }


def column_is_zero(prepared):
    """A constant column becomes zeros, also in dev and test."""
    table = prepared.data.table.features["audio"]
    assert np.isfinite(table).all() and (table[:, 1] == 0).all() and table[:, 0].any()


def every_turn_is_packed(prepared):
    rows = prepared.data.train
    assert (rows.segment > 0).sum() == 10_000 and rows.index.shape[1] >= 10_000
    np.testing.assert_array_equal(np.sort(rows.index[rows.segment > 0]), np.arange(10_000))


def single_turns(prepared):
    assert prepared.corpus.length.tolist() == [1, 1, 1]
    assert (prepared.data.train.segment > 0).sum() == 1


def names_are_intact(prepared):
    assert prepared.corpus.speaker.tolist() == ["Zoë", "李", "Zoe\u0308", "😀 עברית", "a\nb"]
    # Composed and decomposed forms stay two people, as they are in the file.
    assert len(set(prepared.corpus.speaker)) == 5


def train_has_one_class(prepared):
    assert prepared.data.counts.tolist() == [2, 0]
    assert prepared.generated.sum() == 0 and prepared.program.gan is None


def dev_lacks_a_class(prepared):
    """The missing class takes no part in the means, unless it is predicted."""
    corpus = prepared.corpus
    label = corpus.label[corpus.in_split("dev")]
    for guess in np.eye(2)[[0, 1]]:
        scores = evaluate_predictions(label, guess[None], corpus.classes)
        expected = float(guess.argmax() == label[0])
        assert scores["balanced_accuracy"] == scores["weighted_f1"] == expected
        assert scores["per_class"]["calm"]["support"] == 0
    assert corpus.class_counts("dev").tolist() == [0, 1]


def class_is_left_out(prepared):
    """What no utterance has is no output of the model."""
    assert prepared.corpus.classes == ("calm", "glad")
    assert prepared.data.counts.tolist() == [1, 1] and prepared.program.model.classes == 2
    assert prepared.corpus.remarks == ("classes that no utterance has, which are left out: fear",)


def only(*modalities):
    def check(prepared):
        assert prepared.corpus.modalities == modalities
        assert set(prepared.standardiser.mean) == set(modalities)

    return check


def widths_are(**widths):
    def check(prepared):
        assert prepared.corpus.widths == widths

    return check


def absent_rows_are_zero(prepared):
    assert not prepared.corpus.features["audio"][2].any()
    assert np.isfinite(prepared.data.table.features["audio"]).all()


def outlier_is_cut(prepared):
    """Ten deviations at most reach the model."""
    assert np.abs(prepared.data.table.features["audio"]).max() == 10


def lengths_are(*lengths):
    def check(prepared):
        assert prepared.corpus.length.tolist() == list(lengths)

    return check


def loads(prepared):
    assert prepared.corpus.class_counts("train").sum() > 0


ODD = {
    "one-utterance dialogues": (
        {key: BASE[key][[0, 2, 4]] for key in ("speaker", "label", "features.text")}
        | {"features.audio": AUDIO[[0, 2, 4]], "present.text": None, "utterance": None}
        | {"length": np.ones(3, int)},
        single_turns,
    ),
    "10,000-turn dialogues": (long_dialogue(10_000), every_turn_is_packed),
    "constant column": (audio(altered(AUDIO, (slice(None), 1), 7.5)), column_is_zero),
    "constant column in float16": (
        audio(altered(AUDIO, (slice(None), 1), 0.1).astype("f2")),
        column_is_zero,
    ),
    "speakers beyond ASCII": (
        {"speaker": np.array(["Zoë", "李", "Zoe\u0308", "😀 עברית", "a\nb"])},
        names_are_intact,
    ),
    "one class in train": ({"label": np.array([0, 0, 1, 1, 0])}, train_has_one_class),
    "class absent from dev": ({"label": np.array([0, 1, 1, 0, 0])}, dev_lacks_a_class),
    "class absent everywhere": (
        {"classes": np.array(["calm", "glad", "fear"])},
        class_is_left_out,
    ),
    "modality of width 0": ({"features.visual": np.zeros((5, 0), "f4")}, only("text", "audio")),
    "modality missing everywhere": ({"present.audio": np.zeros(5, bool)}, only("text")),
    "one modality": (
        {"features.text": None, "present.text": None},
        only("audio"),
    ),
    "modality of a new name": (
        {"features.pulse_2": AUDIO[:, :1]},
        widths_are(text=2, audio=3, pulse_2=1),
    ),
    "NaN where a modality is absent": (
        audio(altered(AUDIO, 2, np.nan)) | {"present.audio": np.array([1, 1, 0, 1, 1], bool)},
        absent_rows_are_zero,
    ),
    "modality absent from dev and test": (
        {"present.text": np.array([1, 1, 0, 0, 0], bool)},
        only("text", "audio"),
    ),
    "an enormous outlier": (audio(altered(AUDIO, (4, 0), 1e30)), outlier_is_cut),
    "features near zero": (audio(AUDIO * 1e-30), loads),
    "float64 of the other byte order": (audio(AUDIO.astype(">f8")), widths_are(text=2, audio=3)),
    "one wide modality": (
        audio(np.ones((5, 5000), "f4") * AUDIO[:, :1]),
        widths_are(text=2, audio=5000),
    ),
    "dialogues without a name but one": (
        {"dialogue": np.array(["", "b", "c"])},
        lengths_are(2, 1, 2),
    ),
    "name of a thousand letters": (
        {"dialogue": np.array(["a" * 1000, "b", "c"])},
        lengths_are(2, 1, 2),
    ),
    "splits in another order": (
        {"split": np.array(["test", "dev", "train"]), "label": np.array([0, 1, 1, 0, 0])},
        lengths_are(2, 1, 2),
    ),
    "no transcripts": ({"utterance": None}, loads),
    "labels as unsigned bytes": ({"label": np.array([0, 1, 1, 1, 0], np.uint8)}, loads),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_corpus_is_prepared(tmp_path, case):
    changes, check = ODD[case]
    check(open_corpus(saved(tmp_path / "c.npz", **changes)))


# Splits that share dialogues.


def repeated(
    dialogues: int, turns: int, again: int, where="test", label=0
) -> dict[str, np.ndarray]:
    """So many dialogues in each split; the first ``again`` of one split are those of train.

    They are called by other names, and spoken by others. ``label`` is added to their labels.
    """
    count = dialogues * turns
    random = np.random.default_rng(0)
    labels, vectors = random.integers(0, 2, 3 * count), random.normal(size=(3 * count, 4))
    copied = slice(start := ("train", "dev", "test").index(where) * count, start + again * turns)
    vectors[copied] = vectors[: again * turns]
    labels[copied] = (labels[: again * turns] + label) % 2
    return {
        "dialogue": np.array([f"d{k}" for k in range(3 * dialogues)]),
        "split": np.repeat(["train", "dev", "test"], dialogues),
        "length": np.full(3 * dialogues, turns),
        "speaker": np.array([f"s{k}" for k in range(3 * count)]),
        "label": labels,
        "utterance": None,
        "present.text": None,
        "features.text": vectors.astype("f4"),
        "features.audio": vectors[:, :2].astype("f4"),
    }


REPEATS = {
    "dialogue of train in test": (
        repeated(10, 5, 1),
        (
            "dialogue 'd20' of test has the features and labels of dialogue 'd0' of train (1 "
            "of 10 dialogues of test repeat others); take them out of one split, or accept "
            "them by --config.data.allow_repeats=True."
        ),
    ),
    "dialogue of train in dev": (
        repeated(10, 5, 1, "dev"),
        (
            "dialogue 'd10' of dev has the features and labels of dialogue 'd0' of train (1 "
            "of 10 dialogues of dev repeat others); take them out of one split, or accept "
            "them by --config.data.allow_repeats=True."
        ),
    ),
    "test is train": (
        repeated(10, 5, 10),
        (
            "dialogue 'd20' of test has the features and labels of dialogue 'd0' of train (10"
            " of 10 dialogues of test repeat others); take them out of one split, or accept "
            "them by --config.data.allow_repeats=True."
        ),
    ),
    "many short dialogues": (
        repeated(10, 1, 3),
        (
            "dialogue 'd20' of test has the features and labels of dialogue 'd0' of train (3 "
            "of 10 dialogues of test repeat others); take them out of one split, or accept "
            "them by --config.data.allow_repeats=True."
        ),
    ),
}
NO_REPEATS = {
    "nothing repeated": repeated(10, 5, 0),
    "a short one among many": repeated(300, 2, 2),
    "other labels": repeated(10, 5, 1, label=1),
}


@pytest.mark.parametrize("case", REPEATS)
def test_split_that_repeats_train_is_refused_unless_it_is_meant(tmp_path, case):
    changes, message = REPEATS[case]
    path = saved(tmp_path / "c.npz", **changes)
    assert said_of(path) == message
    assert open_corpus(path, **{"data.allow_repeats": True}).corpus.length.any()
    # Fewer modalities are no way around it: the whole file is looked at.
    assert said_of(path, **{"data.modalities": "audio"}) == message


@pytest.mark.parametrize("case", NO_REPEATS)
def test_what_is_alike_by_chance_is_accepted(tmp_path, case):
    assert open_corpus(saved(tmp_path / "c.npz", **NO_REPEATS[case])).corpus.length.any()


@pytest.mark.parametrize(
    "file", ["meld.npz", "meld_frozen.npz", "MELD_features_raw1.pkl", "mosi.npz", "simulated:small"]
)
def test_real_corpora_share_no_dialogues(file):
    if ":" not in file:
        if "CBERL_DATA" not in os.environ:
            pytest.skip("CBERL_DATA does not name the folder with the real files")
        file = Path(os.environ["CBERL_DATA"]) / file
    corpus = load_corpus(file)
    check_repeats(corpus)
    # Nor is what MELD repeats of the text alone (two short dialogues) taken for a leak.
    first = corpus.modalities[0]
    alone = {"features": {first: corpus.features[first]}, "present": {first: corpus.present[first]}}
    check_repeats(dataclasses.replace(corpus, **alone))
