"""From a folder of clips to a corpus: sound and sight by several encoders, in one command."""

import numpy as np
import pytest

from cberl_jax.errors import UserError

pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("opensmile", reason="openSMILE is not installed")

import tiny_media  # noqa: E402

from cberl_jax.data.provenance import find_difference  # noqa: E402
from cberl_jax.data.readers.load import load_conversations  # noqa: E402
from cberl_jax.features import clips as of_clips  # noqa: E402
from cberl_jax.features.extract import Sources, extract, parse_encoders  # noqa: E402
from cberl_jax.features.media import Span, read_frames, read_sound  # noqa: E402
from cberl_jax.features.sound_and_sight import EGEMAPS, MediaSources  # noqa: E402
from cberl_jax.features.sound_and_sight import _weights as describe_media_weights  # noqa: E402
from cberl_jax.features.speech import SpeechEncoder  # noqa: E402
from cberl_jax.features.vision import VisualEncoder  # noqa: E402

TABLE = """dialogue,speaker,text,split,label,audio
a,Ann,Hi.,train,joy,a0
a,Bob,No.,train,anger,a1
b,Ann,Oh.,dev,joy,b0
c,Bob,Yes.,test,anger,c0
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A table, clips of three of its four utterances, one of them broken, and tiny tiny_media."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conv.csv").write_text(TABLE)
    for name in ("a0", "a1", "c0"):
        tiny_media.write_clip(tmp_path / f"{name}.mp4", 0.6)
    (tmp_path / "a1.mp4").write_bytes(b"\0" * 100)
    return tmp_path


def run(**media):
    said = []
    media = {"video_folders": ["."]} | media
    sources = Sources(["conv.csv"], text_encoder="", timing="", media=MediaSources(**media))
    corpus = extract(sources, "out.npz", said.append)
    return "\n".join(said), corpus


def test_sound_and_sight_of_clips_by_several_encoders(folder):
    wav, vit, mae = tiny_media.wav2vec("wav"), tiny_media.vit("vit"), tiny_media.videomae("mae")
    said, corpus = run(
        audio_encoders={"audio.egemaps": EGEMAPS, "audio.wav": wav},
        visual_encoders={"visual.vit": vit, "visual.mae": mae},
        frame_rate=5.0,
    )
    assert "clips that are not there: 1, such as b0" in said
    assert "cannot be decoded" in said and "a1.mp4" in said
    half = tiny_media.HIDDEN
    widths = {
        "audio.egemaps": 88,
        "audio.wav": 2 * half,
        "visual.vit": 2 * half,
        "visual.mae": half,
    }
    assert corpus.widths == widths
    for name in widths:
        np.testing.assert_array_equal(corpus.present[name], [True, False, False, True])
    span = Span(folder / "c0.mp4")
    sound, frames = read_sound(span, 30), read_frames(span, 5.0, 64)
    np.testing.assert_allclose(
        corpus.features["audio.wav"][3], SpeechEncoder(wav)(sound), atol=1e-6
    )
    np.testing.assert_allclose(
        corpus.features["visual.vit"][3], VisualEncoder(vit)(frames), atol=1e-6
    )
    np.testing.assert_array_equal(
        load_conversations("out.npz").features["visual.mae"], corpus.features["visual.mae"]
    )
    assert not (folder / "out.npz.clips").exists()


def test_the_file_says_which_encoders_made_it(folder):
    wav, vit = tiny_media.wav2vec("wav"), tiny_media.vit("vit")
    _, corpus = run(
        audio_encoders={"audio.egemaps": EGEMAPS, "audio.wav": wav},
        visual_encoders={"visual": vit},
    )
    made = load_conversations("out.npz").provenance
    assert made == corpus.provenance
    assert "layer -1" in made["audio.wav"]["pooling"] and made["audio.egemaps"]["extractor"]
    assert made["visual"]["encoder"] == vit and made["visual"]["weights"].keys() == {
        "model.safetensors"
    }
    assert find_difference(made["visual"], made["audio.wav"]) == "weights"
    # Models that are known by their names alone are told apart by these.
    names = [describe_media_weights(name) for name in ("org/one", "org/two")]
    assert find_difference(*({"weights": own} for own in names)) == "weights"


def test_sounds_of_a_folder_of_their_own(folder):
    (folder / "sounds").mkdir()
    for name in ("a1", "b0"):
        tiny_media.write_clip(folder / "sounds" / f"{name}.mp4", 0.6, picture=False)
    wav, vit = tiny_media.wav2vec("wav"), tiny_media.vit("vit")
    _, corpus = run(
        audio_folders=["sounds"], audio_encoders={"audio": wav}, visual_encoders={"visual": vit}
    )
    np.testing.assert_array_equal(corpus.present["audio"], [False, True, True, False])
    np.testing.assert_array_equal(corpus.present["visual"], [True, False, False, True])


def test_a_cut_off_command_goes_on_with_the_same_encoders(folder, monkeypatch):
    monkeypatch.setattr(of_clips, "TOGETHER", 1)
    vit, calls = tiny_media.vit("vit"), []
    encode = VisualEncoder.__call__

    def stop(self, frames):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(self, frames)

    monkeypatch.setattr(VisualEncoder, "__call__", stop)
    with pytest.raises(KeyboardInterrupt):
        run(audio_encoders={}, visual_encoders={"visual": vit})
    assert (folder / "out.npz.clips").exists() and not (folder / "out.npz").exists()
    calls.clear()
    said, corpus = run(audio_encoders={}, visual_encoders={"visual": vit})
    assert len(calls) == 1 and "there from before" in said
    monkeypatch.setattr(VisualEncoder, "__call__", encode)
    (folder / "out.npz").unlink()
    _, whole = run(audio_encoders={}, visual_encoders={"visual": vit})
    np.testing.assert_array_equal(corpus.features["visual"], whole.features["visual"])


@pytest.mark.parametrize(
    ("media", "message"),
    [
        ({"video_folders": [], "visual_encoders": {"visual": "x"}}, "--visual_encoder needs"),
        ({"video_folders": [], "audio_encoders": {"audio": "wav"}}, "--audio_encoder=wav needs"),
        ({"video_folders": ["nowhere"]}, "nowhere: is not a folder"),
        ({"visual_encoders": {"visual": "empty"}}, "empty: cannot be loaded as a visual encoder"),
    ],
)
def test_what_cannot_be_read_is_refused_and_nothing_is_written(folder, media, message):
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        run(**media)
    assert not list(folder.glob("out.npz*"))


def test_encoders_are_named_as_views():
    assert parse_encoders([], "visual") == {}
    assert parse_encoders(["facebook/dinov2-base"], "visual") == {"visual": "facebook/dinov2-base"}
    assert parse_encoders(["egemaps", "w=models/wavlm"], "audio") == {
        "audio.egemaps": "egemaps",
        "audio.w": "models/wavlm",
    }
    with pytest.raises(
        UserError, match="--audio_encoder=b/x: x cannot name a second view of audio"
    ):
        parse_encoders(["a/x", "b/x"], "audio")
