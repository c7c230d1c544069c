r"""CMU-MOSI: positive or negative in monologues, all three modalities.

    python experiments/train.py --config=experiments/configs/mosi.py --data=mosi.npz \
        --workdir=runs/mosi --seeds=8

Expected: about a minute on two cores; test weighted F1 0.789 over sixteen seeds.
"""

from cberl_jax.config.presets import mosi as get_config

__all__ = ["get_config"]
