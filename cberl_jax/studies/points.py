"""Members at many points, in one folder that grows (section 4).

Points that differ in numeric settings alone form a group, whose members run in one compiled
program, in chunks that fit the memory. A chunk is a run of its own with a folder, so it is durable.
A call asks for members, each a point and a seed; what chunks of earlier calls hold of them is not
trained again, so a study can grow by seeds and by points, and several programs can each train a
part of it into one folder.
"""

import itertools
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cberl_jax.config.grid import (
    Point,
    data_settings,
    group_points,
    point_config,
    spell_point,
    static_settings,
)
from cberl_jax.data.corpus import fingerprint
from cberl_jax.errors import FolderBusy, UserError
from cberl_jax.evaluation.outcomes import Outcome
from cberl_jax.features.remake import check_encoders
from cberl_jax.runtime import processes
from cberl_jax.runtime.progress import PLAIN, Progress
from cberl_jax.runtime.signals import Stopper
from cberl_jax.runtime.workdir import Workdir
from cberl_jax.studies.fitting import STAGES
from cberl_jax.studies.group import Group, Member, create_member
from cberl_jax.studies.starting import prepare_members
from cberl_jax.training.prepare import load_data
from cberl_jax.training.run_folder import open_workdir


class Part(NamedTuple):
    """One of several programs that share the work of a study.

    Attributes:
      number: of this one, from 1.
      of: how many there are.
    """

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"


class Execution(NamedTuple):
    """How a study is carried out; no score depends on it.

    Attributes:
      members_per_device: how many members a device trains at a time; by default as many as fit.
      part: the part of the members that is trained here; by default all.
      collect: train nothing; write the report of what all parts have trained.
      progress: shows how far it is.
      pictures: whether the report of the best point or reference has pictures, which take some
        seconds.
      encoders: folders of encoders that made the corpus's features, which the run of the best point
        or reference is to keep.
    """

    members_per_device: int | None = None
    part: Part | None = None
    collect: bool = False
    progress: Progress = PLAIN
    pictures: bool = True
    encoders: Sequence[str | os.PathLike[str]] = ()


ALONE = Execution()


class Chunk(NamedTuple):
    """Members that are trained together, in a folder of their own."""

    folder: Workdir
    members: list[Member]


def chunks(folder: Workdir) -> pathlib.Path:
    """Where the chunks of a study lie, a folder each."""
    return folder.path / "chunks"


def list_chunks(folder: Workdir, config: ConfigDict, prefix: str = "") -> list[Chunk]:
    """The chunks of a study whose names begin so, in the order of their names."""
    found = []
    for path in sorted(chunks(folder).glob(f"{prefix}*/config.json")):
        chunk = Workdir(path.parent, create=False)
        stored = chunk.read_config()
        pairs = zip(stored["members"], stored["seeds"], strict=True)
        found.append(Chunk(chunk, [create_member(config, *pair) for pair in pairs]))
    return found


def _group(members: Iterable[Member]) -> dict[str, list[Member]]:
    """Members by their static settings, in order of first appearance."""
    groups: dict[str, list[Member]] = {}
    for member in members:
        static = json.dumps(static_settings(member.settings))
        groups.setdefault(static, []).append(member)
    return groups


def share(members: Sequence[Member], part: Part | None) -> list[Member]:
    """The members that a part trains: parts are even, and split as few groups as can be."""
    grouped = [member for group in _group(members).values() for member in group]
    if part is None:
        return grouped
    total = len(grouped)
    return grouped[(part.number - 1) * total // part.of : part.number * total // part.of]


class _Work:
    """The training of a study's members in progress."""

    def __init__(self, config: ConfigDict, folder: Workdir, execution: Execution, stopper: Stopper):
        self.config, self.folder, self.execution = config, folder, execution
        self.stopper, self.say = stopper, execution.progress.say

    def train(self, asked: Sequence[Member]) -> None:
        """Trains of some members what no chunk has, and ends what chunks have begun."""
        there = list_chunks(self.folder, self.config)
        self.names = {chunk.folder.path.name for chunk in there}
        # Nobody makes a chunk before all have seen which there are.
        processes.wait_for_others("the chunks are listed")
        done = {member for chunk in there if chunk.folder.finished for member in chunk.members}
        begun = []
        for chunk in there:
            # One with more than is asked for, or with what another one has, is left as it is.
            if not chunk.folder.finished and set(asked) - done >= set(chunk.members):
                begun.append(chunk)
                done.update(chunk.members)
        missing = [member for member in asked if member not in done]
        of_begun = [member for chunk in begun for member in chunk.members]
        groups = _group([*of_begun, *missing])
        if groups:
            left = len(of_begun) + len(missing)
            self.say(f"members to train: {left} of {len(asked)}; programs: {len(groups)}")
        for own in groups.values():
            self._train_group(
                [chunk for chunk in begun if chunk.members[0] in own],
                [member for member in missing if member in own],
            )

    def _train_group(self, begun: Sequence[Chunk], missing: Sequence[Member]) -> None:
        """Trains members that share their static settings."""
        first = begun[0].members[0] if begun else missing[0]
        static = static_settings(first.settings)
        if static:
            self.say(f"now: {spell_point(static)}")
        config = point_config(self.config, static)
        prepared = prepare_members(config, load_data(config))
        own = Group(prepared, config, self.stopper, self.execution.progress)
        fleet = None
        if begun:
            fleet = own.create_fleet(max(len(chunk.members) for chunk in begun))
        for chunk in begun:
            own.train(chunk.members, fleet, chunk.folder.path)
        if not missing:
            return
        if fleet is None:
            stages = ("joint",) if own.shares_gans(missing) else STAGES
            fleet = own.fit_fleet(missing, self.execution.members_per_device, stages)
        size = fleet.padded_members // own.folds
        for start in range(0, len(missing), size):
            part = missing[start : start + size]
            self.say(f"members {start + 1} to {start + len(part)} of {len(missing)}")
            own.train(part, fleet, chunks(self.folder) / self._new_name())

    def _new_name(self) -> str:
        """Of a chunk: no two programs that share the work may choose the same."""
        part = self.execution.part
        prefix = f"{part.number}of{part.of}-" if part else ""
        names = (f"{prefix}{number:03d}" for number in itertools.count())
        name = next(name for name in names if name not in self.names)
        self.names.add(name)
        return name


def _read_lines(
    folder: Workdir, config: ConfigDict, asked: Mapping[Member, Point]
) -> list[dict[str, Any]]:
    """A line for each of some members that are trained, in their order."""
    lines: dict[Member, dict[str, Any]] = {}
    for chunk in list_chunks(folder, config):
        if not chunk.folder.finished or not asked.keys() & set(chunk.members):
            continue
        found = chunk.folder.read_report()["members"]
        for place, (member, line) in enumerate(zip(chunk.members, found, strict=True)):
            where = {"chunk": chunk.folder.path.name, "place": place}
            lines.setdefault(member, {**line, **where})
    return [
        {**lines[member], "settings": dict(point)}
        for member, point in asked.items()
        if member in lines
    ]


def _check_corpora(config: ConfigDict, folder: Workdir, asked: Mapping[Member, Point]) -> None:
    """Refuses chunks of another corpus: their members would be averaged with those of this one.

    The study's identity names the contents of the corpus with its config's settings of ``data``.
    Points with others may read features that it does not.
    """
    known: dict[str, str] = {}
    for chunk in list_chunks(folder, config):
        for member in asked.keys() & set(chunk.members):
            data = data_settings(member.settings)
            if not data:
                continue
            key = json.dumps(data, sort_keys=True)
            if key not in known:
                known[key] = fingerprint(load_data(point_config(config, data)))
            if chunk.folder.read_config()["corpus"] != known[key]:
                raise UserError(
                    f"{chunk.folder.path}: was trained on another corpus than the present one at "
                    f"{spell_point(data)}; name a new workdir, or give the corpus as it was"
                )


def train_points(
    config: ConfigDict,
    folder: Workdir,
    seeds: Sequence[int],
    points: Sequence[Point],
    execution: Execution,
) -> list[dict[str, Any]]:
    """Trains every seed at every point, or a part of them; what is there is not trained again.

    Args:
      config: the settings that the points start from.
      folder: claimed for a study of this config.
      seeds: different from each other.
      points: settings in which members differ from ``config``, different from each other.
      execution: how.

    Returns:
      A line per member that is trained by now, here or in another part, from ``score_members``,
      with the ``settings`` of its point and where its predictions are: ``chunk``, the folder's
      name, and ``place`` among its members. They are in the order of the points and seeds.

    Raises:
      UserError: a file of a chunk is damaged, or it was trained on another corpus.
      Interrupted: SIGTERM or Ctrl-C; a checkpoint is written.
    """
    asked = {create_member(config, point, seed): point for point in points for seed in seeds}
    _check_corpora(config, folder, asked)
    with Stopper(execution.progress.say).listening() as stopper:
        if not execution.collect:
            work = _Work(config, folder, execution, stopper)
            work.train(share(list(asked), execution.part))
    return _read_lines(folder, config, asked)


def carry_out(
    config: ConfigDict,
    workdir: str | os.PathLike,
    identity: Mapping[str, Any],
    seeds: Sequence[int],
    points: Sequence[Point],
    execution: Execution,
    report: Callable[[Workdir, list[dict[str, Any]]], dict[str, Any]],
) -> dict[str, Any] | None:
    """Trains the members of a study, or a part of them, and reports once all are there.

    Args:
      config: the settings that the points start from.
      workdir: the study's folder.
      identity: of the study, which does not depend on seeds and points.
      seeds: different from each other.
      points: different from each other.
      execution: how.
      report: writes the report from the folder and the lines of all members.

    Returns:
      What ``report`` returns; None where another part has members to train, or writes the report.

    Raises:
      UserError: the folder is at fault, or members are missing that are to be collected.
      Interrupted: SIGTERM or Ctrl-C; a checkpoint is written.
    """
    say, total = execution.progress.say, len(points) * len(seeds)
    with open_workdir(workdir, identity, shared=execution.part is not None) as folder:
        lines = train_points(config, folder, seeds, points, execution)
        if execution.part is None and len(lines) == total:
            return report(folder, lines)
    if len(lines) < total:
        missing = f"{total - len(lines)} of {total} members are not trained yet"
        if execution.collect:
            raise UserError(
                f"{workdir}: {missing}; start the parts that are missing, or leave out --collect"
            )
        say(f"part {execution.part} is done; {missing}. The last part to end writes the report.")
        return None
    try:
        with open_workdir(workdir, identity) as folder:
            return report(folder, lines)
    except FolderBusy:
        say(f"part {execution.part} is done; another one writes the report.")
        return None


def check_points(config: ConfigDict, points: Sequence[Point], execution: Execution) -> None:
    """Refuses points that nothing could follow, before anything is written.

    Raises:
      UserError: settings, the corpus or the encoders are at fault; the message names them.
    """
    for point in points:
        point_config(config, point)
    check_data(config, [group.static for group in group_points(points)], execution)


def check_data(config: ConfigDict, points: Iterable[Point], execution: Execution) -> None:
    """Refuses what the corpus does not have at some points, and encoders that serve at none.

    Raises:
      UserError: settings, the corpus or the encoders are at fault; the message names them.
    """
    made: dict[str, Mapping[str, Any]] = {}
    for point in points:
        if execution.encoders or data_settings(point):
            corpus = load_data(point_config(config, point))
            made |= {name: corpus.provenance.get(name, {}) for name in corpus.widths}
    check_encoders(made, execution.encoders)


def read_members(
    folder: Workdir, name: str, lines: Sequence[Mapping[str, Any]], split: str = "test"
) -> Outcome | None:
    """What members of a study predicted on test, or on dev.

    Args:
      folder: of the study.
      name: of what they are.
      lines: of sound members, from ``train_points``.
      split: test or dev.

    Returns:
      Their outcome; None where there are none.

    Raises:
      UserError: a file of a chunk is damaged.
    """
    if not lines:
        return None
    stored = {
        chunk: Workdir(chunks(folder) / chunk, create=False).read_predictions()
        for chunk in dict.fromkeys(line["chunk"] for line in lines)
    }
    any_one = stored[lines[0]["chunk"]]
    return Outcome(
        name,
        any_one["classes"].tolist(),
        np.asarray([line["seed"] for line in lines]),
        np.stack([stored[x["chunk"]][f"{split}.probability"][x["place"]] for x in lines]),
        any_one[f"{split}.label"],
        any_one[f"{split}.dialogue"],
        any_one[f"{split}.utterance"],
    )
