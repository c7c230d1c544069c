r"""meld.

    python experiments/train.py --config=experiments/configs/meld.py --data=meld.npz \
        --workdir=runs/meld --seeds=8

Expected: TIME
"""

from cberl_jax.settings import default_config


def get_config():
    """The settings for meld."""
    return default_config()
