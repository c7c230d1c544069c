"""The masked graph network (section 3.4): attention over a conversation, and masked nodes' repair.

Masking happens at the input, before anything has mixed the utterances, so that a masked node's own
features cannot reach its reconstruction. Who is masked is decided in ``masking.py``; the scaled
cosine error is in ``losses.py``.
"""

import functools
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
import jraph
import numpy as np

from cberl_jax.models.graphs import RELATIONS, Blocks
from cberl_jax.models.layers import Dropout
from cberl_jax.models.masking import Masking

NO_EDGE = -1e9
SLOPE = 0.2  # of LeakyReLU, as in the graph attention paper
# How attention is computed; the numbers are the same but for rounding.
BLOCKS, EDGES = ATTENTIONS = ("blocks", "edges")


class MaskTokens(nn.Module):
    """Replaces masked nodes' features by a learnable token, or by another node's features."""

    @nn.compact
    def __call__(
        self,
        features: Mapping[str, jax.Array],
        donated: Mapping[str, jax.Array],
        masking: Masking,
    ) -> Mapping[str, jax.Array]:
        """Hides masked nodes.

        Args:
          features: modality -> [B, L, d_m].
          donated: likewise, those of each node's donor, from ``donate``.
          masking: the masked nodes.

        Returns:
          modality -> [B, L, d_m].
        """
        hidden = {}
        for modality, values in features.items():
            width = values.shape[-1]
            token = self.param(f"token_{modality}", nn.initializers.normal(0.02), (width,))
            cover = jnp.where(masking.swapped[..., None], donated[modality], token)
            hidden[modality] = jnp.where(masking.masked[..., None], cover, values)
        return hidden


def attend_edges(
    values: jax.Array, of_receiver: jax.Array, of_sender: jax.Array, graph: jraph.GraphsTuple
) -> tuple[jax.Array, jax.Array]:
    """Attention by segment sums over the graph's edges: the reference.

    Args:
      values: [N, H, d] the senders' values.
      of_receiver: [N, R, H] the receiver's share of the score, per relation.
      of_sender: [N, R, H] the sender's share.
      graph: edges with ``relation`` and ``valid`` [E].

    Returns:
      [N, H, d] attended values, and [E, H] weights.
    """
    relation = graph.edges["relation"]
    scores = of_receiver[graph.receivers, relation] + of_sender[graph.senders, relation]
    scores = nn.leaky_relu(scores, SLOPE)
    scores = jnp.where(graph.edges["valid"][:, None], scores, NO_EDGE)
    sums = {"num_segments": len(values), "indices_are_sorted": True}
    weights = jraph.segment_softmax(scores, graph.receivers, **sums)
    messages = weights[..., None] * values[graph.senders]
    return jraph.segment_sum(messages, graph.receivers, **sums), weights


def attend_blocks(
    values: jax.Array,
    of_receiver: jax.Array,
    of_sender: jax.Array,
    graph: jraph.GraphsTuple,
    *,
    past: int,
) -> tuple[jax.Array, jax.Array]:
    """The same numbers as ``attend_edges`` by matrix products over blocks of rows.

    Pairs outside the window cost less than gathers and scatters do. ``past`` is the graph's, which
    cannot be read off its arrays.
    """
    future = len(graph.senders) // len(values) - 1 - past
    blocks = Blocks(len(values) // len(graph.n_node), past, future)
    relations = blocks.relations(graph.globals["segment"], graph.globals["speaker"])

    # Pairs last: heads are too few to fill a vector register.
    receiver = blocks.receivers(of_receiver).transpose(0, 2, 3, 1)[..., None]
    sender = blocks.senders(of_sender).transpose(0, 2, 3, 1)[..., None, :]
    is_relation = relations[:, None] == np.arange(len(RELATIONS))[:, None, None]
    scores = jnp.sum(jnp.where(is_relation[:, :, None], receiver + sender, 0.0), axis=1)
    scores = jnp.where((relations >= 0)[:, None], nn.leaky_relu(scores, SLOPE), NO_EDGE)
    weights = jax.nn.softmax(scores)
    output = blocks.rows(jnp.einsum("ghqk,gkhd->gqhd", weights, blocks.senders(values)))
    of_edge = blocks.edges(weights.transpose(0, 2, 3, 1))
    return output, jnp.where(graph.edges["valid"][:, None], of_edge, 0.0)


class RelationalAttention(nn.Module):
    """Multi-head graph attention whose attention vectors depend on the edge's relation.

    With W the values' projection and r the relation of the edge j -> i::

        e_ij = LeakyReLU(a_r . W h_i + b_r . W h_j + c_r),   out_i = sum_j softmax_j(e_ij) W h_j

    Attributes:
      width: width of the output; each of the heads has its equal share.
      heads: number of heads.
      past: turns of the past that the graph's window holds.
      attention: ``blocks``, matrix products over blocks of rows, or ``edges``, segment sums.

    References:
      Velickovic et al., Graph Attention Networks, ICLR 2018, equations 1 to 5.
    """

    width: int
    heads: int
    past: int
    attention: str = BLOCKS

    @nn.compact
    def __call__(self, graph: jraph.GraphsTuple) -> tuple[jax.Array, jax.Array]:
        """Attends over the graph's edges.

        Args:
          graph: nodes [N, d], edges with ``relation`` and ``valid`` [E].

        Returns:
          [N, width] sums of the senders' values, and [E, heads] attention weights.
        """
        values = nn.DenseGeneral((self.heads, self.width // self.heads), name="value")(graph.nodes)
        shape = (len(RELATIONS), *values.shape[1:])
        init = nn.initializers.lecun_normal(in_axis=-1, out_axis=-2)
        bias = self.param("relation_bias", nn.initializers.zeros, shape[:2])
        of_receiver, of_sender = (
            jnp.einsum("nhd,rhd->nrh", values, self.param(name, init, shape))
            for name in ("receiver_vector", "sender_vector")
        )
        attend = attend_edges
        if self.attention == BLOCKS:
            attend = functools.partial(attend_blocks, past=self.past)
        output, weights = attend(values, of_receiver + bias, of_sender, graph)
        return output.reshape(-1, self.width), weights


class GraphEncoder(nn.Module):
    """Layers of relational attention with residual and layer norm.

    Attributes:
      width: width of the nodes.
      heads: attention heads.
      layers: number of attention layers.
      past: turns of the past that the graph's window holds.
      attention: as of ``RelationalAttention``.
    """

    width: int
    heads: int
    layers: int
    past: int
    attention: str = BLOCKS

    @nn.compact
    def __call__(self, graph: jraph.GraphsTuple, dropout: Dropout) -> tuple[jax.Array, jax.Array]:
        """Returns the nodes' codes [N, width] and the last layer's attention [E, heads]."""
        nodes = nn.Dense(self.width, name="embed")(graph.nodes)
        for layer in range(self.layers):
            attention = RelationalAttention(
                self.width, self.heads, self.past, self.attention, name=f"attention_{layer}"
            )
            attended, weights = attention(graph._replace(nodes=nodes))
            nodes = nn.LayerNorm(name=f"norm_{layer}")(nodes + dropout(nn.gelu(attended)))
        return nodes, weights


class NodeDecoder(nn.Module):
    """Rebuilds masked nodes from their neighbours: one attention layer on the re-masked code.

    Attributes:
      widths: (modality, d_m) pairs.
      width: width of the code.
      heads: attention heads.
      past: turns of the past that the graph's window holds.
      attention: as of ``RelationalAttention``.

    References:
      Hou et al., GraphMAE, KDD 2022, section 3.2 (re-mask decoding).
    """

    widths: tuple[tuple[str, int], ...]
    width: int
    heads: int
    past: int
    attention: str = BLOCKS

    @nn.compact
    def __call__(self, graph: jraph.GraphsTuple, masked: jax.Array) -> Mapping[str, jax.Array]:
        """Decodes codes.

        Args:
          graph: nodes [N, width], the encoder's codes.
          masked: [N] bool.

        Returns:
          modality -> [N, d_m].
        """
        code = nn.Dense(self.width, use_bias=False, name="encoder_to_decoder")(graph.nodes)
        token = self.param("mask_token", nn.initializers.normal(0.02), (self.width,))
        code = jnp.where(masked[:, None], token, code)
        attention = RelationalAttention(
            self.width, self.heads, self.past, self.attention, name="attention"
        )
        attended, _ = attention(graph._replace(nodes=code))
        hidden = nn.gelu(attended)
        return {
            modality: nn.Dense(width, name=f"decoder_{modality}")(hidden)
            for modality, width in self.widths
        }
