"""Rows from the host: the numbers of a corpus that lies on the devices, and what is refused.

Compiled as users compile, all numbers are the same to the bit (``test_optimised.py`` runs these
tests so). Compiled fast, as here, the last bits of a step hang on the program around it.
"""

import functools
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import NO_PARTS, QUIET, tiny_config, tiny_corpus

from cberl_jax.data.dataset import create_table
from cberl_jax.data.readers.npz import write_npz
from cberl_jax.data.standardize import fit_standardiser
from cberl_jax.errors import Interrupted, UserError
from cberl_jax.evaluation import activations
from cberl_jax.evaluation.predict_splits import predict_splits
from cberl_jax.runtime.progress import Progress
from cberl_jax.runtime.signals import Stopper
from cberl_jax.serving.restore import restore_run
from cberl_jax.studies.fitting import fit_fleet
from cberl_jax.studies.train import train_and_evaluate
from cberl_jax.training import streaming
from cberl_jax.training.fleet import Fleet
from cberl_jax.training.loop import Training
from cberl_jax.training.prepare import list_members, prepare
from cberl_jax.training.streaming import Part, count_batches, cut_rows, find_budget, stream

OPTIMISED = "CBERL_TEST_OPTIMISED" in os.environ
# Of the features of the tiny corpus; a block of a member's steps is then one step or two.
LOW = 7_000
EPOCHS = 2


def assert_same(first, second):
    """The same bits where users compile, else the same numbers."""
    check = np.testing.assert_array_equal
    if not OPTIMISED:
        check = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
    jax.tree.map(check, first, second)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.npz"
    write_npz(tiny_corpus(), path)
    return path


def config_of(corpus, **changes):
    few = {"train.epochs": EPOCHS, "gan.epochs": EPOCHS, "train.rows_per_batch": 2}
    return tiny_config(**{"data.path": str(corpus)} | NO_PARTS | few | changes)


def results(config, workdir, progress=QUIET):
    """Parameters, the metrics of all epochs, and the predictions of a run of two members."""
    report = train_and_evaluate(config, str(workdir), [0, 1], progress, pictures=False)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    with np.load(workdir / "predictions.npz") as file:
        predictions = {name: file[name] for name in file if file[name].dtype.kind != "U"}
    numbers = [{n: v for n, v in line.items() if n != "stage"} for line in lines]
    scores = [report["dev"][name]["mean"] for name in ("weighted_f1", "macro_f1")]
    return restore_run(str(workdir)).state, numbers, predictions, scores


@pytest.mark.parametrize("method", ["none", pytest.param("gan", marks=pytest.mark.slow)])
def test_a_run_has_the_numbers_of_one_whose_corpus_lies_on_the_devices(method, corpus, tmp_path):
    config, said = config_of(corpus, **{"augment.method": method}), []
    there = results(config, tmp_path / "there", Progress(said.append))
    assert not any("from the host" in line for line in said)
    config.train.corpus_bytes = LOW
    streamed = results(config, tmp_path / "streamed", Progress(said.append))
    assert any("the corpus has 3.12e-05 GB: its rows come from the host" in line for line in said)
    assert_same(streamed, there)


@pytest.mark.slow
def test_a_run_goes_on_with_rows_from_the_host(corpus, tmp_path):
    config = config_of(corpus, **{"augment.method": "smote", "train.checkpoint_seconds": 0.0})
    there = results(config, tmp_path / "there")

    def stop(line):
        if line.startswith("joint 1/2"):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        results(config, tmp_path / "stopped", Progress(stop))
    config.train.corpus_bytes, said = LOW, []
    went_on = results(config, tmp_path / "stopped", Progress(said.append))
    assert "going on after 1 epochs" in said
    assert_same(went_on, there)


def started(config, members, devices, corpus_bytes):
    """A training that has not begun: its fleet on the first devices."""
    config.train.corpus_bytes = corpus_bytes
    prepared, those = prepare(config, tiny_corpus()), list_members(config, range(members))
    fleet = Fleet(prepared.program, members, jax.local_devices()[:devices])
    return Training(prepared, config, those, fleet, None, Stopper(print), None)


def epochs_of(training, state):
    """The state and the records after two epochs of each stage."""
    training.place_data()
    training.state = training.fleet.shard(state)
    records, members = [], len(training.members.seeds)
    for stage in training.fleet.stages:
        epoch = training.compile(stage)
        for _ in range(EPOCHS):
            training.state, record = epoch(training.state, training.shared, training.hyper)
            records.append(training.fleet.gather(record, members))
    return training.fleet.gather(training.state, members), records


# More members than devices that do not divide by them, and fewer, whose batches are split.
@pytest.mark.slow
@pytest.mark.parametrize("members, devices", [(3, 1), (3, 2), (1, 2)])
def test_the_context_parts_have_their_numbers_on_any_devices(members, devices):
    changes = {"train.rows_per_batch": 2, "train.best_on_test": True, "augment.method": "flow"}
    changes |= {"model.djvae": False, "model.reconstruction": False}
    config, state, found = tiny_config(**changes), None, []
    for corpus_bytes in (0, LOW):
        training = started(config, members, devices, corpus_bytes)
        if state is None:
            state = training.fleet.create(training.members.seeds, training.members.hyper)
        found.append(epochs_of(training, state))
        assert (training.streamed is None) == (corpus_bytes == 0)
    assert_same(found[1], found[0])


def test_predictions_do_not_hang_on_where_the_rows_lie(corpus):
    config = config_of(corpus, **{"augment.method": "none"})
    found = []
    for corpus_bytes in (0, LOW):
        training = started(config, 2, 1, corpus_bytes)
        state = training.fleet.create(training.members.seeds, training.members.hyper)
        prepared = training.prepared
        arguments = state, prepared.splits, prepared.standardiser, corpus_bytes
        predictions = predict_splits(training.fleet, *arguments)
        found.append([predictions[f"{split}.probability"] for split in ("dev", "test")])
    assert_same(found[1], found[0])
    assert np.ptp(found[0][0]) > 0.01


def test_codes_and_attention_of_a_split_are_joined_from_blocks(monkeypatch):
    training = started(tiny_config(**NO_PARTS | {"model.graph": True}), 1, 1, 0)
    state = training.fleet.create(training.members.seeds, training.members.hyper)
    variables = jax.tree.map(lambda leaf: leaf[0], state.joint.variables)
    prepared = training.prepared
    arguments = prepared.program, variables, prepared.corpus, prepared.standardiser, "train"
    whole = activations.compute_activations(*arguments)
    assert whole.code.shape == (np.sum(prepared.corpus.in_split("train")), 8)
    monkeypatch.setattr(activations, "MOST_BLOCK", 1)
    assert_same(activations.compute_activations(*arguments), whole)


def test_the_memory_that_is_needed_counts_blocks_and_not_the_corpus(corpus, monkeypatch):
    one = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda: one)
    training = started(config_of(corpus, **{"augment.method": "none"}), 2, 1, LOW)
    training.place_data()
    training.compile("joint")
    whole, size = training.prepared.data, streaming.count_bytes(training.prepared.data.table)
    on_device, all_of_it = (
        sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) for tree in (training.shared, whole)
    )
    assert all_of_it - on_device == size
    each, total = training.memory("joint")
    program = training.fleet.memory("joint")[1]
    described = training.fleet.describe_state(training.members.hyper)
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(described))
    assert each == total // 2 and state < total - program < state + size
    fleet = fit_fleet(training.prepared, training.config, training.members, Stopper(print))
    assert fleet.padded_members == 2 and fleet.has_compiled("begin joint")


def test_two_blocks_are_there_at_a_time():
    events = []

    def send(block):
        events.append(f"send {block}")
        return block

    def compute(block):
        events.append(f"compute {block}")
        return np.float32(block)

    found = []
    for result in stream(range(3), send, compute):
        events.append(f"done {result:.0f}")
        found.append(result)
    assert found == [0, 1, 2]
    # The next block is sent after the present one has begun, and the one before it has ended.
    assert events == [
        *("send 0", "compute 0", "send 1", "compute 1", "done 0"),
        *("send 2", "compute 2", "done 1", "done 2"),
    ]


@pytest.mark.parametrize(
    "batch_bytes, batches, budget, wanted",
    [(100, 10, 1000, 5), (100, 3, 1000, 3), (100, 10, 1, 1), (2**20, 10**6, 2**40, 256)],
)
def test_two_blocks_have_room_in_the_budget(batch_bytes, batches, budget, wanted):
    assert count_batches(batch_bytes, batches, budget) == wanted


def test_every_row_is_in_a_block():
    data = prepare(tiny_config(), tiny_corpus()).data
    blocks = cut_rows(data.table, data.train, batch=1, budget=10_000)
    assert len(blocks) > 2 and len({len(block.index) for block in blocks}) == 1
    together = np.concatenate([block.index for block in blocks])[: len(data.train.index)]
    np.testing.assert_array_equal(together, data.train.index)


def test_an_utterance_that_was_not_sent_is_nan_and_not_another_one():
    sent = streaming.Sent(np.array([4, 2]), {"text": jnp.array([[40.0], [20.0]])})
    data = prepare(tiny_config(), tiny_corpus()).data
    table = streaming.with_part(data, sent).table
    assert isinstance(table, Part)
    found = np.asarray(table.look_up(np.array([2, 3, 4]))["text"])[:, 0]
    np.testing.assert_array_equal(found, [20.0, np.nan, 40.0])


def table_of():
    corpus = tiny_corpus()
    return create_table(corpus, fit_standardiser(corpus))


def test_the_share_of_the_memory_decides_unless_bytes_are_given(monkeypatch):
    table = table_of()
    size = streaming.count_bytes(table)
    assert size == sum(values.size * 4 for values in table.features.values())
    for memory, asked, wanted in (
        (2 * size, 0, 0),
        (2 * size - 2, 0, size - 1),
        (10, size, 0),
        (10 * size, size - 1, size - 1),
    ):
        monkeypatch.setattr(streaming, "memory_of_device", lambda memory=memory: memory)
        assert find_budget(table, asked) == wanted


def test_folds_stay_on_the_devices_or_are_refused(monkeypatch):
    table = table_of()
    table = table._replace(features={m: np.stack([v] * 3) for m, v in table.features.items()})
    size = streaming.count_bytes(table)
    monkeypatch.setattr(streaming, "memory_of_device", lambda: size)
    assert find_budget(table, 0, folds=True) == 0
    monkeypatch.setattr(streaming, "memory_of_device", lambda: size - 1)
    with pytest.raises(UserError, match="rows cannot come from the host where folds are made"):
        find_budget(table, 0, folds=True)
    with pytest.raises(UserError, match="train.corpus_bytes cannot be set where folds are made"):
        train_and_evaluate(
            tiny_config(**{"data.folds": "3", "train.corpus_bytes": 1000}), "unused", [0]
        )


@pytest.mark.parametrize("value", [-1, 2**60])
def test_a_budget_that_is_none_is_refused(value, tmp_path):
    config = tiny_config(**{"train.corpus_bytes": value})
    with pytest.raises(UserError, match="train.corpus_bytes = .*: has to be from 0 to"):
        train_and_evaluate(config, str(tmp_path / "run"), [0])
    assert not (tmp_path / "run").exists()
