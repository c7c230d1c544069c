"""The joint model: fusion, BiLSTM, masked graph network, ensemble (section 3 of the design).

A pure function of its parameters: ``CBERL(...).apply(variables, conversations, masking, rate)``.
Evaluation gives no random streams and nothing masked. The GAN is a model of its own (``gan.py``).
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cberl_jax.models.bilstm import BiLSTM
from cberl_jax.models.djvae import DJVAE, LatentState
from cberl_jax.models.ensemble import Ensemble
from cberl_jax.models.graphs import conversation_graph
from cberl_jax.models.layers import Dropout, HiddenLayer, draw_dropout
from cberl_jax.models.masking import Masking, donate
from cberl_jax.models.mgnn import GraphEncoder, MaskTokens, NodeDecoder
from cberl_jax.models.parts import ONLY, WHOLE, Part, Parts

# Part of the model -> the modules that it is made of.
PARTS = {
    "fusion": ("mask_tokens", "djvae", "concatenation"),
    "bilstm": ("bilstm", "bilstm_norm"),
    "graph": ("graph", "decoder"),
    "ensemble": ("ensemble",),
}


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """What decides the shapes of the joint model: one compiled program per value of this.

    Attributes:
      djvae: fuse with the autoencoder; otherwise by concatenation and a dense layer.
      bilstm: run the BiLSTM; otherwise utterances meet in the graph alone.
      graph: run the graph encoder.
      reconstruction: mask nodes in training and decode them; needs ``graph``.
      residual: also feed the standardised features straight to the classifiers.
      residual_turns: with those of so many turns before an utterance and after it.
      causal: see no future: forward LSTM at full width, no edges from later turns.
      hidden: width of the fused feature, the BiLSTM and the graph's codes.
      unroll: turns in a round of the LSTM's loop over time, at least 1.
      latent: width of the autoencoder's latent.
      heads: attention heads; they divide ``hidden``.
      layers: graph attention layers.
      past: turns before an utterance that it sees in the graph.
      future: turns after it.
      attention: how attention in the graph is computed, one of ``ATTENTIONS`` (``mgnn.py``).
      classifiers: number K of weak classifiers.
      classifier_hidden: width of each weak classifier's hidden layer.
      subspace: share of the features that each weak classifier sees.
    """

    djvae: bool
    bilstm: bool
    graph: bool
    reconstruction: bool
    residual: bool
    residual_turns: int
    causal: bool
    hidden: int
    unroll: int
    latent: int
    heads: int
    layers: int
    past: int
    future: int
    attention: str
    classifiers: int
    classifier_hidden: int
    subspace: float


class Conversations(NamedTuple):
    """A batch of packed rows.

    Attributes:
      features: modality -> [B, L, d_m] standardised, zero where absent.
      present: modality -> [B, L] bool.
      segment: [B, L] int, the dialogue's number within its row; 0 = padding.
      speaker: [B, L] int, the speaker's number within the dialogue.
    """

    features: Mapping[str, jax.Array | np.ndarray]
    present: Mapping[str, jax.Array | np.ndarray]
    segment: jax.Array | np.ndarray
    speaker: jax.Array | np.ndarray


def describe_sight(settings: ModelSettings) -> str:
    """Which turns a model sees besides an utterance itself, in words; empty for none."""
    everywhere = settings.bilstm or bool(settings.residual and settings.residual_turns)
    before = everywhere or bool(settings.graph and settings.past)
    after = not settings.causal and (everywhere or bool(settings.graph and settings.future))
    sides = " and ".join(side for side, seen in (("before", before), ("after", after)) if seen)
    return sides and f"turns {sides} it"


def window_length(settings: ModelSettings) -> int:
    """How many turns, ending with the turn itself, a causal model's output depends on.

    The state that the LSTM carries (``start_carry``) comes on top.
    """
    seen = settings.layers * settings.past if settings.graph else 0
    return 1 + max(seen, settings.residual_turns if settings.residual else 0)


def start_carry(settings: ModelSettings) -> dict:
    """The collection ``carry`` at the start of one conversation, for a causal model.

    With it the model goes over a conversation by windows of ``window_length`` turns that move a
    turn at a time, padded in front: ``apply(..., mutable=["carry"])`` gives the next one's.
    """
    if not settings.bilstm:
        return {}
    nothing = jnp.zeros((1, settings.hidden))
    return {"bilstm": {"forward": {"state": (nothing, nothing)}}}


class Intermediates(NamedTuple):
    """What the joint model passes on besides its logits; None where that part is switched off.

    Attributes:
      code: [B, L, hidden], what the context parts make of each utterance.
      latent: the autoencoder's posterior, experts and reconstructions.
      rebuilt: modality -> [B, L, d_m], the node decoder's features.
      attention: [E, heads] weights of the last graph layer, edges as in ``graphs.py``.
    """

    code: jax.Array
    latent: LatentState | None
    rebuilt: Mapping[str, jax.Array] | None
    attention: jax.Array | None


class CBERL(nn.Module):
    """The joint model.

    Attributes:
      settings: the static settings.
      widths: (modality, d_m) pairs.
      classes: number C of emotions.
    """

    settings: ModelSettings
    widths: tuple[tuple[str, int], ...]
    classes: int

    def __call__(
        self,
        conversations: Conversations,
        masking: Masking,
        rate: jax.typing.ArrayLike = 0.0,
        input_rate: jax.typing.ArrayLike = 0.0,
        parts: Parts = WHOLE,
    ) -> tuple[jax.Array, Intermediates]:
        """Classifies every utterance.

        Args:
          conversations: the batch.
          masking: nodes to hide; ``no_masking`` at evaluation.
          rate: [] dropout rate, without effect unless a ``dropout`` stream is given.
          input_rate: [] likewise, of the features that are fused; the classifiers' own are dropped
            at ``rate``.
          parts: in which the rows are computed.

        Returns:
          Logits [B, L, K, C] of the weak classifiers, and the Intermediates.
        """
        dropout, donated = Dropout(), {}
        if self.settings.reconstruction:
            donated = parts.keep_whole(donate(conversations.features, masking))
        run = functools.partial(self.clone(parent=None).apply, method="forward")
        if self.has_rng("dropout"):
            arguments = (self.variables, conversations, masking, donated)
            shape, key = conversations.segment.shape, self.make_rng("dropout")
            dropout = draw_dropout(run, arguments, key, shape, rate, input_rate)
        if parts.count == 1:
            return self.forward(conversations, masking, donated, dropout)
        streams = {}
        if self.has_rng("latent"):
            streams["latent"] = self.scope.rngs["latent"].as_jax_rng()

        def run_part(params, batch, part):
            *given, bits = batch
            dropout = Dropout(bits, rate, input_rate)
            return run({**self.variables, "params": params}, *given, dropout, part, rngs=streams)

        batch = (conversations, masking, donated, dropout.bits)
        return parts.map(run_part, self.variables["params"], batch)

    @nn.compact
    def forward(
        self,
        conversations: Conversations,
        masking: Masking,
        donated: Mapping[str, jax.Array],
        dropout: Dropout,
        part: Part = ONLY,
    ) -> tuple[jax.Array, Intermediates]:
        """The same of one part of a batch, whose donors are found and whose dropout is drawn."""
        s = self.settings
        present = conversations.present
        # By name: jit sorts the keys of a dict, and the layers below concatenate.
        features = {m: conversations.features[m] for m in sorted(conversations.features)}
        if s.reconstruction:
            features = MaskTokens(name="mask_tokens")(features, donated, masking)
        features = {m: jnp.where(present[m][..., None], x, 0.0) for m, x in features.items()}

        fused, latent = self._fuse(features, present, dropout, part)
        code = fused
        if s.bilstm:
            lstm = BiLSTM(s.hidden, s.causal, s.unroll, name="bilstm")
            code = nn.LayerNorm(name="bilstm_norm")(
                code + lstm(code, conversations.segment, dropout)
            )
        attention = rebuilt = None
        if s.graph:
            code, attention, rebuilt = self._attend(code, conversations, masking, dropout)

        inputs = [code, fused]
        if s.residual:
            inputs.append(self._join_turns(features, conversations.segment))
        ensemble = Ensemble(
            self.classes, s.classifiers, s.classifier_hidden, s.subspace, name="ensemble"
        )
        logits = ensemble(jnp.concatenate(inputs, axis=-1), dropout)
        return logits, Intermediates(code, latent, rebuilt, attention)

    def _fuse(
        self,
        features: Mapping[str, jax.Array],
        present: Mapping[str, jax.Array],
        dropout: Dropout,
        part: Part,
    ) -> tuple[jax.Array, LatentState | None]:
        """The fused feature [B, L, hidden], and the autoencoder's state if it is there."""
        s = self.settings
        # With wide features of few dialogues the layers that fuse them would overfit.
        thinned = {m: dropout.drop_inputs(x) for m, x in features.items()}
        if s.djvae:
            return DJVAE(s.hidden, s.latent, name="djvae")(thinned, present, dropout, part)
        joined = jnp.concatenate(list(thinned.values()), axis=-1)
        return HiddenLayer(s.hidden, name="concatenation")(joined, dropout), None

    def _attend(
        self, code: jax.Array, conversations: Conversations, masking: Masking, dropout: Dropout
    ) -> tuple[jax.Array, jax.Array, Mapping[str, jax.Array] | None]:
        """The graph's codes, its attention, and the masked nodes as the decoder rebuilds them."""
        s, shape = self.settings, code.shape
        graph = conversation_graph(
            code,
            conversations.segment,
            conversations.speaker,
            past=s.past,
            future=0 if s.causal else s.future,
        )
        encoder = GraphEncoder(s.hidden, s.heads, s.layers, s.past, s.attention, name="graph")
        nodes, attention = encoder(graph, dropout)
        rebuilt = None
        if s.reconstruction:
            decoder = NodeDecoder(
                self.widths, s.hidden, s.heads, s.past, s.attention, name="decoder"
            )
            flat = decoder(graph._replace(nodes=nodes), masking.masked.reshape(-1))
            rebuilt = {m: x.reshape(*shape[:2], -1) for m, x in flat.items()}
        return nodes.reshape(shape), attention, rebuilt

    @property
    def _turns(self) -> int:
        """How many turns' features go straight to the classifiers."""
        return 1 + self.settings.residual_turns * (1 if self.settings.causal else 2)

    def _join_turns(self, features: Mapping[str, jax.Array], segment: jax.Array) -> jax.Array:
        """The features of an utterance and the turns around it; zero beyond its dialogue."""
        own = jnp.concatenate(list(features.values()), axis=-1)
        length, around = own.shape[1], self.settings.residual_turns
        if not around:
            return own
        values = jnp.pad(own, ((0, 0), (around, around), (0, 0)))
        dialogue = jnp.pad(segment, ((0, 0), (around, around)))
        views = []
        for start in range(self._turns):
            here = slice(start, start + length)
            near = (dialogue[:, here] == segment) & (segment > 0)
            views.append(jnp.where(near[..., None], values[:, here], 0.0))
        return jnp.concatenate(views, axis=-1)
