"""Numbers that stay true: precise losses, extreme features, a run whose figures are known."""

import dataclasses
import json
import os
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import QUIET, tiny_config, tiny_corpus

from cberl_jax import losses
from cberl_jax.data.readers.npz import write_npz
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.models.mgnn import BLOCKS, EDGES
from cberl_jax.studies.train import train_and_evaluate
from cberl_jax.training.epoch import NEVER
from cberl_jax.training.fleet import Fleet
from cberl_jax.training.outcome import find_divergence
from cberl_jax.training.prepare import list_members, prepare

GOLDEN = Path(__file__).parent / "golden.jsonl"
# Set it to write the figures of today's program down:
# RENEW_GOLDEN=1 pytest tests/training/test_numerics.py
RENEW = "RENEW_GOLDEN"


def draw(*shape, scale=1.0, seed=0):
    return scale * np.random.default_rng(seed).normal(size=shape)


def focal(logits):
    labels = jnp.arange(len(logits)) % logits.shape[-1]
    return losses.focal_loss(logits, labels, gamma=2.0, label_smoothing=0.05)


# Each loss as a function of float arrays, and such arrays, from usual to extreme.
PRECISE = {
    "focal": (focal, [draw(64, 7, scale=5.0)]),
    "focal, sure": (focal, [draw(64, 7, scale=60.0)]),
    "class weights": (
        lambda counts: losses.class_balanced_weights(counts, beta=0.999),
        [np.array([4710.0, 1743.0, 1205.0, 1109.0, 683.0, 271.0, 268.0])],
    ),
    "log prior": (losses.log_prior, [np.array([4710.0, 271.0, 1.0])]),
    "scaled cosine": (
        lambda a, b: losses.scaled_cosine_error(a, b, alpha=2.0),
        [draw(64, 30), draw(64, 30, seed=1)],
    ),
    "divergence": (
        losses.gaussian_kl,
        [draw(64, 8), draw(64, 8, scale=3.0, seed=1), draw(64, 8, seed=2), draw(64, 8, seed=3)],
    ),
    "free bits": (
        lambda kl, weights: losses.free_bits(kl, weights, minimum=0.1),
        [np.abs(draw(64, 8)), np.abs(draw(64, seed=1))],
    ),
    "reconstruction": (losses.gaussian_reconstruction, [draw(64, 30), draw(64, 30, seed=1)]),
    "adversarial": (lambda s: losses.least_squares_adversarial(s, 1.0), [draw(64, scale=100.0)]),
    "identity": (losses.identity_loss, [draw(64, 30), draw(64, 30, seed=1)]),
    "weighted mean": (losses.weighted_mean, [draw(10_000), np.abs(draw(10_000, seed=1))]),
}


@pytest.mark.parametrize("name", PRECISE)
def test_a_loss_and_its_gradient_are_those_of_float64(name):
    loss, arguments = PRECISE[name]

    def both(dtype):
        given = [jnp.asarray(x, dtype) for x in arguments]
        # Squared: class weights have a constant sum.
        gradient = jax.grad(lambda *x: jnp.sum(jnp.square(loss(*x))))(*given)
        return np.asarray(loss(*given)), np.asarray(gradient)

    single = both(jnp.float32)
    with jax.enable_x64(True):
        double = both(jnp.float64)
    assert double[0].dtype == np.float64
    for found, wanted in zip(single, double):
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-6 * np.abs(wanted).max())


def test_every_loss_has_its_float64_reference():
    public = {n for n, f in vars(losses).items() if callable(f) and f.__module__ == losses.__name__}
    public = {name for name in public if not name.startswith("_")}
    assert len(PRECISE) >= len(public) == 10


def corpus_of(change):
    """A corpus whose text features are changed after they were drawn."""
    corpus = tiny_corpus()
    text = change(corpus.features["text"].copy()).astype(np.float32)
    return dataclasses.replace(corpus, features=dict(corpus.features) | {"text": text})


def one_huge(text):
    text[3, 0] = 1e30
    text[5, 1] = -3e38
    return text


EXTREME = {
    "huge": lambda text: text * np.float64(1e30),
    "denormal": lambda text: text * np.float64(1e-42),
    "zero": lambda text: text * 0.0,
    "constant": lambda text: text * 0.0 + 7.0,
    "one huge": one_huge,
    "usual": lambda text: text,
}


@pytest.fixture(scope="module")
def compiled():
    """Both stages, compiled once: the corpora below differ in their numbers alone.

    They are the programs of ``test_members.py``, which may have been compiled before.
    """
    prepared = prepare(tiny_config(), corpus_of(EXTREME["usual"]))
    members = list_members(tiny_config(), range(5))
    return members, Fleet(prepared.program, 5, jax.local_devices()[:1])


@pytest.mark.parametrize("name", EXTREME)
def test_losses_and_parameters_stay_finite_on_extreme_features(name, compiled):
    members, fleet = compiled
    prepared = prepare(tiny_config(), corpus_of(EXTREME[name]))
    state = fleet.shard(fleet.create(members.seeds, members.hyper))
    shared, hyper = fleet.replicate(prepared.data), fleet.shard(members.hyper)
    for stage in fleet.stages:
        epoch = fleet.compile(stage, fleet.stages[stage], (state, shared, hyper), keep=True)
        for _ in range(2):
            state, record = epoch(state, shared, hyper)
        chex.assert_tree_all_finite(fleet.gather(record, 5))
    state = fleet.gather(state, 5)
    chex.assert_tree_all_finite(state)
    assert np.all(state.joint.diverged == NEVER) and find_divergence(state, 0) is None


@pytest.mark.parametrize("attention", [BLOCKS, pytest.param(EDGES, marks=pytest.mark.slow)])
def test_the_figures_of_a_known_run_have_not_changed(tmp_path, attention):
    """Rounding differs between machines, and grows: the tolerance is for that, not for changes."""
    corpus = simulate_corpus(create_process(), SimulatedSize(40, 8, 8, 6, 8), seed=0)
    write_npz(corpus, tmp_path / "corpus.npz")
    config = tiny_config(**{"data.path": str(tmp_path / "corpus.npz"), "gan.epochs": 2})
    config.model.attention = attention
    train_and_evaluate(config, str(tmp_path / "run"), [0, 1], QUIET, pictures=False)
    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    if RENEW in os.environ and attention == BLOCKS:
        GOLDEN.write_text("".join(json.dumps(line) + "\n" for line in lines))
    golden = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
    assert len(lines) == len(golden) == 2 * (2 + 4)
    for line, known in zip(lines, golden):
        assert line.keys() == known.keys()
        assert line["stage"] == known["stage"]
        for name in line.keys() - {"stage"}:
            scores = name.startswith("dev_") or name == "agreement"
            tolerance = {"abs": 0.03} if scores else {"rel": 5e-3}
            assert line[name] == pytest.approx(known[name], **tolerance), (name, known)
