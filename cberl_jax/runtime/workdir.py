"""The folder of a run: which files it holds, and to which run they belong."""

import contextlib
import fcntl
import fnmatch
import json
import os
import pathlib
import shlex
import socket
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, TextIO

import numpy as np

from cberl_jax.config.settings import SETTINGS
from cberl_jax.errors import FolderBusy, UserError
from cberl_jax.runtime.files import (
    PART,
    expand,
    explaining_failure,
    replacing,
    write_json,
    write_text,
)
from cberl_jax.version import __version__

FORMAT = 1
# Lists of more characters are not quoted whole in a message, but so many of their entries.
SHOWN, FEW = 120, 3
# In a run's folder: the encoders that its features were made with, each under their name.
ENCODERS = "encoders"
MEND = "delete it, and start the training again with the same command"
WHAT = "the workdir"
# What runs, sweeps and ablations write, and the log that a shell or a scheduler writes beside them.
OWN_FILES = (
    *("config.json", "metrics.jsonl", "tensorboard", "wandb", "checkpoints", ENCODERS),
    *("predictions.npz", "fork.json"),
    *("report.*", "report_*.png", "MODEL_CARD.md", "corpus.npz"),
    *(
        "chunks",
        "best",
        "best.py",
        "reference",
        "sweep*",
        "ablation*",
        "search*",
        "growing",
        "grown",
    ),
    *("*.log", "*.out", "*.err"),
)


def check_unrelated(path: str | os.PathLike) -> None:
    """Refuses a folder for a new run that holds files of something else.

    Allowed are a folder that is not there, that holds a run, or that has no other files than a run
    writes, hidden files and logs (``*.log``, ``*.out``, ``*.err``).

    Raises:
      UserError: naming some of the files; or no folder is named.
    """
    folder = pathlib.Path(expand(path, WHAT))
    if not folder.is_dir() or (folder / "config.json").exists():
        return
    names = sorted(entry.name for entry in folder.iterdir())
    strange = [name for name in names if not name.startswith(".") and not _is_own(name)]
    if strange:
        more = f" and {len(strange) - FEW} more" if len(strange) > FEW else ""
        raise UserError(
            f"{path}: holds files that are of no run ({', '.join(strange[:FEW])}{more}); name a "
            "new folder, or accept them by --allow_unrelated (allow_unrelated=True in Python)"
        )


def _is_own(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in OWN_FILES)


def minor_version(version: str) -> tuple[str, ...]:
    """What decides whether a version of this package reads what another one wrote."""
    return tuple(version.split(".")[:2])


def list_differences(
    there: Mapping[str, Any], asked: Mapping[str, Any], free: Collection[str]
) -> str:
    """The entries, other than the free ones, in which a folder's settings are not those asked for.

    Returns:
      A part of a sentence; empty where nothing differs.
    """
    names = sorted((there.keys() | asked.keys()) - set(free))
    return "; ".join(
        f"{n}: {_describe_difference(there.get(n), asked.get(n))}"
        for n in names
        if there.get(n) != asked.get(n)
    )


def _flags_to_go_on(
    there: Mapping[str, Any], asked: Mapping[str, Any], free: Collection[str]
) -> str:
    """The flags that ask for a folder's own settings; empty where no flags do."""
    names = [n for n in sorted(there.keys() | asked.keys()) if there.get(n) != asked.get(n)]
    flags = []
    for name in (n for n in names if n not in free):
        if name == "seeds" and there.get(name) == list(range(len(there.get(name) or ()))):
            flags.append(f"--seeds={len(there[name])}")
        elif name in SETTINGS and name in there:
            flags.append(f"--config.{name}={there[name]}")
        else:
            # Of another corpus, or a fork.
            return ""
    return shlex.join(flags)


def _describe_difference(there: Any, asked: Any) -> str:
    """Two values that differ, for a person; of long lists only what the other one lacks."""
    long = max(len(repr(there)), len(repr(asked))) > SHOWN
    if not (long and isinstance(there, list) and isinstance(asked, list)):
        return f"{_quote(there)} there, {_quote(asked)} asked for"
    lacking = {
        "only there": [v for v in there if v not in asked],
        "only asked for": [v for v in asked if v not in there],
    }
    return ", ".join(f"{k} {_quote(v)}" for k, v in lacking.items() if v) or "in another order"


def _quote(value: Any) -> str:
    """A value as it is spelt; of a long list the first entries, each of them whole."""
    if isinstance(value, list) and len(value) > FEW and len(repr(value)) > SHOWN:
        return f"{value[:FEW]} and {len(value) - FEW} more"
    return repr(value)


class Workdir:
    """The files of one run.

    ``config.json``, ``metrics.jsonl``, ``tensorboard/``, ``checkpoints/``, ``predictions.npz``,
    ``report.json``, ``report.md``, ``report.html`` and the pictures in it, ``report_<what>.png``,
    ``MODEL_CARD.md``, ``encoders/`` where they are kept, and ``corpus.npz`` where the corpus was
    none of a file; the names are read by other programs.
    """

    def __init__(self, path: str | os.PathLike, create: bool = True, writes: bool = True):
        """Opens the folder.

        Args:
          path: of the folder.
          create: make it if it is not there.
          writes: whether this process is the one that writes; in the others all writing does
            nothing.

        Raises:
          UserError: it cannot be made, or no folder is named.
        """
        self.path = pathlib.Path(expand(path, WHAT)).absolute()
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
        self.start_file = self.path / "init.json"
        self.fork_file = self.path / "fork.json"
        self.corpus_file = self.path / "corpus.npz"
        self.encoders = self.path / ENCODERS

    @contextlib.contextmanager
    def locked(self, shared: bool = False) -> Iterator[None]:
        """Keeps the folder to this process within the block, and clears up after one that died.

        The lock ends with the process, however that ends.

        Args:
          shared: let others in that share it, too.

        Raises:
          FolderBusy: another process is at work in the folder.
        """
        if not self.writes:
            yield
            return
        with self._open_lock() as lock:
            try:
                fcntl.flock(lock, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.seek(0)
                raise FolderBusy(
                    f"{self.path}: another training is at work in this folder ({lock.read()}); "
                    "wait for its end, or name another --workdir"
                ) from error
            except OSError:
                # A file system without locks: other processes cannot be kept out.
                pass
            lock.truncate(0)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            lock.flush()
            # Of those that share the folder, another may be writing one.
            for part in () if shared else self.path.glob(f".*{PART}"):
                part.unlink()
            yield

    def _open_lock(self) -> TextIO:
        path = self.path / ".lock"
        with explaining_failure(path):
            return path.open("a+")

    def claim(self, config: Mapping[str, Any], free: Sequence[str] = ()) -> None:
        """Writes ``config.json``, or checks that the one there is the same run's.

        Args:
          config: flat settings and whatever else decides the run's results.
          free: names that may differ, since no result depends on them.

        Raises:
          UserError: the folder belongs to a run with other settings; it lists them.
        """
        config = {"format": FORMAT, "version": __version__, **config}
        if self.config_file.exists():
            there = self.read_config()
            listed = list_differences(there, config, {*free, "version"})
            if listed:
                flags = _flags_to_go_on(there, config, {*free, "version"})
                goes_on = f"; {flags} goes on with that run" if flags else ""
                raise UserError(
                    f"{self.path}: holds a run with other settings ({listed}); name another "
                    f"--workdir (cberl train --fork={self.path} starts it where this one "
                    f"is){goes_on}"
                )
            return
        self.write_json(self.config_file, config)

    @property
    def forked_after(self) -> int | None:
        """Epochs that another run had done when this one was forked of it; None if it was not."""
        return self.read_json(self.fork_file)["epochs"] if self.fork_file.exists() else None

    @property
    def finished(self) -> bool:
        """Whether all that a finished run consists of is there."""
        return self.report_file.exists() and self.predictions_file.exists()

    def read_config(self) -> dict[str, Any]:
        """The contents of ``config.json``.

        Raises:
          UserError: the folder holds no run, or the file is damaged.
        """
        if not self.config_file.exists():
            raise UserError(f"{self.path}: holds no run (there is no config.json)")
        config = self.read_json(self.config_file)
        if config.get("format") != FORMAT:
            raise UserError(
                f"{self.config_file}: has format {config.get('format')!r}; "
                f"this version reads format {FORMAT}"
            )
        written = str(config.get("version"))
        if minor_version(written) != minor_version(__version__):
            raise UserError(
                f"{self.config_file}: was written by cberl-jax {written}, and this is "
                f"{__version__}: install that version, or train again in another --workdir"
            )
        return config

    def read_report(self) -> dict[str, Any]:
        """The contents of ``report.json``.

        Raises:
          UserError: the file is damaged.
        """
        return self.read_json(self.report_file)

    def read_json(self, path: pathlib.Path) -> dict[str, Any]:
        """The contents of a JSON file of the run.

        Raises:
          UserError: the file is damaged, or cannot be read.
        """
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, OSError, RecursionError) as error:
            raise UserError(f"{path}: is damaged ({error}); {MEND}") from error
        if not isinstance(content, dict):
            raise UserError(f"{path}: is damaged (it holds no object); {MEND}")
        return content

    def read_predictions(self) -> dict[str, np.ndarray]:
        """The arrays of ``predictions.npz``, as ``predict_splits`` names them, and ``seed``.

        Raises:
          UserError: the file is damaged, or cannot be read.
        """
        try:
            with self.predictions_file.open("rb") as file:
                # Not by its path: of a damaged archive numpy leaves the file open.
                with np.load(file, allow_pickle=False) as stored:
                    return {name: stored[name] for name in stored.files}
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{self.predictions_file}: is damaged ({error}); {MEND}") from error

    def read_metrics(self) -> list[dict[str, Any]]:
        """The lines of ``metrics.jsonl``.

        Raises:
          UserError: the file is damaged, or cannot be read.
        """
        try:
            lines = [json.loads(line) for line in self.metrics_file.read_bytes().splitlines()]
            if not all({"stage", "epoch", "member"} <= line.keys() for line in lines):
                raise ValueError("a line lacks its stage, epoch or member")
            return lines
        except (ValueError, OSError, AttributeError, RecursionError) as error:
            raise UserError(f"{self.metrics_file}: is damaged ({error}); {MEND}") from error

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
        kept = [line for line in lines if self._is_done(line, done)]
        with replacing(self.metrics_file) as file:
            file.writelines(kept)

    def _is_done(self, line: bytes, done: Mapping[str, int]) -> bool:
        try:
            record = json.loads(line)
            return record["epoch"] < done.get(record["stage"], 0)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.metrics_file}: is damaged ({error}); {MEND}") from error

    def append_metrics(self, records: list[dict[str, Any]]) -> None:
        """Adds a line per record; one that is not finite is written as null."""
        if not self.writes:
            return
        lines = []
        for record in records:
            sound = {
                k: v if not isinstance(v, float) or np.isfinite(v) else None
                for k, v in record.items()
            }
            lines.append(json.dumps(sound) + "\n")
        with explaining_failure(self.metrics_file), self.metrics_file.open("a") as file:
            file.writelines(lines)

    def write_predictions(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes ``predictions.npz``."""
        if self.writes:
            with replacing(self.predictions_file) as file:
                np.savez(file, **arrays)
