r"""Trains CBERL with many seeds at once and writes a run's folder.

python experiments/train.py --config=experiments/configs/meld.py --data=meld.npz \
    --workdir=runs/meld --seeds=8 --config.loss.gamma=2

The same command started again goes on from the last checkpoint.
"""

from cberl_jax.commands import run

if __name__ == "__main__":
    run("train", __doc__)
