"""The parts of a run that studies share: members trained and scored, and their report."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cberl_jax.evaluation.predict_splits import predict_splits, score_members
from cberl_jax.reports.model_card import write_model_card
from cberl_jax.reports.provenance import create_provenance
from cberl_jax.reports.run import TrainingData, create_report, write_report
from cberl_jax.runtime import processes
from cberl_jax.runtime.progress import Progress
from cberl_jax.training.epoch import MemberState
from cberl_jax.training.loop import Training
from cberl_jax.training.outcome import TrainedRun, member_states
from cberl_jax.version import versions


def train_and_score(
    training: Training,
) -> tuple[MemberState, list[dict[str, Any]], dict[str, np.ndarray]]:
    """Trains the members of a run and writes their ``predictions.npz``.

    Returns:
      The members' states, on the host; a line per member, from ``score_members``; and what they
      predict, from ``predict_splits``.
    """
    state = training.execute()
    members, prepared = training.members, training.prepared
    predictions = predict_splits(
        training.fleet,
        state,
        prepared.splits,
        prepared.standardiser,
        training.config.train.corpus_bytes,
    )
    seeds = members.seeds[:: members.folds]
    training.workdir.write_predictions({"seed": seeds, **predictions})
    lines = score_members(members, member_states(state), predictions, prepared.corpus.classes)
    return state, lines, predictions


def train_chunk(training: Training) -> None:
    """Trains members whose folder needs no report of its own: scores and predictions are enough."""
    _, lines, _ = train_and_score(training)
    done = {"members": lines, "timing": training.timing(), "versions": versions()}
    training.workdir.write_json(training.workdir.report_file, done)
    processes.wait_for_others(f"{training.workdir.path} is done")


def report_on(
    run: TrainedRun,
    lines: Sequence[Mapping[str, Any]],
    predictions: Mapping[str, np.ndarray],
    timing: Mapping[str, Any],
    progress: Progress,
    pictures: bool,
    together: Sequence[int] = (),
) -> dict[str, Any]:
    """Writes the report of a run that is trained, its pictures and its model card.

    Args:
      run: with its predictions and metrics in its folder.
      lines: a line per member, from ``score_members``.
      predictions: of all members, from ``predict_splits``.
      timing: from ``Training.timing``, or empty.
      progress: says that pictures are drawn.
      pictures: whether they are.
      together: how many members were trained in each program, where there were several.

    Returns:
      The report, as in ``report.json``.
    """
    corpus = run.prepared.corpus
    provenance = create_provenance(run.config, corpus) | {"together": list(together)}
    if run.folder.start_file.exists():
        provenance["start"] = run.folder.read_json(run.folder.start_file)
    report = create_report(
        TrainingData(corpus, run.prepared.splits, run.prepared.generated),
        lines,
        predictions,
        causal=run.config.model.causal,
        timing=timing,
        provenance=provenance,
    )
    if pictures and run.folder.writes:
        # What draws takes longer to import than all else together.
        from cberl_jax.reports.pictures import illustrate

        progress.say("drawing")
        drawn = illustrate(run, report, progress.say)
        report["pictures"] = [picture._asdict() for picture in drawn]
    write_model_card(run.folder, run.config, run.prepared.splits, report)
    write_report(run.folder, report)
    return report
