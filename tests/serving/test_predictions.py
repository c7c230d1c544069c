"""Predictions as a table: in files, as a data frame, as text and in a notebook."""

import csv
import dataclasses
import json
import sys

import numpy as np
import pytest
from webpage import Page

from cberl_jax.data.readers.options import ReadingOptions
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.errors import UserError
from cberl_jax.serving.formats import check_format
from cberl_jax.serving.model import Reading
from cberl_jax.serving.predictions import Predictions

TEXTS = ['a, b and "c"', "two\nlines", "one\rreturn", "“é” 高兴", "", " spaces ", "a;b\tc", "'"]
CLASSES = ("joy, great", 'the "other"', "悲伤", "<b>x</b>", "e", "f", "g")


@pytest.fixture(scope="module")
def predictions():
    """Of two members, with names and texts that a file has to quote; some labels are unknown."""
    corpus = simulate_corpus(create_process(), SimulatedSize(1, 1, 1, 4, 4), seed=0)
    count = len(corpus.label)
    corpus = dataclasses.replace(
        corpus,
        classes=CLASSES,
        dialogue=np.asarray(["a,b", "<script>", "对话"]),
        speaker=np.asarray(["A", 'B "the" C'] * count)[:count],
        label=np.where(np.arange(count) % 3, corpus.label, -1),
        utterance=np.asarray((TEXTS * 2)[:count]),
    )
    drawn = np.random.default_rng(0).dirichlet(np.ones(len(CLASSES)), (2, count))
    return Predictions(corpus, drawn.astype(np.float32))


def test_the_length_is_the_turns_and_going_through_gives_them(predictions):
    assert len(predictions) == 12 == len(list(predictions))
    assert list(predictions) == list(predictions.lines())


def check_table(found, predictions):
    """Compares rows, dictionaries of values or of their text, with the lines."""
    lines = list(predictions)
    assert len(found) == len(lines)
    for row, line in zip(found, lines):
        for name in ("dialogue", "speaker", "label"):
            assert row[name] == line[name]
        assert int(row["turn"]) == line["turn"]
        for name in ("text", "truth"):
            assert (row[name] or None) == line.get(name)
        for name in CLASSES:
            assert float(row[f"probability_{name}"]) == line["probabilities"][name]
            assert float(row[f"spread_{name}"]) == line["spread"][name]


def test_a_csv_file_holds_all_that_the_lines_do(predictions, tmp_path):
    path = tmp_path / "y.csv"
    predictions.write(path)
    with open(path, encoding="utf-8", newline="") as file:
        check_table(list(csv.DictReader(file)), predictions)
    assert {"two\nlines", "one\rreturn", "“é” 高兴"} <= {line.get("text") for line in predictions}


def test_a_csv_file_is_read_by_pandas_too(predictions, tmp_path):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    predictions.write(tmp_path / "y.CSV")
    frame = pandas.read_csv(tmp_path / "y.CSV", keep_default_na=False)
    check_table(frame.to_dict("records"), predictions)


def test_a_data_frame_has_the_same_columns(predictions):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = predictions.to_pandas()
    assert list(frame) == list(predictions.columns()) and len(frame) == len(predictions)
    frame = frame.astype(object).where(pandas.notna(frame), None)
    check_table(frame.to_dict("records"), predictions)


def test_a_parquet_file_has_the_same_columns(predictions, tmp_path):
    tables = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    predictions.write(tmp_path / "y.parquet")
    found = tables.read_table(tmp_path / "y.parquet")
    assert found.column_names == list(predictions.columns())
    check_table(found.to_pylist(), predictions)


def test_json_lines_are_the_lines(predictions, tmp_path):
    predictions.write(tmp_path / "y.jsonl")
    written = (tmp_path / "y.jsonl").read_text(encoding="utf-8").split("\n")
    assert [json.loads(line) for line in written[:-1]] == list(predictions)


def test_one_member_has_no_spread(predictions, tmp_path):
    alone = Predictions(predictions.corpus, predictions.members[:1])
    assert not any(name.startswith("spread") for name in alone.columns())
    assert all(line["spread"] is None for line in alone)


@pytest.mark.parametrize("name", ["y.xlsx", "y", "y.json", ".csv"])
def test_an_unknown_end_is_refused_with_the_known_ones(predictions, tmp_path, name):
    with pytest.raises(UserError, match=r"use one of \.jsonl, \.csv, \.parquet"):
        predictions.write(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "library, call",
    [
        ("pandas", lambda predictions, path: predictions.to_pandas()),
        ("pyarrow", lambda predictions, path: predictions.write(path)),
        ("pyarrow", lambda predictions, path: check_format(path)),
    ],
)
def test_a_library_that_is_not_there_is_named(predictions, tmp_path, monkeypatch, library, call):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=f"{library} is needed .* pip install 'cberl-jax"):
        call(predictions, tmp_path / "y.parquet")
    assert list(tmp_path.iterdir()) == []


def test_predictions_print_as_a_few_lines(predictions):
    lines = repr(predictions).splitlines()
    assert lines[0].startswith("Predictions: conversations 3, turns 12, members 2")
    first = next(iter(predictions))
    sure = max(first["probabilities"].values())
    assert lines[1] == f"a,b, turn 0, A: {first['label']} ({sure:.2f})"
    assert lines[-1] == "and 7 more turns" and len(lines) == 7


def test_names_stay_text_in_a_notebooks_table(predictions):
    page = Page(predictions._repr_html_())
    assert page.cells[:5] == ["dialogue", "turn", "speaker", "label", "probability"]
    assert {"<script>", 'B "the" C', "对话"} <= set(page.cells)
    # A head, and a row per turn.
    assert len(page.cells) == 5 * (1 + len(predictions))
    assert not {"script", "b"} & set(page.tags)


def test_a_corpus_prints_what_it_holds(predictions):
    corpus = predictions.corpus
    lines = repr(corpus).splitlines()
    assert lines[0].endswith("3 dialogues, 12 utterances, 2 speakers")
    counts = {split: int(corpus.class_counts(split).sum()) for split in ("train", "dev", "test")}
    said = ", ".join(f"{split} {count} of 4" for split, count in counts.items())
    assert lines[1] == f"labelled utterances: {said}" and min(counts.values()) < 4
    assert lines[2].startswith("classes: 7 (joy, great, ") and len(lines) == 4
    page = Page(corpus._repr_html_())
    assert page.cells[:3] == ["split", "dialogues", "utterances"] and "<b>x</b>" in page.cells
    start = len(page.cells) - 10
    assert page.cells[start:] == ["test", "1", "4", *map(str, corpus.class_counts("test"))]


def test_traces_number_classes_that_no_font_has_and_leave_the_key(
    predictions, tmp_path, monkeypatch
):
    corpus = dataclasses.replace(
        predictions.corpus,
        classes=("joy", "\U0001fae8", *CLASSES[2:]),
        speaker=np.full(12, "\U0001fae8"),
    )
    monkeypatch.setattr(
        "cberl_jax.reports.plots.fonts._installed", lambda letters, known: {"none": frozenset()}
    )
    drawn, said = [], []
    monkeypatch.setattr(
        "cberl_jax.serving.predictions.draw_trace", lambda path, trace: drawn.append(trace)
    )
    Predictions(corpus, predictions.members).draw(tmp_path / "traces", said.append)
    assert [trace.classes for trace in drawn] == [["1", "2", "3", "4", "5", "6", "7"]] * 3
    assert drawn[0].speaker == ["speaker 1"] * 4
    assert [trace.title for trace in drawn] == ["a,b", "<script>", "conversation 3"]
    assert len(said) == 1 and "1 = joy, 2 = \U0001fae8" in said[0]
    key = (tmp_path / "traces" / "classes.txt").read_text(encoding="utf-8").splitlines()
    assert key[:3] == ["1 joy", "2 \U0001fae8", "3 悲伤"]


def test_text_layers_of_turns_are_combined_as_those_of_files_are():
    """Of a list of conversations, and of a turn that is followed live."""
    names, layers = ("calm", "glad"), {"text.roberta2": [3, 5], "text.roberta1": [1, 1]}
    turn = {"speaker": "Ann", "features": layers}
    reading = Reading(names, {"text": 2}, "mean", ReadingOptions(), lambda name: False, None)
    for corpus in (reading.read([[turn]]), reading.start_live()(turn, 0)):
        assert corpus.features["text"].tolist() == [[2, 3]] and corpus.present["text"].all()
    apart = reading._replace(widths=dict.fromkeys(layers, 2), text_layers="views")
    assert apart.read([[turn]]).features["text.roberta2"].tolist() == [[3, 5]]
