r"""Compares two models on test, with intervals and p values.

Two finished runs, or a run and a file of predictions:

cberl compare runs/meld runs/meld_without_gan \
    --metrics=weighted_f1,macro_f1,"F1 fear","F1 disgust"
cberl compare runs/meld --predictions=mine.csv --output=comparison.tex

The file has the columns dialogue and utterance (the turn, from 0), and label or a column of
probabilities per class; a column seed tells several trainings apart. Or it is an .npz file with the
arrays dialogue, utterance, and probability or label.
"""

from absl import flags

from cberl_jax.errors import UserError

ARGUMENTS = ("A", "[B]")


def define_flags() -> None:
    """Defines the flags of the command."""
    flags.DEFINE_list(
        "metrics",
        ["weighted_f1", "macro_f1"],
        "Joined by commas: weighted_f1, macro_f1, accuracy, balanced_accuracy, mean_f1, F1 <class>,"
        " recall <class>. P values are corrected for as many as are named.",
    )
    flags.DEFINE_string(
        "predictions", None, "Test predictions of another model, .csv or .npz, in place of B."
    )
    flags.DEFINE_string("output", None, "File to write or replace: .md, .json or .tex.")


def main(first: str, second: str | None = None) -> None:
    """Prints the comparison of two runs' folders, or of one and a file."""
    from cberl_jax.evaluation.compare import compare
    from cberl_jax.evaluation.outcomes import read_outcome
    from cberl_jax.evaluation.outside import read_predictions
    from cberl_jax.reports.compare import check_ending, format_comparison, write_comparison

    given = flags.FLAGS
    if (second is None) == (given.predictions is None):
        raise UserError("name a second run B, or --predictions, a file in its place")
    if given.output is not None:
        check_ending(given.output)
    run = read_outcome(first)
    other = read_outcome(second) if second else read_predictions(given.predictions, run)
    lines = compare(run, other, given.metrics)
    print(format_comparison(run, other, lines))
    if given.output is not None:
        write_comparison(given.output, run, other, lines)
        print(f"written: {given.output}")
