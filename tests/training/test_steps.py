"""One optimiser step: who learns from what, and that nobody else moves."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TINY_MODEL

from cberl_jax.config.settings import default_config, traced_settings
from cberl_jax.models.cberl import CBERL, Conversations
from cberl_jax.models.djvae import Gaussian, LatentState
from cberl_jax.models.gan import GAN
from cberl_jax.models.masking import no_masking
from cberl_jax.models.parts import WHOLE, Parts
from cberl_jax.training import gan_step as gan_steps
from cberl_jax.training.gan_step import LOSSES, Utterances, gan_optimizer, gan_step, update_group
from cberl_jax.training.joint_step import (
    Batch,
    Objective,
    djvae_loss,
    joint_optimizer,
    joint_step,
)

WIDTHS = (("text", 6), ("audio", 3))
CLASSES = 4
SETTINGS = dataclasses.replace(TINY_MODEL, layers=1, future=2)


@pytest.fixture(scope="module")
def hyper():
    return {k: jnp.float32(v) for k, v in traced_settings(default_config()).items()}


def utterances(seed, batch=8):
    """Utterances whose text tells their class."""
    generator = np.random.default_rng(seed)
    label = generator.integers(0, CLASSES, batch)
    features = {m: generator.normal(size=(batch, d)) for m, d in WIDTHS}
    features["text"][np.arange(batch), label] += 4.0
    return Utterances(
        {m: jnp.asarray(x, jnp.float32) for m, x in features.items()},
        {m: jnp.asarray((generator.random(batch) < 0.8) | (m == "text")) for m, _ in WIDTHS},
        jnp.asarray(label, jnp.int32),
    )


def create_gan(hyper, hidden):
    gan = GAN(hidden, noise=2, classes=CLASSES)
    params = gan.init(jax.random.key(0), dict(WIDTHS))
    optimizers = {
        group: gan_optimizer(hyper).init({n: params[n] for n in names})
        for group, names in GAN.groups.items()
    }
    return gan, params, optimizers


@pytest.fixture(scope="module")
def gan_case(hyper):
    noise = jax.random.normal(jax.random.key(1), (8, 2))
    batch = gan_steps.Batch(utterances(0), utterances(1), noise)
    return *create_gan(hyper, hidden=5), batch


@pytest.mark.parametrize("group", GAN.groups)
def test_an_update_moves_its_own_networks_and_leaves_the_others_bit_identical(
    gan_case, hyper, group
):
    gan, params, optimizers, batch = gan_case
    new, new_optimizers, _ = update_group(gan, group, params, optimizers, batch, hyper)
    for name in params:
        if name in GAN.groups[group]:
            moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), new[name], params[name])
            assert any(jax.tree.leaves(moved)), name
        else:
            chex.assert_trees_all_equal(new[name], params[name])
    others = [g for g in GAN.groups if g != group]
    chex.assert_trees_all_equal(
        {g: new_optimizers[g] for g in others}, {g: optimizers[g] for g in others}
    )


def test_every_generator_and_discriminator_gets_a_gradient(gan_case, hyper):
    gan, params, _, batch = gan_case
    for group, names in GAN.groups.items():
        gradient = jax.grad(lambda p, g=group: LOSSES[g](gan, p, batch, hyper)[0])(params)
        for name in names:
            for leaf in jax.tree.leaves(gradient[name]):
                assert bool(jnp.any(leaf != 0)), (group, name)


def test_gan_loss_does_not_hear_absent_modalities(gan_case, hyper):
    gan, params, _, batch = gan_case
    source = batch.source
    absent = {**source.present, "audio": jnp.zeros(8, bool)}
    source = source._replace(present=absent)
    # A generator that sees an absent modality would be another matter: it is one per modality.
    other = source._replace(features={**source.features, "audio": source.features["audio"] + 3})
    for loss in LOSSES.values():
        first = loss(gan, params, batch._replace(source=source), hyper)
        second = loss(gan, params, batch._replace(source=other), hyper)
        chex.assert_trees_all_equal(first, second)


def test_classifier_and_generators_learn_to_agree(hyper):
    gan, params, optimizers = create_gan(hyper, hidden=32)
    noise = jax.random.normal(jax.random.key(1), (32, 2))
    batch = gan_steps.Batch(utterances(0, batch=32), utterances(1, batch=32), noise)
    rates = {"gan.learning_rate": 5e-3, "gan.identity": 0.5, "gan.classify": 1.0}
    step = jax.jit(lambda p, o: gan_step(gan, p, o, batch, hyper | rates))
    _, _, first = step(params, optimizers)
    for _ in range(200):
        params, optimizers, last = step(params, optimizers)
    assert last["agreement"] > 0.9 and first["agreement"] < 0.6
    assert last["classifier"] < 0.5 * first["classifier"]


def test_a_weight_of_zero_switches_each_term_off(gan_case, hyper):
    gan, params, _, batch = gan_case
    parts = {
        "generators": {"adversarial": 1.0, "joint": 1.0, "identity": 5.0, "classify": 1.0},
        "discriminators": {"triple": 1.0},
    }
    for group, weights in parts.items():
        for name, weight in weights.items():
            with_it, terms = LOSSES[group](gan, params, batch, hyper | {f"gan.{name}": weight})
            without, _ = LOSSES[group](gan, params, batch, hyper | {f"gan.{name}": 0.0})
            assert float(with_it) > float(without), name
            if name in ("joint", "identity", "classify"):
                assert float(with_it - without) == pytest.approx(
                    weight * float(terms[name]), rel=1e-3
                )


@pytest.fixture(scope="module")
def joint_case(hyper):
    generator = np.random.default_rng(0)
    shape = (3, 6)
    segment = jnp.asarray([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]])
    conversations = Conversations(
        {m: jnp.asarray(generator.normal(size=(*shape, d)), jnp.float32) for m, d in WIDTHS},
        {m: segment > 0 for m, _ in WIDTHS},
        segment,
        jnp.asarray(generator.integers(0, 2, shape), jnp.int32),
    )
    label = jnp.where(segment > 0, jnp.asarray(generator.integers(0, CLASSES, shape)), -1)
    weight = jnp.where(segment > 0, 1.0, 0.0)
    init = jax.jit(MODEL.init)
    variables = init(jax.random.key(0), conversations, no_masking(shape), 0.0)
    optimizer = joint_optimizer(hyper, 10).init(variables["params"])
    return variables, optimizer, Batch(conversations, label, weight, jnp.ones((*shape, 3)))


MODEL = CBERL(SETTINGS, WIDTHS, CLASSES)


@functools.partial(jax.jit, static_argnames="parts")
def compiled_step(variables, optimizer, batch, key, hyper, parts=WHOLE):
    counts = jnp.array([5.0, 3.0, 2.0, 1.0])
    objective = Objective(MODEL, counts, 10, hyper, parts=parts)
    return joint_step(objective, variables, optimizer, batch, key, 0.5)


def run_joint_step(case, hyper):
    return compiled_step(*case, jax.random.key(0), hyper)


def test_a_joint_step_moves_every_part_and_leaves_the_constants(joint_case, hyper):
    hyper = {**hyper, "mask.rate": jnp.float32(0.5), "mask.swap": jnp.float32(0.0)}
    variables, _, _ = run_joint_step(joint_case, hyper)
    before = joint_case[0]
    chex.assert_trees_all_equal(variables["constants"], before["constants"])
    for part, params in before["params"].items():
        moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), variables["params"][part], params)
        assert any(jax.tree.leaves(moved)), part


def test_a_step_is_the_same_in_parts(joint_case, hyper):
    """Each row on its own: draws, donors from other rows, and means over all rows included."""
    variables, optimizer, batch = joint_case
    segment = batch.conversations.segment.at[2, :4].set(1)
    batch = batch._replace(
        conversations=batch.conversations._replace(
            segment=segment, present={m: segment > 0 for m, _ in WIDTHS}
        ),
        label=batch.label.at[2, :4].set(jnp.arange(4) % CLASSES),
        weight=jnp.where(segment > 0, 1.0, 0.0),
    )
    often = {"mask.rate": 0.5, "mask.swap": 1.0, "optim.dropout": 0.4, "optim.input_dropout": 0.3}
    # A clipped gradient has the same length whatever it is multiplied with.
    often["optim.clip"] = 1e9
    hyper = hyper | {name: jnp.float32(value) for name, value in often.items()}
    arguments = variables, optimizer, batch, jax.random.key(0), hyper
    _, *whole = compiled_step(*arguments)
    _, *apart = compiled_step(*arguments, parts=Parts(3))
    # Adam's moments, which are the gradient after the first step, and the terms of the loss.
    chex.assert_trees_all_close(apart, whole, rtol=1e-4, atol=1e-6)


def stack(*trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def three_members(params, hyper):
    """The parameters and settings of three members that differ."""
    factors = (1.0, 0.8, 1.3)
    scaled = [jax.tree.map(lambda x, f=factor: f * x, params) for factor in factors]
    # A shift too, for what starts at zero.
    moved = [
        jax.tree.map(lambda x, f=factor: x + 0.1 * (f - 1), own)
        for factor, own in zip(factors, scaled)
    ]
    return moved, [hyper | {"loss.gamma": jnp.float32(factor)} for factor in factors]


def check_members(together, alone):
    for number, own in enumerate(alone):
        found = jax.tree.map(lambda x, n=number: x[n], together)
        chex.assert_trees_all_close(found, own, rtol=1e-5, atol=1e-5)


def test_a_joint_step_of_a_member_is_the_same_alone_and_among_others(joint_case, hyper):
    variables, optimizer, batch = joint_case
    params, hypers = three_members(variables["params"], hyper)
    members = [{**variables, "params": own} for own in params]
    keys = jax.random.split(jax.random.key(3), 3)
    step = jax.jit(jax.vmap(compiled_step, in_axes=(0, None, None, 0, 0)))
    together = step(stack(*members), optimizer, batch, keys, stack(*hypers))
    cases = zip(members, keys, hypers)
    alone = [compiled_step(own, optimizer, batch, key, of) for own, key, of in cases]
    check_members(together, alone)
    focal = together[2]["focal"]
    assert np.ptp(focal) > 0.01


def test_a_gan_step_of_a_member_is_the_same_alone_and_among_others(gan_case, hyper):
    gan, params, optimizers, *batch = gan_case
    members, _ = three_members(params, hyper)
    step = jax.jit(lambda own: gan_step(gan, own, optimizers, *batch, hyper))
    together = jax.jit(jax.vmap(step))(stack(*members))
    check_members(together, [step(own) for own in members])
    assert np.ptp(together[2]["identity"]) > 0.01


@pytest.mark.parametrize("name", ["loss.mask", "loss.vae"])
def test_a_loss_that_weighs_nothing_trains_nothing_of_its_own(joint_case, hyper, name):
    hyper = {**hyper, name: jnp.float32(0.0), "optim.weight_decay": jnp.float32(0.0)}
    variables, _, _ = run_joint_step(joint_case, hyper)
    before, after = joint_case[0]["params"], variables["params"]
    if name == "loss.mask":
        chex.assert_trees_all_equal(after["decoder"], before["decoder"])
    else:
        for part in ("decoder_text", "decoder_audio"):
            chex.assert_trees_all_equal(after["djvae"][part], before["djvae"][part])


def test_weights_of_zero_silence_an_utterances_label(joint_case, hyper):
    variables, optimizer, batch = joint_case
    silent = batch._replace(weight=batch.weight.at[0, 1].set(0.0))
    other = silent._replace(label=silent.label.at[0, 1].set((batch.label[0, 1] + 1) % CLASSES))
    # The label of a node may decide whether it is masked, so the mask has to be class-blind.
    hyper = {**hyper, "mask.tau": jnp.float32(0.0)}
    first = run_joint_step((variables, optimizer, silent), hyper)
    second = run_joint_step((variables, optimizer, other), hyper)
    chex.assert_trees_all_equal(first, second)
    heard = run_joint_step(joint_case, hyper)
    assert float(heard[2]["focal"]) != float(first[2]["focal"])


def test_a_batch_of_padding_gives_a_zero_loss_and_finite_parameters(joint_case, hyper):
    variables, optimizer, batch = joint_case
    nothing = jnp.zeros_like(batch.conversations.segment)
    empty = Batch(
        batch.conversations._replace(segment=nothing, present={m: nothing > 0 for m, _ in WIDTHS}),
        jnp.full_like(batch.label, -1),
        jnp.zeros_like(batch.weight),
        batch.bootstrap,
    )
    variables, _, terms = run_joint_step((variables, optimizer, empty), hyper)
    assert float(terms["focal"]) == 0.0
    assert float(terms["masked"]) == 0.0
    chex.assert_tree_all_finite(variables)


def test_context_without_weight_is_in_no_loss(joint_case, hyper):
    variables, optimizer, batch = joint_case
    hyper = {**hyper, "mask.rate": jnp.float32(0.5)}
    context = batch._replace(weight=jnp.zeros_like(batch.weight))
    _, _, terms = run_joint_step((variables, optimizer, context), hyper)
    for name in ("focal", "masked", "reconstruction", "align"):
        assert float(terms[name]) == 0.0, name
    _, _, terms = run_joint_step((variables, optimizer, batch), hyper)
    for name in ("focal", "masked", "reconstruction", "align"):
        assert float(terms[name]) > 0.0, name


def test_weight_decay_spares_biases_tokens_and_norms(joint_case, hyper):
    params = joint_case[0]["params"]
    hyper = {**hyper, "optim.weight_decay": jnp.float32(0.1)}
    optimizer = joint_optimizer(hyper, 10)
    still = jax.tree.map(jnp.zeros_like, params)
    update, _ = optimizer.update(still, optimizer.init(params), params)
    decayed = {
        jax.tree_util.keystr(path): bool(jnp.any(x != 0))
        for path, x in jax.tree.leaves_with_path(update)
    }
    values = {jax.tree_util.keystr(p): x for p, x in jax.tree.leaves_with_path(params)}
    for name, is_decayed in decayed.items():
        kernel = any(word in name for word in ("kernel", "vector", "linear"))
        # A kernel that starts at zero has nothing to decay.
        assert is_decayed == (kernel and bool(jnp.any(values[name] != 0))), name


def test_djvae_loss_is_the_negative_evidence_lower_bound_per_feature(hyper):
    # One utterance, one modality of width 2, x = (1, 0), decoded as (0, 0): 1/2 nats of error.
    # q = N(1, 1) in one latent unit: KL(q || N(0, 1)) = 1/2. q_m = N(0, 1): KL(q || q_m) = 1/2.
    conversations = Conversations(
        {"text": jnp.array([[[1.0, 0.0]]])},
        {"text": jnp.array([[True]])},
        jnp.array([[1]]),
        jnp.array([[0]]),
    )
    one, zero = jnp.ones((1, 1, 1)), jnp.zeros((1, 1, 1))
    latent = LatentState(
        Gaussian(one, zero), {"text": Gaussian(zero, zero)}, {"text": jnp.zeros((1, 1, 2))}
    )
    hyper = {**hyper, "loss.beta": 2.0, "loss.align": 3.0, "loss.free_bits": 0.0}
    loss, terms = djvae_loss(latent, conversations, jnp.ones((1, 1)), jnp.float32(0.5), hyper)
    chex.assert_trees_all_close(terms, {"reconstruction": 0.25, "kl": 0.25, "align": 0.25})
    # 0.25 + 0.5 * 2 * 0.25 + 3 * 0.25
    assert float(loss) == pytest.approx(1.25)


def test_learning_rate_warms_up_and_ends_at_zero(hyper):
    hyper = {**hyper, "optim.warmup": 0.5, "optim.learning_rate": 1.0, "optim.weight_decay": 0.0}
    optimizer = joint_optimizer(hyper, 4)
    params = {"w": jnp.zeros((1, 1))}
    state, sizes = optimizer.init(params), []
    for _ in range(5):
        update, state = optimizer.update({"w": jnp.ones((1, 1))}, state, params)
        sizes.append(-float(update["w"][0, 0]))
    # Adam's step is the rate itself for a constant gradient: warm-up x cosine.
    expected = [0.5 * 1.0, 1.0 * 0.853553, 0.5, 0.146447, 0.0]
    np.testing.assert_allclose(sizes, expected, atol=1e-4)
