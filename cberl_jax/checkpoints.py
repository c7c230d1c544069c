"""Checkpoints of a run: orbax, in the run's folder, newest ones kept."""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import flax.serialization
import jax
import numpy as np
import orbax.checkpoint as ocp

KEPT = 2


class Checkpoints:
    """The checkpoints of one run. Made by ``open_checkpoints``."""

    def __init__(self, manager: ocp.CheckpointManager):
        self._manager = manager

    def save(self, step: int, state: Any, standardiser: Any) -> None:
        """Writes the members' states and the train statistics, whole or not at all.

        Args:
          step: epochs of both stages that are done.
          state: the members' states with a leading member axis: numpy arrays, or with several
            processes global arrays, of which each writes its shards.
          standardiser: the train statistics that the model's input is standardised with.
        """
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(_without_none(flax.serialization.to_state_dict(state))),
            standardiser=ocp.args.StandardSave(flax.serialization.to_state_dict(standardiser)),
        )
        self._manager.save(step, args=items, force=True)

    @property
    def latest(self) -> int | None:
        """The newest checkpoint's step, or None where there is none."""
        return self._manager.latest_step()

    def restore(self, like: Any, standardiser_like: Any) -> tuple[Any, Any]:
        """Reads the newest checkpoint.

        Args:
          like: shapes and dtypes of the state.
          standardiser_like: likewise of the train statistics.

        Returns:
          The state and the train statistics, as numpy arrays.
        """
        targets = [
            _without_none(flax.serialization.to_state_dict(x)) for x in (like, standardiser_like)
        ]
        on_host = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), targets)
        # What several processes wrote may have more members than there are: copies that filled
        # the devices up.
        slots = self._slots()
        on_host[0] = jax.tree.map(lambda x: np.empty((slots, *x.shape[1:]), x.dtype), on_host[0])
        items = self._manager.restore(
            self.latest,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(on_host[0]),
                standardiser=ocp.args.StandardRestore(on_host[1]),
            ),
        )
        members = len(jax.tree.leaves(like)[0])
        state = jax.tree.map(lambda x: x[:members], items.state)
        return (
            flax.serialization.from_state_dict(like, _with_none(like, state)),
            flax.serialization.from_state_dict(standardiser_like, items.standardiser),
        )

    def _slots(self) -> int:
        """The length of the member axis in the newest checkpoint."""
        stored = self._manager.item_metadata(self.latest).state.tree
        return stored["seed"].shape[0]


def _without_none(tree: dict) -> dict:
    """Drops the top-level entries that are None, which a checkpoint cannot hold."""
    return {name: value for name, value in tree.items() if value is not None}


def _with_none(like: Any, tree: dict) -> dict:
    return dict.fromkeys(flax.serialization.to_state_dict(like)) | tree


@contextlib.contextmanager
def open_checkpoints(folder: pathlib.Path) -> Iterator[Checkpoints]:
    """Opens the checkpoints in ``folder`` (made if need be); on leaving, all writes are done."""
    options = ocp.CheckpointManagerOptions(
        max_to_keep=KEPT, create=True, enable_async_checkpointing=False
    )
    # Named handlers: without them the shapes of what is stored cannot be asked for.
    handlers = {name: ocp.StandardCheckpointHandler() for name in ("state", "standardiser")}
    with ocp.CheckpointManager(
        folder.absolute(), options=options, item_handlers=handlers
    ) as manager:
        yield Checkpoints(manager)
