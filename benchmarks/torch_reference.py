"""The joint model in plain PyTorch, trained as this field's published code trains its models.

The contestant of the benchmark, and an independent check of every layer (``test_torch_parity.py``):
the same parts with the same widths (section 3 of the design), losses, optimiser, averaging and dev
evaluation, but one model after the other, a Python loop over batches of whole dialogues, and each
operator started by itself. It leaves out the GAN and what it generates, the choice of the kept
epoch, checkpoints and everything about several members.

What PyTorch does well is used: utterances of a batch lie one after the other and are padded for
the LSTM alone; edges are listed without a Python loop; only masked nodes are decoded; layers that
read the same input are one product; AdamW is the fused one. Letters: B dialogues, T turns of the
longest, N utterances, E edges, M masked utterances, D the summed feature width, P modalities, and
C, K, R, H as in the model. Modalities are always in the order of their names.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cberl_jax.data.packing import Turns, turns_of
from cberl_jax.models.cberl import ModelSettings
from cberl_jax.training.prepare import Prepared

RELATIONS = 6  # (same or other speaker) x (past, self, future)
SLOPE = 0.2  # of LeakyReLU
LOG_VARIANCE_RANGE = (-6.0, 4.0)
LARGEST_PROBABILITY = 0.9  # of a class to be masked
# What a leaf of the flax variables is here: one view of a parameter, or one per leading index.
Leaf = Tensor | tuple[Tensor, ...]


# Batches: numpy on the host, so that an accelerator is never waited for.


class Edges(NamedTuple):
    """Edges that end at some of the utterances, sorted by receiver.

    Attributes:
      sender: [E] int.
      receiver: [E] int, a place in the list of receivers.
      score: [2 E] int, rows of the table of scores, [N 2 R, H] flattened: first what each edge's
        receiver says of its relation, then what its sender says.
      receivers: number of receivers.
    """

    sender: Tensor
    receiver: Tensor
    score: Tensor
    receivers: int


class Masking(NamedTuple):
    """The masked utterances of a batch.

    Attributes:
      masked: [M] int, their numbers, ascending.
      swapped: [M] bool, those that get another utterance's features instead of the token.
      donor: [M] int, that other utterance, not masked itself.
      edges: the edges that end at masked utterances, for the decoder.
    """

    masked: Tensor
    swapped: Tensor
    donor: Tensor
    edges: Edges


class Dialogues(NamedTuple):
    """A batch of whole dialogues, one after the other.

    Attributes:
      features: [N, D] standardised, the modalities side by side, zero where absent.
      present: [N, P] float, one or zero.
      grid: [2, T, B] int, the utterance at every turn of every dialogue as it is, and reversed;
        any utterance where padding.
      place: [2, N] int, where in each of the two [T B] every utterance stands.
      edges: the edges that end at every utterance.
    """

    features: Tensor
    present: Tensor
    grid: Tensor
    place: Tensor
    edges: Edges


class Layout(NamedTuple):
    """Where the utterances of a batch stand, as numpy arrays.

    Attributes:
      length: [B] turns per dialogue.
      dialogue: [N] the dialogue of each utterance.
      turn: [N] its turn, from 0.
    """

    length: np.ndarray
    dialogue: np.ndarray
    turn: np.ndarray


def lay_out(length: np.ndarray) -> Layout:
    """The places of the utterances of B dialogues, given their lengths [B]."""
    dialogue = np.repeat(np.arange(len(length)), length)
    start = np.cumsum(length) - length
    return Layout(length, dialogue, np.arange(len(dialogue)) - start[dialogue])


def choose_turns(turns: Turns, chosen: np.ndarray) -> tuple[Layout, np.ndarray]:
    """The layout of some dialogues, given by their numbers [B], and the numbers of their turns."""
    layout = lay_out(turns.length[chosen].astype(np.int64))
    start = np.cumsum(turns.length) - turns.length
    return layout, start[chosen][layout.dialogue] + layout.turn


def create_edges(
    layout: Layout, speaker: np.ndarray, receivers: np.ndarray, settings: ModelSettings
) -> Edges:
    """Lists who is heard: the turns of the dialogue within the window of the graph.

    Args:
      layout: of the batch.
      speaker: [N] int, the speaker's number within the dialogue.
      receivers: numbers of the utterances that hear, ascending.
      settings: of the model.
    """
    offset = np.arange(-settings.past, (0 if settings.causal else settings.future) + 1)
    turn = layout.turn[receivers, None] + offset
    inside = (turn >= 0) & (turn < layout.length[layout.dialogue[receivers], None])
    receiver, slot = np.nonzero(inside)
    node = receivers[receiver]
    sender = node + offset[slot]
    relation = 3 * (speaker[sender] != speaker[node]) + 1 + np.sign(offset)[slot]
    rows = 2 * RELATIONS * np.stack([node, sender])
    rows += np.stack([relation, RELATIONS + relation])
    return Edges(*map(torch.from_numpy, (sender, receiver, rows.reshape(-1))), len(receivers))


def create_dialogues(
    features: Tensor,
    present: Tensor,
    layout: Layout,
    speaker: np.ndarray,
    settings: ModelSettings,
) -> Dialogues:
    """Builds the model's input.

    Args:
      features: [N, D] standardised, zero where absent.
      present: [N, P] float, one or zero.
      layout: of the batch.
      speaker: [N] int, the speaker's number within the dialogue.
      settings: of the model.
    """
    length, dialogue, turn = layout
    count, longest = len(length), int(length.max())
    place = np.stack([turn, length[dialogue] - 1 - turn]) * count + dialogue
    grid = np.zeros((2, longest * count), np.int64)
    np.put_along_axis(grid, place, np.arange(len(turn))[None], axis=1)
    edges = create_edges(layout, speaker, np.arange(len(turn)), settings)
    grid = torch.from_numpy(grid.reshape(2, longest, count))
    return Dialogues(features, present, grid, torch.from_numpy(place), edges)


def create_masking(
    layout: Layout,
    speaker: np.ndarray,
    masked: np.ndarray,
    swapped: np.ndarray,
    donor: np.ndarray,
    settings: ModelSettings,
) -> Masking:
    """Builds a Masking from the [M] numbers of the masked utterances and what covers them."""
    edges = create_edges(layout, speaker, masked, settings)
    return Masking(*map(torch.from_numpy, (masked, swapped, donor)), edges)


# The model.


class Dense(nn.Linear):
    """A linear layer with flax's initial values: LeCun's truncated normal, biases zero."""

    def reset_parameters(self):
        """Draws the initial values."""
        draw_kernel(self.weight, self.in_features)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def leaves(self, path: str, rows: slice = slice(None)) -> Iterator[tuple[str, Leaf]]:
        """The flax leaves that some of the outputs are, as views."""
        yield f"{path}/kernel", self.weight[rows].T
        if self.bias is not None:
            yield f"{path}/bias", self.bias[rows]


def draw_kernel(values: Tensor, fan_in: int) -> None:
    """LeCun's normal, cut at two deviations and widened to the wanted deviation."""
    deviation = fan_in**-0.5 / 0.87962566103423978
    nn.init.trunc_normal_(values, std=deviation, a=-2 * deviation, b=2 * deviation)


def norm_leaves(norm: nn.LayerNorm, path: str) -> Iterator[tuple[str, Leaf]]:
    """The flax leaves of a layer norm."""
    yield f"{path}/scale", norm.weight
    yield f"{path}/bias", norm.bias


class Dropout(nn.Module):
    """Dropout from raw bits, sixteen per number: on a CPU a third of the time of torch's own."""

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate

    def forward(self, values: Tensor) -> Tensor:
        """Zeroes a share of values [...] in training, and scales the others up."""
        if not (self.training and self.rate):
            return values
        count = values.numel()
        words = torch.empty(-(-count // 4), dtype=torch.int64, device=values.device)
        bits = words.random_(-(2**63), None).view(torch.int16)[:count].view(values.shape)
        keep = bits >= round(self.rate * 2**16) - 2**15
        return values * (keep / (1.0 - self.rate))

    def leaves(self, path: str) -> Iterator[tuple[str, Leaf]]:
        """No leaves: it has no parameters."""
        del path
        return iter(())


class HiddenLayer(nn.Module):
    """Dense, layer norm, GELU, dropout."""

    def __init__(self, width_in: int, width: int, dropout: float):
        super().__init__()
        self.dense = Dense(width_in, width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.dropout = Dropout(dropout)

    def forward(self, values: Tensor) -> Tensor:
        """Maps [N, d] to [N, width]."""
        return self.dropout(gelu(self.norm(self.dense(values))))

    def leaves(self, path: str) -> Iterator[tuple[str, Leaf]]:
        """The flax leaves of the layer."""
        yield from self.dense.leaves(f"{path}/Dense_0")
        yield from norm_leaves(self.norm, f"{path}/LayerNorm_0")


def gelu(values: Tensor) -> Tensor:
    """GELU by its tanh form, as in flax."""
    return F.gelu(values, approximate="tanh")


class MaskTokens(nn.Module):
    """Replaces masked utterances' features by a learnable token, or by another's features."""

    def __init__(self, widths: Mapping[str, int]):
        super().__init__()
        self.widths = widths
        self.token = nn.Parameter(0.02 * torch.randn(sum(widths.values())))

    def forward(self, features: Tensor, present: Tensor, masking: Masking) -> Tensor:
        """Returns the features [N, D] with masked utterances hidden, still zero where absent."""
        donors = features.index_select(0, masking.donor)
        cover = torch.where(masking.swapped[:, None], donors, self.token)
        cover = cover * spread(present.index_select(0, masking.masked), self.widths)
        return features.index_copy(0, masking.masked, cover)

    def leaves(self, path: str) -> Iterator[tuple[str, Leaf]]:
        """The flax leaves of the tokens."""
        for modality, token in zip(self.widths, self.token.split(tuple(self.widths.values()))):
            yield f"{path}/token_{modality}", token


def spread(present: Tensor, widths: Mapping[str, int]) -> Tensor:
    """Repeats [n, P] for every feature of each modality: [n, D]."""
    columns = [present[:, i, None].expand(-1, w) for i, w in enumerate(widths.values())]
    return torch.cat(columns, dim=1)


class Latent(NamedTuple):
    """What the autoencoder believes about a batch; Gaussians as (mean, log variance) [N, z].

    Attributes:
      joint: the posterior given all modalities that are there.
      experts: per modality q_m(z | x_m).
      reconstruction: per modality [N, d_m].
    """

    joint: tuple[Tensor, Tensor]
    experts: list[tuple[Tensor, Tensor]]
    reconstruction: list[Tensor]


class DJVAE(nn.Module):
    """The autoencoder of section 3.2; the latent is sampled in training."""

    def __init__(self, widths: Mapping[str, int], hidden: int, latent: int, dropout: float):
        super().__init__()
        self.widths, self.hidden, self.latent = widths, hidden, latent
        self.encoders = nn.ModuleList(Dense(width, hidden) for width in widths.values())
        self.beliefs = nn.ModuleList(Dense(hidden, 2 * latent) for _ in widths)
        self.decoder_hidden = Dense(latent, len(widths) * hidden)
        self.decoders = nn.ModuleList(Dense(hidden, width) for width in widths.values())
        self.fuse = HiddenLayer(latent + len(widths) * hidden, hidden, dropout)

    def forward(self, features: Sequence[Tensor], present: Tensor) -> tuple[Tensor, Latent]:
        """Fuses the modalities.

        Args:
          features: per modality [N, d_m].
          present: [N, P] float, one or zero.

        Returns:
          The fused feature [N, hidden], and the Latent.
        """
        encoded, experts = [], []
        precision, weighted_mean = 1.0, 0.0
        for number, values in enumerate(features):
            there = present[:, number, None]
            code = gelu(self.encoders[number](values))
            encoded.append(code * there)
            mean, log_variance = self.beliefs[number](code).split(self.latent, dim=-1)
            log_variance = log_variance.clamp(*LOG_VARIANCE_RANGE)
            experts.append((mean, log_variance))
            share = torch.exp(-log_variance) * there
            precision = precision + share
            weighted_mean = weighted_mean + share * mean
        mean, log_variance = weighted_mean / precision, -torch.log(precision)

        latent = mean
        if self.training:
            latent = latent + torch.randn_like(mean) * precision.rsqrt()
        hidden = gelu(self.decoder_hidden(latent)).split(self.hidden, dim=-1)
        rebuilt = [decoder(x) for decoder, x in zip(self.decoders, hidden)]
        fused = self.fuse(torch.cat([latent, *encoded], dim=-1))
        return fused, Latent((mean, log_variance), experts, rebuilt)

    def leaves(self, path: str) -> Iterator[tuple[str, Leaf]]:
        """The flax leaves of the autoencoder."""
        for number, modality in enumerate(self.widths):
            yield from self.encoders[number].leaves(f"{path}/encoder_{modality}")
            for name, first in (("mean", 0), ("log_variance", self.latent)):
                rows = slice(first, first + self.latent)
                yield from self.beliefs[number].leaves(f"{path}/{name}_{modality}", rows)
            rows = slice(number * self.hidden, (number + 1) * self.hidden)
            yield from self.decoder_hidden.leaves(f"{path}/decoder_hidden_{modality}", rows)
            yield from self.decoders[number].leaves(f"{path}/decoder_{modality}")
        yield from self.fuse.leaves(f"{path}/fuse")


class BiLSTM(nn.Module):
    """Forward and backward LSTM, concatenated; only the forward one where causal.

    Two LSTMs in one direction each: the backward one reads reversed dialogues, so that all padding
    comes last and is never heard, and neither needs packed sequences, which are slower on a CPU.
    """

    def __init__(self, width_in: int, hidden: int, causal: bool, dropout: float):
        super().__init__()
        width = hidden if causal else hidden // 2
        self.lstms = nn.ModuleList(nn.LSTM(width_in, width) for _ in range(1 if causal else 2))
        self.causal, self.dropout = causal, Dropout(dropout)
        for lstm in self.lstms:
            draw_kernel(lstm.weight_ih_l0.data, width_in)
            nn.init.orthogonal_(lstm.weight_hh_l0)
            nn.init.zeros_(lstm.bias_ih_l0).data[width : 2 * width] = 1.0
            # One bias is enough; a second one would double its learning rate.
            nn.init.zeros_(lstm.bias_hh_l0).requires_grad_(False)

    def forward(self, values: Tensor, dialogues: Dialogues) -> Tensor:
        """Maps [N, d] to [N, hidden]."""
        longest, batch = dialogues.grid.shape[1:]
        outputs = []
        for lstm, grid, place in zip(self.lstms, dialogues.grid, dialogues.place):
            padded = values.index_select(0, grid.view(-1)).view(longest, batch, -1)
            heard = lstm(padded)[0].view(longest * batch, -1)
            outputs.append(heard.index_select(0, place))
        return self.dropout(torch.cat(outputs, dim=-1))

    def leaves(self, path: str) -> Iterator[tuple[str, Leaf]]:
        """The flax leaves of both directions."""
        kernels = tuple(lstm.weight_ih_l0.T for lstm in self.lstms)
        biases = tuple(lstm.bias_ih_l0 for lstm in self.lstms)
        recurrent = tuple(lstm.weight_hh_l0.T for lstm in self.lstms)
        name = "directions"
        if self.causal:
            name, (kernels,), (biases,), (recurrent,) = "forward", kernels, biases, recurrent
        yield f"{path}/{name}/input/kernel", kernels
        yield f"{path}/{name}/input/bias", biases
        yield f"{path}/{name}/step/Dense_0/kernel", recurrent


class RelationalAttention(nn.Module):
    """Multi-head graph attention whose attention vectors depend on the edge's relation."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.value = Dense(width, width)
        # Per head the vectors of all relations: first the receiver's, then the sender's.
        self.vectors = nn.Parameter(torch.empty(heads, width // heads, 2 * RELATIONS))
        draw_kernel(self.vectors.data, RELATIONS * (width // heads))
        self.relation_bias = nn.Parameter(torch.zeros(heads, RELATIONS))

    def forward(self, nodes: Tensor, edges: Edges) -> Tensor:
        """Attends over the edges: [N, width] to [receivers, width]."""
        values = self.value(nodes)
        by_head = values.view(len(nodes), self.heads, -1).transpose(0, 1)
        bias = F.pad(self.relation_bias, (0, RELATIONS))[:, None]
        table = torch.baddbmm(bias, by_head, self.vectors).permute(1, 2, 0)
        scores = table.reshape(-1, self.heads).index_select(0, edges.score)
        scores = F.leaky_relu(scores.view(2, -1, self.heads).sum(dim=0), SLOPE)
        weights = segment_softmax(scores, edges.receiver, edges.receivers)
        messages = values.index_select(0, edges.sender).view(-1, self.heads, by_head.shape[-1])
        messages = (weights[..., None] * messages).view(-1, values.shape[-1])
        return values.new_zeros(edges.receivers, values.shape[-1]).index_add(
            0, edges.receiver, messages
        )

    def leaves(self, path: str) -> Iterator[tuple[str, Leaf]]:
        """The flax leaves of the attention."""
        heads, inner, _ = self.vectors.shape
        yield f"{path}/value/kernel", self.value.weight.T.unflatten(-1, (heads, inner))
        yield f"{path}/value/bias", self.value.bias.view(heads, inner)
        receiver, sender = self.vectors.permute(2, 0, 1).split(RELATIONS)
        yield f"{path}/receiver_vector", receiver
        yield f"{path}/sender_vector", sender
        yield f"{path}/relation_bias", self.relation_bias.T


def segment_softmax(scores: Tensor, segment: Tensor, segments: int) -> Tensor:
    """Softmax of [E, H] within the segments [E] of rows."""
    with torch.no_grad():
        largest = scores.new_full((segments, scores.shape[-1]), -math.inf)
        largest.scatter_reduce_(0, segment[:, None].expand_as(scores), scores, "amax")
    weights = torch.exp(scores - largest.index_select(0, segment))
    total = weights.new_zeros(segments, scores.shape[-1]).index_add(0, segment, weights)
    return weights / total.index_select(0, segment)


class GraphEncoder(nn.Module):
    """Layers of relational attention with residual and layer norm."""

    def __init__(self, width: int, heads: int, layers: int, dropout: float):
        super().__init__()
        self.embed = Dense(width, width)
        self.attentions = nn.ModuleList(RelationalAttention(width, heads) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-6) for _ in range(layers))
        self.dropout = Dropout(dropout)

    def forward(self, nodes: Tensor, edges: Edges) -> Tensor:
        """Maps [N, width] to [N, width]."""
        nodes = self.embed(nodes)
        for attention, norm in zip(self.attentions, self.norms):
            nodes = norm(nodes + self.dropout(gelu(attention(nodes, edges))))
        return nodes

    def leaves(self, path: str) -> Iterator[tuple[str, Leaf]]:
        """The flax leaves of all layers."""
        yield from self.embed.leaves(f"{path}/embed")
        for number, (attention, norm) in enumerate(zip(self.attentions, self.norms)):
            yield from attention.leaves(f"{path}/attention_{number}")
            yield from norm_leaves(norm, f"{path}/norm_{number}")


class NodeDecoder(nn.Module):
    """Rebuilds masked utterances from their neighbours' codes; computes no other utterance."""

    def __init__(self, widths: Mapping[str, int], width: int, heads: int):
        super().__init__()
        self.widths = widths
        self.encoder_to_decoder = Dense(width, width, bias=False)
        self.mask_token = nn.Parameter(0.02 * torch.randn(width))
        self.attention = RelationalAttention(width, heads)
        self.out = Dense(width, sum(widths.values()))

    def forward(self, codes: Tensor, masking: Masking) -> Tensor:
        """Maps the codes [N, width] to the masked utterances' features [M, D]."""
        tokens = self.mask_token.expand(len(masking.masked), -1)
        codes = self.encoder_to_decoder(codes).index_copy(0, masking.masked, tokens)
        return self.out(gelu(self.attention(codes, masking.edges)))

    def leaves(self, path: str) -> Iterator[tuple[str, Leaf]]:
        """The flax leaves of the decoder."""
        yield from self.encoder_to_decoder.leaves(f"{path}/encoder_to_decoder")
        yield f"{path}/mask_token", self.mask_token
        yield from self.attention.leaves(f"{path}/attention")
        first = 0
        for modality, width in self.widths.items():
            yield from self.out.leaves(f"{path}/decoder_{modality}", slice(first, first + width))
            first += width


class Ensemble(nn.Module):
    """K two-layer classifiers with a linear path, each on its random subspace of the features."""

    def __init__(self, width: int, settings: ModelSettings, classes: int, dropout: float):
        super().__init__()
        count, hidden = settings.classifiers, settings.classifier_hidden
        self.count, self.hidden, self.classes = count, hidden, classes
        self.subspace, self.dropout = settings.subspace, Dropout(dropout)
        # First the hidden layers of all, then the linear paths of all: one product.
        self.weight = nn.Parameter(torch.zeros(count * (hidden + classes), width))
        self.bias = nn.Parameter(torch.zeros(count * (hidden + classes)))
        self.kernel = nn.Parameter(torch.empty(count, hidden, classes))
        draw_kernel(self.weight.data[: count * hidden], width)
        draw_kernel(self.kernel.data, hidden)
        kept = max(1, round(settings.subspace * width))
        order = torch.rand(count, width).argsort(dim=-1)
        self.register_buffer("subspaces", (order < kept).float())
        self.register_buffer("seen", torch.empty_like(self.weight.data))
        self.look()

    def look(self) -> None:
        """Lays the subspaces out as what the weight is multiplied by."""
        hidden, linear = self.seen.split([self.count * self.hidden, self.count * self.classes])
        hidden.copy_(self.subspaces.repeat_interleave(self.hidden, 0) / self.subspace**0.5)
        linear.copy_(self.subspaces.repeat_interleave(self.classes, 0))

    def forward(self, values: Tensor) -> Tensor:
        """Maps features [N, d] to logits [N, K, C]."""
        both = F.linear(self.dropout(values), self.weight * self.seen, self.bias)
        hidden, straight = both.split([self.count * self.hidden, self.count * self.classes], -1)
        hidden = self.dropout(gelu(hidden))
        by_classifier = (x.view(len(x), self.count, -1).transpose(0, 1) for x in (straight, hidden))
        return torch.baddbmm(*by_classifier, self.kernel).transpose(0, 1)

    def leaves(self, path: str) -> Iterator[tuple[str, Leaf]]:
        """The flax leaves of the ensemble's parameters."""
        sizes = [self.count * self.hidden, self.count * self.classes]
        for name, weight in zip(("hidden_kernel", "linear"), self.weight.split(sizes)):
            yield f"{path}/{name}", weight.unflatten(0, (self.count, -1)).transpose(1, 2)
        for name, bias in zip(("hidden_bias", "bias"), self.bias.split(sizes)):
            yield f"{path}/{name}", bias.view(self.count, -1)
        yield f"{path}/kernel", self.kernel


class Intermediates(NamedTuple):
    """What the model passes on besides its logits; None where that part is switched off.

    Attributes:
      code: [N, hidden], what the context parts make of each utterance.
      latent: the autoencoder's beliefs.
      rebuilt: [M, D], the masked utterances' features as the decoder rebuilds them.
    """

    code: Tensor
    latent: Latent | None
    rebuilt: Tensor | None


def join_turns(features: Tensor, dialogues: Dialogues, before: int, after: int) -> Tensor:
    """[N, (before + 1 + after) D] each utterance's features beside those of the turns around it."""
    number = torch.arange(len(features), device=features.device)
    dialogue = dialogues.place[0] % dialogues.grid.shape[2]
    views = []
    for offset in range(-before, after + 1):
        near = (number + offset).clamp(0, len(features) - 1)
        there = (near == number + offset) & (dialogue[near] == dialogue)
        views.append(torch.where(there[:, None], features[near], 0.0))
    return torch.cat(views, dim=-1)


class TorchCBERL(nn.Module):
    """The joint model (section 3 of the design, the GAN left out)."""

    def __init__(
        self,
        settings: ModelSettings,
        widths: Mapping[str, int],
        classes: int,
        dropout: float = 0.0,
        input_dropout: float = 0.0,
    ):
        """Draws the parameters.

        Args:
          settings: the static settings.
          widths: modality -> d_m.
          classes: C.
          dropout: rate of all layers, in training.
          input_dropout: rate of the features that are fused, in training.
        """
        super().__init__()
        s = settings
        self.settings, self.widths = s, dict(sorted(widths.items()))
        total = sum(widths.values())
        if s.reconstruction:
            self.mask_tokens = MaskTokens(self.widths)
            self.decoder = NodeDecoder(self.widths, s.hidden, s.heads)
        self.thin = Dropout(input_dropout)
        if s.djvae:
            self.djvae = DJVAE(self.widths, s.hidden, s.latent, dropout)
        else:
            self.concatenation = HiddenLayer(total, s.hidden, dropout)
        if s.bilstm:
            self.bilstm = BiLSTM(s.hidden, s.hidden, s.causal, dropout)
            self.bilstm_norm = nn.LayerNorm(s.hidden, eps=1e-6)
        if s.graph:
            self.graph = GraphEncoder(s.hidden, s.heads, s.layers, dropout)
        straight = s.residual * total * (1 + s.residual_turns * (1 if s.causal else 2))
        self.ensemble = Ensemble(2 * s.hidden + straight, s, classes, dropout)

    def forward(
        self, dialogues: Dialogues, masking: Masking | None = None
    ) -> tuple[Tensor, Intermediates]:
        """Classifies every utterance.

        Args:
          dialogues: the batch.
          masking: utterances to hide and rebuild, or None.

        Returns:
          Logits [N, K, C], and the Intermediates.
        """
        s = self.settings
        features, present = dialogues.features, dialogues.present
        if masking is not None:
            features = self.mask_tokens(features, present, masking)
        latent = rebuilt = None
        if s.djvae:
            by_modality = self.thin(features).split(tuple(self.widths.values()), dim=-1)
            fused, latent = self.djvae(by_modality, present)
        else:
            fused = self.concatenation(self.thin(features))
        code = fused
        if s.bilstm:
            code = self.bilstm_norm(code + self.bilstm(code, dialogues))
        if s.graph:
            code = self.graph(code, dialogues.edges)
        if masking is not None:
            rebuilt = self.decoder(code, masking)
        heard = [code, fused]
        if s.residual:
            around = s.residual_turns
            heard.append(join_turns(features, dialogues, around, 0 if s.causal else around))
        return self.ensemble(torch.cat(heard, dim=-1)), Intermediates(code, latent, rebuilt)

    def leaves(self) -> dict[str, Leaf]:
        """Every leaf of the flax ``params`` by its path, as views of the parameters."""
        found: dict[str, Leaf] = {}
        with torch.no_grad():
            for name, part in self.named_children():
                leaves = part.leaves(name) if hasattr(part, "leaves") else norm_leaves(part, name)
                found.update(leaves)
        return found


def load_parameters(model: TorchCBERL, variables: Mapping[str, Mapping]) -> None:
    """Copies the variables of the flax model in.

    Args:
      model: with the same settings, widths and classes.
      variables: ``params`` and ``constants`` of one member, nested mappings of arrays.

    Raises:
      ValueError: a leaf is missing, left over, or of another shape.
    """
    given = flatten_tree(variables)
    wanted = {f"params/{path}": leaf for path, leaf in model.leaves().items()}
    wanted["constants/ensemble/subspaces"] = model.ensemble.subspaces
    if wanted.keys() != given.keys():
        raise ValueError(f"leaves without a match: {sorted(wanted.keys() ^ given.keys())}")
    with torch.no_grad():
        for path, leaf in wanted.items():
            parts = leaf if isinstance(leaf, tuple) else (leaf,)
            values = given[path] if isinstance(leaf, tuple) else given[path][None]
            shape = (len(parts), *parts[0].shape)
            if values.shape != shape:
                raise ValueError(f"{path}: shape {values.shape}, not {shape}")
            for part, value in zip(parts, values):
                part.copy_(torch.tensor(value))
    model.ensemble.look()


def flatten_tree(tree: Mapping, path: str = "") -> dict[str, np.ndarray]:
    """The arrays of nested mappings by their paths, joined by slashes."""
    flat: dict[str, np.ndarray] = {}
    for name, branch in tree.items():
        if isinstance(branch, Mapping):
            flat |= flatten_tree(branch, f"{path}{name}/")
        else:
            flat[f"{path}{name}"] = np.asarray(branch)
    return flat


# Losses (section 3.6).

Hyper = Mapping[str, float]


class Targets(NamedTuple):
    """What the losses of a batch need besides the model's input.

    Attributes:
      label: [N] int, -1 = none.
      weight: [N] float, weight of each utterance in all losses.
      bootstrap: [N, K] float, its further weight for each weak classifier.
    """

    label: Tensor
    weight: Tensor
    bootstrap: Tensor


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Mean of [N, ...] under weights [N]; zero where all weights are zero."""
    return torch.tensordot(weights, values, 1) / weights.sum().clamp_min(1e-30)


def focal_loss(logits: Tensor, targets: Targets, class_weights: Tensor, hyper: Hyper) -> Tensor:
    """Softmax focal loss of [N, K, C] with label smoothing and class weights: [N, K]."""
    label = targets.label.clamp_min(0)
    true = label[:, None, None].expand(-1, logits.shape[1], 1)
    log_probability = logits.log_softmax(dim=-1)
    log_true = log_probability.gather(-1, true).squeeze(-1)
    log_others = log_probability.scatter(-1, true, -math.inf).logsumexp(dim=-1)
    factor = torch.exp(hyper["loss.gamma"] * log_others.clamp_max(0.0))
    smoothing = hyper["loss.label_smoothing"]
    log_target = (1 - smoothing) * log_true + smoothing * log_probability.mean(dim=-1)
    return -class_weights[label, None] * factor * log_target


def gaussian_kl(
    mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor
) -> Tensor:
    """KL(q || p) of diagonal Gaussians, per latent unit."""
    gap = log_variance - other_log_variance
    return 0.5 * (gap.expm1() - gap + (mean - other_mean) ** 2 * torch.exp(-other_log_variance))


def djvae_loss(
    latent: Latent, dialogues: Dialogues, weight: Tensor, warm: float, hyper: Hyper
) -> Tensor:
    """Reconstruction, divergence from the prior and alignment, in nats per feature: []."""
    widths = [x.shape[-1] for x in latent.reconstruction]
    mean, log_variance = latent.joint
    errors = alignment = 0.0
    for number, target in enumerate(dialogues.features.split(widths, dim=-1)):
        there = weight * dialogues.present[:, number]
        error = F.mse_loss(latent.reconstruction[number], target, reduction="none").sum(dim=-1)
        errors += 0.5 * weighted_mean(error, there)
        gap = gaussian_kl(mean, log_variance, *latent.experts[number]).sum(dim=-1)
        alignment += weighted_mean(gap, there)
    prior = 0.5 * (log_variance.expm1() - log_variance + mean**2)
    divergence = weighted_mean(prior, weight).clamp_min(hyper["loss.free_bits"]).sum()
    loss = errors + warm * hyper["loss.beta"] * divergence + hyper["loss.align"] * alignment
    return loss / sum(widths)


def scaled_cosine_error(
    rebuilt: Tensor, target: Tensor, weight: Tensor, present: Tensor, alpha: float
) -> Tensor:
    """Mean (1 - cos)^alpha over masked utterances: [].

    Args:
      rebuilt: [M, D].
      target: [M, D], zero where absent.
      weight: [M].
      present: [M, D] float, one or zero.
      alpha: exponent.
    """
    distance = 1.0 - F.cosine_similarity(rebuilt * present, target, dim=-1, eps=1e-6)
    return weighted_mean(distance.clamp_min(1e-7) ** alpha, weight * present.amax(dim=-1))


def joint_loss(
    model: TorchCBERL,
    dialogues: Dialogues,
    targets: Targets,
    masking: Masking | None,
    class_weights: Tensor,
    log_prior: Tensor,
    warm: float,
    hyper: Hyper,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The total loss of a batch.

    Args:
      model: in training mode for dropout and a sampled latent.
      dialogues: the batch.
      targets: its labels and weights.
      masking: the masked utterances, or None.
      class_weights: [C] of the focal loss.
      log_prior: [C] log share of each class.
      warm: share of the divergence's weight in force.
      hyper: numeric settings by dotted name.

    Returns:
      [] loss, and its parts by name.
    """
    logits, between = model(dialogues, masking)
    shown = kept = targets.weight
    if masking is not None:
        kept = shown.index_fill(0, masking.masked, 0.0)
        shown = kept + hyper["mask.classify"] * (shown - kept)
    logits = logits + hyper["loss.logit_adjustment"] * log_prior
    focal = focal_loss(logits, targets, class_weights, hyper)
    weights = shown[:, None] * targets.bootstrap
    each = (focal * weights).sum(dim=0) / weights.sum(dim=0).clamp_min(1e-30)
    terms = {"focal": each.mean()}
    total = terms["focal"]
    if masking is not None:
        masked = masking.masked
        terms["masked"] = scaled_cosine_error(
            between.rebuilt,
            dialogues.features.index_select(0, masked),
            targets.weight.index_select(0, masked),
            spread(dialogues.present.index_select(0, masked), model.widths),
            hyper["mask.alpha"],
        )
        total = total + hyper["loss.mask"] * terms["masked"]
    if between.latent is not None:
        terms["djvae"] = djvae_loss(between.latent, dialogues, kept, warm, hyper)
        total = total + hyper["loss.vae"] * terms["djvae"]
    return total, terms


# Training (section 4).


def class_balanced_weights(counts: np.ndarray, beta: float) -> np.ndarray:
    """[C] weights by the effective number of samples, mean one over the classes that occur."""
    held = counts > 0
    effective = np.where(held, 1.0 - beta ** np.maximum(counts, 1.0), 1.0)
    weights = held / effective
    return weights * (held.sum() / weights.sum())


def class_terms(counts: np.ndarray, hyper: Hyper) -> tuple[Tensor, Tensor]:
    """Class weights [C] and log priors [C], given utterances per class [C]."""
    weights = class_balanced_weights(counts, hyper["loss.class_balance"])
    held = np.maximum(counts, 1.0)
    return tuple(torch.tensor(x, dtype=torch.float32) for x in (weights, np.log(held / held.sum())))


def class_mask_probability(counts: np.ndarray, rate: float, tau: float) -> np.ndarray:
    """[C] mask probability p(c) ~ n_c^-tau, at most 0.9, with a mean of ``rate``."""
    counts = np.maximum(counts.astype(np.float64), 1.0)
    shape = counts**-tau
    share = counts / counts.sum()
    probability = np.full(len(counts), min(rate, LARGEST_PROBABILITY))
    capped = np.zeros(len(counts), bool)
    while not capped.all():
        left = rate - LARGEST_PROBABILITY * share[capped].sum()
        scale = left / (share * shape)[~capped].sum()
        probability = np.where(capped, LARGEST_PROBABILITY, scale * shape)
        over = (probability > LARGEST_PROBABILITY) & ~capped
        if not over.any():
            break
        capped |= over
    return probability


class EpochRecord(NamedTuple):
    """What an epoch gives: mean train loss, dev confusion [C, C] (true, predicted), accuracy."""

    loss: float
    confusion: np.ndarray
    accuracy: float


def to_device(record, device: torch.device):
    """A record of tensors, and of records of them, on a device."""
    if isinstance(record, Tensor):
        return record.to(device)
    if isinstance(record, tuple):
        return type(record)(*(to_device(field, device) for field in record))
    return record


class TorchTrainer:
    """One training: model, optimiser, averaged weights and data.

    Attributes:
      model: the model under training.
      average: the exponential moving average of its weights, which is what is evaluated.
      epoch: epochs done.
    """

    def __init__(
        self,
        prepared: Prepared,
        hyper: Hyper,
        *,
        batch_size: int = 32,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ):
        """Draws the parameters and puts the table of utterances on the device.

        Args:
          prepared: the corpus, without generated utterances.
          hyper: the numeric settings by dotted name.
          batch_size: dialogues a step.
          seed: of everything that is drawn here, and of torch's own generators.
          device: where to train.

        Raises:
          ValueError: the corpus has generated utterances.
        """
        if prepared.generated.any():
            raise ValueError("nothing is generated here: set config.augment.method=none")
        self.hyper, self.batch_size = hyper, batch_size
        self.device = torch.device(device)
        self.random = np.random.default_rng(seed)
        torch.manual_seed(seed)
        corpus, data = prepared.corpus, prepared.data
        self.settings, self.classes = prepared.program.model.settings, len(corpus.classes)
        model = TorchCBERL(
            self.settings,
            dict(prepared.program.model.widths),
            self.classes,
            hyper["optim.dropout"],
            hyper["optim.input_dropout"],
        )
        self.model = model.to(self.device)
        self.average = copy.deepcopy(self.model).requires_grad_(False).eval()
        for part in self.average.modules():
            if isinstance(part, nn.LSTM):
                part.flatten_parameters()  # else cuDNN copies them into one block at every call
        self.optimizer = create_optimizer(self.model, hyper)

        names = list(self.model.widths)
        self.features = self._put(np.concatenate([data.table.features[m] for m in names], axis=1))
        present = np.stack([data.table.present[m] for m in names], axis=1)
        self.present = self._put(present.astype(np.float32))
        bootstrap = self.random.exponential(size=(len(data.label), self.settings.classifiers))
        self.bootstrap = self._put(bootstrap.astype(np.float32))
        self.class_terms = [x.to(self.device) for x in class_terms(data.counts, hyper)]
        rate, tau = hyper["mask.rate"], hyper["mask.tau"]
        # The last entry is that of label -1.
        self.mask_probability = np.append(class_mask_probability(data.counts, rate, tau), rate)

        self.train = turns_of(corpus, np.flatnonzero(corpus.split == "train"))
        self.batches = -(-len(self.train.length) // batch_size)
        self.steps = round(hyper["train.epochs"]) * self.batches
        self.epoch = 0
        self.dev = self._dev_batches(turns_of(corpus, np.flatnonzero(corpus.split == "dev")))

    def _put(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _dialogues(self, layout: Layout, index: np.ndarray, speaker: np.ndarray) -> Dialogues:
        """Looks a batch up: the utterances' places in the table [N], and their speakers [N]."""
        where = self._put(index)
        features = self.features.index_select(0, where)
        present = self.present.index_select(0, where)
        dialogues = create_dialogues(features, present, layout, speaker, self.settings)
        return to_device(dialogues, self.device)

    def _dev_batches(self, turns: Turns) -> list[tuple[Dialogues, np.ndarray]]:
        """The dev split, which stays as it is: dialogues of like length share a batch."""
        order = np.argsort(turns.length, kind="stable")
        batches = []
        for first in range(0, len(order), self.batch_size):
            layout, flat = choose_turns(turns, order[first : first + self.batch_size])
            dialogues = self._dialogues(layout, turns.index[flat], turns.speaker[flat])
            batches.append((dialogues, turns.label[flat]))
        return batches

    def _draw_masking(
        self, layout: Layout, label: np.ndarray, speaker: np.ndarray
    ) -> Masking | None:
        """A step's masked utterances; donors are never masked themselves."""
        if not self.settings.reconstruction:
            return None
        is_masked = self.random.random(len(label)) < self.mask_probability[label]
        masked, shown = np.flatnonzero(is_masked), np.flatnonzero(~is_masked)
        swapped = (self.random.random(len(masked)) < self.hyper["mask.swap"]) & (len(shown) > 0)
        donor = self.random.choice(shown, len(masked)) if len(shown) else masked
        masking = create_masking(layout, speaker, masked, swapped, donor, self.settings)
        return to_device(masking, self.device)

    def train_batches(self) -> Iterator[tuple[Dialogues, Targets, Masking | None]]:
        """One epoch's batches of whole dialogues, shuffled."""
        turns = self.train
        order = self.random.permutation(len(turns.length))
        for first in range(0, len(order), self.batch_size):
            layout, flat = choose_turns(turns, order[first : first + self.batch_size])
            label, speaker = turns.label[flat], turns.speaker[flat]
            targets = Targets(
                self._put(label.astype(np.int64)),
                self._put(turns.weight[flat]),
                self.bootstrap.index_select(0, self._put(turns.index[flat])),
            )
            yield (
                self._dialogues(layout, turns.index[flat], speaker),
                targets,
                self._draw_masking(layout, label, speaker),
            )

    def train_step(
        self, step: int, dialogues: Dialogues, targets: Targets, masking: Masking | None
    ) -> Tensor:
        """One step, ``step`` of them done before: its loss [], left on the device."""
        warm = divergence_share(step, self.steps, self.hyper)
        loss, _ = joint_loss(
            self.model, dialogues, targets, masking, *self.class_terms, warm, self.hyper
        )
        self.optimizer.zero_grad()
        loss.backward()
        self.update(step)
        return loss.detach()

    def update(self, step: int) -> None:
        """Moves the model by its gradients, and the average by the model."""
        learnt = list(self.model.parameters())
        nn.utils.clip_grad_norm_(learnt, self.hyper["optim.clip"], foreach=True)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.steps, self.hyper)
        self.optimizer.step()
        # The average forgets the first steps faster than its decay alone would.
        decay = min(self.hyper["optim.ema"], (1.0 + step) / (10.0 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), learnt, 1.0 - decay)

    def train_epoch(self) -> EpochRecord:
        """One epoch of steps, and the evaluation of the average on dev."""
        self.model.train()
        step = self.epoch * self.batches
        losses = [
            self.train_step(step + number, *batch)
            for number, batch in enumerate(self.train_batches())
        ]
        self.epoch += 1
        confusion = self.evaluate()
        accuracy = float(np.trace(confusion) / max(confusion.sum(), 1))
        return EpochRecord(float(torch.stack(losses).mean()), confusion, accuracy)

    @torch.inference_mode()
    def evaluate(self) -> np.ndarray:
        """Dev confusion [C, C] of the averaged weights: rows are true, columns predicted."""
        confusion = np.zeros((self.classes, self.classes), np.int64)
        for dialogues, label in self.dev:
            logits, _ = self.average(dialogues)
            guess = logits.softmax(dim=-1).mean(dim=1).argmax(dim=-1).cpu().numpy()
            np.add.at(confusion, (label[label >= 0], guess[label >= 0]), 1)
        return confusion


def create_optimizer(model: nn.Module, hyper: Hyper) -> torch.optim.Optimizer:
    """AdamW that decays matrices alone; the learning rate is set at every step."""
    learnt = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decays = [p.ndim > 1 and "bias" not in name for name, p in learnt]
    groups = [
        {"params": [p for (_, p), d in zip(learnt, decays) if d == decayed], "weight_decay": rate}
        for decayed, rate in ((True, hyper["optim.weight_decay"]), (False, 0.0))
    ]
    return torch.optim.AdamW(groups, fused=True)


def divergence_share(step: int, steps: int, hyper: Hyper) -> float:
    """Share of the divergence's weight in force: it grows from zero at first."""
    return min(1.0, step / steps / max(hyper["loss.kl_warmup"], 1e-9))


def learning_rate(step: int, steps: int, hyper: Hyper) -> float:
    """Linear warm-up and cosine decay to zero over ``steps`` steps."""
    warm = min(1.0, (step + 1) / steps / max(hyper["optim.warmup"], 1e-9))
    decay = 0.5 * (1.0 + math.cos(math.pi * step / steps))
    return hyper["optim.learning_rate"] * warm * decay
