r"""Turns a pickle of the field into the canonical .npz.

cberl convert --input=MELD_features_raw1.pkl --output=meld.npz
"""

from absl import flags


def define_flags() -> None:
    """Defines the flags of the command."""
    flags.DEFINE_string("input", None, "Pickle, .npz or simulated:<size>.", required=True)
    flags.DEFINE_string("output", None, "The .npz to write or replace.", required=True)


def main() -> None:
    """Converts one file."""
    from cberl_jax.data.corpus import describe
    from cberl_jax.data.readers.load import convert

    print(describe(convert(flags.FLAGS.input, flags.FLAGS.output)))
