"""What a person sees while a run is at work, and what TensorBoard and wandb do."""

import importlib.util
import io
import json
import os
import re
import signal
import struct
import sys
import types

import numpy as np
import pytest
from rich.console import Console
from tiny import BARE, QUIET, tiny_config

from cberl_jax.config.settings import check_config
from cberl_jax.data.readers.npz import write_npz
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.errors import Interrupted, UserError
from cberl_jax.runtime import progress as progress_module
from cberl_jax.runtime.curves import open_event_files, open_wandb
from cberl_jax.runtime.progress import Epoch, LiveProgress, Progress, spell_seconds
from cberl_jax.studies.train import train_and_evaluate
from cberl_jax.training.loop import Training
from cberl_jax.training.prepare import Members


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test turns by hand; its hand is the list's one number, in seconds."""
    hand = [100.0]
    monkeypatch.setattr(progress_module.time, "perf_counter", lambda: hand[0])
    return hand


def tell_two_epochs(progress, clock):
    """A stage of five epochs, of which one is done, 4 s each; the second loses a member."""
    with progress.stage("joint", 1, 5) as show:
        clock[0] += 4
        show(Epoch(2, {"total": 1.5, "dev_macro_f1": 0.25}, members=3, utterances=600))
        clock[0] += 4
        show(Epoch(3, {"total": 1.25, "dev_macro_f1": 0.375}, members=2, utterances=400))


def test_lines_tell_figures_pace_and_time_left(clock):
    lines = []
    tell_two_epochs(Progress(lines.append), clock)
    # 600 utterances in 4 s and three epochs left; 1000 in 8 s and two epochs left.
    assert lines == [
        "joint 2/5  total 1.500  dev macro f1 0.250  members 3  150 utterances/s  12 s left",
        "joint 3/5  total 1.250  dev macro f1 0.375  members 2  125 utterances/s  8 s left",
    ]


def test_a_terminal_shows_one_bar_and_keeps_what_is_said(clock):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, color_system=None)
    live = LiveProgress(console)
    live.say("compiling [joint]")
    tell_two_epochs(live, clock)
    shown = screen.getvalue()
    # Square brackets are text, not markup.
    assert shown.startswith("compiling [joint]\n")
    drawn = [line for line in re.split(r"[\r\n]+", shown) if "joint" in line or "f1" in line]
    *_, bar, figures = drawn
    assert "3/5" in bar and "x 2 members  125 utterances/s  8 s left" in bar
    assert "total 1.250  dev macro f1 0.375" in figures
    # Drawn over, not below each other: the cursor goes back.
    assert "\r" in shown or "\x1b[1A" in shown


def test_the_standard_output_decides_between_bar_and_lines(monkeypatch, capsys):
    assert progress_module.show_progress() is progress_module.PLAIN
    progress_module.show_progress().say("a line")
    assert capsys.readouterr().out == "a line\n"
    monkeypatch.setattr("sys.stdout", Terminal())
    assert isinstance(progress_module.show_progress(), LiveProgress)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    "seconds, words", [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5940, "99 min")]
)
def test_short_times_are_spelt_in_seconds_and_minutes(seconds, words):
    assert spell_seconds(seconds) == words


def test_long_times_are_spelt_in_hours():
    assert spell_seconds(3 * 3600 + 5 * 60) == "3 h 05 min"


def read_curves(folder):
    """[(tag, step, value)] of the event files in a folder, as TensorBoard takes them.

    A record of the files' format is its length in 8 bytes, a checksum, the event, a checksum. A
    session's start forgets all that was written before it for the same or a later step.
    """
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for path in sorted(folder.iterdir()):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = event_pb2.Event.FromString(content[place + 12 : place + 12 + length])
            place += length + 16
            if event.session_log.status == event.session_log.START:
                found = [point for point in found if point[1] < event.step]
            found += [(v.tag, event.step, v.simple_value) for v in event.summary.value]
    return found


def stop_after(epochs):
    """Progress that asks for an end as Ctrl-C would, once so many joint epochs were told."""

    def say(line):
        if line.startswith(f"joint {epochs}/"):
            os.kill(os.getpid(), signal.SIGINT)

    return Progress(say)


def test_tensorboard_shows_what_the_metrics_file_holds_also_of_a_run_that_went_on(tmp_path):
    pytest.importorskip("tensorboardX")
    corpus = simulate_corpus(create_process(), SimulatedSize(12, 4, 4, 4, 4), seed=0)
    write_npz(corpus, tmp_path / "corpus.npz")
    config = tiny_config(**{"data.path": str(tmp_path / "corpus.npz")}, **BARE)
    config.train.metrics = "tensorboard"
    run = tmp_path / "run"
    arguments = (config, str(run), [3, 5])
    with pytest.raises(Interrupted):
        train_and_evaluate(*arguments, stop_after(2), pictures=False)
    assert len(read_curves(run / "tensorboard" / "member_000")) > 0
    train_and_evaluate(*arguments, QUIET, pictures=False)

    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for member in (0, 1):
        own = [line for line in lines if line["member"] == member]
        names = own[0].keys() - {"stage", "epoch", "member", "seed"}
        wanted = {(f"joint/{n}", line["epoch"]): line[n] for line in own for n in names}
        curves = read_curves(run / "tensorboard" / f"member_{member:03d}")
        assert len(curves) == len(wanted) and len({x["epoch"] for x in own}) == 4
        for tag, step, value in curves:
            assert value == pytest.approx(wanted[tag, step], rel=1e-6)


def test_the_name_of_a_fold_is_no_curve(tmp_path):
    pytest.importorskip("tensorboardX")
    line = {"stage": "joint", "epoch": 0, "member": 0, "seed": 0, "fold": "1", "total": 0.5}
    with open_event_files(tmp_path, 1, 0) as write:
        write(0, [line])
    assert read_curves(tmp_path / "member_000") == [("joint/total", 0, 0.5)]


def read_wandb(path):
    """The lines of metrics in a file of wandb: name -> value, as text.

    Behind seven bytes the file is a log of LevelDB: blocks of 32 KiB, in them fragments of records,
    each with a checksum, its length and whether it is a whole one (1), the first, a middle or the
    last fragment.
    """
    records = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    content, place, block, fragments, found = path.read_bytes(), 7, 32768, [], []
    while place + 7 <= len(content):
        if block - place % block < 7:
            place += block - place % block
        length, kind = struct.unpack_from("<HB", content, place + 4)
        fragments.append(content[place + 7 : place + 7 + length])
        place += 7 + length
        if kind in (1, 4):
            record, fragments = records.Record.FromString(b"".join(fragments)), []
            if record.HasField("history"):
                items = record.history.item
                found.append({i.key or "/".join(i.nested_key): i.value_json for i in items})
    return found


def test_wandb_gets_a_run_per_member_with_what_the_metrics_file_holds(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    corpus = simulate_corpus(create_process(), SimulatedSize(12, 4, 4, 4, 4), seed=0)
    write_npz(corpus, tmp_path / "corpus.npz")
    config = tiny_config(**{"data.path": str(tmp_path / "corpus.npz")}, **BARE)
    config.train.metrics = "wandb"
    run = tmp_path / "run"
    train_and_evaluate(config, str(run), [3, 5], QUIET, pictures=False)
    wandb.teardown()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    files = sorted((run / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    curves = [
        [{k: float(v) for k, v in x.items() if not k.startswith("_")} for x in read_wandb(file)]
        for file in files
    ]
    for member in (0, 1):
        own = [line for line in lines if line["member"] == member]
        names = own[0].keys() - {"stage", "epoch", "member", "seed"}
        wanted = [{"epoch": x["epoch"]} | {f"joint/{n}": x[n] for n in names} for x in own]
        assert len(wanted) == 4
        assert any(list(map(pytest.approx, wanted)) == found for found in curves)


def test_members_that_share_a_seed_have_wandb_runs_of_their_own(tmp_path, monkeypatch):
    """Models of folds, and members of a study, whose settings are their own."""
    asked = []
    run = types.SimpleNamespace(define_metric=lambda *a, **k: None, finish=lambda: None)
    made = types.SimpleNamespace(
        Settings=lambda **given: None, init=lambda **given: asked.append(given) or run
    )
    monkeypatch.setitem(sys.modules, "wandb", made)
    seeds, folds = np.array([3, 3, 3, 3]), types.SimpleNamespace(names=("a", "b"))
    points = [{}, {}, {"loss.gamma": 2.0}, {"loss.gamma": 2.0}]
    training = Training(
        types.SimpleNamespace(folds=folds), None, Members(seeds, {}, points, 2), *[None] * 4
    )
    with open_wandb(tmp_path / "run", training._tell_apart(), {"loss.gamma": 1.0}):
        pass
    assert [given["name"] for given in asked] == [
        "run, seed 3, fold a",
        "run, seed 3, fold b",
        "run, seed 3, fold a, loss.gamma 2.0",
        "run, seed 3, fold b, loss.gamma 2.0",
    ]
    assert len({given["id"] for given in asked}) == 4
    assert [given["config"]["loss.gamma"] for given in asked] == [1.0, 1.0, 2.0, 2.0]


@pytest.mark.parametrize("given, said", [("neptune", "there is no 'neptune'"), ("wandb", "wandb:")])
def test_a_program_for_curves_that_is_not_there_is_refused(monkeypatch, given, said):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    config = tiny_config()
    config.train.metrics = given
    with pytest.raises(UserError, match=said):
        check_config(config)
