r"""MELD with text features of an encoder that has not seen its labels.

    python experiments/train.py --config=experiments/configs/meld_frozen.py \
        --data=meld_frozen.npz --workdir=runs/meld_frozen --seeds=8

Expected: about ten minutes on two cores; test weighted F1 0.585 and macro F1 0.404 over sixteen
seeds.
"""

from cberl_jax.config.presets import meld_frozen as get_config

__all__ = ["get_config"]
