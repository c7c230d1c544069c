r"""Trains every seed at every combination of some settings' values, and compares them on dev.

python experiments/sweep.py --config=experiments/configs/meld.py --data=meld.npz \
    --workdir=runs/sweep --seeds=16 --grid="loss.gamma=0,0.5,1,2,5" \
    --grid="optim.learning_rate=3e-4,1e-3"

The same command started again does what is missing.
"""

from cberl_jax.commands import run

if __name__ == "__main__":
    run("sweep", __doc__)
