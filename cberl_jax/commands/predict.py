r"""Predicts the emotions of conversations with a finished run.

cberl predict --workdir=runs/meld --input=conversations.jsonl \
    --output=emotions.jsonl --traces=runs/traces
"""

from absl import flags


def define_flags() -> None:
    """Defines the flags of the command."""
    flags.DEFINE_string(
        "workdir", None, "Folder of a finished run, or of an exported model.", required=True
    )
    flags.DEFINE_string(
        "input",
        None,
        "Conversations: JSON lines, canonical .npz, a pickle of the field, or simulated:<size>.",
        required=True,
    )
    flags.DEFINE_string(
        "output",
        None,
        "File to write or replace, a line per turn: .jsonl (JSON lines), .csv or .parquet.",
        required=True,
    )
    flags.DEFINE_string("traces", None, "Folder for a picture of each conversation.")


def main() -> None:
    """Predicts, and says how much."""
    from cberl_jax.serving.model import predict_file

    given = flags.FLAGS
    predictions = predict_file(given.workdir, given.input, given.output, given.traces)
    for remark in predictions.corpus.remarks:
        print(f"worth a look: {remark}")
    print(f"{given.output}: {predictions.describe()}")
