"""The real programs of a training, compiled for devices that are not there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import TINY

from cberl_jax.studies.target import TARGETS

ROOT = Path(__file__).parents[2]
# Where ``make compilers`` puts them: in the environment itself jax would look for their devices.
COMPILERS = Path(sys.prefix) / "compilers"
MEMBERS = 3


def find(target):
    """The folder that holds a target's compiler; None where there is none."""
    return COMPILERS if (COMPILERS / TARGETS[target].package).is_dir() else None


@pytest.mark.slow
@pytest.mark.parametrize("target", ["h100", "tpu-v5e"])
def test_it_compiles_and_members_exchange_nothing(target, program_environment, tmp_path):
    compilers = find(target)
    if compilers is None:
        pytest.skip(f"needs the compiler for {target}: make compilers")
    command = [sys.executable, "-m", "cberl_jax", "benchmark", "--config=demo"]
    command += ["--data=simulated:small", f"--out={tmp_path}", f"--target={target}"]
    command += [f"--members={MEMBERS}", "--config.gan.steps=3"]
    command += [f"--config.{name}={value}" for name, value in TINY.items()]
    paths = os.pathsep.join([str(ROOT), str(compilers)])
    done = subprocess.run(
        command,
        env=program_environment | {"PYTHONPATH": paths, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    (result,) = json.loads((tmp_path / "target.json").read_text())["targets"]
    assert result["members"] == MEMBERS
    assert [line["stage"] for line in result["stages"]] == ["gan", "joint"]
    for line in result["stages"]:
        assert line["collectives"] == {} and line["host_calls"] == [] and line["doubles"] == 0
        assert line["memory"]["all"] < 4e9 * MEMBERS / 64
        # Two sums of the same terms may differ by rounding.
        assert 0 < line["launch_s"] <= line["estimate_s"] * (1 + 1e-9) < 10
    joint = result["stages"][1]
    # The two directions of the LSTM are one loop forwards and one backwards; none on a GPU.
    assert len(joint["loops"]) == (0 if target == "h100" else 2) and joint["step_kernels"] < 1500
    assert TARGETS[target].title in done.stdout


def test_a_compiler_that_is_not_installed_is_named_first(program_environment, tmp_path):
    out = tmp_path / "target"
    command = [sys.executable, "-m", "cberl_jax", "benchmark", "--config=demo"]
    command += ["--data=simulated:small", f"--out={out}", "--target=tpu-v6e"]
    done = subprocess.run(
        command, env=program_environment, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert "pip install 'cberl-jax[tpu]'" in done.stderr
    assert "compiling" not in done.stdout and not out.exists()
