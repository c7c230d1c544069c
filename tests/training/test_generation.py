"""What the generators learn, how near to dev that is, and which epoch of it is kept."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import NO_PARTS, tiny_config

from cberl_jax.config.settings import default_config, traced_settings
from cberl_jax.data.gate import (
    FEWEST,
    count_axes,
    create_gate,
    fit_moments,
    fit_subspace,
    frechet_distance,
    gate_distance,
)
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.data.subset import select_modalities
from cberl_jax.models.flow import Flow
from cberl_jax.models.gan import GAN
from cberl_jax.training.epoch import create_state, gan_epoch
from cberl_jax.training.flow_step import flow_loss
from cberl_jax.training.gan_step import Batch, Utterances, gan_optimizer, gan_step
from cberl_jax.training.prepare import list_members, prepare

WIDTHS = {"text": 3, "audio": 2}
HYPER = {k: jnp.float32(v) for k, v in traced_settings(default_config()).items()}


def toy(seed, label, count=256):
    """Class 1 lies aside of class 0, and is flat and tilted where class 0 is round."""
    text, audio = np.random.default_rng(seed).normal(size=(2, count, 3))
    if label:
        text = text @ np.array([[0.4, 0.0, 0.0], [0.0, 1.0, 0.9], [0.0, 0.0, 0.3]]) + [2.0, 0, 0]
    features = {"text": jnp.float32(text), "audio": jnp.float32(audio[:, :2] + label)}
    present = {m: jnp.ones(count, bool) for m in WIDTHS}
    return Utterances(features, present, jnp.full(count, label, jnp.int32))


def distance(features, real):
    """The Fréchet distance of all features together."""
    both = (np.concatenate([x[m] for m in WIDTHS], axis=1) for x in (features, real.features))
    return float(frechet_distance(*map(fit_moments, both)))


@functools.cache
def trained_gan():
    """A function of the settings: what the toy's sources become after a GAN's training."""
    gan = GAN(hidden=32, noise=4, classes=2)
    source, target = toy(0, 0), toy(1, 1)

    def step(hyper, carry, key):
        noise_key, *keys = jax.random.split(key, 3)
        places = [jax.random.randint(key, (64,), 0, 256) for key in keys]
        drawn = [
            jax.tree.map(lambda x, i=chosen: x[i], own)
            for chosen, own in zip(places, (source, target))
        ]
        noise = jax.random.normal(noise_key, (64, 4))
        *carry, record = gan_step(gan, *carry, Batch(*drawn, noise), hyper)
        return tuple(carry), record

    @jax.jit
    def train(hyper):
        params = gan.init(jax.random.key(0), WIDTHS)
        optimizers = {
            group: gan_optimizer(hyper).init({n: params[n] for n in names})
            for group, names in gan.groups.items()
        }
        keys = jax.random.split(jax.random.key(1), 500)
        (params, _), _ = jax.lax.scan(functools.partial(step, hyper), (params, optimizers), keys)
        fresh = toy(2, 0)
        return gan.generate(params["to_target"], keys[0], fresh.features, target.label)

    return train


def test_the_adversarial_terms_bring_generated_utterances_near_and_nothing_else_does():
    real, hyper = toy(3, 1), HYPER | {"gan.learning_rate": jnp.float32(2e-3)}
    before = distance(toy(2, 0).features, real)
    with_them = distance(trained_gan()(hyper), real)
    off = {"gan.adversarial": jnp.float32(0.0), "gan.joint": jnp.float32(0.0)}
    without = distance(trained_gan()(hyper | off), real)
    assert with_them < 0.2 * before
    # A classifier shows the way, but not where to stop.
    assert without > 2 * with_them and without > 0.4 * before


def test_the_flow_makes_the_class_out_of_noise():
    flow, real = Flow(hidden=32, classes=2), toy(3, 1)
    both = jax.tree.map(lambda *x: jnp.concatenate(x), toy(0, 0), toy(1, 1))
    hyper = HYPER | {"gan.learning_rate": jnp.float32(5e-3)}

    @jax.jit
    def train():
        params = flow.init(jax.random.key(0), WIDTHS)["velocity"]
        optimizer = gan_optimizer(hyper)

        def step(carry, key):
            params, state = carry
            loss, slope = jax.value_and_grad(lambda p: flow_loss(flow, p, both, key))(params)
            update, state = optimizer.update(slope, state)
            return (jax.tree.map(jnp.add, params, update), state), loss

        keys = jax.random.split(jax.random.key(1), 600)
        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), keys)
        return flow.generate(params, keys[0], real.features, real.label)

    noise = {m: jax.random.normal(jax.random.key(5), x.shape) for m, x in real.features.items()}
    assert distance(train(), real) < 0.2 * distance(noise, real)


def test_the_flow_loss_by_hand_and_without_absent_features():
    class Still:
        """A velocity of zero: the loss is the mean square of x_1 - x_0."""

        def velocity(self, params, values, time, label):
            return jnp.zeros_like(values)

    real, key = toy(0, 1), jax.random.key(0)
    loss = flow_loss(Still(), None, real, key)
    start = jax.random.normal(jax.random.split(key)[0], (256, 5))
    end = np.concatenate([real.features["audio"], real.features["text"]], axis=1)
    assert float(loss) == pytest.approx(float(np.mean((end - start) ** 2)), rel=1e-4)
    absent = real._replace(present={**real.present, "text": jnp.zeros(256, bool)})
    alone = float(flow_loss(Still(), None, absent, key))
    assert alone == pytest.approx(float(np.mean((end - start)[:, :2] ** 2)), rel=1e-4)


CORPUS = simulate_corpus(create_process(), SimulatedSize(60, 30, 4, 6, 8), seed=1)


def prepared(**changes):
    return prepare(tiny_config(**changes), CORPUS)


def test_the_gate_is_the_mean_share_of_the_sources_distance():
    data = prepared().data
    generator = np.random.default_rng(0)
    made = {
        m: x[data.sources[:, 0]] + generator.normal(size=(len(data.place), x.shape[1]))
        for m, x in data.table.features.items()
    }
    shares, few = [], 0
    for modality, values in data.table.features.items():
        there = data.table.present[modality]
        subspace = fit_subspace(values[CORPUS.in_split("train") & there])
        for label in np.unique(CORPUS.label[data.place]):
            dev = values[CORPUS.in_split("dev") & (CORPUS.label == label) & there]
            own = (CORPUS.label[data.place] == label) & there[data.sources[:, 0]]
            if min(len(dev), own.sum()) < FEWEST:
                few += 1
                continue
            axes = count_axes(len(dev), values.shape[1])
            dev, sources, ours = (
                fit_moments(subspace.transform(x)[:, :axes])
                for x in (dev, values[data.sources[own, 0]], made[modality][own])
            )
            shares.append(frechet_distance(dev, ours) / frechet_distance(dev, sources))
    assert few and len(shares) > 3
    jitted = jax.jit(gate_distance)
    assert float(jitted(data.gate, made)) == pytest.approx(np.mean(shares), rel=1e-3)
    unchanged = {m: x[data.sources[:, 0]] for m, x in data.table.features.items()}
    assert float(jitted(data.gate, unchanged)) == pytest.approx(1.0, rel=1e-3)


def test_there_is_no_gate_without_enough_dev_utterances_or_where_it_is_off():
    assert not prepared(**{"gan.gate": False}).data.gate
    data, label = prepared().data, CORPUS.label
    rare = CORPUS.in_split("dev") & np.isin(label, label[data.place])
    table = data.table
    present = {m: x & ~rare for m, x in table.present.items()}
    assert not create_gate(CORPUS, table.features, present, data.place, data.sources[:, 0])


@pytest.mark.parametrize("method", ["gan", "flow"])
def test_the_epoch_nearest_to_dev_is_kept(method):
    config = tiny_config(**NO_PARTS | {"augment.method": method, "gan.learning_rate": 0.02})
    ready, members = prepare(config, select_modalities(CORPUS, "text")), list_members(config, [3])
    hyper = {name: values[0] for name, values in members.hyper.items()}
    state = jax.jit(functools.partial(create_state, ready.program))(3, hyper)
    epoch = jax.jit(functools.partial(gan_epoch, ready.program))
    distances, averages = [], []
    for _ in range(6):
        state, record = epoch(state, ready.data, hyper)
        distances.append(float(record["dev_distance"]))
        averages.append(state.gan.average)
    nearest = int(np.argmin(distances))
    assert int(state.gan.best_epoch) == nearest
    assert float(state.gan.best_distance) == pytest.approx(distances[nearest])
    chex.assert_trees_all_equal(state.gan.best, averages[nearest])
    # Where there is no gate, the last.
    ungated, _ = jax.jit(functools.partial(gan_epoch, ready.program))(
        state, ready.data._replace(gate={}), hyper
    )
    assert int(ungated.gan.best_epoch) == 6
    chex.assert_trees_all_equal(ungated.gan.best, ungated.gan.average)


def test_the_last_epoch_is_kept_where_no_distance_is_a_number():
    config = tiny_config(**NO_PARTS | {"augment.method": "gan"})
    ready, members = prepare(config, select_modalities(CORPUS, "text")), list_members(config, [3])
    hyper = {name: values[0] for name, values in members.hyper.items()}
    broken = {m: own._replace(centre=own.centre * np.nan) for m, own in ready.data.gate.items()}
    epoch = jax.jit(functools.partial(gan_epoch, ready.program))
    state = jax.jit(functools.partial(create_state, ready.program))(3, hyper)
    for number in range(2):
        state, record = epoch(state, ready.data._replace(gate=broken), hyper)
        assert np.isnan(record["dev_distance"]) and int(state.gan.best_epoch) == number
        chex.assert_trees_all_equal(state.gan.best, state.gan.average)
