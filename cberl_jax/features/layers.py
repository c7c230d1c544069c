"""The layers of a transformer: some of them frozen, others with a lower learning rate.

What frozen layers give for an utterance never changes, so it is computed once, kept in a file and
given back in their place.
"""

import math
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from cberl_jax.errors import UserError
from cberl_jax.features.context import Inputs, by_length, embed

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def find_layers(encoder: "SentenceTransformer") -> nn.ModuleList:
    """The layers of an encoder's transformer, the lowest first.

    Raises:
      UserError: they are not found.
    """
    model = getattr(encoder[0], "auto_model", None)
    count = getattr(getattr(model, "config", None), "num_hidden_layers", None)
    lists = [m for m in encoder[0].modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not lists:
        raise UserError(
            "the layers of this text encoder are not found; take --freeze_layers and --layer_decay "
            "away."
        )
    return lists[0]


def freeze(encoder: "SentenceTransformer", count: int) -> None:
    """Freezes all of the transformer but the layers above the lowest ``count``.

    Raises:
      UserError: it has no more layers than that.
    """
    layers = find_layers(encoder)
    if count >= len(layers):
        raise UserError(
            f"--freeze_layers={count}: the text encoder has {len(layers)} layers, of which one at "
            "least has to learn."
        )
    encoder[0].requires_grad_(False)
    layers[count:].requires_grad_(True)


def group_parameters(
    encoder: "SentenceTransformer", head: nn.Module, learning_rate: float, decay: float
) -> list[dict[str, Any]]:
    """What an optimiser learns: groups with their own learning rates and weight decays.

    Args:
      encoder: its highest layer learns at the full rate.
      head: what learns with it, at the full rate.
      learning_rate: the full rate.
      decay: times which each layer learns more slowly than the one above it.

    Returns:
      Groups; biases and norms have no weight decay.
    """
    rate = {id(p): learning_rate for m in (encoder, head) for p in m.parameters()}
    if decay != 1.0:
        layers = find_layers(encoder)
        below = learning_rate * decay ** len(layers)
        rate |= {id(p): below for p in encoder[0].parameters()}
        for height, layer in enumerate(reversed(layers)):
            rate |= {id(p): learning_rate * decay**height for p in layer.parameters()}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for module in (encoder, head):
        for p in module.parameters():
            if p.requires_grad:
                groups.setdefault((rate[id(p)], p.ndim > 1), []).append(p)
    return [
        {"params": own, "rate": own_rate} | ({} if decays else {"weight_decay": 0.0})
        for (own_rate, decays), own in groups.items()
    ]


class FrozenLayers:
    """The outputs of an encoder's frozen layers, in a file, given back in their place."""

    def __init__(
        self,
        encoder: "SentenceTransformer",
        inputs: Inputs,
        count: int,
        path: str | os.PathLike,
        which: np.ndarray,
    ):
        """Computes what the file lacks.

        Args:
          encoder: whose ``count`` lowest layers are frozen.
          inputs: what it reads.
          count: at least 1.
          path: of the file, ``.npy``; one that is complete is taken as it is.
          which: [n] int, inputs to keep.
        """
        self._layers, self._inputs = find_layers(encoder)[:count], inputs
        length = inputs.length
        kept = np.zeros(len(length), np.int64)
        kept[which] = length[which]
        self._start = np.cumsum(kept) - kept
        self._hidden: torch.Tensor | None = None
        self._as_tuple = False
        if not os.path.exists(path):
            self._compute(encoder, which, os.fspath(path), int(kept.sum()))
        else:
            self._look(encoder, which[:1])
        self._file = np.load(path, allow_pickle=False, mmap_mode="r")

    def embed(self, encoder: "SentenceTransformer", which: Sequence[int]) -> torch.Tensor:
        """As ``context.embed``, from the kept outputs on."""
        longest = max(len(self._inputs.ids[n]) for n in which)
        hidden = np.zeros((len(which), longest, self._file.shape[1]), np.float32)
        for place, n in enumerate(which):
            size = len(self._inputs.ids[n])
            hidden[place, :size] = self._file[self._start[n] : self._start[n] + size]
        self._hidden = torch.from_numpy(hidden).to(encoder.device)
        for layer in self._layers:
            layer.forward = self._replay
        try:
            return embed(encoder, self._inputs, which)
        finally:
            for layer in self._layers:
                del layer.forward

    def _replay(self, *args: Any, **kwargs: Any) -> Any:
        # Every frozen layer gives the outputs of the highest, of which the last one's count.
        return (self._hidden,) if self._as_tuple else self._hidden

    def _look(self, encoder: "SentenceTransformer", which: np.ndarray) -> torch.Tensor:
        """The output of the highest frozen layer for a batch, [b, L, d]."""
        found: list[Any] = []
        hook = self._layers[-1].register_forward_hook(lambda *given: found.append(given[2]))
        try:
            with torch.no_grad():
                encoder.eval()
                embed(encoder, self._inputs, which)
        finally:
            hook.remove()
        self._as_tuple = isinstance(found[0], tuple)
        parts = found[0] if self._as_tuple else (found[0],)
        if len(found) != 1 or not isinstance(parts[0], torch.Tensor) or len(parts) > 1:
            raise UserError(
                "the layers of this text encoder pass on more than one array; take --freeze_layers "
                "away."
            )
        return parts[0].float()

    def _compute(self, encoder, which: np.ndarray, path: str, tokens: int) -> None:
        length = self._inputs.length
        draft, file = f"{path}.part", None
        for batch in by_length(length, which[np.argsort(-length[which], kind="stable")]):
            hidden = self._look(encoder, batch).cpu().numpy()
            if file is None:
                shape = (tokens, hidden.shape[-1])
                file = np.lib.format.open_memmap(draft, "w+", np.float32, shape)
            for row, n in zip(hidden, batch):
                file[self._start[n] : self._start[n] + length[n]] = row[: length[n]]
        file.flush()
        del file
        os.replace(draft, path)


def training_batches(
    length: np.ndarray, size: int, random: np.random.Generator, pool: int = 50
) -> Iterator[np.ndarray]:
    """All inputs once, in random batches whose members are about as long.

    Args:
      length: [n] int.
      size: of a batch.
      random: of the order.
      pool: batches that are drawn at random together, and sorted among themselves.

    Yields:
      ceil(n / size) times [b] int, indices.
    """
    order = random.permutation(len(length))
    batches: list[np.ndarray] = []
    for start in range(0, len(order), pool * size):
        own = order[start : start + pool * size]
        own = own[np.argsort(length[own], kind="stable")]
        batches += [own[n : n + size] for n in range(0, len(own), size)]
    assert len(batches) == math.ceil(len(length) / size)
    for n in random.permutation(len(batches)):
        yield batches[n]
