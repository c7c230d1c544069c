"""The report of a run: the figures for programs, the tables for people (section 5)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cberl_jax.data.bayes import bayes_report
from cberl_jax.data.corpus import Corpus
from cberl_jax.data.readers.load import SIMULATED
from cberl_jax.data.simulate import create_process
from cberl_jax.metrics import METRICS, evaluate_predictions, summarise, summarise_members
from cberl_jax.reports.html import plain, write_page
from cberl_jax.runtime.files import write_json, write_text
from cberl_jax.runtime.workdir import Workdir
from cberl_jax.training.prepare import Members

TITLES = {
    "accuracy": "accuracy",
    "weighted_f1": "weighted F1",
    "macro_f1": "macro F1",
    "balanced_accuracy": "balanced accuracy",
    "mean_f1": "mean F1",
}
# Of a simulated corpus, the metrics that a rule made for each gives the best of.
BAYES_METRICS = ("accuracy", "balanced_accuracy")
BAYES_VIEWS = {"full": "best possible", "context_free": "best from single utterances"}
SHARES = (
    "## Share of the best possible\n\n"
    "The exact Bayes result on test, with the modalities that are seen, from whole conversations "
    "and from single utterances."
)


class Picture(NamedTuple):
    """A picture in a report: its file beside the report, its heading, and what it shows."""

    file: str
    title: str
    text: str


def score_members(
    members: Members,
    states: Sequence[Mapping[str, Any]],
    predictions: Mapping[str, np.ndarray],
    classes: Sequence[str],
) -> list[dict[str, Any]]:
    """Scores each member on dev and test.

    Args:
      members: the members.
      states: per member its ``status`` and kept ``epoch``.
      predictions: from ``predict_splits``.
      classes: names of the C classes.

    Returns:
      Per member ``seed``, in a sweep ``settings``, ``status``, ``epoch``, and ``dev`` and ``test``:
      ``evaluate_predictions``, None where it has diverged.
    """
    lines = []
    for number, (seed, settings, state) in enumerate(zip(members.seeds, members.settings, states)):
        line = {"seed": int(seed), **({"settings": dict(settings)} if settings else {}), **state}
        for split in ("dev", "test"):
            line[split] = None
            if state["status"] == "ok":
                label = predictions[f"{split}.label"]
                probability = predictions[f"{split}.probability"][number]
                line[split] = evaluate_predictions(label, probability, classes)
        lines.append(line)
    return lines


def create_report(
    corpus: Corpus,
    members: Sequence[Mapping[str, Any]],
    *,
    generated: np.ndarray,
    timing: Mapping[str, Any],
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """Sums up the members of a run; diverged ones are named and left out of the means.

    Args:
      corpus: the corpus.
      members: from ``score_members``.
      generated: [C] generated utterances per class.
      timing: seconds and bytes.
      versions: of packages.

    Returns:
      The contents of ``report.json``.
    """
    sound = [m for m in members if m["status"] == "ok"]
    real = corpus.class_counts("train")
    return {
        "corpus": corpus.source,
        "classes": list(corpus.classes),
        "members": list(members),
        "test": summarise_members([m["test"] for m in sound]) if sound else None,
        "dev": summarise_members([m["dev"] for m in sound]) if sound else None,
        "best_on_test": _best_on_test(sound),
        "bayes": best_possible(corpus),
        "augmentation": {
            name: {"real": int(real[c]), "generated": int(generated[c])}
            for c, name in enumerate(corpus.classes)
        },
        "timing": dict(timing),
        "versions": dict(versions),
        "pictures": [],
    }


def _best_on_test(sound: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The scores of the epochs that are best on test, None where nobody looked."""
    if not sound or "best_on_test" not in sound[0]:
        return None
    return {name: summarise([m["best_on_test"][name] for m in sound]) for name in METRICS}


def best_possible(corpus: Corpus) -> dict[str, dict[str, float]] | None:
    """The exact Bayes result on the test split of a simulated corpus, None for any other.

    Balanced accuracy is that of the rule made for it, the posterior over the prior; the other
    metrics are those of the most probable class.

    Returns:
      ``full`` (whole conversations) and ``context_free`` (single utterances), each ``METRICS`` ->
      float.
    """
    if not corpus.source.startswith(SIMULATED):
        return None
    best = bayes_report(corpus, create_process())
    rules = {name: "balanced" if name == "balanced_accuracy" else "argmax" for name in METRICS}
    return {
        view: {name: float(best[view][rule][name]) for name, rule in rules.items()}
        for view in ("full", "context_free")
    }


def _cell(summary: Mapping[str, Any]) -> str:
    if summary["ci95"] is None:
        return f"{summary['mean']:.3f}"
    low, high = summary["ci95"]
    return f"{summary['mean']:.3f} ± {summary['std']:.3f} [{low:.3f}, {high:.3f}]"


def format_mean(summary: Mapping[str, Any], form: str = ".3f") -> str:
    """The mean of a summary with its 95 % interval, if it has one."""
    mean = format(summary["mean"], form)
    if summary["ci95"] is None:
        return mean
    low, high = (format(end, form) for end in summary["ci95"])
    return f"{mean} [{low}, {high}]"


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up as plain text."""
    widths = [max(len(row[c]) for row in [head, *rows]) for c in range(len(head))]

    def line(cells):
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths)) + " |"

    return "\n".join([line(head), line(["-" * w for w in widths]), *map(line, rows)])


def format_shares(
    head: Sequence[str],
    rows: Sequence[tuple[Sequence[str], Mapping[str, float], Mapping[str, Mapping[str, float]]]],
) -> str:
    """Test scores as shares of the exact Bayes result: a section in Markdown.

    Args:
      head: titles of the columns that name a row.
      rows: those columns' cells; the scores, by ``BAYES_METRICS``; ``best_possible`` with what was
        seen.
    """
    columns = [(view, name) for name in BAYES_METRICS for view in BAYES_VIEWS]
    titles = [f"{TITLES[name]}, {BAYES_VIEWS[view]}" for view, name in columns]
    body = []
    for names, scores, best in rows:
        shares = ((scores[name] / best[view][name], best[view][name]) for view, name in columns)
        body.append([*names, *(f"{100 * share:.1f} % of {whole:.3f}" for share, whole in shares)])
    return f"{SHARES}\n\n{format_table([*head, *titles], body)}"


def _result_table(report: Mapping[str, Any]) -> str:
    """The metrics on dev and test; where asked for, or simulated, the best on test or possible."""
    head = ["metric", "dev", "test"]
    rows = [[TITLES[n], _cell(report["dev"][n]), _cell(report["test"][n])] for n in METRICS]
    if report["best_on_test"]:
        head.append("best on test (epoch chosen on test)")
        for name, row in zip(METRICS, rows):
            row.append(_cell(report["best_on_test"][name]))
    if report["bayes"]:
        head += ["best from single utterances", "best possible", "share of it"]
        for name, row in zip(METRICS, rows):
            single, best = report["bayes"]["context_free"][name], report["bayes"]["full"][name]
            share = report["test"][name]["mean"] / best
            row += [f"{single:.3f}", f"{best:.3f}", f"{100 * share:.0f} %"]
    return format_table(head, rows)


def _class_table(report: Mapping[str, Any]) -> str:
    """A line per class: scores on test, and how many utterances there were."""
    head = ["class", "precision", "recall", "F1 (test)", "test utterances", "train", "generated"]
    rows = []
    for name, scores in report["test"]["per_class"].items():
        counts = report["augmentation"][name]
        figures = [f"{scores[field]['mean']:.3f}" for field in ("precision", "recall")]
        numbers = (scores["support"], counts["real"], counts["generated"])
        rows.append([plain(name), *figures, _cell(scores["f1"]), *map(str, numbers)])
    return format_table(head, rows)


def _member_table(report: Mapping[str, Any]) -> str:
    """A line per member."""
    head = ["seed", "status", "epoch", *(TITLES[name] for name in METRICS)]
    rows = []
    for member in report["members"]:
        test = member["test"]
        figures = [f"{test[name]:.3f}" if test else "-" for name in METRICS]
        rows.append([str(member["seed"]), member["status"], str(member["epoch"]), *figures])
    return format_table(head, rows)


def _tell_loss(member: Mapping[str, Any]) -> str:
    broke = member["diverged"]
    return f"seed {member['seed']} ({broke['stage']} epoch {broke['epoch']}, {broke['term']})"


def format_report(report: Mapping[str, Any]) -> str:
    """The report as Markdown: results, classes, members, pictures."""
    sound = sum(m["status"] == "ok" for m in report["members"])
    lost = [_tell_loss(m) for m in report["members"] if m["status"] != "ok"]
    parts = [f"# {plain(report['corpus'])}: {sound} of {len(report['members'])} seeds"]
    if lost:
        parts.append(f"Diverged and left out: {', '.join(lost)}.")
    if not sound:
        return "\n\n".join([*parts, "No member is left to report on."]) + "\n"
    parts += [
        "Mean ± standard deviation [95 % interval of the mean] over seeds. The epoch is chosen on "
        "dev; test is read once.",
        _result_table(report),
        _class_table(report),
        _member_table(report),
    ]
    for picture in (Picture(**own) for own in report["pictures"]):
        parts += [f"## {picture.title}", picture.text, f"![{picture.title}]({picture.file})"]
    return "\n\n".join(parts) + "\n"


def write_report(workdir: Workdir, report: Mapping[str, Any]) -> None:
    """Writes ``report.md``, ``report.html`` with the pictures inside, and last ``report.json``."""
    if not workdir.writes:
        return
    text = format_report(report)
    write_text(workdir.report_text, text)
    write_page(workdir.report_page, text, [own["file"] for own in report["pictures"]])
    write_json(workdir.report_file, report)
