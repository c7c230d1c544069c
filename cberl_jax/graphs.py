"""The conversation as a graph: who may hear whom, and in what relation (section 3.4).

Nodes are utterances. An edge runs from utterance j to utterance i of the same dialogue when j is at
most ``past`` turns before or ``future`` turns after i; every node has a self loop. The relation of
an edge is (same or other speaker) x (past, self, future), so there are few however many speakers.
Every receiver owns past + future + 1 edge slots, sorted by receiver: the structure has one static
shape for a batch, and slots that reach over a border are marked, not removed.
"""

import jax
import jax.numpy as jnp
import jraph
import numpy as np

RELATIONS = (
    "same speaker, past",
    "same speaker, self",
    "same speaker, future",
    "other speaker, past",
    "other speaker, self",  # Never occurs: nobody is somebody else. Kept for plain arithmetic.
    "other speaker, future",
)


def conversation_graph(
    nodes: jax.Array, segment: jax.Array, speaker: jax.Array, *, past: int, future: int
) -> jraph.GraphsTuple:
    """Builds the graph of a batch of packed rows.

    Args:
      nodes: [B, L, d] features.
      segment: [B, L] int, the dialogue's number within its row; 0 = padding.
      speaker: [B, L] int, the speaker's number within the dialogue.
      past: turns that an utterance sees before it.
      future: turns that an utterance sees after it.

    Returns:
      A GraphsTuple of B graphs with L nodes each, N = B L in all. ``nodes`` [N, d]; ``edges`` a
      dict of ``relation`` [E] int, an index into ``RELATIONS``, and ``valid`` [E] bool, with
      E = N (past + future + 1) sorted by receiver; ``senders``, ``receivers`` [E] int; ``globals``
      None. A slot that is not valid joins a node to itself. Self loops are valid everywhere,
      padding included, so that no softmax is empty.
    """
    rows, length = segment.shape
    offset = np.arange(-past, future + 1)
    turn = np.arange(length)[:, None] + offset
    inside = (turn >= 0) & (turn < length)
    turn = np.where(inside, turn, np.arange(length)[:, None])

    same_dialogue = (segment[:, turn] == segment[:, :, None]) & (segment[:, :, None] > 0)
    valid = (same_dialogue & inside) | (offset == 0)
    other = speaker[:, turn] != speaker[:, :, None]
    relation = 3 * other.astype(jnp.int32) + (1 + np.sign(offset))

    row_start = length * np.arange(rows)[:, None, None]
    senders = jnp.where(valid, turn + row_start, np.arange(length)[:, None] + row_start)
    receivers = np.repeat(np.arange(rows * length, dtype=np.int32), len(offset))
    return jraph.GraphsTuple(
        nodes=nodes.reshape(rows * length, -1),
        edges={"relation": relation.reshape(-1), "valid": valid.reshape(-1)},
        senders=senders.reshape(-1).astype(jnp.int32),
        receivers=jnp.asarray(receivers),
        globals=None,
        n_node=jnp.full((rows,), length, jnp.int32),
        n_edge=jnp.full((rows,), length * len(offset), jnp.int32),
    )


def dense_relations(graph: jraph.GraphsTuple, length: int) -> jax.Array:
    """The same edges as a matrix per row, for attention by matrix products.

    Args:
      graph: from ``conversation_graph``.
      length: L.

    Returns:
      [B, L, L] int: at [row, receiver, sender] the relation, or -1 where there is no edge.
    """
    nodes = graph.n_node.shape[0] * length
    code = jnp.where(graph.edges["valid"], graph.edges["relation"], -1)
    cells = jnp.full((nodes, length), -1, jnp.int32)
    cells = cells.at[graph.receivers, graph.senders % length].max(code)
    return cells.reshape(-1, length, length)
