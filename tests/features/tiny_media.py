"""Tiny random encoders as folders of transformers, and clips: the whole path runs without a net."""

import av
import numpy as np
import torch
import transformers as tf

# Of the tiny encoders.
SIZE, HIDDEN = 16, 8
FRAMES = 4
TRANSFORMER = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
}
PICTURES = {"image_size": SIZE, "patch_size": 8}


def save(folder, model, *processors):
    for part in (model, *processors):
        part.save_pretrained(folder)
    return str(folder)


def seeded(make):
    torch.manual_seed(0)
    return make()


def vit(folder):
    config = tf.ViTConfig(
        **TRANSFORMER,
        **PICTURES,
    )
    size = {"height": SIZE, "width": SIZE}
    return save(folder, seeded(lambda: tf.ViTModel(config)), tf.ViTImageProcessorPil(size=size))


def vit_mae(folder):
    config = tf.ViTMAEConfig(**TRANSFORMER, **PICTURES)
    size = {"height": SIZE, "width": SIZE}
    return save(folder, seeded(lambda: tf.ViTMAEModel(config)), tf.ViTImageProcessorPil(size=size))


def clip(folder):
    config = tf.CLIPConfig(
        vision_config=TRANSFORMER | PICTURES,
        text_config=TRANSFORMER | {"vocab_size": 20, "max_position_embeddings": 8},
        projection_dim=4,
    )
    crop = {"height": SIZE, "width": SIZE}
    processor = tf.CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=crop)
    return save(folder, seeded(lambda: tf.CLIPModel(config)), processor)


def videomae(folder):
    config = tf.VideoMAEConfig(
        **TRANSFORMER,
        **PICTURES,
        num_frames=FRAMES,
        tubelet_size=2,
    )
    crop = {"height": SIZE, "width": SIZE}
    processor = tf.VideoMAEImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=crop)
    return save(folder, seeded(lambda: tf.VideoMAEModel(config)), processor)


def resnet(folder):
    config = tf.ResNetConfig(
        embedding_size=4, hidden_sizes=[4, HIDDEN], depths=[1, 1], layer_type="basic"
    )
    size = {"height": SIZE, "width": SIZE}
    processor = tf.ViTImageProcessorPil(size=size)
    return save(folder, seeded(lambda: tf.ResNetModel(config)), processor)


def convnext(folder):
    config = tf.ConvNextConfig(hidden_sizes=[4, HIDDEN], depths=[1, 1], num_stages=2)
    processor = tf.ConvNextImageProcessorPil(size={"shortest_edge": 384})
    return save(folder, seeded(lambda: tf.ConvNextModel(config)), processor)


def spectrogram(folder):
    """Spectrograms of ten seconds, as an Audio Spectrogram Transformer takes them."""
    config = tf.ASTConfig(**TRANSFORMER, num_mel_bins=16, max_length=32)
    extractor = tf.ASTFeatureExtractor(num_mel_bins=16, max_length=32)
    return save(folder, seeded(lambda: tf.ASTModel(config)), extractor)


def wav2vec(folder, rate=16_000):
    config = tf.Wav2Vec2Config(
        **TRANSFORMER | {"num_hidden_layers": 2},
        conv_dim=(8, 8),
        conv_stride=(10, 8),
        conv_kernel=(20, 8),
        num_feat_extract_layers=2,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        vocab_size=8,
    )
    extractor = tf.Wav2Vec2FeatureExtractor(sampling_rate=rate, do_normalize=True)
    return save(folder, seeded(lambda: tf.Wav2Vec2Model(config)), extractor)


def whisper(folder):
    config = tf.WhisperConfig(
        d_model=HIDDEN,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=8,
        decoder_ffn_dim=8,
        num_mel_bins=8,
        vocab_size=20,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    extractor = tf.WhisperFeatureExtractor(feature_size=8)
    return save(folder, seeded(lambda: tf.WhisperModel(config)), extractor)


def grey(n, of):
    """The brightness of frame n of a clip."""
    return 30 + 200 * n // of


def write_clip(
    path, seconds=2.0, rate=10, tone=440.0, size=(48, 32), sound=True, picture=True, shown=None
):
    """A clip whose frames get brighter, or show one picture, with a sine for sound."""
    count, samples = round(seconds * rate), round(seconds * 16_000)
    size = size if shown is None else shown.shape[1::-1]
    with av.open(str(path), "w") as container:
        if picture:
            video = container.add_stream("mpeg4", rate=rate)
            video.width, video.height, video.pix_fmt = *size, "yuv420p"
        if sound:
            audio = container.add_stream("aac", rate=16_000, layout="mono")
        if picture:
            for n in range(count):
                pixels = np.full((size[1], size[0], 3), grey(n, count), np.uint8)
                pixels = pixels if shown is None else shown
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                container.mux(video.encode(frame))
            container.mux(video.encode(None))
        if sound:
            wave = 0.5 * np.sin(2 * np.pi * tone * np.arange(samples) / 16_000)
            frame = av.AudioFrame.from_ndarray(
                wave.astype(np.float32)[None], format="fltp", layout="mono"
            )
            frame.sample_rate = 16_000
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path
