r"""Every setting at its default: where a corpus of your own starts.

    python experiments/train.py --config=experiments/configs/default.py \
        --data=corpus.npz --workdir=runs/corpus --seeds=8

Expected: not measured on every corpus; what it gave on MELD is in docs/defaults.md.
"""

from cberl_jax.config.settings import default_config as get_config

__all__ = ["get_config"]
