"""The pictures of a run: the numbers behind them by hand, and a run that leaves them all."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from tiny import BARE, QUIET, tiny_config
from webpage import Page, check_self_contained

from cberl_jax.data.readers.npz import write_npz
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.evaluation.activations import Activations, attention_within, compute_activations
from cberl_jax.reports import pictures as illustrations
from cberl_jax.reports.pictures import (
    choose_conversation,
    choose_points,
    choose_turns,
    illustrate,
    mean_confusion,
    measure_calibration,
    read_curve,
)
from cberl_jax.reports.plots.attention import choose_arcs
from cberl_jax.reports.plots.fonts import warn_of_numbers
from cberl_jax.reports.plots.run import row_shares
from cberl_jax.reports.run import write_report
from cberl_jax.runtime.progress import Progress
from cberl_jax.runtime.workdir import Workdir
from cberl_jax.serving.restore import restore_run
from cberl_jax.studies.train import train_and_evaluate
from cberl_jax.training.outcome import TrainedRun
from cberl_jax.training.prepare import prepare

NAMES = "confusion f1 curves classes calibration features generated attention".split()
HOSTILE = '<img src="http://example.org/x.png" onerror=alert(1)> $\\frac{$ | ![x](http://e.org)'


# The numbers


def test_calibration_by_hand():
    # Two of confidence 0.95, one right; of 0.62 and 0.66 both right; the unlabelled does not count.
    first = np.asarray([0.95, 0.95, 0.62, 0.66, 0.99])
    probability = np.stack([first, 1 - first], axis=-1)
    found = measure_calibration(np.asarray([0, 1, 0, 0, -1]), probability)
    np.testing.assert_array_equal(found.count, [0, 0, 0, 0, 0, 0, 2, 0, 0, 2])
    assert found.confidence[[6, 9]] == pytest.approx([0.64, 0.95])
    assert found.accuracy[[6, 9]] == pytest.approx([1.0, 0.5])
    # 2/4 |1 - 0.64| + 2/4 |0.5 - 0.95|
    assert found.error == pytest.approx(0.5 * 0.36 + 0.5 * 0.45)


def test_who_is_always_right_and_sure_has_no_calibration_error():
    found = measure_calibration(np.asarray([1, 0]), np.asarray([[0.0, 1.0], [1.0, 0.0]]))
    assert found.error == 0 and found.count[-1] == 2


def test_confusion_by_hand():
    label = np.asarray([0, 0, 1, -1])
    guesses = np.asarray([[0, 1, 1, 2], [0, 0, 2, 2]])
    counts = mean_confusion(label, np.eye(3)[guesses])
    np.testing.assert_array_equal(counts, [[1.5, 0.5, 0], [0, 0.5, 0.5], [0, 0, 0]])
    np.testing.assert_allclose(row_shares(counts).sum(axis=1), [1, 1, 0])


def test_curves_are_over_the_members_that_still_train():
    values = ((0, 0, 4), (0, 1, 2), (0, 2, 99), (1, 0, 3), (1, 1, 1), (2, 0, 5))
    lines = [
        {"stage": "joint", "epoch": epoch, "member": member, "total": value}
        for epoch, member, value in values
    ]
    lines.append({"stage": "gan", "epoch": 0, "member": 0, "total": 50})
    # Member 2 has diverged; member 1 stopped after two epochs.
    curve = read_curve(lines, {0: 3, 1: 1}, "total", "loss")
    np.testing.assert_array_equal(curve.epoch, [1, 2, 3])
    np.testing.assert_array_equal(curve.mean, [3, 2, 5])
    np.testing.assert_array_equal(curve.low, [2, 1, 5])
    np.testing.assert_array_equal(curve.high, [4, 3, 5])
    np.testing.assert_array_equal(curve.kept, [[3, 5], [1, 2]])


def test_all_of_a_rare_class_is_shown_and_a_part_of_a_frequent_one():
    label = np.repeat([0, 1, -1], [900, 30, 10])
    chosen = choose_points(label, 2)
    assert np.bincount(label[chosen]).tolist() == [350, 30]
    np.testing.assert_array_equal(chosen, choose_points(label, 2))
    assert len(np.unique(chosen)) == len(chosen)


def conversations(*dialogues):
    """A corpus of test dialogues, each a string of classes by digit; upper letters speak."""
    corpus = simulate_corpus(create_process(), SimulatedSize(1, 1, len(dialogues), 40, 40), 0)
    length = np.asarray([40, 40, *map(len, dialogues)])
    label = np.concatenate([np.zeros(80, int), *(np.asarray(list(d), int) for d in dialogues)])
    count = len(label)
    return dataclasses.replace(
        corpus,
        length=length,
        label=label,
        speaker=np.asarray(["A", "B"] * count)[:count],
        features={m: np.zeros((count, 1)) for m in corpus.features},
        present={m: np.ones(count, bool) for m in corpus.features},
    )


def test_the_conversation_is_short_and_has_what_is_worth_seeing():
    minority = np.asarray([False, False, True])
    # From the third dialogue on: too short, too long, no minority, few classes, right, right again.
    corpus = conversations("2101", "210" * 8, "01010101", "000002", "010201", "210210")
    assert choose_conversation(corpus, minority) == 6
    assert choose_conversation(conversations("21", "0" * 30), minority) == 2
    assert choose_turns(np.zeros(7, int), minority) == slice(0, 7)
    long = np.zeros(40, int)
    long[30] = 2
    assert choose_turns(long, minority) == slice(25, 35)
    long[38] = long[30] = -1
    assert choose_turns(long, minority) == slice(0, 10)


def test_attention_is_cut_out_of_the_window_by_hand():
    # Past 1, future 1; a dialogue of three turns after one of one turn.
    window = np.asarray([[0, 1, 0], [0, 0.4, 0.6], [0.2, 0.3, 0.5], [0.9, 0.1, 0]])
    found = attention_within(Activations(None, window), start=1, length=3, past=1)
    np.testing.assert_array_equal(found, [[0.4, 0.6, 0], [0.2, 0.3, 0.5], [0, 0.9, 0.1]])


def test_arcs_are_the_heavy_edges():
    attention = np.asarray([[0.2, 0.8, 0.0], [0.5, 0.4, 0.1], [0.3, 0.3, 0.4]])
    # Alike were 1/2 in the first row and 1/3 in the others; 1.25 times that 0.625 and 0.417.
    assert choose_arcs(attention, np.arange(3)) == [(1, 0, 0.8), (0, 1, 0.5)]
    # The last two turns alone: what the second one gives the first one counts still.
    attention[1] = [0.1, 0.45, 0.45]
    assert choose_arcs(attention, np.arange(1, 3)) == [(1, 0, 0.45)]


# A run


LOST = {
    "status": "diverged",
    "diverged": {"stage": "joint", "epoch": 1, "term": "focal"},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run on a corpus whose names would do harm to a page or to a formula."""
    folder = tmp_path_factory.mktemp("illustrated")
    corpus = simulate_corpus(create_process(), SimulatedSize(30, 6, 12, 6, 8), seed=3)
    corpus = dataclasses.replace(
        corpus,
        classes=(HOSTILE, *corpus.classes[1:]),
        dialogue=np.asarray([f"<script>{n}</script> $x" for n in range(len(corpus.dialogue))]),
        utterance=np.asarray([f"{HOSTILE} {n}" for n in range(len(corpus.label))]),
    )
    write_npz(corpus, folder / "corpus.npz")
    bare = BARE | {"augment.method": "gan", "gan.epochs": 1, "train.epochs": 3}
    bare |= {"data.path": str(folder / "corpus.npz"), "data.modalities": "text,audio"}
    arguments = (tiny_config(**bare), str(folder / "run"), [3, 5])
    return arguments, train_and_evaluate(*arguments, QUIET)


@pytest.fixture(scope="module")
def trained(finished):
    arguments, _ = finished
    run = restore_run(arguments[1])
    folder = Workdir(arguments[1], create=False)
    return TrainedRun(folder, run.config, prepare(run.config, run.corpus), run.state)


@pytest.fixture
def drawn(trained, finished, monkeypatch):
    """What every drawing function is given, by name, and the pictures."""
    given = {}
    for name in [name for name in vars(illustrations) if name.startswith("draw_")]:
        monkeypatch.setattr(
            illustrations, name, lambda path, *data, name=name: given.update({name: data})
        )

    def draw(report=finished[1]):
        given.clear()
        return given, illustrate(trained, report)

    return draw


def test_a_run_leaves_its_pictures_and_a_page_that_needs_nothing_else(finished):
    arguments, report = finished
    folder = Workdir(arguments[1], create=False).path
    files = [f"report_{name}.png" for name in NAMES]
    assert [picture["file"] for picture in report["pictures"]] == files
    assert sorted(path.name for path in folder.glob("*.png")) == sorted(files)
    text = (folder / "report.md").read_text()
    assert all(text.count(f"]({name})") == 1 for name in files)
    page = (folder / "report.html").read_text()
    assert check_self_contained(page) == [(folder / name).read_bytes() for name in files]
    assert HOSTILE in [cell.strip() for cell in Page(page).cells]
    assert "Test dialogue <script>" in Page(page).text
    assert json.loads((folder / "report.json").read_text()) == report


def test_a_finished_run_is_not_drawn_again(finished):
    arguments, report = finished
    folder = Workdir(arguments[1], create=False).path
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    said = []
    again = train_and_evaluate(*arguments, Progress(said.append))
    assert said == ["this run is finished"] and again == report
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_pictures_show_the_figures_of_the_report(trained, finished, drawn):
    report = finished[1]
    given, _ = drawn()
    classes, counts, _ = given["draw_confusion"]
    support = [s["support"] for s in report["test"]["per_class"].values()]
    np.testing.assert_allclose(counts.sum(axis=1), support)
    np.testing.assert_allclose(row_shares(counts).sum(axis=1), np.sign(support))
    accuracy = report["test"]["accuracy"]["mean"]
    assert np.trace(counts) / counts.sum() == pytest.approx(accuracy)
    (shown,) = given["draw_class_counts"]
    prepared = prepare(trained.config, trained.prepared.corpus)
    assert shown == report["augmentation"]
    assert [own["generated"] for own in shown.values()] == prepared.generated.tolist()
    totals = [own["real"] + own["generated"] for own in shown.values()]
    data = prepared.data
    assert totals == (data.counts + data.generated).tolist() and prepared.generated.any()
    scores, minority, _ = given["draw_class_scores"]
    assert scores == report["test"]["per_class"]
    assert {n for n, own in shown.items() if own["generated"]} <= set(minority) < set(classes)
    dev = given["draw_curves"][0][0]
    kept = [[m["epoch"], m["dev"]["macro_f1"] + m["dev"]["weighted_f1"]] for m in report["members"]]
    np.testing.assert_allclose(dev.kept * [1, 2], kept, atol=1e-5)
    np.testing.assert_array_equal(dev.epoch, [1, 2, 3])


def test_the_conversation_is_shown_with_its_text_truth_and_attention(trained, drawn):
    (found,) = drawn()[0]["draw_attention"]
    turns = len(found.turn)
    assert 5 <= turns <= 10
    np.testing.assert_allclose(found.attention.sum(axis=1), 1, atol=1e-5)
    corpus = trained.prepared.corpus
    number = corpus.dialogue.tolist().index(found.title)
    start = corpus.start[number]
    assert (
        corpus.split[number] == "test"
        and found.text == corpus.utterance[start : start + turns].tolist()
    )
    label = corpus.label[start : start + turns]
    assert found.truth == [corpus.classes[c] for c in label]
    with np.load(trained.folder.predictions_file) as stored:
        here = stored["test.dialogue"] == found.title
        guess = stored["test.probability"][0, here].argmax(axis=-1)
    assert found.guess == [corpus.classes[c] for c in guess]


def test_a_diverged_member_takes_no_part(finished, drawn):
    report = json.loads(json.dumps(finished[1]))
    report["members"][0] |= LOST | {"dev": None, "test": None}
    given, pictures = drawn(report)
    assert "seed 5" in pictures[-1].text
    np.testing.assert_array_equal(given["draw_curves"][0][0].kept.shape, [1, 2])
    assert given["draw_calibration"][1]["std"] is None
    assert np.all(given["draw_confusion"][1] % 1 == 0)


def test_a_run_whose_members_have_all_diverged_has_a_report_without_pictures(
    trained, finished, tmp_path
):
    report = finished[1] | {"test": None, "dev": None, "pictures": []}
    report["members"] = [m | LOST for m in report["members"]]
    assert illustrate(trained, report) == []
    write_report(Workdir(tmp_path), report)
    page = (tmp_path / "report.html").read_text()
    assert check_self_contained(page) == [] and "No member is left" in page


def test_classes_that_no_font_has_are_numbered_in_every_picture(
    trained, finished, drawn, monkeypatch
):
    monkeypatch.setattr(
        "cberl_jax.reports.plots.fonts._installed", lambda letters, known: {"none": frozenset()}
    )
    names = ("高兴", "悲伤", "中性", "惊讶", "恐惧", "厌恶", "a|b")
    corpus = trained.prepared.corpus
    before = dict(zip(corpus.classes, names))
    report = json.loads(json.dumps(finished[1]))
    for split in ("dev", "test"):
        own = report[split]["per_class"]
        report[split]["per_class"] = {before[name]: scores for name, scores in own.items()}
    report["augmentation"] = {before[n]: own for n, own in report["augmentation"].items()}
    prepared = trained.prepared._replace(
        corpus=dataclasses.replace(corpus, classes=names, speaker=np.full(len(corpus.label), "李"))
    )
    given, said = drawn()[0], []
    pictures = illustrate(trained._replace(prepared=prepared), report, said.append)
    numbers = ["1", "2", "3", "4", "5", "6", "7"]
    assert list(given["draw_confusion"][0]) == list(given["draw_features"][0]) == numbers
    scores, minority, _ = given["draw_class_scores"]
    assert list(scores.values()) == list(finished[1]["test"]["per_class"].values())
    assert list(scores) == list(given["draw_class_counts"][0]) == numbers and minority
    (conversation,) = given["draw_attention"]
    assert set(conversation.truth) | set(conversation.guess) <= set(numbers)
    assert set(conversation.speaker) == {"speaker 1"}
    assert said == [warn_of_numbers(names, numbers)] and "1 = 高兴" in said[0]
    assert r"1 = 高兴, 2 = 悲伤" in pictures[0].text and r"7 = a\|b" in pictures[0].text


def test_a_caption_says_which_end_attends_and_whose_score_a_triangle_is(finished):
    texts = {own["file"]: own["text"] for own in finished[1]["pictures"]}
    assert "to the turn that attends (head)" in texts["report_attention.png"]
    assert "that member's own score" in " ".join(texts["report_curves.png"].split())


def test_a_model_without_a_graph_has_no_picture_of_attention(trained, finished, drawn, monkeypatch):
    inside = Activations(np.zeros((int(trained.prepared.corpus.in_split("test").sum()), 2)), None)
    monkeypatch.setattr(illustrations, "compute_activations", lambda *arguments: inside)
    given, pictures = drawn()
    assert "draw_attention" not in given and len(pictures) == len(NAMES) - 1


def test_the_generated_utterances_are_the_first_sound_members(trained, finished, drawn):
    (panels,) = drawn()[0]["draw_utterances"]
    counts = finished[1]["augmentation"]
    shown = {title.rsplit(" (", 1)[0]: clouds for title, clouds in panels}
    assert set(shown) == {name for name, own in counts.items() if own["generated"]}
    for name, clouds in shown.items():
        # One for each real utterance; those without all modalities are left out.
        assert len(clouds["sources"]) == len(clouds["generated"]) <= counts[name]["real"]
    report = json.loads(json.dumps(finished[1]))
    report["members"][0] |= LOST | {"dev": None, "test": None}
    (others,) = drawn(report)[0]["draw_utterances"]
    assert not np.array_equal(others[0][1]["generated"], panels[0][1]["generated"])


def test_a_run_without_a_gan_has_no_picture_of_generated_utterances(trained, finished, drawn):
    program = dataclasses.replace(trained.prepared.program, gan=None)
    bare = trained._replace(prepared=trained.prepared._replace(program=program))
    names = [picture.file for picture in illustrate(bare, finished[1])]
    assert "report_features.png" in names and "report_generated.png" not in names


def test_codes_are_in_the_order_of_the_corpus(trained):
    """Turned around, the test dialogues have the same codes and attention, turned around."""
    joint, corpus = trained.state.joint, trained.prepared.corpus
    variables = jax.tree.map(lambda x: x[0], {**joint.variables, "params": joint.best})

    def look(corpus):
        prepared = trained.prepared
        return compute_activations(prepared.program, variables, corpus, prepared.standardiser)

    order = np.arange(len(corpus.dialogue))[::-1]
    index = np.concatenate([np.flatnonzero(corpus.dialogue_of == d) for d in order])
    turned = dataclasses.replace(
        corpus,
        **{f: getattr(corpus, f)[order] for f in ("dialogue", "split", "length")},
        **{f: getattr(corpus, f)[index] for f in ("speaker", "label", "utterance")},
        **{
            f: {m: x[index] for m, x in getattr(corpus, f).items()} for f in ("features", "present")
        },
    )
    ours, theirs = look(corpus), look(turned)
    place = np.cumsum(corpus.in_split("test")) - 1
    moved = place[index[turned.in_split("test")]]
    np.testing.assert_allclose(theirs.code, ours.code[moved], atol=1e-4)
    np.testing.assert_allclose(theirs.attention, ours.attention[moved], atol=1e-5)
    assert np.ptp(ours.code, axis=0).max() > 0.1
