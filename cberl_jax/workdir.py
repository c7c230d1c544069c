"""The folder of a run: which files it holds, and how they are written whole or not at all."""

import contextlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

from cberl_jax.errors import UserError

FORMAT = 1


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Opens a file that takes the place of ``path`` once it is complete, and not before."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # A temporary file is its owner's alone; this one is to have the usual permissions.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file, whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode())


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes a JSON file, whole or not at all."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


class Workdir:
    """The files of one run.

    ``config.json``, ``metrics.jsonl``, ``tensorboard/``, ``checkpoints/``, ``predictions.npz``,
    ``report.json``, ``report.md``, ``report.html`` and the pictures in it, ``report_<what>.png``,
    ``MODEL_CARD.md``; the names are read by other programs.
    """

    def __init__(self, path: str | os.PathLike, create: bool = True, writes: bool = True):
        """Opens the folder.

        Args:
          path: of the folder.
          create: make it if it is not there.
          writes: whether this process is the one that writes; in the others all writing does
            nothing.

        Raises:
          UserError: it cannot be made, or is not there.
        """
        self.path = pathlib.Path(path).absolute()
        self.writes = writes
        if create and writes:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"{path}: cannot make this folder: {error.strerror}") from error
        self.config_file = self.path / "config.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.event_files = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"
        self.predictions_file = self.path / "predictions.npz"
        self.report_file = self.path / "report.json"
        self.report_text = self.path / "report.md"
        self.report_page = self.path / "report.html"
        self.model_card = self.path / "MODEL_CARD.md"

    def claim(self, config: Mapping[str, Any], free: Sequence[str] = ()) -> None:
        """Writes ``config.json``, or checks that the one there is the same run's.

        Args:
          config: flat settings and whatever else decides the run's results.
          free: names that may differ, since no result depends on them.

        Raises:
          UserError: the folder belongs to a run with other settings; it lists them.
        """
        config = {"format": FORMAT, **config}
        if self.config_file.exists():
            there = self.read_config()
            names = sorted((there.keys() | config.keys()) - set(free))
            names = [n for n in names if there.get(n) != config.get(n)]
            if names:
                listed = "; ".join(
                    f"{n}: {there.get(n)!r} there, {config.get(n)!r} asked for" for n in names
                )
                raise UserError(
                    f"{self.path}: holds a run with other settings ({listed}); name another "
                    "--workdir, or the same settings to go on with that run"
                )
            return
        self.write_json(self.config_file, config)

    def read_config(self) -> dict[str, Any]:
        """The contents of ``config.json``.

        Raises:
          UserError: the folder holds no run, or the file is damaged.
        """
        if not self.config_file.exists():
            raise UserError(f"{self.path}: holds no run (there is no config.json)")
        try:
            config = json.loads(self.config_file.read_text())
        except ValueError as error:
            raise UserError(f"{self.config_file}: is damaged ({error})") from error
        if config.get("format") != FORMAT:
            raise UserError(
                f"{self.config_file}: has format {config.get('format')!r}; "
                f"this version reads format {FORMAT}"
            )
        return config

    def read_report(self) -> dict[str, Any]:
        """The contents of ``report.json``."""
        return json.loads(self.report_file.read_text())

    def write_json(self, path: pathlib.Path, content: Any) -> None:
        """Writes a JSON file."""
        if self.writes:
            write_json(path, content)

    def write_text(self, path: pathlib.Path, text: str) -> None:
        """Writes a text file."""
        if self.writes:
            write_text(path, text)

    def keep_metrics(self, done: Mapping[str, int]) -> None:
        """Drops the lines of epochs that no checkpoint has: they will be run again.

        Args:
          done: stage -> epochs that are done.
        """
        if not self.writes:
            return
        lines = []
        if self.metrics_file.exists():
            # The last line may be half written: the run may have been killed at any moment.
            lines = [x for x in self.metrics_file.read_bytes().splitlines(True) if x[-1:] == b"\n"]
        kept = [x for x in lines if (r := json.loads(x))["epoch"] < done.get(r["stage"], 0)]
        with replacing(self.metrics_file) as file:
            file.writelines(kept)

    def append_metrics(self, records: list[dict[str, Any]]) -> None:
        """Adds a line per record; one that is not finite is written as null."""
        if not self.writes:
            return
        with self.metrics_file.open("a") as file:
            for record in records:
                sound = {
                    k: v if not isinstance(v, float) or np.isfinite(v) else None
                    for k, v in record.items()
                }
                file.write(json.dumps(sound) + "\n")

    def write_predictions(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes ``predictions.npz``."""
        if self.writes:
            with replacing(self.predictions_file) as file:
                np.savez(file, **arrays)
