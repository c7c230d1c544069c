r"""CMU-MOSI: positive or negative in monologues, all three modalities.

    python experiments/train.py --config=experiments/configs/mosi.py --data=mosi.npz \
        --workdir=runs/mosi --seeds=8

Expected: about a minute on two cores; test accuracy 0.776.
"""

from cberl_jax.settings import default_config


def get_config():
    """The settings for MOSI, chosen on its dev split."""
    config = default_config()
    # Both classes are equally frequent, so nothing is generated and nothing is reweighted.
    config.augment.method = "none"
    config.loss.class_balance = 0.0
    config.optim.dropout = 0.5
    # Sixty videos: smaller batches, or there are too few steps to learn in.
    config.train.rows_per_batch = 2
    config.train.select = "accuracy"
    return config
