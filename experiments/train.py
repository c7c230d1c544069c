r"""Trains CBERL with many seeds at once and writes a run's folder.

python experiments/train.py --config=experiments/configs/meld.py --data=meld.npz \
    --workdir=runs/meld --seeds=8 --config.loss.gamma=2

The same command started again goes on from the last checkpoint.
"""

from absl import flags

from cberl_jax import cli
from cberl_jax.reports.run import format_report
from cberl_jax.runtime.progress import show_progress
from cberl_jax.studies.train import train_and_evaluate

CONFIG = cli.define_config()
DATA = cli.define_data()
cli.define_devices()
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
CAUSAL = flags.DEFINE_bool(
    "causal", False, "See no future turn: for live use; short for --config.model.causal=True."
)
SEEDS = flags.DEFINE_integer("seeds", 1, "Number of members; their seeds count from 0.", 1)
FORK = flags.DEFINE_string(
    "fork", None, "Folder of a run that this one starts from, with other settings."
)
PICTURES = flags.DEFINE_boolean("pictures", True, "Whether the report has pictures.")


def main() -> int:
    """Trains and prints the report."""
    config = cli.read_config(CONFIG, DATA)
    config.model.causal |= CAUSAL.value
    with cli.explaining_interrupts():
        seeds, pictures = range(SEEDS.value), PICTURES.value
        report = train_and_evaluate(
            config, WORKDIR.value, seeds, show_progress(), pictures, FORK.value
        )
    print(format_report(report))
    return 0 if report["test"] else 1


if __name__ == "__main__":
    cli.run(main)
