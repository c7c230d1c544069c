r"""Compares two finished runs on test, with intervals and p values.

cberl compare runs/meld runs/meld_without_gan \
    --metrics=weighted_f1,macro_f1,"F1 fear","F1 disgust"
"""

from absl import flags

ARGUMENTS = ("A", "B")


def define_flags() -> None:
    """Defines the flags of the command."""
    flags.DEFINE_list(
        "metrics",
        ["weighted_f1", "macro_f1"],
        "Joined by commas: weighted_f1, macro_f1, accuracy, balanced_accuracy, mean_f1, F1 <class>,"
        " recall <class>. P values are corrected for as many as are named.",
    )


def main(first: str, second: str) -> None:
    """Prints the comparison of two runs' folders."""
    from cberl_jax.evaluation.compare import compare, read_outcome
    from cberl_jax.reports.compare import format_comparison

    runs = read_outcome(first), read_outcome(second)
    print(format_comparison(*runs, compare(*runs, flags.FLAGS.metrics)))
