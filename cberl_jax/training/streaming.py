"""Features that do not fit the devices stay on the host; what is looked up is sent (section 4).

Features are by far the most of a corpus; all else of it lies on the devices as ever. Here: which
corpus stays on the host, how its utterances are sent, and how blocks of rows are sent while others
are computed. The epochs are in ``streamed_epochs.py``.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from cberl_jax.data.dataset import Dataset, Table, own_table
from cberl_jax.data.packing import Rows
from cberl_jax.errors import UserError
from cberl_jax.runtime import processes
from cberl_jax.training.fleet import Fleet, memory_of_device

# Of a device's memory; the rest is the members' and the programs'.
CORPUS_SHARE = 0.5
# A block is large enough to be sent at full speed, and no larger: the first one is waited for.
MOST_BLOCK = 2**28
Block = TypeVar("Block")


class Sent(NamedTuple):
    """Utterances that the host sends to a member.

    Attributes:
      index: [n] int, their places in the corpus; one may be there several times.
      features: modality -> [n, d_m].
    """

    index: np.ndarray
    features: Mapping[str, np.ndarray]


class Part(NamedTuple):
    """Stands for a table where only utterances that were sent are looked up.

    Attributes:
      place: [N] int, where each utterance of the corpus is among those n; n where it is not.
      features: modality -> [n, d_m].
      present: modality -> [N] bool, of all.
    """

    place: jax.Array
    features: Mapping[str, jax.Array]
    present: Mapping[str, jax.Array]

    def look_up(self, index: jax.Array) -> dict[str, jax.Array]:
        """The features of some utterances, modality -> [..., d_m]; nan where one was not sent."""
        place = self.place[index]
        return {
            m: values.at[place].get(mode="fill", fill_value=jnp.nan)
            for m, values in self.features.items()
        }


def with_part(data: Dataset, sent: Sent) -> Dataset:
    """The data of a program that looks up what was sent."""
    count = len(sent.index)
    nowhere = jnp.full(data.label.shape, count, jnp.int32)
    place = nowhere.at[sent.index].set(jnp.arange(count, dtype=jnp.int32))
    return data._replace(table=Part(place, sent.features, data.table.present))


def count_bytes(table: Table) -> int:
    """Bytes of the features of a table."""
    return sum(values.nbytes for values in table.features.values())


def find_budget(table: Table, asked: int, folds: bool = False) -> int:
    """How many bytes of features may lie on a device at a time, where not all of them may.

    Args:
      table: the corpus.
      asked: ``train.corpus_bytes``; 0 for the share ``CORPUS_SHARE`` of the memory.
      folds: whether there are folds, which may take all of the memory.

    Returns:
      The bytes; 0 where the whole corpus may lie there.

    Raises:
      UserError: there are folds, and the corpus is larger than the memory.
    """
    size = count_bytes(table)
    # All processes are to decide alike.
    memory = int(processes.broadcast([float(memory_of_device())])[0])
    if folds:
        if size > memory:
            raise UserError(
                f"the features of all folds have {size / 1e9:.1f} GB and the device "
                f"{memory / 1e9:.1f}: rows cannot come from the host where folds are made; keep "
                "fewer features (data.components) or make fewer folds (data.folds)"
            )
        return 0
    budget = asked or int(CORPUS_SHARE * memory)
    return budget if size > budget else 0


def count_batches(batch_bytes: int, batches: int, budget: int) -> int:
    """Batches in a block, of which two lie on a device at a time."""
    return max(1, min(batches, min(budget // 2, MOST_BLOCK) // batch_bytes))


def stream(
    blocks: Sequence[Block], send: Callable[[Block], Any], compute: Callable[[Any], Any]
) -> Iterator[Any]:
    """Computes block after block; the next is sent while the present one is computed.

    Args:
      blocks: at least one.
      send: starts to copy a block to the devices.
      compute: starts to compute a block that was sent, and returns its result.

    Yields:
      Each result, when it is there.
    """
    before, sent = None, send(blocks[0])
    for following in [*blocks[1:], None]:
        result = compute(sent)
        if before is not None:
            # The block before is no longer used: two are on the devices at a time.
            yield jax.block_until_ready(before)
        sent = None if following is None else send(following)
        before = result
    yield jax.block_until_ready(before)


def stream_rows(
    fleet: Fleet,
    table: Table,
    rows: Rows,
    budget: int,
    compute: Callable[[tuple[Table, Rows]], Any],
    members: int,
) -> np.ndarray:
    """What all members make of the same rows, block by block.

    Args:
      fleet: the devices.
      table: N utterances, on the host.
      rows: R rows, a multiple of ``fleet.program.rows``.
      budget: bytes of features on a device.
      compute: starts to compute [S, r, ...] of r rows and the table that they point into.
      members: S.

    Returns:
      [S, R, ...] of all rows.
    """
    blocks = cut_rows(table, rows, fleet.program.rows, budget)
    results = stream(blocks, lambda own: fleet.replicate(own_table(table, own)), compute)
    each = [fleet.gather(result, members) for result in results]
    return np.concatenate(each, axis=1)[:, : len(rows.index)]


def cut_rows(table: Table, rows: Rows, batch: int, budget: int) -> list[Rows]:
    """Blocks of equally many rows; the last is filled up with copies of the last row."""
    batches = len(rows.index) // batch
    row_bytes = rows.index.shape[1] * count_bytes(table) // len(next(iter(table.present.values())))
    count = batch * count_batches(batch * row_bytes, batches, budget)
    last = len(rows.index) - 1
    return [
        Rows(*(field[np.minimum(np.arange(start, start + count), last)] for field in rows))
        for start in range(0, last + 1, count)
    ]
