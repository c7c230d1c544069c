r"""Hands a finished run on: a file for jax, a folder, or ONNX.

``--format=jax`` writes one file with the inference program and its weights:

cberl export --workdir=runs/meld --output=model.bin

    program = jax.export.deserialize(open("model.bin", "rb").read())
    program.call(features, present, speaker, turns)

``model.bin.json`` says what goes in and what the classes are, ``model.bin.md`` what it is for.

``--format=folder`` writes weights, settings and model card into a new folder, with checksums:

cberl export --workdir=runs/meld --format=folder --output=mymodel

``--workdir=mymodel`` of ``predict`` and ``export`` takes it; nothing else of the run is needed.

``--format=onnx`` writes one file for people without Python. It needs an environment of its own, in
which it takes such a folder; docs/prediction.md says how.
"""

from collections.abc import Mapping
from typing import Any

from absl import flags

from cberl_jax.errors import UserError


def define_flags() -> None:
    """Defines the flags of the command."""
    from cberl_jax.serving.export import LENGTH

    flags.DEFINE_string(
        "workdir", None, "Folder of a finished run, or of an exported model.", required=True
    )
    flags.DEFINE_string(
        "output", None, "The file to write or replace, or the folder to make.", required=True
    )
    flags.DEFINE_enum(
        "format", "jax", ["jax", "folder", "onnx"], "What is written, for whom: see above."
    )
    flags.DEFINE_integer(
        "length", LENGTH, "Turns of the longest conversation that a jax or onnx file takes.", 1
    )


def main() -> None:
    """Exports, and says what the model takes."""
    from cberl_jax.api import export

    given = flags.FLAGS
    if given["length"].present and given.format == "folder":
        raise UserError("--length changes nothing with --format=folder, which takes any length")
    meaning = export(given.workdir, given.output, given.length, given.format)
    print(f"{given.output}: {_summarise(meaning)}")


def _summarise(meaning: Mapping[str, Any]) -> str:
    """What a model takes and gives."""
    widths = ", ".join(f"{name} {width}" for name, width in meaning["widths"].items())
    members = meaning["members"] if "members" in meaning else len(meaning["seeds"])
    length = f"{meaning['length']} at most" if "length" in meaning else "any number"
    return (
        f"members {members}; widths of features: {widths}; turns: {length}; "
        f"classes: {', '.join(meaning['classes'])}"
    )
