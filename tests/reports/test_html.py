"""Reports as HTML: nothing from elsewhere, and names that stay names."""

import numpy as np
import pytest
from made import MADE
from webpage import Page, check_self_contained

from cberl_jax.config.variants import Preset, Variant
from cberl_jax.evaluation.outcomes import Outcome
from cberl_jax.metrics import evaluate_predictions, summarise_members
from cberl_jax.reports.ablation import create_ablation_report, write_ablation_report
from cberl_jax.reports.html import plain, render_page, write_page
from cberl_jax.reports.sweep import create_sweep_report, write_sweep_report
from cberl_jax.reports.tables import format_table

HOSTILE = [
    "<script>alert(1)</script>",
    "![x](http://example.org/x.png)",
    "[click](https://example.org)",
    "<https://example.org>",
    "a | b",
    "*joy* _and_ `code`",
    "$x^2$ & &lt;",
    'quote " and \\ backslash',
    "two\n\n# lines",
    "# heading",
    "- item",
    "12. item",
    "---",
    "[id]: http://example.org",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_shown_and_does_nothing(name):
    shown = " ".join(name.split())
    table = format_table([plain(name), "n"], [[plain(name), "1"]])
    page = render_page(f"# {plain(name)}: title\n\n{plain(name)} in a line\n\n{table}\n", {})
    assert not check_self_contained(page)
    parsed = Page(page)
    assert [cell.strip() for cell in parsed.cells] == [shown, "n", shown, "1"]
    assert f"{shown}: title" in parsed.text and f"{shown} in a line" in parsed.text
    assert parsed.tags.count("h1") == 1


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_was_not_escaped_does_nothing_either(name):
    assert not check_self_contained(render_page(f"# Title\n\nThe name {name}\n", {"x.png": b"x"}))


def test_usual_names_stay_as_they_are():
    for name in ("neutral", "fear & co", "mean_f1", "gamma = 0", "a-b.c, d (e)", "Émotion 2", "喜"):
        assert plain(name) == name


def test_pictures_are_embedded_where_they_belong(tmp_path):
    (tmp_path / "a.png").write_bytes(b"first")
    (tmp_path / "b.png").write_bytes(b"second")
    (tmp_path / "secret.png").write_bytes(b"secret")
    text = '# T\n\n![one "quoted"](a.png)\n\ntext\n\n![two](b.png)\n\n![no](secret.png)\n'
    write_page(tmp_path / "page.html", text, ["a.png", "b.png"])
    page = (tmp_path / "page.html").read_text()
    assert check_self_contained(page) == [b"first", b"second"]
    assert ("img", "alt", 'one "quoted"') in Page(page).attributes
    assert "no" in Page(page).text


@pytest.mark.parametrize("name", HOSTILE)
def test_the_caption_of_a_table_is_a_part_of_it(name):
    shown = " ".join(name.split())
    table = format_table(["a"], [["0.500 ± 0.100 [0.400, 0.600]"]], f"scores of {plain(name)}.")
    page = render_page(f"# T\n\nTable: no table follows\n\nText\n\n{table}\n", {})
    assert not check_self_contained(page) and Page(page).tags.count("caption") == 1
    inside = page[page.index("<table>") : page.index("</table>")]
    assert f"scores of {shown}." in Page(inside).text and "Table: no table follows" in page
    # A line may end before the interval and nowhere else.
    assert "0.500\xa0±\xa00.100 [0.400,\xa00.600]" in page


def scores(value):
    metrics = ("weighted_f1", "macro_f1", "accuracy", "balanced_accuracy")
    return dict.fromkeys(metrics, value) | {
        "per_class": {"fear": {"precision": value, "recall": value, "f1": value, "support": 4}}
    }


def test_the_page_of_a_sweep_holds_its_table_and_pictures(tmp_path):
    values = ["text", "<b>text</b>"]
    members = [
        {"seed": 0, "settings": {"data.modalities": value}, "status": "ok", "epoch": 1}
        | {"dev": scores(0.5), "test": scores(0.4)}
        for value in values
    ]
    report = create_sweep_report(
        {"data.modalities": values},
        members,
        "macro_f1",
        lambda point: None,
        lambda own: dict.fromkeys(
            ("test", "ensemble"), summarise_members([m["test"] for m in own])
        ),
        MADE,
    )
    write_sweep_report(tmp_path, report)
    page = (tmp_path / "sweep.html").read_text()
    picture = (tmp_path / "sweep_data.modalities.png").read_bytes()
    assert check_self_contained(page) == [picture]
    assert "<b>text</b>" in [cell.strip() for cell in Page(page).cells]


def test_the_page_of_an_ablation_holds_its_tables_and_picture(tmp_path):
    label, classes = np.tile([0, 1], 20), ["<i>calm</i>", "fear | *dread*"]
    found = {}
    for name, share in (("full", 0.9), ("<u>less</u>", 0.6)):
        right = np.arange(40) < 40 * share
        probability = np.eye(2)[np.where(right, label, 1 - label)]
        member = {"seed": 0, "status": "ok", "epoch": 1}
        member |= dict.fromkeys(("dev", "test"), evaluate_predictions(label, probability, classes))
        dialogue = np.repeat(np.arange(10).astype(str), 4)
        outcome = Outcome(
            name, classes, np.zeros(1, int), probability[None], label, dialogue, label
        )
        found[name] = ([member], outcome)
    preset = Preset([Variant(name, {}) for name in found], "full")
    report = create_ablation_report(
        "<corpus>.npz", preset, found, classes[1:], dict.fromkeys(found), MADE
    )
    write_ablation_report(tmp_path, report)
    page = (tmp_path / "ablation.html").read_text()
    assert check_self_contained(page) == [(tmp_path / "ablation.png").read_bytes()]
    shown = Page(page)
    cells = [cell.strip() for cell in shown.cells]
    assert "<u>less</u>" in cells and "F1 fear | *dread*" in cells
    assert "<corpus>.npz: 2 variants" in shown.text
