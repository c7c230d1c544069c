r"""Turns a researcher's pickle into the canonical ``.npz`` and prints what it holds.

python experiments/convert.py --input=MELD_features_raw1.pkl --output=meld.npz
"""

from absl import flags

from cberl_jax import cli
from cberl_jax.data.corpus import describe
from cberl_jax.data.readers.load import convert

INPUT = flags.DEFINE_string("input", None, "Pickle, .npz or simulated:<size>.", required=True)
OUTPUT = flags.DEFINE_string("output", None, "The .npz to write or replace.", required=True)


def main() -> None:
    """Converts one file."""
    print(describe(convert(INPUT.value, OUTPUT.value)))


if __name__ == "__main__":
    cli.run(main)
