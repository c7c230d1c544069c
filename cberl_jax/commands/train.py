r"""Trains CBERL with many seeds at once and writes a run's folder.

cberl train --config=meld --data=meld.npz --workdir=runs/meld --seeds=8 \
    --config.loss.gamma=2

The same command started again goes on from the last checkpoint.
"""

from absl import flags

from cberl_jax import cli


def define_flags() -> None:
    """Defines the flags of the command."""
    cli.define_config()
    cli.define_data()
    cli.define_folds()
    cli.define_start()
    cli.define_devices()
    cli.define_workdir("Folder of the run.")
    flags.DEFINE_bool(
        "causal", None, "See no future turn: for live use; short for --config.model.causal=True."
    )
    flags.DEFINE_string(
        "metrics",
        None,
        "Also show the curves in tensorboard or wandb, or both, joined by a comma; short for "
        "--config.train.metrics.",
    )
    flags.DEFINE_integer("seeds", 1, "Number of members; their seeds count from 0.", 1)
    flags.DEFINE_string(
        "fork", None, "Folder of a run that this one starts from, with other settings."
    )
    cli.define_encoders("the run")
    flags.DEFINE_boolean("pictures", True, "Whether the report has pictures.")


def main() -> int:
    """Trains and prints the scores."""
    from cberl_jax.reports.run import format_scores
    from cberl_jax.runtime.progress import show_progress
    from cberl_jax.studies.train import train_and_evaluate

    given = flags.FLAGS
    config = cli.read_settings()
    seeds, progress = range(given.seeds), show_progress()
    with cli.explaining_interrupts():
        report = train_and_evaluate(
            config, given.workdir, seeds, progress, given.pictures, given.fork, given.encoders
        )
    cli.show_report(format_scores(report), given.workdir, "report.html")
    return 0 if report["dev"] else 1
