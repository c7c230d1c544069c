"""Members that share a program, and their training in chunks.

A chunk is a folder like that of a run, without a report of its own, so it is as durable.
"""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cberl_jax.config.grid import Point, own_settings, point_config
from cberl_jax.config.settings import Value
from cberl_jax.runtime.checkpoints import list_steps
from cberl_jax.runtime.progress import Progress
from cberl_jax.runtime.signals import Stopper
from cberl_jax.studies.fitting import STAGES, even_chunks, fit_fleet
from cberl_jax.studies.run import train_chunk
from cberl_jax.training.epoch import MemberState
from cberl_jax.training.fleet import Fleet
from cberl_jax.training.loop import TrainedGans, Training
from cberl_jax.training.prepare import Members, Prepared, list_members
from cberl_jax.training.run_folder import open_workdir, run_identity

# In the folder of a chunk, until that is done: its GANs, where members share them.
GANS = "gans"


class Member(NamedTuple):
    """What a study is made of: a seed at a point.

    Attributes:
      point: the settings in which it differs from the config of the study, and no others; as JSON,
        so that it can be a key.
      seed: the seed.
    """

    point: str
    seed: int

    @property
    def settings(self) -> dict[str, Value]:
        """The point as settings."""
        return json.loads(self.point)


def create_member(config: ConfigDict, point: Point, seed: int) -> Member:
    """The member of a point, however that is spelt.

    Args:
      config: of the study.
      point: may hold settings at the value that they have in the config.
      seed: the seed.
    """
    return Member(json.dumps(own_settings(config, point), sort_keys=True), seed)


class Group(NamedTuple):
    """What members that share a program are trained with.

    Attributes:
      prepared: their data and program.
      config: the settings that they share.
      stopper: a signal ends the training between two epochs.
      progress: shows how far it is.
    """

    prepared: Prepared
    config: ConfigDict
    stopper: Stopper
    progress: Progress

    @property
    def folds(self) -> int:
        """How many models each member has."""
        return len(self.prepared.each)

    def join(self, members: Sequence[Member]) -> Members:
        """Members as arrays."""
        each = [
            list_members(self.config, [own.seed], [own.settings], self.folds) for own in members
        ]
        return Members(
            np.concatenate([one.seeds for one in each]),
            {name: np.concatenate([one.hyper[name] for one in each]) for name in each[0].hyper},
            [settings for one in each for settings in one.settings],
            self.folds,
        )

    def create_fleet(self, members: int) -> Fleet:
        """A fleet that trains so many members at a time."""
        return Fleet(self.prepared.program, members * self.folds)

    def fit_fleet(
        self, members: Sequence[Member], per_device: int | None, stages: Sequence[str] = STAGES
    ) -> Fleet:
        """A fleet for some members, which trains them all at once or in even chunks.

        Args:
          members: all of them.
          per_device: how many models a device trains at a time; None for as many as fit.
          stages: those that they are to be trained in.

        Raises:
          TooLarge: a single member does not fit.
        """
        if per_device is None:
            self.progress.say("compiling, to see how many members fit the memory")
            return fit_fleet(self.prepared, self.config, self.join(members), self.stopper, stages)
        most = per_device * len(jax.devices())
        return Fleet(
            self.prepared.program, even_chunks(len(members) * self.folds, most, self.folds)
        )

    @contextlib.contextmanager
    def opening(
        self,
        members: Sequence[Member],
        fleet: Fleet,
        path: pathlib.Path,
        initial: MemberState | None = None,
        until: int | None = None,
        gans: TrainedGans | None = None,
    ) -> Iterator[Training]:
        """Opens the training of some members as a chunk, a folder that is theirs within the block.

        Args:
          members: at most as many as the fleet trains at a time.
          fleet: may have trained other chunks of this group.
          path: of the chunk.
          initial: what they start from, as of ``Training``.
          until: after which epoch the training ends, as of ``Training``.
          gans: what they have in place of a GAN stage, as of ``Training``.
        """
        prepared, config = self.prepared, self.config
        identity = run_identity(config, prepared, [member.seed for member in members])
        identity["members"] = [member.settings for member in members]
        how = (self.stopper, self.progress, initial, gans, until)
        with open_workdir(path, identity) as chunk:
            yield Training(prepared, config, self.join(members), fleet, chunk, *how)

    def train(self, members: Sequence[Member], fleet: Fleet, path: pathlib.Path) -> None:
        """Trains some members as a chunk, to their end, and scores them; as of ``opening``."""
        with self.opening(members, fleet, path) as training:
            if self.shares_gans(members) and not list_steps(training.workdir.checkpoints):
                training.gans = self._train_gans(members, path / GANS)
            train_chunk(training)
            if training.workdir.writes:
                shutil.rmtree(path / GANS, ignore_errors=True)

    def shares_gans(self, members: Sequence[Member]) -> bool:
        """Whether so many members have the same GAN as another one that each is trained once."""
        if self.prepared.program.gan is None:
            return False
        return 2 * len({_gan_of(member) for member in members}) <= len(members)

    def _train_gans(self, members: Sequence[Member], path: pathlib.Path) -> TrainedGans:
        """Trains each GAN of some members once, in a folder of its own."""
        keys = [_gan_of(member) for member in members]
        different = list(dict.fromkeys(keys))
        owners = [members[keys.index(key)] for key in different]
        # The curves are drawn with those of the members.
        quiet = self._replace(config=point_config(self.config, {"train.metrics": ""}))
        # After no epoch of the joint stage.
        with quiet.opening(owners, self.create_fleet(len(owners)), path, until=0) as training:
            state = training.execute().gan
            lines = training.workdir.read_metrics() if training.workdir.writes else []
        models = [
            different.index(key) * self.folds + fold for key in keys for fold in range(self.folds)
        ]
        known = {(line["epoch"], line["member"]): line for line in lines}
        epochs = dict.fromkeys(line["epoch"] for line in lines)
        lines = [
            {**known[epoch, own], "member": model}
            for epoch in epochs
            for model, own in enumerate(models)
        ]
        taken = jax.tree.map(lambda leaf: leaf[np.asarray(models)], state)
        return TrainedGans(taken, lines, training.clock.seconds)


def _gan_of(member: Member) -> tuple[int, str]:
    """Equal for members whose GANs are: those of a seed with the same settings of ``gan``."""
    own = {n: value for n, value in member.settings.items() if n.startswith("gan.")}
    return member.seed, json.dumps(own, sort_keys=True)
