r"""Trains every seed at every combination of some settings' values, and compares them on dev.

python experiments/sweep.py --config=experiments/configs/meld.py --data=meld.npz \
    --workdir=runs/sweep --seeds=16 --grid="loss.gamma=0,0.5,1,2,5" \
    --grid="optim.learning_rate=3e-4,1e-3"

The same command started again does what is missing.
"""

from absl import flags

from cberl_jax import cli
from cberl_jax.config.grid import parse_grid
from cberl_jax.reports.sweep import format_sweep
from cberl_jax.runtime.progress import show_progress
from cberl_jax.studies.sweep import sweep

CONFIG = cli.define_config()
DATA = cli.define_data()
cli.define_devices()
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the sweep.", required=True)
SEEDS = flags.DEFINE_integer("seeds", 1, "Seeds at every point; they count from 0.", 1)
GRID = flags.DEFINE_multi_string(
    "grid", [], "setting=value,value,...; several give every combination."
)
MEMBERS = flags.DEFINE_integer(
    "members_per_device", None, "Members trained at a time; by default as many as fit.", 1
)
PICTURES = flags.DEFINE_boolean(
    "pictures", True, "Whether the report of the best point has pictures."
)


def main() -> int:
    """Sweeps and prints the table."""
    grid = parse_grid(GRID.value)
    config = cli.read_config(CONFIG, DATA)
    with cli.explaining_interrupts():
        seeds, progress = range(SEEDS.value), show_progress()
        report = sweep(config, WORKDIR.value, seeds, grid, MEMBERS.value, progress, PICTURES.value)
    print(format_sweep(report))
    return 0 if report["best"] else 1


if __name__ == "__main__":
    cli.run(main)
