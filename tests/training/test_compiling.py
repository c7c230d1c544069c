"""Compilation: several stages side by side give the numbers of one after the other."""

import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from tiny import NO_PARTS, QUIET, tiny_config, tiny_corpus

from cberl_jax.data.readers.npz import write_npz
from cberl_jax.runtime.progress import Progress
from cberl_jax.studies.train import train_and_evaluate
from cberl_jax.training.fleet import Fleet
from cberl_jax.training.prepare import list_members, prepare

# Interrupted while a thread compiles for a minute, as between two epochs of another stage.
INTERRUPTED = """
import time
from cberl_jax import cli
from cberl_jax.errors import Interrupted
from cberl_jax.training import fleet
fleet._in_thread(lambda: time.sleep(60))
with cli.explaining_interrupts():
    raise {error}
"""


def metrics_of(workdir):
    return (workdir / "metrics.jsonl").read_text()


def test_stages_that_compile_side_by_side_train_to_the_same_numbers(tmp_path, monkeypatch):
    corpus = tmp_path / "corpus.npz"
    write_npz(tiny_corpus(), corpus)
    few = NO_PARTS | {"augment.method": "gan", "train.epochs": 2}
    config = tiny_config(**few | {"data.path": str(corpus)})
    train_and_evaluate(config, str(tmp_path / "alone"), [0, 1], QUIET, pictures=False)
    begun, compile_ahead = [], Fleet.compile_ahead

    def record(fleet, name, *arguments, **named):
        begun.append(name)
        compile_ahead(fleet, name, *arguments, **named)

    monkeypatch.setattr(Fleet, "compile_ahead", record)
    monkeypatch.setattr(Fleet, "compiles_ahead", True)
    progress = Progress(begun.append)
    train_and_evaluate(config, str(tmp_path / "beside"), [0, 1], progress, pictures=False)
    # Both have begun before the first epoch, which is shown in a line of its own.
    first = next(place for place, line in enumerate(begun) if line.startswith("gan 1/"))
    assert begun.index("joint") < begun.index("gan") < first
    assert metrics_of(tmp_path / "beside") == metrics_of(tmp_path / "alone")


def test_a_training_of_another_length_is_the_same_program():
    longer = tiny_config(**NO_PARTS | {"train.epochs": 7, "train.patience": 5})
    both = tiny_config(**NO_PARTS), longer
    programs = [prepare(config, tiny_corpus()).program for config in both]
    assert programs[0] == programs[1]
    hyper = list_members(longer, [0, 1]).hyper
    assert hyper["train.epochs"].tolist() == [7, 7] and hyper["train.patience"].tolist() == [5, 5]


def test_what_the_compiler_raises_reaches_who_waits_for_the_program():
    prepared = prepare(tiny_config(), tiny_corpus())
    fleet = Fleet(prepared.program, 1, jax.local_devices()[:1])
    hyper = list_members(tiny_config(), [0]).hyper
    arguments = (fleet.describe_state(hyper), fleet.replicate(prepared.data), fleet.shard(hyper))
    options = {"xla_no_such_option": "1"}
    for _ in range(2):
        with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
            fleet.compile("joint", fleet.stages["joint"], arguments, options=options)


def test_the_described_state_is_that_of_drawn_members():
    prepared = prepare(tiny_config(), tiny_corpus())
    hyper = list_members(tiny_config(), range(3)).hyper
    for devices in (1, 2):
        fleet = Fleet(prepared.program, 3, jax.local_devices()[:devices])
        drawn = fleet.shard(fleet.create(np.arange(3), hyper))
        described = fleet.describe_state(hyper)
        of_both = zip(jax.tree.leaves(described), jax.tree.leaves(drawn), strict=True)
        for told, there in of_both:
            assert (told.shape, told.dtype) == (there.shape, there.dtype)
            assert told.sharding.is_equivalent_to(there.sharding, there.ndim)


@pytest.mark.parametrize("error, status", [("Interrupted(15)", 143), ("KeyboardInterrupt", 130)])
def test_an_interrupted_program_does_not_wait_for_a_compiler(error, status, program_environment):
    start = time.monotonic()
    code = INTERRUPTED.format(error=error)
    ended = subprocess.run([sys.executable, "-c", code], env=program_environment, timeout=50)
    assert ended.returncode == status and time.monotonic() - start < 30
