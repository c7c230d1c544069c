"""The report of an ablation: variants against their reference, as figures, tables and a picture.

Scores are means over members with Student's interval; differences are those of ``compare.py``, a
bootstrap over dialogues and seeds, in pairs: the members of two variants share their seeds.
"""

import csv
import io
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cberl_jax.config.grid import spell_point
from cberl_jax.config.variants import Preset
from cberl_jax.evaluation.compare import Outcome, compare, confusions, holm, named_scores
from cberl_jax.metrics import summarise
from cberl_jax.reports.html import plain, write_page
from cberl_jax.reports.plots.ablation import draw_forest
from cberl_jax.reports.tables import BAYES_METRICS, TITLES, format_mean, format_shares, format_table
from cberl_jax.runtime.files import write_json, write_text

MAIN_METRICS = ("weighted_f1", "macro_f1", "balanced_accuracy")
DEV_METRICS = ("weighted_f1", "macro_f1")
SIGNIFICANT = 0.05
PICTURE = "ablation.png"
# The folder of the reference's run, in the ablation's.
REFERENCE = "reference"
# Members of a variant, as ``score_members`` gives them, and what the sound ones predicted.
Found = tuple[Sequence[Mapping[str, Any]], Outcome | None]


def create_ablation_report(
    corpus: str,
    preset: Preset,
    found: Mapping[str, Found],
    minority: Sequence[str],
    bayes: Mapping[str, Mapping[str, Mapping[str, float]] | None],
) -> dict[str, Any]:
    """Sums up the variants and compares each with the reference.

    Args:
      corpus: its source.
      preset: the variants and their reference.
      found: variant -> its members.
      minority: names of the minority classes.
      bayes: variant -> ``best_possible`` with what it sees.

    Returns:
      The contents of ``ablation.json``. ``p_holm`` of a difference is corrected for as many
      variants as are compared in that metric.
    """
    metrics = [*MAIN_METRICS, *(f"{kind} {name}" for name in minority for kind in ("F1", "recall"))]
    reference = found[preset.reference][1]
    lines = [
        _create_line(variant.name, variant.settings, found[variant.name], metrics, reference)
        | {"bayes": bayes[variant.name]}
        for variant in preset.variants
    ]
    for name in metrics:
        compared = [line["difference"][name] for line in lines if line["difference"]]
        for difference, p in zip(compared, holm([d["p"] for d in compared])):
            difference["p_holm"] = float(p)
    return {
        "corpus": corpus,
        "reference": preset.reference,
        "minority": list(minority),
        "metrics": metrics,
        "variants": lines,
    }


def _create_line(
    name: str,
    settings: Mapping[str, Any],
    found: Found,
    metrics: Sequence[str],
    reference: Outcome | None,
) -> dict[str, Any]:
    """One entry of ``variants``; None for the figures of a variant that has all diverged."""
    members, outcome = found
    sound = [member for member in members if member["status"] == "ok"]
    line = {
        "name": name,
        "settings": dict(settings),
        "seeds": [member["seed"] for member in members],
        "diverged": len(members) - len(sound),
        **dict.fromkeys(("dev", "test", "ensemble", "difference")),
    }
    if outcome is None:
        return line
    line["dev"] = {n: summarise([member["dev"][n] for member in sound]) for n in DEV_METRICS}
    scores = _scores(outcome.probability, outcome)
    wanted = ["accuracy", *metrics]
    line["test"] = {n: summarise(scores[n]) for n in wanted}
    together = _scores(outcome.probability.mean(axis=0, keepdims=True), outcome)
    line["ensemble"] = {n: float(together[n][0]) for n in wanted}
    if reference is not None and name != reference.name:
        line["difference"] = _compare_with(outcome, reference, metrics)
    return line


def _scores(probability: np.ndarray, outcome: Outcome) -> dict[str, np.ndarray]:
    """Metric -> [S] of probabilities [S, n, C]."""
    counts = confusions(probability, outcome.label, outcome.dialogue)
    return named_scores(counts.sum(axis=0), outcome.classes)


def _compare_with(
    outcome: Outcome, reference: Outcome, metrics: Sequence[str]
) -> dict[str, dict[str, Any]] | None:
    """Metric -> difference to the reference, over the seeds that are sound in both."""
    common = np.intersect1d(outcome.seeds, reference.seeds)
    if not len(common):
        return None
    pair = []
    for one in (outcome, reference):
        place = {seed: i for i, seed in enumerate(one.seeds.tolist())}
        own = one.probability[[place[seed] for seed in common.tolist()]]
        pair.append(one._replace(seeds=common, probability=own))
    lines = compare(*pair, metrics)
    return {
        line["metric"]: {"mean": line["difference"], "ci95": line["ci95"], "p": line["p"]}
        for line in lines
        if line["kind"] == "members"
    }


def _title(metric: str) -> str:
    return TITLES.get(metric, metric)


def _column(metric: str) -> str:
    """The title of a metric at the head of a table."""
    return plain(_title(metric))


def _gap(difference: Mapping[str, Any]) -> str:
    star = " *" if difference["p_holm"] < SIGNIFICANT else ""
    return format_mean(difference, "+.3f") + star


def _score_table(report: Mapping[str, Any]) -> str:
    metrics = report["metrics"]
    head = ["variant", *(f"dev {_title(n)}" for n in DEV_METRICS), *map(_column, metrics)]
    rows = []
    for line in report["variants"]:
        if line["test"] is None:
            rows.append([plain(line["name"]), *["diverged"] * (len(head) - 1)])
            continue
        dev = [f"{line['dev'][n]['mean']:.3f}" for n in DEV_METRICS]
        rows.append([plain(line["name"]), *dev, *(format_mean(line["test"][n]) for n in metrics)])
    return format_table(head, rows)


def _difference_table(report: Mapping[str, Any]) -> str:
    metrics = report["metrics"]
    rows = [
        [plain(line["name"]), *(_gap(line["difference"][n]) for n in metrics)]
        for line in report["variants"]
        if line["difference"]
    ]
    return format_table(["variant", *map(_column, metrics)], rows)


def _ensemble_table(report: Mapping[str, Any]) -> str:
    metrics = report["metrics"]
    rows = [
        [plain(line["name"]), *(f"{line['ensemble'][n]:.3f}" for n in metrics)]
        for line in report["variants"]
        if line["ensemble"]
    ]
    return format_table(["variant", *map(_column, metrics)], rows)


def _shares(report: Mapping[str, Any]) -> str:
    return format_shares(
        ["variant"],
        [
            ([plain(x["name"])], {n: x["test"][n]["mean"] for n in BAYES_METRICS}, x["bayes"])
            for x in report["variants"]
            if x["test"]
        ],
    )


def format_ablation(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    reference, lines = report["reference"], report["variants"]
    seeds = len(lines[0]["seeds"])
    parts = [
        f"# {plain(report['corpus'])}: {len(lines)} variants, {seeds} seeds each",
        "Test split, epochs chosen on dev. Mean [95 % interval of the mean] over seeds.",
        _score_table(report),
    ]
    if next(line["test"] for line in lines if line["name"] == reference):
        parts.append(f"The members of {plain(reference)} are a run of their own in `{REFERENCE}/`.")
    if any(line["difference"] for line in lines):
        parts += [
            f"## Difference to: {plain(reference)}",
            "Mean [95 % interval], bootstrap over dialogues and seeds, in pairs; a star: p < "
            f"{SIGNIFICANT} after Holm's correction for the variants of a column. The picture's "
            "colours follow the interval alone.",
            _difference_table(report),
            f"![differences]({PICTURE})",
        ]
    if any(line["ensemble"] for line in lines):
        parts += ["## Ensembles", "Probabilities averaged over seeds.", _ensemble_table(report)]
    if lines[0]["bayes"]:
        parts.append(_shares(report))
    listed = "\n".join(
        f"- {plain(line['name'])}: {plain(spell_point(line['settings'])) or 'the config itself'}"
        + (f"; {line['diverged']} of {seeds} members diverged" if line["diverged"] else "")
        for line in lines
    )
    parts += ["## Settings", listed]
    return "\n\n".join(parts) + "\n"


def format_csv(report: Mapping[str, Any]) -> str:
    """A line per variant and metric: scores, intervals, differences."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ends = ["low", "high"]
    writer.writerow(
        ["variant", "seeds", "diverged", "metric", "mean", *ends, "ensemble"]
        + ["difference", *(f"difference_{end}" for end in ends), "p", "p_holm"]
    )
    for line in report["variants"]:
        for name in report["metrics"]:
            row = [line["name"], len(line["seeds"]), line["diverged"], name]
            if line["test"]:
                test = line["test"][name]
                row += [test["mean"], *(test["ci95"] or ["", ""]), line["ensemble"][name]]
            if line["difference"]:
                gap = line["difference"][name]
                row += [gap["mean"], *gap["ci95"], gap["p"], gap["p_holm"]]
            writer.writerow(row + [""] * (13 - len(row)))
    return text.getvalue()


def format_latex(report: Mapping[str, Any]) -> str:
    """Two tables for a paper, in per cent: scores, and differences with their paired intervals.

    Scores have half of Student's interval over seeds. The package booktabs is needed.
    """
    lines = report["variants"]
    scores = [
        [line["name"], *(_latex_score(line["test"] and line["test"][n]) for n in report["metrics"])]
        for line in lines
    ]
    differences = [
        [line["name"], *(_latex_gap(line["difference"][n]) for n in report["metrics"])]
        for line in lines
        if line["difference"]
    ]
    titles = ["", *map(_title, report["metrics"])]
    tables = [_tabular(titles, scores)]
    if differences:
        titles[0] = f"difference to: {report['reference']}"
        tables.append(_tabular(titles, differences))
    return "\n".join(tables)


def _tabular(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A tabular; the first column and the head are escaped, the cells are LaTeX already."""
    body = [" & ".join([_escape(row[0]), *row[1:]]) + r" \\" for row in rows]
    top = [r"\begin{tabular}{l" + "r" * (len(head) - 1) + "}", r"\toprule"]
    title = " & ".join(map(_escape, head)) + r" \\"
    end = [r"\bottomrule", r"\end{tabular}", ""]
    return "\n".join([*top, title, r"\midrule", *body, *end])


def _latex_score(summary: Mapping[str, Any] | None) -> str:
    if summary is None:
        return "--"
    mean = f"{100 * summary['mean']:.1f}"
    if summary["ci95"] is None:
        return mean
    half = (summary["ci95"][1] - summary["ci95"][0]) / 2
    return rf"{mean} $\pm$ {100 * half:.1f}"


def _latex_gap(difference: Mapping[str, Any]) -> str:
    low, high = (100 * end for end in difference["ci95"])
    return rf"${100 * difference['mean']:+.1f}$ [${low:+.1f}$, ${high:+.1f}$]"


def _escape(text: str) -> str:
    special = {c: "\\" + c for c in "&%$#_{}"} | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
    return "".join(special.get(c, c) for c in text)


def write_ablation_report(folder: pathlib.Path, report: Mapping[str, Any]) -> None:
    """Writes the picture and the tables, and last, when all is there, ``ablation.json``."""
    compared = [line for line in report["variants"] if line["difference"]]
    if compared:
        shown = [n for n in report["metrics"] if not n.startswith("recall ")]
        panels = {_title(n): [line["difference"][n] for line in compared] for n in shown}
        names = [line["name"] for line in compared]
        draw_forest(folder / PICTURE, names, panels, report["reference"])
    text = format_ablation(report)
    write_text(folder / "ablation.md", text)
    write_page(folder / "ablation.html", text, [PICTURE] if compared else [])
    write_text(folder / "ablation.csv", format_csv(report))
    write_text(folder / "ablation.tex", format_latex(report))
    write_json(folder / "ablation.json", report)
