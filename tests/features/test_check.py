"""Faults of transcripts and clips, each found at its place."""

import os
import pathlib

import pytest

pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import tiny_media  # noqa: E402

from cberl_jax.data.readers.transcripts import read_transcripts  # noqa: E402
from cberl_jax.features.check import check_transcript  # noqa: E402
from cberl_jax.features.extract import Sources, check  # noqa: E402
from cberl_jax.features.sound_and_sight import MediaSources  # noqa: E402

TABLE = """dialogue,speaker,text,start,end,audio
a,Ann,Hi.,0,1,a0
a,Bob,,1,2,a1
a,Ann,Oh.,3,2.5,a2
b,Ann,Yes.,,,b0
b,Bob,No.,50,99,b1
b,Ann,So.,40,41,b2
"""


def places(faults):
    return {fault.what: [place.rpartition(" ")[2] for place in fault.places] for fault in faults}


def test_each_fault_of_a_table_is_found_at_its_line(tmp_path):
    path = tmp_path / "conv.csv"
    path.write_text(TABLE)
    assert places(check_transcript(read_transcripts([path]))) == {
        "utterances without text": ["3"],
        "utterances without start or end": ["5"],
        "ends that are before their starts": ["4"],
        "utterances longer than 30 s": ["6"],
        "turns that start before the one before them": ["7"],
    }
    clean = tmp_path / "clean.csv"
    clean.write_text("dialogue,speaker,text,start,end\na,Ann,Hi.,0,1\na,Bob,No.,1,2\n")
    assert check_transcript(read_transcripts([clean])) == []


def test_clips_that_are_absent_broken_or_too_long_are_found(tmp_path):
    path = tmp_path / "conv.csv"
    path.write_text(TABLE)
    for name, seconds in (("a0", 1.0), ("a1", 8.0), ("b0", 1.0), ("b2", 1.5)):
        tiny_media.write_clip(tmp_path / f"{name}.mp4", seconds)
    (tmp_path / "a2.mp4").write_bytes(b"broken")
    media = MediaSources(video_folders=[tmp_path])
    found = check(Sources([path], media=media), lambda line: None)
    assert list(map(str, tmp_path.glob("*.npz*"))) == []
    by_name = {fault.what: fault for fault in found}
    assert by_name["clips that are not there"].places == ("b1",)
    assert by_name["clips that cannot be decoded"].places[0].startswith("a2.mp4: ")
    assert by_name["clips much longer than their utterance"].places == (
        "a1.mp4: 8 s, by its times 1 s",
    )
    assert "Their utterances lack them." in str(by_name["clips that are not there"])
    assert "64 frames from all of it" in str(by_name["clips much longer than their utterance"])
    media = MediaSources(audio_folders=[tmp_path])
    long = str(check(Sources([path], media=media), lambda line: None)[-1])
    assert "All of it counts for eGeMAPS" in long and "frames" not in long


def test_an_utterance_after_the_end_of_its_video_is_found(tmp_path):
    """Times in milliseconds."""
    path = tmp_path / "conv.csv"
    path.write_text("dialogue,speaker,text,start,end\na,Ann,Hi.,0,500\na,Bob,No.,600,900\n")
    tiny_media.write_clip(tmp_path / "a.mp4", 1.0)
    found = check(Sources([path], media=MediaSources(video_folders=[tmp_path])), lambda line: None)
    (late,) = [fault for fault in found if fault.what.startswith("utterances after the end")]
    assert late.places == (f"{path}: line 3: at 600 s, a.mp4 has 1",)


@pytest.mark.skipif("CBERL_DATA" not in os.environ, reason="CBERL_DATA is not set")
def test_the_known_faults_of_melds_tables_are_found():
    folder = pathlib.Path(os.environ["CBERL_DATA"]) / "meld_csv"
    tables = [folder / f"{split}_sent_emo.csv" for split in ("train", "dev", "test")]
    found = {fault.what: len(fault.places) for fault in check(Sources(tables))}
    assert found == {
        "turns that are missing by their numbers": 73,
        "utterances longer than 30 s": 3,
        "turns that start before the one before them": 31,
    }
