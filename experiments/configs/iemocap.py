r"""iemocap.

    python experiments/train.py --config=experiments/configs/iemocap.py --data=iemocap.npz \
        --workdir=runs/iemocap --seeds=8

Expected: TIME
"""

from cberl_jax.settings import default_config


def get_config():
    """The settings for iemocap."""
    return default_config()
