r"""Measures the quality of a finished run's generated utterances.

cberl gan-report --workdir=runs/meld --data=meld.npz
"""

from absl import flags

from cberl_jax import cli


def define_flags() -> None:
    """Defines the flags of the command."""
    cli.define_data()
    flags.DEFINE_string("workdir", None, "Folder of a finished run.", required=True)


def main() -> None:
    """Prints the report and leaves it, with a picture, in the run's folder."""
    from cberl_jax.reports.gan import format_gan_report
    from cberl_jax.studies.gan_report import gan_report

    given = flags.FLAGS
    report = gan_report(given.workdir, given.data)
    cli.show_report(format_gan_report(report), given.workdir, "gan_report.md")
