"""Files that are no corpus, told by what they hold, with what to do instead."""

import re
import zipfile
from collections.abc import Sequence

from cberl_jax.errors import UserError

# Bytes that are looked at.
LOOKED_AT = 512
BRING_CORPUS = "bring an .npz or a pickle"
# What other files begin with -> what is said of them.
_BEGINNINGS = {
    b"\x93NUMPY": "is a single numpy array; {bring}",
    b"\x1f\x8b": "is compressed by gzip; unpack it first",
    b"BZh": "is compressed by bzip2; unpack it first",
    b"\xfd7zXZ": "is compressed by xz; unpack it first",
    b"MATLAB 5": "is a file of MATLAB, which is not read; {bring}",
    b"\x89HDF": "is HDF5, which is not read; {bring}",
    b"7z\xbc\xaf\x27\x1c": "is a 7z archive; unpack it first",
    b"Rar!": "is a rar archive; unpack it first",
    b"PAR1": "is Parquet, which is not read; {bring}",
    b"\xff\xfe": "is text in UTF-16; save it in UTF-8",
    b"RIFF": "is sound or video; extract.py makes features of sounds",
    b"%PDF": "is a PDF, not data",
    b"version https://git-lfs": "is a pointer that git-lfs left; fetch the file by git lfs pull",
    # The number that opens what torch.save wrote before version 1.6.
    b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.": (
        "was written by torch.save; write arrays (tensor.numpy()) by pickle.dump or numpy.savez"
    ),
}
_WEB_PAGE = re.compile(rb"\s*(<!doctype\s+html|<html|<head|<\?xml|<!--)", re.IGNORECASE)
_PYTHON = re.compile(
    rb"(#!.*python|# -\*- coding|r?\"\"\"|r?'''|import [\w.]+|from [\w.]+ import |def \w+\()"
)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_PICKLE_ENDINGS = (".pkl", ".pickle", ".p", ".pk")


def refuse_foreign(path: str, first: bytes, bring: str = BRING_CORPUS) -> None:
    """Refuses a file that is of another kind.

    Args:
      path: of the file.
      first: its first ``LOOKED_AT`` bytes.
      bring: what to bring instead.

    Raises:
      UserError: it is; says of which kind.
    """
    foreign = _name_foreign(path, first)
    if foreign is not None:
        raise UserError(f"{path}: {foreign.replace('{bring}', bring)}.")


def _name_foreign(path: str, first: bytes) -> str | None:
    """The end of a sentence that opens with the file's name, None where it is of no other kind."""
    if not first:
        return "is empty"
    if is_json(first):
        return "is JSON, which holds no splits to train on; {bring}"
    text = first.removeprefix(_BYTE_ORDER_MARK)
    for beginning, what in _BEGINNINGS.items():
        if first.startswith(beginning):
            return what
    if _WEB_PAGE.match(text):
        return "is a web page, not data; the download failed, so fetch the file itself"
    if _PYTHON.match(text) or path.endswith(".py"):
        return "is a Python program, not data; a file of settings goes to --config"
    return _name_archive(path) if first.startswith(b"PK") else None


def is_json(first: bytes) -> bool:
    """Whether a file that begins so holds JSON objects."""
    return first.removeprefix(_BYTE_ORDER_MARK).lstrip().startswith((b"{", b"[{"))


def _name_archive(path: str) -> str | None:
    """As ``_name_foreign``, of a zip: an ``.npz`` is one whose members are arrays."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # Damaged, which its reader says better.
        return None
    if not names or any(name.endswith(".npy") for name in names):
        return None
    if any(name.endswith("/data.pkl") for name in names):
        return "was written by torch.save; write arrays (tensor.numpy()) by numpy.savez"
    inside = _first(names, (*_PICKLE_ENDINGS, ".npz"))
    if inside is not None:
        return f"is a zip that holds {inside[:80]!r}; unzip it and name that file"
    if "[Content_Types].xml" in names:
        return "is an Office document; save its table as CSV"
    return f"is a zip of other files ({names[0][:80]!r}), not an .npz"


def _first(names: Sequence[str], endings: tuple[str, ...]) -> str | None:
    return next((name for name in names if name.lower().endswith(endings)), None)
