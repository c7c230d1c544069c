r"""Fits unlike classifiers of scikit-learn to a corpus: what its features give without CBERL.

python experiments/baselines.py --config=experiments/configs/meld.py --data=meld.npz \
    --out=runs/baselines

``--ceiling`` adds what the same classifiers make of test dialogues once they have learnt from other
test dialogues too: no result, but whether a difference between the splits keeps their scores down.
"""

from cberl_jax.commands import run

if __name__ == "__main__":
    run("baselines", __doc__)
