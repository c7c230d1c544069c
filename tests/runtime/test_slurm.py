"""Launches under a real SLURM: tasks of one run, parts of a sweep, a job that is requeued."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import slurm
from tiny import NO_PARTS, TINY

from cberl_jax.data.readers.npz import write_npz
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus

ROOT = Path(__file__).parents[2]
WHY_NOT = slurm.missing()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.npz"
    write_npz(simulate_corpus(create_process(), SimulatedSize(12, 4, 4, 4, 4), seed=0), path)
    return path


@pytest.fixture(scope="module")
def cluster(program_environment, tmp_path_factory):
    """The environment in which SLURM's commands work."""
    with slurm.started(tmp_path_factory.mktemp("slurm")) as own:
        yield program_environment | own


def command(name, corpus, workdir, *arguments):
    settings = TINY | NO_PARTS | {"train.checkpoint_seconds": 0}
    return [
        *(sys.executable, str(ROOT / "experiments" / f"{name}.py"), "--config=default"),
        *(f"--data={corpus}", f"--workdir={workdir}", "--nopictures"),
        *(f"--config.{setting}={value}" for setting, value in settings.items()),
        *arguments,
    ]


def call(environment, *arguments, **options):
    """Runs a command to its end; returns what it printed."""
    done = subprocess.run(
        arguments, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=400, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def submit(environment, script, folder):
    """The number of a job, made from a script."""
    logs = folder / "job-%A_%a.out"
    printed = call(environment, "sbatch", f"--output={logs}", str(script))
    return re.search(r"\d+", printed)[0]


def wait_for_end(environment, job, seconds=400):
    """Returns when a job, or all of an array, are out of the queue."""
    for _ in range(seconds):
        if not call(environment, "squeue", "-h", "-j", job).strip():
            return
        time.sleep(1)
    raise AssertionError(call(environment, "squeue"))


def members(report):
    return {
        (json.dumps(point["settings"]), m["seed"]): m["test"]
        for point in report["points"]
        for m in point["members"]
    }


def test_an_array_of_jobs_trains_a_sweep_as_one_process_does(corpus, cluster, tmp_path):
    grid = ("--seeds=2", "--grid=loss.gamma=0,1,2")
    call(cluster, *command("sweep", corpus, tmp_path / "whole", *grid))
    script = tmp_path / "sweep.sbatch"
    workdir = tmp_path / "parts"
    written = ("--slurm", str(script), "--jobs=2")
    printed = call(cluster, *command("sweep", corpus, workdir, *grid, *written))
    assert f"sbatch {script}" in printed and not workdir.exists()
    # What its first lines ask a person to do.
    edited = script.read_text().replace("#SBATCH --gres=gpu:1\n", "")
    script.write_text(edited.replace("--cpus-per-task=4", "--cpus-per-task=1"))
    wait_for_end(cluster, submit(cluster, script, tmp_path))
    said = "\n".join(path.read_text() for path in tmp_path.glob("job-*.out"))
    assert (workdir / "sweep.json").exists(), said
    report = json.loads((workdir / "sweep.json").read_text())
    whole = json.loads((tmp_path / "whole" / "sweep.json").read_text())
    found, wanted = members(report), members(whole)
    assert found.keys() == wanted.keys() and len(found) == 6
    for key, test in wanted.items():
        assert found[key] == pytest.approx(test, abs=0.03)
    trained = [
        pair
        for path in (workdir / "chunks").glob("*/config.json")
        for stored in [json.loads(path.read_text())]
        for pair in zip(map(json.dumps, stored["members"]), stored["seeds"], strict=True)
    ]
    assert len(trained) == 6 == len(set(trained))
    assert {path.name[:4] for path in (workdir / "chunks").iterdir()} == {"1of2", "2of2"}


def test_an_array_of_jobs_works_on_one_search(corpus, cluster, tmp_path):
    pytest.importorskip("optuna", reason="needs pip install 'cberl-jax[search]'")
    space, script, workdir = (tmp_path / name for name in ("space.py", "search.sbatch", "search"))
    space.write_text('def get_space():\n    return {"loss.gamma": (0, 3)}\n')
    asked = (f"--space={space}", "--trials=8", "--batch=2", "--seeds=1", "--best_seeds=1")
    line = " ".join(f"'{word}'" for word in command("search", corpus, workdir, *asked))
    head = "#!/bin/bash\n#SBATCH --array=1-2\n#SBATCH --cpus-per-task=1\n"
    script.write_text(f"{head}srun {line}\n")
    wait_for_end(cluster, submit(cluster, script, tmp_path))
    logs = [path.read_text() for path in sorted(tmp_path.glob("job-*.out"))]
    assert len(logs) == 2 and (workdir / "search.json").exists(), logs
    taken = [re.findall(r"^points (\d+) to", log, re.M) for log in logs]
    assert all(taken) and sorted(map(int, [*taken[0], *taken[1]])) == [0, 2, 4, 6], logs
    report = json.loads((workdir / "search.json").read_text())
    assert [own["number"] for own in report["points"]] == list(range(8))
    assert all(own["score"] is not None for own in report["points"])
    assert sum("report: " in log for log in logs) == 1


def test_two_tasks_of_a_job_are_one_run(corpus, cluster, tmp_path):
    call(cluster, *command("train", corpus, tmp_path / "one", "--seeds=2"))
    tasks = ("srun", "-n2", "--cpus-per-task=1")
    call(cluster, *tasks, *command("train", corpus, tmp_path / "two", "--seeds=2"))
    found, wanted = (np.load(tmp_path / n / "predictions.npz") for n in ("two", "one"))
    np.testing.assert_array_equal(found["seed"], wanted["seed"])
    np.testing.assert_allclose(found["test.probability"], wanted["test.probability"], atol=2e-3)


def test_a_job_that_is_requeued_goes_on_with_the_same_numbers(corpus, cluster, tmp_path):
    long = ("--seeds=2", "--config.train.epochs=80", "--config.train.patience=80")
    call(cluster, *command("train", corpus, tmp_path / "calm", *long))
    script, workdir = tmp_path / "train.sbatch", tmp_path / "run"
    line = " ".join(f"'{word}'" for word in command("train", corpus, workdir, *long))
    script.write_text(f"#!/bin/bash\n#SBATCH --requeue\n#SBATCH --open-mode=append\nsrun {line}\n")
    job = submit(cluster, script, tmp_path)
    for _ in range(120):
        steps = [int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdecimal()]
        if steps and max(steps) > 2:
            break
        time.sleep(0.5)
    assert max(steps) < 80, "the run was over before it could be stopped"
    call(cluster, "scontrol", "requeue", job)
    # It would wait for two minutes.
    for _ in range(60):
        time.sleep(1)
        if "PENDING" in call(cluster, "squeue", "-h", "-j", job, "-o", "%T"):
            call(cluster, "scontrol", "update", f"jobid={job}", "StartTime=now")
            break
    wait_for_end(cluster, job)
    said = "\n".join(path.read_text() for path in tmp_path.glob("job-*.out"))
    assert "going on after" in said
    for name in ("predictions.npz", "metrics.jsonl"):
        assert (workdir / name).read_bytes() == (tmp_path / "calm" / name).read_bytes()
    assert os.path.exists(workdir / "report.json"), said
