"""The conversation as a graph: which utterances attend to which, by relation (section 3.4).

Nodes are utterances. An edge runs from utterance j to utterance i of the same dialogue when j is at
most ``past`` turns before or ``future`` turns after i; every node has a self loop. The relation of
an edge is (same or other speaker) x (past, self, future), so there are few however many speakers.
Every receiver owns past + future + 1 edge slots, sorted by receiver: the structure has one static
shape for a batch, and slots that reach over a border are marked, not removed. ``Blocks`` hold the
same edges as small matrices, for attention by matrix products.
"""

import dataclasses

import jax
import jax.numpy as jnp
import jraph
import numpy as np

RELATIONS = (
    "same speaker, past",
    "same speaker, self",
    "same speaker, future",
    "other speaker, past",
    "other speaker, self",  # Never occurs; kept so that relations are numbered by arithmetic.
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
      a dict of ``segment`` and ``speaker`` [B, L] int. A slot that is not valid joins a node to
      itself. Self loops are valid everywhere, padding included, so that no softmax is empty.
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
        globals={"segment": segment, "speaker": speaker},
        n_node=jnp.full((rows,), length, jnp.int32),
        n_edge=jnp.full((rows,), length * len(offset), jnp.int32),
    )


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Rows cut into n blocks of Q receivers, each with the K senders that they attend to.

    A row that is short next to the window is one block that attends to itself. A longer one is cut,
    so that the pairs to be scored grow with its length and not with its square. There are G = B n
    blocks in all.

    Attributes:
      length: L.
      past: turns that an utterance sees before it.
      future: turns that it sees after it.
    """

    length: int
    past: int
    future: int

    @property
    def size(self) -> int:
        """Q; at least the window, so that attention reaches the neighbouring blocks at most."""
        size = max(self.past + 1 + self.future, 16)
        return self.length if self.length <= 4 * size else size

    @property
    def count(self) -> int:
        """Blocks n of a row."""
        return -(-self.length // self.size)

    @property
    def margins(self) -> tuple[int, int]:
        """Senders before and after a block's own nodes that it attends to."""
        return (0, 0) if self.count == 1 else (self.past, self.future)

    def receivers(self, values: jax.Array) -> jax.Array:
        """Cuts [B L, ...] into [G, Q, ...]; the last block of a row is filled up with zeros."""
        values = values.reshape(-1, self.length, *values.shape[1:])
        short = self.count * self.size - self.length
        padded = jnp.pad(values, ((0, 0), (0, short)) + ((0, 0),) * (values.ndim - 2))
        return padded.reshape(-1, self.size, *values.shape[2:])

    def senders(self, values: jax.Array) -> jax.Array:
        """Cuts [B L, ...] into [G, K, ...]: the blocks, each with the ends of its neighbours.

        What the first and the last block of a row get from elsewhere is in no edge.
        """
        own = self.receivers(values)
        if self.count == 1:
            return own
        before, after = self.margins
        # Slices, not a gather: the gradient of a gather is a slow scatter.
        left = jnp.roll(own, 1, axis=0)[:, self.size - before :]
        right = jnp.roll(own, -1, axis=0)[:, :after]
        return jnp.concatenate([left, own, right], axis=1)

    def rows(self, values: jax.Array) -> jax.Array:
        """Joins [G, Q, ...] to [B L, ...], the inverse of ``receivers``."""
        values = values.reshape(-1, self.count * self.size, *values.shape[2:])
        return values[:, : self.length].reshape(-1, *values.shape[2:])

    def relations(self, segment: jax.Array, speaker: jax.Array) -> jax.Array:
        """The edges between receivers and senders.

        Args:
          segment: [B, L] int, the dialogue's number within its row; 0 = padding.
          speaker: [B, L] int, the speaker's number within the dialogue.

        Returns:
          [G, Q, K] int: the relation, or -1 where there is no edge.
        """
        before, after = self.margins
        place = np.arange(-before, self.size + after)
        offset = place - np.arange(self.size)[:, None]
        place = place + self.size * np.arange(self.count)[:, None, None]
        near = (offset >= -self.past) & (offset <= self.future)
        near = np.tile(near & (place >= 0) & (place < self.length), (len(segment), 1, 1))

        def pairs(values):
            values = values.reshape(-1)
            return self.receivers(values)[:, :, None], self.senders(values)[:, None]

        here, there = pairs(segment)
        valid = (near & (here == there) & (here > 0)) | (offset == 0)
        me, you = pairs(speaker)
        return jnp.where(valid, 3 * (me != you).astype(jnp.int32) + (1 + np.sign(offset)), -1)

    def edges(self, values: jax.Array) -> jax.Array:
        """Picks [E, ...] out of [G, Q, K, ...], in the order of ``conversation_graph``."""
        receiver = np.arange(self.size)[:, None]
        sender = receiver + np.arange(-self.past, self.future + 1) + self.margins[0]
        picked = self.rows(values[:, receiver, np.clip(sender, 0, values.shape[2] - 1)])
        return picked.reshape(-1, *picked.shape[2:])
