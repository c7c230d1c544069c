r"""Searches for the settings that are best on dev, by Optuna.

python experiments/search.py --config=experiments/configs/default.py --data=mine.npz \
    --workdir=runs/search --trials=256 --seeds=2

The same command started again goes on; started several times it shares the work.
"""

from cberl_jax.commands import run

if __name__ == "__main__":
    run("search", __doc__)
