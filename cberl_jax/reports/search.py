"""The report of a search: the best points trained again, which settings mattered, what is unknown.

The score of a point in a search is dev ``train.select``. The best of many is partly luck, so the
report sets beside it what the same point reaches with seeds that chose nothing.
"""

import datetime
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cberl_jax.config.grid import spell_value
from cberl_jax.config.settings import SETTINGS, Value, default_config, flatten
from cberl_jax.config.space import Range, Space, spell_entry, static_choices
from cberl_jax.data.simulate import SIMULATED
from cberl_jax.metrics import METRICS, summarise
from cberl_jax.reports.html import plain, write_page
from cberl_jax.reports.plots.search import draw_history, draw_importance, draw_slices
from cberl_jax.reports.provenance import format_provenance
from cberl_jax.reports.tables import (
    AVERAGE,
    MEMBERS,
    NOTHING,
    TITLES,
    describe_intervals,
    format_mean,
    format_table,
)
from cberl_jax.runtime.files import write_json, write_text
from cberl_jax.runtime.workdir import Workdir

# The folder of the winner's run, in the search's.
BEST = "best"
LOOKS = "search_looks.json"
# So near to an end of its range, as a share of it, a value says that the range may be too narrow.
_NEAR = 0.05
# Dev scores on dialogues of train that are so much higher are of features that have seen them.
_MUCH_BETTER = 0.1


class Searched(NamedTuple):
    """What was searched, and how.

    Attributes:
      config: the settings that the search started from.
      space: where points were looked for.
      sampler: what chose the points.
      seeds: of every point.
      best_seeds: of every point that was trained again.
    """

    config: ConfigDict
    space: Space
    sampler: str
    seeds: int
    best_seeds: int


class Finalists(NamedTuple):
    """The points that were trained again.

    Attributes:
      numbers: of the points.
      again: per point the dev scores of its new members, None where one diverged.
      on_others: the same with other dialogues as dev; empty where there are none.
      no_other_dev: why there are none.
    """

    numbers: Sequence[int]
    again: Sequence[Sequence[float | None]]
    on_others: Sequence[Sequence[float | None]]
    no_other_dev: str


def create_search_report(
    searched: Searched,
    told: Sequence[Mapping[str, Any]],
    finalists: Finalists,
    importance: Mapping[str, Sequence[float]],
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Gathers what a search has found, without a look at test.

    Args:
      searched: what was searched.
      told: a ``Told`` per point, as a dict.
      finalists: the points that were trained again.
      importance: from ``Trials.measure_importance``.
      provenance: from ``create_provenance``.

    Returns:
      The contents of ``search.json`` but ``test``, ``ensemble`` and ``looks``. ``winner`` is the
      number of the point that is best by its second scores, where one with fewer members that
      diverged comes before any with more; None where no point has any. ``best``, its settings, is
      None.
    """
    points = [
        {
            "number": own["number"],
            "settings": own["point"],
            "batch": own["batch"],
            "score": own["score"],
            "scores": own["details"]["scores"],
            "stopped": own["details"].get("stopped"),
            "refused": own["details"].get("refused"),
        }
        for own in told
    ]
    second = [_summarise(own) for own in finalists.again]
    place = max(range(len(second)), key=lambda place: _rank(second[place]), default=None)
    if place is not None and second[place]["mean"] is None:
        place = None
    return {
        "select": searched.config.train.select,
        "sampler": searched.sampler,
        "seeds": searched.seeds,
        "best_seeds": searched.best_seeds,
        "space": {
            name: {"low": own.low, "high": own.high, "log": own.log}
            if isinstance(own, Range)
            else list(own)
            for name, own in searched.space.items()
        },
        "start": {name: flatten(searched.config)[name] for name in searched.space},
        "points": points,
        "diverged": sum(None in own["scores"] for own in points),
        "refused": sum(own["refused"] is not None for own in points),
        "stopped": sum(own["stopped"] is not None for own in points),
        "seconds": {
            name: sum(own["details"].get(f"{name}_s", 0.0) for own in told)
            for name in ("compile", "train")
        },
        "finalists": list(finalists.numbers),
        "again": second,
        "on_others": [_summarise(own) for own in finalists.on_others],
        "no_other_dev": finalists.no_other_dev,
        "best": None,
        "winner": None if place is None else finalists.numbers[place],
        "importance": {
            name: {
                "mean": float(np.mean(own)),
                "ci95": [float(end) for end in np.quantile(own, [0.025, 0.975])],
            }
            for name, own in sorted(importance.items(), key=lambda item: -np.mean(item[1]))
        },
        "provenance": dict(provenance),
    }


def _rank(again: Mapping[str, Any]) -> tuple[int, float]:
    """Greater for a better point: fewer members that diverged, then a higher mean."""
    mean = -math.inf if again["mean"] is None else again["mean"]
    return -again["scores"].count(None), mean


def _summarise(scores: Sequence[float | None]) -> dict[str, Any]:
    """Mean, deviation and interval of the sound members of a point, and all of its scores."""
    sound = [score for score in scores if score is not None]
    return (summarise(sound) if sound else {"mean": None}) | {"scores": list(scores)}


def count_look(folder: Workdir, look: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Notes that test is read for the winner of a search, once per search and winner.

    Args:
      folder: of the search.
      look: which search, how many points it had, and the winner's settings.

    Returns:
      All looks so far, this one last.

    Raises:
      UserError: the file is damaged.
    """
    path = folder.path / LOOKS
    looks = folder.read_json(path)["looks"] if path.exists() else []
    if not looks or {n: looks[-1].get(n) for n in look} != dict(look):
        date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
        looks.append({"date": date, **look})
        folder.write_json(path, {"looks": looks})
    return looks


def write_best_config(path: pathlib.Path, config: ConfigDict, report: Mapping[str, Any]) -> None:
    """Writes the winner's settings as a file that ``--config`` takes.

    Args:
      path: of the file.
      config: all settings of the winner.
      report: of the search.
    """
    usual = flatten(default_config())
    settings = {
        name: value
        for name, value in flatten(config).items()
        # Where the corpus lies is for --data to say; a simulated one lies nowhere.
        if value != usual[name]
        and (name != "data.path" or str(value).startswith(SIMULATED))
        and name != "train.checkpoint_seconds"
    }
    lines = "".join(f"    {name!r}: {value!r},\n" for name, value in settings.items())
    first, second = _winner_scores(report)
    found = "stopped early" if first is None else f"{first:.3f}"
    text = f'''"""Settings that a search found: point {report["winner"]} of {len(report["points"])}.

Dev {TITLES[report["select"]]}: {found} when it was found, the mean of {report["seeds"]} seeds;
{second:.3f} with {_count_sound(report)} other seeds. The run of these is in {BEST}/.
Made by cberl-jax {report["provenance"]["versions"]["cberl-jax"]} on {report["provenance"]["date"]}.
"""

from cberl_jax.config.presets import change, default_config

SETTINGS = {{
{lines}}}


def get_config():
    return change(default_config(), SETTINGS)
'''
    write_text(path, text)


def _winner_scores(report: Mapping[str, Any]) -> tuple[float | None, float]:
    """The winner's dev score when it was found, and the one with other seeds."""
    place = report["finalists"].index(report["winner"])
    return _score_of(report, report["winner"]), report["again"][place]["mean"]


def _count_sound(report: Mapping[str, Any]) -> int:
    """Members of the winner's second training that did not diverge: its scores are theirs."""
    again = report["again"][report["finalists"].index(report["winner"])]
    return sum(score is not None for score in again["scores"])


def _score_of(report: Mapping[str, Any], number: int) -> float | None:
    return next(own["score"] for own in report["points"] if own["number"] == number)


def _own_number(report: Mapping[str, Any]) -> int | None:
    """The number of the point with the settings that the search started from."""
    for own in report["points"]:
        if own["settings"] == report["start"]:
            return own["number"]
    return None


def _finalist_table(report: Mapping[str, Any]) -> str:
    """The points that were trained again, best first by their second score."""
    rows, own = [], _own_number(report)
    for place, (number, again) in enumerate(zip(report["finalists"], report["again"])):
        first, mean = _score_of(report, number), again["mean"]
        found = "stopped" if first is None else f"{first:.3f}"
        name = f"{number}" + (" (the config's own settings)" if number == own else "")
        change = NOTHING if first is None or mean is None else f"{mean - first:+.3f}"
        others = [_format_again(second) for second in report["on_others"][place : place + 1]]
        row = [name, found, _format_again(again), change, *others]
        rows.append((_rank(again), row))
    rows.sort(key=lambda row: row[0], reverse=True)
    metric = TITLES[report["select"]]
    caption = (
        f"dev {metric} when a point was found (mean of {report['seeds']} seeds) and again (mean of "
        f"{report['best_seeds']} other seeds)"
    )
    head = ["point", "found", "again", "change"]
    if report["on_others"]:
        head.append("again, other dev dialogues")
        caption += (
            "; last, with the same seeds and other dialogues of train as dev, the usual ones in "
            "their place in train"
        )
    return format_table(head, [row for _, row in rows], f"{caption}.")


def _format_again(again: Mapping[str, Any]) -> str:
    """Mean and standard deviation of a point that was trained again."""
    if again["mean"] is None:
        return "all diverged"
    spread = "" if again["std"] is None else f" ± {again['std']:.3f}"
    lost = sum(score is None for score in again["scores"])
    return f"{again['mean']:.3f}{spread}" + (f" ({lost} diverged)" if lost else "")


def _describe_other_dev(report: Mapping[str, Any]) -> str:
    """What the scores on other dev dialogues say of the winner, or why there are none."""
    if not report["on_others"]:
        return (
            "The dev dialogues are the same, so that what fits these by chance still counts. "
            f"Others were not tried: {report['no_other_dev']}."
        )
    place = report["finalists"].index(report["winner"])
    ranks = [_rank(own) for own in report["on_others"]]
    number = 1 + sum(rank > ranks[place] for rank in ranks)
    said = (
        "The last column has scores on dev dialogues that chose no settings: there the winner is "
        f"number {number} of {len(ranks)}."
    )
    own = report["again"][place]["mean"]
    if ranks[place][1] - own > _MUCH_BETTER:
        said += (
            " **They are far higher than on the usual dev dialogues: the features were probably "
            "made with the labels of train, and then that column says nothing.**"
        )
    return said


def _settings_table(report: Mapping[str, Any]) -> str:
    """A line per setting: where it was looked for, what it was, what it became, if it matters."""
    best = next(own for own in report["points"] if own["number"] == report["winner"])["settings"]
    names = [*report["importance"], *(n for n in report["space"] if n not in report["importance"])]
    rows = []
    for name in names:
        share = report["importance"].get(name)
        matters = NOTHING
        if share is not None:
            low, high = share["ci95"]
            matters = f"{share['mean']:.2f} [{low:.2f}, {high:.2f}]"
        values = [_short(report["start"][name]), _short(best[name])]
        rows.append([name, spell_entry(_entry(report, name)), *map(plain, values), matters])
    caption = "settings, the most important first."
    return format_table(["setting", "searched", "before", "winner", "importance"], rows, caption)


def _short(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else spell_value(value)


def _entry(report: Mapping[str, Any], name: str) -> Range | list[Value]:
    own = report["space"][name]
    return Range(**own) if isinstance(own, dict) else own


def _position(own: Range, value: float) -> float:
    """Where a value lies in its range, from 0 to 1."""
    scale = math.log if own.log else float
    return (scale(value) - scale(own.low)) / (scale(own.high) - scale(own.low))


def list_untried(report: Mapping[str, Any]) -> list[str]:
    """What a search says nothing about, a sentence each."""
    points = [own["settings"] for own in report["points"]]
    said = []
    space = {name: _entry(report, name) for name in report["space"]}
    static = static_choices(space)
    lists = {name: own for name, own in space.items() if isinstance(own, list)}
    combined = {name: lists[name] for name in static if name in lists}
    total = math.prod(len(own) for own in combined.values())
    tried = len({tuple(point[name] for name in combined) for point in points})
    if combined:
        said.append(
            f"{tried} of the {total} combinations of {', '.join(combined)} were tried; a program "
            "is compiled for each."
        )
    for name, own in lists.items():
        missing = [v for v in own if all(point[name] != v for point in points)]
        if missing:
            said.append(f"{name}: never tried were {', '.join(map(spell_value, missing))}.")
    best = next((own for own in report["points"] if own["number"] == report["winner"]), None)
    for name, own in space.items():
        if not isinstance(own, Range):
            continue
        where = [_position(own, point[name]) for point in points]
        quarters = {min(int(4 * place), 3) for place in where}
        if len(quarters) < 4:
            empty = ", ".join(str(n + 1) for n in range(4) if n not in quarters)
            said.append(f"{name}: no point lies in quarter {empty} of its range.")
        if best is not None and not _NEAR <= _position(own, best["settings"][name]) <= 1 - _NEAR:
            value = _short(best["settings"][name])
            said.append(
                f"{name}: the winner's value, {value}, is at an end of its range; a wider one may "
                "hold a better one."
            )
    fixed = [name for name in SETTINGS if name not in space and not name.startswith("data.")]
    said.append(f"Kept as they were: {', '.join(fixed)}; and the data.")
    return said


def format_search(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    count, metric = len(report["points"]), TITLES[report["select"]]
    spent = report["seconds"]
    whole = spent["compile"] + spent["train"]
    share = f" Compiling took {spent['compile'] / whole:.0%} of {whole:.0f} s." if whole else ""
    halved = (
        f" {report['stopped']} were stopped early, as the worse half of their batch."
        if report["stopped"]
        else ""
    )
    if report["refused"]:
        halved += f" {report['refused']} were not trained, as they did not fit the memory."
    parts = [
        f"# Search: {count} points, {count * report['seeds']} members",
        f"Each point was scored by dev {metric}, which also chose the epochs: the mean of "
        f"{report['seeds']} seeds. `{report['sampler']}` chose the points. {report['diverged']} of "
        f"them had a member that diverged, and count as the worst.{halved}{share}",
    ]
    if report["winner"] is None:
        parts += ["No point is left to report on.", format_provenance(report["provenance"])]
        return "\n\n".join(parts) + "\n"
    parts += [
        "## The best points, trained again",
        "The best of many dev scores is too high: it was partly luck. So the best points were "
        "trained again, with seeds that chose nothing, and the second score decides. "
        + _describe_other_dev(report),
        _finalist_table(report),
        *_test_paragraphs(report),
        f"Its settings are `best.py`, for `--config=best.py`; its members of the second training "
        f"are a run of their own in `{BEST}/`.",
        "![points](search_history.png)",
        "## Settings",
        _settings_table(report),
    ]
    if report["importance"]:
        parts += [
            "Importance: the share of the variance of the scores that a setting explains by itself "
            "over the whole space (fANOVA, Hutter and others 2014), in square brackets its 95 % "
            "interval by a bootstrap over points. Points that a sampler chose crowd where scores "
            "are high, which makes the share uncertain beyond that interval.",
            "![importance](search_importance.png)",
        ]
    parts += ["![settings](search_slices.png)", "## What was not tried"]
    parts.append("\n".join(f"- {line}" for line in list_untried(report)))
    return "\n\n".join([*parts, format_provenance(report["provenance"])]) + "\n"


def _test_paragraphs(report: Mapping[str, Any]) -> list[str]:
    """The winner on test, and how often test was looked at."""
    parts = [f"The winner is point {report['winner']}."]
    looks = len(report["looks"])
    if not report["test"]:
        return [*parts, "Test has no labels, and was not read."]
    rows = [
        [name, *(format_mean(own[metric]) for metric in METRICS)]
        for name, own in ((MEMBERS, report["test"]), (AVERAGE, report["ensemble"]))
    ]
    head = ["winner", *(f"test {TITLES[metric]}" for metric in METRICS)]
    sound = _count_sound(report)
    caption = f"the winner on test, {sound} seed{'s' if sound > 1 else ''}."
    parts += [format_table(head, rows, caption), describe_intervals(sound)]
    if looks == 1:
        parts.append("Test was read once, for the winner, after the choice.")
    else:
        earlier = "; ".join(
            f"{look['date']}, after {look['points']} points" for look in report["looks"][:-1]
        )
        parts.append(
            f"**This is look {looks} at this test split from this folder** (earlier: {earlier}). A "
            "choice that is made after a look at test makes its scores too high: report the first "
            "look, or say how many there were."
        )
    return parts


def format_scores(report: Mapping[str, Any]) -> str:
    """The winner and the finalists for a terminal."""
    title = f"# Search: {len(report['points'])} points"
    if report["winner"] is None:
        return f"{title}\n\nNo point is left to report on.\n"
    parts = [title, _finalist_table(report), *_test_paragraphs(report), _settings_table(report)]
    return "\n\n".join(parts) + "\n"


def write_search_report(folder: pathlib.Path, report: Mapping[str, Any]) -> None:
    """Writes the pictures, ``search.md``, ``search.html`` and last ``search.json``."""
    pictures = []
    if report["winner"] is not None:
        metric = f"dev {TITLES[report['select']]}"
        numbers = [own["number"] for own in report["points"]]
        scores = [own["score"] for own in report["points"]]
        again = {
            number: [score for score in own["scores"] if score is not None]
            for number, own in zip(report["finalists"], report["again"])
        }
        pictures = ["search_history.png", "search_slices.png"]
        draw_history(folder / pictures[0], numbers, scores, again, metric)
        names = [n for n in report["importance"]] or list(report["space"])
        panels = {
            name: (_entry(report, name), [own["settings"][name] for own in report["points"]])
            for name in names
        }
        place = numbers.index(report["winner"])
        draw_slices(folder / pictures[1], panels, scores, place, metric)
        if report["importance"]:
            pictures.append("search_importance.png")
            draw_importance(folder / pictures[-1], report["importance"])
    text = format_search(report)
    write_text(folder / "search.md", text)
    write_page(folder / "search.html", text, pictures)
    write_json(folder / "search.json", report)
