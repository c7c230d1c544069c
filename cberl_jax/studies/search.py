"""A search: Optuna chooses points of a space of settings, and this project trains them together.

Points of a batch share their static settings, so that one program trains them all. The best points
are trained once more with seeds that chose nothing; test is read for the winner of these alone.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from cberl_jax.config.grid import point_config, spell_value
from cberl_jax.config.settings import with_folds
from cberl_jax.config.space import Space, complete, own_point
from cberl_jax.data.corpus import Corpus, fingerprint
from cberl_jax.data.folds import check_unseen
from cberl_jax.data.holdout import with_other_dev
from cberl_jax.errors import FolderBusy, UserError
from cberl_jax.metrics import select_score
from cberl_jax.reports.provenance import create_provenance
from cberl_jax.reports.search import (
    BEST,
    Finalists,
    Searched,
    count_look,
    create_search_report,
    write_best_config,
    write_search_report,
)
from cberl_jax.runtime.workdir import Workdir
from cberl_jax.studies.group import create_member
from cberl_jax.studies.points import ALONE, Execution, chunks, train_points
from cberl_jax.studies.search_batches import Worker
from cberl_jax.studies.search_plan import Plan, check_plan
from cberl_jax.studies.starting import prepare_members
from cberl_jax.studies.trials import Sampling, Told, Trials, name_study
from cberl_jax.studies.write_run import write_run
from cberl_jax.training.prepare import Prepared, load_data
from cberl_jax.training.run_folder import open_workdir, study_identity
from cberl_jax.training.transfer import Start, check_splits

# How many points are trained again.
FINALISTS = 10
# Dialogues in dev, and how many times as many in train, for other ones to take dev's place.
FEWEST_DEV, TRAIN_PER_DEV = 10, 4


def search(
    config: ConfigDict, workdir: str, plan: Plan, execution: Execution = ALONE
) -> dict[str, Any] | None:
    """Searches a space, trains the best points again, and reports.

    Several processes may call it for one folder: each takes points that no other one has.

    Args:
      config: the settings that the search starts from, the fixed ones among them.
      workdir: the search's folder; one that is there goes on.
      plan: what to search, and for how long.
      execution: how it is carried out; ``part`` and ``collect`` have no meaning here.

    Returns:
      The contents of ``search.json``; None where another process is still at work.

    Raises:
      UserError: a setting, the corpus, the space or the folder is at fault.
      Interrupted: SIGTERM or Ctrl-C; a checkpoint is written.
    """
    check_plan(config, plan, execution)
    until = None if plan.hours is None else time.monotonic() + 3600 * plan.hours
    prepared = prepare_members(config, load_data(config))
    identity = {**study_identity(config, prepared), "study": "search"}

    def work(folder: Workdir) -> Trials:
        first, name = own_point(config, plan.space), name_study(plan.space, plan.seeds)
        sampling = Sampling(plan.sampler, first, plan.seed)
        trials = Trials(folder.path, plan.space, name, sampling, plan.storage)
        for data in trials.corpora:
            trials.check_corpus(data, fingerprint(load_data(point_config(config, data))))
        Worker(config, folder, plan, execution).work(trials, plan.trials, until)
        return trials

    with open_workdir(workdir, identity, shared=True) as folder:
        work(folder)
    try:
        with open_workdir(workdir, identity) as folder:
            # Nobody else is at work: what is left is of processes that died.
            trials = work(folder)
            return _conclude(config, folder, plan, execution, trials, prepared)
    except FolderBusy:
        execution.progress.say("done here; others are at work, and the last one writes the report.")
        return None


def _best_points(config: ConfigDict, space: Space, told: Sequence[Told]) -> list[Told]:
    """The points that are trained again, each once: the best, and the config's own settings."""
    ranked = sorted((own for own in told if own.score is not None), key=lambda own: -own.score)
    ranked += [own for own in told if "stopped" in own.details]
    each: dict[str, Told] = {}
    for own in ranked:
        each.setdefault(create_member(config, complete(own.point, config), 0).point, own)
    best, own = list(each.values()), own_point(config, space)
    first = [point for point in best if point.score is not None][:FINALISTS]
    return first + [point for point in best[len(first) :] if point.point == own]


def explain_no_other_dev(config: ConfigDict, corpus: Corpus, start: Start | None = None) -> str:
    """Why the best points are not trained with other dialogues as dev; empty where they are."""
    if with_folds(config):
        return "the dev dialogues of the folds differ already"
    dialogues = {name: int((corpus.split == name).sum()) for name in ("train", "dev")}
    if dialogues["dev"] < FEWEST_DEV or dialogues["train"] < TRAIN_PER_DEV * dialogues["dev"]:
        return (
            f"too few dialogues ({dialogues['train']} in train, {dialogues['dev']} in dev; it "
            f"takes {FEWEST_DEV} in dev and {TRAIN_PER_DEV} times as many in train)"
        )
    try:
        check_unseen(corpus)
    except UserError:
        return "an encoder of the features was tuned on the labels of train"
    try:
        if start is not None:
            check_splits(start, [with_other_dev(corpus, 1)])
    except UserError:
        return "the run that members start from has learnt from the dialogues of train"
    return ""


def _conclude(
    config: ConfigDict,
    folder: Workdir,
    plan: Plan,
    execution: Execution,
    trials: Trials,
    prepared: Prepared,
) -> dict[str, Any]:
    """Trains the best points again and writes the report, with the run of the winner."""
    told, say, corpus = trials.told(), execution.progress.say, prepared.corpus
    finalists = _best_points(config, plan.space, told)
    points = [complete(own.point, config) for own in finalists]
    # None of the seeds that chose these points.
    seeds = range(plan.seeds, plan.seeds + plan.best_seeds)
    no_other_dev = explain_no_other_dev(config, corpus, prepared.start)
    other_dev = {"data.other_dev": config.data.other_dev + 1}
    others = [] if no_other_dev else [point | other_dev for point in points]
    if points:
        more = "" if no_other_dev else ", on the dev dialogues and on others"
        say(f"the {len(points)} best points again, with {len(seeds)} other seeds each{more}")
    lines = train_points(config, folder, seeds, [*points, *others], execution) if points else []
    again, on_others = (
        [[line for line in lines if line["settings"] == point] for point in asked]
        for asked in (points, others)
    )
    say("measuring which settings mattered")
    report = create_search_report(
        Searched(config, plan.space, plan.sampler, plan.seeds, plan.best_seeds),
        [own._asdict() for own in told],
        Finalists(
            [own.number for own in finalists],
            _list_scores(again, config.train.select),
            _list_scores(on_others, config.train.select),
            no_other_dev,
        ),
        trials.measure_importance(),
        create_provenance(config, corpus),
    )
    if report["winner"] is not None:
        place = report["finalists"].index(report["winner"])
        report["best"] = points[place]
        best = point_config(config, points[place])
        # Before test is read, so that no look at it goes uncounted.
        identity = {"study": name_study(plan.space, plan.seeds), "points": len(told)}
        chosen = {name: spell_value(value) for name, value in points[place].items()}
        report["looks"] = count_look(folder, {**identity, "settings": chosen})
        write_run(best, folder.path / BEST, chunks(folder), again[place], execution)
        found = Workdir(folder.path / BEST, create=False).read_report()
        report |= {"test": found["test"], "ensemble": found["ensemble"]}
        write_best_config(folder.path / "best.py", best, report)
    write_search_report(folder.path, report)
    return report


def _list_scores(lines: Sequence[Sequence[Mapping[str, Any]]], select: str) -> list[list[Any]]:
    """Per point the dev score of each member, None where one diverged."""
    return [
        [select_score(m["dev"], select) if m["status"] == "ok" else None for m in own]
        for own in lines
    ]
