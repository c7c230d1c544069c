"""A run on several views of the text: trained, read again, predicted, exported, live."""

import dataclasses
import json

import jax.export
import numpy as np
import pytest
from tiny import NO_PARTS, tiny_config

import cberl_jax as cberl
from cberl_jax.data.readers.load import load_corpus
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.errors import UserError
from cberl_jax.serving.export import create_function, export_run
from cberl_jax.serving.model import load
from cberl_jax.studies.gan_report import gan_report

SETTINGS = {**NO_PARTS, "model.causal": True, "train.epochs": 2, "optim.learning_rate": 0.02}
SETTINGS |= {"data.components": 4, "data.views": "text.a,text.b"}
# Text is 24 wide, audio and visual 12.
VIEWS = {"text.a": slice(0, 12), "text.b": slice(12, 15), "text.c": slice(15, 24)}


def viewed(size, seed=0):
    """A corpus whose text is in three views; the second one is absent in every third turn."""
    corpus = simulate_corpus(create_process(), size, seed)
    text, there = corpus.features["text"], corpus.present["text"]
    second = there & (np.arange(len(there)) % 3 != 0)
    present = dict.fromkeys(VIEWS, there) | {"text.b": second, "audio": corpus.present["audio"]}
    features = {v: text[:, columns] * present[v][:, None] for v, columns in VIEWS.items()}
    features["audio"] = corpus.features["audio"]
    return dataclasses.replace(corpus, features=features, present=present)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.npz"
    viewed(SimulatedSize(12, 4, 4, 4, 6)).save(path)
    return path


@pytest.fixture(scope="module")
def run(path, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "run"
    return cberl.train(
        path, tiny_config(), seeds=2, settings=SETTINGS, workdir=workdir, pictures=False
    )


@pytest.fixture(scope="module")
def model(run):
    return load(run.workdir)


def without(corpus, *views):
    """The corpus whose file does not hold some views."""
    kept = [name for name in corpus.features if name not in views]
    return dataclasses.replace(
        corpus,
        features={name: corpus.features[name] for name in kept},
        present={name: corpus.present[name] for name in kept},
    )


def absent(corpus, view):
    """The corpus that has a place for a view, which is absent everywhere."""
    nothing = np.zeros(len(corpus.label), bool)
    return dataclasses.replace(
        corpus,
        features=dict(corpus.features) | {view: np.zeros_like(corpus.features[view])},
        present=dict(corpus.present) | {view: nothing},
    )


def test_the_run_keeps_its_views_apart_and_the_model_sees_them_joined(run, model):
    assert model.widths == {"text.a": 12, "text.b": 3, "audio": 12}
    assert dict(model.network.widths) == {"text": 4 + 3, "audio": 4}
    stored = json.loads((run.workdir / "config.json").read_text())
    assert stored["data.views"] == "text.a,text.b" and stored["widths"] == model.widths
    assert "text.a (12)" in (run.workdir / "MODEL_CARD.md").read_text()


def test_a_run_read_again_predicts_what_it_predicted(run, model, path):
    corpus = load_corpus(path)
    test = np.flatnonzero(corpus.in_split("test"))
    # The third view, which was not chosen, may stand in the file.
    found = model.predictions(corpus).members[:, test]
    with np.load(run.workdir / "predictions.npz") as stored:
        np.testing.assert_allclose(found, stored["test.probability"], atol=1e-5)


def test_a_view_that_input_lacks_is_absent_and_not_zero(model):
    corpus = viewed(SimulatedSize(2, 1, 1, 4, 6), seed=5)
    whole = model.predictions(corpus).members
    lacking = model.predictions(without(corpus, "text.b")).members
    np.testing.assert_array_equal(lacking, model.predictions(absent(corpus, "text.b")).members)
    assert np.abs(lacking - whole).max() > 1e-4
    # A vector of zeros is a value, which the view's mean over train is not.
    zeros = dict(corpus.features) | {"text.b": np.zeros_like(corpus.features["text.b"])}
    there = dict(corpus.present) | {"text.b": np.ones(len(corpus.label), bool)}
    value = dataclasses.replace(corpus, features=zeros, present=there)
    assert np.abs(model.predictions(value).members - lacking).max() > 1e-5


def test_other_features_than_the_runs_are_refused(model):
    corpus = viewed(SimulatedSize(1, 1, 1, 4, 6))
    other = dict(without(corpus, "text.a", "text.b", "text.c").features)
    text = np.ones((len(corpus.label), 12), np.float32)
    there = np.ones(len(corpus.label), bool)
    for name, message in (
        ("text", "'text' .*the model was trained with text.a, text.b, audio"),
        ("visual.a", "'visual.a' .*the model was trained with text.a, text.b, audio"),
        ("text.b", "text.b is 12 wide .* the model was trained with 3"),
    ):
        given = dataclasses.replace(
            corpus,
            features=other | {name: text},
            present={"audio": corpus.present["audio"], name: there},
        )
        with pytest.raises(UserError, match=message):
            model.predict(given)


def conversation():
    corpus = viewed(SimulatedSize(1, 1, 1, 7, 7), seed=3)
    return [
        {
            "speaker": "AB"[n % 2],
            "features": {m: x[n] for m, x in corpus.features.items() if corpus.present[m][n]},
        }
        for n in range(7)
    ]


def test_a_stream_and_the_exported_program_give_the_same_numbers(run, model, tmp_path):
    turns = conversation()
    expected = model.predictions([turns]).members.mean(axis=0)
    stream = model.stream()
    live = [list(stream.push(turn).probabilities.values()) for turn in turns]
    np.testing.assert_allclose(live, expected, atol=1e-5)

    meaning = export_run(run.workdir, tmp_path / "model.bin", 8)
    assert meaning["widths"] == model.widths
    features = {view: np.full((8, d), 9.0, np.float32) for view, d in model.widths.items()}
    present = {view: np.zeros(8, bool) for view in model.widths}
    for n, turn in enumerate(turns):
        for view in set(turn["features"]) & set(features):
            features[view][n], present[view][n] = turn["features"][view], True
    speaker = np.array([0, 1] * 4, np.int32)
    program = jax.export.deserialize(bytearray((tmp_path / "model.bin").read_bytes()))
    for function in (program.call, create_function(model)):
        given = function(features, present, speaker, np.int32(7))
        np.testing.assert_allclose(given["probability"][:7], expected, atol=1e-5)


def test_a_folder_is_that_of_its_views(run, path, tmp_path):
    with pytest.raises(UserError, match="data.views: .*text.a,text.b.* there"):
        cberl.train(
            path,
            tiny_config(),
            seeds=2,
            settings=SETTINGS | {"data.views": "text.a"},
            workdir=run.workdir,
        )
    with pytest.raises(UserError, match="has no view 'text.z', only text.a, text.b, text.c, audio"):
        cberl.train(path, settings={"data.views": "text.z"}, workdir=tmp_path / "z")


@pytest.mark.slow
def test_all_parts_train_on_views(path, tmp_path):
    """The GAN, the graph and the autoencoder see the joined text."""
    settings = {"data.views": "", "train.epochs": 1, "gan.epochs": 1, "data.components": 4}
    run = cberl.train(
        path, tiny_config(), settings=settings, workdir=tmp_path / "run", pictures=False
    )
    assert dict(load(run.workdir).network.widths) == {"text": 4 + 3 + 4, "audio": 4}
    report = gan_report(run.workdir)
    assert json.loads((run.workdir / "gan_report.json").read_text()) == report
