r"""Measures speed and memory: against PyTorch, by members, to the limit, at the start, by size.

python experiments/benchmark.py --config=experiments/configs/meld.py --data=meld.npz \
    --out=runs/bench

PyTorch is compared with where it is installed: pip install -e ".[bench]".
"""

from cberl_jax.commands import run

if __name__ == "__main__":
    run("benchmark", __doc__)
