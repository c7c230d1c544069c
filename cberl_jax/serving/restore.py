"""Trained members applied to a corpus: predictions, and a finished run scored again."""

import hashlib
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cberl_jax.config.settings import (
    FREE_SETTINGS,
    SETTINGS,
    check_config,
    check_types,
    default_config,
)
from cberl_jax.data.corpus import Corpus, fingerprint
from cberl_jax.data.folds import OF_FOLDS, describe_folds
from cberl_jax.data.provenance import check_provenance
from cberl_jax.data.standardize import Standardiser, empty_standardiser, stack_standardisers
from cberl_jax.errors import UserError
from cberl_jax.models.mgnn import BLOCKS
from cberl_jax.runtime.checkpoints import find_damage, list_steps, open_checkpoints
from cberl_jax.runtime.files import expand
from cberl_jax.runtime.workdir import Workdir
from cberl_jax.training.epoch import MemberState, Program
from cberl_jax.training.fleet import Fleet, members_like
from cberl_jax.training.outcome import member_states
from cberl_jax.training.prepare import (
    Members,
    Splits,
    create_program,
    list_members,
    load_data,
    split_corpus,
)
from cberl_jax.training.transfer import Start, list_held_out


class Trained(NamedTuple):
    """A finished run's members, without any corpus.

    Attributes:
      members: the S members.
      fleet: the program and devices that they run on.
      state: their states, on the host.
      standardiser: the train statistics that belong to the state.
    """

    members: Members
    fleet: Fleet
    state: MemberState
    standardiser: Standardiser


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def are_texts(value: Any) -> bool:
    """Whether something read from JSON is a list of texts."""
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def are_widths(value: Any) -> bool:
    """Whether it is modality or view -> width."""
    return isinstance(value, dict) and all(map(_is_count, value.values()))


def are_seeds(value: Any) -> bool:
    """Whether it is a list of whole numbers."""
    return isinstance(value, list) and all(type(seed) is int for seed in value)


def are_counts(value: Any) -> bool:
    """Whether it is a list of whole numbers that are not negative."""
    return isinstance(value, list) and all(map(_is_count, value))


# What else ``config.json`` holds -> whether it is of the right form.
_IDENTITY: dict[str, Callable[[Any], bool]] = {
    "classes": are_texts,
    "widths": are_widths,
    "seeds": are_seeds,
    "generated": are_counts,
}


def read_settings(workdir: str | os.PathLike[str]) -> tuple[Workdir, ConfigDict, dict[str, Any]]:
    """Reads what a finished run was trained with.

    Args:
      workdir: the run's folder.

    Returns:
      The folder, the settings, and all of ``config.json``: also ``classes``, ``widths``, ``seeds``
      and ``generated``.

    Raises:
      UserError: there is no finished run, or it is of another version.
    """
    folder = Workdir(workdir, create=False)
    stored = folder.read_config()
    if not folder.report_file.exists():
        raise UserError(f"{folder.path}: this run is not finished (there is no report.json)")
    return folder, check_stored(stored, folder.config_file), stored


def check_stored(
    stored: Mapping[str, Any],
    file: pathlib.Path,
    identity: Mapping[str, Callable[[Any], bool]] = _IDENTITY,
) -> ConfigDict:
    """The settings in the contents of a ``config.json``, which are checked.

    Args:
      stored: the contents.
      file: where they are from, for messages.
      identity: what else they hold -> whether it is of the right form.

    Raises:
      UserError: something is missing, of another version or of no use.
    """
    config = default_config()
    lacking = sorted(SETTINGS.keys() - stored.keys() - set(FREE_SETTINGS))
    if lacking:
        raise UserError(f"{file}: lacks {', '.join(lacking)}; it is of another version")
    try:
        settings = {name: stored[name] for name in SETTINGS if name in stored}
        check_types(settings)
        # A float setting may be given as an int.
        with config.ignore_type():
            config.update_from_flattened_dict(settings)
        check_config(config)
    except UserError as error:
        raise UserError(f"{file}: is damaged ({error})") from error
    for name, is_sound in identity.items():
        if not is_sound(stored.get(name)):
            raise UserError(f"{file}: is damaged ({name} is missing or of no use)")
    return config


def restore_members(folder: Workdir, config: ConfigDict, stored: Mapping[str, Any]) -> Trained:
    """Reads the members of a finished run from its newest checkpoint.

    Args:
      folder: of the run.
      config: its settings.
      stored: its ``config.json``.

    Raises:
      UserError: there is no checkpoint, or the newest is damaged.
    """
    program = create_program(config, stored["widths"], stored["generated"])
    folds = len(stored.get("folds", ()))
    members = list_members(config, stored["seeds"], folds=folds or 1)
    fleet = Fleet(program, len(members.seeds))
    like = members_like(program, members.seeds, members.hyper)
    statistics = empty_standardiser(stored["widths"], config.data.components)
    if folds:
        statistics = stack_standardisers([statistics] * folds)
    steps = list_steps(folder.checkpoints)
    if not steps:
        raise UserError(f"{folder.checkpoints}: holds no checkpoint")
    damage = find_damage(folder.checkpoints, steps[0])
    if damage:
        raise UserError(
            f"{folder.checkpoints / str(steps[0])}: is damaged ({damage}); delete "
            f"{folder.report_file.name}, and start the training again with the same command"
        )
    with open_checkpoints(folder.checkpoints) as checkpoints:
        state, standardiser = checkpoints.restore(like, statistics)
    return Trained(members, fleet, state, standardiser)


class Inference(NamedTuple):
    """What of a finished run predicts: its sound members, and how their input is read.

    Attributes:
      config: the settings.
      classes: names of the C classes.
      program: the static settings of the members, without the parts that only training needs.
      variables: of that joint model, leaves [S, ...], on the host.
      standardiser: the train statistics; leaves [F, ...] with folds.
      seeds: [S] int.
      diverged: seeds of the members that are left out.
      fold: [S] int, the fold that each member was trained for; None without folds.
      features: name of features -> how they were made that the members learned from.
    """

    config: ConfigDict
    classes: tuple[str, ...]
    program: Program
    variables: Any
    standardiser: Standardiser
    seeds: np.ndarray
    diverged: np.ndarray
    fold: np.ndarray | None
    features: Mapping[str, Mapping[str, Any]] = {}


def predicting_program(
    config: ConfigDict, widths: Mapping[str, int], classes: Sequence[str]
) -> tuple[Program, Any]:
    """The program of members that only predict: nothing is masked, rebuilt or generated.

    Args:
      config: the settings that they were trained with.
      widths: modality or view -> d.
      classes: names of the C classes.

    Returns:
      The program, and the shapes of one member's variables.
    """
    config = config.copy_and_resolve_references()
    config.model.reconstruction = False
    # One form, whatever the members were trained with: exports do not depend on the device.
    config.model.attention = BLOCKS
    config.model.unroll = 1
    program = create_program(config, widths, [0] * len(classes))
    members = list_members(config, [0])
    variables = members_like(program, members.seeds, members.hyper).joint.variables
    return program, jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), variables
    )


def restore_inference(workdir: str | os.PathLike[str]) -> Inference:
    """Reads what of a finished run predicts.

    Args:
      workdir: the run's folder.

    Raises:
      UserError: there is no finished run, it is of another version, or all members diverged.
    """
    folder, config, stored = read_settings(workdir)
    trained = restore_members(folder, config, stored)
    joint, members = trained.state.joint, trained.members
    sound = np.asarray([m["status"] == "ok" for m in member_states(trained.state)])
    if not sound.any():
        raise UserError(
            f"{folder.path}: all {len(sound)} members of this run diverged; none can predict"
        )
    program, like = predicting_program(config, stored["widths"], stored["classes"])
    trained_ones = {**joint.variables, "params": joint.best}
    variables = {
        collection: {name: trained_ones[collection][name] for name in parts}
        for collection, parts in like.items()
    }
    return Inference(
        config,
        tuple(stored["classes"]),
        program,
        jax.tree.map(lambda leaf: leaf[sound], variables),
        trained.standardiser,
        members.seeds[sound],
        members.seeds[~sound],
        members.hyper["fold"][sound] if members.folds > 1 else None,
        stored.get("provenance", {}),
    )


def read_start(workdir: str | os.PathLike[str]) -> Start:
    """Reads what the members of another run can start from.

    Args:
      workdir: folder of a finished run.

    Raises:
      UserError: there is none, all its members have diverged, or it has folds.
    """
    folder, config, stored = read_settings(expand(workdir, "the run to start from"))
    trained = restore_members(folder, config, stored)
    if trained.members.folds > 1:
        raise UserError(
            f"{folder.path}: is a run of folds, whose models differ in how features are "
            "standardised; start from one that was trained without folds"
        )
    sound = np.asarray([own["status"] == "ok" for own in member_states(trained.state)])
    if not sound.any():
        raise UserError(f"{folder.path}: all members have diverged; none can be started from")
    joint, digest = trained.state.joint, hashlib.sha256()
    variables = jax.tree.map(lambda leaf: leaf[sound], {**joint.variables, "params": joint.best})
    for leaf in jax.tree.leaves((variables, trained.standardiser)):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return Start(
        folder.path.name,
        digest.hexdigest(),
        variables,
        tuple(stored["classes"]),
        trained.standardiser,
        stored.get("provenance", {}),
        list_held_out(folder.read_predictions()),
    )


class Restored(NamedTuple):
    """A finished run as it lies in its folder.

    Attributes:
      config: its settings.
      corpus: the corpus that it is to be applied to.
      splits: of that corpus.
      generated: [C] generated utterances per class in its training.
      members: its members.
      fleet: the program and devices that they run on.
      state: their states, on the host.
      standardiser: the train statistics that belong to the state.
    """

    config: ConfigDict
    corpus: Corpus
    splits: Splits
    generated: np.ndarray
    members: Members
    fleet: Fleet
    state: MemberState
    standardiser: Standardiser


def _is_copy(path: str, folder: Workdir) -> bool:
    """Whether the corpus of a run is the copy that ``cberl_jax.train`` keeps in its folder."""
    return pathlib.PurePath(path).name == folder.corpus_file.name


def restore_run(workdir: str, data: str | None = None) -> Restored:
    """Reads a finished run from its newest checkpoint.

    Args:
      workdir: the run's folder.
      data: the corpus; by default the one the run was trained on.

    Raises:
      UserError: there is no finished run, or it is of another version, or the corpus has other
        classes or feature widths, or features that were made otherwise; or none is named, and what
        lies where the run's own was has other contents.
    """
    folder, config, stored = read_settings(workdir)
    if data is not None:
        config.data.path = data
    # A start that failed may have left the copy of another corpus.
    elif folder.corpus_file.exists() and _is_copy(config.data.path, folder):
        # The run may have been copied from where it was trained.
        config.data.path = str(folder.corpus_file)
    corpus = load_data(config)
    if list(corpus.classes) != stored["classes"] or corpus.widths != stored["widths"]:
        raise UserError(
            f"{corpus.source}: classes {list(corpus.classes)} and widths {corpus.widths} are not "
            f"those of the run ({stored['classes']}, {stored['widths']})"
        )
    if data is None and fingerprint(corpus) != stored["corpus"]:
        raise corpus.error(
            "has changed since the run was trained on it, or is another corpus; to apply the run "
            "to it all the same, name it by --data"
        )
    check_provenance(corpus, stored.get("provenance", {}))
    trained = restore_members(folder, config, stored)
    splits = split_corpus(config, corpus)
    if describe_folds(splits.folds) != {n: stored[n] for n in OF_FOLDS if n in stored}:
        raise UserError(
            f"{corpus.source}: its folds are not those of the run, so that models would be tested "
            "on what they have learnt from; apply the run to other conversations by predict"
        )
    return Restored(config, corpus, splits, np.asarray(stored["generated"]), *trained)
