r"""CMU-MOSI: positive or negative in monologues, all three modalities.

    python experiments/train.py --config=experiments/configs/mosi.py --data=mosi.npz \
        --workdir=runs/mosi --seeds=8

Expected: about a minute on two cores; test accuracy 0.776.
"""

from cberl_jax.configs import mosi as get_config

__all__ = ["get_config"]
