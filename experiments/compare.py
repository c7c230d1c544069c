r"""Compares two finished runs on test: differences with intervals and p values.

python experiments/compare.py runs/meld runs/meld_without_gan \
    --metrics=weighted_f1,macro_f1,"F1 fear","F1 disgust"
"""

from absl import flags

from cberl_jax import cli
from cberl_jax.evaluation.compare import compare, read_outcome
from cberl_jax.reports.compare import format_comparison

NAMES = flags.DEFINE_list(
    "metrics",
    ["weighted_f1", "macro_f1"],
    "Joined by commas: weighted_f1, macro_f1, accuracy, balanced_accuracy, mean_f1, F1 <class>, "
    "recall <class>. P values are corrected for as many as are named.",
)


def main(first: str, second: str) -> None:
    """Prints the comparison of two runs' folders."""
    runs = read_outcome(first), read_outcome(second)
    print(format_comparison(*runs, compare(*runs, NAMES.value)))


if __name__ == "__main__":
    cli.run(main, arguments=("A", "B"))
