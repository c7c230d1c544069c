"""How the members of a training ended: kept epoch, or where one diverged."""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cberl_jax.runtime.workdir import Workdir
from cberl_jax.training import gan_step, joint_step
from cberl_jax.training.epoch import NEVER, MemberState
from cberl_jax.training.prepare import Prepared


class TrainedRun(NamedTuple):
    """A run whose members are trained and scored.

    Attributes:
      folder: with ``predictions.npz`` and ``metrics.jsonl``.
      config: its settings.
      prepared: its data and program.
      state: the members' states, on the host.
    """

    folder: Workdir
    config: ConfigDict
    prepared: Prepared
    state: MemberState


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
    # A member whose GAN has diverged is marked in the joint stage too: the GAN stage is the cause.
    for stage, terms in (("gan", gan_step.TERMS), ("joint", joint_step.TERMS)):
        own = getattr(state, stage)
        if own is not None and own.diverged[number] != NEVER:
            term = (*terms, "parameters")[own.broken[number]]
            return {"stage": stage, "epoch": int(own.diverged[number]) + 1, "term": term}
    return None
