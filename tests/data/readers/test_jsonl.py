"""Conversations to be predicted: what is read from each kind of file, and what is refused."""

import dataclasses
import json
import pickle

import numpy as np
import pytest

from cberl_jax.data.corpus import fingerprint
from cberl_jax.data.matching import left_out, match_model
from cberl_jax.data.readers.jsonl import from_turns, read_json_lines
from cberl_jax.data.readers.load import load_conversations
from cberl_jax.errors import UserError

CLASSES, WIDTHS = ("calm", "glad"), {"text": 2, "audio": 3}


def turn(speaker="A", **changes):
    return {"speaker": speaker, "features": {"text": [1, 2.5], "audio": [0, 1, 2]}} | changes


def conversations():
    return [
        {
            "dialogue": "Zoë’s",
            "turns": [
                turn("Zoë", text="We were on a break!", label="glad"),
                turn("李", features={"text": None, "audio": [3, 4, 5]}),
                turn("Zoë", features={"text": [0.5, -1]}, text=None, label=None),
            ],
        },
        {"dialogue": 7, "turns": [turn(1, features=None)]},
    ]


def lines(path, values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def test_blanks_around_a_speaker_do_not_count(tmp_path):
    both = [{"dialogue": "a", "turns": [turn("Zoë"), turn(" Zoë ")]}]
    assert read_json_lines(lines(tmp_path / "c.jsonl", both)).speaker.tolist() == ["Zoë", "Zoë"]


def test_json_lines_are_read(tmp_path):
    corpus = read_json_lines(lines(tmp_path / "c.jsonl", conversations()))
    assert corpus.dialogue.tolist() == ["Zoë’s", "7"] and corpus.length.tolist() == [3, 1]
    assert corpus.speaker.tolist() == ["Zoë", "李", "Zoë", "1"]
    assert corpus.utterance.tolist() == ["We were on a break!", "", "", ""]
    assert corpus.classes == ("glad",) and corpus.label.tolist() == [0, -1, -1, -1]
    assert corpus.present["text"].tolist() == [True, False, True, False]
    assert corpus.present["audio"].tolist() == [True, True, False, False]
    np.testing.assert_array_equal(
        corpus.features["text"], np.array([[1, 2.5], [0, 0], [0.5, -1], [0, 0]], np.float32)
    )


def test_the_same_conversations_in_python_are_the_same(tmp_path):
    read = read_json_lines(lines(tmp_path / "c.jsonl", conversations()))
    assert fingerprint(from_turns(conversations())) == fingerprint(read)
    arrays = conversations()
    arrays[0]["turns"][0]["features"]["audio"] = np.arange(3, dtype=np.float16)
    assert fingerprint(from_turns(iter(arrays))) == fingerprint(read)
    unnamed = from_turns([c["turns"] for c in conversations()])
    assert unnamed.dialogue.tolist() == ["0", "1"]
    np.testing.assert_array_equal(unnamed.features["audio"], read.features["audio"])


def test_a_byte_order_mark_windows_line_ends_and_empty_lines_do_not_count(tmp_path):
    text = "\r\n\n".join(json.dumps(value) for value in conversations())
    (tmp_path / "c.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\n \n")
    assert len(load_conversations(tmp_path / "c.jsonl").length) == 2


# What the second line holds, and what is said of it after the file's name.
WRONG_LINES = {
    "not JSON": (b"{'dialogue': 1}", "line 2 is not JSON (Expecting property name"),
    "half a line": (b'{"dialogue": "b", "turns": [', "line 2 is not JSON"),
    "too deep": (b'{"dialogue":' + b"[" * 100_000, "line 2 is not JSON (too deep"),
    "a huge number": (b'{"dialogue": ' + b"9" * 5000 + b"}", "line 2 is not JSON (too deep or"),
    "not UTF-8": ('{"dialogue": "Zoë"}'.encode("latin-1"), "line 2 is not UTF-8 (byte 16)"),
    "a list": (b"[1, 2]", "line 2: a conversation needs a list of 'turns', unlike [1, 2]"),
    "no turns": (b'{"dialogue": "b"}', "line 2: a conversation needs a list of 'turns'"),
    "empty": (b'{"dialogue": "b", "turns": []}', "line 2: dialogue 'b' has no turns"),
    "turns are text": (b'{"dialogue": "b", "turns": "no"}', "line 2: the turns have to be a list"),
    "unnamed": (b'{"turns": [{"speaker": "A"}]}', "line 2: the name of the dialogue is missing"),
    "unknown key": (b'{"dialog": "b", "turns": []}', "line 2: unknown key 'dialog'; there may be"),
    "named twice": (b'{"dialogue": "a", "turns": [{"speaker": "A"}]}', "dialogues are named 'a'"),
}


@pytest.mark.parametrize("fault", WRONG_LINES)
def test_a_wrong_line_is_named(tmp_path, fault):
    content, message = WRONG_LINES[fault]
    path = tmp_path / "c.jsonl"
    good = json.dumps({"dialogue": "a", "turns": [turn()]}).encode()
    path.write_bytes(good + b"\n" + content + b"\n")
    check_message(path, message)


# What a second turn is, and what is said of it.
WRONG_TURNS = {
    "a number": (3, "turn 1 has to name its speaker and features, unlike 3"),
    "no speaker": ({"features": {}}, "turn 1: the speaker is missing"),
    "empty speaker": (turn(""), "turn 1: the speaker is missing"),
    "blank speaker": (turn(" "), "turn 1: the speaker is missing"),
    "speaker is a list": (turn(["A"]), "turn 1: the speaker has to be text, not ['A']"),
    "speaker is true": (turn(True), "turn 1: the speaker has to be text, not True"),
    "half a character": (turn("\ud800"), "turn 1: the speaker holds half a character"),
    "text is a number": (turn(text=3), "turn 1: the text has to be text, not 3"),
    "label is a number": (turn(label=3), "turn 1: the label has to be text, not 3"),
    "unknown key": (turn(feature={}), "turn 1: unknown key 'feature'; there may be speaker"),
    "features is a list": (turn(features=[1]), "turn 1: features have to be named by modality"),
    "vector is text": (turn(features={"text": "1 2"}), "turn 1: text has to be a list of numbers"),
    "vector of text": (turn(features={"text": ["1"]}), "turn 1: text has to be a list of numbers"),
    "vector of null": (turn(features={"text": [None]}), "turn 1: text has to be a list of numb"),
    "nested": (turn(features={"text": [[1, 2]]}), "turn 1: text has to be a list of numbers"),
    "ragged": (turn(features={"text": [[1], 2]}), "turn 1: text has to be a list of numbers"),
    "too wide": (turn(features={"text": [1, 2, 3]}), "turn 1: text is 3 wide, but 2 wide before"),
    "NaN": (turn(features={"text": [1, np.nan]}), "feature 1 of text at dialogue 'a', utterance 1"),
    "infinite": (turn(features={"audio": [1, 2, 1e39]}), "feature 2 of audio at dialogue 'a', utt"),
}


@pytest.mark.parametrize("fault", WRONG_TURNS)
def test_a_wrong_turn_is_named(tmp_path, fault):
    wrong, message = WRONG_TURNS[fault]
    value = {"dialogue": "a", "turns": [turn(), wrong]}
    check_message(lines(tmp_path / "c.jsonl", [value]), message)
    with pytest.raises(UserError) as error:
        from_turns([value])
    assert message in str(error.value) and str(error.value).startswith("conversations: ")


def check_message(path, message):
    with pytest.raises(UserError) as error:
        load_conversations(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ") and message in text and "\n" not in text


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_a_file_without_conversations_is_refused(tmp_path, content):
    (tmp_path / "c.jsonl").write_bytes(content)
    check_message(tmp_path / "c.jsonl", "there is no conversation")


def test_a_file_without_any_features_is_raw(tmp_path):
    raw = turn(features={"text": None}, text=" Hi! ", label="joy", start=1, audio="a.wav")
    value = {"dialogue": "a", "turns": [{"speaker": "A"}, raw]}
    found = load_conversations(lines(tmp_path / "c.jsonl", [value]))
    assert found.classes == ("joy",) and found.label.tolist() == [-1, 0]
    assert [own.text for own in found.turns] == ["", "Hi!"]
    first, second = found.turns
    assert (second.label, second.start, second.audio) == ("joy", 1.0, "a.wav")
    assert np.isnan([first.start, second.end]).all()
    value = {"dialogue": "a", "turns": [{"speaker": "A"}, turn()]}
    corpus = load_conversations(lines(tmp_path / "d.jsonl", [value]))
    assert corpus.present["text"].tolist() == [False, True]


@pytest.mark.parametrize("value", ["text", 3, None, {"dialogue": "a", "turns": []}])
def test_what_is_no_list_of_conversations_is_refused(value):
    with pytest.raises(UserError, match="have to be a list of conversations"):
        from_turns(value)
    with pytest.raises(UserError, match="conversation 0: a conversation needs a list of 'turns'"):
        from_turns([turn(), turn()])


def test_a_long_transcript_does_not_widen_all():
    turns = [turn(text="x" * 2_000_000)] + [turn(text="y")] * 200
    with pytest.raises(UserError, match="one of the transcripts is far too long"):
        from_turns([turns])


def npz(path, **changes):
    arrays = {
        "dialogue": np.array(["a", "b"]),
        "length": np.array([2, 1]),
        "speaker": np.array(["A", "B", "A"]),
        "features.text": np.ones((3, 2), np.float32),
    } | changes
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def test_an_npz_needs_neither_labels_nor_splits(tmp_path):
    corpus = load_conversations(npz(tmp_path / "c.npz"))
    assert corpus.classes == () and corpus.label.tolist() == [-1, -1, -1]
    # Whatever its splits are called, all is predicted.
    split = np.array(["train", "mine"])
    assert len(load_conversations(npz(tmp_path / "d.npz", split=split)).length) == 2


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"speaker": None}, "the key 'speaker' is missing"),
        ({"length": np.array([3, 0])}, "dialogue 'b' is empty (length 0)"),
        ({"label": np.array([0, 1, 1])}, "there are labels, but no classes that name them"),
        ({"features.text": np.full((3, 2), [np.nan, 0])}, "feature 0 of text at dialogue 'a', utt"),
        ({"features.text": np.full((3, 2), np.nan)}, "no modality is present"),
        ({"features.text": None}, "no modality is present"),
    ],
)
def test_a_wrong_npz_is_named(tmp_path, changes, message):
    check_message(npz(tmp_path / "c.npz", **changes), message)


def test_a_pickle_is_read_whole_whatever_its_splits(tmp_path):
    ids = ["a", "b", "c"]
    speaker, label = {i: ["M"] for i in ids}, {i: [-1] for i in ids}
    vector = {i: [np.ones(2, np.float32)] for i in ids}
    entries = (speaker, speaker, label, vector, vector, speaker, [], ["b"])
    path = tmp_path / "c.pkl"
    for protocol in range(6):
        path.write_bytes(pickle.dumps(entries, protocol=protocol))
        corpus = load_conversations(path)
        assert corpus.dialogue.tolist() == ids and corpus.modalities == ("text", "audio")
    path.write_bytes(pickle.dumps((*entries[:2], {**label, "x": [0]}, *entries[3:])))
    check_message(path, "dialogue 'x' of test has no speakers")


def test_layers_of_text_are_combined(tmp_path):
    layers = {f"features.roberta{k}": np.full((3, 2), k, np.float32) for k in (1, 2)}
    path = npz(tmp_path / "c.npz", **{"features.text": None}, **layers)
    np.testing.assert_array_equal(load_conversations(path, "mean").features["text"], 1.5)


@pytest.mark.parametrize("name", ["nowhere.jsonl", "."])
def test_what_cannot_be_read_is_named(tmp_path, name):
    check_message(tmp_path / name, "cannot be read")


def test_labels_and_modalities_are_matched_by_name():
    corpus = from_turns([[turn(label="glad"), turn(label="calm"), turn(features={"text": [1, 2]})]])
    assert corpus.classes == ("calm", "glad")
    matched = match_model(corpus, ("glad", "sad", "calm"), {"audio": 3, "visual": 4, "text": 2})
    assert matched.label.tolist() == [0, 2, -1] and matched.classes == ("glad", "sad", "calm")
    assert matched.modalities == ("audio", "visual", "text")
    assert not matched.present["visual"].any() and matched.features["visual"].shape == (3, 4)
    assert matched.present["audio"].tolist() == [True, True, False]


@pytest.mark.parametrize(
    "value, message",
    [
        (turn(label="sad"), "the label 'sad' at dialogue '0', utterance 1 is none of the model's"),
        (turn(features={"smell": [1]}), "'smell' (dialogue '0', utterance 1), but the model was"),
        (turn(features={"visual": [1, 2]}), "features of 'visual' (dialogue '0', utterance 1)"),
    ],
)
def test_what_the_model_does_not_know_is_refused(value, message):
    with pytest.raises(UserError) as error:
        match_model(from_turns([[turn(), value]]), CLASSES, WIDTHS)
    assert message in str(error.value)


def test_other_widths_or_none_of_the_modalities_are_refused():
    corpus = from_turns([[turn()]])
    with pytest.raises(UserError, match="text is 2 wide .dialogue '0', utterance 0., .* with 5"):
        match_model(corpus, CLASSES, {"text": 5, "audio": 3})
    visual = from_turns([[turn(features={"visual": [1, 2]})]])
    with pytest.raises(UserError, match="holds no features of text or audio"):
        match_model(visual, CLASSES, WIDTHS, {"visual"}.__contains__)


def test_modalities_that_the_run_chose_to_leave_out_are_ignored():
    names = ("text", "audio", "audio.a", "visual", "timing", "smell")
    assert not any(map(left_out("all", ""), names))
    ignored = left_out("text, visual", "")
    assert [name for name in names if ignored(name)] == ["audio", "audio.a", "timing"]
    matched = match_model(from_turns([[turn()]]), CLASSES, {"text": 2}, ignored)
    assert matched.modalities == ("text",)


def test_views_that_the_run_chose_to_leave_out_are_ignored_and_unknown_ones_refused():
    names = ("text.a", "text.b", "audio.a", "visual")
    assert [name for name in names if left_out("all", "text.a")(name)] == ["text.b"]
    corpus = from_turns([[turn(features={"text.a": [1, 2], "text.b": [3]})]])
    widths = {"text.a": 2, "text.c": 1, "audio": 3}
    matched = match_model(corpus, CLASSES, widths, left_out("all", "text.a,text.c"))
    assert list(matched.features) == ["text.a", "text.c", "audio"]
    assert [bool(matched.present[name]) for name in widths] == [True, False, False]
    with pytest.raises(UserError, match="features of 'text.b' .* trained with text.a, text.c"):
        match_model(corpus, CLASSES, widths)
    with pytest.raises(UserError, match="holds no features of text.c"):
        match_model(corpus, CLASSES, {"text.c": 1}, left_out("all", "text.c"))
    with pytest.raises(UserError, match="text.a is 2 wide .* but the model was trained with 3"):
        match_model(corpus, CLASSES, {"text.a": 3, "text.b": 1})


def test_other_classes_do_no_harm_where_nothing_is_labelled():
    corpus = from_turns([[turn()]])
    other = dataclasses.replace(corpus, classes=("high", "low"))
    assert match_model(other, CLASSES, WIDTHS).label.tolist() == [-1]
