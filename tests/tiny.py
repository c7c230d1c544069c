"""A model and a training so small that compiling is all they take."""

from cberl_jax.config.settings import default_config
from cberl_jax.runtime.progress import Progress

QUIET = Progress(lambda line: None)

TINY = {
    "gan.hidden": 4,
    "gan.noise": 2,
    "gan.steps": 3,
    "gan.batch_size": 8,
    "augment.balance": 0.4,
    "model.hidden": 8,
    "model.latent": 3,
    "model.heads": 2,
    "model.past": 3,
    "model.future": 3,
    "model.classifiers": 2,
    "model.classifier_hidden": 4,
    "train.epochs": 4,
    "train.rows_per_batch": 4,
}


def tiny_config(**changes):
    config = default_config()
    config.update_from_flattened_dict(TINY | changes)
    return config
