"""The report of an ablation: variants against their reference, as figures, tables and a picture.

Scores and differences have the intervals of ``evaluation/bootstrap.py``; differences are in pairs,
since the members of two variants share their seeds.
"""

import csv
import io
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cberl_jax.config.grid import spell_point
from cberl_jax.config.variants import Preset
from cberl_jax.evaluation.bootstrap import (
    FEWEST_UTTERANCES,
    class_metric,
    confusions,
    summarise_named,
)
from cberl_jax.evaluation.compare import compare, holm
from cberl_jax.evaluation.outcomes import Outcome, average, count_dialogues
from cberl_jax.metrics import FEWEST_SEEDS, summarise
from cberl_jax.reports import latex
from cberl_jax.reports.html import plain, write_page
from cberl_jax.reports.plots.ablation import draw_forest
from cberl_jax.reports.provenance import format_provenance
from cberl_jax.reports.tables import (
    AVERAGE,
    BAYES_METRICS,
    DEFINITIONS,
    MARK,
    MEMBERS,
    TITLES,
    WHICH_MODEL,
    describe_intervals,
    format_mean,
    format_shares,
    format_spread,
    format_table,
    mark_rare,
)
from cberl_jax.runtime.files import write_json, write_text

MAIN_METRICS = ("weighted_f1", "macro_f1", "balanced_accuracy")
DEV_METRICS = ("weighted_f1", "macro_f1")
SIGNIFICANT = 0.05
PICTURE = "ablation.png"
VIEWS_PICTURE = "views.png"
# The folder of the reference's run, in the ablation's.
REFERENCE = "reference"
# Metrics beside each other in a table.
MOST_COLUMNS = 6
# Members of a variant, as ``score_members`` gives them, and what the sound ones predicted.
Found = tuple[Sequence[Mapping[str, Any]], Outcome | None]


def create_ablation_report(
    corpus: str,
    preset: Preset,
    found: Mapping[str, Found],
    minority: Sequence[str],
    bayes: Mapping[str, Mapping[str, Mapping[str, float]] | None],
    provenance: Mapping[str, Any],
    on_dev: Mapping[str, Outcome | None] = {},
) -> dict[str, Any]:
    """Sums up the variants and compares each with the reference.

    Args:
      corpus: its source.
      preset: the variants and their reference.
      found: variant -> its members.
      minority: names of the minority classes.
      bayes: variant -> ``best_possible`` with what it sees.
      provenance: from ``create_provenance``, of the settings that the variants start from.
      on_dev: the reference and the variants without a view -> what their members predicted on dev.

    Returns:
      The contents of ``ablation.json``. ``p_holm`` of a difference is corrected for as many
      variants as are compared in that metric; ``star`` is whether it is significant, and False
      under ``FEWEST_SEEDS`` common seeds or ``FEWEST_UTTERANCES`` utterances, where intervals do
      not cover.
    """
    support = _count_minority(found, minority)
    held = [name for name in minority if support[name]]
    metrics = [*MAIN_METRICS, *(class_metric(f, n) for n in held for f in ("f1", "recall"))]
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
            difference["star"] = difference["star"] and bool(p < SIGNIFICANT)
    return {
        "corpus": corpus,
        "reference": preset.reference,
        "minority": list(minority),
        "support": support,
        "metrics": metrics,
        "variants": lines,
        "views": _compare_views(on_dev, preset.reference),
        "provenance": dict(provenance),
    }


def _count_minority(found: Mapping[str, Found], minority: Sequence[str]) -> dict[str, int]:
    """Minority class -> labelled test utterances; all variants have the same."""
    outcome = next((own for _, own in found.values() if own is not None), None)
    if outcome is None:
        return dict.fromkeys(minority, 0)
    return {n: int(np.sum(outcome.label == outcome.classes.index(n))) for n in minority}


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
    for key, one in (("test", outcome), ("ensemble", average(outcome))):
        counts = confusions(one.probability, one.label, one.dialogue)
        line[key] = summarise_named(counts, one.classes, ["accuracy", *metrics])
    if reference is not None and name != reference.name:
        line["difference"] = _compare_with(outcome, reference, metrics)
    return line


def _compare_with(
    outcome: Outcome, reference: Outcome, metrics: Sequence[str]
) -> dict[str, dict[str, Any]] | None:
    """Metric -> difference to the reference, over the seeds that are sound in both."""
    common = np.intersect1d(outcome.seeds, reference.seeds)
    if not len(common) or count_dialogues(reference) < 2:
        return None
    pair = []
    for one in (outcome, reference):
        place = {seed: i for i, seed in enumerate(one.seeds.tolist())}
        own = one.probability[[place[seed] for seed in common.tolist()]]
        pair.append(one._replace(seeds=common, probability=own))
    lines = compare(*pair, metrics)
    return {
        line["metric"]: {
            "mean": line["difference"],
            "ci95": line["ci95"],
            "p": line["p"],
            "star": len(common) >= FEWEST_SEEDS and line["support"] >= FEWEST_UTTERANCES,
        }
        for line in lines
        if line["kind"] == "members"
    }


def _compare_views(
    on_dev: Mapping[str, Outcome | None], name: str
) -> dict[str, dict[str, dict[str, Any]]]:
    """Variant without a view -> metric -> difference to the reference on dev."""
    reference = on_dev.get(name)
    gaps = {
        other: outcome and reference and _compare_with(outcome, reference, DEV_METRICS)
        for other, outcome in on_dev.items()
        if other != name
    }
    return {other: gap for other, gap in gaps.items() if gap}


def _title(report: Mapping[str, Any], metric: str) -> str:
    """A metric's title, marked if its class has few test utterances."""
    support = report["support"].get(metric.split(" ", 1)[-1], FEWEST_UTTERANCES)
    return mark_rare(TITLES.get(metric, metric), support)


def _in_parts(metrics: Sequence[str]) -> list[Sequence[str]]:
    """As many metrics as fit a page side by side."""
    return [metrics[n : n + MOST_COLUMNS] for n in range(0, len(metrics), MOST_COLUMNS)]


def _tables(
    report: Mapping[str, Any], key: str, cell: Callable[[Mapping[str, Any]], str], caption: str
) -> list[str]:
    """Tables of one of the figures of all variants: a line per variant, a column per metric."""
    lines = [line for line in report["variants"] if line[key]]
    tables = []
    for metrics in _in_parts(report["metrics"]):
        head = ["variant", *(plain(_title(report, n)) for n in metrics)]
        rows = [[plain(line["name"]), *(cell(line[key][n]) for n in metrics)] for line in lines]
        tables.append(format_table(head, rows, caption))
    return tables


def _gap(difference: Mapping[str, Any]) -> str:
    return format_mean(difference, "+.3f") + (" *" if difference["star"] else "")


def _dev_table(report: Mapping[str, Any]) -> str:
    head = ["variant", *(f"dev {TITLES[n]}" for n in DEV_METRICS), "diverged"]
    rows = [
        [
            plain(line["name"]),
            *(format_spread(line["dev"][n]) if line["dev"] else "diverged" for n in DEV_METRICS),
            f"{line['diverged']} of {len(line['seeds'])}",
        ]
        for line in report["variants"]
    ]
    return format_table(head, rows, f"variants on dev, which chose the epochs: {MEMBERS}.")


def _explain_stars(report: Mapping[str, Any]) -> str:
    most = max(len(line["seeds"]) - line["diverged"] for line in report["variants"])
    if most < FEWEST_SEEDS:
        return (
            f"No stars: under {FEWEST_SEEDS} seeds the intervals are for other dialogues alone and "
            "do not cover what other seeds would give, so nothing is called significant."
        )
    return (
        f"A star: p < {SIGNIFICANT} after Holm's correction for the variants of a column; none "
        f"under {FEWEST_SEEDS} common seeds, nor for a class of under {FEWEST_UTTERANCES} test "
        f"utterances ({MARK})."
    )


def _count_seeds(report: Mapping[str, Any]) -> int:
    """The fewest sound members of a variant that has any."""
    scored = [line for line in report["variants"] if line["test"]]
    return min((len(line["seeds"]) - line["diverged"] for line in scored), default=0)


def _shares(report: Mapping[str, Any]) -> str:
    return format_shares(
        ["variant"],
        [
            ([plain(x["name"])], {n: x["test"][n]["mean"] for n in BAYES_METRICS}, x["bayes"])
            for x in report["variants"]
            if x["test"]
        ],
    )


def _difference_parts(report: Mapping[str, Any]) -> list[str]:
    """The sections that compare the variants with the reference."""
    reference = plain(report["reference"])
    caption = f"differences to {reference} on test: {MEMBERS}."
    return [
        f"## Difference to: {reference}",
        "Mean [95 % interval], in pairs: the same seeds, the same dialogues (bootstrap). "
        f"{_explain_stars(report)} The picture's colours follow the interval alone.",
        *_tables(report, "difference", _gap, caption),
    ]


def _view_parts(report: Mapping[str, Any]) -> list[str]:
    """The section on what each view adds, on dev, where views are chosen; none without views."""
    views = report["views"]
    if not views:
        return []
    reference = plain(report["reference"])
    head = ["variant", *(f"dev {TITLES[n]}" for n in DEV_METRICS)]
    rows = [
        [plain(v), *(format_mean(gap[n], "+.3f") for n in DEV_METRICS)] for v, gap in views.items()
    ]
    return [
        "## What each view adds, on dev",
        f"Difference to {reference}, which has all views: below zero where the view that is taken "
        "away adds to the others. Mean [95 % interval], in pairs: the same seeds, the same "
        "dialogues (bootstrap). Dev chose the epochs, for all variants alike.",
        format_table(head, rows, f"differences to {reference} on dev: {MEMBERS}."),
    ]


def format_ablation(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    reference, lines = report["reference"], report["variants"]
    seeds = len(lines[0]["seeds"])
    parts = [f"# {plain(report['corpus'])}: {len(lines)} variants, {seeds} seeds each"]
    if any(line["test"] for line in lines):
        parts += [WHICH_MODEL, f"{describe_intervals(_count_seeds(report))} {DEFINITIONS}"]
    parts += _tables(report, "test", format_mean, f"variants on test: {MEMBERS}.")
    unseen = [plain(name) for name, count in report["support"].items() if not count]
    if unseen and parts[1:]:
        parts.append(f"Not measured, since the test split has none: {', '.join(unseen)}.")
    parts.append(_dev_table(report))
    if next(line["test"] for line in lines if line["name"] == reference):
        parts.append(f"The members of {plain(reference)} are a run of their own in `{REFERENCE}/`.")
    if any(line["difference"] for line in lines):
        parts += [*_difference_parts(report), f"![differences]({PICTURE})"]
    if report["views"]:
        parts += [*_view_parts(report), f"![what each view adds]({VIEWS_PICTURE})"]
    if any(line["ensemble"] for line in lines):
        parts.append(f"## {AVERAGE.capitalize()}")
        parts += _tables(report, "ensemble", format_mean, f"variants on test: {AVERAGE}.")
    if lines[0]["bayes"]:
        parts.append(_shares(report))
    listed = "\n".join(
        f"- {plain(line['name'])}: {plain(spell_point(line['settings'])) or 'the config itself'}"
        + (f"; {line['diverged']} of {seeds} members diverged" if line["diverged"] else "")
        for line in lines
    )
    parts += ["## Settings", listed, format_provenance(report["provenance"])]
    return "\n\n".join(parts) + "\n"


def format_scores(report: Mapping[str, Any]) -> str:
    """The tables for a terminal: scores, and differences last."""
    lines = report["variants"]
    parts = [f"# {plain(report['corpus'])}: {len(lines)} variants"]
    if not any(line["test"] for line in lines):
        return f"{parts[0]}\n\nNo member is left to report on.\n"
    parts.append(describe_intervals(_count_seeds(report)))
    parts += _tables(report, "test", format_mean, f"variants on test: {MEMBERS}.")
    if any(line["difference"] for line in lines):
        parts += _difference_parts(report)
    parts += _view_parts(report)
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
                row += [test["mean"], *(test["ci95"] or ["", ""]), line["ensemble"][name]["mean"]]
            if line["difference"]:
                gap = line["difference"][name]
                row += [gap["mean"], *gap["ci95"], gap["p"], gap["p_holm"]]
            writer.writerow(row + [""] * (13 - len(row)))
    return text.getvalue()


def format_latex(report: Mapping[str, Any]) -> str:
    """Tables for a paper, in per cent: scores, and differences with their paired intervals."""
    source = latex.escape(report["corpus"])
    meaning = latex.to_latex(f"{describe_intervals(_count_seeds(report))} {DEFINITIONS}")
    scores = f"Variants on {source}, test, {latex.to_latex(MEMBERS)}, in per cent. {meaning}"
    tables = _latex_tables(report, "test", scores, latex.format_score)
    if any(line["difference"] for line in report["variants"]):
        gaps = (
            f"Differences to {latex.escape(report['reference'])} on {source}, test, "
            f"{latex.to_latex(MEMBERS)}, in percentage points. In square brackets 95 \\% "
            "intervals, in pairs: the same seeds, the same dialogues (bootstrap). "
            + latex.to_latex(_explain_stars(report))
        )
        tables += _latex_tables(report, "difference", gaps, _latex_gap)
    return "\n".join(tables)


def _latex_gap(difference: Mapping[str, Any] | None, digits: int) -> str:
    if difference is None:
        return "--"
    return latex.format_difference(difference, digits, difference["star"])


def _latex_tables(
    report: Mapping[str, Any],
    key: str,
    caption: str,
    cell: Callable[[Mapping[str, Any] | None, int], str],
) -> list[str]:
    lines = report["variants"]
    if key == "difference":
        lines = [line for line in lines if line[key]]
    tables = []
    for number, metrics in enumerate(_in_parts(report["metrics"])):
        own = [{n: line[key] and line[key][n] for n in metrics} for line in lines]
        digits = latex.count_digits([x for each in own for x in each.values()])
        rows = [
            [line["name"], *(cell(each[n], digits) for n in metrics)]
            for line, each in zip(lines, own)
        ]
        head = ["variant", *(_title(report, n) for n in metrics)]
        tables.append(latex.format_table(f"{key}-{number + 1}", caption, head, rows))
    return tables


def write_ablation_report(folder: pathlib.Path, report: Mapping[str, Any]) -> None:
    """Writes the pictures and the tables, and last, when all is there, ``ablation.json``."""
    compared = [line for line in report["variants"] if line["difference"]]
    if compared:
        shown = [n for n in report["metrics"] if not n.startswith("recall ")]
        panels = {_title(report, n): [line["difference"][n] for line in compared] for n in shown}
        names = [line["name"] for line in compared]
        draw_forest(folder / PICTURE, names, panels, report["reference"])
    pictures = [PICTURE] if compared else []
    if report["views"]:
        gaps = report["views"]
        panels = {f"dev {TITLES[n]}": [gap[n] for gap in gaps.values()] for n in DEV_METRICS}
        draw_forest(folder / VIEWS_PICTURE, list(gaps), panels, report["reference"])
        pictures.append(VIEWS_PICTURE)
    text = format_ablation(report)
    write_text(folder / "ablation.md", text)
    write_page(folder / "ablation.html", text, pictures)
    write_text(folder / "ablation.csv", format_csv(report))
    write_text(folder / "ablation.tex", format_latex(report))
    write_json(folder / "ablation.json", report)
