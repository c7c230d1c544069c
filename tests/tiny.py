"""A model and a training so small that compiling is all they take."""

from cberl_jax.config.settings import default_config
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.data.subset import select_modalities
from cberl_jax.models.cberl import ModelSettings
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
TINY_MODEL = ModelSettings(
    djvae=True,
    bilstm=True,
    graph=True,
    reconstruction=True,
    residual=True,
    residual_turns=0,
    causal=False,
    hidden=8,
    unroll=1,
    latent=3,
    heads=2,
    layers=2,
    past=2,
    future=1,
    attention="blocks",
    classifiers=3,
    classifier_hidden=4,
    subspace=0.5,
)
# Fewer parts compile faster. What is done with a model is the same.
BARE = {"augment.method": "none", "model.djvae": False, "model.reconstruction": False}
# The ensemble alone, on the features themselves.
NO_PARTS = BARE | {"model.bilstm": False, "model.graph": False}


def tiny_config(**changes):
    config = default_config()
    config.update_from_flattened_dict(TINY | changes)
    return config


def tiny_corpus(seed=0):
    """Two dozen dialogues of two modalities, some utterances without the second one."""
    corpus = simulate_corpus(create_process(), SimulatedSize(24, 6, 6, 6, 8), seed)
    return select_modalities(corpus, "text,audio")
