"""A model handed on as a folder: the run's numbers to the bit, and nothing of the author's disk."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from absl import flags
from tiny import tiny_config

import cberl_jax as cberl
from cberl_jax.config.presets import read_config
from cberl_jax.data.readers.npz import write_npz
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.data.standardize import empty_standardiser
from cberl_jax.errors import UserError
from cberl_jax.serving.folder import pack_weights
from cberl_jax.serving.model import predict_file
from cberl_jax.serving.restore import Inference, predicting_program

TELLTALE = "secret_folder"
SETTINGS = {
    "model.causal": True,
    "augment.method": "none",
    "model.djvae": False,
    "train.epochs": 1,
    "data.components": 3,
    "optim.learning_rate": 0.02,
}
# What goes on with a training, or shows it to its author, stays with the author.
PRIVATE = {"config.json", "checkpoints", "metrics.jsonl", ".lock"}
FILES = {"model.safetensors", "cberl.json", "README.md", "provenance.json", "SHA256SUMS"}


@pytest.fixture(scope="module")
def author(tmp_path_factory):
    """Where the author works: a corpus, and a run that a command is said to have started."""
    folder = tmp_path_factory.mktemp("home") / TELLTALE
    folder.mkdir()
    corpus = simulate_corpus(create_process(), SimulatedSize(12, 4, 4, 4, 4), seed=0)
    write_npz(corpus, folder / "mine.npz")
    words = ["train", f"--data={folder / 'mine.npz'}", "--workdir", f"{folder}/run/"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["/usr/bin/cberl", *words])
        flags.FLAGS(["cberl"])
        cberl.train(
            folder / "mine.npz", tiny_config(), seeds=2, workdir=folder / "run", settings=SETTINGS
        )
        flags.FLAGS.unparse_flags()
    return folder


@pytest.fixture(scope="module")
def exported(author, tmp_path_factory):
    """The folder as somebody else gets it."""
    target = tmp_path_factory.mktemp("other") / "mymodel"
    meaning = cberl.export(author / "run", target, format="folder")
    assert json.loads((target / "cberl.json").read_text()) == meaning
    return target


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


def turns(model, count=7):
    generator = np.random.default_rng(0)
    return [
        {
            "speaker": "AB"[number % 2],
            "features": {m: generator.normal(size=w).tolist() for m, w in model.widths.items()},
        }
        for number in range(count)
    ]


def test_its_predictions_are_the_runs_to_the_bit(author, exported, tmp_path):
    assert {path.name for path in exported.iterdir()} == FILES
    run, model = cberl.load(author / "run"), cberl.load(exported)
    assert str(model) == str(run) and list(model.widths) == list(run.widths)
    assert (model.seeds, model.diverged) == ([0, 1], [])
    corpus = author / "mine.npz"
    expected = run.predictions(corpus).members
    assert expected.std() > 0
    np.testing.assert_array_equal(model.predictions(corpus).members, expected)
    for own, other in ((run, model), (model, run)):
        stream = own.stream(), other.stream()
        assert [stream[0].push(t) for t in turns(run)] == [stream[1].push(t) for t in turns(run)]
    for source, output in ((author / "run", "a.jsonl"), (exported, "b.jsonl")):
        predict_file(source, corpus, tmp_path / output)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_it_is_exported_again_as_the_run_would_be(author, exported, tmp_path):
    cberl.export(exported, tmp_path / "again", format="folder")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (exported / name).read_bytes(), name
    for source, name in ((author / "run", "a.bin"), (exported, "b.bin")):
        cberl.export(source, tmp_path / name, length=4)
    for end in ("", ".json", ".md"):
        a, b = ((tmp_path / f"{x}.bin{end}").read_bytes() for x in "ab")
        assert a == b and a, end


def test_the_command_says_what_the_model_takes(exported, tmp_path, program_environment):
    command = ["export", f"--workdir={exported}", "--output=there", "--format=folder"]
    done = subprocess.run(
        [sys.executable, "-m", "cberl_jax", *command],
        cwd=tmp_path,
        env=program_environment | {"PYTHONPATH": str(Path(cberl.__file__).parents[1])},
        capture_output=True,
        text=True,
    )
    assert done.stdout == (
        "there: members 2; widths of features: text 24, audio 12, visual 12; "
        "turns: any number; classes: neutral, surprise, fear, sadness, joy, disgust, anger\n"
    ), done.stderr


def test_nothing_that_is_handed_on_names_a_folder_of_the_author(author, exported, tmp_path):
    cberl.export(author / "run", tmp_path / "model.bin", length=4)
    own = [p for p in author.rglob("run/**/*") if p.is_file()]
    handed_on = [p for p in own if p.relative_to(author / "run").parts[0] not in PRIVATE]
    names = {path.name for path in handed_on}
    assert names >= {"report.json", "report.md", "report.html", "report.tex", "MODEL_CARD.md"}
    assert sum(path.suffix == ".png" for path in handed_on) > 3
    handed_on += [*exported.iterdir(), *tmp_path.iterdir()]
    assert len(handed_on) > 15
    # Nor where the package and its libraries lie there.
    places = {TELLTALE, os.path.dirname(cberl.__file__), os.path.dirname(np.__file__)}
    for path in handed_on:
        content = path.read_bytes()
        assert not [place for place in places if place.encode() in content], path
    # It is there to be found: training goes on by it.
    assert TELLTALE in (author / "run" / "config.json").read_text()
    command = json.loads((exported / "provenance.json").read_text())["command"]
    assert command == "cberl train --data=mine.npz --workdir run"


def test_all_files_have_checksums_and_people_may_edit_the_card(copy, author):
    lines = dict(line.split("  ")[::-1] for line in (copy / "SHA256SUMS").read_text().splitlines())
    assert lines.keys() == FILES - {"SHA256SUMS"}
    for name, digest in lines.items():
        assert hashlib.sha256((copy / name).read_bytes()).hexdigest() == digest
    card = (copy / "README.md").read_text()
    assert card == (author / "run" / "MODEL_CARD.md").read_text()
    (copy / "README.md").write_text(card.replace("# license: to be", "license: mit # to be", 1))
    (copy / "LICENSE").write_text("MIT")
    assert cberl.load(copy).seeds == [0, 1]
    (copy / "README.md").unlink()
    assert cberl.load(copy).seeds == [0, 1]


def flip(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (folder / "model.safetensors").write_bytes(content)


def cut(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-1])


def seal(folder, name):
    """Puts the checksum of a file as it is into the list."""
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    kept = [line for line in lines if not line.endswith(f"  {name}")]
    (folder / "SHA256SUMS").write_text("\n".join([*kept, f"{digest}  {name}"]) + "\n")


def change_tensors(change):
    def act(folder):
        file = folder / "model.safetensors"
        tensors = safetensors.numpy.load_file(file)
        change(tensors)
        file.write_bytes(safetensors.numpy.save(tensors))
        seal(folder, file.name)

    return act


def change_settings(**changes):
    def act(folder):
        file = folder / "cberl.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        seal(folder, file.name)

    return act


def other_file(folder):
    (folder / "model.safetensors").write_bytes(b"no tensors at all")
    seal(folder, "model.safetensors")


def narrow(tensors):
    name = "variables/params/ensemble/bias"
    tensors[name] = tensors[name][..., :-1]


def drop_line(folder):
    (folder / "SHA256SUMS").write_text("0" * 64 + "  README.md\n")


BIAS = "variables/params/ensemble/bias"
NARROW = rf"is of another model .*{BIAS} is float32 of shape \[2, 2, 6\] in place of .*\[2, 2, 7\]"


@pytest.mark.parametrize(
    "damage, message",
    [
        (flip, "model.safetensors: is damaged .* get the folder again"),
        (cut, "model.safetensors: is damaged"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors: is missing"),
        (lambda f: (f / "cberl.json").unlink(), "cberl.json: is missing"),
        (lambda f: (f / "SHA256SUMS").unlink(), "SHA256SUMS: is missing"),
        (lambda f: (f / "SHA256SUMS").write_bytes(b"\xff"), "SHA256SUMS: cannot be read"),
        (lambda f: (f / "SHA256SUMS").write_text("a b"), "a line is no checksum"),
        (drop_line, "SHA256SUMS: has no checksum of cberl.json"),
        (lambda f: (f / "cberl.json").write_text("{}"), "cberl.json: is damaged"),
        (change_settings(settings=3), "cberl.json: is damaged .it holds no settings"),
        (change_settings(format=2), "has format 2; this version reads format 1"),
        (change_settings(version="0.1.0"), "was written by cberl-jax 0.1.0"),
        (change_settings(settings={}), "lacks augment.balance, "),
        (change_settings(seeds=[]), "seeds is missing or of no use"),
        (change_settings(fold=[0, 1]), "fold is of no use"),
        (change_settings(seeds=[0, 1, 2]), "is of another model than cberl.json"),
        (other_file, "model.safetensors: is no safetensors file"),
        (change_tensors(lambda x: x.pop(BIAS)), f"is of another model .*it lacks {BIAS}"),
        (change_tensors(lambda x: x.update(z=np.zeros(1))), "another model .*it also has z"),
        (change_tensors(narrow), NARROW),
    ],
)
def test_a_damaged_or_foreign_folder_is_refused(copy, damage, message):
    damage(copy)
    with pytest.raises(UserError, match=message) as caught:
        cberl.load(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source, output, message",
    [
        ("run", "there", "is there already"),
        ("run", "file", "is there already"),
        ("run", "nowhere/model", "there is no folder"),
        ("run", "", "the output is empty"),
        ("mine.npz", "model", "holds no run"),
    ],
)
def test_a_mistake_writes_nothing(author, tmp_path, source, output, message):
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match=message):
        cberl.export(author / source, output and tmp_path / output, format="folder")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "there"]


def test_a_full_disk_leaves_nothing(author, tmp_path, monkeypatch):
    written, write = [], os.fsync

    def fill_up(handle):
        written.append(handle)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        write(handle)

    monkeypatch.setattr(os, "fsync", fill_up)
    with pytest.raises(UserError, match="model: cannot be written .No space left on device"):
        cberl.export(author / "run", tmp_path / "model", format="folder")
    assert len(written) == 3 and not list(tmp_path.iterdir())


def test_an_unknown_format_and_a_missing_jax2onnx_are_one_sentence(author, tmp_path):
    with pytest.raises(UserError, match="format = 'tf': has to be one of jax, folder, onnx"):
        cberl.export(author / "run", tmp_path / "model", format="tf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "jax2onnx", None)
        with pytest.raises(UserError, match="jax2onnx is needed .* environment of its own"):
            cberl.export(author / "run", tmp_path / "model.onnx", format="onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("preset", ["meld", "meld_frozen"])
def test_eight_members_of_meld_take_less_than_40_mb(preset):
    config, widths, seeds = read_config(preset), {"text": 384, "audio": 10}, np.arange(8)
    program, shapes = predicting_program(config, widths, ["class"] * 7)
    variables = jax.tree.map(lambda x: np.zeros((8, *x.shape), x.dtype), shapes)
    standardiser = empty_standardiser(widths, config.data.components)
    classes = tuple(map(str, range(7)))
    found = Inference(config, classes, program, variables, standardiser, seeds, seeds[:0], None)
    assert 1e6 < len(pack_weights(found)) < 40e6
