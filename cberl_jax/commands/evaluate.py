r"""Scores a finished run again, on its own corpus or on another.

cberl evaluate --workdir=runs/meld --data=meld.npz
"""

from absl import flags

from cberl_jax import cli


def define_flags() -> None:
    """Defines the flags of the command."""
    cli.define_data()
    flags.DEFINE_string("workdir", None, "Folder of a finished run.", required=True)


def main() -> None:
    """Prints the scores of the run on the corpus."""
    from cberl_jax.reports.run import format_scores
    from cberl_jax.studies.evaluate import evaluate_run

    print(format_scores(evaluate_run(flags.FLAGS.workdir, flags.FLAGS.data)))
