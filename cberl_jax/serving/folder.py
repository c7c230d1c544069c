"""A model as a folder to hand on: weights, settings, card, and the checksums of all of them.

- ``model.safetensors``: the joint model's parameters and the train statistics, float32;
- ``cberl.json``: classes, widths, seeds and settings;
- ``README.md``: the model card, under the name that model hubs show;
- ``provenance.json``: how the run was made;
- ``encoders/``: the encoders of the features, where the run's folder keeps them;
- ``SHA256SUMS``: as ``sha256sum`` writes and checks them.

What only training needs is left out: the GAN, the decoder of masked nodes, the optimiser's state,
the parameters of other epochs. Nothing in the folder is a program, and no path of the author's disk
is in it. The card is for people to edit (its licence is theirs to fill in), so that reading does
not ask for its checksum.
"""

import hashlib
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from cberl_jax.config.settings import flatten, without_folders
from cberl_jax.data.standardize import Standardiser, empty_standardiser, stack_standardisers
from cberl_jax.errors import UserError
from cberl_jax.runtime.files import creating_folder, expand
from cberl_jax.runtime.workdir import ENCODERS, Workdir, minor_version
from cberl_jax.serving.restore import (
    Inference,
    are_counts,
    are_seeds,
    are_texts,
    are_widths,
    check_stored,
    predicting_program,
    restore_inference,
)
from cberl_jax.version import __version__

FORMAT = 1
WEIGHTS, SETTINGS_FILE, SUMS = "model.safetensors", "cberl.json", "SHA256SUMS"
CARD, PROVENANCE = "README.md", "provenance.json"
AGAIN = "get the folder again from where it came from"

# What ``cberl.json`` holds besides the settings -> whether it is of the right form.
_IDENTITY = {
    "classes": are_texts,
    "widths": are_widths,
    "seeds": lambda x: are_seeds(x) and 0 < len(x) and max(map(abs, x)) < 2**31,
    "diverged": are_seeds,
    # Without folds there are none, and members are of no fold.
    "folds": lambda x: are_counts([x]),
    "fold": are_counts,
}
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def is_exported(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is one that ``write_folder`` wrote, sound or not."""
    path = pathlib.Path(expand(folder))
    return (path / SETTINGS_FILE).exists() or (path / SUMS).exists()


def read_inference(workdir: str | os.PathLike[str]) -> Inference:
    """Reads a model, from a run's folder or from an exported one.

    Raises:
      UserError: as of ``restore_inference`` and ``read_folder``.
    """
    return read_folder(workdir) if is_exported(workdir) else restore_inference(workdir)


def read_card(workdir: str | os.PathLike[str]) -> str | None:
    """The model card of a run or of an exported folder; None where it was deleted.

    Raises:
      UserError: it cannot be read.
    """
    return _read_text(_card_file(workdir))


def _card_file(workdir: str | os.PathLike[str]) -> pathlib.Path:
    if is_exported(workdir):
        return pathlib.Path(expand(workdir)) / CARD
    return Workdir(workdir, create=False).model_card


def _read_text(file: pathlib.Path) -> str | None:
    if not file.exists():
        return None
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from error


def _read_provenance(workdir: str | os.PathLike[str]) -> str | None:
    if is_exported(workdir):
        return _read_text(pathlib.Path(expand(workdir)) / PROVENANCE)
    found = Workdir(workdir, create=False).read_report().get("provenance")
    return None if found is None else _as_json(found)


def _as_json(content: Any) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _weights(variables: Any, standardiser: Standardiser) -> Any:
    """All that has numbers, as one tree."""
    return {"variables": variables, "standardiser": standardiser}


def _name(path: Any) -> str:
    """A tensor's name in the file, ``variables/params/...``."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def write_folder(workdir: str | os.PathLike[str], output: str | os.PathLike[str]) -> dict[str, Any]:
    """Writes a finished run as a folder to hand on, whole or not at all.

    Args:
      workdir: folder of the run, or an exported one.
      output: the folder to make.

    Returns:
      The contents of ``cberl.json``, and under ``encoders`` whose encoders the folder has.

    Raises:
      UserError: there is no finished run, or the place to write to is at fault.
    """
    target = pathlib.Path(expand(output, "the output"))
    if target.exists() or target.is_symlink():
        raise UserError(f"{output}: is there already; name a new folder")
    if not target.parent.is_dir():
        raise UserError(f"{output}: there is no folder {target.parent}")
    found = read_inference(workdir)
    meaning = _describe(found)
    texts = {
        SETTINGS_FILE: _as_json(meaning),
        CARD: read_card(workdir),
        PROVENANCE: _read_provenance(workdir),
    }
    files = {WEIGHTS: pack_weights(found)}
    files |= {name: text.encode() for name, text in texts.items() if text is not None}
    source = pathlib.Path(expand(workdir))
    # Not what a process that was killed left half written.
    kept = sorted(path for path in (source / ENCODERS).glob("[!.]*/**/*") if path.is_file())
    sums = []
    with creating_folder(target) as write:

        def add(name: str, content: bytes) -> None:
            sums.append(f"{hashlib.sha256(content).hexdigest()}  {name}\n")
            write(name, content)

        for name, content in files.items():
            add(name, content)
        # One at a time: they are large.
        for path in kept:
            add(path.relative_to(source).as_posix(), path.read_bytes())
        write(SUMS, "".join(sums).encode())
    held = sorted({path.relative_to(source).parts[1] for path in kept})
    return meaning | ({ENCODERS: held} if held else {})


def pack_weights(found: Inference) -> bytes:
    """The contents of ``model.safetensors``."""
    leaves = jax.tree_util.tree_leaves_with_path(_weights(found.variables, found.standardiser))
    tensors = {_name(path): np.ascontiguousarray(leaf) for path, leaf in leaves}
    return safetensors.numpy.save(tensors, {"format": "np"})


def _describe(found: Inference) -> dict[str, Any]:
    """The contents of ``cberl.json``."""
    folds = 0 if found.fold is None else len(jax.tree.leaves(found.standardiser)[0])
    return {
        "format": FORMAT,
        "version": __version__,
        "classes": list(found.classes),
        "widths": found.standardiser.widths,
        "seeds": found.seeds.tolist(),
        "diverged": found.diverged.tolist(),
        "folds": folds,
        "fold": [] if found.fold is None else found.fold.tolist(),
        "features": dict(found.features),
        "settings": without_folders(flatten(found.config)),
    }


def read_folder(folder: str | os.PathLike[str]) -> Inference:
    """Reads an exported model.

    Args:
      folder: as ``write_folder`` writes it; of other files beside those nothing is read.

    Raises:
      UserError: a file is missing, has changed since it was written, is of another version or of
        another model.
    """
    path = pathlib.Path(expand(folder))
    sums = _read_sums(path / SUMS)
    stored = _parse_settings(path / SETTINGS_FILE, _read_checked(path / SETTINGS_FILE, sums))
    config = check_stored(stored, path / SETTINGS_FILE, _IDENTITY)
    widths, seeds = stored["widths"], np.asarray(stored["seeds"], np.int32)
    fold = np.asarray(stored["fold"], np.int32)
    if len(fold) != (len(seeds) if stored["folds"] else 0) or np.any(fold >= stored["folds"]):
        raise UserError(f"{path / SETTINGS_FILE}: is damaged (fold is of no use); {AGAIN}")
    program, of_one = predicting_program(config, widths, stored["classes"])
    variables = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((len(seeds), *leaf.shape), leaf.dtype), of_one
    )
    statistics = empty_standardiser(widths, config.data.components)
    if stored["folds"]:
        statistics = stack_standardisers([statistics] * stored["folds"])
    like = _weights(variables, statistics)
    weights = _parse_weights(path / WEIGHTS, _read_checked(path / WEIGHTS, sums), like)
    return Inference(
        config,
        tuple(stored["classes"]),
        program,
        weights["variables"],
        # A tree is read in the order of its names, and modalities have an order of their own.
        Standardiser(*({m: x[m] for m in widths if m in x} for x in weights["standardiser"])),
        seeds,
        np.asarray(stored["diverged"], np.int32),
        fold if stored["folds"] else None,
        stored.get("features", {}),
    )


def _read_sums(file: pathlib.Path) -> dict[str, str]:
    """Name of a file -> its sha256."""
    text = _read_text(file)
    if text is None:
        raise UserError(f"{file}: is missing; {AGAIN}")
    lines = [_LINE.fullmatch(line) for line in text.splitlines()]
    if not all(lines):
        raise UserError(f"{file}: is damaged (a line is no checksum); {AGAIN}")
    return {line[2]: line[1] for line in lines if line}


def _read_checked(file: pathlib.Path, sums: Mapping[str, str]) -> bytes:
    """The contents of a file that have its checksum."""
    if file.name not in sums:
        raise UserError(f"{file.parent / SUMS}: has no checksum of {file.name}; {AGAIN}")
    try:
        content = file.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{file}: is missing; {AGAIN}") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    if hashlib.sha256(content).hexdigest() != sums[file.name]:
        raise UserError(
            f"{file}: is damaged (its contents are not those that {SUMS} has the checksum of); "
            f"{AGAIN}"
        )
    return content


def _parse_settings(file: pathlib.Path, content: bytes) -> dict[str, Any]:
    """What ``cberl.json`` holds, all on one level."""
    try:
        stored = json.loads(content)
        if not isinstance(stored, dict) or not isinstance(stored.get("settings"), dict):
            raise ValueError("it holds no settings")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: is damaged ({error}); {AGAIN}") from error
    if stored.get("format") != FORMAT:
        raise UserError(
            f"{file}: has format {stored.get('format')!r}; this version reads format {FORMAT}"
        )
    written = str(stored.get("version"))
    if minor_version(written) != minor_version(__version__):
        raise UserError(
            f"{file}: was written by cberl-jax {written}, and this is {__version__}: install that "
            "version, or ask for an export by this one"
        )
    return {**stored["settings"], **stored}


def _parse_weights(file: pathlib.Path, content: bytes, like: Any) -> Any:
    """The tensors of a file as a tree of the shapes that are expected."""
    try:
        tensors = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: is no safetensors file ({error}); {AGAIN}") from error
    expected = {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(like)}
    odd = sorted(expected.keys() ^ tensors.keys())
    if odd:
        which = "lacks" if odd[0] in expected else "also has"
        raise UserError(
            f"{file}: is of another model than {SETTINGS_FILE} (it {which} {odd[0]}); {AGAIN}"
        )
    for name, leaf in expected.items():
        own = tensors[name]
        if (own.shape, own.dtype) != (leaf.shape, leaf.dtype):
            raise UserError(
                f"{file}: is of another model than {SETTINGS_FILE} ({name} is {own.dtype} of shape "
                f"{list(own.shape)} in place of {leaf.dtype} of {list(leaf.shape)}); {AGAIN}"
            )
    return jax.tree_util.tree_map_with_path(lambda path, _: tensors[_name(path)], like)
