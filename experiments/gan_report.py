r"""Says whether the generated utterances of a finished run are any good.

python experiments/gan_report.py --workdir=runs/meld --data=meld.npz
"""

from absl import flags

from cberl_jax import cli
from cberl_jax.reports.gan import format_gan_report
from cberl_jax.studies.gan_report import gan_report

DATA = cli.define_data()
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished run.", required=True)


def main() -> None:
    """Prints the report and leaves it, with a picture, in the run's folder."""
    print(format_gan_report(gan_report(WORKDIR.value, DATA.value)))


if __name__ == "__main__":
    cli.run(main)
