"""An ablation: variants trained with the same seeds, and compared with one of them on test.

The members are trained like those of a sweep (``points.py``), so an ablation is as durable as one;
what is compared, and how, is in ``reports/ablation.py``.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from cberl_jax.config.grid import Point, point_config
from cberl_jax.config.settings import with_folds
from cberl_jax.config.variants import Preset, Variant, takes_view
from cberl_jax.data.augmentation import name_minority
from cberl_jax.data.corpus import Corpus
from cberl_jax.data.folds import pool_splits
from cberl_jax.evaluation.outcomes import Outcome
from cberl_jax.reports.ablation import REFERENCE, create_ablation_report, write_ablation_report
from cberl_jax.reports.provenance import create_provenance
from cberl_jax.runtime import processes
from cberl_jax.runtime.workdir import Workdir
from cberl_jax.studies.points import ALONE, Execution, carry_out, check_points, chunks, read_members
from cberl_jax.studies.starting import prepare_members
from cberl_jax.studies.sweep import best_at
from cberl_jax.studies.write_run import write_run
from cberl_jax.training.prepare import check_labelled, load_data
from cberl_jax.training.run_folder import study_identity


def read_variant(
    folder: Workdir, variant: Variant, lines: Sequence[Mapping[str, Any]], split: str = "test"
) -> tuple[list[Mapping[str, Any]], Outcome | None]:
    """The members of a variant, and what the sound ones predicted on test, or on dev.

    Args:
      folder: of the ablation.
      variant: the variant.
      lines: of all members, from ``train_points``.
      split: test or dev.

    Returns:
      Its lines, and the outcome, None where all members have diverged.
    """
    own = [line for line in lines if line["settings"] == variant.settings]
    sound = [line for line in own if line["status"] == "ok"]
    return own, read_members(folder, variant.name, sound, split)


def list_points(preset: Preset) -> list[Point]:
    """The different settings of the variants, in an order that does not depend on theirs."""
    spelt = {json.dumps(v.settings, sort_keys=True): v.settings for v in preset.variants}
    return [spelt[key] for key in sorted(spelt)]


def list_minority(config: ConfigDict, corpus: Corpus) -> list[str]:
    """The minority classes that are told of; with folds the file's own splits do not count."""
    learnt = pool_splits(corpus, "train") if with_folds(config) else corpus
    return name_minority(learnt, config.augment.balance)


def ablate(
    config: ConfigDict,
    workdir: str,
    seeds: Sequence[int],
    preset: Preset,
    execution: Execution = ALONE,
) -> dict[str, Any] | None:
    """Trains every seed of every variant and compares them; what is there is not trained again.

    Args:
      config: the settings that the variants start from.
      workdir: the ablation's folder; that of an earlier one of this config grows.
      seeds: different from each other; every variant has them all.
      preset: the variants, from ``choose_variants``.
      execution: how it is carried out.

    Returns:
      The contents of ``ablation.json``; None where parts of it are still to be trained.

    Raises:
      UserError: a setting, the corpus or the folder is at fault.
      Interrupted: SIGTERM or Ctrl-C; a checkpoint is written.
    """
    points = list_points(preset)
    check_points(config, points, execution)
    corpus = load_data(config)
    if not with_folds(config):
        check_labelled(corpus)
    prepared = prepare_members(config, corpus)
    if config.augment.method != "none" and not prepared.generated.any():
        share = f"{config.augment.balance:g}"
        execution.progress.say(f"nothing is generated: no class has under {share} of the largest")
    best = best_at(config)

    def report(folder: Workdir, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        on_dev = [v for v in preset.variants if v.name == preset.reference or takes_view(v)]
        found = create_ablation_report(
            corpus.name,
            preset,
            {variant.name: read_variant(folder, variant, lines) for variant in preset.variants},
            list_minority(config, corpus),
            {variant.name: best(variant.settings) for variant in preset.variants},
            create_provenance(config, corpus),
            {v.name: read_variant(folder, v, lines, "dev")[1] for v in on_dev},
        )
        if processes.is_main():
            write_ablation_report(folder.path, found)
        settings = next(v.settings for v in preset.variants if v.name == preset.reference)
        own = [line for line in lines if line["settings"] == settings]
        if any(line["status"] == "ok" for line in own):
            path = folder.path / REFERENCE
            write_run(point_config(config, settings), path, chunks(folder), own, execution)
        return found

    identity = study_identity(config, prepared)
    return carry_out(config, workdir, identity, seeds, points, execution, report)
