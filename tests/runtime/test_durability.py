"""A run survives its machine: killed anywhere, asked to end, on a full disk, with damaged files."""

import contextlib
import fcntl
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny import BARE, NO_PARTS, QUIET, TINY, tiny_config

from cberl_jax.data.readers.npz import read_npz, write_npz
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.errors import Interrupted, UserError
from cberl_jax.runtime import checkpoints
from cberl_jax.runtime.checkpoints import find_damage, list_steps, open_checkpoints
from cberl_jax.runtime.progress import Progress
from cberl_jax.runtime.workdir import Workdir
from cberl_jax.serving.restore import restore_run
from cberl_jax.studies.train import train_and_evaluate

ROOT = Path(__file__).parents[2]
EPOCHS = {"gan": 3, "joint": 6}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.npz"
    write_npz(simulate_corpus(create_process(), SimulatedSize(12, 4, 4, 4, 4), seed=0), path)
    return path


def command(corpus, workdir, *arguments, name="train"):
    sizes = TINY | {"gan.epochs": EPOCHS["gan"], "train.epochs": EPOCHS["joint"]}
    sizes |= {"train.checkpoint_seconds": 0, "model.reconstruction": False}
    sizes |= {"model.djvae": False}
    flags = [f"--config.{setting}={value}" for setting, value in sizes.items()]
    return [
        *(sys.executable, str(ROOT / "experiments" / f"{name}.py")),
        *("--config=experiments/configs/demo.py", f"--data={corpus}", f"--workdir={workdir}"),
        *("--seeds=2", *flags, *arguments),
    ]


def start(command, program_environment):
    options = {"env": program_environment, "cwd": ROOT, "text": True}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def finish(command, program_environment):
    running = start(command, program_environment)
    printed, said = running.communicate(timeout=600)
    assert running.returncode == 0, said
    return printed


@pytest.fixture(scope="module")
def undisturbed(corpus, program_environment, tmp_path_factory):
    """The folder of a run that nothing has happened to."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    finish(command(corpus, workdir), program_environment)
    return workdir


def check_same(workdir, undisturbed):
    """Parameters, predictions, metrics and report are the same to the bit, but for timings."""
    for name in ("metrics.jsonl", "report.tex", "MODEL_CARD.md", "predictions.npz"):
        assert (workdir / name).read_bytes() == (undisturbed / name).read_bytes(), name
    texts = [(x / "report.md").read_text() for x in (workdir, undisturbed)]
    # Commands and dates differ.
    assert len({text.split("## How it was made")[0] for text in texts}) == 1
    pictures = sorted(path.name for path in undisturbed.glob("*.png"))
    assert len(pictures) > 4 and pictures == sorted(path.name for path in workdir.glob("*.png"))
    for name in pictures:
        assert (workdir / name).read_bytes() == (undisturbed / name).read_bytes(), name
    reports = [json.loads((x / "report.json").read_text()) for x in (workdir, undisturbed)]
    for report in reports:
        del report["timing"], report["provenance"]
    assert reports[0] == reports[1]
    states = [restore_run(str(x)).state for x in (workdir, undisturbed)]
    jax.tree.map(np.testing.assert_array_equal, *states)
    assert not list(workdir.glob(".*.part"))


def printed_line(running, beginning):
    """Reads what a program prints until a line begins so; whether one does."""
    return any(line.startswith(beginning) for line in running.stdout)


def wait_for(running, condition):
    """Returns once the condition holds, or the program has ended."""
    while running.poll() is None and not condition():
        time.sleep(0.001)


def kill_after_line(beginning, most):
    """Kills a run some time, at most ``most`` seconds, after it has printed a line."""

    def kill(running, workdir, chance):
        if printed_line(running, beginning):
            time.sleep(chance.uniform(0, most))
        running.kill()

    return kill


def kill_in_a_checkpoint(running, workdir, chance):
    """Kills a run while orbax writes into its temporary folder."""
    written = {path.name for path in (workdir / "checkpoints").glob("*")}

    def is_writing():
        new = {path.name for path in (workdir / "checkpoints").glob("*")} - written
        return any("tmp" in name for name in new)

    wait_for(running, is_writing)
    time.sleep(chance.uniform(0, 0.02))
    running.kill()


def kill_before_the_checksums(running, workdir, chance):
    """Kills a run when a checkpoint is whole and its checksums are about to be written."""
    wait_for(running, lambda: list((workdir / "checkpoints").glob(".*.json.*")))
    running.kill()


def kill_at_file(name):
    """Kills a run as soon as a file of the report is there."""

    def kill(running, workdir, chance):
        wait_for(running, lambda: (workdir / name).exists())
        time.sleep(chance.uniform(0, 0.05))
        running.kill()

    return kill


# In the order in which a run comes by, so that each is met by the run that the one before left.
MOMENTS = [
    kill_after_line("compiling the gan", 0.5),
    kill_in_a_checkpoint,
    kill_after_line("gan 1/", 0.05),
    kill_after_line("gan", 0.1),
    kill_in_a_checkpoint,
    kill_after_line("gan 3/", 0.02),
    kill_after_line("compiling the joint", 0.5),
    kill_after_line("joint 1/", 0.02),
    kill_before_the_checksums,
    kill_in_a_checkpoint,
    kill_after_line("joint", 0.02),
    kill_in_a_checkpoint,
    kill_after_line("joint", 0.1),
    kill_before_the_checksums,
    kill_after_line("joint 6/", 0.1),
    kill_at_file("predictions.npz"),
    kill_at_file("report_confusion.png"),
    kill_after_line("drawing", 2.0),
    kill_at_file("MODEL_CARD.md"),
    kill_at_file("report.md"),
]


@pytest.mark.slow
def test_a_run_killed_at_twenty_moments_ends_as_if_nothing_had_happened(
    corpus, program_environment, undisturbed, tmp_path
):
    chance = random.Random(0)
    workdir, killed = tmp_path / "run", 0
    for kill in MOMENTS:
        running = start(command(corpus, workdir), program_environment)
        kill(running, workdir, chance)
        running.communicate()
        killed += running.returncode == -signal.SIGKILL
        assert running.returncode in (-signal.SIGKILL, 0)
    # The last moments can come too late; then there was nothing left to kill.
    assert killed >= 18
    finish(command(corpus, workdir), program_environment)
    check_same(workdir, undisturbed)


@pytest.mark.slow
def test_a_killed_sweep_does_not_do_a_finished_chunk_again(corpus, program_environment, tmp_path):
    grid = ["--grid=loss.gamma=0,2", "--members_per_device=2", "--config.augment.method=none"]
    grid += ["--cpu_devices=1"]
    whole = command(corpus, tmp_path / "whole", *grid, name="sweep")
    finish(whole, program_environment)
    workdir = tmp_path / "sweep"
    running = start(command(corpus, workdir, *grid, name="sweep"), program_environment)
    assert printed_line(running, "members 3 to 4")
    assert printed_line(running, "joint 2/")
    running.kill()
    running.communicate()
    first = workdir / "chunks" / "000"
    before = {path: path.stat().st_mtime_ns for path in first.rglob("*")}
    printed = finish(command(corpus, workdir, *grid, name="sweep"), program_environment)
    assert "members 1 to 2" not in printed and "going on after" in printed
    assert {path: path.stat().st_mtime_ns for path in first.rglob("*")} == before
    sweeps = [json.loads((x / "sweep.json").read_text()) for x in (workdir, tmp_path / "whole")]
    for sweep in sweeps:
        # The command names the folder, and the date has gone on.
        assert sweep.pop("provenance")
    assert sweeps[0] == sweeps[1]


@pytest.mark.slow
@pytest.mark.parametrize("beginning", ["compiling the joint", "joint 2/", "drawing"])
def test_sigterm_ends_a_run_within_ten_seconds_and_leaves_a_checkpoint(
    beginning, corpus, program_environment, undisturbed, tmp_path
):
    workdir = tmp_path / "run"
    if beginning.startswith("compiling"):
        # Compiled with all care, and not from the cache: longer than anybody waits.
        slow = {k: v for k, v in program_environment.items() if k != "XLA_FLAGS"}
        program_environment = slow | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}
    running = start(command(corpus, workdir), program_environment)
    assert printed_line(running, beginning)
    running.send_signal(signal.SIGTERM)
    asked = time.monotonic()
    _, said = running.communicate(timeout=60)
    if running.returncode == 0:
        # The run was over before anybody had to end it.
        assert beginning == "drawing"
    else:
        assert running.returncode == 128 + signal.SIGTERM
        assert "the same command goes on" in said.lower()
    seconds = time.monotonic() - asked
    if beginning.startswith("compiling"):
        # Nothing has to be waited for.
        assert seconds < 5 and "nothing is lost" in said
    assert seconds < 10
    assert list_steps(workdir / "checkpoints")
    assert find_damage(workdir / "checkpoints", list_steps(workdir / "checkpoints")[0]) is None
    if beginning.startswith("joint"):
        assert not (workdir / "report.json").exists()
        evaluate = [sys.executable, str(ROOT / "experiments" / "evaluate.py")]
        early = start([*evaluate, f"--workdir={workdir}"], program_environment)
        _, said = early.communicate(timeout=120)
        assert early.returncode == 2 and "not finished" in said
        # No epoch that was done is done again.
        printed = finish(command(corpus, workdir), program_environment)
        assert int(re.search(r"going on after (\d+) epochs", printed)[1]) >= EPOCHS["gan"] + 2
        check_same(workdir, undisturbed)


# In-process from here on: a run of one stage, with a checkpoint after every epoch.


def config_of(corpus, **changes):
    settings = {"data.path": str(corpus), "train.checkpoint_seconds": 0.0} | BARE | changes
    return tiny_config(**settings)


def train(config, workdir, progress=QUIET, **options):
    return train_and_evaluate(config, str(workdir), [0, 1], progress, pictures=False, **options)


def stop_after(beginning):
    """Progress that asks for an end as Ctrl-C would, once a line begins so."""

    def say(line):
        if line.startswith(beginning):
            os.kill(os.getpid(), signal.SIGINT)

    return Progress(say)


@pytest.fixture(scope="module")
def stopped(corpus, tmp_path_factory):
    """A run that was stopped after three of four epochs."""
    workdir = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(Interrupted):
        train(config_of(corpus), workdir, stop_after("joint 3/"))
    return workdir


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    """The same run, not stopped."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    train(config_of(corpus), workdir)
    return workdir


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def empty(path):
    path.write_bytes(b"")


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.fixture
def copied(stopped, tmp_path):
    return Path(shutil.copytree(stopped, tmp_path / "run"))


@pytest.mark.parametrize("damage", [truncate, empty, flip_a_bit, Path.unlink])
def test_any_damage_to_any_file_of_a_checkpoint_is_found_and_named(damage, stopped, tmp_path):
    step, folder = list_steps(stopped / "checkpoints")[0], tmp_path / "checkpoints"
    shutil.copytree(stopped / "checkpoints", folder)
    assert find_damage(folder, step) is None
    files = [path for path in (folder / str(step)).rglob("*") if path.is_file()]
    assert len(files) > 4
    for path in files:
        kept = path.read_bytes()
        if damage is flip_a_bit and not kept:
            continue
        damage(path)
        if path.exists() and path.read_bytes() == kept:
            continue
        assert path.relative_to(folder / str(step)).as_posix() in find_damage(folder, step)
        path.write_bytes(kept)


def largest_file(checkpoint):
    return max((p for p in checkpoint.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def test_the_newest_sound_checkpoint_is_used_and_the_loss_is_said(copied, corpus, whole):
    newest, older = list_steps(copied / "checkpoints")
    assert (newest, older) == (3, 2)
    flip_a_bit(largest_file(copied / "checkpoints" / "3"))
    said = []
    train(config_of(corpus), copied, Progress(said.append))
    assert "after 3 epochs, is damaged" in said[0] and "set aside" in said[0]
    assert "going on after 2 epochs" in said
    assert (copied / "predictions.npz").read_bytes() == (whole / "predictions.npz").read_bytes()
    assert (copied / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert (copied / "checkpoints" / "damaged_3").is_dir()


def test_a_start_from_the_beginning_is_never_silent(copied, corpus, whole):
    for step in (2, 3):
        shutil.rmtree(copied / "checkpoints" / str(step) / "state")
    said = []
    train(config_of(corpus), copied, Progress(said.append))
    assert "no sound checkpoint is left: the training starts from its beginning" in said
    assert (copied / "predictions.npz").read_bytes() == (whole / "predictions.npz").read_bytes()


@pytest.fixture
def finished(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "finished"))


def test_a_finished_run_with_a_damaged_checkpoint_is_not_read_but_can_be_mended(
    finished, corpus, whole
):
    flip_a_bit(largest_file(finished / "checkpoints" / "4"))
    with pytest.raises(UserError, match=r"checkpoints/4: is damaged .* delete report.json, and"):
        restore_run(str(finished))
    (finished / "report.json").unlink()
    train(config_of(corpus), finished)
    restored = [restore_run(str(path)).state for path in (finished, whole)]
    jax.tree.map(np.testing.assert_array_equal, *restored)


@pytest.mark.parametrize("name", ["config.json", "report.json"])
@pytest.mark.parametrize("damage", [truncate, empty])
def test_damaged_files_of_a_run_are_named(name, damage, finished):
    if damage is truncate:
        content = (finished / name).read_bytes()
        (finished / name).write_bytes(content[: len(content) // 2])
    else:
        damage(finished / name)
    folder = Workdir(finished, create=False)
    with pytest.raises(UserError, match=f"{name}: is damaged .*; delete it"):
        folder.read_config(), folder.read_report()


@pytest.mark.parametrize("damage", [truncate, empty])
def test_damaged_predictions_are_named(damage, finished):
    damage(finished / "predictions.npz")
    with pytest.raises(UserError, match="predictions.npz: is damaged .*; delete it"):
        Workdir(finished, create=False).read_predictions()


def test_no_flipped_bit_changes_predictions_unseen(finished):
    folder = Workdir(finished, create=False)
    sound, content = folder.read_predictions(), folder.predictions_file.read_bytes()
    named = 0
    for place in range(0, len(content), 97):
        flipped = bytearray(content)
        flipped[place] ^= 4
        folder.predictions_file.write_bytes(flipped)
        try:
            # Of an archive's own words some, such as times, do not matter.
            read = folder.read_predictions()
            assert read.keys() == sound.keys()
            jax.tree.map(np.testing.assert_array_equal, read, sound)
        except UserError as error:
            assert "predictions.npz: is damaged" in str(error)
            named += 1
    assert named > 20


def test_damaged_metrics_are_named(copied, corpus):
    with (copied / "metrics.jsonl").open("r+b") as file:
        file.write(b"\0\0")
    with pytest.raises(UserError, match="metrics.jsonl: is damaged .*; delete it"):
        train(config_of(corpus), copied)


def test_a_run_of_another_minor_version_is_refused(copied, corpus):
    settings = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(settings | {"version": "0.1.7"}))
    with pytest.raises(UserError, match="written by cberl-jax 0.1.7, and this is"):
        train(config_of(corpus), copied)


def test_two_trainings_in_one_folder_are_refused(copied, corpus):
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*")}
    with (copied / ".lock").open("a+") as lock:
        lock.seek(0)
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"another training is at work .*\(process \d+ on "):
            train(config_of(corpus), copied)
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*")} == before


@contextlib.contextmanager
def mounted(folder, *options):
    """A small file system in memory at ``folder``."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def test_a_checkpoint_is_written_while_the_training_goes_on(tmp_path, monkeypatch):
    folder, guard, goes_on = tmp_path / "checkpoints", threading.Lock(), threading.Event()
    add_up = checkpoints._add_up

    def add_up_later(path):
        assert goes_on.wait(60)
        return add_up(path)

    monkeypatch.setattr(checkpoints, "_add_up", add_up_later)
    with open_checkpoints(folder) as opened:
        opened.save(1, {"seed": np.arange(3)}, {"mean": np.ones(2)}, guard)
        # Its checksums are not there: it is not yet whole, and nothing may end the process.
        assert guard.locked() and not (folder / "1.json").exists()
        goes_on.set()
        assert opened.latest == 1 and not guard.locked()
        assert find_damage(folder, 1) is None
        opened.save(2, {"seed": np.arange(3)}, {"mean": np.ones(2)})
    assert find_damage(folder, 2) is None

    monkeypatch.setattr(checkpoints, "_add_up", lambda path: 1 / 0)
    with open_checkpoints(folder) as opened:
        opened.save(3, {"seed": np.arange(3)}, {"mean": np.ones(2)}, guard)
        with pytest.raises(ZeroDivisionError):
            opened.save(4, {"seed": np.arange(3)}, {"mean": np.ones(2)})
        assert opened.latest == 3 and not guard.locked()


def test_a_full_disk_leaves_what_was_there_and_the_run_goes_on_once_there_is_room(
    stopped, corpus, whole, tmp_path
):
    with mounted(tmp_path / "disk", "size=32m") as disk:
        workdir = Path(shutil.copytree(stopped, disk / "run"))
        filler = disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        with pytest.raises(UserError, match="cannot be written"):
            train(config_of(corpus), workdir)
        assert find_damage(workdir / "checkpoints", 3) is None
        filler.unlink()
        train(config_of(corpus), workdir)
        ours = (workdir / "predictions.npz").read_bytes()
        assert ours == (whole / "predictions.npz").read_bytes()


def test_a_read_only_folder_is_named(stopped, corpus, tmp_path):
    with mounted(tmp_path / "disk", "size=32m") as disk:
        workdir = Path(shutil.copytree(stopped, disk / "run"))
        remount(disk, "ro")
        with pytest.raises(UserError, match="cannot be written .Read-only file system"):
            train(config_of(corpus), workdir)
        with pytest.raises(UserError, match="cannot make this folder"):
            train(config_of(corpus), disk / "another")


def test_a_fork_starts_where_the_other_run_is_with_other_settings(stopped, corpus, tmp_path):
    longer = config_of(corpus, **{"loss.gamma": 3.0, "train.epochs": 5})
    with pytest.raises(UserError, match="loss.gamma: 1.0 there, 3.0 asked for.*--fork"):
        train(longer, stopped)
    before = {path: path.stat().st_mtime_ns for path in stopped.rglob("*")}
    said, fork = [], tmp_path / "fork"
    train(longer, fork, Progress(said.append), forked=str(stopped))
    assert "going on after 3 epochs" in said
    assert {path: path.stat().st_mtime_ns for path in stopped.rglob("*")} == before
    lines, old = ((x / "metrics.jsonl").read_text().splitlines() for x in (fork, stopped))
    assert lines[: len(old)] == old and len(lines) == 5 * 2
    # The same command again finds the fork finished.
    train(longer, fork, Progress(said.append), forked=str(stopped))
    assert said[-1] == "this run is finished"


def test_a_fork_trains_members_that_had_stopped_early_and_has_epochs_for_it(corpus, tmp_path):
    """Else a report would state settings that nothing was trained with."""
    early, fork, said = tmp_path / "early", tmp_path / "fork", []
    patient = {"train.patience": 2, "train.epochs": 9}
    timing = train(config_of(corpus, **patient, **NO_PARTS), early)["timing"]
    lines = Workdir(early).read_metrics()
    done = max(line["epoch"] for line in lines) + 1
    assert len(lines) < 2 * done < 2 * 9
    # A member that has stopped before the other learns from nothing.
    learnt = len(lines) * read_npz(corpus).in_split("train").sum()
    assert timing["utterances_per_s"] * timing["train_s"] == pytest.approx(learnt)
    short = config_of(corpus, **patient | NO_PARTS | {"loss.gamma": 3.0, "train.epochs": done})
    with pytest.raises(UserError, match=f"has done {done} epochs.*train.epochs={done + 1} or more"):
        train(short, fork, forked=str(early))
    assert not (fork / "config.json").exists()
    changed = config_of(corpus, **patient | NO_PARTS | {"loss.gamma": 3.0, "train.patience": 9})
    train(changed, fork, Progress(said.append), forked=str(early))
    assert "2 members that had stopped early go on" in said
    lines = Workdir(fork).read_metrics()
    assert {(x["member"], x["epoch"]) for x in lines} >= {(n, 8) for n in range(2)}


def test_gans_that_are_trained_have_no_other_settings_in_a_fork(corpus, tmp_path):
    """Else a report would state settings that nothing was trained with."""
    run, fork = tmp_path / "run", str(tmp_path / "fork")
    own = NO_PARTS | {"augment.method": "gan", "gan.epochs": 1, "train.epochs": 1}
    train(config_of(corpus, **own), run)
    own |= {"train.epochs": 2, "gan.identity": 5.0}
    with pytest.raises(UserError, match="1 epochs of its GANs.*gan.identity: 2.0 there, 5.0 asked"):
        train(config_of(corpus, **own), fork, forked=str(run))
    assert not (tmp_path / "fork" / "config.json").exists()


def test_what_decides_the_parameters_shapes_cannot_differ_in_a_fork(stopped, corpus, tmp_path):
    wider = config_of(corpus, **{"model.hidden": 12})
    with pytest.raises(UserError, match="another model.hidden: 8 there, 12 asked for; only"):
        train(wider, tmp_path / "fork", forked=str(stopped))
    assert not (tmp_path / "fork" / "config.json").exists()
    with open_checkpoints(tmp_path / "empty" / "checkpoints"):
        pass
    Workdir(tmp_path / "empty").claim(json.loads((stopped / "config.json").read_text()))
    with pytest.raises(UserError, match="holds no sound checkpoint to fork"):
        train(config_of(corpus), tmp_path / "another", forked=str(tmp_path / "empty"))
