r"""Predicts the emotions of conversations with a finished run.

cberl predict --workdir=runs/meld --input=conversations.jsonl \
    --output=emotions.jsonl --traces=runs/traces

Raw conversations, a table as ``cberl extract`` reads it, get their features as the run's were made:

cberl predict --workdir=runs/conv --input=conversation.csv --output=emotions.csv
"""

from absl import flags

# Of features that encoders make.
KINDS = ("text", "audio", "visual")


def define_flags() -> None:
    """Defines the flags of the command."""
    flags.DEFINE_string(
        "workdir", None, "Folder of a finished run, or of an exported model.", required=True
    )
    flags.DEFINE_string(
        "input",
        None,
        "Conversations: JSON lines, canonical .npz, a pickle of the field, or simulated:<size>; "
        "raw ones as a table (.csv) or as JSON lines without features.",
        required=True,
    )
    flags.DEFINE_string(
        "output",
        None,
        "File to write or replace, a line per turn: .jsonl (JSON lines), .csv or .parquet.",
        required=True,
    )
    flags.DEFINE_string("traces", None, "Folder for a picture of each conversation.")
    flags.DEFINE_multi_string("audio_dir", [], "Folder with the sounds of raw conversations.")
    flags.DEFINE_multi_string("video_dir", [], "Folder with the clips of raw conversations.")
    for kind in KINDS:
        flags.DEFINE_multi_string(
            f"{kind}_encoder",
            [],
            "Folder of the encoder that the run's features were made by, where the run's own "
            "folder does not hold it; several by several flags.",
        )
    flags.DEFINE_multi_string(
        "face_detector",
        [],
        "File of the face detector that the run's features were made with, where the run's own "
        "folder does not hold it.",
    )


def main() -> None:
    """Predicts, and says how much."""
    from cberl_jax.features.extract import parse_encoders
    from cberl_jax.serving.model import predict_file

    given = flags.FLAGS
    # They may be named as for cberl extract; the weights tell whose they are.
    named = [parse_encoders(getattr(given, f"{kind}_encoder"), kind) for kind in KINDS]
    predictions = predict_file(
        given.workdir,
        given.input,
        given.output,
        given.traces,
        encoders=[*(folder for own in named for folder in own.values()), *given.face_detector],
        audio_dir=given.audio_dir,
        video_dir=given.video_dir,
    )
    for remark in predictions.corpus.remarks:
        print(f"worth a look: {remark}")
    print(f"{given.output}: {predictions.describe()}")
