"""Fewer members than devices, several processes: the same numbers by other routes."""

import dataclasses
import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from tiny import BARE, TINY, tiny_config, tiny_corpus

from cberl_jax.studies.evaluate import evaluate_run
from cberl_jax.training.fleet import UNSPLIT, Fleet, choose_split
from cberl_jax.training.prepare import list_members, prepare

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "members, devices, rows, parts",
    [
        (1, 1, 8, 1),
        (4, 4, 8, 1),
        (5, 4, 8, 1),
        (1, 4, 8, 4),
        (2, 4, 8, 2),
        (3, 4, 8, 1),
        (3, 8, 8, 2),
        (1, 6, 8, 2),
        (1, 16, 8, 8),
        (1, 3, 8, 1),
    ],
)
def test_a_batch_is_split_as_far_as_members_devices_and_rows_allow(members, devices, rows, parts):
    assert choose_split(members, devices, rows) == parts


@pytest.mark.slow
@pytest.mark.parametrize("method", ["none", "gan"])
def test_members_with_split_batches_equal_members_on_one_device(method):
    config = tiny_config(**{"augment.method": method, "model.layers": 1})
    prepared = prepare(config, tiny_corpus())
    members = list_members(config, [0, 1])
    results = {}
    for devices in (1, 4):
        fleet = Fleet(prepared.program, 2, jax.local_devices()[:devices])
        assert fleet.split == max(1, devices // 2)
        state = fleet.shard(fleet.create(members.seeds, members.hyper))
        shared, hyper = fleet.replicate(prepared.data), fleet.shard(members.hyper)

        stages, records = fleet.stages, []
        given = state, shared, hyper
        steps = {n: fleet.compile(n, s, given, unsplit=n in UNSPLIT) for n, s in stages.items()}
        # As a training does it, and once more.
        for name in [*stages, *stages]:
            state, record = steps[name](state, shared, hyper)
            records.append(fleet.gather(record, 2))
        results[devices] = fleet.gather(state, 2), records
        text = fleet._compiled["joint"].result().as_text() if devices == 4 else ""
    # The batch is split indeed: gradients are summed over devices, all at once, and so are weights;
    # what is predicted is gathered or summed.
    assert len(re.findall(r" all-(?:reduce|gather)\(", text)) == 3
    chex.assert_trees_all_close(results[1], results[4], rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize(
    "members, devices, rows", [(1, 2, 8), (2, 4, 8), (1, 4, 8), (1, 4, 2), (1, 4, 6)]
)
def test_what_is_not_split_runs_on_the_first_device_of_each_shard(members, devices, rows):
    """Spare devices included, which have copies of members."""
    program = prepare(tiny_config(**{"augment.method": "gan"}), tiny_corpus()).program
    program = dataclasses.replace(program, rows=rows)
    fleet = Fleet(program, members, jax.local_devices()[:devices])
    assert fleet.split > 1

    def stage(state, shared, hyper):
        return {"sum": state["sum"] + hyper * shared.sum()}, state["sum"]

    hyper, shared = 1 + np.arange(members, dtype=np.float32), np.ones(4, np.float32)
    given = fleet.shard({"sum": 0 * hyper}), fleet.replicate(shared), fleet.shard(hyper)
    steps = {n: fleet.compile(n, stage, given, unsplit=n == "gan") for n in ("gan", "joint")}
    assert fleet.has_compiled("gan") and fleet.memory("gan")[1] > 0
    state, *others = given
    for done, name in enumerate(("gan", "gan", "joint", "gan", "joint")):
        state, before = steps[name](state, *others)
        used = fleet.devices[:: fleet.split] if name == "gan" else fleet.devices
        assert state["sum"].sharding.device_set == set(used)
        np.testing.assert_array_equal(fleet.gather(before, members), 4 * done * hyper)
    np.testing.assert_array_equal(fleet.gather(state["sum"], members), 20 * hyper)


@pytest.mark.slow
def test_members_on_devices_have_the_same_bits_by_pmap_and_by_named_sharding(monkeypatch):
    prepared = prepare(tiny_config(**BARE), tiny_corpus())
    members = list_members(tiny_config(**BARE), range(5))
    results = []
    # One process takes pmap, several take jit with NamedSharding.
    for pmapped in (True, False):
        fleet = Fleet(prepared.program, 5, jax.local_devices()[:4])
        assert fleet.split == 1 and fleet.padded_members == 8
        monkeypatch.setattr(Fleet, "_pmapped", pmapped)
        state = fleet.shard(fleet.create(members.seeds, members.hyper))
        shared, hyper = fleet.replicate(prepared.data), fleet.shard(members.hyper)
        step = fleet.compile("joint", fleet.stages["joint"], (state, shared, hyper))
        text = step.as_text()
        assert not re.search("all-(reduce|gather|to-all)|collective-permute", text)
        for _ in range(2):
            state, record = step(state, shared, hyper)
        results.append(fleet.gather((state, record), 5))
    chex.assert_trees_all_equal(*results)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def command(workdir, *arguments, name="train"):
    sizes = [f"--config.{name}={value}" for name, value in TINY.items()]
    return [
        *(sys.executable, str(ROOT / "experiments" / f"{name}.py")),
        *("--config=experiments/configs/demo.py", f"--workdir={workdir}", *sizes),
        *("--config.train.epochs=2", "--config.gan.epochs=1", "--config.model.djvae=False"),
        *("--config.model.reconstruction=False", "--nopictures", *arguments),
    ]


def start_processes(workdir, program_environment, *arguments, name="train"):
    """Two processes of two devices each."""
    ours = ("--cpu_devices=2", f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2")
    return [
        subprocess.Popen(
            command(workdir, *arguments, *ours, f"--process_id={number}", name=name),
            env=program_environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]


def run_processes(workdir, program_environment, *arguments, name="train"):
    """Two processes of two devices each; returns what each printed and said."""
    running = start_processes(workdir, program_environment, *arguments, name=name)
    said = [process.communicate(timeout=600) for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    return said


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [5, 1])
def test_two_processes_give_what_one_gives(seeds, program_environment, tmp_path):
    # Five members are dealt out, one has its batches split.
    arguments = (f"--seeds={seeds}", f"--config.augment.method={'gan' if seeds > 1 else 'none'}")
    # One process draws while the other waits: once is enough.
    arguments += ("--pictures",) if seeds == 1 else ()
    (printed, _), (silent, _) = run_processes(tmp_path / "two", program_environment, *arguments)
    assert "weighted F1" in printed and "weighted F1" not in silent
    alone = command(tmp_path / "one", *arguments, "--cpu_devices=4")
    done = subprocess.run(
        alone, env=program_environment, cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    two, one = (np.load(tmp_path / x / "predictions.npz") for x in ("two", "one"))
    assert one["test.probability"].shape[0] == seeds
    for name in one.files:
        if name.endswith("probability"):
            np.testing.assert_allclose(two[name], one[name], atol=2e-3)
        else:
            np.testing.assert_array_equal(two[name], one[name])
    report = json.loads((tmp_path / "two" / "report.json").read_text())
    assert report["timing"]["device"].startswith("4 x ")
    metrics = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
    epochs_done = 3 if seeds > 1 else 2  # of the GAN, which only the five have, and jointly
    assert len(metrics) == epochs_done * seeds

    # What two processes wrote, one reads: the checkpoints hold all members' shards.
    (tmp_path / "two" / "report.json").unlink()
    again = command(tmp_path / "two", *arguments)
    done = subprocess.run(
        again, env=program_environment, cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert f"going on after {epochs_done} epochs" in done.stdout
    again = np.load(tmp_path / "two" / "predictions.npz")
    np.testing.assert_allclose(again["dev.probability"], one["dev.probability"], atol=2e-3)


@pytest.mark.slow
def test_two_processes_sweep_and_leave_the_best_points_run(program_environment, tmp_path):
    arguments = ("--seeds=3", "--grid=loss.gamma=0,2", "--config.augment.method=none")
    run_processes(tmp_path, program_environment, *arguments, name="sweep")
    sweep = json.loads((tmp_path / "sweep.json").read_text())
    found = json.loads((tmp_path / "best" / "report.json").read_text())
    assert found["test"]["macro_f1"] == sweep["points"][0]["test"]["macro_f1"]
    again = evaluate_run(str(tmp_path / "best"))
    for ours, theirs in zip(again["members"], found["members"], strict=True):
        assert ours["test"]["macro_f1"] == pytest.approx(theirs["test"]["macro_f1"], abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_when_a_process_is_killed_the_other_ends_within_a_minute_and_all_can_go_on(
    killed, program_environment, tmp_path
):
    workdir = tmp_path / "run"
    short = ("--seeds=4", "--config.augment.method=none", "--config.train.checkpoint_seconds=0")
    endless = (*short, "--config.train.epochs=500", "--config.train.patience=500")
    running = start_processes(workdir, program_environment, *endless)
    metrics = workdir / "metrics.jsonl"
    while not (metrics.exists() and '"epoch": 3' in metrics.read_text()):
        assert [process.poll() for process in running] == [None, None]
        time.sleep(0.1)
    running[killed].kill()
    lost = time.monotonic()
    _, said = running[1 - killed].communicate(timeout=120)
    assert time.monotonic() - lost < 60 and running[1 - killed].returncode != 0
    assert "another process of this run is lost" in said or "another task died" in said
    running[killed].communicate()

    settings = json.loads((workdir / "config.json").read_text())
    done = len(metrics.read_text().splitlines()) // 4
    (workdir / "config.json").write_text(json.dumps(settings | {"train.epochs": done + 2}))
    again = (*short, f"--config.train.epochs={done + 2}", "--config.train.patience=500")
    (printed, _), _ = run_processes(workdir, program_environment, *again)
    assert "going on after" in printed and "weighted F1" in printed


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--num_processes=2"], "belong together"),
        (["--coordinator=here:1", "--num_processes=2", "--process_id=2"], "below --num_processes"),
        (["--coordinator=here", "--num_processes=2", "--process_id=0"], "host:port"),
        (["--cpu_devices=0"], "cpu_devices"),
    ],
)
def test_wrong_flags_for_devices_are_refused(arguments, message, program_environment, tmp_path):
    done = subprocess.run(
        command(tmp_path / "run", *arguments),
        env=program_environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2 and message in done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "run").exists()
