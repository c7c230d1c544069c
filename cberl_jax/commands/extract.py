r"""Makes features of raw conversations: text, sound, sight, timing.

cberl extract --transcript=conv.csv --audio_dir=wavs --output=conv.npz
cberl extract --transcript=conv.csv --video_dir=clips --visual_encoder=DINOV2 --output=conv.npz
cberl extract --transcript=train_sent_emo.csv,dev_sent_emo.csv,test_sent_emo.csv \
    --finetune=runs/encoder --context_past=8 --output=meld.npz
"""

from absl import flags

from cberl_jax import cli
from cberl_jax.errors import UserError


def define_flags() -> None:
    """Defines the flags of the command."""
    from cberl_jax.features.sound_and_sight import EGEMAPS
    from cberl_jax.features.text import PACKAGED
    from cberl_jax.features.tuning import LOSSES, PRECISIONS
    from cberl_jax.metrics import SELECTIONS

    flags.DEFINE_multi_string(
        "transcript", None, "CSV files: our own layout, MELD's or EmoryNLP's.", required=True
    )
    flags.DEFINE_string("output", None, "The .npz to write or replace.")
    flags.DEFINE_boolean(
        "check", False, "Only list what is wrong with tables and clips, and what is done about it."
    )
    flags.DEFINE_list("classes", [], "Names of the emotions in their order.")
    flags.DEFINE_float("dev_share", 0.0, "Share of train for dev if there is none.", 0, 0.5)
    flags.DEFINE_multi_string(
        "audio_dir", [], "Folder with the utterances' sounds, or one for each transcript."
    )
    flags.DEFINE_multi_string(
        "video_dir",
        [],
        "Folder with the utterances' clips or the dialogues' videos, or one for each transcript; "
        "without --audio_dir sound is taken from them, too.",
    )
    flags.DEFINE_multi_string(
        "audio_encoder",
        [EGEMAPS],
        "egemaps, or a speech encoder of transformers (wav2vec 2.0, HuBERT, WavLM, Whisper), "
        "folder or name; several as for --text_encoder.",
    )
    flags.DEFINE_string("audio_layer", "-1", "Layer of the speech encoders; -1 the last; or mean.")
    flags.DEFINE_multi_string(
        "visual_encoder",
        [],
        "An image or video encoder of transformers (CLIP, DINOv2, ViT, VideoMAE), folder or name; "
        "several as for --text_encoder.",
    )
    flags.DEFINE_string(
        "face_detector",
        "",
        "A face detector of OpenCV, YuNet's .onnx or a Haar cascade's .xml: visual encoders see "
        "the largest face of each frame, and no frame without one.",
    )
    flags.DEFINE_float("frames_per_second", 2.0, "Of the videos that are looked at.", 0.01, 1000)
    flags.DEFINE_multi_string(
        "text_encoder",
        PACKAGED,
        "A model of transformers or sentence-transformers, folder or name; empty for no text. "
        "Given several times, each makes a view of the text: minilm=FOLDER makes text.minilm.",
    )
    flags.DEFINE_integer("context_past", None, "Turns before that text is read with; 0.", 0, 1000)
    flags.DEFINE_integer("context_future", None, "Turns after that text is read with; 0.", 0, 1000)
    flags.DEFINE_integer(
        "context_tokens", None, "Tokens of text and context, from the nearest turns on; 64.", 8
    )
    flags.DEFINE_boolean(
        "speaker_names", None, "Whether turns begin with speakers' names; with a context they do."
    )
    flags.DEFINE_boolean("causal", False, "Whether no feature may come from a later turn.")
    flags.DEFINE_string(
        "timing", "timing", "Modality that timing features go under; empty for none."
    )
    flags.DEFINE_multi_string(
        "features", [], "modality=file.npz: vectors from elsewhere, such as visual=video.npz."
    )
    flags.DEFINE_string(
        "finetune", "", "New folder for the text encoder, which is then tuned on the train split."
    )
    flags.DEFINE_integer("finetune_epochs", 3, "Epochs, the best of them on dev kept.", 1)
    flags.DEFINE_float("finetune_learning_rate", 2e-5, "Highest learning rate of AdamW.", 0.0)
    flags.DEFINE_enum("finetune_select", "mean_f1", SELECTIONS, "Dev metric that picks the epoch.")
    flags.DEFINE_integer("finetune_patience", 2, "Epochs without a gain on dev that end it.", 1)
    flags.DEFINE_enum("finetune_loss", "cross_entropy", LOSSES, "Loss of the tuning.")
    flags.DEFINE_float("finetune_gamma", 1.0, "Focusing factor of the focal loss.", 0.0, 100.0)
    flags.DEFINE_float(
        "finetune_class_balance", 0.0, "Beta of class weights, such as 0.999; 0 for none.", 0.0, 1.0
    )
    flags.DEFINE_float(
        "finetune_contrastive", 0.0, "Weight of the contrastive term with prototypes.", 0.0
    )
    flags.DEFINE_integer("freeze_layers", 0, "Lowest layers of the encoder that do not learn.", 0)
    flags.DEFINE_float("layer_decay", 1.0, "Each layer learns so much slower than the next.", 0, 1)
    flags.DEFINE_enum(
        "precision",
        "auto",
        PRECISIONS,
        "Of the tuning; auto takes bfloat16 where the machine multiplies it.",
    )
    flags.DEFINE_integer(
        "crossfit", 0, "Folds of train, each with features of an encoder that did not see it.", 0
    )
    flags.DEFINE_integer("seed", 0, "Seed of the tuning.", 0)
    flags.DEFINE_integer(
        "finetune_seeds",
        1,
        "Seeds that the encoder is tuned with, from --seed on. Of several each leaves its encoder "
        "in <finetune>/s<seed>, and the view text.s<seed>, or text.NAME_s<seed> of "
        "--text_encoder=NAME=ENCODER.",
        1,
    )


# Flags that mean nothing without --finetune, and without --text_encoder.
_OF_TUNING = (
    *("finetune_epochs", "finetune_learning_rate", "finetune_select", "finetune_patience"),
    *("finetune_loss", "finetune_gamma", "finetune_class_balance", "finetune_contrastive"),
    *("freeze_layers", "layer_decay", "precision", "crossfit", "finetune_seeds", "seed"),
)
_OF_TEXT = ("context_past", "context_future", "context_tokens", "speaker_names")


def _check_use(names: tuple[str, ...], needed: str) -> None:
    """Refuses flags that would change nothing, since the one that they need is empty."""
    unused = [name for name in names if flags.FLAGS[name].present]
    if unused and not any(flags.FLAGS[needed].value or ()):
        raise UserError(f"--{unused[0]} changes nothing without --{needed}.")


def _paths(items: list[str]) -> list[str]:
    """Paths that are given by several flags, or by one and joined by commas."""
    return [path for item in items for path in item.split(",") if path]


def main() -> None:
    """Extracts, and says what the file holds."""
    from cberl_jax.data.notices import describe_with_notices
    from cberl_jax.features.context import create_context
    from cberl_jax.features.extract import Sources, check, extract, parse_encoders, parse_vectors
    from cberl_jax.features.sound_and_sight import EGEMAPS, MediaSources
    from cberl_jax.features.tuning import Loss, Tuning
    from cberl_jax.runtime.progress import print_now

    given = flags.FLAGS
    _check_use(_OF_TUNING, "finetune")
    _check_use(_OF_TEXT, "text_encoder")
    _check_use(("frames_per_second",), "visual_encoder")
    audio_encoders = parse_encoders(given.audio_encoder, "audio")
    if given["audio_layer"].present and set(audio_encoders.values()) <= {EGEMAPS}:
        raise UserError("--audio_layer changes nothing without a speech encoder: --audio_encoder.")
    if given["finetune_gamma"].present and given.finetune_loss != "focal":
        raise UserError("--finetune_gamma changes nothing without --finetune_loss=focal.")
    sources = Sources(
        transcripts=_paths(given.transcript),
        classes=given.classes,
        media=MediaSources(
            audio_folders=_paths(given.audio_dir),
            video_folders=_paths(given.video_dir),
            audio_encoders=audio_encoders,
            audio_layer=given.audio_layer,
            visual_encoders=parse_encoders(given.visual_encoder, "visual"),
            frame_rate=given.frames_per_second,
            face_detector=given.face_detector,
        ),
        text_encoder=parse_encoders(given.text_encoder),
        timing=given.timing,
        vectors=parse_vectors(given.features),
        tuned=given.finetune,
        tuning=Tuning(
            given.finetune_epochs,
            given.finetune_learning_rate,
            given.seed,
            loss=Loss(
                given.finetune_loss,
                given.finetune_gamma,
                given.finetune_class_balance,
                given.finetune_contrastive,
            ),
            select=given.finetune_select,
            patience=given.finetune_patience,
            freeze_layers=given.freeze_layers,
            layer_decay=given.layer_decay,
            precision=given.precision,
            crossfit=given.crossfit,
        ),
        tuned_seeds=given.finetune_seeds,
        dev_share=given.dev_share,
        context=create_context(
            given.context_past, given.context_future, given.context_tokens, given.speaker_names
        ),
        causal=given.causal,
    )
    if given.check:
        print("\n".join(map(str, check(sources, print_now))) or "nothing is wrong")
        return
    if given.output is None:
        raise UserError("--output is missing: it names the .npz to write")
    with cli.explaining_interrupts():
        corpus = extract(sources, given.output, print_now)
    print(describe_with_notices(corpus))
    print(f"written: {given.output}")
