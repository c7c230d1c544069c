"""The conversation's edges against a brute-force builder, and attention over them."""

import functools

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cberl_jax.models.graphs import RELATIONS, Blocks, conversation_graph
from cberl_jax.models.mgnn import ATTENTIONS, RelationalAttention, attend_blocks, attend_edges

ROWS, LENGTH = 2, 7
WINDOWS = ((0, 0), (2, 1), (1, 0), (0, 3), (9, 9))


def brute_force_edges(
    segment: np.ndarray, speaker: np.ndarray, past: int, future: int
) -> set[tuple[int, int, str]]:
    """(receiver, sender, relation) of every edge, straight from the definition."""
    edges = set()
    rows, length = segment.shape
    for row in range(rows):
        for receiver in range(length):
            for sender in range(length):
                is_self = sender == receiver
                together = segment[row, sender] == segment[row, receiver] > 0
                near = receiver - past <= sender <= receiver + future
                if is_self or (together and near):
                    who = "same" if speaker[row, sender] == speaker[row, receiver] else "other"
                    when = "self" if is_self else "past" if sender < receiver else "future"
                    relation = f"{who} speaker, {when}"
                    edges.add((row * length + receiver, row * length + sender, relation))
    return edges


@st.composite
def packed_rows(draw):
    """Rows of dialogues one after the other, padding at the end, with their speakers."""
    segment = np.zeros((ROWS, LENGTH), np.int32)
    for row in range(ROWS):
        lengths = draw(st.lists(st.integers(1, LENGTH), max_size=LENGTH))
        at = 0
        for number, length in enumerate(lengths, start=1):
            if at + length <= LENGTH:
                segment[row, at : at + length] = number
                at += length
    cells = st.lists(st.integers(0, 2), min_size=ROWS * LENGTH, max_size=ROWS * LENGTH)
    speaker = np.array(draw(cells), np.int32).reshape(ROWS, LENGTH)
    return segment, speaker


build = jax.jit(conversation_graph, static_argnames=("past", "future"))


def build_graph(segment, speaker, past, future):
    return build(jnp.zeros((*segment.shape, 1)), segment, speaker, past=past, future=future)


def valid_edges(graph) -> list[tuple[int, int, str]]:
    valid = np.asarray(graph.edges["valid"])
    receivers, senders, relations = (
        np.asarray(x)[valid] for x in (graph.receivers, graph.senders, graph.edges["relation"])
    )
    return [(int(i), int(j), RELATIONS[r]) for i, j, r in zip(receivers, senders, relations)]


@pytest.mark.parametrize("past, future", WINDOWS)
@settings(max_examples=25, deadline=None)
@given(rows=packed_rows())
def test_edges_are_those_of_the_definition(past, future, rows):
    edges = valid_edges(build_graph(*rows, past, future))
    assert len(edges) == len(set(edges))
    assert set(edges) == brute_force_edges(*rows, past, future)


@pytest.mark.parametrize("past, future", WINDOWS)
@settings(max_examples=10, deadline=None)
@given(rows=packed_rows())
def test_structure_is_static_sorted_and_without_stray_slots(past, future, rows):
    graph = build_graph(*rows, past, future)
    count = ROWS * LENGTH * (past + future + 1)
    assert graph.senders.shape == graph.receivers.shape == (count,)
    assert np.all(np.diff(graph.receivers) >= 0)
    assert graph.n_node.tolist() == [LENGTH] * ROWS
    assert int(graph.n_edge.sum()) == count
    unused = ~np.asarray(graph.edges["valid"])
    np.testing.assert_array_equal(graph.senders[unused], graph.receivers[unused])
    relation = np.asarray(graph.edges["relation"])
    assert np.all((relation >= 0) & (relation < len(RELATIONS)))


# Rows of 130 turns: of one block, of eight with a short last one, and of five.
LONG_LENGTH = 130
LONG_WINDOWS = ((200, 90), (8, 8), (0, 0), (5, 0), (0, 3), (2, 1), (20, 10))


def long_rows() -> tuple[np.ndarray, np.ndarray]:
    """Two rows: one of dialogues of all lengths and padding, one of a single dialogue."""
    generator = np.random.default_rng(0)
    lengths = (1, 30, 2, 17, 16, 1, 40, 9)
    segment = np.ones((ROWS, LONG_LENGTH), np.int32)
    segment[0] = np.repeat(range(1, 10), [*lengths, LONG_LENGTH - sum(lengths)]) % 9
    return segment, generator.integers(0, 3, segment.shape).astype(np.int32)


def edges_of_blocks(blocks: Blocks, segment: np.ndarray, speaker: np.ndarray):
    """(receiver, sender, relation) of every edge between blocks."""
    cells = jnp.arange(segment.size)
    receivers, senders, relations = (
        np.asarray(x)
        for x in (
            blocks.receivers(cells),
            blocks.senders(cells),
            blocks.relations(jnp.asarray(segment), jnp.asarray(speaker)),
        )
    )
    # Cells that only fill up a row's last block hear themselves: they are not nodes.
    fill = np.arange(relations.shape[0] * blocks.size) % (blocks.count * blocks.size)
    real = (fill < blocks.length).reshape(receivers.shape)
    for group, i, j in np.argwhere(relations >= 0):
        if real[group, i]:
            relation = RELATIONS[relations[group, i, j]]
            yield int(receivers[group, i]), int(senders[group, j]), relation


@pytest.mark.parametrize("past, future", WINDOWS)
@settings(max_examples=10, deadline=None)
@given(rows=packed_rows())
def test_a_short_row_is_one_block_of_the_same_edges(past, future, rows):
    blocks = Blocks(LENGTH, past, future)
    assert (blocks.count, blocks.size) == (1, LENGTH)
    found = list(edges_of_blocks(blocks, *rows))
    assert len(found) == len(set(found))
    assert set(found) == brute_force_edges(*rows, past, future)


@pytest.mark.parametrize("past, future", LONG_WINDOWS)
def test_the_blocks_of_a_long_row_are_the_same_edges(past, future):
    blocks = Blocks(LONG_LENGTH, past, future)
    assert (blocks.count > 1) == (past < LONG_LENGTH)
    found = list(edges_of_blocks(blocks, *long_rows()))
    assert len(found) == len(set(found))
    assert set(found) == brute_force_edges(*long_rows(), past, future)


@pytest.mark.parametrize("length", [LENGTH, LONG_LENGTH])
def test_blocks_join_to_the_rows_they_were_cut_from(length):
    values = jnp.arange(ROWS * length * 2.0).reshape(-1, 2)
    blocks = Blocks(length, 3, 1)
    np.testing.assert_array_equal(blocks.rows(blocks.receivers(values)), values)


def test_pairs_grow_with_the_length_of_a_row_and_not_with_its_square():
    pairs = [np.prod(Blocks(n, 8, 8).relations(*2 * (jnp.ones((1, n)),)).shape) for n in (256, 512)]
    assert pairs[1] <= 2 * pairs[0]


def test_edges_by_hand():
    # Speakers A B A; one turn of the past, none of the future, then a padded cell.
    graph = build_graph(np.array([[1, 1, 1, 0]]), np.array([[0, 1, 0, 0]]), 1, 0)
    assert set(valid_edges(graph)) == {
        (0, 0, "same speaker, self"),
        (1, 1, "same speaker, self"),
        (1, 0, "other speaker, past"),
        (2, 2, "same speaker, self"),
        (2, 1, "other speaker, past"),
        (3, 3, "same speaker, self"),
    }


def test_nodes_keep_their_order():
    nodes = np.arange(ROWS * LENGTH * 3.0).reshape(ROWS, LENGTH, 3)
    ones = np.ones((ROWS, LENGTH), np.int32)
    graph = conversation_graph(jnp.asarray(nodes), ones, ones, past=1, future=1)
    np.testing.assert_array_equal(graph.nodes, nodes.reshape(-1, 3))


# Attention.

SEGMENT = np.array([[1, 1, 1, 2, 2, 0, 0], [1, 1, 1, 1, 1, 1, 2]], np.int32)
SPEAKER = np.array([[0, 1, 0, 0, 0, 0, 0], [0, 1, 2, 0, 0, 1, 0]], np.int32)
NODES, HEADS, WIDTH = ROWS * LENGTH, 2, 3


@pytest.fixture(scope="module")
def graph():
    return build_graph(SEGMENT, SPEAKER, 2, 1)


@pytest.fixture(scope="module")
def scored():
    """Values [N, H, d], and the receiver's and sender's shares of the scores [N, R, H]."""
    generator = np.random.default_rng(0)
    shapes = ((NODES, HEADS, WIDTH), *2 * ((NODES, len(RELATIONS), HEADS),))
    return tuple(jnp.asarray(generator.normal(size=s), jnp.float32) for s in shapes)


attend_window = functools.partial(attend_blocks, past=2)


def attend_by_loops(values, of_receiver, of_sender, edges):
    """Softmax of LeakyReLU scores over each receiver's edges, node by node."""
    output, weights = np.zeros(values.shape), {}
    for receiver in range(len(values)):
        heard = [(j, RELATIONS.index(r)) for i, j, r in edges if i == receiver]
        scores = np.array([of_receiver[receiver, r] + of_sender[j, r] for j, r in heard])
        scores = np.where(scores > 0, scores, 0.2 * scores)
        share = np.exp(scores) / np.exp(scores).sum(axis=0)
        for (sender, _), weight in zip(heard, share):
            weights[receiver, sender] = weight
            output[receiver] += weight[:, None] * values[sender]
    return output, weights


@pytest.mark.parametrize("attend", [attend_edges, attend_window])
def test_attention_is_that_of_the_loops(attend, graph, scored):
    output, weights = jax.jit(attend)(*scored, graph)
    edges = brute_force_edges(SEGMENT, SPEAKER, 2, 1)
    expected, expected_weights = attend_by_loops(*map(np.asarray, scored), edges)
    np.testing.assert_allclose(output, expected, atol=1e-5)
    for edge in range(len(graph.senders)):
        pair = int(graph.receivers[edge]), int(graph.senders[edge])
        wanted = expected_weights[pair] if graph.edges["valid"][edge] else 0.0
        np.testing.assert_allclose(weights[edge], wanted, atol=1e-6)


@pytest.mark.parametrize(
    "length, past, future", [(LENGTH, 2, 1), *((LONG_LENGTH, *window) for window in LONG_WINDOWS)]
)
def test_block_attention_is_edge_attention(length, past, future):
    rows = (SEGMENT, SPEAKER) if length == LENGTH else long_rows()
    graph = build_graph(*rows, past, future)
    nodes = ROWS * length
    generator = np.random.default_rng(1)
    shapes = ((nodes, HEADS, WIDTH), *2 * ((nodes, len(RELATIONS), HEADS),))
    scored = tuple(generator.normal(size=s).astype(np.float32) for s in shapes)
    shapes = (shapes[0], (len(graph.senders), HEADS))
    first, second = (generator.normal(size=s).astype(np.float32) for s in shapes)

    def run(attend):
        def total(scored):
            output, weights = attend(*scored, graph)
            return jnp.sum(first * output) + jnp.sum(second * weights), (output, weights)

        (_, found), cotangents = jax.jit(jax.value_and_grad(total, has_aux=True))(scored)
        return [*found, *cotangents]

    of_blocks = run(functools.partial(attend_blocks, past=past))
    for by_edges, by_blocks in zip(run(attend_edges), of_blocks):
        # Who hears nobody else has a weight of one and no use for its scores.
        assert np.abs(by_edges).max() > 0.1 or past + future == 0
        np.testing.assert_allclose(by_edges, by_blocks, atol=1e-5)


def test_attention_weights_of_a_receiver_sum_to_one(graph, scored):
    _, weights = attend_edges(*scored, graph)
    sums = jax.ops.segment_sum(weights, graph.receivers, NODES)
    np.testing.assert_allclose(sums, 1.0, rtol=1e-5)


def test_attention_to_extreme_scores_is_finite(graph, scored):
    values, of_receiver, of_sender = scored
    for attend in (attend_edges, attend_window):
        output, weights = jax.jit(attend)(values, 1e4 * of_receiver, 1e4 * of_sender, graph)
        assert np.all(np.isfinite(output))
        assert np.all(np.isfinite(weights))


def test_attention_with_one_relation_for_all_is_jraph_gat(graph, scored):
    values, of_receiver, of_sender = scored
    # One head; every relation scores as the first does. jraph's GAT knows no unused slots.
    values, receiver, sender = values[:, 0], of_receiver[:, :1, :1], of_sender[:, :1, :1]
    relations = (NODES, len(RELATIONS), 1)
    output, _ = attend_edges(
        values[:, None], *(jnp.broadcast_to(x, relations) for x in (receiver, sender)), graph
    )
    valid = np.asarray(graph.edges["valid"])
    nodes = jnp.concatenate([values, receiver[:, 0], sender[:, 0]], axis=-1)
    plain = graph._replace(
        nodes=nodes, edges=None, senders=graph.senders[valid], receivers=graph.receivers[valid]
    )

    def score(sent, received, edges):
        return jax.nn.leaky_relu(received[:, -2:-1] + sent[:, -1:], 0.2)

    gat = jraph.GAT(lambda nodes: nodes, score, lambda nodes: nodes)
    np.testing.assert_allclose(output[:, 0], gat(plain).nodes[:, :WIDTH], atol=1e-5)


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_relational_attention_follows_its_equation(attention, graph):
    generator = np.random.default_rng(2)
    nodes = generator.normal(size=(NODES, 4)).astype(np.float32)
    layer = RelationalAttention(HEADS * WIDTH, HEADS, past=2, attention=attention)
    filled = graph._replace(nodes=jnp.asarray(nodes))
    params = jax.jit(layer.init)(jax.random.key(0), filled)["params"]
    params = jax.tree.map(
        lambda x: jnp.asarray(generator.normal(size=x.shape), jnp.float32), params
    )
    output, _ = jax.jit(layer.apply)({"params": params}, filled)

    p = jax.tree.map(np.asarray, params)
    values = np.einsum("nd,dhk->nhk", nodes, p["value"]["kernel"]) + p["value"]["bias"]
    receiver, sender = (
        np.einsum("nhk,rhk->nrh", values, p[name]) for name in ("receiver_vector", "sender_vector")
    )
    edges = brute_force_edges(SEGMENT, SPEAKER, 2, 1)
    expected, _ = attend_by_loops(values, receiver + p["relation_bias"], sender, edges)
    np.testing.assert_allclose(output, expected.reshape(NODES, -1), atol=1e-4)
