r"""mosi.

    python experiments/train.py --config=experiments/configs/mosi.py --data=mosi.npz \
        --workdir=runs/mosi --seeds=8

Expected: TIME
"""

from cberl_jax.settings import default_config


def get_config():
    """The settings for mosi."""
    return default_config()
