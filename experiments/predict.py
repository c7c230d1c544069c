r"""Predicts the emotions of conversations with a finished run.

python experiments/predict.py --workdir=runs/meld --input=conversations.jsonl \
    --output=emotions.jsonl --traces=runs/traces
"""

from absl import flags

from cberl_jax import cli
from cberl_jax.serving.model import predict_file

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished run.", required=True)
INPUT = flags.DEFINE_string(
    "input",
    None,
    "Conversations: JSON lines, canonical .npz, a pickle of the field, or simulated:<size>.",
    required=True,
)
OUTPUT = flags.DEFINE_string(
    "output", None, "JSON lines to write or replace, one per turn.", required=True
)
TRACES = flags.DEFINE_string("traces", None, "Folder for a picture of each conversation.")


def main() -> None:
    """Predicts, and says how much."""
    predictions = predict_file(WORKDIR.value, INPUT.value, OUTPUT.value, TRACES.value)
    print(f"{OUTPUT.value}: {predictions.describe()}")


if __name__ == "__main__":
    cli.run(main)
