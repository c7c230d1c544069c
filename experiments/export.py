r"""Writes a finished run's inference program with its weights, for those who have only jax.

python experiments/export.py --workdir=runs/meld --output=model.bin

    program = jax.export.deserialize(open("model.bin", "rb").read())
    program.call(features, present, speaker, turns)

``model.bin.json`` says what goes in and what the classes are, ``model.bin.md`` what it is for.
"""

from absl import flags

from cberl_jax import cli
from cberl_jax.serving.export import LENGTH, export_run

WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished run.", required=True)
OUTPUT = flags.DEFINE_string("output", None, "The file to write or replace.", required=True)
TURNS = flags.DEFINE_integer("length", LENGTH, "Turns of the longest conversation.", 1)


def main() -> None:
    """Exports, and says what the program takes."""
    meaning = export_run(WORKDIR.value, OUTPUT.value, TURNS.value)
    print(f"{OUTPUT.value}: {meaning}")


if __name__ == "__main__":
    cli.run(main)
