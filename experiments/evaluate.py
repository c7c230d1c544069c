r"""Scores a finished run again, from its checkpoint, on the corpus it was trained on or another.

python experiments/evaluate.py --workdir=runs/meld --data=meld.npz
"""

from cberl_jax.commands import run

if __name__ == "__main__":
    run("evaluate", __doc__)
