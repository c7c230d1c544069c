r"""Trains CBERL and its variants, and compares them on test.

cberl ablate --config=meld --data=meld.npz --workdir=runs/ablation --seeds=16 \
    --preset=parts

``parts`` takes away a part, a view or a modality at a time, ``remedies`` compares the GAN with
every usual remedy for imbalance, ``sizes`` trains on ever fewer dialogues. All have the same seeds.
The same command started again does what is missing; with more seeds or variants it trains what is
new. Several jobs share the work by --part=1/8, --part=2/8, ...
"""

from absl import flags

from cberl_jax import cli
from cberl_jax.commands import jobs


def define_flags() -> None:
    """Defines the flags of the command."""
    from cberl_jax.config.variants import PRESETS

    cli.define_config()
    cli.define_data()
    cli.define_folds()
    cli.define_start()
    cli.define_devices()
    cli.define_workdir("Folder of the ablation.")
    flags.DEFINE_integer("seeds", 1, "Seeds of every variant; they count from 0.", 1)
    flags.DEFINE_enum("preset", "parts", PRESETS, "What is compared.")
    flags.DEFINE_list(
        "variants", None, "Names of the preset's variants to run, joined by commas; by default all."
    )
    flags.DEFINE_string(
        "own", None, 'JSON file with further variants: {"name": {"loss.gamma": 3}, ...}.'
    )
    jobs.define_execution("reference")


def main() -> int:
    """Trains, compares and prints the tables."""
    from cberl_jax.config.variants import choose_variants, list_variants, read_variants
    from cberl_jax.reports.ablation import format_scores
    from cberl_jax.studies.ablation import ablate
    from cberl_jax.training.prepare import load_data

    given = flags.FLAGS
    config = cli.read_settings()
    preset = list_variants(given.preset, config, tuple(load_data(config).features))
    own = read_variants(given.own) if given.own else []
    preset = choose_variants(preset, own, given.variants, config)
    execution = jobs.read_execution()
    if jobs.write_slurm_script():
        return 0
    with cli.explaining_interrupts():
        report = ablate(config, given.workdir, range(given.seeds), preset, execution)
    if report is None:
        return 0
    cli.show_report(format_scores(report), given.workdir, "ablation.html")
    return 0 if any(line["test"] for line in report["variants"]) else 1
