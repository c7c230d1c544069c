r"""Trains CBERL and its variants, and compares them on test.

cberl ablate --config=meld --data=meld.npz --workdir=runs/ablation --seeds=16 \
    --preset=parts

``parts`` takes away a part or a modality at a time, ``remedies`` compares the GAN with every usual
remedy for imbalance, ``sizes`` trains on ever fewer dialogues. All have the same seeds. The same
command started again does what is missing.
"""

from absl import flags

from cberl_jax import cli


def define_flags() -> None:
    """Defines the flags of the command."""
    from cberl_jax.config.variants import PRESETS

    cli.define_config()
    cli.define_data()
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
    flags.DEFINE_integer(
        "members_per_device", None, "Members trained at a time; by default as many as fit.", 1
    )
    flags.DEFINE_boolean("pictures", True, "Whether the report of the reference has pictures.")


def main() -> int:
    """Trains, compares and prints the tables."""
    from cberl_jax.config.variants import choose_variants, list_variants, read_variants
    from cberl_jax.reports.ablation import format_scores
    from cberl_jax.runtime.progress import show_progress
    from cberl_jax.studies.ablation import ablate
    from cberl_jax.training.prepare import load_data

    given = flags.FLAGS
    config = cli.read_settings()
    preset = list_variants(given.preset, config, load_data(config).modalities)
    own = read_variants(given.own) if given.own else []
    preset = choose_variants(preset, own, given.variants, config)
    seeds, progress, most = range(given.seeds), show_progress(), given.members_per_device
    with cli.explaining_interrupts():
        report = ablate(config, given.workdir, seeds, preset, most, progress, given.pictures)
    cli.show_report(format_scores(report), given.workdir, "ablation.html")
    return 0 if any(line["test"] for line in report["variants"]) else 1
