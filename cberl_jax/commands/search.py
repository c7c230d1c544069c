r"""Searches for the settings that are best on dev, by Optuna.

cberl search --config=default --data=mine.npz --workdir=runs/search --trials=256 --seeds=2

Many points are trained together. The same command started again goes on; started several times it
shares the work. The ten best points are trained again with other seeds; test is read once, for the
winner of these.
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
    cli.define_workdir("Folder of the search.")
    flags.DEFINE_integer("trials", None, "Points in all.", 1)
    flags.DEFINE_float("hours", None, "Time after which no more points are begun.", 0.0)
    flags.DEFINE_integer("seeds", 2, "Seeds at every point; its score is their mean.", 1)
    flags.DEFINE_string("sampler", "tpe", "What chooses the points: tpe, random, qmc or cmaes.")
    flags.DEFINE_string(
        "space", None, "A Python file whose get_space() says where to look; docs/search.md."
    )
    flags.DEFINE_multi_string(
        "fix", [], "setting=value: this setting has this value at every point."
    )
    flags.DEFINE_integer(
        "batch",
        None,
        "Points that are chosen together; by default a sixteenth, 8 to 32.",
        1,
    )
    flags.DEFINE_boolean(
        "halving",
        False,
        "Stop the worse half of a batch after an eighth of the epochs, and half of the others "
        "after a quarter and after a half of them.",
    )
    flags.DEFINE_integer("best_seeds", 8, "Seeds with which the best points are trained again.", 1)
    flags.DEFINE_string(
        "storage", None, "URL of the study as Optuna takes it; by default a file in --workdir."
    )
    flags.DEFINE_integer("sampler_seed", 0, "Seed of the sampler.", 0)
    flags.DEFINE_integer(
        "members_per_device", None, "Members trained at a time; by default as many as fit.", 1
    )
    cli.define_encoders("the winner")
    flags.DEFINE_boolean("pictures", True, "Whether the report of the winner has pictures.")


def main() -> int:
    """Searches and prints the tables."""
    from cberl_jax.config.presets import change
    from cberl_jax.config.space import default_space, parse_fixed, read_space
    from cberl_jax.reports.search import format_scores
    from cberl_jax.runtime.progress import show_progress
    from cberl_jax.studies.points import Execution
    from cberl_jax.studies.search import search
    from cberl_jax.studies.search_plan import Plan

    given = flags.FLAGS
    fixed = parse_fixed(given.fix)
    config = change(cli.read_settings(), fixed)
    space = read_space(given.space) if given.space else default_space(config, fixed)
    space = {name: own for name, own in space.items() if name not in fixed}
    plan = Plan(
        space,
        given.trials,
        given.hours,
        given.seeds,
        given.sampler,
        given.batch,
        given.best_seeds,
        given.storage,
        given.sampler_seed,
        given.halving,
    )
    execution = Execution(
        given.members_per_device,
        progress=show_progress(),
        pictures=given.pictures,
        encoders=given.encoders,
    )
    with cli.explaining_interrupts():
        report = search(config, given.workdir, plan, execution)
    if report is None:
        return 0
    cli.show_report(format_scores(report), given.workdir, "search.html")
    return 0 if report["winner"] is not None else 1
