"""The report of a sweep: order, means and intervals by hand, what is left out, and the files."""

import json
import shlex
import sys

import matplotlib
import numpy as np
import pytest
from absl import flags
from made import MADE
from matplotlib.image import imread
from ml_collections import config_flags

from cberl_jax.config.grid import expand, parse_grid, point_config
from cberl_jax.config.settings import default_config, flatten
from cberl_jax.metrics import METRICS, select_score, summarise, summarise_members
from cberl_jax.reports.plots import style
from cberl_jax.reports.plots import sweep as plots
from cberl_jax.reports.sweep import (
    create_sweep_report,
    format_flags,
    format_scores,
    format_sweep,
    write_sweep_report,
)

GRID = parse_grid(["loss.gamma=0,2", "model.hidden=64,128"])


def scores(weighted, macro=0.0, accuracy=0.0, balanced=0.0):
    return {
        "weighted_f1": weighted,
        "macro_f1": macro,
        "accuracy": accuracy,
        "balanced_accuracy": balanced,
        "per_class": {"fear": {"precision": 0.5, "recall": 0.25, "f1": 1 / 3, "support": 4}},
    }


def member(settings, seed, dev=None, test=None):
    return {
        "seed": seed,
        "settings": settings,
        "status": "ok" if dev else "diverged",
        "epoch": 7,
        "dev": dev,
        "test": test,
    }


def create_report(grid, members, select, best_at=lambda point: None):
    """The report on a real corpus, unless told otherwise."""
    return create_sweep_report(grid, members, select, best_at, score_test, MADE)


def score_test(own):
    """Members' scores on test as they are, and an average that is always right."""
    test = summarise_members([m["test"] for m in own])
    test["mean_f1"] = summarise([select_score(m["test"], "mean_f1") for m in own])
    # As of a bootstrap: within 0 and 1.
    test |= {n: test[n] | {"ci95": [0.25, 0.75]} for n in METRICS}
    right = {"mean": 1.0, "std": None, "ci95": None}
    return {"test": test, "ensemble": dict.fromkeys((*METRICS, "mean_f1"), right)}


def sweep_members():
    """Two seeds of four points; of the third one diverged, of the fourth both."""
    best, second, third, lost = (expand(GRID)[i] for i in (2, 0, 3, 1))
    return [
        member(second, 0, scores(0.5, 0.3), scores(0.9)),
        member(lost, 0),
        member(best, 0, scores(0.5, 0.4), scores(0.4, 0.3, 0.5, 0.2)),
        member(third, 0, scores(0.3, 0.3), scores(0.8)),
        member(second, 1, scores(0.5, 0.3), scores(0.9)),
        member(lost, 1),
        member(best, 1, scores(0.7, 0.4), scores(0.6, 0.3, 0.7, 0.4)),
        member(third, 1),
    ]


@pytest.fixture
def report():
    return create_report(GRID, sweep_members(), "mean_f1")


def cells(text):
    """The first table of a report, by row."""
    table = next(part for part in text.split("\n\n") if part.startswith("|"))
    rows = table.splitlines()
    split = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return [split[0], *split[2:]]


def test_points_are_sorted_by_dev_and_not_by_test_and_the_lost_come_last(report):
    order = [(p["settings"]["loss.gamma"], p["settings"]["model.hidden"]) for p in report["points"]]
    assert order == [(2.0, 64), (0.0, 64), (2.0, 128), (0.0, 128)]
    assert report["best"] == {"loss.gamma": 2.0, "model.hidden": 64}
    # The second point's test is far better than the first's.
    assert [p["test"]["weighted_f1"]["mean"] for p in report["points"][:2]] == [0.5, 0.9]


def test_a_point_that_lost_members_comes_after_those_that_lost_none():
    """The higher score of the members that are left decides nothing, nor does their number."""
    few, many, sound = ({"loss.gamma": gamma} for gamma in (0.0, 1.0, 2.0))
    members = [
        *(member(few, seed, scores(0.9) if seed else None, scores(0.9)) for seed in range(4)),
        *(member(many, seed, None if seed else scores(0.95), scores(0.9)) for seed in range(2)),
        member(sound, 0, scores(0.2), scores(0.2)),
    ]
    found = create_report({"loss.gamma": [0.0, 1.0, 2.0]}, members, "weighted_f1")
    assert [point["settings"] for point in found["points"]] == [sound, few, many]


def test_the_order_is_that_of_the_chosen_metric():
    members = [
        member({"loss.gamma": 0.0}, 0, scores(0.8, 0.1), scores(0.5)),
        member({"loss.gamma": 2.0}, 0, scores(0.4, 0.6), scores(0.5)),
    ]
    grid = {"loss.gamma": [0.0, 2.0]}
    # By weighted F1 0.8 > 0.4; by the mean of both F1 0.45 < 0.5.
    for select, best in (("weighted_f1", 0.0), ("macro_f1", 2.0), ("mean_f1", 2.0)):
        assert create_report(grid, members, select)["best"] == {"loss.gamma": best}


def test_points_of_equal_score_stay_in_order():
    settings = [{"loss.gamma": gamma} for gamma in (5.0, 0.0, 2.0)]
    members = [member(own, 0, scores(0.5), scores(0.5)) for own in settings]
    found = create_report({"loss.gamma": [5.0, 0.0, 2.0]}, members, "weighted_f1")
    assert [point["settings"] for point in found["points"]] == settings


def test_summaries_by_hand(report):
    best = report["points"][0]
    # mean_f1 on dev: (0.5 + 0.4) / 2 = 0.45 and (0.7 + 0.4) / 2 = 0.55. Mean 0.5, standard
    # deviation sqrt(2 * 0.05^2) = 0.0707107. Dev chose the epochs: no interval.
    found = best["dev"]["mean_f1"]
    assert found["mean"] == pytest.approx(0.5)
    assert found["std"] == pytest.approx(0.0707107, rel=1e-5)
    assert found["ci95"] is None
    # On test: (0.4 + 0.3) / 2 = 0.35 and (0.6 + 0.3) / 2 = 0.45.
    assert best["test"]["mean_f1"]["mean"] == pytest.approx(0.4)
    means = [best["test"][n]["mean"] for n in ("accuracy", "balanced_accuracy", "macro_f1")]
    assert means == pytest.approx([0.6, 0.3, 0.3])
    assert best["dev"]["per_class"]["fear"]["recall"]["mean"] == 0.25


def test_diverged_members_are_counted_and_take_no_part_in_the_means(report):
    third, lost = report["points"][2:]
    assert (third["seeds"], third["diverged"]) == ([0, 1], 1)
    assert third["dev"]["mean_f1"] == {"mean": 0.3, "std": None, "ci95": None}
    assert (lost["diverged"], lost["dev"], lost["test"]) == (2, None, None)
    assert [m["status"] for m in third["members"]] == ["ok", "diverged"]


def test_a_members_line_has_its_metrics_without_classes(report):
    line = report["points"][0]["members"][1]
    assert (line["seed"], line["status"], line["epoch"]) == (1, "ok", 7)
    assert line["test"] == {
        "weighted_f1": 0.6,
        "macro_f1": 0.3,
        "accuracy": 0.7,
        "balanced_accuracy": 0.4,
        "mean_f1": pytest.approx(0.45),
    }
    assert report["points"][3]["members"][0]["dev"] is None


def test_the_table_has_a_line_per_point_with_the_swept_settings(report):
    head, best, second, third, lost = cells(format_sweep(report))
    assert head == [
        *("loss.gamma", "model.hidden", "dev mean F1", "test weighted F1", "test macro F1"),
        *("test accuracy", "test balanced accuracy", "diverged"),
    ]
    assert best == [
        *("2", "64", "0.500 ± 0.071", "0.500 [0.250, 0.750]", "0.300 [0.250, 0.750]"),
        *("0.600 [0.250, 0.750]", "0.300 [0.250, 0.750]", "0 of 2"),
    ]
    assert second[:3] == ["0", "64", "0.400 ± 0.000"]
    assert third[:4] == ["2", "128", "0.300", "0.800 [0.250, 0.750]"] and third[-1] == "1 of 2"
    assert lost == ["0", "128", *["-"] * 5, "2 of 2"]
    # The average of a point's members is another model, with a table of its own.
    tables = [part for part in format_sweep(report).split("\n\n") if part.startswith("|")]
    rows = [[x.strip() for x in row.strip("|").split("|")] for row in tables[1].splitlines()]
    assert rows[0][2:] == head[3:-1] and rows[2] == ["2", "64", *["1.000"] * 4]
    assert len(rows) == 2 + 3


def test_the_text_names_the_choice_and_its_limits(report):
    text = format_sweep(report)
    assert text.startswith("# Sweep: 4 points, 8 members\n")
    assert "sorted by dev mean F1" in text
    assert "test is shown beside it and decides nothing" in text
    assert "optimistic" in text
    # One point has a single member, so nothing is claimed of other seeds.
    assert "for other dialogues alone" in text and "one seed does not tell" in text
    assert text.count("train.py --workdir='runs/a b' --seeds=4") == 1
    assert "\nBest on dev:\n\n```\n--config.loss.gamma=2 --config.model.hidden=64\n```\n" in text


def test_on_a_simulated_corpus_a_points_share_of_its_best_possible_is_told():
    def best_at(point):
        best = {"accuracy": 0.8, "balanced_accuracy": 0.75 if point["model.hidden"] == 64 else 0.9}
        return {"full": best, "context_free": {name: value / 2 for name, value in best.items()}}

    report = create_report(GRID, sweep_members(), "mean_f1", best_at)
    assert report["points"][0]["bayes"] == best_at({"model.hidden": 64})
    # The best point has 0.6 and 0.3 on test, and the one whose members all diverged has no line.
    told = format_sweep(report).split("## Share of the best possible")[1].split("\n\n")[3]
    assert len(told.splitlines()) == 2 + 3
    for share in ("75.0 % of 0.800", "150.0 % of 0.400", "40.0 % of 0.750", "80.0 % of 0.375"):
        assert share in told.splitlines()[2]
    assert "best possible" not in format_sweep(create_report(GRID, sweep_members(), "mean_f1"))


def test_a_best_point_that_lost_members_says_so():
    members = [m for m in sweep_members() if m["settings"] == expand(GRID)[3]]
    text = format_sweep(create_report(GRID, members, "mean_f1"))
    assert "Best on dev, though 1 of its 2 members diverged:" in text


def test_the_flags_of_a_point_give_its_settings(monkeypatch):
    point = {
        "loss.gamma": 1 / 3,
        "optim.learning_rate": 3e-5,
        "model.hidden": 64,
        "augment.method": "none",
        "data.modalities": "text,audio",
    }
    arguments = ["train.py", *shlex.split(format_flags(point))]
    # The config flags look there for what is overridden.
    monkeypatch.setattr(sys, "argv", arguments)
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_dict("config", default_config(), flag_values=values)
    values(arguments)
    assert flatten(holder.value) == flatten(point_config(default_config(), point))


def test_flags_are_safe_in_a_shell():
    assert format_flags({"data.modalities": "a b"}) == "'--config.data.modalities=a b'"


def test_a_sweep_without_settings_or_without_survivors_is_reported():
    one = create_report({}, [member({}, 0, scores(0.5), scores(0.4))], "accuracy")
    assert one["best"] == {}
    text = format_sweep(one)
    assert cells(text)[1] == [
        *("0.000", "0.400 [0.250, 0.750]", *["0.000 [0.250, 0.750]"] * 3, "0 of 1")
    ]
    assert "Best on dev" not in text and "Pictures" not in text
    lost = create_report({"loss.gamma": [1.0, 2.0]}, [member({"loss.gamma": 1.0}, 0)], "accuracy")
    assert lost["best"] is None
    assert "No member is left to report on.\n" in format_sweep(lost)
    assert format_scores(lost).endswith("No member is left to report on.\n")


def test_the_files_are_there_and_hold_the_report(report, tmp_path):
    write_sweep_report(tmp_path, report)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("sweep.json", "sweep.md", "sweep.html", "sweep.tex"),
        *("sweep_loss.gamma.png", "sweep_model.hidden.png"),
    }
    assert json.loads((tmp_path / "sweep.json").read_text()) == report
    assert (tmp_path / "sweep.md").read_text() == format_sweep(report)
    assert "`sweep_loss.gamma.png`, `sweep_model.hidden.png`" in format_sweep(report)


def test_a_setting_with_one_value_and_a_sweep_without_survivors_have_no_picture(tmp_path):
    grid = {"loss.gamma": [0.0, 2.0], "optim.clip": [1.0]}
    sound = [member(point, 0, scores(0.5), scores(0.5)) for point in expand(grid)]
    for name, members, expected in (
        ("sound", sound, ["sweep_loss.gamma.png"]),
        ("lost", [member(point, 0) for point in expand(grid)], []),
    ):
        folder = tmp_path / name
        folder.mkdir()
        write_sweep_report(folder, create_report(grid, members, "accuracy"))
        assert [path.name for path in folder.glob("*.png")] == expected
        assert (folder / "sweep.json").exists()


def test_a_picture_gets_the_scores_of_all_members_with_a_value(report, tmp_path, monkeypatch):
    drawn = {}

    def draw_setting(path, name, *scores):
        drawn[name] = scores
        path.touch()

    monkeypatch.setattr("cberl_jax.reports.sweep.draw_setting", draw_setting)
    write_sweep_report(tmp_path, report)
    values, dev, test, metric = drawn["model.hidden"]
    assert (values, metric) == ([64, 128], "mean F1")
    # Hidden 64 is the first and the second point; of 128 one member is left.
    assert [sorted(own) for own in dev] == [pytest.approx([0.4, 0.4, 0.45, 0.55]), [0.3]]
    assert [sorted(own) for own in test] == [pytest.approx([0.35, 0.45, 0.45, 0.45]), [0.4]]


# As published with the palette.
BLUE, VERMILION = (0, 114, 178), (213, 94, 0)


def rows_in(image, colour):
    """The row of every pixel in a colour, below the legend."""
    same = np.abs(image[150:, :, :3] * 255 - colour).max(axis=-1) <= 1.0
    return np.nonzero(same)[0]


def draw(path, values, dev, test=None, name="loss.gamma"):
    plots.draw_setting(path, name, values, dev, test or dev, "mean F1")
    return imread(path)


@pytest.mark.parametrize(
    "name, values",
    [
        ("optim.learning_rate", [1e-4, 1e-3, 1e-2]),
        ("loss.beta", [0.0, 1e-3, 1e-2, 1.0]),
        ("loss.gamma", [1.0]),
        ("model.hidden", [64, 128]),
        ("model.causal", [False, True]),
        ("data.modalities", ["text", "text,audio", "text,audio,visual", r"$\audio$"]),
    ],
)
def test_a_picture_is_a_png_in_which_dev_and_test_are_seen(name, values, tmp_path):
    dev = [[0.50 + 0.01 * i, 0.53, 0.55] for i in range(len(values))]
    test = [[0.40 + 0.01 * i, 0.43, 0.45] for i in range(len(values))]
    path = tmp_path / "picture.png"
    image = draw(path, values, dev, test, name)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert image.shape == (840, 1280, 4)
    rows = [rows_in(image, colour) for colour in (BLUE, VERMILION)]
    assert all(len(own) > 100 * len(values) for own in rows)
    # Dev scores higher, so its marks stand higher: in rows that come earlier.
    assert rows[0].mean() < rows[1].mean()
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def test_pictures_of_other_scores_differ_and_of_the_same_do_not(tmp_path):
    first = draw(tmp_path / "a.png", [0.0, 1.0], [[0.5, 0.6], [0.5, 0.7]])
    same = draw(tmp_path / "b.png", [1.0, 0.0], [[0.5, 0.7], [0.5, 0.6]])
    other = draw(tmp_path / "c.png", [0.0, 1.0], [[0.5, 0.6], [0.6, 0.7]])
    # Numbers are drawn in their own order, not the grid's.
    np.testing.assert_array_equal(first, same)
    assert np.abs(first - other).max() > 0.5


def test_deviations_and_members_are_drawn_where_there_are_several(tmp_path):
    # Dev: mean 0.5, deviation sqrt(0.005 / 3) = 0.0408, so the bar spans 0.0816. The members span
    # 0.1, which with its margins of 8 % fills 1 / 1.16 of the axis. Test is one point.
    several = draw(tmp_path / "several.png", [1.0], [[0.45, 0.5, 0.5, 0.55]], [[0.5] * 4])
    single = draw(tmp_path / "single.png", [1.0], [[0.5]])
    axis = np.ptp(rows_in(several, (0, 0, 0)))
    assert 0.6 * axis < np.ptp(rows_in(several, BLUE)) < axis
    assert np.ptp(rows_in(several, VERMILION)) < 0.1 * axis
    # Members are 40 % of the colour on white.
    faint = 0.4 * np.array(BLUE) + 0.6 * 255
    span = np.ptp(rows_in(several, faint)) / np.ptp(rows_in(several, BLUE))
    assert span == pytest.approx(0.1 / 0.0816, rel=0.1)
    assert len(rows_in(single, faint)) < 20 < len(rows_in(several, faint))
    assert np.ptp(rows_in(single, BLUE)) < 0.1 * axis


@pytest.mark.parametrize("name", ["one seed", "one value lost", "equal scores", "perfect"])
def test_scores_without_spread_or_with_gaps_are_drawn(name, tmp_path):
    dev = {
        "one seed": [[0.5], [0.6]],
        "one value lost": [[], [0.5, 0.6]],
        "equal scores": [[0.5, 0.5], [0.5, 0.5]],
        "perfect": [[1.0, 1.0], [0.0, 0.0]],
    }[name]
    assert draw(tmp_path / "picture.png", [0.0, 2.0], dev).std() > 0.02


@pytest.mark.parametrize(
    "values, scale, note, ticks",
    [
        ([0.1, 1.0, 10.0], "log", " (log scale)", [0.1, 1, 10]),
        ([1.0, 5.0, 10.0], "linear", "", [1, 5, 10]),
        ([-4.0, 0.0, 20.0], "linear", "", [-4, 0, 20]),
        ([0.0, 1e-3, 1e-2, 1.0], "linear", " (not to scale)", [0, 1, 2, 3]),
        ([0.1, 1.0, 1.01, 9.0], "linear", " (not to scale)", [0, 1, 2, 3]),
        ([3.0], "linear", "", [0]),
        ([True, False], "linear", "", [0, 1]),
        (["mean", "1"], "linear", "", [0, 1]),
    ],
)
def test_values_stand_on_the_axis_they_call_for(values, scale, note, ticks, tmp_path):
    labels = [f"<{value}>" for value in values]
    with style.drawing(tmp_path / "picture.png") as axes:
        where = plots.place_values(axes, "loss.gamma", values, labels)
        assert list(where) == list(axes.get_xticks()) == ticks
        assert [text.get_text() for text in axes.get_xticklabels()] == labels
        assert (axes.get_xscale(), axes.get_xlabel()) == (scale, f"loss.gamma{note}")
        left, right = axes.get_xlim()
        assert left < min(ticks) and max(ticks) < right


def test_a_picture_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="midway"):
        with style.drawing(path) as axes:
            axes.plot([0, 1], [0, 1])
            raise RuntimeError("midway")
    assert path.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def test_drawing_leaves_no_trace_in_matplotlibs_settings(tmp_path):
    before = matplotlib.rcParams.copy()
    draw(tmp_path / "picture.png", [0.0, 1.0], [[0.5], [0.6]])
    assert matplotlib.rcParams.copy() == before
