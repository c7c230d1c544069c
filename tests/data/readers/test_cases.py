"""Kinds of files that users of this field report: each loads right, or is refused as it should.

The files lie in ``cases`` beside the folder that CBERL_DATA names. Equal files are built in the
other tests; these prove that the reading does not depend on how they are built.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from cberl_jax.data.readers.load import load_corpus
from cberl_jax.data.readers.options import parse_options
from cberl_jax.data.readers.transcripts import read_transcripts
from cberl_jax.errors import UserError
from cberl_jax.features.audio import audio_features
from cberl_jax.features.extract import Sources, extract
from cberl_jax.features.sound_and_sight import MediaSources

FOLDER = Path(os.environ.get("CBERL_DATA", "/nowhere")).parent / "cases"
pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="there is no folder cases beside that of CBERL_DATA"
)
IEMOCAP = ("happy", "sad", "neutral", "angry", "excited", "frustrated")


def load(name, **options):
    return load_corpus(FOLDER / name, options=parse_options(**options))


def sizes(corpus):
    return [int(np.sum(corpus.split == split)) for split in ("train", "dev", "test")]


LOADED = {
    "p1_valid_last.pkl": ({}, IEMOCAP, [12, 3, 5]),
    "p3_four_way.pkl": ({}, IEMOCAP[:4], [13, 1, 6]),
    "p4_binary.pkl": ({"classes": "no,yes"}, ("no", "yes"), [13, 1, 6]),
    "p5_emory_named.pkl": ({"classes": "a,b,c,d,e,f,g"}, tuple("abcdefg"), [13, 1, 6]),
    "p9_object_sentences.pkl": ({}, IEMOCAP, [13, 1, 6]),
    "p10b_Tx1xd.pkl": ({}, IEMOCAP, [13, 1, 6]),
    "p12_minus_one.pkl": ({"classes": "low,mid,high"}, ("low", "mid", "high"), [13, 1, 6]),
    "p14_samples.pkl": ({}, IEMOCAP, [12, 2, 6]),
    "p15_cosmic_iemocap.pkl": ({}, IEMOCAP, [12, 2, 6]),
    "p16_real_labels.pkl": ({"bins": "-3,0,3"}, ("-3 to 0", "0 to 3"), [13, 1, 6]),
    "unicode.npz": ({}, ("高兴", "悲伤", "中性"), [6, 2, 2]),
}


@pytest.mark.parametrize("name", LOADED)
def test_file_loads_with_its_classes_and_splits(name):
    options, classes, expected = LOADED[name]
    corpus = load(name, **options)
    assert corpus.classes == classes and sizes(corpus) == expected
    assert len(corpus.dialogue) == sum(expected) and corpus.left_out == 0
    assert (corpus.label >= 0).all()


REFUSED = {
    "p4_binary.pkl": "--classes=a,b,c",
    "p5_emory_named.pkl": "--corpus=meld|iemocap|iemocap4|emorynlp",
    "p12_minus_one.pkl": "--classes=negative,neutral,positive",
    "p16_real_labels.pkl": "--bins=-3,0,3",
    "p23_html.pkl": "is a web page, not data; the download failed",
    "p23_zipped.pkl.zip": "is a zip that holds 'IEMOCAP_features.pkl'; unzip it",
}


@pytest.mark.parametrize("name", REFUSED)
def test_file_is_refused_in_one_sentence(name):
    with pytest.raises(UserError) as error:
        load(name)
    assert REFUSED[name] in str(error.value) and "\n" not in str(error.value)


def test_contents_of_some_are_right():
    numbered = load("p7_key_types.pkl")
    assert sizes(numbered) == [13, 1, 6] and len(numbered.classes) == 7
    assert load("p10b_Tx1xd.pkl").widths == {"text": 8, "audio": 6, "visual": 5}
    assert load("p15_cosmic_iemocap.pkl").widths == {"text": 16}
    assert load("p14_samples.pkl").modalities == ("text", "audio", "visual")
    assert load("p9_object_sentences.pkl").utterance[1] == "sentence Ses01F_impro00 1"
    assert "COGMEN's order" in load("p3_four_way.pkl").remarks[0]
    other = load("p3_four_way.pkl", classes="angry,happy,sad,neutral")
    assert other.classes == ("angry", "happy", "sad", "neutral")


TABLES = [FOLDER / "tables" / f"shuffled_{split}.csv" for split in ("train", "dev", "test")]


def test_shuffled_tables_are_in_the_order_of_their_turns():
    read = read_transcripts(TABLES)
    for start, length in zip(read.start, read.length):
        own = read.turns[start : start + length]
        assert [turn.number for turn in own] == list(range(length))
        assert [turn.text.split(" of ")[0] for turn in own] == [
            f"this is turn {t}" for t in range(length)
        ]


def test_labels_outside_of_the_classes_say_that_an_empty_cell_is_none():
    path = FOLDER / "tables" / "own_xxx.csv"
    with pytest.raises(UserError, match="'xxx' is none of .* the cell empty, which means no label"):
        read_transcripts([path], ["sad", "ang", "neu"])


def test_an_empty_sound_is_absent_and_said(tmp_path):
    pytest.importorskip("soundfile")
    pytest.importorskip("opensmile")
    read = read_transcripts(TABLES[:1])
    audio = audio_features(read, [FOLDER / "tables" / "wav_empty"])
    assert [Path(path).name for path in audio.empty] == ["dia2_utt3.wav"]
    silent = [turn.audio for turn, row in zip(read.turns, audio.rows) if np.isnan(row).all()]
    assert "dia2_utt3" in silent and "dia2_utt2" not in silent
    said = []
    folder = shutil.copytree(FOLDER / "tables" / "wav_empty", tmp_path / "wav")
    media = MediaSources(audio_folders=[folder])
    sources = Sources(TABLES[:1], media=media, text_encoder="")
    extract(sources, tmp_path / "out.npz", said.append)
    assert any("sounds that are empty: 1, such as" in line for line in said)
