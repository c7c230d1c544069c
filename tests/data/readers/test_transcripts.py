"""Tables of conversations: layouts, splits, labels, times, and what is refused."""

import math
import os

import numpy as np
import pytest

from cberl_jax.data.readers.transcripts import read_transcripts
from cberl_jax.data.readers.vectors import read_vectors
from cberl_jax.errors import UserError
from cberl_jax.features.audio import find_sounds

OWN = """dialogue,speaker,text,split,label,start,end,audio
a,Ross,"We were on a break, you know!",train,anger,1.5,2.25,a0.wav
b,Joey,How are you doing?,valid,,0:01:02.5,"0:01:03,75",
a,Rachel,,train,joy,,,a1.wav
"""
MELD = """Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,StartTime,EndTime
1,It\x92s lost.,Phoebe,sadness,negative,0,0,4,7,"00:20:57,256","00:21:00,049"
2,What?,Monica,surprise,negative,0,1,4,7,"0:21:01,927","0:21:03,261"
3,Hey.,Joey,neutral,neutral,1,0,4,7,"0:21:01,927","0:21:03,261"
"""  # noqa: E501
EMORY = """Utterance,Speaker,Emotion,Scene_ID,Utterance_ID,Season,Episode,Sentiment
Oh!,['Monica Geller'],Joyful,1,1,1,2,positive
"No, no.","['Joey Tribbiani', ""Pat O'Neil""]",Scared,1,2,1,2,negative
Hi.,['Ross Geller'],Peaceful,1,1,1,3,positive
"""


def write(folder, name, text, encoding="utf-8"):
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def test_own_table_keeps_dialogues_together_and_turns_in_order(tmp_path):
    read = read_transcripts([write(tmp_path, "c.csv", OWN)])
    assert read.dialogue.tolist() == ["a", "b"] and read.length.tolist() == [2, 1]
    assert read.split.tolist() == ["train", "dev"] and read.has_splits
    assert read.classes == ("anger", "joy") and read.label.tolist() == [0, 1, -1]
    assert [t.speaker for t in read.turns] == ["Ross", "Rachel", "Joey"]
    assert [t.text for t in read.turns][:2] == ["We were on a break, you know!", ""]
    assert [t.audio for t in read.turns] == ["a0.wav", "a1.wav", ""]
    assert (read.turns[0].start, read.turns[0].end) == (1.5, 2.25)
    assert (read.turns[2].start, read.turns[2].end) == (62.5, 63.75)
    assert math.isnan(read.turns[1].start) and math.isnan(read.turns[1].end)
    assert read.turns[2].place.endswith("c.csv: line 3")


def test_a_byte_order_mark_and_windows_line_ends_do_not_count(tmp_path):
    plain = read_transcripts([write(tmp_path, "a.csv", OWN)])
    other = read_transcripts([write(tmp_path, "b.csv", OWN.replace("\n", "\r\n"), "utf-8-sig")])
    assert [t[1:6] for t in other.turns] == [t[1:6] for t in plain.turns]


def test_given_classes_set_the_order_and_refuse_other_labels(tmp_path):
    path = write(tmp_path, "c.csv", OWN)
    assert read_transcripts([path], ["joy", "fear", "anger"]).label.tolist() == [2, 0, -1]
    with pytest.raises(UserError, match="line 4: the label 'joy' is none of the classes anger"):
        read_transcripts([path], ["anger"])


def test_unlabelled_conversations_have_no_classes_and_count_as_test(tmp_path):
    path = write(tmp_path, "c.csv", "dialogue,speaker,text\n1,A,hello\n1,B,hi\n")
    read = read_transcripts([path])
    assert read.classes == () and read.label.tolist() == [-1, -1]
    assert read.split.tolist() == ["test"] and not read.has_splits


def test_meld_files_are_one_corpus_split_by_their_names(tmp_path):
    names = ("train_sent_emo.csv", "dev_sent_emo.csv", "test_sent_emo_dya.csv")
    read = read_transcripts([write(tmp_path, name, MELD) for name in names])
    assert read.dialogue.tolist() == [f"{s}_{d}" for s in ("train", "dev", "test") for d in "01"]
    assert read.split.tolist() == ["train", "train", "dev", "dev", "test", "test"]
    assert read.classes[:2] == ("neutral", "surprise") and read.label.tolist() == [3, 1, 0] * 3
    assert read.turns[0].text == "It’s lost."
    assert read.turns[1].audio == "dia0_utt1"
    assert read.turns[0].start == pytest.approx(20 * 60 + 57.256)
    assert read.file.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_emorynlp_names_scenes_by_episode_and_reads_lists_of_speakers(tmp_path):
    read = read_transcripts([write(tmp_path, "emorynlp_dev_final.csv", EMORY)])
    assert read.dialogue.tolist() == ["sea1_ep2_sc1", "sea1_ep3_sc1"]
    speakers = ["Monica Geller", "Joey Tribbiani and Pat O'Neil", "Ross Geller"]
    assert [t.speaker for t in read.turns] == speakers
    assert read.label.tolist() == [0, 6, 2] and read.split.tolist() == ["dev", "dev"]
    assert read.turns[1].audio == "sea1_ep2_sc1_utt2"


HEAD = "dialogue,speaker,text\n"


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is empty"),
        ("\n", "line 1 has to name the columns dialogue, speaker and text"),
        ("dialogue;speaker;text\n", "not 'dialogue;speaker;text'"),
        ("dialogue,speaker\n", "the column 'text' is missing in line 1"),
        ("dialogue,speaker,text,text\n", "the column 'text' is there twice in line 1"),
        ("dialogue,speaker,text,emotoin\n", "unknown column 'emotoin'; there may be dialogue, "),
        (HEAD, "holds no utterance"),
        (HEAD + "a,A,hi, there\n", "line 2: has 4 cells for 3 columns; a text with a comma"),
        (HEAD + "a,A,hi\na,,hi\n", "line 3: the column 'speaker' is empty"),
        (HEAD + 'a,A,"hi\n', "is not CSV"),
        (HEAD + 'a,A,"hi\n' + "a,A,hi\n" * 2000 + '"\n', "longer than 10000 characters"),
        ("dialogue,speaker,text,split\na,A,hi,luck\n", "line 2: the split is 'luck'; use train"),
        (
            "dialogue,speaker,text,split\na,A,hi,train\na,A,hi,dev\n",
            "line 3: dialogue 'a' is in the split 'dev' here and in 'train' before",
        ),
        (
            "dialogue,speaker,text,split\na,A,hi,train\nb,A,hi,\n",
            "line 3: no split is named here, as it is elsewhere",
        ),
        ("dialogue,speaker,text,start\na,A,hi,soon\n", "line 2: the time 'soon' is neither"),
        ("dialogue,speaker,text,start\na,A,hi,1:2:3:4\n", "line 2: the time '1:2:3:4' is neither"),
        # Minutes, seconds and hundredths.
        ("dialogue,speaker,text,start\na,A,hi,0:12:75\n", "line 2: the time '0:12:75' is neither"),
        ("dialogue,speaker,text,start\na,A,hi,1:60:00\n", "line 2: the time '1:60:00' is neither"),
        (HEAD + "a,A,hi\na,A\0,hi\n", "line 3 holds the character NUL"),
    ],
)
def test_a_mistake_names_the_file_and_the_line(tmp_path, text, message):
    path = write(tmp_path, "c.csv", text)
    with pytest.raises(UserError) as caught:
        read_transcripts([path])
    assert str(caught.value).startswith(str(path)) and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_encoding_is_refused_at_its_line(tmp_path):
    path = write(tmp_path, "c.csv", HEAD + "a,A,hi\na,B,don’t\n", "cp1252")
    with pytest.raises(UserError, match=r"c.csv: line 3 is not UTF-8 \(byte 0x92\); save the file"):
        read_transcripts([path])
    with pytest.raises(UserError, match="none.csv: cannot be read"):
        read_transcripts([tmp_path / "none.csv"])
    with pytest.raises(UserError, match="cannot be read"):
        read_transcripts([tmp_path])


def test_files_do_not_mix_layouts_or_share_names(tmp_path):
    own, meld = write(tmp_path, "c.csv", OWN), write(tmp_path, "train.csv", MELD)
    with pytest.raises(UserError, match="differ in their layouts"):
        read_transcripts([own, meld])
    twin = write(tmp_path, "d.csv", OWN)
    with pytest.raises(
        UserError, match="d.csv: line 2: dialogue 'a' is in .*c.csv: line 2 already"
    ):
        read_transcripts([own, twin])


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.fixture
def transcript(tmp_path):
    return read_transcripts([write(tmp_path, "c.csv", OWN)])


def test_vectors_are_placed_by_dialogue_and_turn(tmp_path, transcript):
    rows = np.array([[1, 2, 3], [math.nan] * 3])
    read = read_vectors(save(tmp_path / "v.npz", a=rows), transcript)
    expected = [[1, 2, 3], [math.nan] * 3, [math.nan] * 3]
    np.testing.assert_array_equal(read, np.array(expected, np.float32))


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({}, "holds no dialogue"),
        ({"c": np.ones((1, 2))}, "the name 'c' of an array is no dialogue's; each array has"),
        ({"a": np.ones((2, 2), int)}, "'a' has to be a table of floats, not int64"),
        ({"a": np.ones(2)}, "'a' has to be a table of floats"),
        ({"a": np.ones((3, 2))}, "dialogue 'a' is 3 turns of 2 numbers; 2 turns of 2 numbers"),
        (
            {"a": np.ones((2, 2)), "b": np.ones((1, 4))},
            "dialogue 'b' is 1 turns of 4 numbers; 1 turns of 2 numbers",
        ),
        ({"a": np.array([[1, math.nan], [1, 1]])}, "line 2 holds a number that is not finite"),
        ({"b": np.array([[1e300, 1]])}, "line 3 holds a number that is not finite"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(tmp_path, transcript, arrays, message):
    path = save(tmp_path / "v.npz", **arrays)
    with pytest.raises(UserError) as caught:
        read_vectors(path, transcript)
    assert str(caught.value).startswith(os.fspath(path)) and message in str(caught.value)


# Order of the turns, and clips.


def shuffled(text, order):
    head, *rows = text.strip().split("\n")
    return "\n".join([head, *(rows[k] for k in order)]) + "\n"


@pytest.mark.parametrize("text, name", [(MELD, "Utterance_ID"), (EMORY, "Utterance_ID")])
def test_turns_are_in_the_order_of_their_numbers(tmp_path, text, name):
    plain = read_transcripts([write(tmp_path, "train_a.csv", text)])
    other = read_transcripts([write(tmp_path, "train_b.csv", shuffled(text, [1, 0, 2]))])
    assert [t[1:] for t in other.turns] == [t[1:] for t in plain.turns]
    wrong = text.replace(",0,1,4,7", ",0,one,4,7").replace(",1,2,1,2", ",1,two,1,2")
    with pytest.raises(UserError, match=f"line 3: the {name} is '(one|two)', not a whole number"):
        read_transcripts([write(tmp_path, "train_c.csv", wrong)])


def test_numbers_are_not_ordered_as_text(tmp_path):
    rows = [f"{k},word {k},Ann,joy,0,{k}" for k in (10, 9, 2, 1, 0)]
    head = "Sr No.,Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID"
    read = read_transcripts([write(tmp_path, "train.csv", "\n".join([head, *rows]) + "\n")])
    assert [t.text for t in read.turns] == [f"word {k}" for k in (0, 1, 2, 9, 10)]


def test_an_utterance_that_is_there_twice_names_both_lines(tmp_path):
    path = write(tmp_path, "train.csv", MELD + MELD.split("\n")[2] + "\n")
    with pytest.raises(UserError) as caught:
        read_transcripts([path])
    assert str(caught.value) == (
        f"{path}: line 5: utterance 1 of dialogue 'train_0' is there twice, in {path}: line 3 "
        "already."
    )


DYADIC = """Utterance,Speaker,Emotion,Dialogue_ID,Utterance_ID,Old_Dialogue_ID,Old_Utterance_ID
Hi.,Ann,joy,0,0,7,3
Ho.,Bob,joy,0,1,7,5
Ho.,Bob,joy,1,0,7,5
"""


def test_clips_of_the_dyadic_meld_have_their_old_ids(tmp_path):
    read = read_transcripts([write(tmp_path, "train_dya.csv", DYADIC)])
    assert [t.audio for t in read.turns] == ["dia7_utt3", "dia7_utt5", "dia7_utt5"]
    assert read.dialogue.tolist() == ["train_0", "train_1"]
    for name in ("dia7_utt3.wav", "dia7_utt5.wav", "dia0_utt0.wav"):
        (tmp_path / name).write_bytes(b"")
    found, missing = find_sounds(read, [tmp_path])
    assert [path.name for path in found] == ["dia7_utt3.wav", "dia7_utt5.wav", "dia7_utt5.wav"]
    assert missing == ()
    half = DYADIC.replace(",Old_Utterance_ID", ",Another")
    with pytest.raises(UserError, match="line 2: the table has only one of the columns Old_Dia"):
        read_transcripts([write(tmp_path, "train_half.csv", half)])


def test_published_tables_of_meld_keep_their_order():
    if "CBERL_DATA" not in os.environ:
        pytest.skip("CBERL_DATA does not name the folder with the real files")
    folder = os.path.join(os.environ["CBERL_DATA"], "meld_csv")
    paths = [os.path.join(folder, f"{s}_sent_emo.csv") for s in ("train", "dev", "test")]
    read = read_transcripts(paths)
    assert len(read.turns) == 13_708
    lines = [int(turn.place.rpartition(" ")[2]) for turn in read.turns]
    assert sum(a > b for a, b in zip(lines, lines[1:])) == 2  # from table to table only


def test_a_label_outside_of_the_classes_says_that_an_empty_cell_is_none(tmp_path):
    path = write(tmp_path, "c.csv", OWN)
    with pytest.raises(UserError, match="leave the cell empty, which means no label"):
        read_transcripts([path], ["anger"])


@pytest.mark.parametrize(
    "name, form", [("0", "a number"), ("arr_0", "a number"), ("dia0_utt0", "an utterance's")]
)
def test_vectors_under_other_names_say_which_are_wanted(tmp_path, transcript, name, form):
    path = save(tmp_path / "v.npz", **{name: np.ones((2, 2))})
    with pytest.raises(UserError) as caught:
        read_vectors(path, transcript)
    assert f"the name {name!r} of an array is {form}; each array has to have the name of a" in str(
        caught.value
    )
    assert "such as 'a', and hold [turns, width]" in str(caught.value)


def test_vectors_of_one_array_or_of_frames_say_what_to_do(tmp_path, transcript):
    np.save(tmp_path / "v.npy", np.ones((3, 2)))
    with pytest.raises(UserError, match="is a single numpy array; write an .npz with one array"):
        read_vectors(tmp_path / "v.npy", transcript)
    path = save(tmp_path / "v.npz", a=np.ones((2, 5, 3)))
    with pytest.raises(UserError, match="the mean over axis 1 makes one vector of a turn"):
        read_vectors(path, transcript)
    read = read_vectors(save(tmp_path / "w.npz", a=np.ones((2, 1, 3))), transcript)
    assert read.shape == (3, 3) and np.isnan(read[2]).all()
