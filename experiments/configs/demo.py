r"""The demonstration: four seeds on the small simulated corpus.

    python experiments/train.py --config=experiments/configs/demo.py --workdir=runs/demo --seeds=4

Expected: TIME
"""

from cberl_jax.settings import default_config


def get_config():
    """The settings of ``make demo``."""
    config = default_config()
    config.data.path = "simulated:small"
    return config
