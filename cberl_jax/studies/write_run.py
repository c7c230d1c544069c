"""Members that were trained apart, as one run with report, pictures and model card.

A chunk of a sweep holds members of many points. Here those of one point are taken out of their
chunks, as if they had been trained alone. A run that grows is put together in the same way.
"""

import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from cberl_jax.config.settings import FREE_SETTINGS
from cberl_jax.errors import UserError
from cberl_jax.features.remake import choose_encoders, keep_encoders
from cberl_jax.runtime import processes
from cberl_jax.runtime.checkpoints import list_steps, open_checkpoints
from cberl_jax.runtime.signals import Stopper
from cberl_jax.runtime.workdir import Workdir, list_differences
from cberl_jax.serving.restore import restore_members
from cberl_jax.studies.points import Execution
from cberl_jax.studies.run import report_on
from cberl_jax.studies.starting import prepare_members
from cberl_jax.training.outcome import TrainedRun
from cberl_jax.training.prepare import load_data
from cberl_jax.training.run_folder import open_workdir, run_identity

# The entries of a line of a sweep that are no scores.
_OF_A_SWEEP = ("settings", "chunk", "place")


def write_run(
    config: ConfigDict,
    path: pathlib.Path,
    chunks: pathlib.Path,
    lines: Sequence[Mapping[str, Any]],
    execution: Execution,
) -> None:
    """Writes members of one point into a run's folder; does nothing where that is finished.

    Its report has no times: the members were not trained in one program alone.

    Args:
      config: the settings at the point.
      path: of the folder.
      chunks: the folder of the chunks.
      lines: of all the run's members, as from ``train_points``.
      execution: how it is shown, whether the report has pictures, and the encoders that the run is
        to keep if they made its features.

    Raises:
      UserError: a file of a chunk is damaged.
    """
    prepared = prepare_members(config, load_data(config))
    identity = run_identity(config, prepared, [line["seed"] for line in lines])
    corpus = prepared.corpus
    made = {name: corpus.provenance.get(name, {}) for name in corpus.widths}
    chosen = choose_encoders(made, execution.encoders, strict=False)
    _clear(path, identity)
    progress = execution.progress
    with Stopper(progress.say).listening(), open_workdir(path, identity) as folder:
        if folder.writes:
            keep_encoders(chosen, folder.encoders)
        if folder.finished:
            return
        parts = _list_parts(chunks, lines)
        trained = [restore_members(p.chunk, config, p.chunk.read_config()) for p in parts]
        standardiser = trained[0].standardiser
        # A seed's models of all folds lie side by side.
        models = [part.of_models(len(prepared.each)) for part in parts]
        state = _gather([t.state for t in trained], models)
        # A chunk ends with its last member: those of the others have stopped, and only count on.
        epoch = np.full_like(state.joint.epoch, state.joint.epoch.max())
        state = state.replace(joint=state.joint.replace(epoch=epoch))
        if folder.writes:
            # Left by a call that was killed.
            shutil.rmtree(folder.checkpoints, ignore_errors=True)
        processes.wait_for_others(f"{path} is empty")
        with open_checkpoints(folder.checkpoints) as checkpoints:
            step = max(list_steps(part.chunk.checkpoints)[0] for part in parts)
            checkpoints.save(step, state, standardiser)
        predictions = _gather_predictions(parts)
        folder.write_predictions(predictions)
        first = parts[0].chunk
        if first.start_file.exists():
            folder.write_json(folder.start_file, first.read_json(first.start_file))
        folder.keep_metrics({})
        folder.append_metrics(list(_renumber(models)))
        members = [{k: v for k, v in line.items() if k not in _OF_A_SWEEP} for line in lines]
        run = TrainedRun(folder, config, prepared, state)
        together = [len(part.places) for part in parts]
        report_on(run, members, predictions, {}, progress, execution.pictures, together)


def _clear(path: pathlib.Path, identity: Mapping[str, Any]) -> None:
    """Removes the run of another point: all that is in it is in the chunks, too."""
    if processes.is_main() and path.exists():
        try:
            there = Workdir(path, create=False).read_config()
            other = list_differences(there, identity, {*FREE_SETTINGS, "version", "format"})
        except UserError:
            other = "no run that can be read"
        if other:
            shutil.rmtree(path)
    processes.wait_for_others(f"{path} is free")


class _Part(NamedTuple):
    """What a run takes out of one chunk.

    Attributes:
      chunk: its folder.
      places: of the members in the chunk.
      numbers: of the same members in the run.
    """

    chunk: Workdir
    places: list[int]
    numbers: list[int]

    def of_models(self, folds: int) -> "_Part":
        """The same for models, of which each member has one per fold."""
        return self._replace(
            places=[place * folds + n for place in self.places for n in range(folds)],
            numbers=[number * folds + n for number in self.numbers for n in range(folds)],
        )


def _list_parts(chunks: pathlib.Path, lines: Sequence[Mapping[str, Any]]) -> list[_Part]:
    """The chunks that the members of a run lie in, which may take turns."""
    parts = []
    for name in dict.fromkeys(line["chunk"] for line in lines):
        own = [number for number, line in enumerate(lines) if line["chunk"] == name]
        places = [lines[number]["place"] for number in own]
        parts.append(_Part(Workdir(chunks / name, create=False), places, own))
    return parts


def _gather(trees: Sequence[Any], parts: Sequence[_Part]) -> Any:
    """One tree of the members of a run out of those of its chunks; leaves [members, ...]."""
    order = np.argsort(np.concatenate([part.numbers for part in parts]))
    chosen = [
        jax.tree.map(lambda leaf, p=part.places: leaf[p], tree) for tree, part in zip(trees, parts)
    ]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[order], *chosen)


def _gather_predictions(parts: Sequence[_Part]) -> dict[str, np.ndarray]:
    """The arrays of ``predictions.npz``: those with a member axis of the chosen members."""
    stored = [part.chunk.read_predictions() for part in parts]
    of_members = [n for n in stored[0] if n == "seed" or n.endswith(".probability")]
    chosen = _gather([{n: arrays[n] for n in of_members} for arrays in stored], parts)
    return {**stored[0], **chosen}


def _renumber(models: Sequence[_Part]) -> Iterator[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` of the chosen models of each chunk."""
    for part in models:
        number = dict(zip(part.places, part.numbers))
        for line in part.chunk.read_metrics():
            if line["member"] in number:
                yield {**line, "member": number[line["member"]]}
