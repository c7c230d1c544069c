r"""IEMOCAP: six emotions in acted and improvised dialogues of two.

    python experiments/train.py --config=experiments/configs/iemocap.py \
        --data=IEMOCAP_features.pkl --workdir=runs/iemocap --seeds=8

Expected: not measured, since the features cannot be passed on; the settings are those of MELD but
for batches that suit 120 dialogues of 50 turns, and a wider window.
"""

from cberl_jax.config.presets import iemocap as get_config

__all__ = ["get_config"]
