"""A whole run: corpus in, trained members and report out (section 4)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cberl_jax.config.settings import check_config
from cberl_jax.data.notices import notices
from cberl_jax.evaluation.predict_splits import predict_splits, score_members
from cberl_jax.reports.model_card import write_model_card
from cberl_jax.reports.pictures import TrainedRun, illustrate
from cberl_jax.reports.provenance import create_provenance
from cberl_jax.reports.run import create_report, write_report
from cberl_jax.runtime.checkpoints import list_steps
from cberl_jax.runtime.progress import PLAIN, Progress
from cberl_jax.runtime.signals import Stopper
from cberl_jax.runtime.workdir import Workdir
from cberl_jax.training.epoch import MemberState
from cberl_jax.training.fleet import Fleet
from cberl_jax.training.loop import Training
from cberl_jax.training.outcome import member_states
from cberl_jax.training.prepare import Prepared, list_members, load_data, prepare
from cberl_jax.training.run_folder import open_workdir, run_identity


def train_and_evaluate(
    config: ConfigDict,
    workdir: str,
    seeds: Sequence[int],
    progress: Progress = PLAIN,
    pictures: bool = True,
    forked: str | None = None,
) -> dict[str, Any]:
    """Trains one member per seed and writes the run's folder; goes on with a run that is there.

    Args:
      config: the settings (``settings.default_config``).
      workdir: the run's folder.
      seeds: the members' seeds, different from each other.
      progress: shows how far it is.
      pictures: whether the report has pictures, which take some seconds.
      forked: folder of a run whose newest checkpoint a new run starts from.

    Returns:
      The report, as in ``report.json``; its ``pictures`` in the process that writes.

    Raises:
      UserError: a setting, the corpus or the folder is at fault.
      Interrupted: SIGTERM or Ctrl-C; a checkpoint is written.
    """
    check_config(config)
    corpus = load_data(config)
    prepared = prepare(config, corpus)
    with open_workdir(workdir, run_identity(config, prepared, seeds), forked) as folder:
        if folder.finished:
            progress.say("this run is finished")
            return folder.read_report()
        if not list_steps(folder.checkpoints):
            for notice in notices(corpus):
                progress.say(f"worth a look: {notice}")
        return _train(folder, config, prepared, seeds, progress, pictures)


def _train(
    folder: Workdir,
    config: ConfigDict,
    prepared: Prepared,
    seeds: Sequence[int],
    progress: Progress,
    pictures: bool,
) -> dict[str, Any]:
    """What ``train_and_evaluate`` does in a folder that is its own."""
    members = list_members(config, seeds)
    fleet = Fleet(prepared.program, len(members.seeds))
    with Stopper(progress.say).listening() as stopper:
        training = Training(prepared, config, members, fleet, folder, stopper, progress)
        state, lines, predictions = train_and_score(training)
        run = TrainedRun(folder, config, prepared, state)
        return report_on(run, lines, predictions, training.timing(), progress, pictures)


def train_and_score(
    training: Training,
) -> tuple[MemberState, list[dict[str, Any]], dict[str, np.ndarray]]:
    """Trains the members of a run and writes their ``predictions.npz``.

    Returns:
      The members' states, on the host; a line per member, from ``score_members``; and what they
      predict, from ``predict_splits``.
    """
    state = training.execute()
    corpus, standardiser = training.prepared.corpus, training.prepared.standardiser
    predictions = predict_splits(training.fleet, state, corpus, standardiser)
    training.workdir.write_predictions({"seed": training.members.seeds, **predictions})
    ended = member_states(state)
    lines = score_members(training.members, ended, predictions, corpus.classes)
    return state, lines, predictions


def report_on(
    run: TrainedRun,
    lines: Sequence[Mapping[str, Any]],
    predictions: Mapping[str, np.ndarray],
    timing: Mapping[str, Any],
    progress: Progress,
    pictures: bool,
) -> dict[str, Any]:
    """Writes the report of a run that is trained, its pictures and its model card.

    Args:
      run: with its predictions and metrics in its folder.
      lines: a line per member, from ``score_members``.
      predictions: of all members, from ``predict_splits``.
      timing: from ``Training.timing``, or empty.
      progress: says that pictures are drawn.
      pictures: whether they are.

    Returns:
      The report, as in ``report.json``.
    """
    corpus = run.prepared.corpus
    report = create_report(
        corpus,
        lines,
        predictions,
        causal=run.config.model.causal,
        generated=run.prepared.generated,
        timing=timing,
        provenance=create_provenance(run.config, corpus),
    )
    if pictures and run.folder.writes:
        progress.say("drawing")
        drawn = illustrate(run, report, progress.say)
        report["pictures"] = [picture._asdict() for picture in drawn]
    write_model_card(run.folder, run.config, corpus, report)
    write_report(run.folder, report)
    return report
