r"""Trains at every combination of settings' values; compares on dev.

Every seed is trained at every point of the grid:

cberl sweep --config=meld --data=meld.npz --workdir=runs/sweep --seeds=16 \
    --grid="loss.gamma=0,0.5,1,2,5" --grid="optim.learning_rate=3e-4,1e-3"

The same command started again does what is missing. With more seeds or more values it trains what
is new. Several jobs share the work by --part=1/8, --part=2/8, ...
"""

from absl import flags

from cberl_jax import cli
from cberl_jax.commands import jobs


def define_flags() -> None:
    """Defines the flags of the command."""
    cli.define_config()
    cli.define_data()
    cli.define_folds()
    cli.define_start()
    cli.define_devices()
    cli.define_workdir("Folder of the sweep.")
    flags.DEFINE_integer("seeds", 1, "Seeds at every point; they count from 0.", 1)
    flags.DEFINE_multi_string(
        "grid", [], "setting=value,value,...; several give every combination."
    )
    jobs.define_execution("best point")


def main() -> int:
    """Sweeps and prints the table."""
    from cberl_jax.config.grid import parse_grid
    from cberl_jax.reports.sweep import format_scores
    from cberl_jax.studies.sweep import sweep

    given = flags.FLAGS
    grid = parse_grid(given.grid)
    config = cli.read_settings()
    execution = jobs.read_execution()
    if jobs.write_slurm_script():
        return 0
    with cli.explaining_interrupts():
        report = sweep(config, given.workdir, range(given.seeds), grid, execution)
    if report is None:
        return 0
    cli.show_report(format_scores(report), given.workdir, "sweep.html")
    return 0 if report["best"] else 1
