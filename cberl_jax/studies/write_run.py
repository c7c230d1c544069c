"""Members that were trained apart, as one run with report, pictures and model card.

A chunk of a sweep holds members of many points. Here those of one point are taken out of their
chunks, as if they had been trained alone. A run that grows is put together in the same way.
"""

import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cberl_jax.config.settings import FREE_SETTINGS
from cberl_jax.errors import UserError
from cberl_jax.features.remake import choose_encoders, keep_encoders
from cberl_jax.reports.pictures import TrainedRun
from cberl_jax.runtime import processes
from cberl_jax.runtime.checkpoints import list_steps, open_checkpoints
from cberl_jax.runtime.signals import Stopper
from cberl_jax.runtime.workdir import Workdir, list_differences
from cberl_jax.serving.restore import restore_members
from cberl_jax.studies.points import Execution
from cberl_jax.studies.run import report_on
from cberl_jax.studies.starting import prepare_members
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
        parts = [
            (
                Workdir(chunks / name, create=False),
                [x["place"] for x in lines if x["chunk"] == name],
            )
            for name in dict.fromkeys(line["chunk"] for line in lines)
        ]
        trained = [restore_members(chunk, config, chunk.read_config()) for chunk, _ in parts]
        standardiser = trained[0].standardiser
        folds = len(prepared.each)
        # Where a seed's models of all folds lie in the states.
        models = [[place * folds + n for place in own for n in range(folds)] for _, own in parts]
        state = _gather([t.state for t in trained], models)
        # A chunk ends with its last member: those of the others have stopped, and only count on.
        epoch = np.full_like(state.joint.epoch, state.joint.epoch.max())
        state = state.replace(joint=state.joint.replace(epoch=epoch))
        if folder.writes:
            # Left by a call that was killed.
            shutil.rmtree(folder.checkpoints, ignore_errors=True)
        processes.wait_for_others(f"{path} is empty")
        with open_checkpoints(folder.checkpoints) as checkpoints:
            step = max(list_steps(chunk.checkpoints)[0] for chunk, _ in parts)
            checkpoints.save(step, state, standardiser)
        predictions = _gather_predictions(parts)
        folder.write_predictions(predictions)
        start = parts[0][0].start_file
        if start.exists():
            folder.write_json(folder.start_file, parts[0][0].read_json(start))
        folder.keep_metrics({})
        folder.append_metrics(list(_renumber([chunk for chunk, _ in parts], models)))
        members = [{k: v for k, v in line.items() if k not in _OF_A_SWEEP} for line in lines]
        run = TrainedRun(folder, config, prepared, state)
        together = [len(places) for _, places in parts]
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


def _gather(trees: Sequence[Any], places: Sequence[Sequence[int]]) -> Any:
    """One tree of some members of several trees; leaves [members, ...]."""
    chosen = [jax.tree.map(lambda leaf, p=p: leaf[p], tree) for tree, p in zip(trees, places)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *chosen)


def _gather_predictions(
    parts: Sequence[tuple[Workdir, Sequence[int]]],
) -> dict[str, np.ndarray]:
    """The arrays of ``predictions.npz``: those with a member axis of the chosen members."""
    stored = [chunk.read_predictions() for chunk, _ in parts]
    places = [own for _, own in parts]
    of_members = [n for n in stored[0] if n == "seed" or n.endswith(".probability")]
    chosen = _gather([{n: arrays[n] for n in of_members} for arrays in stored], places)
    return {**stored[0], **chosen}


def _renumber(
    chunks: Sequence[Workdir], models: Sequence[Sequence[int]]
) -> Iterator[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` of the chosen models of each chunk."""
    first = 0
    for chunk, places in zip(chunks, models):
        number = {place: first + n for n, place in enumerate(places)}
        first += len(places)
        for line in chunk.read_metrics():
            if line["member"] in number:
                yield {**line, "member": number[line["member"]]}
