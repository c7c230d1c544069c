r"""Fits classifiers of scikit-learn to a corpus, for comparison.

cberl baselines --config=meld --data=meld.npz --out=runs/baselines

The scores are what the features give without CBERL. ``--ceiling`` adds what the same classifiers
reach on test dialogues after they have learnt from other test dialogues too: no result, but it
shows whether a difference between the splits keeps the scores down.
"""

from absl import flags

from cberl_jax import cli


def define_flags() -> None:
    """Defines the flags of the command."""
    from cberl_jax.evaluation.baselines import KINDS

    cli.define_config()
    cli.define_data()
    flags.DEFINE_string("out", None, "Folder of baselines.json and .md.", required=True)
    flags.DEFINE_multi_enum("kinds", list(KINDS), list(KINDS), "Which classifiers.")
    flags.DEFINE_boolean(
        "ceiling",
        False,
        "Also what they make of test once they have learnt from test dialogues too.",
    )


def main() -> None:
    """Fits and prints the table."""
    from cberl_jax.evaluation.baselines import measure_baselines
    from cberl_jax.reports.baselines import format_baselines, write_baselines
    from cberl_jax.runtime.progress import print_now
    from cberl_jax.runtime.workdir import Workdir

    given = flags.FLAGS
    config = cli.read_settings()
    folder = Workdir(given.out)
    report = measure_baselines(config, given.kinds, print_now, given.ceiling)
    write_baselines(folder, report)
    cli.show_report(format_baselines(report), given.out, "baselines.md")
