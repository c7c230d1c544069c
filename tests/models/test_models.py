"""The joint model: what each part computes, and who may hear whom."""

import dataclasses
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TINY_MODEL as SETTINGS

from cberl_jax.models.bilstm import BiLSTM, run_lstm
from cberl_jax.models.cberl import CBERL, Conversations
from cberl_jax.models.djvae import DJVAE, Gaussian, product_of_experts
from cberl_jax.models.ensemble import Ensemble, average_probability, draw_subspaces
from cberl_jax.models.graphs import conversation_graph
from cberl_jax.models.layers import Dropout, draw_dropout
from cberl_jax.models.masking import Masking, donate, draw_masking, no_masking
from cberl_jax.models.mgnn import NodeDecoder

NOTHING_DROPPED = Dropout()
WIDTHS = (("text", 3), ("audio", 2))
CLASSES = 4
LENGTH = 8
DIALOGUES = (3, 1, 4)  # turns of each; together they fill one row of eight


def make_model(**changes) -> CBERL:
    return CBERL(dataclasses.replace(SETTINGS, **changes), WIDTHS, CLASSES)


def draw_variables(module: nn.Module, *arguments) -> dict:
    """Variables of the right shapes, drawn here: no zero bias hides a mistake, nothing compiles."""
    generator = np.random.default_rng(0)

    def draw(path, x):
        drawn = generator.normal(size=x.shape).astype(np.float32)
        return (drawn > 0) * np.float32(1) if "subspaces" in str(path) else 0.5 * drawn

    shapes = jax.eval_shape(lambda key: module.init(key, *arguments), jax.random.key(0))
    return jax.tree.map_with_path(draw, shapes)


def make_variables(model: CBERL, conversations: Conversations) -> dict:
    return draw_variables(model, conversations, no_masking(conversations.segment.shape), 0.0)


@functools.partial(jax.jit, static_argnames="model")
def run(model, variables, conversations, masking):
    return model.apply(variables, conversations, masking, 0.0)


def make_conversations(segment, speaker, seed: int = 0) -> Conversations:
    segment = jnp.asarray(segment, jnp.int32)
    generator = np.random.default_rng(seed)
    present = {"text": np.ones(segment.shape, bool), "audio": generator.random(segment.shape) < 0.7}
    features = {
        m: generator.normal(size=(*segment.shape, d)) * present[m][..., None] for m, d in WIDTHS
    }
    return Conversations(
        {m: jnp.asarray(x, jnp.float32) for m, x in features.items()},
        {m: jnp.asarray(x) for m, x in present.items()},
        segment,
        jnp.asarray(speaker, jnp.int32),
    )


PACKED = make_conversations([[1, 1, 1, 2, 3, 3, 3, 3]], [[0, 1, 0, 0, 0, 1, 2, 0]])
# Two dialogues and two padded cells.
PADDED = make_conversations([[1, 1, 1, 1, 2, 2, 0, 0]], [[0, 1, 0, 0, 0, 1, 0, 0]])


def masking_of(masked, swapped=(), donors=()) -> Masking:
    """A masking of one row, by the numbers of its nodes."""
    nothing = np.zeros((1, LENGTH), int)
    masks = [np.isin(np.arange(LENGTH), nodes)[None] for nodes in (masked, swapped)]
    nothing[0, list(swapped)] = donors
    return Masking(*map(jnp.asarray, masks), jnp.asarray(nothing))


@functools.partial(jax.jit, static_argnames="model")
def run_on_changes(model, variables, conversations, masking):
    """Outputs [1 + L, ...] as they are, and with the features of node 0, 1, ... changed."""

    def changed(node):
        noise = jnp.where(jnp.arange(LENGTH)[:, None] == node, 0.7, 0.0)
        features = {m: x + noise for m, x in conversations.features.items()}
        logits, between = model.apply(
            variables, conversations._replace(features=features), masking, 0.0
        )
        return logits, between.rebuilt

    return jax.vmap(changed)(jnp.arange(-1, LENGTH))


def influence(outputs) -> np.ndarray:
    """[L, L] the largest change that node i's features make to the outputs at node j."""
    outputs = jax.tree.map(np.asarray, outputs)
    flat = [x.reshape(1 + LENGTH, LENGTH, -1) for x in jax.tree.leaves(outputs)]
    return np.max([np.abs(x[1:] - x[:1]).max(axis=-1) for x in flat], axis=0)


STILL, MOVED = 1e-5, 1e-4


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def variables(model):
    return make_variables(model, PACKED)


# Packing.


def alone(conversations: Conversations, masking: Masking) -> tuple[Conversations, Masking]:
    """Each dialogue of the one packed row in a row of its own, garbage in the padding."""
    place = -np.ones((len(DIALOGUES), LENGTH), int)
    start = np.concatenate([[0], np.cumsum(DIALOGUES)])
    for row, length in enumerate(DIALOGUES):
        place[row, :length] = start[row] + np.arange(length)
    used = place >= 0
    new_place = np.zeros(LENGTH, int)
    new_place[place[used]] = np.flatnonzero(used)

    def take(x, padding):
        values = np.asarray(x)[0][place]
        return jnp.asarray(
            np.where(used.reshape(used.shape + (1,) * (x.ndim - 2)), values, padding)
        )

    apart = Conversations(
        {m: take(x, 5.0).astype(jnp.float32) for m, x in conversations.features.items()},
        {m: take(x, True) for m, x in conversations.present.items()},
        jnp.asarray(used, jnp.int32),
        take(conversations.speaker, 7),
    )
    donor = np.where(used, new_place[np.asarray(masking.donor)[0][place]], 0)
    masking = Masking(take(masking.masked, False), take(masking.swapped, False), jnp.asarray(donor))
    return apart, masking


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [(), (1, 4, 6)])
def test_packed_is_unpacked(masked, causal):
    model = make_model(causal=causal)
    variables = make_variables(model, PACKED)
    # Node 6 is covered by node 2's features, which is in another dialogue.
    masking = masking_of(masked, masked[-1:], [2] if masked else [])
    together, between = run(model, variables, PACKED, masking)
    apart, apart_masking = alone(PACKED, masking)
    separate, apart_between = run(model, variables, apart, apart_masking)

    used = np.asarray(apart.segment) > 0
    per_node = [
        (together, separate),
        (between.code, apart_between.code),
        (between.latent, apart_between.latent),
        (between.rebuilt, apart_between.rebuilt),
    ]
    slots = (-1, LENGTH, SETTINGS.past + 1 + SETTINGS.future * (not causal), SETTINGS.heads)
    attention = (between.attention.reshape(slots), apart_between.attention.reshape(slots))
    for pair in [*per_node, attention]:
        for packed, unpacked in zip(*map(jax.tree.leaves, pair)):
            np.testing.assert_allclose(packed[0], np.asarray(unpacked)[used], atol=1e-5)


def test_a_padded_row_changes_nothing(model, variables):
    masking = masking_of((1, 6), (6,), (2,))

    def add_row(x):
        return jnp.concatenate([x, jnp.full_like(x, 1)])

    longer = jax.tree.map(add_row, PACKED)
    longer = longer._replace(segment=longer.segment.at[1].set(0))
    expected = run(model, variables, PACKED, masking)
    found = run(
        model, variables, longer, jax.tree.map(lambda x: jnp.pad(x, ((0, 1), (0, 0))), masking)
    )
    found = (found[0], found[1]._replace(attention=None))
    expected = (expected[0], expected[1]._replace(attention=None))
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(found)):
        np.testing.assert_allclose(one[0], other[0], atol=1e-5)


@pytest.mark.parametrize("djvae", [True, False])
@pytest.mark.parametrize("garbage", [1e6, np.nan])
def test_an_absent_modality_changes_nothing(djvae, garbage):
    model = make_model(djvae=djvae)
    variables = make_variables(model, PACKED)
    absent = ~PACKED.present["audio"]
    assert np.any(absent)
    audio = jnp.where(absent[..., None], garbage, PACKED.features["audio"])
    filled = PACKED._replace(features={**PACKED.features, "audio": audio})
    masking = masking_of((1, 5))

    def outputs(conversations):
        logits, between = run(model, variables, conversations, masking)
        joint = between.latent.joint if djvae else None
        return logits, between.code, between.rebuilt, joint

    for one, other in zip(*map(jax.tree.leaves, map(outputs, (PACKED, filled)))):
        np.testing.assert_allclose(one, other, atol=1e-6)


# Who may hear whom.


def test_dialogues_and_padding_do_not_hear_each_other(model, variables):
    change = influence(run_on_changes(model, variables, PADDED, no_masking((1, LENGTH))))
    segment = np.asarray(PADDED.segment[0])
    # What padding hears is nobody's concern.
    together, apart = ((segment[:, None] == segment) == is_same for is_same in (True, False))
    assert np.all(change[apart & (segment > 0)] < STILL)
    # The BiLSTM carries every turn of a dialogue to every other one.
    assert np.all(change[together & (segment > 0)] > MOVED)


def test_a_causal_model_hears_nothing_of_later_turns():
    model = make_model(causal=True)
    variables = make_variables(model, PADDED)
    change = influence(run_on_changes(model, variables, PADDED, no_masking((1, LENGTH))))
    later = np.tri(LENGTH, k=-1, dtype=bool)
    assert np.all(change[later] < STILL)
    assert np.all(np.diag(change) > MOVED)
    assert change[0, 3] > MOVED


def test_a_masked_node_cannot_see_its_own_input(model, variables):
    masked = np.array([1, 3, 6])
    change = influence(run_on_changes(model, variables, PACKED, masking_of(masked)))
    # Nothing hears a node that the token covers, itself included.
    assert np.all(change[masked] < STILL)
    others = np.setdiff1d(np.arange(LENGTH), masked)
    assert np.all(np.diag(change)[others] > MOVED)


def test_a_swapped_node_sees_its_donor_instead_of_itself(model, variables):
    # Node 6 gets the features of node 0, which is in another dialogue.
    change = influence(run_on_changes(model, variables, PACKED, masking_of([6], [6], [0])))
    assert change[6, 6] < STILL
    assert change[0, 6] > MOVED


def test_drawn_masking_never_shows_a_masked_node_its_own_input(model, variables):
    # With many swapped nodes, a donor that is masked itself would carry its features to a
    # neighbour, and that one back to it.
    labels, valid = jnp.zeros((1, LENGTH), jnp.int32), PACKED.segment > 0
    half = jnp.array([0.5])

    def draw(key):
        return draw_masking(key, labels, valid, half, rate=0.5, swap=0.9)

    drawn = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 40))
    assert drawn.swapped.any(axis=(1, 2)).sum() > 20

    # Derivatives by every node's own text, for all maskings at once.
    @jax.jit
    def own_influence(masking):
        def outputs(scale):
            features = {m: x * scale[..., None] for m, x in PACKED.features.items()}
            inputs = PACKED._replace(features=features)
            logits, between = model.apply(variables, inputs, masking, 0.0)
            parts = [logits.reshape(1, LENGTH, -1), *between.rebuilt.values()]
            return jnp.concatenate(parts, axis=-1)[0]

        cotangents = jax.jacrev(outputs)(jnp.ones((1, LENGTH)))[:, :, 0]
        return jnp.max(jnp.abs(jnp.diagonal(cotangents, axis1=0, axis2=2)), axis=0)

    own = np.asarray(jax.lax.map(own_influence, drawn))
    masked = np.asarray(drawn.masked)[:, 0]
    assert np.all(own[~masked] > MOVED)
    assert np.all(own[masked] < STILL)


def test_a_masked_code_reaches_nobody_through_the_decoder():
    shape = (1, LENGTH)
    codes = jnp.asarray(np.random.default_rng(0).normal(size=(*shape, 8)), jnp.float32)
    graph = conversation_graph(codes, PACKED.segment, PACKED.speaker, past=2, future=1)
    decoder = NodeDecoder(WIDTHS, 8, 2, past=2)
    masked, visible = jnp.arange(LENGTH) == 5, jnp.arange(LENGTH) == 4
    variables = draw_variables(decoder, graph, masked)

    @jax.jit
    def decode(changed):
        nodes = jnp.where(changed[:, None], graph.nodes + 3.0, graph.nodes)
        return decoder.apply(variables, graph._replace(nodes=nodes), masked)

    expected = decode(masked & visible)
    for one, other in zip(*map(jax.tree.leaves, (expected, decode(masked)))):
        np.testing.assert_array_equal(one, other)
    assert np.abs(decode(visible)["text"][5] - expected["text"][5]).max() > MOVED


# The BiLSTM.


def flax_cell_params(input_dense: dict, recurrent_dense: dict) -> dict:
    """Our two products as the eight of flax's cell; gates in the order i, f, g, o."""
    cell = {}
    for number, gate in enumerate("ifgo"):
        here = slice(number * 4, (number + 1) * 4)
        cell[f"i{gate}"] = {"kernel": input_dense["kernel"][:, here]}
        cell[f"h{gate}"] = {
            "kernel": recurrent_dense["kernel"][:, here],
            "bias": input_dense["bias"][here],
        }
    return {"cell": cell}


def flax_rnn(params: dict, values: jax.Array, reverse: bool) -> jax.Array:
    """flax's own LSTM over one dialogue [T, d]."""
    rnn = nn.RNN(nn.OptimizedLSTMCell(4), reverse=reverse, keep_order=True)
    return rnn.apply({"params": params}, values[None])[0]


def test_bilstm_is_that_of_flax_for_each_dialogue():
    values = jnp.asarray(np.random.default_rng(0).normal(size=(1, LENGTH, 3)), jnp.float32)
    bilstm = BiLSTM(8)
    variables = draw_variables(bilstm, values, PACKED.segment, NOTHING_DROPPED)
    found = bilstm.apply(variables, values, PACKED.segment, NOTHING_DROPPED)[0]
    both = variables["params"]["directions"]
    for number, reverse in enumerate((False, True)):
        one = jax.tree.map(lambda x, n=number: x[n], both)
        params = flax_cell_params(one["input"], one["step"]["Dense_0"])
        parts = np.split(values[0], np.cumsum(DIALOGUES)[:-1])
        expected = jnp.concatenate([flax_rnn(params, part, reverse) for part in parts])
        np.testing.assert_allclose(
            found[:, 4 * number : 4 * (number + 1)], expected, atol=1e-5, err_msg=f"{reverse=}"
        )


def test_the_causal_bilstm_is_the_forward_lstm_at_full_width():
    values = jnp.asarray(np.random.default_rng(1).normal(size=(1, LENGTH, 3)), jnp.float32)
    bilstm = BiLSTM(4, causal=True)
    variables = draw_variables(bilstm, values, PACKED.segment, NOTHING_DROPPED)
    forward = variables["params"]["forward"]
    params = flax_cell_params(forward["input"], forward["step"]["Dense_0"])
    parts = np.split(values[0], np.cumsum(DIALOGUES)[:-1])
    expected = jnp.concatenate([flax_rnn(params, part, False) for part in parts])
    found = bilstm.apply(variables, values, PACKED.segment, NOTHING_DROPPED)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("unroll", [1, 4, 6])
def test_the_written_gradient_of_the_lstm_is_that_of_autodiff(unroll):
    generator = np.random.default_rng(2)
    members, turns, rows, hidden = 2, 6, 3, 4
    shapes = ((turns, rows, 4 * hidden), (turns, rows, hidden), (hidden, 4 * hidden))
    gates, cotangents, kernel = (jnp.asarray(generator.normal(size=(members, *s))) for s in shapes)
    keep = jnp.asarray(generator.random((members, turns, rows, 1)) < 0.7, gates.dtype)

    def gradients(lstm):
        def total(gates, kernel, keep, cotangents):
            return jnp.sum(cotangents * lstm(gates, keep, kernel))

        of_member = jax.value_and_grad(total, argnums=(0, 1))
        return jax.jit(jax.vmap(of_member))(gates, kernel, keep, cotangents)

    expected = gradients(functools.partial(run_lstm.__wrapped__, unroll=1))
    assert all(np.abs(x).max() > 0.1 for x in expected[1])
    found = gradients(lambda *arguments: run_lstm(*arguments, unroll))
    chex.assert_trees_all_close(found, expected, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_the_loop_over_time_has_the_rounds_that_are_asked_for(causal):
    values = jnp.asarray(np.random.default_rng(1).normal(size=(1, LENGTH, 3)), jnp.float32)
    rest = PACKED.segment, NOTHING_DROPPED
    variables = draw_variables(BiLSTM(4, causal), values, *rest)
    for unroll in (3, 1000):
        program = jax.make_jaxpr(lambda v, x, u=unroll: BiLSTM(4, causal, u).apply(v, x, *rest))
        assert f"unroll={min(unroll, LENGTH)}" in str(program(variables, values))


def test_forget_gates_start_open():
    variables = BiLSTM(8).init(
        jax.random.key(0), jnp.zeros((1, 2, 3)), jnp.ones((1, 2), jnp.int32), NOTHING_DROPPED
    )
    bias = variables["params"]["directions"]["input"]["bias"]
    np.testing.assert_array_equal(bias, np.tile(np.repeat([0.0, 1.0, 0.0, 0.0], 4), (2, 1)))


# The autoencoder.


@pytest.mark.parametrize("there", [(), ("text",), ("audio",), ("text", "audio")])
def test_product_of_experts_is_the_product_of_densities(there):
    laws = {"text": (1.5, 0.25), "audio": (-0.5, 2.0)}  # mean, variance
    z = np.linspace(-12, 12, 20001)
    density = np.exp(-0.5 * z**2)
    for modality in there:
        mean, variance = laws[modality]
        density = density * np.exp(-0.5 * (z - mean) ** 2 / variance)
    density /= density.sum()
    mean = np.sum(z * density)
    variance = np.sum((z - mean) ** 2 * density)

    experts = {
        m: Gaussian(jnp.array([[a]]), jnp.log(jnp.array([[v]]))) for m, (a, v) in laws.items()
    }
    joint = product_of_experts(experts, {m: jnp.array([m in there]) for m in laws})
    np.testing.assert_allclose(joint.mean, [[mean]], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jnp.exp(joint.log_variance), [[variance]], rtol=1e-5)


def test_product_of_experts_by_hand():
    # Precisions 1 + 4 + 1/2 = 5.5, mean (4 * 1.5 - 0.5 / 2) / 5.5 = 5.75 / 5.5.
    experts = {
        "text": Gaussian(jnp.array([1.5]), jnp.log(jnp.array([0.25]))),
        "audio": Gaussian(jnp.array([-0.5]), jnp.log(jnp.array([2.0]))),
    }
    joint = product_of_experts(experts, {m: jnp.array(True) for m in experts})
    np.testing.assert_allclose(joint.mean, [5.75 / 5.5], rtol=1e-6)
    np.testing.assert_allclose(joint.log_variance, [-np.log(5.5)], rtol=1e-6)


@pytest.fixture(scope="module")
def djvae():
    module = DJVAE(8, 3)
    return module, draw_variables(module, PACKED.features, PACKED.present, NOTHING_DROPPED)


def test_latent_is_its_mean_at_evaluation(djvae):
    module, variables = djvae
    first, again = (module.apply(variables, *PACKED[:2], NOTHING_DROPPED)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_latent_is_sampled_where_a_stream_is_given(djvae):
    module, variables = djvae
    plain, _ = module.apply(variables, *PACKED[:2], NOTHING_DROPPED)
    one, two = (
        module.apply(variables, *PACKED[:2], NOTHING_DROPPED, rngs={"latent": jax.random.key(k)})[0]
        for k in range(2)
    )
    assert np.abs(one - plain).max() > MOVED
    assert np.abs(one - two).max() > MOVED


def test_joint_posterior_is_the_product_of_its_own_experts(djvae):
    module, variables = djvae
    _, latent = module.apply(variables, *PACKED[:2], NOTHING_DROPPED)
    precision, moment = 1.0, 0.0
    for modality, expert in latent.experts.items():
        there = np.asarray(PACKED.present[modality], float)[..., None]
        precision = precision + there * np.exp(-expert.log_variance)
        moment = moment + there * np.exp(-expert.log_variance) * expert.mean
    np.testing.assert_allclose(latent.joint.mean, moment / precision, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(latent.joint.log_variance, -np.log(precision), rtol=1e-4, atol=1e-5)


# The ensemble.


@pytest.mark.parametrize("share, kept", [(0.5, 5), (0.7, 7), (0.01, 1), (1.0, 10)])
def test_every_classifier_sees_the_same_number_of_features(share, kept):
    subspaces = np.asarray(draw_subspaces(jax.random.key(0), 6, 10, share))
    assert set(np.unique(subspaces)) <= {0.0, 1.0}
    np.testing.assert_array_equal(subspaces.sum(axis=1), kept)


def test_classifiers_see_different_features():
    subspaces = np.asarray(draw_subspaces(jax.random.key(1), 6, 20, 0.5))
    assert len(np.unique(subspaces, axis=0)) == 6


def test_logits_depend_on_the_own_subspace_alone():
    ensemble = Ensemble(CLASSES, 3, 4, 0.4)
    values = jnp.asarray(np.random.default_rng(0).normal(size=10), jnp.float32)
    variables = draw_variables(ensemble, values, NOTHING_DROPPED)
    cotangents = jax.jit(jax.jacrev(lambda x: ensemble.apply(variables, x, NOTHING_DROPPED)))(
        values
    )
    seen = np.abs(cotangents).max(axis=1) > 0
    np.testing.assert_array_equal(seen, variables["constants"]["subspaces"] > 0)


def test_classifiers_share_no_parameters():
    ensemble = Ensemble(CLASSES, 3, 4, 0.4)
    values = jnp.ones(10)
    variables = draw_variables(ensemble, values, NOTHING_DROPPED)

    def logits_of_first(params):
        return jnp.sum(ensemble.apply({**variables, "params": params}, values, NOTHING_DROPPED)[0])

    for name, cotangent in jax.grad(logits_of_first)(variables["params"]).items():
        assert np.abs(cotangent[0]).max() > 0, name
        np.testing.assert_array_equal(cotangent[1:], 0)


def test_average_probability_is_the_mean_of_softmaxes():
    # Softmaxes (1/4, 3/4) and (1/2, 1/2): mean (3/8, 5/8).
    logits = jnp.log(jnp.array([[1.0, 3.0], [2.0, 2.0]]))
    np.testing.assert_allclose(average_probability(logits), [3 / 8, 5 / 8], rtol=1e-6)


def test_average_probability_sums_to_one():
    logits = 50 * jnp.asarray(np.random.default_rng(0).normal(size=(4, 5, 3, 7)), jnp.float32)
    probability = average_probability(logits)
    assert probability.shape == (4, 5, 7)
    np.testing.assert_allclose(probability.sum(axis=-1), 1.0, rtol=1e-5)


# Parts that are switched off.

PARTS = {
    "djvae": {"djvae"},
    "bilstm": {"bilstm", "bilstm_norm"},
    "graph": {"graph"},
    "reconstruction": {"decoder", "mask_tokens"},
    "residual": set(),
}


@pytest.mark.parametrize("djvae", [True, False])
def test_the_order_in_which_the_modalities_are_given_means_nothing(djvae):
    model = make_model(djvae=djvae)
    variables = make_variables(model, PACKED)
    swapped = PACKED._replace(
        features=dict(reversed(PACKED.features.items())),
        present=dict(reversed(PACKED.present.items())),
    )
    assert list(swapped.features) != list(PACKED.features)
    masking = masking_of([1])
    # Without jit, which would sort the keys.
    given = model.apply(variables, PACKED, masking, 0.0)
    other = model.apply(variables, swapped, masking, 0.0)
    chex.assert_trees_all_close(given, other, atol=1e-6)
    chex.assert_trees_all_close(given, run(model, variables, PACKED, masking), atol=1e-5)


OFF = [["graph", "reconstruction"] if p == "graph" else [p] for p in PARTS]


@pytest.mark.parametrize("off", [*OFF, list(PARTS)], ids="+".join)
def test_a_part_that_is_off_leaves_nothing_behind(off, variables):
    model = make_model(**dict.fromkeys(off, False))
    without = make_variables(model, PACKED)
    gone = set.union(*(PARTS[part] for part in off))
    assert gone <= set(variables["params"])
    added = {"concatenation"} if "djvae" in off else set()
    assert set(without["params"]) == (set(variables["params"]) - gone) | added

    logits, between = run(model, without, PACKED, masking_of([1]))
    assert logits.shape == (1, LENGTH, SETTINGS.classifiers, CLASSES)
    assert np.all(np.isfinite(logits))
    assert (between.latent is None) == ("djvae" in off)
    assert (between.attention is None) == ("graph" in off)
    assert (between.rebuilt is None) == ("reconstruction" in off)


def test_without_the_residual_the_classifiers_see_less(variables):
    without = make_variables(make_model(residual=False), PACKED)
    widths = [v["constants"]["ensemble"]["subspaces"].shape[1] for v in (variables, without)]
    assert widths[0] - widths[1] == sum(width for _, width in WIDTHS)


def test_without_context_parts_no_turn_hears_another():
    model = make_model(bilstm=False, graph=False, reconstruction=False)
    variables = make_variables(model, PACKED)
    change = influence(run_on_changes(model, variables, PACKED, no_masking((1, LENGTH))))
    np.testing.assert_array_equal(change > STILL, np.eye(LENGTH, dtype=bool))


@pytest.mark.parametrize("causal", [False, True])
def test_the_residual_alone_hears_the_turns_around(causal):
    off = {"bilstm": False, "graph": False, "reconstruction": False}
    model = make_model(**off, residual_turns=2, causal=causal)
    variables = make_variables(model, PACKED)
    change = influence(run_on_changes(model, variables, PACKED, no_masking((1, LENGTH))))
    segment = np.asarray(PACKED.segment[0])
    sender, receiver = np.indices((LENGTH, LENGTH))
    window = (sender >= receiver - 2) & (sender <= receiver + (0 if causal else 2))
    np.testing.assert_array_equal(change > STILL, window & (segment[:, None] == segment))


def test_the_graph_alone_hears_its_window():
    model = make_model(bilstm=False, reconstruction=False, layers=1)
    variables = make_variables(model, PACKED)
    change = influence(run_on_changes(model, variables, PACKED, no_masking((1, LENGTH))))
    segment = np.asarray(PACKED.segment[0])
    sender, receiver = np.indices((LENGTH, LENGTH))
    window = (sender >= receiver - SETTINGS.past) & (sender <= receiver + SETTINGS.future)
    np.testing.assert_array_equal(change > STILL, window & (segment[:, None] == segment))


# Dropout.


def draw(rate, input_rate=0.0, turns=100, width=102):
    """A dropout with bits for ``width`` values of each of ``turns`` turns."""
    shape, values = (10, turns // 10), jnp.ones((10, turns // 10, width))

    def run(values, dropout):
        return dropout(values)

    return draw_dropout(run, (values,), jax.random.key(0), shape, rate, input_rate)


def test_dropout_keeps_the_mean_and_zeroes_its_share():
    dropped = np.asarray(draw(0.3)(jnp.ones((10, 10, 102))))
    # 0.3 is nearest to 77 / 256.
    np.testing.assert_allclose(np.unique(dropped), [0, 256 / (256 - 77)], rtol=1e-6)
    assert abs(np.mean(dropped == 0) - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 10200)


@pytest.mark.parametrize("rate", [1 / 1024, 0.1, 0.5, 0.95])
def test_the_expectation_under_dropout_is_exact_at_every_rate(rate):
    # Over all bytes there are, each once, the mean of what is kept is the value itself.
    dropout = Dropout(jnp.arange(256, dtype=jnp.uint8)[None, None], rate)
    kept = dropout(jnp.full((1, 1, 256), 3.0))
    np.testing.assert_allclose(jnp.mean(kept), 3.0, rtol=1e-5)
    assert abs(np.mean(kept == 0) - rate) <= 1 / 512


def test_inputs_have_a_rate_of_their_own():
    dropout, values = draw(0.75, 0.25, width=200), jnp.ones((10, 10, 100))
    inputs, hidden = np.asarray(dropout.drop_inputs(values)), np.asarray(dropout(values))
    np.testing.assert_allclose(np.unique(inputs), [0, 1 / 0.75], rtol=1e-6)
    np.testing.assert_allclose(np.unique(hidden), [0, 4], rtol=1e-6)


def test_calls_of_one_dropout_are_independent_of_each_other():
    dropout = draw(0.5, width=100)
    first, second = (np.asarray(dropout(jnp.ones((10, 10, 50)))) == 0 for _ in range(2))
    assert abs(np.mean(first == second) - 0.5) < 5 * np.sqrt(0.25 / 5000)


@pytest.mark.parametrize("changes", [{}, {"djvae": False}, {"bilstm": False}, {"residual": False}])
def test_a_pass_uses_all_bits_that_are_drawn_for_it(changes):
    """A bit too few would be used twice, and one too many would be drawn for nothing."""
    model = make_model(**changes)
    variables, masking = make_variables(model, PACKED), no_masking(PACKED.segment.shape)
    run = functools.partial(model.apply, method="forward")
    arguments = (variables, PACKED, masking, donate(PACKED.features, masking))
    shape = PACKED.segment.shape
    dropout = draw_dropout(run, arguments, jax.random.key(0), shape, 0.5)
    run(*arguments, dropout)
    assert dropout._left == 0


def test_features_are_dropped_where_they_are_fused_and_not_where_they_are_classified():
    model = make_model()
    variables = make_variables(model, PACKED)
    masking = no_masking(PACKED.segment.shape)

    def logits(variables, input_rate):
        keys = {"dropout": jax.random.key(0)}
        return model.apply(variables, PACKED, masking, 0.0, input_rate, rngs=keys)[0]

    assert np.abs(logits(variables, 0.5) - logits(variables, 0.0)).max() > MOVED
    # With nothing coming through the fusion the classifiers have the features alone.
    params = jax.tree.map_with_path(
        lambda path, p: 0 * p if "['djvae']['fuse']" in jax.tree_util.keystr(path) else p,
        variables["params"],
    )
    blocked = {**variables, "params": params}
    np.testing.assert_array_equal(logits(blocked, 0.5), logits(blocked, 0.0))


def test_dropout_without_bits_or_a_rate_changes_nothing():
    values = jnp.arange(600.0).reshape(10, 10, 6)
    np.testing.assert_array_equal(NOTHING_DROPPED(values), values)
    np.testing.assert_array_equal(draw(0.0)(values), values)
