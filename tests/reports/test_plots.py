"""The pictures of a run as they are drawn: sizes, labels, legends and arrows."""

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle

from cberl_jax.reports.pictures import measure_calibration
from cberl_jax.reports.plots.attention import Conversation, draw_attention
from cberl_jax.reports.plots.run import (
    draw_calibration,
    draw_class_counts,
    draw_class_scores,
    draw_confusion,
    draw_features,
)
from cberl_jax.reports.plots.search import draw_history
from cberl_jax.reports.plots.style import shorten_all
from cberl_jax.reports.plots.trace import Trace, draw_trace

MOST_PIXELS = 2000


def test_pictures_of_any_size_are_drawn(tmp_path):
    """Many classes with long names, a class without utterances, one member."""
    classes = [f"class of number {n} with $ and <b>" for n in range(12)]
    one = {"mean": 0.5, "std": None, "ci95": None}
    scores = {name: {"f1": one, "support": 3} for name in classes}
    counts = {name: {"real": n, "generated": n % 2} for n, name in enumerate(classes)}
    draw_confusion(tmp_path / "a.png", classes, np.diag(np.arange(12.0)))
    draw_class_scores(tmp_path / "b.png", scores, classes[:2])
    # Two members that disagree have an interval far beyond what a score can be.
    wide = {"mean": 0.5, "std": 0.5, "ci95": [-4.0, 5.0]}
    draw_class_scores(tmp_path / "wide.png", {"joy": {"f1": wide, "support": 3}}, [])
    draw_class_counts(tmp_path / "c.png", counts)
    label = np.asarray([0, 1, 11])
    draw_features(tmp_path / "d.png", classes, label, np.zeros((3, 2)))
    lonely = Conversation("$", np.arange(1), ["$A$"], ["\\frac 喜"], [""], ["<b>"], np.ones((1, 1)))
    draw_attention(tmp_path / "e.png", lonely)
    shapes = {path.stem: imread(path).shape for path in tmp_path.glob("*.png")}
    assert len(shapes) == 6 and shapes["a"][1] > 1500


@pytest.mark.parametrize("number", [3, 60])
def test_no_picture_outgrows_a_page_however_many_classes_there_are(tmp_path, number):
    classes = [f"a class with a long name and number {n}" for n in range(number)]
    one = {"mean": 0.5, "std": 0.1, "ci95": [0.3, 0.7]}
    draw_confusion(tmp_path / "a.png", classes, np.ones((number, number)))
    scores = {name: {"f1": one, "support": 3} for name in classes}
    draw_class_scores(tmp_path / "b.png", scores, classes[:2])
    counts = {name: {"real": 1000, "generated": 20} for name in classes}
    draw_class_counts(tmp_path / "c.png", counts)
    draw_features(tmp_path / "d.png", classes, np.arange(number), np.eye(number)[:, :2])
    probability = np.full((90, number), 1 / number)
    trace = Trace("x", classes, probability, None, np.zeros(90, int), ["A"] * 90, np.zeros(90, int))
    draw_trace(tmp_path / "e.png", trace)
    shapes = [imread(path).shape for path in tmp_path.glob("*.png")]
    assert len(shapes) == 5
    assert max(max(shape[:2]) for shape in shapes) <= MOST_PIXELS


@pytest.fixture
def written(monkeypatch):
    """The texts that are written into axes, with their places."""
    texts = []
    monkeypatch.setattr(Axes, "text", lambda self, x, y, text, **look: texts.append((x, y, text)))
    return texts


def test_cells_are_labelled_by_their_share(tmp_path, written):
    counts = np.asarray([[399.0, 0.4, 0.6], [0.25, 0.25, 0.0], [0, 0, 0]])
    draw_confusion(tmp_path / "a.png", ["a", "b", "c"], counts)
    # A quarter of an utterance in half the row is not nothing, and 399 of 400 is not all.
    assert written == [
        (0, 0, ">99 %\n399"),
        (1, 0, "<1 %\n0.4"),
        (2, 0, "<1 %\n0.6"),
        (0, 1, "50 %\n0.2"),
        (1, 1, "50 %\n0.2"),
    ]


def test_cells_of_many_classes_hold_the_share_alone_as_far_as_it_can_be_read(tmp_path, written):
    draw_confusion(tmp_path / "a.png", list(map(str, range(30))), np.eye(30) + 0.01)
    # 1.01 of 1.3, and 0.01 of it.
    assert len(written) == 900 and {text for _, _, text in written} == {"78", "1"}
    written.clear()
    draw_confusion(tmp_path / "a.png", list(map(str, range(60))), np.eye(60))
    assert written == []


def test_a_class_without_test_utterances_has_no_score(tmp_path, written):
    score = {"mean": 0.0, "std": None, "ci95": None}
    classes = {"a": {"f1": score, "support": 2}, "b": {"f1": score, "support": 0}}
    draw_class_scores(tmp_path / "a.png", classes, [])
    assert [text for _, _, text in written] == ["0.00", "no test utterance"]


def test_names_that_are_cut_stay_apart():
    names = [
        "a very long class name 1",
        "a very long class name 2",
        "joy",
        "another long class name",
    ]
    found = shorten_all(names)
    assert found[2:] == ["joy", "another long cl…"]
    assert len(set(found)) == 4 and max(map(len, found)) <= 16
    assert found[0].startswith("a very") and found[0].endswith("name 1")


def test_the_legend_of_calibration_is_beside_the_curve(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **options: figures.append(self))
    probability = np.random.default_rng(0).dirichlet([0.3, 0.3], 200)
    found = measure_calibration(np.zeros(200, int), probability)
    draw_calibration(tmp_path / "a.png", found, {"mean": 0.1, "std": None})
    (figure,) = figures
    figure.draw_without_rendering()
    (legend,) = figure.legends
    for axes in figure.axes:
        assert axes.get_legend() is None
        assert not legend.get_window_extent().overlaps(axes.get_window_extent())


def test_before_the_first_score_of_a_search_there_is_no_best_one(tmp_path, monkeypatch):
    """The first points may have been stopped early; one scores far below the others."""
    lines = []
    monkeypatch.setattr(Axes, "step", lambda self, x, y, **look: lines.append((x, y)))
    scores = [None, -9.0, 0.5, None, 0.6]
    draw_history(tmp_path / "history.png", range(5), scores, {0: [0.4, 0.5]}, "dev mean F1")
    ((where, best),) = lines
    lowest = best[1]
    assert list(where) == list(range(5)) and 0.0 < lowest < 0.45
    np.testing.assert_array_equal(best, [np.nan, lowest, 0.5, 0.5, 0.6])


def test_an_arrow_ends_at_the_turn_that_attends(tmp_path, monkeypatch):
    arrows = []
    monkeypatch.setattr(
        "cberl_jax.reports.plots.attention.FancyArrowPatch",
        lambda tail, head, **look: arrows.append((tail[1], head[1])) or Rectangle((0, 0), 1, 1),
    )
    # Turn 1 attends to turn 0, and turn 0 to itself alone.
    attention = np.asarray([[1.0, 0.0], [0.9, 0.1]])
    conversation = Conversation("x", np.arange(2), ["A", "B"], None, ["", ""], ["", ""], attention)
    draw_attention(tmp_path / "a.png", conversation)
    assert arrows == [(0, 1)]


def test_a_share_of_few_utterances_is_a_hollow_point(tmp_path, monkeypatch):
    plotted = []
    plot = Axes.plot

    def watched(self, *data, **look):
        plotted.append((data, look))
        return plot(self, *data, **look)

    monkeypatch.setattr(Axes, "plot", watched)
    first = np.repeat([0.65, 0.75, 0.95], [9, 10, 30])
    found = measure_calibration(np.zeros(49, int), np.stack([first, 1 - first], axis=-1))
    draw_calibration(tmp_path / "a.png", found, {"mean": 0.1, "std": None})
    ((data, look),) = (own for own in plotted if own[1].get("color") == "white")
    np.testing.assert_allclose(data[0], [0.65])
    assert look["label"] == "under 10 utterances"
