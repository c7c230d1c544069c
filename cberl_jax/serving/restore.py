"""Trained members applied to a corpus: predictions, and a finished run scored again."""

import importlib.metadata
import os
import platform
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cberl_jax.config.settings import (
    FREE_SETTINGS,
    SETTINGS,
    check_config,
    check_types,
    default_config,
)
from cberl_jax.data.corpus import Corpus
from cberl_jax.data.dataset import create_table
from cberl_jax.data.packing import Standardiser, empty_standardiser, pack_dialogues
from cberl_jax.errors import UserError
from cberl_jax.reports.run import create_report, score_members
from cberl_jax.runtime.checkpoints import find_damage, list_steps, open_checkpoints
from cberl_jax.runtime.workdir import Workdir
from cberl_jax.training import gan_step as gan_steps
from cberl_jax.training import joint_step as joint_steps
from cberl_jax.training.epoch import NEVER, MemberState, predict
from cberl_jax.training.fleet import Fleet, members_like
from cberl_jax.training.prepare import (
    Members,
    check_labelled,
    create_program,
    list_members,
    load_data,
)
from cberl_jax.version import __version__

PACKAGES = ("jax", "jaxlib", "flax", "optax", "jraph", "orbax-checkpoint", "numpy")


def member_states(state: MemberState) -> list[dict[str, Any]]:
    """Status and kept epoch (from 1) of each member.

    One that has diverged also has ``diverged``, from ``find_divergence``; where test was looked at,
    members have ``best_on_test``.
    """
    joint = state.joint
    members = []
    for number, kept in enumerate(joint.best_epoch):
        diverged = find_divergence(state, number)
        member = {"status": "diverged" if diverged else "ok", "epoch": int(kept) + 1}
        if diverged:
            member["diverged"] = diverged
        if joint.on_test:
            best = {name: float(values[number]) for name, values in joint.on_test.items()}
            member["best_on_test"] = None if diverged else best
        members.append(member)
    return members


def find_divergence(state: MemberState, number: int) -> dict[str, Any] | None:
    """Where a member's training broke.

    Args:
      state: of all members, on the host.
      number: the member's.

    Returns:
      ``stage``, ``epoch`` (from 1) and ``term``, the first loss term that was not finite, or
      ``parameters``; None for a sound member.
    """
    # A member whose GAN has diverged has diverged in the joint stage, too, of which it is no fault.
    for stage, terms in (("gan", gan_steps.TERMS), ("joint", joint_steps.TERMS)):
        own = getattr(state, stage)
        if own is not None and own.diverged[number] != NEVER:
            term = (*terms, "parameters")[own.broken[number]]
            return {"stage": stage, "epoch": int(own.diverged[number]) + 1, "term": term}
    return None


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of those that numbers depend on."""
    own = {"python": platform.python_version(), "cberl-jax": __version__}
    return own | {name: importlib.metadata.version(name) for name in PACKAGES}


def predict_splits(
    fleet: Fleet, state: MemberState, corpus: Corpus, standardiser: Standardiser
) -> dict[str, np.ndarray]:
    """Probabilities of every member for dev and test, in one program.

    Args:
      fleet: the members' program and devices.
      state: the members' states on the host; the kept parameters are used.
      corpus: the corpus.
      standardiser: the train statistics that belong to the state.

    Returns:
      Per split ``<split>.probability`` [S, n, C], ``<split>.label`` [n] int,
      ``<split>.dialogue`` [n] str and ``<split>.utterance`` [n] int, the turn from 0; and
      ``classes`` [C] str.
    """
    program, members = fleet.program, len(state.seed)
    rows = pack_dialogues(corpus, corpus.split != "train", program.rows)

    def of_member(variables, shared, _):
        return predict(program, variables, *shared, fleet.place)

    variables = fleet.spread({**state.joint.variables, "params": state.joint.best})
    shared = fleet.share((create_table(corpus, standardiser), rows))
    nothing = fleet.spread(np.zeros(members, np.float32))
    function = fleet.compile("predict", of_member, variables, shared, nothing, keep=True)
    packed = fleet.collect(function(variables, shared, nothing), members)
    probability = np.zeros((members, len(corpus.label), len(corpus.classes)), np.float32)
    used = rows.segment > 0
    probability[:, rows.index[used]] = packed[:, used]

    arrays = {"classes": np.asarray(corpus.classes)}
    for split in ("dev", "test"):
        here = corpus.in_split(split)
        arrays[f"{split}.probability"] = probability[:, here]
        arrays[f"{split}.label"] = corpus.label[here]
        arrays[f"{split}.dialogue"] = corpus.dialogue[corpus.dialogue_of[here]]
        arrays[f"{split}.utterance"] = corpus.turn[here]
    return arrays


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


# What else ``config.json`` holds -> whether it is of the right form.
_IDENTITY = {
    "classes": lambda x: isinstance(x, list) and all(isinstance(name, str) for name in x),
    "widths": lambda x: isinstance(x, dict) and all(map(_is_count, x.values())),
    "seeds": lambda x: isinstance(x, list) and all(type(seed) is int for seed in x),
    "generated": lambda x: isinstance(x, list) and all(map(_is_count, x)),
}


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def read_settings(workdir: str | os.PathLike) -> tuple[Workdir, ConfigDict, dict[str, Any]]:
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
    config = default_config()
    lacking = sorted(SETTINGS.keys() - stored.keys() - set(FREE_SETTINGS))
    if lacking:
        raise UserError(
            f"{folder.config_file}: lacks {', '.join(lacking)}; it is of another version"
        )
    try:
        settings = {name: stored[name] for name in SETTINGS if name in stored}
        check_types(settings)
        # A float setting may be given as an int.
        with config.ignore_type():
            config.update_from_flattened_dict(settings)
        check_config(config)
    except UserError as error:
        raise UserError(f"{folder.config_file}: is damaged ({error})") from error
    for name, is_sound in _IDENTITY.items():
        if not is_sound(stored.get(name)):
            raise UserError(f"{folder.config_file}: is damaged ({name} is missing or of no use)")
    return folder, config, stored


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
    members = list_members(config, stored["seeds"])
    fleet = Fleet(program, len(members.seeds))
    like = members_like(program, members.seeds, members.hyper)
    statistics = empty_standardiser(stored["widths"], config.data.components)
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


class Restored(NamedTuple):
    """A finished run as it lies in its folder.

    Attributes:
      config: its settings.
      corpus: the corpus that it is to be applied to.
      generated: [C] generated utterances per class in its training.
      members: its members.
      fleet: the program and devices that they run on.
      state: their states, on the host.
      standardiser: the train statistics that belong to the state.
    """

    config: ConfigDict
    corpus: Corpus
    generated: np.ndarray
    members: Members
    fleet: Fleet
    state: MemberState
    standardiser: Standardiser


def restore_run(workdir: str, data: str | None = None) -> Restored:
    """Reads a finished run from its newest checkpoint.

    Args:
      workdir: the run's folder.
      data: the corpus; by default the one the run was trained on.

    Raises:
      UserError: there is no finished run, or it is of another version, or the corpus has other
        classes or feature widths.
    """
    folder, config, stored = read_settings(workdir)
    if data is not None:
        config.data.path = data
    corpus = load_data(config)
    if list(corpus.classes) != stored["classes"] or corpus.widths != stored["widths"]:
        raise UserError(
            f"{corpus.source}: classes {list(corpus.classes)} and widths {corpus.widths} are not "
            f"those of the run ({stored['classes']}, {stored['widths']})"
        )
    trained = restore_members(folder, config, stored)
    return Restored(config, corpus, np.asarray(stored["generated"]), *trained)


def evaluate_run(workdir: str, data: str | None = None) -> dict[str, Any]:
    """Scores a run's kept parameters again.

    Args:
      workdir: the run's folder.
      data: the corpus; by default the one the run was trained on.

    Returns:
      A report; its ``timing`` is empty.

    Raises:
      UserError: as of ``restore_run``, or there is nothing labelled to score.
    """
    run = restore_run(workdir, data)
    check_labelled(run.corpus)
    states = member_states(run.state)
    if data is not None:
        # What a training saw of its own test split says nothing of another's.
        states = [{n: v for n, v in state.items() if n != "best_on_test"} for state in states]
    predictions = predict_splits(run.fleet, run.state, run.corpus, run.standardiser)
    return create_report(
        run.corpus,
        score_members(run.members, states, predictions, run.corpus.classes),
        generated=run.generated,
        timing={},
        versions=versions(),
    )
