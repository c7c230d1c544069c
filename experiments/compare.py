r"""Compares two finished runs on test: differences with intervals and p values.

python experiments/compare.py runs/meld runs/meld_without_gan \
    --metrics=weighted_f1,macro_f1,"F1 fear","F1 disgust"
"""

from cberl_jax.commands import run

if __name__ == "__main__":
    run("compare", __doc__)
