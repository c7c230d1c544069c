r"""Fits unlike classifiers of scikit-learn to a corpus: what its features give without CBERL.

python experiments/baselines.py --config=experiments/configs/meld.py --data=meld.npz \
    --out=runs/baselines

``--ceiling`` adds what the same classifiers make of test dialogues once they have learnt from other
test dialogues too: no result, but whether a difference between the splits keeps their scores down.
"""

from absl import flags

from cberl_jax import cli
from cberl_jax.evaluation.baselines import KINDS, measure_baselines
from cberl_jax.reports.baselines import format_baselines, write_baselines
from cberl_jax.runtime.progress import print_now
from cberl_jax.runtime.workdir import Workdir

CONFIG = cli.define_config()
DATA = cli.define_data()
OUT = flags.DEFINE_string("out", None, "Folder of baselines.json and .md.", required=True)
CHOSEN = flags.DEFINE_multi_enum("kinds", list(KINDS), list(KINDS), "Which classifiers.")
CEILING = flags.DEFINE_boolean(
    "ceiling", False, "Also what they make of test once they have learnt from test dialogues too."
)


def main() -> None:
    """Fits and prints the table."""
    config = cli.read_config(CONFIG, DATA)
    folder = Workdir(OUT.value)
    report = measure_baselines(config, CHOSEN.value, print_now, CEILING.value)
    write_baselines(folder, report)
    print(format_baselines(report))


if __name__ == "__main__":
    cli.run(main)
