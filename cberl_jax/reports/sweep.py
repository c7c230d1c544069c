"""The report of a sweep: points compared on dev, as figures, a table and pictures (section 5).

Points are sorted by the dev metric that also picks every member's epoch; test is read beside it
and decides nothing. A member's own per-class scores are left out: a sweep has many members.
"""

import functools
import math
import pathlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cberl_jax.config.grid import Point, spell_value
from cberl_jax.config.settings import Value
from cberl_jax.metrics import METRICS, select_score, summarise, summarise_members
from cberl_jax.reports import latex
from cberl_jax.reports.html import plain, write_page
from cberl_jax.reports.plots.sweep import draw_setting
from cberl_jax.reports.provenance import format_provenance
from cberl_jax.reports.tables import (
    AVERAGE,
    BAYES_METRICS,
    DEFINITIONS,
    MEMBERS,
    NOTHING,
    TITLES,
    WHICH_MODEL,
    describe_intervals,
    format_mean,
    format_shares,
    format_spread,
    format_table,
)
from cberl_jax.runtime.files import write_json, write_text

SCORED_SPLITS = ("dev", "test")
# The folder of the best point's run, in the sweep's.
BEST = "best"
# In the order of the table.
_TEST_METRICS = ("weighted_f1", "macro_f1", "accuracy", "balanced_accuracy")


def create_sweep_report(
    grid: Mapping[str, Sequence[Value]],
    members: Sequence[Mapping[str, Any]],
    select: str,
    best_at: Callable[[Point], Mapping[str, Mapping[str, float]] | None],
    score_test: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Mapping[str, Any]]],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Gathers the members of every point and sorts the points, best first.

    Args:
      grid: name -> values of the swept settings.
      members: at least one; as in the ``members`` of a run's report, each with the ``settings``
        of its point: name -> value of every setting of the grid.
      select: the dev metric to sort by, one of ``settings.SELECTIONS``.
      best_at: gives ``best_possible`` with what the members of a point see.
      score_test: gives ``summarise_models`` of the sound members of a point.
      provenance: from ``create_provenance``, of the settings that the grid starts from.

    Returns:
      The contents of ``sweep.json``. A point of which a smaller share of members diverged comes
      before any with a larger one; those whose members all diverged have None for their summaries.
      Points that score the same stay in the order of their first members. ``best`` is the settings
      of the first point, or None where no point has a score.
    """
    gathered: dict[tuple[Value, ...], list[Mapping[str, Any]]] = {}
    for member in members:
        key = tuple(member["settings"][name] for name in grid)
        gathered.setdefault(key, []).append(member)
    points = [
        _create_point(settings, own, select, score_test) | {"bayes": best_at(settings)}
        for settings, own in ((dict(zip(grid, key)), own) for key, own in gathered.items())
    ]
    points.sort(key=functools.partial(_rank, select))
    return {
        "select": select,
        "grid": {name: list(values) for name, values in grid.items()},
        "best": points[0]["settings"] if points[0]["dev"] else None,
        "points": points,
        "provenance": dict(provenance),
    }


def _rank(select: str, point: Mapping[str, Any]) -> tuple[float, float]:
    """Less for a better point."""
    mean = point["dev"][select]["mean"] if point["dev"] else -math.inf
    return point["diverged"] / len(point["seeds"]), -mean


def _create_point(
    settings: Mapping[str, Value],
    members: Sequence[Mapping[str, Any]],
    select: str,
    score_test: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, Mapping[str, Any]]],
) -> dict[str, Any]:
    """One entry of ``points``."""
    sound = [member for member in members if member["status"] == "ok"]
    labelled = bool(sound) and sound[0]["test"] is not None
    on_test = score_test(sound) if labelled else {"test": None, "ensemble": None}
    return {
        "settings": dict(settings),
        "seeds": [member["seed"] for member in members],
        "diverged": len(members) - len(sound),
        "dev": _summarise([m["dev"] for m in sound], select) if sound else None,
        **on_test,
        "members": [
            {"seed": m["seed"], "status": m["status"], "epoch": m["epoch"]}
            | {split: _member_scores(m[split], select) for split in SCORED_SPLITS}
            for m in members
        ],
    }


def _summarise(scores: Sequence[Mapping[str, Any]], select: str) -> dict[str, Any]:
    selected = summarise([select_score(member, select) for member in scores])
    return summarise_members(scores) | {select: selected}


def _member_scores(scores: Mapping[str, Any] | None, select: str) -> dict[str, float] | None:
    if scores is None:
        return None
    return {name: scores[name] for name in METRICS} | {select: select_score(scores, select)}


def _point_table(report: Mapping[str, Any]) -> str:
    """A line per point: the mean of its members."""
    select, grid = report["select"], report["grid"]
    head = [*grid, f"dev {TITLES[select]}", *(f"test {TITLES[n]}" for n in _TEST_METRICS)]
    rows = []
    for point in report["points"]:
        cells = _spell_point(report, point)
        dev, test = point["dev"], point["test"]
        cells.append(format_spread(dev[select]) if dev else NOTHING)
        cells += [format_mean(test[name]) if test else NOTHING for name in _TEST_METRICS]
        rows.append([*cells, f"{point['diverged']} of {len(point['seeds'])}"])
    return format_table([*head, "diverged"], rows, f"points, best on dev first: {MEMBERS}.")


def _ensemble_table(report: Mapping[str, Any]) -> str:
    """A line per point: the average of its members' probabilities."""
    rows = [
        _spell_point(report, point) + [format_mean(point["ensemble"][n]) for n in _TEST_METRICS]
        for point in report["points"]
        if point["ensemble"]
    ]
    head = [*report["grid"], *(f"test {TITLES[n]}" for n in _TEST_METRICS)]
    return format_table(head, rows, f"points, best on dev first: {AVERAGE}.")


def _spell_point(report: Mapping[str, Any], point: Mapping[str, Any]) -> list[str]:
    return [plain(spell_value(point["settings"][name])) for name in report["grid"]]


def _count_seeds(report: Mapping[str, Any]) -> int:
    """The fewest sound members that a point with a score has."""
    points = [point for point in report["points"] if point["dev"]]
    return min(len(point["seeds"]) - point["diverged"] for point in points)


def _shares(report: Mapping[str, Any]) -> str:
    rows = []
    for point in report["points"]:
        if point["test"]:
            means = {name: point["test"][name]["mean"] for name in BAYES_METRICS}
            rows.append((_spell_point(report, point), means, point["bayes"]))
    return format_shares(list(report["grid"]), rows)


def format_flags(settings: Mapping[str, Value]) -> str:
    """The settings of a point as flags of ``train.py``, for a shell."""
    flags = [f"--config.{name}={spell_value(value)}" for name, value in settings.items()]
    return shlex.join(flags)


def format_sweep(report: Mapping[str, Any]) -> str:
    """The report as Markdown: what was compared, the points best first, flags of the best."""
    points, metric = report["points"], TITLES[report["select"]]
    members = sum(len(point["seeds"]) for point in points)
    parts = [f"# Sweep: {len(points)} points, {members} members"]
    if report["best"] is None:
        lost = [*parts, "No member is left to report on.", format_provenance(report["provenance"])]
        return "\n\n".join(lost) + "\n"
    parts += [
        f"{WHICH_MODEL} Members that diverged are left out.",
        f"{describe_intervals(_count_seeds(report))} {DEFINITIONS}",
        f"Points are sorted by dev {metric}, which also chose every member's epoch; "
        "test is shown beside it and decides nothing. The best of many dev scores is optimistic: "
        "it was partly luck, the more so the more points and the fewer seeds. Its test scores are "
        "free of that, unless the choice is made again by looking at them.",
        _point_table(report),
    ]
    if any(point["ensemble"] for point in points):
        parts.append(_ensemble_table(report))
    if points[0]["bayes"]:
        parts.append(_shares(report))
    if report["best"]:
        lost = points[0]["diverged"]
        note = f", though {lost} of its {len(points[0]['seeds'])} members diverged" if lost else ""
        parts.append(
            f"Best on dev{note}:\n\n```\n{format_flags(report['best'])}\n```\n\nIts members are a "
            f"run of their own in `{BEST}/`."
        )
    pictures = [f"`{picture_name(name)}`" for name in pictured_settings(report)]
    if pictures:
        parts.append(
            f"Pictures: {', '.join(pictures)}. A value's mean and standard deviation there are "
            "over all members that have it, whatever their other settings."
        )
        parts += [f"![{n}]({picture_name(n)})" for n in pictured_settings(report)]
    return "\n\n".join([*parts, format_provenance(report["provenance"])]) + "\n"


def format_scores(report: Mapping[str, Any]) -> str:
    """The points for a terminal, with the flags of the best one."""
    members = sum(len(point["seeds"]) for point in report["points"])
    title = f"# Sweep: {len(report['points'])} points, {members} members"
    if report["best"] is None:
        return f"{title}\n\nNo member is left to report on.\n"
    parts = [title, describe_intervals(_count_seeds(report)), _point_table(report)]
    if report["best"]:
        parts.append(f"Best on dev: {format_flags(report['best'])}")
    return "\n\n".join(parts) + "\n"


def format_latex(report: Mapping[str, Any]) -> str:
    """A table for a paper: points, best on dev first; empty where there is no score on test."""
    scored = [point for point in report["points"] if point["test"]]
    if not scored:
        return ""
    select, grid = report["select"], list(report["grid"])
    digits = latex.count_digits([point["test"][n] for point in scored for n in _TEST_METRICS])
    rows = [
        [
            *(spell_value(point["settings"][name]) for name in grid),
            latex.format_score(point["dev"][select], digits),
            *(latex.format_score(point["test"][n], digits, spread=False) for n in _TEST_METRICS),
            latex.format_score(point["ensemble"][select], digits, spread=False),
        ]
        for point in scored
    ]
    chosen = f"Points are sorted by dev {TITLES[select]}, which chose the epochs, too."
    meaning = f"{describe_intervals(_count_seeds(report))} {chosen} {DEFINITIONS}"
    head = [*grid, f"dev {TITLES[select]}", *(TITLES[n] for n in _TEST_METRICS)]
    return latex.format_table(
        "sweep",
        f"CBERL on {latex.escape(report['provenance']['corpus'])}, test, in per cent: "
        f"{latex.to_latex(MEMBERS)}; in the last column of the {latex.to_latex(AVERAGE)}. "
        + latex.to_latex(meaning),
        [*head, f"{TITLES[select]}, average"],
        rows,
        names=len(grid),
    )


def pictured_settings(report: Mapping[str, Any]) -> list[str]:
    """The settings that have a picture: more than one value, and a score to show."""
    if report["best"] is None:
        return []
    return [name for name, values in report["grid"].items() if len(values) > 1]


def picture_name(setting: str) -> str:
    """The file name of a setting's picture."""
    return f"sweep_{setting}.png"


def _scores_by_value(report: Mapping[str, Any], name: str, split: str) -> list[list[float]]:
    """Per value of a setting, in the grid's order, the scores of all sound members that have it."""
    return [
        [
            member[split][report["select"]]
            for point in report["points"]
            if point["settings"][name] == value
            for member in point["members"]
            if member[split]
        ]
        for value in report["grid"][name]
    ]


def write_sweep_report(folder: pathlib.Path, report: Mapping[str, Any]) -> None:
    """Writes the pictures, ``sweep.md``, ``.tex``, ``.html`` and last ``sweep.json``."""
    for name in pictured_settings(report):
        dev, test = (_scores_by_value(report, name, split) for split in SCORED_SPLITS)
        metric = TITLES[report["select"]]
        values = report["grid"][name]
        draw_setting(folder / picture_name(name), name, values, dev, test, metric)
    text = format_sweep(report)
    write_text(folder / "sweep.md", text)
    write_text(folder / "sweep.tex", format_latex(report))
    write_page(folder / "sweep.html", text, [picture_name(n) for n in pictured_settings(report)])
    write_json(folder / "sweep.json", report)
