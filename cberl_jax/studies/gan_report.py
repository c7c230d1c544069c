"""Reads a finished run and reports on its generated utterances."""

import os
from typing import Any

from threadpoolctl import threadpool_limits

from cberl_jax.data.corpus import fingerprint
from cberl_jax.data.dataset import create_table
from cberl_jax.errors import UserError
from cberl_jax.evaluation.gan_measures import create_gan_report
from cberl_jax.evaluation.generated import GanSamples, create_samples, lay_out
from cberl_jax.reports.gan import GAN_PICTURE, format_gan_report
from cberl_jax.reports.plots.generated import draw_utterances
from cberl_jax.runtime.workdir import Workdir
from cberl_jax.serving.restore import restore_run
from cberl_jax.training.outcome import member_states
from cberl_jax.training.prepare import check_labelled, prepare


def read_run(workdir: str | os.PathLike, data: str | None = None) -> GanSamples:
    """Reads a finished run and makes its generated utterances.

    Args:
      workdir: the run's folder.
      data: where the corpus lies now; by default where it lay in training.

    Raises:
      UserError: there is no finished run, it has no GAN or no sound member, or the corpus is not
        the one it was trained on or has no labels in test.
    """
    run = restore_run(workdir, data)
    corpus, states = run.corpus, member_states(run.state)
    if run.splits.folds:
        raise UserError(
            f"{workdir}: this run has folds; the report needs a run with one train split"
        )
    if run.fleet.program.gan is None:
        raise UserError(f"{workdir}: this run has no GAN, so there is nothing to report on")
    if fingerprint(corpus) != Workdir(workdir, create=False).read_config()["corpus"]:
        raise corpus.error("is not the corpus that this run and its GAN were trained on")
    check_labelled(corpus)
    if all(state["status"] != "ok" for state in states):
        raise UserError(f"{workdir}: all members of this run have diverged")

    table = create_table(corpus, run.standardiser)
    dataset = prepare(run.config, corpus).data._replace(table=table)
    sound = [number for number, state in enumerate(states) if state["status"] == "ok"]
    return create_samples(corpus, dataset, run.fleet.program, run.state, sound, run.standardiser)


def gan_report(workdir: str | os.PathLike, data: str | None = None) -> dict[str, Any]:
    """Reports on the generated utterances of a finished run.

    Writes ``gan_report.png``, ``gan_report.md`` and last, when all is there, ``gan_report.json``
    into the run's folder.

    Args:
      workdir: the run's folder.
      data: where the corpus lies now; by default where it lay in training.

    Returns:
      The report, as in ``gan_report.json``.

    Raises:
      UserError: as of ``read_run``.
    """
    samples = read_run(workdir, data)
    folder = Workdir(workdir, create=False)
    # On a machine with other work to do, threads that wait for each other take far longer than one.
    with threadpool_limits(1):
        report = create_gan_report(samples)
    panels = lay_out(samples)
    if panels:
        draw_utterances(folder.path / GAN_PICTURE, panels)
    report["picture"] = GAN_PICTURE if panels else None
    folder.write_text(folder.path / "gan_report.md", format_gan_report(report))
    folder.write_json(folder.path / "gan_report.json", report)
    return report
