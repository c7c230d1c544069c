"""The conversation's edges against a brute-force builder, and attention over them."""

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cberl_jax.graphs import RELATIONS, conversation_graph, dense_relations
from cberl_jax.models.mgnn import RelationalAttention, attend_dense, attend_edges

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


@pytest.mark.parametrize("past, future", WINDOWS)
@settings(max_examples=10, deadline=None)
@given(rows=packed_rows())
def test_dense_relations_are_the_same_edges(past, future, rows):
    dense = np.asarray(dense_relations(build_graph(*rows, past, future), LENGTH))
    found = {
        (row * LENGTH + i, row * LENGTH + j, RELATIONS[dense[row, i, j]])
        for row, i, j in np.argwhere(dense >= 0)
    }
    assert found == brute_force_edges(*rows, past, future)


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


@pytest.mark.parametrize("attend", [attend_edges, attend_dense])
def test_attention_is_that_of_the_loops(attend, graph, scored):
    output, weights = jax.jit(attend)(*scored, graph)
    edges = brute_force_edges(SEGMENT, SPEAKER, 2, 1)
    expected, expected_weights = attend_by_loops(*map(np.asarray, scored), edges)
    np.testing.assert_allclose(output, expected, atol=1e-5)
    for edge in range(len(graph.senders)):
        pair = int(graph.receivers[edge]), int(graph.senders[edge])
        wanted = expected_weights[pair] if graph.edges["valid"][edge] else 0.0
        np.testing.assert_allclose(weights[edge], wanted, atol=1e-6)


def test_dense_attention_is_edge_attention(graph, scored):
    @jax.jit
    def both(values, of_receiver, of_sender):
        pair = [a(values, of_receiver, of_sender, graph) for a in (attend_edges, attend_dense)]
        return jax.tree.map(lambda *x: jnp.stack(x), *pair)

    @jax.jit
    def gradients(scored):
        generator = np.random.default_rng(1)
        shapes = ((NODES, HEADS, WIDTH), (len(graph.senders), HEADS))
        first, second = (generator.normal(size=s).astype(np.float32) for s in shapes)

        def total(attend, scored):
            output, weights = attend(*scored, graph)
            return jnp.sum(first * output) + jnp.sum(second * weights)

        return [jax.grad(lambda s, a=a: total(a, s))(scored) for a in (attend_edges, attend_dense)]

    for values in both(*scored):
        np.testing.assert_allclose(values[0], values[1], atol=1e-5)
    for of_edges, of_dense in zip(*gradients(scored)):
        assert np.abs(of_edges).max() > 0.1
        np.testing.assert_allclose(of_edges, of_dense, atol=1e-5)


def test_attention_weights_of_a_receiver_sum_to_one(graph, scored):
    _, weights = attend_edges(*scored, graph)
    sums = jax.ops.segment_sum(weights, graph.receivers, NODES)
    np.testing.assert_allclose(sums, 1.0, rtol=1e-5)


def test_attention_to_extreme_scores_is_finite(graph, scored):
    values, of_receiver, of_sender = scored
    for attend in (attend_edges, attend_dense):
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


@pytest.mark.parametrize("dense", [True, False])
def test_relational_attention_follows_its_equation(dense, graph):
    generator = np.random.default_rng(2)
    nodes = generator.normal(size=(NODES, 4)).astype(np.float32)
    layer = RelationalAttention(HEADS * WIDTH, HEADS, dense=dense)
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
