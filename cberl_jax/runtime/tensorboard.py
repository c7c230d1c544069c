"""Curves of a run as TensorBoard shows them: a view of ``metrics.jsonl``, which is the truth."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

# Of a line of metrics, what is not a curve.
NAMES = ("stage", "epoch", "member", "seed")


def member_folder(number: int) -> str:
    """The name of a member's folder of event files."""
    return f"member_{number:03d}"


@contextlib.contextmanager
def open_event_files(
    folder: pathlib.Path, members: int, done: int
) -> Iterator[Callable[[int, Sequence[Mapping[str, Any]]], None]]:
    """Opens a folder of event files per member.

    Args:
      folder: that TensorBoard is to be shown.
      members: how many there are.
      done: epochs of both stages that are done; TensorBoard forgets what came after them, as what
        was written after the checkpoint that a run goes on from.

    Yields:
      A function that takes the number of epochs that were done before this one, and its lines of
      metrics.
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
                for name in line.keys() - NAMES:
                    if np.isfinite(line[name]):
                        writer.add_scalar(f"{line['stage']}/{name}", line[name], step)
                writer.flush()

        yield write
