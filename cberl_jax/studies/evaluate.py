"""A finished run scored again, on its own corpus or on another one."""

from typing import Any

from cberl_jax.evaluation.predict_splits import predict_splits, score_members
from cberl_jax.reports.provenance import create_provenance
from cberl_jax.reports.run import TrainingData, create_report
from cberl_jax.runtime.workdir import Workdir
from cberl_jax.serving.restore import restore_run
from cberl_jax.training.outcome import member_states
from cberl_jax.training.prepare import check_labelled


def evaluate_run(workdir: str, data: str | None = None) -> dict[str, Any]:
    """Scores a run's kept parameters again.

    Args:
      workdir: the run's folder.
      data: the corpus; by default the one the run was trained on.

    Returns:
      A report; its ``timing`` is empty, and its ``augmentation`` is what the run has learnt from.

    Raises:
      UserError: as of ``restore_run``, or dev has no labelled utterance.
    """
    run = restore_run(workdir, data)
    for corpus in run.splits.corpora:
        check_labelled(corpus, ("dev",))
    states = member_states(run.state)
    if data is not None:
        # The best epoch on the run's own test split is no figure of another corpus.
        states = [{n: v for n, v in state.items() if n != "best_on_test"} for state in states]
    corpus_bytes = run.config.train.corpus_bytes
    learnt = Workdir(workdir, create=False).read_report()
    predictions = predict_splits(run.fleet, run.state, run.splits, run.standardiser, corpus_bytes)
    report = create_report(
        TrainingData(run.corpus, run.splits, run.generated),
        score_members(run.members, states, predictions, run.corpus.classes),
        predictions,
        causal=run.config.model.causal,
        timing={},
        provenance=create_provenance(run.config, run.corpus),
    )
    # A chunk of a sweep has none.
    return report | {n: learnt[n] for n in ("augmentation",) if n in learnt}
