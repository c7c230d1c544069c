"""Curves of a run for other programs: a view of ``metrics.jsonl``, which is the truth.

TensorBoard and Weights & Biases each get one run per member, so that they can average over seeds.
"""

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

# Of a line of metrics, what is not a curve.
NAMES = ("stage", "epoch", "member", "seed", "fold")
# Takes the number of epochs that were done before this one, and its lines of metrics.
Writer = Callable[[int, Sequence[Mapping[str, Any]]], None]


def member_folder(number: int) -> str:
    """The name of a member's folder of event files."""
    return f"member_{number:03d}"


def _list_points(line: Mapping[str, Any]) -> dict[str, float]:
    """Curve -> its value in a line of metrics."""
    own = {name: line[name] for name in line.keys() - NAMES}
    return {f"{line['stage']}/{n}": float(v) for n, v in own.items() if np.isfinite(v)}


@contextlib.contextmanager
def open_event_files(folder: pathlib.Path, members: int, done: int) -> Iterator[Writer]:
    """Opens a folder of event files per member, for TensorBoard.

    Args:
      folder: that TensorBoard is to be shown.
      members: how many there are.
      done: epochs of both stages that are done; TensorBoard forgets what came after them, as what
        was written after the checkpoint that a run goes on from.
    """
    # Not at the top: the package is an extra, which few need.
    from tensorboardX import SummaryWriter

    with contextlib.ExitStack() as open_files:
        writers = [
            open_files.enter_context(
                SummaryWriter(str(folder / member_folder(number)), purge_step=done)
            )
            for number in range(members)
        ]

        def write(step: int, lines: Sequence[Mapping[str, Any]]) -> None:
            for line in lines:
                writer = writers[line["member"]]
                for name, value in _list_points(line).items():
                    writer.add_scalar(name, value, step)
                writer.flush()

        yield write


@contextlib.contextmanager
def open_wandb(
    folder: pathlib.Path, members: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
) -> Iterator[Writer]:
    """Opens a run per member for Weights & Biases, in one group.

    The variables of wandb say where they go: ``WANDB_PROJECT``, ``WANDB_MODE=offline``, ...

    Args:
      folder: of the run; its name is that of the group.
      members: of each what tells it from the others: ``seed``, ``fold``, settings of its own.
      settings: dotted name -> value, of those that all share.
    """
    # Not at the top: the package is an extra, which few need.
    import wandb

    quiet = wandb.Settings(silent=True, console="off", x_disable_stats=True)
    with contextlib.ExitStack() as open_runs:
        runs = []
        for own in members:
            named = ", ".join(f"{name} {value}" for name, value in own.items())
            # The same where a training goes on.
            identity = hashlib.sha256(f"{folder} {named}".encode()).hexdigest()[:16]
            run = wandb.init(
                # wandb's own variable comes first.
                project=None if "WANDB_PROJECT" in os.environ else "cberl-jax",
                group=folder.name,
                name=f"{folder.name}, {named}",
                id=identity,
                resume="allow",
                dir=folder,
                config={**settings, **own},
                reinit="create_new",
                settings=quiet,
            )
            open_runs.callback(run.finish)
            # What a resumed training writes again has the epoch that it had.
            run.define_metric("*", step_metric="epoch")
            runs.append(run)

        def write(step: int, lines: Sequence[Mapping[str, Any]]) -> None:
            for line in lines:
                runs[line["member"]].log({"epoch": step, **_list_points(line)})

        yield write
