"""An ablation: variants trained with the same seeds, and compared with one of them on test.

The members are those of a sweep over the variants' settings (``sweep.py``), so an ablation is as
durable as one; what is compared, and how, is in ``ablation_report.py``.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from cberl_jax.config.grid import Point, point_config
from cberl_jax.config.variants import Preset, Variant
from cberl_jax.data.augmentation import name_minority
from cberl_jax.evaluation.outcomes import Outcome
from cberl_jax.reports.ablation import REFERENCE, create_ablation_report, write_ablation_report
from cberl_jax.reports.provenance import create_provenance
from cberl_jax.runtime import processes
from cberl_jax.runtime.progress import PLAIN, Progress
from cberl_jax.runtime.workdir import Workdir
from cberl_jax.studies.best_point import write_point_run
from cberl_jax.studies.sweep import best_at, check_points, chunks, read_members, train_points
from cberl_jax.training.prepare import check_labelled, load_data, prepare
from cberl_jax.training.run_folder import open_workdir, run_identity


def read_variant(
    folder: Workdir, variant: Variant, lines: Sequence[Mapping[str, Any]]
) -> tuple[list[Mapping[str, Any]], Outcome | None]:
    """The members of a variant, and what the sound ones predicted on test.

    Args:
      folder: of the ablation.
      variant: the variant.
      lines: of all members, from ``train_points``.

    Returns:
      Its lines, and the outcome, None where all members have diverged.
    """
    own = [line for line in lines if line["settings"] == variant.settings]
    sound = [line for line in own if line["status"] == "ok"]
    return own, read_members(folder, variant.name, sound)


def list_points(preset: Preset) -> list[Point]:
    """The different settings of the variants, in an order that does not depend on theirs."""
    spelt = {json.dumps(v.settings, sort_keys=True): v.settings for v in preset.variants}
    return [spelt[key] for key in sorted(spelt)]


def ablate(
    config: ConfigDict,
    workdir: str,
    seeds: Sequence[int],
    preset: Preset,
    members_per_device: int | None = None,
    progress: Progress = PLAIN,
    pictures: bool = True,
) -> dict[str, Any]:
    """Trains every seed of every variant and compares them; goes on with an ablation that is there.

    Args:
      config: the settings that the variants start from.
      workdir: the ablation's folder.
      seeds: different from each other; every variant has them all.
      preset: the variants, from ``choose_variants``.
      members_per_device: how many members a device trains at a time; by default as many as fit.
      progress: shows how far it is.
      pictures: whether the report of the reference has pictures, which take some seconds.

    Returns:
      The contents of ``ablation.json``.

    Raises:
      UserError: a setting, the corpus or the folder is at fault.
      Interrupted: SIGTERM or Ctrl-C; a checkpoint is written.
    """
    points = list_points(preset)
    check_points(config, points)
    corpus = load_data(config)
    check_labelled(corpus)
    prepared = prepare(config, corpus)
    if config.augment.method != "none" and not prepared.generated.any():
        share = f"{config.augment.balance:g}"
        progress.say(f"nothing is generated: no class has under {share} of the largest")
    # A name does not change what is trained, so a variant may be renamed.
    identity = run_identity(config, prepared, seeds) | {"points": points}
    best = best_at(config)
    with open_workdir(workdir, identity) as folder:
        lines = train_points(config, folder, seeds, points, members_per_device, progress)
        report = create_ablation_report(
            corpus.source,
            preset,
            {variant.name: read_variant(folder, variant, lines) for variant in preset.variants},
            name_minority(corpus, config.augment.balance),
            {variant.name: best(variant.settings) for variant in preset.variants},
            create_provenance(config, corpus),
        )
        if processes.is_main():
            write_ablation_report(folder.path, report)
        settings = next(v.settings for v in preset.variants if v.name == preset.reference)
        own = [line for line in lines if line["settings"] == settings]
        if any(line["status"] == "ok" for line in own):
            reference = point_config(config, settings)
            path = folder.path / REFERENCE
            write_point_run(reference, path, chunks(folder), own, progress, pictures)
    return report
