r"""Writes a finished run as one file that only needs jax.

The file holds the inference program with its weights:

cberl export --workdir=runs/meld --output=model.bin

    program = jax.export.deserialize(open("model.bin", "rb").read())
    program.call(features, present, speaker, turns)

``model.bin.json`` says what goes in and what the classes are, ``model.bin.md`` what it is for.
"""

from absl import flags


def define_flags() -> None:
    """Defines the flags of the command."""
    from cberl_jax.serving.export import LENGTH

    flags.DEFINE_string("workdir", None, "Folder of a finished run.", required=True)
    flags.DEFINE_string("output", None, "The file to write or replace.", required=True)
    flags.DEFINE_integer("length", LENGTH, "Turns of the longest conversation.", 1)


def main() -> None:
    """Exports, and says what the program takes."""
    from cberl_jax.serving.export import export_run

    given = flags.FLAGS
    meaning = export_run(given.workdir, given.output, given.length)
    print(f"{given.output}: {meaning}")
