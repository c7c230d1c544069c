"""What one member makes of a split's utterances on the way to its probabilities."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from cberl_jax.data.corpus import Corpus
from cberl_jax.data.dataset import create_table, own_table
from cberl_jax.data.packing import pack_dialogues
from cberl_jax.data.standardize import Standardiser
from cberl_jax.models.masking import no_masking
from cberl_jax.training.epoch import Program, look_up
from cberl_jax.training.fleet import compile_once
from cberl_jax.training.streaming import MOST_BLOCK, cut_rows


class Activations(NamedTuple):
    """Codes and attention of the n utterances of a split, in the corpus's order.

    Attributes:
      code: [n, hidden], what the context parts make of each utterance.
      attention: [n, past + 1 + future], how much an utterance attends to each turn around it in the
        last graph layer, mean over heads. Turns of other dialogues weigh 0 and a row sums to 1.
        None where the model has no graph.
    """

    code: np.ndarray
    attention: np.ndarray | None


def compute_activations(
    program: Program,
    variables: Mapping[str, Any],
    corpus: Corpus,
    standardiser: Standardiser,
    split: str = "test",
) -> Activations:
    """Passes a split through one member, a batch of ``program.rows`` at a time.

    Args:
      program: of the member.
      variables: ``params`` and ``constants`` of its joint model, without a member axis.
      corpus: the corpus.
      standardiser: the train statistics that belong to the parameters.
      split: of the corpus.
    """
    rows = pack_dialogues(corpus, corpus.split == split, program.rows)

    def forward(variables, table, rows):
        def of_batch(batch):
            conversations = look_up(table, batch)
            masking = no_masking(batch.index.shape)
            _, found = program.model.apply(variables, conversations, masking, 0.0)
            attention = found.attention
            if attention is not None:
                attention = attention.mean(axis=-1).reshape(*batch.index.shape, -1)
            return found.code, attention

        batches = jax.tree.map(lambda x: x.reshape(-1, program.rows, *x.shape[1:]), rows)
        return jax.lax.map(of_batch, batches)

    table = create_table(corpus, standardiser)
    # A split may not fit the device.
    blocks = cut_rows(table, rows, program.rows, 2 * MOST_BLOCK)
    compiled = compile_once(forward, variables, *own_table(table, blocks[0]))
    each = [jax.tree.map(np.asarray, compiled(variables, *own_table(table, b))) for b in blocks]

    used = rows.segment > 0
    order = np.argsort(rows.index[used])

    def in_order(*parts):
        values = np.concatenate(parts)
        values = values.reshape(-1, rows.index.shape[1], values.shape[-1])
        return values[: len(rows.index)][used][order]

    return Activations(*jax.tree.map(in_order, *each))


def attention_within(inside: Activations, start: int, length: int, past: int) -> np.ndarray:
    """The attention among the turns of one dialogue.

    Args:
      inside: with attention.
      start: of the dialogue within the split.
      length: T, its turns.
      past: turns that the window of the graph holds before an utterance.

    Returns:
      [T, T]: how much each turn (row) attends to each (column); rows sum to 1.
    """
    window = inside.attention[start : start + length]
    offset = np.arange(length)[None, :] - np.arange(length)[:, None] + past
    near = (offset >= 0) & (offset < window.shape[1])
    picked = np.take_along_axis(window, np.clip(offset, 0, window.shape[1] - 1), axis=1)
    return np.where(near, picked, 0.0)
