"""Files of predictions: JSON lines, CSV or Parquet, as the end of the file's name says."""

import csv
import io
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, BinaryIO

from cberl_jax.errors import UserError
from cberl_jax.features.optional import load_library
from cberl_jax.runtime.files import replacing

Columns = Mapping[str, Sequence[Any]]


def write_lines(file: BinaryIO, lines: Iterable[Mapping[str, Any]]) -> None:
    """Writes records as JSON lines in UTF-8."""
    for line in lines:
        file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


def _write_csv(file: BinaryIO, columns: Columns) -> None:
    """Writes columns as CSV in UTF-8, RFC 4180; None is an empty cell."""
    # Detached in the end: closing it would close the file.
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    # Its line ends decide what is quoted: a text may hold either of the two signs.
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values()))
    text.detach()


def _write_parquet(file: BinaryIO, columns: Columns) -> None:
    """Writes columns as Parquet; None is null."""
    arrow = load_library("pyarrow", "parquet")
    tables = load_library("pyarrow.parquet", "parquet")
    tables.write_table(arrow.table(dict(columns)), file)


# Ends of names -> what writes the columns; JSON lines have records instead.
_TABLES: dict[str, Callable[[BinaryIO, Columns], None]] = {
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
_LINES = ".jsonl"


def check_format(path: str | os.PathLike[str]) -> None:
    """Refuses a file that predictions cannot be written to, before there is any work.

    Raises:
      UserError: its name ends in none of the known ways, or the library for it is not installed.
    """
    suffix = _suffix(path)
    if suffix not in (_LINES, *_TABLES):
        known = ", ".join((_LINES, *_TABLES))
        raise UserError(
            f"{path}: the end of the name says how predictions are written, and {suffix or 'none'} "
            f"is not known; use one of {known}"
        )
    if suffix == ".parquet":
        load_library("pyarrow", "parquet")


def write_predictions(
    path: str | os.PathLike[str],
    lines: Callable[[], Iterable[Mapping[str, Any]]],
    columns: Callable[[], Columns],
) -> None:
    """Writes predictions, whole or not at all.

    Args:
      path: of the file; its end is one that ``check_format`` knows.
      lines: gives a record per turn.
      columns: gives the same as columns.

    Raises:
      UserError: as of ``check_format``, or the file cannot be written.
    """
    check_format(path)
    write = _TABLES.get(_suffix(path))
    with replacing(path) as file:
        if write is None:
            write_lines(file, lines())
        else:
            write(file, columns())


def _suffix(path: str | os.PathLike[str]) -> str:
    return pathlib.Path(path).suffix.lower()
