"""What a person sees of long work: a live bar on a terminal, a line per epoch elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import rich.progress
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.text import Text


class Epoch(NamedTuple):
    """What is shown of an epoch.

    Attributes:
      done: epochs of the stage that are done, this one among them.
      figures: name -> mean over the members that still learn.
      members: how many these are.
      utterances: how many they have learned from in this epoch, all members together.
    """

    done: int
    figures: Mapping[str, float]
    members: int
    utterances: int


class Pace:
    """How fast a stage goes, measured from its first epoch on."""

    def __init__(self, done: int, epochs: int):
        """Args: epochs that are done already, and how many there will be at most."""
        self._first, self._epochs = done, epochs
        self._start = time.perf_counter()
        self._utterances = 0

    def describe(self, epoch: Epoch) -> str:
        """Utterances per second so far, and the time left if no member stops early."""
        seconds = time.perf_counter() - self._start
        self._utterances += epoch.utterances
        left = seconds / (epoch.done - self._first) * (self._epochs - epoch.done)
        return f"{self._utterances / seconds:,.0f} utterances/s  {spell_seconds(left)} left"


class Progress:
    """Progress as lines, one per epoch."""

    def __init__(self, say: Callable[[str], None]):
        """Args: what takes a line."""
        self.say = say

    @contextlib.contextmanager
    def stage(self, name: str, done: int, epochs: int) -> Iterator[Callable[[Epoch], None]]:
        """Follows one stage of a training.

        Args:
          name: of the stage.
          done: epochs that are done already.
          epochs: how many there will be at most.

        Yields:
          A function to call with every epoch.
        """
        pace = Pace(done, epochs)

        def show(epoch: Epoch) -> None:
            self.say(
                f"{name} {epoch.done}/{epochs}  {_describe(epoch)}  members {epoch.members}  "
                f"{pace.describe(epoch)}"
            )

        yield show


class _Bar(rich.progress.Progress):
    """A bar, and below it a line of figures: side by side they need more than 80 columns."""

    figures = ""

    def get_renderables(self):
        yield self.make_tasks_table(self.tasks)
        yield Text(self.figures)


class LiveProgress(Progress):
    """Progress as a bar that stays in its place; other lines scroll by above it."""

    def __init__(self, console: Console):
        """Args: the terminal."""
        super().__init__(lambda line: console.print(line, markup=False, highlight=False))
        self._console = console

    @contextlib.contextmanager
    def stage(self, name: str, done: int, epochs: int) -> Iterator[Callable[[Epoch], None]]:
        """As of ``Progress``; when the stage ends the last figures stay."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        pace = Pace(done, epochs)
        with _Bar(*columns, console=self._console) as bar:
            task = bar.add_task(name, total=epochs, completed=done, figures="")

            def show(epoch: Epoch) -> None:
                bar.figures = f"  {_describe(epoch)}"
                figures = f"x {epoch.members} members  {pace.describe(epoch)}"
                bar.update(task, completed=epoch.done, figures=figures, refresh=True)

            yield show


def print_now(line: str) -> None:
    """Prints a line at once, also into a pipe."""
    print(line, flush=True)


# For who does not care: lines on the standard output.
PLAIN = Progress(print_now)


def show_progress() -> Progress:
    """A bar where the standard output is a terminal, else lines."""
    console = Console(file=sys.stdout)
    return LiveProgress(console) if console.is_terminal else PLAIN


def spell_seconds(seconds: float) -> str:
    """A span of time in words: ``40 s``, ``12 min``, ``3 h 05 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def _describe(epoch: Epoch) -> str:
    return "  ".join(f"{name.replace('_', ' ')} {x:.3f}" for name, x in epoch.figures.items())
