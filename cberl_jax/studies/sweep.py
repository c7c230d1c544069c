"""A sweep: every seed at every point of a grid, compared on dev (section 4)."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from cberl_jax.config.grid import Point, expand, point_config
from cberl_jax.config.settings import Value, with_folds
from cberl_jax.data.bayes import best_possible
from cberl_jax.data.folds import pool_splits
from cberl_jax.data.simulate import SIMULATED
from cberl_jax.evaluation.bootstrap import summarise_models
from cberl_jax.reports.provenance import create_provenance
from cberl_jax.reports.sweep import BEST, create_sweep_report, write_sweep_report
from cberl_jax.runtime import processes
from cberl_jax.runtime.workdir import Workdir
from cberl_jax.studies.points import ALONE, Execution, carry_out, check_points, chunks, read_members
from cberl_jax.studies.starting import prepare_members
from cberl_jax.studies.write_run import write_run
from cberl_jax.training.prepare import load_data
from cberl_jax.training.run_folder import study_identity


def best_at(config: ConfigDict) -> Callable[[Point], dict[str, dict[str, float]] | None]:
    """A function: a point -> ``best_possible`` with the modalities and turns its members see."""
    if not config.data.path.startswith(SIMULATED):
        # Nothing is known of it, so there is no need to read it.
        return lambda point: None

    @functools.cache
    def best_with(modalities: str, causal: bool) -> dict[str, dict[str, float]]:
        corpus = load_data(point_config(config, {"data.modalities": modalities}))
        if with_folds(config):
            corpus = pool_splits(corpus, "test")
        return best_possible(corpus, causal)

    return lambda point: best_with(
        point.get("data.modalities", config.data.modalities),
        point.get("model.causal", config.model.causal),
    )


def _score_test(folder: Workdir, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``summarise_models`` of sound members."""
    found = read_members(folder, "members", lines)
    return summarise_models(found.probability, found.label, found.dialogue, found.classes)


def sweep(
    config: ConfigDict,
    workdir: str,
    seeds: Sequence[int],
    grid: Mapping[str, Sequence[Value]],
    execution: Execution = ALONE,
) -> dict[str, Any] | None:
    """Trains every seed at every point of a grid; what the folder has already is not trained again.

    Args:
      config: the settings that the grid starts from.
      workdir: the sweep's folder; that of an earlier sweep of this config grows.
      seeds: different from each other; every point has them all.
      grid: setting -> values (``grid.parse_grid``).
      execution: how it is carried out.

    Returns:
      The contents of ``sweep.json``; None where parts of it are still to be trained.

    Raises:
      UserError: a setting, the corpus or the folder is at fault.
      Interrupted: SIGTERM or Ctrl-C; a checkpoint is written.
    """
    points = expand(grid)
    check_points(config, points, execution)
    prepared = prepare_members(config, load_data(config))

    def report(folder: Workdir, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        found = create_sweep_report(
            grid,
            lines,
            config.train.select,
            best_at(config),
            functools.partial(_score_test, folder),
            create_provenance(config, prepared.corpus),
        )
        if processes.is_main():
            write_sweep_report(folder.path, found)
        if found["best"] is not None:
            own = [line for line in lines if line["settings"] == found["best"]]
            best = point_config(config, found["best"])
            write_run(best, folder.path / BEST, chunks(folder), own, execution)
        return found

    identity = study_identity(config, prepared)
    return carry_out(config, workdir, identity, seeds, points, execution, report)
