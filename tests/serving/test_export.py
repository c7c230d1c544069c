"""A run handed on: the file works where this package is not, and gives the same numbers."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_config

import cberl_jax as cberl
from cberl_jax.data.readers.npz import write_npz
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.errors import UserError
from cberl_jax.serving.export import export_run

ROOT = Path(__file__).parents[2]
LENGTH = 9
# What somebody writes who has jax, and nothing of ours.
STRANGER = """
import sys
sys.modules["cberl_jax"] = None
import jax, jax.export
import numpy as np

try:
    import cberl_jax
except ImportError:
    pass
else:
    raise SystemExit("cberl_jax could be imported")
with np.load(sys.argv[2]) as given:
    names = [n[9:] for n in given.files if n.startswith("features.")]
    features = {n: given[f"features.{n}"] for n in names}
    present = {n: given[f"present.{n}"] for n in names}
    speaker, turns = given["speaker"], given["turns"]
program = jax.export.deserialize(open(sys.argv[1], "rb").read())
result = program.call(features, present, speaker, turns)
np.savez(sys.argv[3], platforms=program.platforms, **result)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    corpus = simulate_corpus(create_process(), SimulatedSize(12, 4, 4, 4, 4), seed=0)
    write_npz(corpus, folder / "corpus.npz")
    settings = {"augment.method": "none", "model.reconstruction": False, "train.epochs": 1}
    settings |= {"data.components": 3, "optim.learning_rate": 0.02}
    return cberl.train(
        folder / "corpus.npz", tiny_config(), seeds=2, workdir=folder / "run", settings=settings
    )


def conversation(turns):
    generator = np.random.default_rng(0)
    corpus = simulate_corpus(create_process(), SimulatedSize(1, 1, 1, turns, turns), seed=1)
    return [
        {
            "speaker": str(generator.choice(["A", "B", "C"])),
            "features": {
                m: x[n] if generator.random() < 0.8 else None for m, x in corpus.features.items()
            },
        }
        for n in range(turns)
    ]


def as_arrays(turns, widths):
    """A conversation as the exported program takes it, padded with what must not matter."""
    count = len(turns)
    arrays = {"turns": np.int32(count), "speaker": np.full(LENGTH, 77, np.int32)}
    arrays["speaker"][:count] = [ord(turn["speaker"]) for turn in turns]
    for name, width in widths.items():
        features = np.full((LENGTH, width), 5.0, np.float32)
        present = np.ones(LENGTH, bool)
        for number, turn in enumerate(turns):
            values = turn["features"][name]
            present[number] = values is not None
            features[number] = 123.0 if values is None else values
        arrays |= {f"features.{name}": features, f"present.{name}": present}
    return arrays


def test_a_stranger_gets_the_same_numbers(run, program_environment, tmp_path):
    meaning = export_run(run.workdir, tmp_path / "model.bin", LENGTH)
    assert json.loads((tmp_path / "model.bin.json").read_text()) == meaning
    assert meaning["length"] == LENGTH and meaning["members"] == 2
    turns = conversation(7)
    np.savez(tmp_path / "given.npz", **as_arrays(turns, meaning["widths"]))
    files = [str(tmp_path / name) for name in ("model.bin", "given.npz", "result.npz")]
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, *files],
        env=program_environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    model = run.model()
    expected = model.predictions([turns]).members
    with np.load(files[2]) as result:
        assert set(result["platforms"]) == {"cpu", "cuda", "tpu"}
        assert result["probability"].shape == (LENGTH, len(model.classes))
        np.testing.assert_allclose(result["probability"][:7], expected.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(result["spread"][:7], expected.std(axis=0, ddof=1), atol=1e-5)
    assert meaning["classes"] == list(model.classes)


@pytest.mark.parametrize(
    "workdir, output, message",
    [
        ("run", "nowhere/model.bin", "has to be a file in a folder that is there"),
        ("run", ".", "has to be a file in a folder that is there"),
        ("corpus.npz", "model.bin", "holds no run"),
    ],
)
def test_a_mistake_writes_nothing(run, tmp_path, workdir, output, message):
    with pytest.raises(UserError, match=message):
        export_run(run.workdir.parent / workdir, tmp_path / output)
    assert not list(tmp_path.iterdir())


def test_the_program_says_what_was_written(run, program_environment, tmp_path):
    command = [sys.executable, str(ROOT / "experiments" / "export.py")]
    command += [f"--workdir={run.workdir}", f"--output={tmp_path / 'model.bin'}", "--length=4"]
    done = subprocess.run(
        command, env=program_environment, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"{tmp_path / 'model.bin'}: members 2; widths of features: text 24, audio 12, visual 12; "
        "turns: 4 at most; classes: neutral, surprise, fear, sadness, joy, disgust, anger\n"
    )
    assert (tmp_path / "model.bin").stat().st_size > 1000
    assert (tmp_path / "model.bin.md").read_text() == (run.workdir / "MODEL_CARD.md").read_text()
