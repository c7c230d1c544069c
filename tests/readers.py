"""The readers of files from strangers, each with sound files that damage can start from."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cberl_jax.config.grid import parse_grid
from cberl_jax.config.settings import default_config, flatten
from cberl_jax.config.variants import read_variants
from cberl_jax.data.readers.jsonl import read_json_lines
from cberl_jax.data.readers.npz import read_npz
from cberl_jax.data.readers.pickles import read_pickle
from cberl_jax.errors import UserError
from cberl_jax.runtime.workdir import FORMAT
from cberl_jax.serving.restore import read_settings
from cberl_jax.version import __version__


class Reader(NamedTuple):
    """A reader.

    Attributes:
      read: takes a path; raises ``UserError`` for what is wrong.
      seeds: sound files.
      words: what is likely to lead somewhere when it is put into a file.
    """

    read: Callable[[Path], object]
    seeds: list[bytes]
    words: list[bytes]


def check(reader: Reader, path: Path, content: bytes) -> str | None:
    """What is said of a file, None if it is sound; anything but a ``UserError`` passes through."""
    path.write_bytes(content)
    try:
        reader.read(path)
    except UserError as error:
        message = str(error)
        assert "\n" not in message and len(message) < 1000
        return message
    return None


def pickled_corpus(protocol: int) -> bytes:
    """A tiny MELD: numbered dialogues, speakers one-hot and 9 wide, and a seventh label."""
    ids = list(range(6))
    rows = ["u", [0, 1, *[0] * 7], 6, np.ones(3, np.float32), np.arange(2.0), "Ja, é"]
    entries = [{key: [row, row] for key in ids} for row in rows]
    return pickle.dumps((*entries, ids[:4], set(ids[4:]), None), protocol)


def zipped(arrays: dict[str, np.ndarray], method=zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return file.getvalue()


ARRAYS = {
    "classes": np.array(["calm", "glad"]),
    "dialogue": np.array(["a", "b", "c"]),
    "split": np.array(["train", "dev", "test"]),
    "length": np.array([2, 1, 2], np.int16),
    "speaker": np.array(["Zoë", "M", "M", "李", "F"]),
    "label": np.array([0, 1, 1, -1, 0], np.int8),
    "features.text": np.arange(10).reshape(5, 2).astype(np.float16),
    "present.text": np.array([1, 1, 0, 1, 1], bool),
}
LINE = {
    "dialogue": "a",
    "turns": [
        {"speaker": "Zoë", "text": "hi", "label": "glad", "features": {"text": [1, 2.5]}},
        {"speaker": 1, "features": {"text": None, "audio": [0, -1e3, 2]}},
    ],
}
CONFIG = flatten(default_config()) | {
    "format": FORMAT,
    "version": __version__,
    "classes": ["calm", "glad"],
    "widths": {"text": 2},
    "seeds": [0, 1],
    "generated": [0, 3],
}
VARIANTS = {"mine": {"loss.gamma": 3, "model.causal": True}, "other": {"augment.method": "none"}}


def read_config(path: Path) -> None:
    """Reads a file as a run's ``config.json``, as a person's variants and as a sweep's grid."""
    folder = path.parent / "run"
    folder.mkdir(exist_ok=True)
    (folder / "report.json").write_text("{}")
    (folder / "config.json").write_bytes(path.read_bytes())
    faults = []
    for read, argument in (
        (read_settings, folder),
        (read_variants, path),
        (parse_grid, path.read_bytes().decode("utf-8", "surrogateescape").splitlines()),
    ):
        try:
            read(argument)
        except UserError as error:
            faults.append(error)
    if len(faults) == 3:
        raise faults[0]


READERS = {
    "pickle": Reader(
        read_pickle,
        [pickled_corpus(protocol) for protocol in (0, 2, 4, 5)],
        [
            *(b"cos\nsystem\n", b"\x8c\x02os\x8c\x06system\x93", b"cnumpy\ndtype\n", b"R", b"o"),
            *(b"\x81", b"\x92", b"b", b"(", b"t", b"l", b"d", b"\x85", b"\x86", b"\x87", b"\x94"),
            *(b"cnumpy.core.multiarray\n_reconstruct\n", b"c__builtin__\nset\n", b"c_codecs\n"),
            *(b"cnumpy.core.multiarray\nscalar\n", b"ccollections\ndefaultdict\n", b"S'f8'\n"),
            *(b"K\x00", b"J\xff\xff\xff\x7f", b"I99999999999\n", b"\x8f", b"\x90", b"\x91", b"Q"),
        ],
    ),
    "npz": Reader(
        read_npz,
        [zipped(ARRAYS), zipped(ARRAYS, zipfile.ZIP_DEFLATED)],
        [
            *(b"'<U1'", b"'|O'", b"'>f4'", b"'<f8'", b"'|b1'", b"(5,)", b"(5, 2)", b"(0,)"),
            *(b"True", b"99999999999", b"-1", b"../", b".npy", b"features.", b"present."),
        ],
    ),
    "lines": Reader(
        read_json_lines,
        [
            json.dumps(LINE, ensure_ascii=False).encode(),
            "\n".join(json.dumps(LINE | {"dialogue": name}) for name in "ab").encode(),
        ],
        [
            *(b"NaN", b"-Infinity", b"1e999", b"null", b"true", b'"\\ud800"', b'"\\u0000"'),
            *(b'"features"', b'"text"', b'"label"', b'"turns"', b"[", b"]", b"{", b"}", b","),
        ],
    ),
    "config": Reader(
        read_config,
        [
            json.dumps(CONFIG).encode(),
            json.dumps(VARIANTS).encode(),
            b"loss.gamma=0,0.5,2\nmodel.causal=True\ndata.modalities=text,text+audio\n",
        ],
        [
            *(b"NaN", b"-Infinity", b"1e999", b"null", b"true", b"[]", b"{}", b"9" * 400, b"="),
            *(f'"{name}"'.encode() for name in ("loss.gamma", "model.hidden", "widths", "seeds")),
        ],
    ),
}
