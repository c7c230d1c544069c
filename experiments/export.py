r"""Writes a finished run's inference program with its weights, for those who have only jax.

python experiments/export.py --workdir=runs/meld --output=model.bin

    program = jax.export.deserialize(open("model.bin", "rb").read())
    program.call(features, present, speaker, turns)

``model.bin.json`` says what goes in and what the classes are, ``model.bin.md`` what it is for.
"""

from cberl_jax.commands import run

if __name__ == "__main__":
    run("export", __doc__)
