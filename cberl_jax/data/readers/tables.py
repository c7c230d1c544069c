"""A person's own table as CSV, and its features as arrays of numpy, for ``cberl convert --table``.

The table has a row per utterance and any columns; ``Corpus.from_frame`` says which are read. A
feature file is an ``.npy`` with a row per row of the table, or an ``.npz``: with ``features`` (such
rows) and ``dialogue`` (the dialogue of each, which is compared with the table's), or with an array
per dialogue, a row per turn. A row of nan is an utterance that lacks the modality.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cberl_jax.data.columns import FileColumns
from cberl_jax.data.corpus import Corpus
from cberl_jax.data.readers.foreign import LOOKED_AT, refuse_foreign
from cberl_jax.data.readers.npz import read_arrays
from cberl_jax.data.readers.transcripts import read_rows
from cberl_jax.errors import UserError
from cberl_jax.runtime.files import expand

_ALIGNED = {"features", "dialogue"}
BRING_FEATURES = "write the array by numpy.save, a row per utterance"


def convert_table(
    table: str | os.PathLike,
    features: Mapping[str, str | os.PathLike],
    target: str | os.PathLike | None,
    *,
    columns: Sequence[str] = (),
    **options: Any,
) -> Corpus:
    """Makes a corpus of a table and feature files, and writes it.

    Args:
      table: CSV in UTF-8 whose first line names the columns.
      features: modality -> ``.npy`` or ``.npz``.
      target: the ``.npz`` to write or replace; None to write nothing.
      columns: ``dialogue=Dialogue_ID`` where a column has another name.
      **options: of ``Corpus.from_frame``.

    Returns:
      The corpus.

    Raises:
      UserError: naming the file and the line, or the key.
    """
    if not features:
        raise UserError(f"{table}: has no features; name them by --features=text=text.npy")
    arrays, dialogues = {}, {}
    for modality, path in features.items():
        arrays[modality], dialogues[modality] = read_features(path)
    corpus = Corpus.from_frame(
        read_table(table),
        arrays,
        feature_dialogue={m: names for m, names in dialogues.items() if names is not None},
        source=os.fspath(table),
        **_parse_columns(columns),
        **options,
    )
    if target is not None:
        corpus.save(target)
    return corpus


def _parse_columns(items: Sequence[str]) -> dict[str, str | None]:
    columns: dict[str, str | None] = {}
    for item in items:
        what, equals, name = item.partition("=")
        if not equals:
            raise UserError(f"--columns={item}: has to be as in dialogue=Dialogue_ID")
        columns[what.strip()] = name.strip() or None
    return columns


def read_table(path: str | os.PathLike) -> FileColumns:
    """Reads a CSV as columns of text.

    Args:
      path: UTF-8; the first line names the columns.

    Raises:
      UserError: it cannot be read, or a row has other cells than columns; names the line.
    """
    source = expand(path, "the path of the table")
    rows = read_rows(source)
    _, header = next(rows, ("", []))
    header = [name.strip() for name in header]
    if len(header) == 1:
        raise UserError(
            f"{source}: line 1 is one cell, {header[0][:80]!r}; cells have to be joined by commas."
        )
    for name in header:
        if header.count(name) > 1:
            raise UserError(f"{source}: the column {name!r} is there twice in line 1.")
    cells, lines = [], []
    for place, row in rows:
        if len(row) != len(header):
            raise UserError(
                f"{place}: has {len(row)} cells for {len(header)} columns; a text with a comma "
                'has to be in "quotation marks".'
            )
        cells.append([cell.strip() for cell in row])
        lines.append(int(place.rpartition(" ")[2]))
    if not cells:
        raise UserError(f"{source}: holds no utterance.")
    return FileColumns(dict(zip(header, map(list, zip(*cells)))), lines)


def read_features(path: str | os.PathLike) -> tuple[Any, np.ndarray | None]:
    """Reads one modality.

    Args:
      path: ``.npy`` or ``.npz``, see above.

    Returns:
      [N, d] or dialogue -> [T, d]; and the [N] dialogues of the rows where the file names them.

    Raises:
      UserError: naming the file.
    """
    source = expand(path, "the path of the features")
    try:
        with open(source, "rb") as file:
            first = file.read(LOOKED_AT)
            if first.startswith(b"\x93NUMPY"):
                # Mapped first: a file that declares more than it holds takes no memory.
                mapped = np.load(source, allow_pickle=False, mmap_mode="r")
                return np.array(mapped), None
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror or error}).") from error
    except ValueError as error:
        raise UserError(
            f"{source}: is no array of numbers ({error}); save it as np.asarray(x, np.float32)."
        ) from error
    refuse_foreign(source, first, BRING_FEATURES)
    if not first.startswith(b"PK"):
        raise UserError(f"{source}: is neither .npy nor .npz; {BRING_FEATURES}.")
    arrays = read_arrays(source, lambda key: True)
    if not arrays:
        raise UserError(f"{source}: holds no array.")
    if set(arrays) == _ALIGNED:
        return arrays["features"], arrays["dialogue"]
    return arrays, None
