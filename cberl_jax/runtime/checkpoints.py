"""Checkpoints of a run: orbax, in the run's folder, newest ones kept, each with its checksums.

What a checkpoint's files have to be is written beside it, in ``<step>.json``, once it is complete:
orbax notices a file that is missing, but not a bit that has changed. A process that is alone writes
and adds up in a thread, so that the devices compute meanwhile.
"""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import flax.serialization
import jax
import numpy as np
import orbax.checkpoint as ocp

from cberl_jax.errors import UserError
from cberl_jax.runtime import processes
from cberl_jax.runtime.files import explaining_failure, hash_file, write_json

KEPT = 2


class Checkpoints:
    """The checkpoints of one run. Made by ``open_checkpoints``."""

    def __init__(self, manager: ocp.CheckpointManager, folder: pathlib.Path):
        self._manager, self._folder = manager, folder
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._unfinished: Future | None = None

    def save(
        self,
        step: int,
        state: Any,
        standardiser: Any,
        guard: contextlib.AbstractContextManager | None = None,
    ) -> None:
        """Writes the members' states and the train statistics, whole or not at all.

        It returns while they are being written, where no other process takes part.

        Args:
          step: epochs of both stages that are done.
          state: the members' states with a leading member axis: numpy arrays, the same in all
            processes, or global arrays, of which each process writes its shards.
          standardiser: the train statistics that the model's input is standardised with.
          guard: is held until they are written.

        Raises:
          UserError: this one, or the one before it, cannot be written; the checkpoints that were
            there are there still.
        """
        self.wait()
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(_without_none(flax.serialization.to_state_dict(state))),
            standardiser=ocp.args.StandardSave(flax.serialization.to_state_dict(standardiser)),
        )
        held = contextlib.ExitStack()
        held.enter_context(guard or contextlib.nullcontext())
        if jax.process_count() > 1:
            self._write(step, items, held)
        else:
            self._unfinished = self._thread.submit(self._write, step, items, held)

    def _write(self, step: int, items: ocp.args.Composite, held: contextlib.ExitStack) -> None:
        with held:
            self._write_whole(step, items)

    def _write_whole(self, step: int, items: ocp.args.Composite) -> None:
        try:
            self._manager.save(step, args=items, force=True)
            self._manager.wait_until_finished()
        # A full disk is a ValueError of the library that writes the arrays.
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self._folder}: a checkpoint cannot be written "
                f"({str(error).strip().splitlines()[0]}); the ones before it are as they were"
            ) from error
        if processes.is_main():
            write_json(_sums_file(self._folder, step), _add_up(self._folder / str(step)))
            for file in self._folder.glob("*.json"):
                if not file.with_suffix("").exists():
                    file.unlink()

    def wait(self) -> None:
        """Waits until nothing is being written.

        Raises:
          UserError: it cannot be written.
        """
        unfinished, self._unfinished = self._unfinished, None
        if unfinished is not None:
            unfinished.result()

    def close(self) -> None:
        """Ends the thread, once nothing is being written; raises as ``wait``."""
        with self._thread:
            self.wait()

    @property
    def latest(self) -> int | None:
        """The newest checkpoint's step, or None where there is none; once it is written."""
        self.wait()
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


def _sums_file(folder: pathlib.Path, step: int) -> pathlib.Path:
    return folder / f"{step}.json"


def _add_up(checkpoint: pathlib.Path) -> dict[str, str]:
    """File of a checkpoint, by its path in it -> sha256 of its contents."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    return {path.relative_to(checkpoint).as_posix(): hash_file(path) for path in files}


def find_damage(folder: pathlib.Path, step: int) -> str | None:
    """Compares a checkpoint with its checksums.

    Args:
      folder: of the checkpoints.
      step: which of them.

    Returns:
      What is wrong with it; None where nothing is.
    """
    file = _sums_file(folder, step)
    if not file.exists():
        return f"{file.name} is missing: its writing was cut off"
    try:
        wanted = json.loads(file.read_bytes())
        found = _add_up(folder / str(step))
    except (ValueError, OSError) as error:
        return f"cannot be read ({error})"
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        return f"{missing[0]} is missing"
    changed = sorted(name for name in wanted if wanted[name] != found[name])
    if changed:
        return f"{changed[0]} has changed since it was written"
    return None


def list_steps(folder: pathlib.Path) -> list[int]:
    """Steps of the complete checkpoints in a folder, sound or not, the newest first."""
    if not folder.is_dir():
        return []
    steps = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
    return sorted(steps, reverse=True)


def set_damaged_aside(folder: pathlib.Path) -> dict[int, str]:
    """Takes the damaged checkpoints away that are newer than the newest sound one.

    They are kept beside it as ``damaged_<step>``, in place of earlier ones of that step.

    Returns:
      Step -> what is wrong with it, the newest first.
    """
    damaged = {}
    for step in list_steps(folder):
        damage = find_damage(folder, step)
        if damage is None:
            break
        damaged[step] = damage
        aside = folder / f"damaged_{step}"
        shutil.rmtree(aside, ignore_errors=True)
        (folder / str(step)).rename(aside)
        _sums_file(folder, step).unlink(missing_ok=True)
    return damaged


def copy_checkpoint(source: pathlib.Path, target: pathlib.Path, step: int) -> None:
    """Copies one checkpoint and its checksums from one folder of checkpoints to another."""
    whole, part = target / str(step), target / f"copy_of_{step}"
    for leftover in (whole, part):
        shutil.rmtree(leftover, ignore_errors=True)
    with explaining_failure(whole):
        shutil.copytree(source / str(step), part)
        part.rename(whole)
    write_json(_sums_file(target, step), json.loads(_sums_file(source, step).read_bytes()))


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
        checkpoints = Checkpoints(manager, folder)
        try:
            yield checkpoints
        finally:
            checkpoints.close()
