r"""Trains at every combination of settings' values; compares on dev.

Every seed is trained at every point of the grid:

cberl sweep --config=meld --data=meld.npz --workdir=runs/sweep --seeds=16 \
    --grid="loss.gamma=0,0.5,1,2,5" --grid="optim.learning_rate=3e-4,1e-3"

The same command started again does what is missing.
"""

from absl import flags

from cberl_jax import cli


def define_flags() -> None:
    """Defines the flags of the command."""
    cli.define_config()
    cli.define_data()
    cli.define_devices()
    cli.define_workdir("Folder of the sweep.")
    flags.DEFINE_integer("seeds", 1, "Seeds at every point; they count from 0.", 1)
    flags.DEFINE_multi_string(
        "grid", [], "setting=value,value,...; several give every combination."
    )
    flags.DEFINE_integer(
        "members_per_device", None, "Members trained at a time; by default as many as fit.", 1
    )
    flags.DEFINE_boolean("pictures", True, "Whether the report of the best point has pictures.")


def main() -> int:
    """Sweeps and prints the table."""
    from cberl_jax.config.grid import parse_grid
    from cberl_jax.reports.sweep import format_scores
    from cberl_jax.runtime.progress import show_progress
    from cberl_jax.studies.sweep import sweep

    given = flags.FLAGS
    grid = parse_grid(given.grid)
    config = cli.read_settings()
    seeds, progress, most = range(given.seeds), show_progress(), given.members_per_device
    with cli.explaining_interrupts():
        report = sweep(config, given.workdir, seeds, grid, most, progress, given.pictures)
    cli.show_report(format_scores(report), given.workdir, "sweep.html")
    return 0 if report["best"] else 1
