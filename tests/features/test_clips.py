"""Clips of a transcript: found, encoded, kept, and gone on with."""

import numpy as np
import pytest

from cberl_jax.errors import UserError

pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import tiny_media  # noqa: E402

from cberl_jax.data.readers.transcripts import read_transcripts  # noqa: E402
from cberl_jax.features import clips as of_clips  # noqa: E402
from cberl_jax.features.clips import Reading, Task, find_clips, make_rows  # noqa: E402
from cberl_jax.features.media import RATE, Span  # noqa: E402

MELD = (
    "Sr No.,Utterance,Speaker,Emotion,Sentiment,Dialogue_ID,Utterance_ID,Season,Episode,"
    "StartTime,EndTime\n"
)


def write_meld(path, dialogues=((0, 2), (1, 1))):
    rows = [
        f'{n},Hi.,Ann,joy,positive,{d},{u},1,1,"00:00:0{u},000","00:00:0{u + 1},000"'
        for n, (d, u) in enumerate((d, u) for d, turns in dialogues for u in range(turns))
    ]
    path.write_text(MELD + "\n".join(rows) + "\n")
    return path


def brightness(frames):
    return np.array([frames.mean()], np.float32)


def loudness(sound):
    return np.array([np.abs(sound).mean(), len(sound) / RATE], np.float32)


def tasks(calls=None, identity="1"):
    def counted(frames):
        if calls is not None:
            calls.append(len(frames))
        return brightness(frames)

    return {
        "visual": Task(False, counted, 1, identity),
        "audio": Task(True, loudness, 2, identity),
    }


def test_clips_of_meld_are_found_by_their_names(tmp_path):
    transcript = read_transcripts([write_meld(tmp_path / "train.csv")])
    for name in ("dia0_utt0", "dia1_utt0"):
        tiny_media.write_clip(tmp_path / f"{name}.mp4", 0.5)
    found = find_clips(transcript, [tmp_path], "--video_dir")
    assert found.spans == [Span(tmp_path / "dia0_utt0.mp4"), None, Span(tmp_path / "dia1_utt0.mp4")]
    assert found.missing == ("dia0_utt1",)


def test_files_of_dialogues_without_any_times_are_not_called_missing(tmp_path):
    table = tmp_path / "conv.csv"
    table.write_text("dialogue,speaker,text,start,end\nscene1,Ann,Hi.,2.0,1.0\nscene1,Bob,Hm.,,\n")
    (tmp_path / "scene1.mp4").touch()
    with pytest.raises(UserError, match="line 2: has no start and end after it"):
        find_clips(read_transcripts([table]), [tmp_path], "--video_dir")


def test_a_video_per_dialogue_is_cut_by_the_times(tmp_path):
    table = tmp_path / "conv.csv"
    table.write_text(
        "dialogue,speaker,text,start,end\nscene1,Ann,Hi.,0.5,1.0\nscene1,Bob,Hm.,,\n"
        "scene1,Ann,Bye.,1.0,2.0\n"
    )
    tiny_media.write_clip(tmp_path / "scene1.mp4")
    found = find_clips(read_transcripts([table]), [tmp_path], "--video_dir")
    # The file is there; what lacks are the times of the second utterance.
    assert found.missing == () and found.untimed == (f"{table}: line 3",)
    spans = found.spans
    assert spans == [
        Span(tmp_path / "scene1.mp4", 0.5, 1.0),
        None,
        Span(tmp_path / "scene1.mp4", 1.0, 2.0),
    ]
    made = make_rows(spans, tasks(), Reading(rate=10), tmp_path / "part", lambda line: None)
    assert np.isnan(made.rows["visual"][1]).all() and not made.broken
    early, late = made.rows["visual"][[0, 2], 0]
    expected = [
        np.mean([tiny_media.grey(n, 20) for n in own]) for own in (range(5, 10), range(10, 20))
    ]
    np.testing.assert_allclose([early, late], expected, atol=4)
    np.testing.assert_allclose(made.rows["audio"][[0, 2], 1], [0.5, 1.0], atol=0.05)


def test_of_a_video_and_a_sound_of_one_name_the_flag_says_which(tmp_path):
    """Sounds that were cleaned, say, beside the videos that they are from."""
    transcript = read_transcripts([write_meld(tmp_path / "train.csv", ((0, 1),))])
    for ending in (".mp4", ".wav"):
        (tmp_path / f"dia0_utt0{ending}").touch()
    for flag, ending in (("--audio_dir", ".wav"), ("--video_dir", ".mp4")):
        (span,) = find_clips(transcript, [tmp_path], flag).spans
        assert span.path.suffix == ending


def test_folders_that_do_not_fit_are_refused(tmp_path):
    transcript = read_transcripts([write_meld(tmp_path / "train.csv")])
    for folders, message in (
        ([tmp_path, tmp_path], "names 2 folders for 1 transcripts"),
        ([tmp_path / "nowhere"], "nowhere: is not a folder"),
        ([tmp_path], "holds no clip of the transcript, such as dia0_utt0.mp4"),
    ):
        with pytest.raises(UserError, match=message):
            find_clips(transcript, folders, "--video_dir")


def test_a_clip_that_two_tables_would_share_is_refused(tmp_path):
    """MELD numbers the dialogues of every split from 0."""
    tables = [write_meld(tmp_path / f"{split}.csv") for split in ("train", "dev")]
    tiny_media.write_clip(tmp_path / "dia0_utt0.mp4", 0.5)
    with pytest.raises(UserError, match="belongs to both .*train.csv.* and .*dev.csv.*--video_dir"):
        find_clips(read_transcripts(tables), [tmp_path], "--video_dir")


@pytest.fixture
def spans(tmp_path):
    found = [Span(tiny_media.write_clip(tmp_path / f"{n}.mp4", 0.3)) for n in range(5)]
    found[3].path.write_bytes(b"broken")
    return [*found, None]


def test_a_broken_clip_is_named_and_its_utterance_lacks_it(spans, tmp_path):
    said = []
    made = make_rows(spans, tasks(), Reading(), tmp_path / "part", said.append)
    assert len(made.broken) == 1 and str(spans[3].path) in made.broken[0]
    for rows in made.rows.values():
        np.testing.assert_array_equal(np.isnan(rows).any(axis=1), [0, 0, 0, 1, 0, 1])
    assert said[-1].startswith("clips 5/5, broken 1")


def test_a_call_goes_on_where_another_one_ended(spans, tmp_path, monkeypatch):
    """The second call encodes what the first left, and the rows are those of one call."""
    monkeypatch.setattr(of_clips, "TOGETHER", 2)
    whole = make_rows(spans, tasks(), Reading(), tmp_path / "whole", lambda line: None)
    calls = []

    def stop(frames):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(1)
        return brightness(frames)

    cut = tasks() | {"visual": Task(False, stop, 1, "1")}
    with pytest.raises(KeyboardInterrupt):
        make_rows(spans, cut, Reading(), tmp_path / "part", lambda line: None)
    again = []
    made = make_rows(spans, tasks(again), Reading(), tmp_path / "part", lambda line: None)
    # Four of five were written, the broken one among them.
    assert len(again) == 1
    for name, rows in whole.rows.items():
        np.testing.assert_array_equal(made.rows[name], rows)
    assert made.broken == whole.broken


def test_rows_are_not_given_to_other_utterances(spans, tmp_path):
    """The table has changed since the call before: its last turn, without a clip, is the first."""
    folder, moved = tmp_path / "part", [spans[-1], *spans[:-1]]
    before = make_rows(spans, tasks(), Reading(), folder, lambda line: None)
    after = make_rows(moved, tasks(), Reading(), folder, lambda line: None)
    for name, rows in before.rows.items():
        np.testing.assert_array_equal(after.rows[name], np.roll(rows, 1, axis=0))


@pytest.mark.parametrize("what", ["encoder", "clip", "rate", "version"])
def test_rows_of_anything_else_are_made_anew(spans, tmp_path, monkeypatch, what):
    folder, calls = tmp_path / "part", []
    make_rows(spans, tasks(), Reading(), folder, lambda line: None)
    if what == "clip":
        tiny_media.write_clip(spans[0].path, 0.4)
    if what == "version":
        monkeypatch.setattr(of_clips, "__version__", "9.9.9")
    changed = tasks(calls, "2" if what == "encoder" else "1")
    reading = Reading(rate=5.0) if what == "rate" else Reading()
    make_rows(spans, changed, reading, folder, lambda line: None)
    assert len(calls) == 4
