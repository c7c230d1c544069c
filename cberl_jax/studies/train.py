"""A whole run: corpus in, trained members and report out (section 4)."""

import os
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from cberl_jax.config.settings import check_config
from cberl_jax.features.remake import check_encoders, keep_encoders
from cberl_jax.reports.run import splits_notices
from cberl_jax.runtime.checkpoints import list_steps
from cberl_jax.runtime.progress import PLAIN, Progress
from cberl_jax.runtime.signals import Stopper
from cberl_jax.runtime.workdir import Workdir
from cberl_jax.studies.grow import find_new_seeds, grow
from cberl_jax.studies.points import Execution
from cberl_jax.studies.run import report_on, train_and_score
from cberl_jax.studies.starting import prepare_members
from cberl_jax.training.fleet import Fleet
from cberl_jax.training.loop import Training
from cberl_jax.training.outcome import TrainedRun
from cberl_jax.training.prepare import Prepared, list_members, load_data
from cberl_jax.training.run_folder import open_workdir, run_identity


def train_and_evaluate(
    config: ConfigDict,
    workdir: str,
    seeds: Sequence[int],
    progress: Progress = PLAIN,
    pictures: bool = True,
    forked: str | None = None,
    encoders: Sequence[str | os.PathLike[str]] = (),
) -> dict[str, Any]:
    """Trains one member per seed and writes the run's folder; goes on with a run that is there.

    A finished run of some of the seeds gets those that it lacks.

    Args:
      config: the settings (``settings.default_config``).
      workdir: the run's folder.
      seeds: the members' seeds, different from each other.
      progress: shows how far it is.
      pictures: whether the report has pictures, which take some seconds.
      forked: folder of a run whose newest checkpoint a new run starts from.
      encoders: folders of encoders that made the corpus's features, which the run's folder is to
        keep.

    Returns:
      The report, as in ``report.json``; its ``pictures`` in the process that writes.

    Raises:
      UserError: a setting, the corpus or the folder is at fault.
      Interrupted: SIGTERM or Ctrl-C; a checkpoint is written.
    """
    check_config(config)
    corpus = load_data(config)
    prepared = prepare_members(config, corpus)
    made = {name: corpus.provenance.get(name, {}) for name in prepared.corpus.widths}
    chosen = check_encoders(made, encoders)
    there, new = find_new_seeds(workdir, seeds)
    if new:
        grow(config, prepared, workdir, there, new, Execution(progress=progress, pictures=pictures))
        seeds = [*there, *new]
    with open_workdir(workdir, run_identity(config, prepared, seeds), forked) as folder:
        if folder.writes:
            keep_encoders(chosen, folder.encoders)
        if folder.finished:
            progress.say("this run is finished")
            return folder.read_report()
        if not list_steps(folder.checkpoints):
            for notice in splits_notices(prepared.splits, config.model.causal):
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
    members = list_members(config, seeds, folds=len(prepared.each))
    fleet = Fleet(prepared.program, len(members.seeds))
    with Stopper(progress.say).listening() as stopper:
        training = Training(prepared, config, members, fleet, folder, stopper, progress)
        state, lines, predictions = train_and_score(training)
        run = TrainedRun(folder, config, prepared, state)
        return report_on(run, lines, predictions, training.timing(), progress, pictures)
