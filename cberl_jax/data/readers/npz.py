"""The canonical file: an ``.npz`` of plain arrays, never of pickled objects.

Section 2 of the design. The archive's members are read one by one, each only after its header
has said how large it is, so a file from a stranger costs bounded memory and runs nothing. What
the arrays mean is checked in ``validate.py``.
"""

import difflib
import json
import math
import os
import warnings
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np

from cberl_jax.config.views import FEATURE_NAME, MODALITY_NAME
from cberl_jax.data.corpus import UNLABELLED, Corpus, shown
from cberl_jax.data.holdout import with_dev
from cberl_jax.data.labels import cut_labels, name_bins
from cberl_jax.data.notices import say_absent
from cberl_jax.data.provenance import parse_provenance
from cberl_jax.data.readers.known import CORPORA
from cberl_jax.data.readers.labels import HOW_TO_CUT
from cberl_jax.data.readers.options import ReadingOptions
from cberl_jax.data.validate import validate
from cberl_jax.errors import UserError
from cberl_jax.runtime.files import replacing

# All arrays of a file together; MELD takes 30 MB.
MAX_BYTES = 4 * 2**30
# How far a file may expand: deflated zeros shrink a thousandfold, real features threefold. Arrays
# that are within the free bytes may be all zeros.
MAX_EXPANSION = 64
FREE_BYTES = 2**28
# What numpy writes. zipfile unpacks the other methods whole, whatever size they declare.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)

REQUIRED = ("classes", "dialogue", "split", "length", "speaker", "label")
# ``feature_dialogue`` [N] names the dialogue of each row of the features, and is only compared.
# ``provenance`` is one string, JSON: modality -> how its features were made.
OPTIONAL = ("utterance", "feature_dialogue", "provenance")
NEEDED_TO_PREDICT = ("dialogue", "length", "speaker")
FEATURES, PRESENT = "features.", "present."
# ``group.<name>`` [G]: strings or whole numbers, to make folds by.
GROUP = "group."

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


_ANYTHING = ReadingOptions()


def read_npz(
    path: str | os.PathLike, options: ReadingOptions = _ANYTHING, *, to_predict: bool = False
) -> Corpus:
    """Reads and validates a canonical file.

    Args:
      path: an ``.npz`` with ``classes`` [C], ``dialogue`` [G], ``split`` [G] and ``speaker``
        [N] of strings, ``length`` [G] and ``label`` [N] of integers, ``features.<modality>``
        or ``features.<modality>.<view>`` [N, d] of floats, and optionally ``utterance`` [N] of
        strings, ``present.<modality>`` or ``present.<modality>.<view>`` [N] of booleans and
        ``group.<name>`` [G] of strings or integers.
      options: edges for labels that are real numbers and the names of what they cut, the share of
        train to hold out where there is no dev split, and whether splits count at all; else classes
        have to be the file's own.
      to_predict: the file is only to be predicted: ``classes``, ``split`` and ``label`` may be
        missing, and every dialogue counts as test.

    Returns:
      The corpus, features as float32.

    Raises:
      UserError: naming the file and the key, for anything that is not such a file.
    """
    source = os.fspath(path)
    arrays = read_arrays(source, _is_known)
    needed = NEEDED_TO_PREDICT if to_predict else REQUIRED
    if options.without_splits and "split" not in arrays:
        arrays["split"] = np.full(np.size(arrays.get("dialogue", ())), "train")
    missing = [key for key in needed if key not in arrays]
    if missing:
        raise UserError(f"{source}: the key {missing[0]!r} is missing.")
    if to_predict:
        arrays = _without_labels(arrays) | arrays | {"split": _all_test(arrays)}
    # Whole numbers are class numbers already, as in a file that convert.py has cut.
    if options.bins and not (to_predict and arrays["label"].dtype.kind != "f"):
        arrays |= _cut(source, arrays["label"], options)
    if not to_predict:
        _check_options(source, arrays["classes"], options)
    label = _labels(source, arrays["label"])
    features, present = _modalities(source, arrays, len(label))
    text = {
        key: _vector(source, key, arrays[key], "U", "strings")
        for key in ("classes", "dialogue", "split", "speaker", *OPTIONAL[:2])
        if key in arrays
    }
    corpus = Corpus(
        classes=tuple(text["classes"].tolist()),
        dialogue=text["dialogue"],
        split=text["split"],
        length=_integers(source, "length", arrays["length"]),
        speaker=text["speaker"],
        label=label,
        features=features,
        present=present,
        utterance=text.get("utterance"),
        groups={
            key.removeprefix(GROUP): _group(source, key, array)
            for key, array in arrays.items()
            if key.startswith(GROUP)
        },
        source=source,
        remarks=say_absent(
            {name: there for name, there in present.items() if PRESENT + name not in arrays},
            features,
        ),
        provenance=_provenance(source, arrays.get("provenance")),
    )
    as_it_is = to_predict or options.without_splits
    shared = corpus if as_it_is else with_dev(corpus, options.dev_share)
    sound = validate(shared, to_predict=to_predict, without_splits=options.without_splits)
    if "feature_dialogue" in text:
        _check_alignment(sound, text["feature_dialogue"])
    return sound


def _provenance(source: str, array: np.ndarray | None) -> dict[str, dict[str, Any]]:
    if array is None:
        return {}
    if array.shape != () or array.dtype.kind != "U":
        raise UserError(f"{source}: 'provenance' must be one string of JSON.")
    return parse_provenance(array.item(), source)


def _cut(source: str, values: np.ndarray, options: ReadingOptions) -> dict[str, np.ndarray]:
    """Labels and classes out of real numbers."""
    if values.ndim != 1 or values.dtype.kind != "f":
        raise UserError(
            f"{source}: --bins cuts labels that are one real number per utterance, not "
            f"{values.dtype} of shape {values.shape}; whole numbers are class numbers already."
        )
    label = cut_labels(values, options.bins)
    wrong = np.flatnonzero((label == UNLABELLED) & ~np.isnan(values))
    if wrong.size:
        low, high = options.bins[0], options.bins[-1]
        raise UserError(
            f"{source}: label {values[wrong[0]]} of utterance {wrong[0]} lies outside of --bins, "
            f"which go from {low:g} to {high:g}."
        )
    return {"label": label, "classes": np.array(options.classes or name_bins(options.bins))}


def _check_options(source: str, classes: np.ndarray, options: ReadingOptions) -> None:
    """Refuses what would contradict a file that names its classes and splits itself."""
    held = tuple(map(str, classes.ravel()))
    if options.splits:
        raise UserError(f"{source}: names its splits itself; take --splits away.")
    named = tuple(name for name in options.classes if name in held)
    if options.classes and held and held != named:
        those = "in another order than" if set(held) == set(named) else "which are not those of"
        raise UserError(
            f"{source}: names its classes itself, {', '.join(held)[:80]}, {those} --classes; take "
            "--classes away."
        )
    if options.corpus and held and not set(held) <= set(CORPORA[options.corpus]):
        raise UserError(
            f"{source}: names its classes itself, {', '.join(held)[:80]}, which are not those of "
            f"{options.corpus}; take --corpus away."
        )


def _labels(source: str, array: np.ndarray) -> np.ndarray:
    """[N] int32; names the way out for real numbers."""
    if array.ndim == 1 and array.dtype.kind == "f":
        raise UserError(
            f"{source}: 'label' must hold one integer per entry, not {array.dtype} of shape "
            f"{array.shape}; where labels are real numbers, {HOW_TO_CUT}."
        )
    return _integers(source, "label", array)


def _check_alignment(corpus: Corpus, names: np.ndarray) -> None:
    """Compares the dialogue of each row of the features with the one that it counts as."""
    if len(names) != len(corpus.label):
        raise corpus.error(
            f"feature_dialogue has {len(names)} rows, but the dialogues' lengths sum to "
            f"{len(corpus.label)}."
        )
    differs = np.flatnonzero(names != corpus.dialogue[corpus.dialogue_of])
    if differs.size:
        row = int(differs[0])
        raise corpus.error(
            f"row {row} of the features is of dialogue {shown(names[row])} and counts as "
            f"{corpus.place(row)}; bring the features into the order of the dialogues."
        )


def _without_labels(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a file may lack that is only to be predicted."""
    label = np.full(arrays["speaker"].size, UNLABELLED, np.int32)
    return {"classes": np.zeros(0, "U1"), "label": label}


def _all_test(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.full(arrays["dialogue"].size, "test")


def write_npz(corpus: Corpus, path: str | os.PathLike) -> None:
    """Writes a corpus as a canonical file, whole or not at all.

    Args:
      corpus: what to write.
      path: where to; a file that is there already is replaced once the new one is complete.

    Raises:
      UserError: if the file cannot be written.
    """
    arrays = {
        "classes": np.array(corpus.classes, np.str_),
        "dialogue": corpus.dialogue,
        "split": corpus.split,
        "length": corpus.length,
        "speaker": corpus.speaker,
        "label": corpus.label,
    }
    if corpus.utterance is not None:
        arrays["utterance"] = corpus.utterance
    arrays |= {GROUP + name: values for name, values in corpus.groups.items()}
    if corpus.provenance:
        held = {
            name: corpus.provenance[name] for name in corpus.features if name in corpus.provenance
        }
        arrays["provenance"] = np.array(json.dumps(held))
    arrays |= {FEATURES + name: array for name, array in corpus.features.items()}
    for name, flags in corpus.present.items():
        if not flags.all():
            arrays[PRESENT + name] = flags
    with replacing(path) as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_arrays(source: str, is_known: Callable[[str], bool]) -> dict[str, np.ndarray]:
    """Reads an ``.npz`` from a stranger, without trust in what it says of itself.

    Args:
      source: path of the file.
      is_known: whether an array may have a name.

    Returns:
      The arrays by name, of booleans, numbers or strings.

    Raises:
      UserError: naming the file and the array.
    """
    try:
        archive = zipfile.ZipFile(source)
    except OSError as error:
        raise UserError(f"{source}: cannot be read ({error.strerror or error}).") from error
    except Exception as error:
        raise UserError(f"{source}: is not an .npz file, or is damaged ({_why(error)}).") from error
    with archive:
        members = _name_members(source, archive, is_known)
        total = sum(member.file_size for member in members.values())
        limit = min(MAX_BYTES, FREE_BYTES + MAX_EXPANSION * os.path.getsize(source))
        if total > limit:
            raise UserError(
                f"{source}: declares {total} bytes of arrays; of a file of its size at most "
                f"{limit} are read (numpy.savez writes it uncompressed)."
            )
        return {key: _read_array(source, archive, key, members[key]) for key in members}


def _name_members(
    source: str, archive: zipfile.ZipFile, is_known: Callable[[str], bool]
) -> dict[str, zipfile.ZipInfo]:
    """The parts of an archive by the names of their arrays."""
    members: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        key = member.filename.removesuffix(".npy")
        if not is_known(key) or not member.filename.endswith(".npy"):
            near = difflib.get_close_matches(key[:80], REQUIRED + OPTIONAL, 1, 0.75)
            if near == [member.filename]:
                near = [f"{key}.npy"]
            hint = f"; the nearest known is {near[0]!r}" if near else ""
            raise UserError(f"{source}: unknown key {member.filename[:80]!r}{hint}.")
        if key in members:
            raise UserError(f"{source}: the key {key!r} is there twice.")
        members[key] = member
    return members


def _is_known(key: str) -> bool:
    kind, dot, modality = key.partition(".")
    if kind + dot in (FEATURES, PRESENT):
        return FEATURE_NAME.fullmatch(modality) is not None
    if kind + dot == GROUP:
        return MODALITY_NAME.fullmatch(modality) is not None
    return key in REQUIRED + OPTIONAL


def _read_array(
    source: str, archive: zipfile.ZipFile, key: str, member: zipfile.ZipInfo
) -> np.ndarray:
    if member.compress_type not in _METHODS:
        raise UserError(f"{source}: {key!r} is compressed by a method that numpy does not write.")
    try:
        with archive.open(member) as file:
            shape, fortran, dtype = _read_header(file)
            size = math.prod(shape) * dtype.itemsize
            if dtype.kind not in "biufU":
                way_out = "; make it text or numbers by astype" if dtype.kind in "OS" else ""
                raise UserError(
                    f"{source}: {key!r} holds {dtype} values, which are not read{way_out}."
                )
            if not dtype.itemsize:
                raise ValueError("its strings have no width")
            if size != member.file_size - file.tell():
                raise ValueError(f"its header declares {size} bytes, it holds another number")
            data = file.read(size)
            array = np.ndarray(shape, dtype, data, order="F" if fortran else "C")
            # Decoding proves that every code point exists; numpy itself would look only later.
            is_text = dtype.kind == "U" and array.ndim == 1
            return np.array(array.tolist(), np.str_) if is_text else array
    except UserError:
        raise
    # A damaged archive can raise nearly anything: zlib, struct, tokenizer and memory errors.
    except Exception as error:
        raise UserError(f"{source}: {key!r} is damaged ({_why(error)}).") from error


def _why(error: Exception) -> str:
    """The beginning of an error's text; numpy's repeat headers of any length."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"array format {version} is not read")
    with warnings.catch_warnings():
        # That it was written by Python 2 changes nothing.
        warnings.simplefilter("ignore", UserWarning)
        shape, fortran, dtype = _HEADERS[version](file)
    if any(size < 0 for size in shape):
        raise ValueError(f"its shape is {shape}")
    return shape, fortran, dtype


def _modalities(
    source: str, arrays: Mapping[str, np.ndarray], count: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Features and presence of each modality; without flags a row of nan is an absent one."""
    features, present = {}, {}
    for key, array in arrays.items():
        if key.startswith(FEATURES):
            features[key.removeprefix(FEATURES)] = _table(source, key, array)
    for name in features:
        flags = arrays.get(PRESENT + name)
        if flags is None:
            # A wrong number of rows is named later; here it could take all memory.
            fits = len(features[name]) == count
            flags = ~np.isnan(features[name]).all(axis=1) if fits else np.ones(count, bool)
        present[name] = _vector(source, PRESENT + name, flags, "b", "booleans")
    for key in arrays:
        if key.startswith(PRESENT) and key.removeprefix(PRESENT) not in features:
            raise UserError(f"{source}: {key!r} has no features.{key.removeprefix(PRESENT)}.")
    return features, present


def _vector(source: str, key: str, array: np.ndarray, kind: str, what: str) -> np.ndarray:
    if array.ndim != 1 or array.dtype.kind != kind:
        found = f"{array.dtype} of shape {array.shape}"
        raise UserError(f"{source}: {key!r} must be a list of {what}, not {found}.")
    return array


def _group(source: str, key: str, array: np.ndarray) -> np.ndarray:
    """[G] str of strings or whole numbers."""
    if array.dtype.kind in "iu":
        array = array.astype(np.str_)
    return _vector(source, key, array, "U", "strings or whole numbers")


def _integers(source: str, key: str, array: np.ndarray) -> np.ndarray:
    if array.ndim != 1 or array.dtype.kind not in "iu":
        hint = " (one-hot?)" if array.ndim == 2 else ""
        raise UserError(
            f"{source}: {key!r} must hold one integer per entry, not {array.dtype} of shape "
            f"{array.shape}{hint}."
        )
    limits = np.iinfo(np.int32)
    wrong = array[(array < limits.min) | (array > limits.max)]
    if wrong.size:
        raise UserError(f"{source}: {key!r} holds {wrong[0]}, which is over 32 bits.")
    return array.astype(np.int32)


def _table(source: str, key: str, array: np.ndarray) -> np.ndarray:
    if array.ndim == 3 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 2 or array.dtype.kind != "f" or array.dtype.itemsize > 8:
        hint = "; the mean over axis 1 makes one vector of an utterance" if array.ndim == 3 else ""
        raise UserError(
            f"{source}: {key!r} must be a table of float16, float32 or float64, [N, width], "
            f"not {array.dtype} of shape {array.shape}{hint}."
        )
    return array
