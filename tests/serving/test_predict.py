"""A finished run applied to conversations: the run's own numbers, whatever stands beside them."""

import dataclasses
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import matplotlib.image
import numpy as np
import pytest
from tiny import tiny_config
from webpage import Page

import cberl_jax as cberl
from cberl_jax import api
from cberl_jax.config.presets import CONFIGS, change
from cberl_jax.config.settings import default_config
from cberl_jax.data.corpus import UNLABELLED
from cberl_jax.data.dataset import create_table
from cberl_jax.data.packing import pack, turns_of
from cberl_jax.data.readers.load import load_corpus
from cberl_jax.data.readers.npz import write_npz
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.errors import UserError
from cberl_jax.reports.plots.trace import Trace, draw_trace
from cberl_jax.runtime.checkpoints import open_checkpoints
from cberl_jax.serving import model as predictor
from cberl_jax.serving.model import Model, load, predict_file, round_up
from cberl_jax.serving.predictions import name_files
from cberl_jax.serving.restore import read_settings, restore_members
from cberl_jax.training.epoch import NEVER, predict

ROOT = Path(__file__).parents[2]
LONGEST = 8
MODALITIES = ("text", "audio", "visual")
# Without what takes part in training alone; three rows in a step are not split over the devices,
# while those of a prediction are.
SHORT = {
    "train.epochs": 2,
    "train.rows_per_batch": 3,
    "augment.balance": 0.0,
    "model.reconstruction": False,
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A corpus with transcripts, whose third modality is absent now and then."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.npz"
    corpus = simulate_corpus(create_process(), SimulatedSize(24, 6, 10, 6, LONGEST), seed=0)
    text = np.array([f"turn {t} — “é”" if t % 3 else "" for t in range(len(corpus.label))])
    write_npz(dataclasses.replace(corpus, utterance=text), path)
    return path


@pytest.fixture(scope="module")
def run(path, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "run"
    settings = SHORT | {"loss.gamma": np.float64(2)}
    options = {"seeds": 2, "settings": settings, "pictures": False}
    return cberl.train(path, tiny_config(), workdir=workdir, **options)


@pytest.fixture(scope="module")
def model(run):
    return cberl.load(run.workdir)


@pytest.fixture(scope="module")
def test_split(path):
    return part(load_corpus(path), "test")


def part(corpus, split):
    """The dialogues of one split."""
    return choose(corpus, np.flatnonzero(corpus.split == split))


def choose(corpus, dialogues):
    """Some dialogues, given by their indices in the corpus's order."""
    chosen = np.isin(np.arange(len(corpus.length)), dialogues)
    here = np.repeat(chosen, corpus.length)
    fields = ("speaker", "label", "utterance")
    return dataclasses.replace(
        corpus,
        **{name: getattr(corpus, name)[here] for name in fields},
        **{name: getattr(corpus, name)[chosen] for name in ("dialogue", "split", "length")},
        features={m: x[here] for m, x in corpus.features.items()},
        present={m: x[here] for m, x in corpus.present.items()},
    )


def as_dictionaries(corpus):
    """A corpus in the form of JSON lines, absent modalities as null."""
    place = {name: array.tolist() for name, array in corpus.features.items()}

    def turn(n):
        label = corpus.label[n]
        return {
            "speaker": str(corpus.speaker[n]),
            "text": str(corpus.utterance[n]) if corpus.utterance is not None else None,
            "label": corpus.classes[label] if label >= 0 else None,
            "features": {m: x[n] if corpus.present[m][n] else None for m, x in place.items()},
        }

    return [
        {"dialogue": str(name), "turns": [turn(n) for n in range(start, start + length)]}
        for name, start, length in zip(corpus.dialogue, corpus.start, corpus.length)
    ]


def write_lines(path, conversations):
    path.write_text("".join(json.dumps(c) + "\n" for c in conversations), encoding="utf-8")
    return path


def long_conversation(turns, seed=1):
    size = SimulatedSize(1, 1, 1, turns, turns)
    corpus = simulate_corpus(create_process(), size, seed)
    return part(dataclasses.replace(corpus, utterance=np.full(len(corpus.label), "")), "test")


@pytest.fixture(scope="module")
def alone_and_unpadded(run):
    """A function of a corpus: the mean over members for each conversation in a row by itself."""
    trained = restore_members(*read_settings(run.workdir))
    program = dataclasses.replace(trained.fleet.program, rows=1)
    joint = trained.state.joint
    variables = {**joint.variables, "params": joint.best}

    @jax.jit
    def apply(table, rows):
        return jax.vmap(lambda own: predict(program, own, table, rows))(variables)

    def of_dialogue(corpus):
        rows = pack(turns_of(corpus, np.array([0])), int(corpus.length[0]))
        return np.asarray(apply(create_table(corpus, trained.standardiser), rows)).mean(axis=0)[0]

    def of_corpus(corpus):
        return [of_dialogue(choose(corpus, [d])) for d in range(len(corpus.length))]

    return of_corpus


def test_the_test_split_gives_the_runs_own_predictions(run, model, test_split, path):
    stored = np.load(run.workdir / "predictions.npz")
    predictions = model.predictions(test_split)
    np.testing.assert_allclose(predictions.members, stored["test.probability"], atol=1e-6)
    mean = stored["test.probability"].mean(axis=0)
    np.testing.assert_allclose(predictions.probability, mean, atol=1e-6)
    # In its file, among the other splits, too.
    whole, corpus = model.predictions(path), load_corpus(path)
    for split in ("dev", "test"):
        mean = stored[f"{split}.probability"].mean(axis=0)
        found = whole.probability[corpus.in_split(split)]
        np.testing.assert_allclose(found, mean, atol=1e-6)


def test_neither_the_other_conversations_nor_their_order_nor_padding_matter(
    alone_and_unpadded, model, test_split
):
    conversations = as_dictionaries(test_split)
    longer = [conversation["turns"] for conversation in as_dictionaries(long_conversation(50))]
    together = model.predict_proba(conversations)
    reverse = model.predict_proba(conversations[::-1])[::-1]
    beside_a_long_one = model.predict_proba([*conversations, *longer])
    reference = alone_and_unpadded(choose(test_split, range(3)))
    for number, expected in enumerate(reference):
        (alone,) = model.predict_proba(conversations[number : number + 1])
        np.testing.assert_allclose(alone, expected, atol=1e-5)
    for ways in zip(together, reverse, beside_a_long_one):
        for found in ways[1:]:
            np.testing.assert_allclose(found, ways[0], atol=1e-5)
    np.testing.assert_allclose(together[0], reference[0], atol=1e-5)
    # Turns differ from each other: the comparisons above say something.
    assert np.ptp(np.concatenate(together), axis=0).max() > 1e-3


def test_more_conversations_than_one_call_takes(model, test_split, monkeypatch):
    usual = model.predictions(test_split)
    monkeypatch.setattr(predictor, "MOST_CELLS", 2 * predictor.SHORTEST_ROW)
    in_parts = model.predictions(test_split)
    np.testing.assert_allclose(in_parts.members, usual.members, atol=1e-6)


def test_a_conversation_may_be_longer_than_any_seen(alone_and_unpadded, model):
    corpus = long_conversation(5 * LONGEST)
    (found,), (expected,) = model.predict_proba(corpus), alone_and_unpadded(corpus)
    assert found.shape == (5 * LONGEST, len(model.classes))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_every_way_to_lack_a_modality_is_the_same(alone_and_unpadded, model, test_split, tmp_path):
    some = choose(test_split, range(3))
    lacking = dataclasses.replace(
        some,
        features={**some.features, "audio": np.zeros_like(some.features["audio"])},
        present={**some.present, "audio": np.zeros(len(some.label), bool)},
    )
    expected = np.concatenate(alone_and_unpadded(lacking))
    null, missing = as_dictionaries(lacking), as_dictionaries(lacking)
    for conversation in missing:
        for turn in conversation["turns"]:
            del turn["features"]["audio"]
    np.savez(
        tmp_path / "c.npz",
        dialogue=lacking.dialogue,
        length=lacking.length,
        speaker=lacking.speaker,
        **{f"features.{m}": lacking.features[m] for m in ("visual", "text")},
        **{f"present.{m}": lacking.present[m] for m in ("visual", "text")},
    )
    for conversations in (null, missing, lacking, tmp_path / "c.npz"):
        found = np.concatenate(model.predict_proba(conversations))
        np.testing.assert_allclose(found, expected, atol=1e-5)
    full = np.concatenate(model.predict_proba(some))
    assert np.abs(full - expected).max() > 1e-3


def test_all_kinds_of_input_give_the_same(model, test_split, tmp_path):
    complete = dataclasses.replace(
        test_split, present={m: np.ones(len(x), bool) for m, x in test_split.features.items()}
    )
    expected = model.predictions(complete)
    dictionaries = as_dictionaries(complete)
    ids = complete.dialogue.tolist()

    def entry(value):
        return {c["dialogue"]: [value(turn) for turn in c["turns"]] for c in dictionaries}

    vectors = [entry(lambda turn, m=m: np.float32(turn["features"][m])) for m in MODALITIES]
    speakers = entry(lambda turn: np.eye(9)["AB".index(turn["speaker"])])
    given = dict(zip(ids, (own.tolist() for own in np.split(complete.label, complete.start[1:]))))
    sentences = entry(lambda turn: turn["text"])
    entries = (sentences, speakers, given, *vectors, sentences, [], ids)
    (tmp_path / "c.pkl").write_bytes(pickle.dumps(entries))
    lists = [c["turns"] for c in dictionaries]
    files = (tmp_path / "c.pkl", write_lines(tmp_path / "c.jsonl", dictionaries))
    for conversations in (*files, str(files[1]), dictionaries, lists):
        found = model.predictions(conversations)
        np.testing.assert_allclose(found.members, expected.members, atol=1e-6)
        assert found.corpus.utterance.tolist() == complete.utterance.tolist()
        # Numbers without names in a pickle could be of any classes.
        truth = UNLABELLED if conversations == files[0] else complete.label
        np.testing.assert_array_equal(found.corpus.label, truth)
        assert bool(found.corpus.remarks) == (conversations == files[0])


def test_similar_calls_share_one_compiled_program(run, monkeypatch):
    traced = []

    def counted(program, variables, table, rows, place):
        traced.append(rows.index.shape)
        return predict(program, variables, table, rows, place)

    monkeypatch.setattr(predictor, "predict", counted)
    model = load(run.workdir)
    # A conversation of 16 turns fills a row.
    turns = as_dictionaries(long_conversation(16))[0]["turns"]
    for conversations in ([turns], [turns, turns], [turns[:1]], [turns[:5]] * 5):
        model.predict(conversations)
    assert traced == [(2, 16)]
    for count in (3, 4, 3):
        model.predict([turns] * count)
    assert traced == [(2, 16), (4, 16)]
    for length in (17, 25, 32):
        model.predict(long_conversation(length))
    assert traced == [(2, 16), (4, 16), (2, 32)]


@pytest.mark.parametrize("count, unit, expected", [(1, 1, 1), (3, 1, 4), (17, 16, 32), (0, 2, 2)])
def test_sizes_are_rounded_up_by_doubling(count, unit, expected):
    assert round_up(count, unit) == expected


def test_a_line_tells_all_of_a_turn(model, test_split):
    predictions = model.predictions(test_split)
    lines = list(predictions.lines())
    assert len(lines) == len(test_split.label)
    for n, line in enumerate(lines):
        truth = test_split.label[n]
        assert line["dialogue"] == test_split.dialogue[test_split.dialogue_of[n]]
        assert (line["turn"], line["speaker"]) == (test_split.turn[n], test_split.speaker[n])
        assert line.get("text", "") == test_split.utterance[n]
        assert line["truth"] == test_split.classes[truth]
        assert line["label"] == max(line["probabilities"], key=line["probabilities"].get)
        first, second = predictions.members[:, n].astype(float)
        mean = list(line["probabilities"].values())
        np.testing.assert_allclose(mean, (first + second) / 2, atol=1e-7)
        # Of two numbers the standard deviation is half their distance times the root of 2.
        spread = np.abs(first - second) / np.sqrt(2)
        np.testing.assert_allclose(list(line["spread"].values()), spread, atol=1e-7)
    assert list(lines[0]["probabilities"]) == list(model.classes) == list(test_split.classes)
    labels = np.concatenate(model.predict(test_split))
    assert labels.tolist() == [line["label"] for line in lines]
    unknown = dataclasses.replace(
        test_split, label=np.full_like(test_split.label, -1), utterance=None
    )
    assert all(not {"truth", "text"} & line.keys() for line in model.predictions(unknown).lines())


# What is wrong with an input, and what is said of it.
WRONG_INPUTS = {
    "text is 3 wide (dialogue 'a', utterance 1), but": [
        {"speaker": "A"}, {"speaker": "A", "features": {"text": [1, 2, 3]}}
    ],
    "holds features of 'smell' (dialogue 'a', utterance 0), but": [
        {"speaker": "A", "features": {"smell": [1]}}
    ],
    "line 1: dialogue 'a' has no turns": [],
    "line 1, turn 0: the speaker is missing": [{"features": {"text": [1]}}],
    "feature 0 of text at dialogue 'a', utterance 0 is nan": [
        {"speaker": "A", "features": {"text": [float("nan")] * 24}}
    ],
    "the label 'rage' at dialogue 'a', utterance 0 is none of": [
        {"speaker": "A", "label": "rage", "features": {"text": [1] * 24}}
    ],
}  # fmt: skip


@pytest.mark.parametrize("message", WRONG_INPUTS)
def test_a_wrong_input_is_one_sentence_and_leaves_what_was_there(run, tmp_path, message):
    source = write_lines(tmp_path / "c.jsonl", [{"dialogue": "a", "turns": WRONG_INPUTS[message]}])
    output = tmp_path / "y.jsonl"
    output.write_text("before")
    with pytest.raises(UserError) as error:
        predict_file(run.workdir, source, output, tmp_path / "traces")
    assert str(error.value).startswith(f"{source}: ") and "\n" not in str(error.value)
    assert message in str(error.value)
    assert output.read_text() == "before"
    assert {file.name for file in tmp_path.iterdir()} == {"c.jsonl", "y.jsonl"}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"source": "nowhere.jsonl"}, "nowhere.jsonl: cannot be read"),
        ({"output": "nowhere/y.jsonl"}, "there is no folder"),
        ({"output": "."}, "is a folder; the output has to be a file"),
        ({"output": "y.xlsx"}, r"use one of \.jsonl, \.csv, \.parquet"),
        ({"output": "c.jsonl"}, "is the input, which the output would replace"),
        ({"traces": "c.jsonl"}, "is a file; the pictures need a folder"),
        ({"traces": "nowhere/traces"}, "there is no folder"),
        ({"workdir": "nowhere"}, "holds no run"),
    ],
)
def test_a_wrong_place_is_one_sentence(run, test_split, tmp_path, changes, message):
    write_lines(tmp_path / "c.jsonl", as_dictionaries(test_split)[:1])
    usual = {"workdir": run.workdir, "source": "c.jsonl", "output": "y.jsonl"}
    places = {name: tmp_path / place for name, place in (usual | changes).items()}
    with pytest.raises(UserError, match=message):
        predict_file(**places)
    assert [file.name for file in tmp_path.iterdir()] == ["c.jsonl"]


def diverge(run, folder, members):
    """A copy of the run in which some members have diverged."""
    copy = run.save(folder)
    parts = read_settings(copy.workdir)
    trained = restore_members(*parts)
    epoch = np.array(trained.state.joint.diverged)
    assert (epoch == NEVER).all()
    epoch[members] = 1
    state = trained.state.replace(joint=trained.state.joint.replace(diverged=epoch))
    with open_checkpoints(parts[0].checkpoints) as checkpoints:
        checkpoints.save(checkpoints.latest + 1, state, trained.standardiser)
    return copy


def test_a_member_that_diverged_says_nothing(run, model, test_split, tmp_path):
    sound = diverge(run, tmp_path / "run", [0]).model()
    assert (sound.seeds, sound.diverged) == ([1], [0])
    predictions, both = sound.predictions(test_split), model.predictions(test_split)
    np.testing.assert_allclose(predictions.members, both.members[1:], atol=1e-6)
    assert predictions.spread is None and next(predictions.lines())["spread"] is None
    assert "diverged and left out: seed 0" in predictions.describe()
    assert "diverged" not in both.describe() and "members 2" in both.describe()


def test_a_run_that_cannot_predict_is_refused(run, tmp_path):
    with pytest.raises(UserError, match="all 2 members of this run diverged"):
        load(diverge(run, tmp_path / "diverged", [0, 1]).workdir)
    unfinished = run.save(tmp_path / "unfinished")
    (unfinished.workdir / "report.json").unlink()
    for call in (unfinished.model, unfinished.report):
        with pytest.raises(UserError, match="not finished"):
            call()
    shutil.rmtree(run.save(tmp_path / "empty").workdir / "checkpoints")
    with pytest.raises(UserError, match="holds no checkpoint"):
        load(tmp_path / "empty")


def start(environment, *arguments):
    program = [sys.executable, str(ROOT / "experiments" / "predict.py"), *arguments]
    return subprocess.run(
        program, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120
    )


@pytest.mark.slow
def test_the_program_writes_lines_and_pictures(
    run, model, test_split, program_environment, tmp_path
):
    chosen = as_dictionaries(test_split)[:2]
    chosen[1]["dialogue"] = "../scene 1: “we were on a break”"
    source = write_lines(tmp_path / "c.jsonl", chosen)
    flags = (f"--workdir={run.workdir}", f"--input={source}", f"--traces={tmp_path / 'traces'}")
    done = start(program_environment, *flags, f"--output={tmp_path / 'y.jsonl'}")
    assert done.returncode == 0, done.stderr
    assert "conversations 2, turns" in done.stdout and done.stdout.count("\n") == 1
    written = [json.loads(x) for x in (tmp_path / "y.jsonl").read_bytes().splitlines()]
    expected = list(model.predictions(source).lines())
    assert [line["label"] for line in written] == [line["label"] for line in expected]
    assert "é".encode() in (tmp_path / "y.jsonl").read_bytes()
    pictures = sorted(file.name for file in (tmp_path / "traces").iterdir())
    assert pictures == ["_scene_1_we_were_on_a_break_.png", f"{chosen[0]['dialogue']}.png"]
    for name in pictures:
        assert matplotlib.image.imread(tmp_path / "traces" / name).shape[1] == 1280


def test_a_mistake_ends_the_program_with_one_sentence_and_status_2(
    run, program_environment, tmp_path
):
    (tmp_path / "c.jsonl").write_text('{"dialogue": 1,\n"turns": []}')
    flags = (f"--workdir={run.workdir}", f"--input={tmp_path / 'c.jsonl'}")
    done = start(program_environment, *flags, f"--output={tmp_path / 'y.jsonl'}")
    assert done.returncode == 2
    assert "c.jsonl: line 1 is not JSON" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "y.jsonl").exists()


def test_names_become_files_that_differ():
    names = ["a/b", "a b", "A_B", "..", "", "dia0_utt1", "x" * 300, "李"]
    files = name_files(names)
    assert len({file.casefold() for file in files}) == len(names)
    assert files[0] == "a_b" and files[5] == "dia0_utt1" and files[7] == "李"
    assert all(file and "/" not in file and file[0] != "." and len(file) < 60 for file in files)


def trace_of(probability, **changes):
    turns, classes = probability.shape
    return Trace(
        **{
            "title": "a $ scene",
            "classes": [f"class {c}" for c in range(classes)],
            "probability": probability,
            "spread": None,
            "label": probability.argmax(axis=1),
            "speaker": ["A", "李"] * (turns // 2) + ["A"] * (turns % 2),
            "truth": np.full(turns, -1),
        }
        | changes
    )


def dark_pixels(path, trace):
    """Pixels in the colour of the most probable class, its entry in the legend included."""
    draw_trace(path, trace)
    picture = (255 * matplotlib.image.imread(path)[..., :3]).round().astype(int)
    return int((picture == (0x00, 0x72, 0xB2)).all(axis=-1).sum())


def test_a_trace_shows_the_most_probable_class_by_the_area_of_its_bars(tmp_path):
    def area(top):
        rest = (1 - top) / 3
        return dark_pixels(
            tmp_path / "a.png", trace_of(np.full((10, 4), rest) + [top - rest, 0, 0, 0])
        )

    legend = 2 * area(0.4) - area(0.8)
    assert area(0.4) > 3 * legend > 0
    assert area(0.6) - legend == pytest.approx(1.5 * (area(0.4) - legend), rel=0.03)


@pytest.mark.parametrize("turns, speakers", [(1, 1), (3, 2), (40, 9), (700, 12)])
def test_a_trace_of_any_size_is_drawn(tmp_path, turns, speakers):
    probability = np.random.default_rng(0).dirichlet(np.ones(7), turns)
    speaker = [f"speaker number {t % speakers}" for t in range(turns)]
    spread, truth = 0.1 * probability, np.arange(turns) % 7
    trace = trace_of(probability, speaker=speaker, spread=spread, truth=truth)
    draw_trace(tmp_path / "a.png", trace)
    height, width, _ = matplotlib.image.imread(tmp_path / "a.png").shape
    assert 1200 <= width <= 3200 and 1000 <= height <= 1500


def test_a_run_and_its_model_print_as_a_few_lines(run, model, tmp_path):
    report = run.report()
    lines = repr(run).splitlines()
    assert lines[0] == f"Run {run.workdir} on {report['corpus']}"
    assert lines[1] == "members: 2 (seeds 0, 1), 0 diverged"
    for split, line in zip(("dev", "test"), lines[2:], strict=True):
        assert line.startswith(f"{split}: accuracy {report[split]['accuracy']['mean']:.3f}, ")
    figures = [f"{report[split]['macro_f1']['mean']:.3f}" for split in ("dev", "test")]
    cells = Page(run._repr_html_()).cells
    assert cells[:3] == ["metric", "dev", "test"]
    assert cells[cells.index("macro F1") + 1 :][:2] == figures
    assert repr(model).splitlines() == [
        "CBERL model",
        "members: 2 (seeds 0, 1)",
        f"classes: {len(model.classes)} ({', '.join(model.classes)})",
        f"features: {', '.join(f'{name} ({width})' for name, width in model.widths.items())}",
        "sees of an utterance: the turns before and after it",
    ]
    assert "2 (seeds 0, 1)" in Page(model._repr_html_()).cells
    nothing = api.Run(tmp_path / "<nothing>")
    assert "holds no run" in repr(nothing)
    assert "<nothing>" in Page(nothing._repr_html_()).text


def test_a_run_in_python_gives_its_report_and_can_be_saved(run, path, tmp_path):
    report = run.report()
    assert report == json.loads((run.workdir / "report.json").read_text())
    assert str(report).strip() == (run.workdir / "report.md").read_text().strip()
    assert report._repr_markdown_() == repr(report)
    assert json.loads((run.workdir / "config.json").read_text())["loss.gamma"] == 2.0
    assert run.save(tmp_path / "copy").report() == report
    with pytest.raises(UserError, match="there is something already"):
        run.save(tmp_path / "copy")
    said = []
    settings = SHORT | {"loss.gamma": 2}
    again = cberl.train(
        path, tiny_config(), seeds=[0, 1], workdir=run.workdir, settings=settings, say=said.append
    )
    assert said == ["this run is finished"] and again.report() == report


def test_without_a_workdir_the_run_goes_with_its_object(run, path, monkeypatch):
    def train_at_once(config, workdir, *rest, **options):
        shutil.copytree(run.workdir, workdir, dirs_exist_ok=True)

    monkeypatch.setattr(api, "train_and_evaluate", train_at_once)
    said = []
    passing = cberl.train(path, tiny_config(), say=said.append)
    folder, model = passing.workdir, passing.model()
    assert str(folder) in said[0] and passing.report() == run.report()
    del passing
    assert not folder.exists()
    assert len(model.predict(path)) == 40


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"config": "melt"},
            "melt: is neither a file nor one of the configs default, demo, iemocap, meld",
        ),
        ({"config": {"loss": 1}}, "a config has to be what default_config"),
        ({"settings": {"loss.gama": 1}}, "the nearest is 'loss.gamma'"),
        ({"settings": {"loss.gamma": "2"}}, "loss.gamma = '2': has to be of type float"),
        ({"settings": {"train.epochs": 2.0}}, "train.epochs = 2.0: has to be of type int"),
        ({"settings": {"loss.gamma": -1}}, "loss.gamma = -1.0: has to be from 0.0"),
        ({"seeds": 0}, "have to be at least one, and different"),
        ({"seeds": [1, 1]}, "have to be at least one, and different"),
        ({"data": None}, "no corpus is named"),
        ({"data": "nowhere.npz"}, "nowhere.npz: cannot be read"),
    ],
)
def test_a_mistake_in_python_is_one_sentence(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        cberl.train(**{"data": "simulated:small", "workdir": tmp_path / "run"} | changes)
    assert not (tmp_path / "run").exists()


def test_settings_are_changed_in_a_copy():
    config = default_config()
    changed = change(config, {"loss.gamma": 3, "data.modalities": "text"})
    assert (changed.loss.gamma, changed.data.modalities) == (3, "text")
    assert config == default_config()
    assert change(CONFIGS["demo"](), {}).data.path == "simulated:small"


def test_the_package_is_light_until_it_is_used():
    script = (
        "import sys, cberl_jax; heavy = {'jax', 'numpy', 'flax', 'matplotlib'} & set(sys.modules); "
        "assert not heavy, heavy; assert {'train', 'load', 'Model'} <= set(dir(cberl_jax))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert cberl.train.__module__ == "cberl_jax.api" and cberl.Model is Model
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        cberl.nonsense  # noqa: B018
