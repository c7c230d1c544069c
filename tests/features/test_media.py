"""Frames and sound of clips, and what pretrained encoders make of them."""

import math
import struct

import numpy as np
import pytest

from cberl_jax.errors import UserError

pytest.importorskip("av", reason="PyAV is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

import av  # noqa: E402
import tiny_media  # noqa: E402

from cberl_jax.features.media import (  # noqa: E402
    RATE,
    Span,
    Unreadable,
    measure,
    read_frames,
    read_sound,
)
from cberl_jax.features.speech import SpeechEncoder  # noqa: E402
from cberl_jax.features.vision import VisualEncoder  # noqa: E402


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_media.write_clip(tmp_path_factory.mktemp("clips") / "a.mp4")


def brightness(frames):
    return frames.reshape(len(frames), -1).mean(axis=1)


def test_frames_are_those_shown_in_the_middle_of_each_interval(clip):
    frames = read_frames(Span(clip), rate=2, most=64)
    assert frames.shape == (4, 32, 48, 3) and frames.dtype == np.uint8
    # At 0.25, 0.75, 1.25 and 1.75 s of ten frames a second: frames 2, 7, 12 and 17.
    expected = [tiny_media.grey(n, 20) for n in (2, 7, 12, 17)]
    np.testing.assert_allclose(brightness(frames), expected, atol=4)


def test_a_part_of_a_video_is_what_is_shown_in_it(clip):
    frames = read_frames(Span(clip, 1.0, 1.6), rate=10, most=64)
    expected = [tiny_media.grey(n, 20) for n in range(10, 16)]
    np.testing.assert_allclose(brightness(frames), expected, atol=4)
    assert len(read_frames(Span(clip, 1.9, 60.0), rate=10, most=64)) == 1


def test_a_part_after_the_end_has_neither_picture_nor_sound(tmp_path, clip):
    """Times in milliseconds, say, must not give every utterance the last frame."""
    for path in (clip, tiny_media.write_clip(tmp_path / "a.mkv")):
        part = Span(path, 50.0, 60.0)
        assert not len(read_frames(part, rate=10, most=64)) and not len(read_sound(part, 30))


def test_times_count_from_the_beginning_of_a_file(tmp_path):
    """A recorded stream begins at any time, here at 100 s; brightness and pitch tell the second."""
    path, rate = tmp_path / "a.ts", 25
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg2video", rate=rate)
        video.width, video.height, video.pix_fmt = 48, 32, "yuv420p"
        audio = container.add_stream("mp2", rate=32_000, layout="mono")
        for second in range(4):
            for n in range(rate):
                pixels = np.full((32, 48, 3), 50 * second + 25, np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts = (100 + second) * rate + n
                container.mux(video.encode(frame))
            wave = np.sin(2 * np.pi * 500 * (second + 1) * np.arange(32_000) / 32_000) / 2
            frame = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], "fltp", "mono")
            frame.sample_rate, frame.pts = 32_000, (100 + second) * 32_000
            container.mux(audio.encode(frame))
        container.mux(video.encode(None))
        container.mux(audio.encode(None))
    with av.open(str(path)) as container:
        assert container.start_time > 99e6
    frames = read_frames(Span(path), rate=1, most=64)
    np.testing.assert_allclose(brightness(frames), [25, 75, 125, 175], atol=4)
    for second in range(3):
        part = Span(path, second + 0.2, second + 0.8)
        frames = read_frames(part, rate=5, most=64)
        np.testing.assert_allclose(brightness(frames), 3 * [50 * second + 25], atol=4)
        sound = read_sound(part, 30)
        assert len(sound) == pytest.approx(0.6 * RATE, abs=1)
        pitch = np.argmax(np.abs(np.fft.rfft(sound))) / 0.6
        assert pitch == pytest.approx(500 * (second + 1), abs=5)


def test_a_video_that_was_held_upright_is_seen_upright(tmp_path):
    """A player turns it by the matrix of its track: here by 90 degrees, clockwise."""
    picture = np.zeros((32, 48, 3), np.uint8)
    picture[:, :24] = 255
    path = tiny_media.write_clip(tmp_path / "a.mp4", 0.5, sound=False, shown=picture)
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44
    one = 1 << 16
    matrix = (0, one, 0, -one, 0, 0, 32 * one, 0, 1 << 30)
    content[start : start + 36] = struct.pack(">9i", *matrix)
    path.write_bytes(content)
    (frame,) = read_frames(Span(path), rate=2, most=64)
    assert frame.shape == (48, 32, 3)
    np.testing.assert_allclose([frame[:20].mean(), frame[28:].mean()], [255, 0], atol=4)


def test_a_long_clip_has_frames_from_all_of_it(clip):
    frames = read_frames(Span(clip), rate=10, most=5)
    expected = [tiny_media.grey(n, 20) for n in (2, 6, 10, 14, 18)]
    np.testing.assert_allclose(brightness(frames), expected, atol=4)


def test_sound_is_mono_at_the_rate_of_the_encoders(clip):
    sound = read_sound(Span(clip), longest=30)
    assert sound.dtype == np.float32 and abs(len(sound) / RATE - 2.0) < 0.15
    spectrum = np.abs(np.fft.rfft(sound[:RATE]))
    assert abs(np.argmax(spectrum) - 440) <= 2
    assert len(read_sound(Span(clip), longest=0.5)) == RATE // 2
    part = read_sound(Span(clip, 0.5, 1.0), longest=30)
    np.testing.assert_allclose(part, sound[RATE // 2 : RATE], atol=0.05)


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
def test_the_sound_of_a_part_is_whole(tmp_path, ending):
    path = tiny_media.write_clip(tmp_path / f"a{ending}", 4.0)
    whole = read_sound(Span(path), 30)
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        begin = float(stream.start_time * stream.time_base)
    for start in (0.3, 1.0, 1.7, 2.5):
        part = read_sound(Span(path, start, start + 1), 30)
        first = round((start - begin) * RATE)
        np.testing.assert_allclose(part, whole[first : first + RATE], atol=0.02)


def test_what_a_file_lacks_is_empty(tmp_path):
    mute = tiny_media.write_clip(tmp_path / "mute.mp4", sound=False)
    blind = tiny_media.write_clip(tmp_path / "blind.mp4", picture=False)
    assert not len(read_sound(Span(mute), 30)) and len(read_frames(Span(mute), 2, 64))
    assert not len(read_frames(Span(blind), 2, 64)) and len(read_sound(Span(blind), 30))
    assert abs(measure(blind) - 2) < 0.2


@pytest.mark.parametrize("content", [b"", b"no video at all", None])
def test_a_broken_clip_is_named_as_such(tmp_path, clip, content):
    path = tmp_path / "broken.mp4"
    path.write_bytes(clip.read_bytes()[:400] if content is None else content)
    for read in (lambda: read_frames(Span(path), 2, 64), lambda: read_sound(Span(path), 30)):
        with pytest.raises(Unreadable):
            read()
    with pytest.raises(Unreadable):
        measure(path)


@pytest.mark.parametrize(
    "make", [tiny_media.vit, tiny_media.clip, tiny_media.resnet, tiny_media.convnext]
)
def test_an_image_encoder_gives_mean_and_deviation_over_frames(tmp_path, clip, make):
    encoder = VisualEncoder(make(tmp_path / "e"))
    frames = read_frames(Span(clip), 10, 64)
    row = encoder(frames)
    assert row.shape == (encoder.width,) == (2 * tiny_media.HIDDEN,) and row.dtype == np.float32
    each = np.stack([encoder(frames[n : n + 1])[: tiny_media.HIDDEN] for n in range(len(frames))])
    np.testing.assert_allclose(row, [*each.mean(axis=0), *each.std(axis=0)], atol=1e-5)
    assert np.all(encoder(frames[:1])[tiny_media.HIDDEN :] == 0)
    assert encoder(frames[:0]) is None


def test_a_video_encoder_takes_its_number_of_frames(tmp_path, clip):
    encoder = VisualEncoder(tiny_media.videomae(tmp_path / "e"))
    frames = read_frames(Span(clip), 10, 64)
    assert encoder.frames == tiny_media.FRAMES and encoder.width == tiny_media.HIDDEN
    spaced = frames[[0, 6, 13, 19]]
    np.testing.assert_allclose(encoder(frames), encoder(spaced), atol=1e-6)
    assert np.any(np.abs(encoder(frames) - encoder(frames[::-1])) > 1e-6)
    # Fewer frames than it takes are there twice.
    np.testing.assert_allclose(encoder(frames[:1]), encoder(frames[[0, 0, 0, 0]]), atol=1e-6)


def test_an_encoder_that_learnt_from_hidden_patches_sees_them_all(tmp_path, clip):
    """ViT-MAE would hide three quarters of them, drawn anew for each picture."""
    frames = read_frames(Span(clip), 10, 64)
    whole, ordered = VisualEncoder(tiny_media.vit_mae(tmp_path / "e")), frames[::-1]
    row = whole(frames)
    np.testing.assert_allclose(whole(ordered), row, atol=1e-5)
    np.testing.assert_allclose(whole(frames), row, atol=1e-5)


def save_less(model, folder, *less):
    """Saves a model without some of its weights, as files of other tasks lack them."""
    held = {k: v for k, v in model.state_dict().items() if not k.startswith(less)}
    assert len(held) < len(model.state_dict())
    model.save_pretrained(folder, state_dict=held)


def test_a_pooler_that_a_folder_lacks_is_not_drawn_at_random(tmp_path, clip):
    import torch

    folder, frames = tiny_media.vit(tmp_path / "e"), read_frames(Span(clip), 2, 64)
    model = VisualEncoder(folder)._model
    save_less(model, folder, "pooler.")
    encoder = VisualEncoder(folder)
    pixels = encoder._prepare(list(frames), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        tokens = model(pixel_values=pixels).last_hidden_state.mean(dim=1).numpy()
    row = encoder(frames)
    np.testing.assert_allclose(row, [*tokens.mean(axis=0), *tokens.std(axis=0)], atol=1e-6)
    np.testing.assert_array_equal(VisualEncoder(folder)(frames), row)


@pytest.mark.parametrize(
    ("make", "encoder", "less"),
    [
        (tiny_media.vit, VisualEncoder, "embeddings.cls_token"),
        (tiny_media.clip, VisualEncoder, "vision_model.embeddings.class_embedding"),
        (tiny_media.wav2vec, SpeechEncoder, "feature_projection.projection.weight"),
        (tiny_media.whisper, SpeechEncoder, "encoder.conv1.weight"),
    ],
)
def test_an_encoder_that_lacks_weights_is_refused(tmp_path, make, encoder, less):
    import transformers

    folder = make(tmp_path / "e")
    save_less(transformers.AutoModel.from_pretrained(folder), folder, less)
    with pytest.raises(UserError, match=f"e: lacks weights .* such as .*{less.split('.')[-1]}"):
        encoder(folder)


@pytest.mark.parametrize(
    ("make", "encoder", "less"),
    [
        (tiny_media.clip, VisualEncoder, "text_model."),
        (tiny_media.wav2vec, SpeechEncoder, "masked_spec_embed"),
        (tiny_media.whisper, SpeechEncoder, "decoder."),
    ],
)
def test_weights_that_nothing_reads_may_be_missing(tmp_path, make, encoder, less):
    import transformers

    folder = make(tmp_path / "e")
    save_less(transformers.AutoModel.from_pretrained(folder), folder, less)
    encoder(folder)


def test_a_crop_is_what_the_encoder_sees(tmp_path, clip):
    folder, frames = tiny_media.vit(tmp_path / "e"), read_frames(Span(clip), 2, 64)
    encoder = VisualEncoder(folder)
    left = [frame[:, :24] for frame in frames]
    np.testing.assert_allclose(encoder(left), encoder(frames[:, :, :24]), atol=1e-6)


def test_a_speech_encoder_gives_mean_and_deviation_of_a_layer(tmp_path):
    folder = tiny_media.wav2vec(tmp_path / "e")
    sound = np.random.default_rng(0).normal(0, 0.1, RATE // 4).astype(np.float32)
    rows = {layer: SpeechEncoder(folder, layer)(sound) for layer in ("0", "1", "2", "-1", "mean")}
    assert all(row.shape == (2 * tiny_media.HIDDEN,) for row in rows.values())
    np.testing.assert_array_equal(rows["-1"], rows["2"])
    half = tiny_media.HIDDEN
    average = np.mean([rows[layer][:half] for layer in "012"], axis=0)
    np.testing.assert_allclose(rows["mean"][:half], average, atol=1e-5)
    assert np.any(rows["0"] != rows["1"])
    # Two convolutions, of 20 samples and of 8 steps of 10.
    encoder = SpeechEncoder(folder)
    assert encoder(sound[:89]) is None and encoder(sound[:90]) is not None


def test_whisper_gives_the_frames_of_the_sound_and_not_of_the_silence_after_it(tmp_path):
    encoder = SpeechEncoder(tiny_media.whisper(tmp_path / "e"))
    sound = np.random.default_rng(0).normal(0, 0.1, RATE // 2).astype(np.float32)
    row = encoder(sound)
    assert row.shape == (2 * tiny_media.HIDDEN,) and np.isfinite(row).all()
    import torch

    inputs = encoder._prepare(sound, sampling_rate=RATE, return_tensors="pt").input_features
    with torch.inference_mode():
        whole = encoder._encoder(inputs).last_hidden_state[0].numpy()
    np.testing.assert_allclose(row[: tiny_media.HIDDEN], whole[:25].mean(axis=0), atol=1e-5)
    assert encoder(sound[:0]) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda f: SpeechEncoder(tiny_media.wav2vec(f), "3"),
            "has layers 0 to 2, -1 for the last",
        ),
        (lambda f: SpeechEncoder(tiny_media.wav2vec(f), "last"), "--audio_layer=last"),
        (lambda f: SpeechEncoder(tiny_media.wav2vec(f, rate=8000)), "takes 8000 samples a second"),
        (lambda f: SpeechEncoder(tiny_media.spectrogram(f)), "takes pieces of one fixed length"),
        (lambda f: SpeechEncoder(str(f)), "cannot be loaded as an audio encoder"),
        (lambda f: VisualEncoder(tiny_media.wav2vec(f)), "cannot be loaded as a visual encoder"),
        (lambda f: SpeechEncoder(tiny_media.vit(f)), "cannot be loaded as an audio encoder"),
    ],
)
def test_other_encoders_are_refused_by_name(tmp_path, make, message):
    with pytest.raises(UserError, match=message) as caught:
        make(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_span_is_the_whole_file_by_default(clip):
    assert Span(clip) == Span(clip, 0.0, math.inf)
