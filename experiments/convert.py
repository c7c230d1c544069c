r"""Turns a researcher's pickle into the canonical ``.npz`` and prints what it holds.

python experiments/convert.py --input=MELD_features_raw1.pkl --output=meld.npz
"""

from cberl_jax.commands import run

if __name__ == "__main__":
    run("convert", __doc__)
