"""A run under the variables that people's shells and schedulers set."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import TINY

ROOT = Path(__file__).parent.parent.parent
DEMO = "experiments/configs/demo.py"
# Trains in the Python API, where the process is the user's; says which settings jax has after it.
TRAINS = """
import sys
import jax
import numpy as np
import cberl_jax as cberl
from tiny import tiny_config

config = tiny_config(**{"data.path": "simulated:small", "train.epochs": int(sys.argv[2])})
run = cberl.train(config=config, workdir=sys.argv[1], pictures=False, say=lambda line: None)
if sys.argv[3] == "predict":
    np.save(sys.argv[1] + "/probability.npy", run.model().predict_proba("simulated:small")[0])
print(jax.config.jax_enable_x64, jax.config.jax_default_prng_impl)
"""
OTHER = {
    "JAX_ENABLE_X64": "1",
    "JAX_DEFAULT_PRNG_IMPL": "rbg",
    "JAX_THREEFRY_PARTITIONABLE": "0",
    "JAX_RANDOM_SEED_OFFSET": "7",
    "JAX_NUMPY_DTYPE_PROMOTION": "strict",
}


def python(code, *arguments, environment):
    environment = environment | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )


def start(name, *arguments, environment, cwd=ROOT):
    program = [sys.executable, str(ROOT / "experiments" / f"{name}.py"), *map(str, arguments)]
    environment = environment | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        program, env=environment, cwd=cwd, capture_output=True, timeout=600, check=False
    )


@pytest.mark.slow
def test_a_run_and_its_predictions_depend_on_no_variable_of_jax(tmp_path, program_environment):
    usual = python(TRAINS, tmp_path / "a", 3, "predict", environment=program_environment)
    assert usual.returncode == 0, usual.stderr
    other = python(TRAINS, tmp_path / "b", 3, "predict", environment=program_environment | OTHER)
    assert other.returncode == 0, other.stderr
    # The user's own settings are as they were.
    assert usual.stdout.split() == ["False", "threefry2x32"]
    assert other.stdout.split() == ["True", "rbg"]
    for name in ("metrics.jsonl", "probability.npy"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    reports = [json.loads((tmp_path / x / "report.json").read_text()) for x in "ab"]
    assert reports[0]["members"] == reports[1]["members"]


@pytest.mark.slow
def test_a_program_pins_its_numbers_too_and_speaks_ascii(tmp_path, program_environment):
    flags = [f"--config.{name}={value}" for name, value in (TINY | {"train.epochs": 1}).items()]
    flags = (f"--config={DEMO}", "--seeds=1", "--nopictures", "--config.gan.epochs=1", *flags)
    ascii_only = {"PYTHONIOENCODING": "ascii", "LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"}
    lines = []
    for name, more in (("a", {}), ("b", OTHER | ascii_only)):
        done = start(
            "train", *flags, f"--workdir={tmp_path / name}", environment=program_environment | more
        )
        assert done.returncode == 0, done.stderr.decode()
        lines.append((tmp_path / name / "metrics.jsonl").read_bytes())
    assert lines[0] == lines[1]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_class_names_that_an_output_cannot_show_are_escaped(
    tmp_path, program_environment, encoding
):
    import dataclasses

    from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus

    corpus = simulate_corpus(create_process(), SimulatedSize(6, 2, 2, 5, 8), seed=0)
    named = dataclasses.replace(corpus, classes=("中性", *corpus.classes[1:]))
    named.save(tmp_path / "named.npz")
    flags = (f"--input={tmp_path / 'named.npz'}", f"--output={tmp_path / 'again.npz'}")
    environment = program_environment | {"PYTHONIOENCODING": encoding}
    done = start("convert", *flags, environment=environment)
    assert done.returncode == 0, done.stderr.decode()
    assert b"\\u4e2d\\u6027" in done.stdout


@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_a_device_that_is_not_there_is_one_sentence(tmp_path, program_environment, platform):
    environment = program_environment | {"JAX_PLATFORMS": platform}
    done = start(
        "train", f"--config={DEMO}", f"--workdir={tmp_path / 'run'}", environment=environment
    )
    error = done.stderr.decode()
    assert done.returncode == 2 and "Traceback" not in error, error
    assert f"JAX_PLATFORMS={platform}" in error and "unset" in error
    assert not (tmp_path / "run" / "config.json").exists()


def test_the_python_interface_says_the_same_of_a_device(tmp_path, program_environment):
    environment = program_environment | {"JAX_PLATFORMS": "cuda"}
    done = python(TRAINS, tmp_path / "a", 1, "", environment=environment)
    assert "cberl_jax.errors.UserError: JAX_PLATFORMS=cuda: jax finds no such device" in done.stderr


@pytest.mark.parametrize("value", ["", " ", "1"])
def test_an_empty_variable_of_a_scheduler_means_one_process(monkeypatch, value):
    from cberl_jax.runtime.processes import start_processes

    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", value)
    start_processes()


def test_a_variable_of_a_scheduler_that_is_no_number_is_refused(monkeypatch):
    from cberl_jax.errors import UserError
    from cberl_jax.runtime.processes import start_processes

    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "many")
    with pytest.raises(UserError, match="SLURM_STEP_NUM_TASKS='many'"):
        start_processes()


def test_a_home_folder_is_expanded_in_every_flag_that_holds_a_path(tmp_path, program_environment):
    home = tmp_path / "home"
    home.mkdir()
    environment = program_environment | {"HOME": str(home)}
    flags = ("--input=simulated:small", "--output=~/small.npz")
    done = start("convert", *flags, environment=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert (home / "small.npz").exists() and os.listdir(tmp_path) == ["home"]
    done = start("convert", "--input=~/small.npz", "--output=~/b.npz", environment=environment)
    assert done.returncode == 0 and (home / "b.npz").exists()
