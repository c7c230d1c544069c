"""Devices of a CPU, as the commands divide it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import NO_PARTS, TINY

from cberl_jax.runtime.processes import divide_cpu

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "cores, seeds, devices",
    [(1, 8, 1), (1, 1, 1), (2, 1, 2), (2, 2, 2), (4, 3, 3), (4, 9, 4), (16, 1, 2)],
)
def test_each_core_has_members_of_its_own_or_two_have_one(monkeypatch, cores, seeds, devices):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(cores))
    monkeypatch.setenv("XLA_FLAGS", "")
    assert divide_cpu(seeds) == devices
    # A person's own number wins.
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3")
    assert divide_cpu(seeds) == 1


@pytest.mark.slow
@pytest.mark.parametrize("cores", [1, 2])
def test_a_divided_cpu_ends_in_time_with_the_same_numbers(cores, program_environment, tmp_path):
    """On so many cores, or as many as there are."""
    settings = TINY | NO_PARTS | {"train.epochs": 2}
    command = [sys.executable, "-m", "cberl_jax", "train", "--config=demo", "--nopictures"]
    command += [f"--config.{name}={value}" for name, value in settings.items()]
    command += ["--seeds=4"]
    own = sorted(os.sched_getaffinity(0))[:cores]
    program = f"import os, sys; os.sched_setaffinity(0, {own}); os.execv(sys.argv[1], sys.argv[1:])"

    def train(folder, *arguments):
        subprocess.run(
            [sys.executable, "-c", program, *command, f"--workdir={folder}", *arguments],
            env=program_environment,
            cwd=ROOT,
            check=True,
            capture_output=True,
            timeout=240,
        )
        timing = json.loads((folder / "report.json").read_text())["timing"]
        return timing["device"], np.load(folder / "predictions.npz")["test.probability"]

    device, found = train(tmp_path / "divided")
    assert device.startswith(f"{len(own)} x ")
    one, wanted = train(tmp_path / "whole", "--cpu_devices=1")
    assert one.startswith("1 x ")
    np.testing.assert_allclose(found, wanted, atol=2e-3)
