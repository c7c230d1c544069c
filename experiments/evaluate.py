r"""Scores a finished run again, from its checkpoint, on the corpus it was trained on or another.

python experiments/evaluate.py --workdir=runs/meld --data=meld.npz
"""

from absl import flags

from cberl_jax import cli
from cberl_jax.reports.run import format_report
from cberl_jax.studies.evaluate import evaluate_run

DATA = cli.define_data()
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a finished run.", required=True)


def main() -> None:
    """Prints the report of the run on the corpus."""
    print(format_report(evaluate_run(WORKDIR.value, DATA.value)))


if __name__ == "__main__":
    cli.run(main)
