"""What the package offers to Python beside training and predicting."""

import json
import pydoc
import re

import numpy as np
import pytest
from tiny import NO_PARTS, tiny_config

import cberl_jax as cberl
from cberl_jax import api
from cberl_jax.config.grid import check_grid, parse_grid
from cberl_jax.data.corpus import Corpus
from cberl_jax.data.readers.load import load_corpus
from cberl_jax.data.readers.npz import write_npz
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.errors import UserError

SHORT = NO_PARTS | {"train.epochs": 2}


def ignore(line):
    pass


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.npz"
    write_npz(simulate_corpus(create_process(), SimulatedSize(12, 4, 4, 4, 4), seed=0), path)
    return path


@pytest.fixture(scope="module")
def swept(path, tmp_path_factory):
    """A sweep over gamma, and its folder."""
    folder = tmp_path_factory.mktemp("sweep") / "sweep"
    options = {"settings": SHORT, "say": ignore, "pictures": False}
    grid = {"loss.gamma": [0, 2]}
    report = cberl.sweep(path, tiny_config(), grid=grid, workdir=folder, seeds=2, **options)
    return report, folder


def test_a_sweep_from_python_is_the_one_that_is_written(swept):
    report, folder = swept
    assert report == json.loads((folder / "sweep.json").read_text())
    assert repr(report) == (folder / "sweep.md").read_text() == report._repr_markdown_()
    assert report["best"]["loss.gamma"] in (0.0, 2.0)
    assert cberl.Run(folder / "best").report()["members"][0]["status"] == "ok"


def test_an_ablation_from_python_is_the_one_that_is_written(path, tmp_path):
    folder = tmp_path / "ablation"
    report = cberl.ablate(
        path, tiny_config(), workdir=folder, variants=["no class weights"],
        own={"much focus": {"loss.gamma": 4}}, settings=SHORT, say=ignore, pictures=False,
    )  # fmt: skip
    assert report == json.loads((folder / "ablation.json").read_text())
    assert repr(report) == (folder / "ablation.md").read_text()
    names = [line["name"] for line in report["variants"]]
    assert names == ["full", "no class weights", "much focus"]
    assert cberl.Run(folder / "reference").report()["test"]


def test_runs_are_compared_as_the_command_does(swept):
    run = cberl.Run(swept[1] / "best")
    found = cberl.compare(run, swept[1] / "best", metrics=["macro_f1", "accuracy"])
    assert [(line["kind"], line["metric"]) for line in found] == [
        (kind, metric) for kind in ("members", "ensemble") for metric in ("macro_f1", "accuracy")
    ]
    assert all(line["difference"] == 0 and line["p"] == 1 for line in found)
    with pytest.raises(UserError, match="name a second run, or predictions"):
        cberl.compare(run)
    stored = np.load(run.workdir / "predictions.npz")
    own = {n: stored[f"test.{n}"] for n in ("dialogue", "utterance", "probability")}
    np.savez(swept[1] / "other.npz", **own)
    other = cberl.compare(run, predictions=swept[1] / "other.npz")
    assert all(line["difference"] == 0 for line in other)
    assert "# best against best" in repr(found) and "+0.000" in found._repr_markdown_()


def test_a_run_is_exported_and_a_corpus_converted(swept, tmp_path):
    meaning = cberl.export(cberl.Run(swept[1] / "best"), tmp_path / "model.bin", length=8)
    assert meaning == json.loads((tmp_path / "model.bin.json").read_text())
    assert meaning["length"] == 8 and (tmp_path / "model.bin").stat().st_size > 0
    corpus = cberl.convert("simulated:small", tmp_path / "small.npz")
    assert isinstance(corpus, Corpus)
    np.testing.assert_array_equal(load_corpus(tmp_path / "small.npz").label, corpus.label)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda p, f: cberl.sweep(p, grid={"loss.gama": [1]}, workdir=f),
            "nearest is 'loss",
        ),
        (lambda p, f: cberl.sweep(p, grid={"loss.gamma": "0,1"}, workdir=f), "a list of values"),
        (lambda p, f: cberl.sweep(p, grid={"loss.gamma": 1}, workdir=f), "a list of values"),
        (lambda p, f: cberl.sweep(p, grid={"loss.gamma": []}, workdir=f), "a value is missing"),
        (lambda p, f: cberl.sweep(p, grid={"loss.gamma": [1, 1.0]}, workdir=f), "repeats a value"),
        (lambda p, f: cberl.sweep(p, grid={"train.epochs": [1.5]}, workdir=f), "a whole number"),
        (lambda p, f: cberl.sweep(p, grid={"loss.gamma": [-1]}, workdir=f), "from 0.0 to"),
        (lambda p, f: cberl.sweep(p, grid={}, workdir=f, seeds=0), "at least one, and different"),
        (lambda p, f: cberl.sweep(grid={}, workdir=f), "no corpus is named"),
        (lambda p, f: cberl.ablate(p, workdir=f, preset="luck"), "no preset 'luck', only parts"),
        (lambda p, f: cberl.ablate(p, workdir=f, variants=["luck"]), "no variant 'luck'"),
        (lambda p, f: cberl.ablate(p, workdir=f, own={"a": {"x": 1}}), "variant 'a': there is no"),
        (lambda p, f: cberl.ablate(p, workdir=f, own={"a": 3}), "variant 'a': its settings"),
        (lambda p, f: cberl.compare(f, f), "run: "),
        (lambda p, f: cberl.export(f, f / "model.bin"), "model.bin: has to be a file in a folder"),
        (lambda p, f: cberl.export(f, "model.bin", length=0), "length = 0: has to be"),
        (lambda p, f: cberl.convert("nowhere.npz", f), "nowhere.npz: cannot be read"),
        (lambda p, f: cberl.train(p, "own.py", workdir=f), "own.py: is neither a file"),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(path, tmp_path, call, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        call(path, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_grid_from_python_is_the_grid_of_the_same_flags():
    given = {
        "loss.gamma": [0, np.float32(0.5), 1e-3],
        "model.hidden": (64, np.int64(128)),
        "model.djvae": [True, False],
        "data.modalities": ["text", "text,audio"],
        "augment.method": ["gan", "none"],
    }
    flags = [
        *("loss.gamma=0,0.5,0.001", "model.hidden=64,128", "model.djvae=True,False"),
        *("data.modalities=text,text+audio", "augment.method=gan,none"),
    ]
    read, parsed = check_grid(given), parse_grid(flags)
    assert read == parsed
    for name in parsed:
        assert list(map(type, read[name])) == list(map(type, parsed[name]))


def test_a_training_takes_the_path_of_a_config_file(path, tmp_path, monkeypatch):
    file = tmp_path / "own.py"
    file.write_text(
        "from cberl_jax.config.presets import mosi\n\n\ndef get_config():\n"
        "    config = mosi()\n    config.loss.gamma = 3\n    return config\n"
    )
    taken = []
    monkeypatch.setattr(
        api, "train_and_evaluate", lambda config, *rest, **options: taken.append(config)
    )
    cberl.train(path, file, workdir=tmp_path / "run", settings={"optim.dropout": 0.1})
    (config,) = taken
    assert (config.loss.gamma, config.optim.dropout, config.train.select) == (3, 0.1, "accuracy")
    assert config.data.path == str(path)


def test_the_help_of_the_package_shows_what_it_offers_first():
    text = pydoc.plain(pydoc.render_doc(cberl))
    description = text[: text.index("PACKAGE CONTENTS")]
    for name in cberl.__all__:
        if name != "__version__":
            assert f"``{name}``" in description, name
            assert getattr(cberl, name).__doc__
    offered = text[text.index("FUNCTIONS") :]
    assert re.findall(r"^    (\w+)\(", offered, re.M) == sorted(
        ["ablate", "compare", "convert", "export", "load", "probe", "search", "sweep", "train"]
    )
