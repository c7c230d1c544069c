r"""Trains CBERL and its variants with the same seeds and compares them on test.

python experiments/ablate.py --config=experiments/configs/meld.py --data=meld.npz \
    --workdir=runs/ablation --seeds=16 --preset=parts

``parts`` takes away a part or a modality at a time, ``remedies`` compares the GAN with every usual
remedy for imbalance, ``sizes`` trains on ever fewer dialogues. The same command started again does
what is missing.
"""

from absl import flags

from cberl_jax import cli
from cberl_jax.config.variants import PRESETS, choose_variants, list_variants, read_variants
from cberl_jax.reports.ablation import format_ablation
from cberl_jax.runtime.progress import show_progress
from cberl_jax.studies.ablation import ablate
from cberl_jax.training.prepare import load_data

CONFIG = cli.define_config()
DATA = cli.define_data()
cli.define_devices()
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the ablation.", required=True)
SEEDS = flags.DEFINE_integer("seeds", 1, "Seeds of every variant; they count from 0.", 1)
PRESET = flags.DEFINE_enum("preset", "parts", PRESETS, "What is compared.")
VARIANTS = flags.DEFINE_list(
    "variants", None, "Names of the preset's variants to run, joined by commas; by default all."
)
OWN = flags.DEFINE_string(
    "own", None, 'JSON file with further variants: {"name": {"loss.gamma": 3}, ...}.'
)
MEMBERS = flags.DEFINE_integer(
    "members_per_device", None, "Members trained at a time; by default as many as fit.", 1
)
PICTURES = flags.DEFINE_boolean(
    "pictures", True, "Whether the report of the reference has pictures."
)


def main() -> int:
    """Trains, compares and prints the tables."""
    config = cli.read_config(CONFIG, DATA)
    preset = list_variants(PRESET.value, config, load_data(config).modalities)
    own = read_variants(OWN.value) if OWN.value else []
    preset = choose_variants(preset, own, VARIANTS.value, config)
    with cli.explaining_interrupts():
        seeds, progress = range(SEEDS.value), show_progress()
        report = ablate(
            config, WORKDIR.value, seeds, preset, MEMBERS.value, progress, PICTURES.value
        )
    print(format_ablation(report))
    return 0 if any(line["test"] for line in report["variants"]) else 1


if __name__ == "__main__":
    cli.run(main)
