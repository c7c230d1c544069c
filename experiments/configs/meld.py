r"""MELD: seven emotions in scenes of Friends, fear and disgust the rare ones.

    python experiments/train.py --config=experiments/configs/meld.py --data=meld.npz \
        --workdir=runs/meld --seeds=8

Expected: about three minutes on two cores; test weighted F1 0.620 and macro F1 0.443 over sixteen
seeds. For features of an encoder that was not tuned on MELD there is ``meld_frozen.py``.
"""

from cberl_jax.config.presets import meld as get_config

__all__ = ["get_config"]
