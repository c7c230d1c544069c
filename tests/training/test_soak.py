"""A long run: memory, open files and compiled programs stay what they were."""

import gc
import os
import resource
import threading
from pathlib import Path

import pytest
from tiny import tiny_config

from cberl_jax.data.readers.npz import write_npz
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.runtime.progress import Progress
from cberl_jax.studies.train import train_and_evaluate

PROCESS = Path("/proc/self")
EPOCHS = 200
# Of the allocator: what is not a leak comes and goes by this much.
SLACK = 24 * 2**20


def resident():
    """Bytes of memory that this process holds."""
    return int((PROCESS / "statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.slow
@pytest.mark.skipif(not PROCESS.exists(), reason="reads a process's state from /proc")
def test_two_hundred_epochs_of_eight_members_grow_nothing(traces, tmp_path):
    write_npz(
        simulate_corpus(create_process(), SimulatedSize(12, 4, 4, 4, 4), seed=0),
        tmp_path / "corpus.npz",
    )
    # Checkpoints are a part of it.
    settings = {"train.checkpoint_seconds": 5.0, "train.patience": EPOCHS, "gan.epochs": 2}
    config = tiny_config(**settings, **{"data.path": str(tmp_path / "corpus.npz")})
    config.train.epochs = EPOCHS
    seen = {}

    def look(line):
        # Not after every one: collecting takes a second in a process that has run other tests.
        for epoch in range(10, EPOCHS + 1, 10):
            if line.startswith(f"joint {epoch}/"):
                gc.collect()
                seen[epoch] = resident(), len(os.listdir(PROCESS / "fd")), threading.active_count()

    report = train_and_evaluate(
        config, str(tmp_path / "run"), range(8), Progress(look), pictures=False
    )
    assert len(report["members"]) == 8 and sorted(traces) == ["gan_epoch", "joint_epoch"]
    # A checkpoint that is being written holds files and threads for a moment. A leak stays: it
    # also raises the least that is held over fifty epochs.
    parts = [[seen[epoch] for epoch in seen if end - 50 < epoch <= end] for end in (100, EPOCHS)]
    assert [len(part) for part in parts] == [5, 5], sorted(seen)
    (memory, files, threads), late = ([min(held) for held in zip(*part)] for part in parts)
    assert late[0] - memory < SLACK, seen
    assert late[1] <= files + 2 and late[2] <= threads + 2, seen
