"""Predictions from outside: brought into the order of a run, or refused with the place."""

import csv
import json

import numpy as np
import pytest

from cberl_jax.errors import UserError
from cberl_jax.evaluation.compare import compare
from cberl_jax.evaluation.outcomes import Outcome
from cberl_jax.evaluation.outside import read_predictions
from cberl_jax.reports.compare import format_comparison, write_comparison

CLASSES = ["neutral", "fear & co", "joy"]
DIALOGUES, LENGTH = 20, 5


@pytest.fixture(scope="module")
def run():
    """Five members that are right three times in four."""
    generator = np.random.default_rng(0)
    label = generator.choice(3, p=[0.5, 0.2, 0.3], size=DIALOGUES * LENGTH)
    right = generator.random((5, len(label))) < 0.75
    guess = np.where(right, label, (label + 1) % 3)
    return Outcome(
        "run",
        CLASSES,
        np.arange(5),
        np.eye(3)[guess] * 0.4 + 0.2,
        label,
        np.repeat([f"d{i}" for i in range(DIALOGUES)], LENGTH),
        np.tile(np.arange(LENGTH), DIALOGUES),
    )


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def rows_of(run, probability=None, **more):
    """The lines of a file, last utterance first."""
    own = run.probability[0] if probability is None else probability
    rows = []
    for key, values in zip(zip(run.dialogue, run.utterance), own):
        rows.append({"dialogue": key[0], "utterance": key[1], **more})
        rows[-1] |= dict(zip(CLASSES, values.tolist()))
    return rows[::-1]


def label_rows(run, guess):
    keys = zip(run.dialogue, run.utterance, guess)
    return [{"dialogue": d, "utterance": u, "label": CLASSES[c]} for d, u, c in keys]


def test_probabilities_and_labels_come_in_the_order_of_the_run(run, tmp_path):
    found = read_predictions(write_csv(tmp_path / "mine.csv", rows_of(run)), run)
    np.testing.assert_allclose(found.probability, run.probability[:1])
    assert found.name == "mine" and found.seeds.tolist() == [-1]
    guess = run.probability[0].argmax(axis=-1)
    found = read_predictions(write_csv(tmp_path / "l.csv", label_rows(run, guess)), run)
    np.testing.assert_array_equal(found.probability[0], np.eye(3)[guess])


def test_several_trainings_are_told_apart_by_their_seed(run, tmp_path):
    rows = [row for seed in (7, 8) for row in rows_of(run, run.probability[seed - 7], seed=seed)]
    np.random.default_rng(1).shuffle(rows)
    found = read_predictions(write_csv(tmp_path / "mine.csv", rows), run)
    assert found.probability.shape == (2, *run.probability.shape[1:])
    np.testing.assert_allclose(
        sorted(found.probability.tolist()), sorted(run.probability[:2].tolist())
    )


@pytest.mark.parametrize("kind", ["members", "one", "other order", "names", "numbers"])
def test_arrays_are_read(run, tmp_path, kind):
    order = np.random.default_rng(2).permutation(len(run.label))
    arrays = {"dialogue": run.dialogue[order], "utterance": run.utterance[order]}
    mixed = run.probability[:, order]
    guess = mixed[0].argmax(axis=-1)
    arrays |= {
        "members": {"probability": mixed},
        "one": {"probability": mixed[0]},
        "other order": {"probability": mixed[:, :, ::-1], "classes": CLASSES[::-1]},
        "names": {"label": np.asarray(CLASSES)[guess]},
        "numbers": {"label": guess},
    }[kind]
    np.savez(tmp_path / "mine.npz", **arrays)
    found = read_predictions(tmp_path / "mine.npz", run)
    if kind in ("members", "other order"):
        np.testing.assert_allclose(found.probability, run.probability)
    else:
        same = found.probability.argmax(axis=-1) == run.probability[:1].argmax(axis=-1)
        assert len(found.seeds) == 1 and same.all()


@pytest.mark.parametrize(
    "label, read",
    [
        (np.array([0, 1, 2, 1]), [0, 1, 2, 1]),
        (np.array([1, 2, 3, 2]), [0, 1, 2, 1]),
        (np.array(["1", "2", "2", "1"]), [0, 1, 1, 0]),
        (np.array(["0", "2", "2", "1"]), [0, 2, 2, 1]),
        (np.array([1, 2, 2, 1]), None),
    ],
)
def test_numbers_that_are_names_are_not_read_as_both(tmp_path, label, read):
    """Of a file all labels are names, or all are places."""
    truth, dialogue = np.array([0, 1, 2, 0]), np.array(["a", "a", "b", "b"])
    turn = np.array([0, 1, 0, 1])
    own = np.eye(3)[truth][None]
    run = Outcome("run", ["1", "2", "3"], np.arange(1), own, truth, dialogue, turn)
    np.savez(tmp_path / "mine.npz", dialogue=dialogue, utterance=turn, label=label)
    if read is None:
        with pytest.raises(UserError, match="names of classes.*write the names as text"):
            read_predictions(tmp_path / "mine.npz", run)
        return
    found = read_predictions(tmp_path / "mine.npz", run)
    assert found.probability[0].argmax(axis=-1).tolist() == read


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"dialogue": np.array("d0")}, r"have to be lists of one length.*shape \(\) and \(100,\)"),
        ({"utterance": np.zeros((100, 1), int)}, r"shape \(100,\) and \(100, 1\)"),
        ({"dialogue": np.array([], str), "utterance": np.array([], int)}, "lists of one length"),
        ({"label": np.zeros((0, 100), int)}, r"do not fit together: .* predictions \(0, 100, 3\)"),
        ({"label": np.zeros(99, int)}, r"do not fit together: .* predictions \(1, 99, 3\)"),
        ({"probability": np.zeros((0, 100, 3))}, r"do not fit together: .*\(0, 100, 3\)"),
        ({"probability": np.full((100, 3), "1")}, "its probabilities are <U1, no numbers"),
        ({"probability": np.ones((100, 3), complex)}, "are complex128, no numbers"),
    ],
)
def test_arrays_of_another_form_are_refused(run, tmp_path, changes, message):
    arrays = {"dialogue": run.dialogue, "utterance": run.utterance, "label": run.label} | changes
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(UserError, match=f"mine.npz: .*{message}"):
        read_predictions(tmp_path / "mine.npz", run)


def test_the_same_predictions_are_level_and_better_ones_win(run, tmp_path):
    path = write_csv(tmp_path / "same.csv", rows_of(run, run.probability.mean(axis=0)))
    other = read_predictions(path, run)
    for line in compare(run, other, ("accuracy", "macro_f1")):
        if line["kind"] == "ensemble":
            assert line["difference"] == 0 and line["ci95"] == [0, 0] and line["p"] == 1
    perfect = read_predictions(write_csv(tmp_path / "p.csv", label_rows(run, run.label)), run)
    lines = compare(run, perfect, ("accuracy",))
    assert all(line["second"] == 1 and line["ci95"][1] < 0 for line in lines)
    text = format_comparison(run, perfect, lines)
    assert "Taken as it is" in text and "give: p." in text
    for end in ("md", "json", "tex"):
        write_comparison(tmp_path / f"out.{end}", run, perfect, lines)
    assert (tmp_path / "out.md").read_text() == text
    told = json.loads((tmp_path / "out.json").read_text())
    assert told["models"][1] == {"name": "p", "members": 1, "seeds": [-1]}
    assert all(line["star"] for line in told["lines"])
    assert "^*$" in (tmp_path / "out.tex").read_text()
    with pytest.raises(UserError, match="ending in .md, .json, .tex"):
        write_comparison(tmp_path / "out.docx", run, perfect, lines)


def without(rows, name):
    return [{n: v for n, v in row.items() if n != name} for row in rows]


def changed(rows, number, **values):
    return [row | values if n == number else row for n, row in enumerate(rows)]


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda rows: rows[:-2], "lacks 2 of the 100 test utterances of run, such as utterance 0 "),
        (lambda rows: [*rows, rows[3]], "utterance 1 of dialogue 'd19' is there twice"),
        (lambda rows: changed(rows, 0, utterance=5), "lacks 1 of the 100 .* utterance 4 of dial"),
        (lambda rows: [*rows, rows[0] | {"utterance": 9}], "has 1 that are not among the test ut"),
        (lambda rows: changed(rows, 0, utterance="u1"), "utterance 'u1' of dialogue 'd19' is no"),
        (lambda rows: changed(rows, 1, joy=0.9), "dialogue 'd19', utterance 3: the probabilities"),
        (lambda rows: changed(rows, 1, joy=-0.2), "utterance 3: the probabilities"),
        (lambda rows: changed(rows, 1, joy="nan"), "utterance 3: the probabilities"),
        (lambda rows: changed(rows, 1, joy="high"), "a probability is no number"),
        (lambda rows: without(rows, "joy"), "needs the columns dialogue, utterance, and label"),
        (lambda rows: without(rows, "dialogue"), "needs the columns"),
        (lambda rows: [r | {"label": "hope"} for r in without(rows, "joy")], "no class 'hope'"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(run, tmp_path, damage, message):
    path = write_csv(tmp_path / "mine.csv", damage(rows_of(run)))
    with pytest.raises(UserError, match=rf"mine.csv: .*{message}"):
        read_predictions(path, run)


def test_a_column_that_is_there_twice_is_refused(run, tmp_path):
    path = write_csv(tmp_path / "a.csv", label_rows(run, run.label))
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([f"{first},label", *(f"{line},joy" for line in others)]))
    with pytest.raises(UserError, match="the column 'label' is there twice"):
        read_predictions(path, run)


def test_files_that_are_none_are_refused(run, tmp_path):
    with pytest.raises(UserError, match="none.csv: cannot be read"):
        read_predictions(tmp_path / "none.csv", run)
    with pytest.raises(UserError, match=r"a.txt: predictions are read from .csv or .npz"):
        read_predictions(tmp_path / "a.txt", run)
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(UserError, match="bad.npz: cannot be read"):
        read_predictions(tmp_path / "bad.npz", run)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(UserError, match="empty.csv: needs the columns .* it has none"):
        read_predictions(tmp_path / "empty.csv", run)
    (tmp_path / "ragged.csv").write_text("dialogue,utterance,label\nd0,0\n")
    with pytest.raises(UserError, match="ragged.csv: line 2 has another number of columns"):
        read_predictions(tmp_path / "ragged.csv", run)
    known = {"dialogue": run.dialogue, "utterance": run.utterance}
    whole = known | {"label": run.label}
    for arrays, message in (
        ({"utterance": run.utterance}, "needs the arrays dialogue"),
        (known, "needs the arrays"),
        (known | {"probability": run.probability[:, :5]}, "do not fit together"),
        (known | {"probability": run.probability[:, :, :2]}, "one column per class"),
        (known | {"label": np.full(len(run.label), 3)}, "there is no class '3'"),
        (whole | {"utterance": run.utterance + 0.5}, "utterance 0.5 of dialogue 'd0' is no turn"),
        (whole | {"utterance": np.full(len(run.label), np.inf)}, "utterance inf .* is no turn"),
    ):
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(UserError, match=message):
            read_predictions(tmp_path / "a.npz", run)
