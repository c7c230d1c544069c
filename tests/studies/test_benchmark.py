"""The benchmark: what it counts, in what order it times, and that its tables hold what it found."""

import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from tiny import NO_PARTS, tiny_config

from cberl_jax.data.readers.npz import write_npz
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.reports.benchmark import format_benchmark
from cberl_jax.runtime.processes import divide_cpu
from cberl_jax.studies.benchmark import (
    Contestant,
    benchmark,
    count_flops,
    measure_attention,
    measure_growth,
    measure_limit,
    measure_reference,
    measure_streaming,
    time_in_turns,
)
from cberl_jax.training.prepare import load_data, prepare


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.npz"
    write_npz(simulate_corpus(create_process(), SimulatedSize(12, 4, 4, 4, 4), seed=0), path)
    return tiny_config(**NO_PARTS, **{"data.path": str(path)})


def test_operations_of_matrix_products_are_counted_as_often_as_loops_run_them():
    def program(x, y):
        def step(carry, _):
            return jax.nn.relu(carry @ y), carry

        carry, _ = jax.lax.scan(step, x, None, length=7)
        return jax.jit(jnp.vdot)(carry, carry)

    x, y = jnp.ones((2, 3)), jnp.ones((3, 3))
    # Seven times 2 x 3 x 3 multiplications and additions, and the six of the last product.
    assert count_flops(jax.make_jaxpr(program)(x, y).jaxpr) == 7 * 2 * 2 * 3 * 3 + 2 * 6
    batched = jax.make_jaxpr(jax.vmap(program, in_axes=(0, None)))(jnp.ones((5, 2, 3)), y)
    assert count_flops(batched.jaxpr) == 5 * (7 * 2 * 2 * 3 * 3 + 2 * 6)


def test_contestants_are_warmed_up_and_then_take_turns():
    calls = []
    seconds = time_in_turns({n: lambda n=n: calls.append(n) for n in "ab"}, repeats=3)
    assert calls == ["a", "b"] * 4
    assert [len(values) for values in seconds.values()] == [3, 3]


def test_a_contestant_trains(config):
    contestant = Contestant(prepare(config, load_data(config)), config, 2)
    before = contestant.fleet.gather(contestant.state.joint.average, 2)
    contestant()
    contestant()
    after = contestant.fleet.gather(contestant.state.joint, 2)
    assert after.epoch.tolist() == [2, 2]
    moved = jax.tree.map(lambda a, b: (a != b).any(), before, after.average)
    assert any(jax.tree.leaves(moved))


# It measures what the machine can do, which takes ten seconds.
@pytest.mark.slow
def test_an_epoch_takes_longer_than_its_matrix_products_would(config):
    found = measure_limit(config, 1, repeats=1)
    assert 0 < found["share_of_flops_limit"] < 1
    assert found["flops"] > found["xla_flops_a_step"] / 10 > 0
    report = {"machine": {"device": "this", "devices": 1, "cores": 2}, "repeats": 1}
    text = format_benchmark(report | {"limit": [found]})
    assert "## Distance to the limit" in text and "## Members" not in text
    json.dumps(found)


def test_both_forms_of_attention_are_measured(config):
    found = measure_attention(config, 2, repeats=1)
    assert list(found) == ["blocks", "edges"]
    for row in found.values():
        assert row["epoch_s"] == pytest.approx(2 * row["member_epoch_s"]) and row["compile_s"] > 0
    report = {"machine": {"device": "this", "devices": 1, "cores": 2}, "repeats": 1}
    text = format_benchmark(report | {"attention": [found]})
    assert "## Forms of attention" in text and "| edges     | 2 " in text


def test_rows_from_the_host_are_measured_beside_those_on_the_device(config):
    found = measure_streaming(config, 2, repeats=1)
    assert list(found) == ["device", "host"]
    assert found["host"]["feature_bytes"] == found["device"]["feature_bytes"] // 4 > 0
    assert all(row["epoch_s"] > 0 and row["compile_s"] > 0 for row in found.values())
    report = {"machine": {"device": "this", "devices": 1, "cores": 2}, "repeats": 1}
    text = format_benchmark(report | {"streaming": [found]})
    assert "## Rows from the host" in text and "| host          | 2 " in text


def test_growth_tells_utterances_and_rows(config):
    found = measure_growth(config, 1, 36, repeats=1)
    assert 9_000 < found["utterances"] < 13_000
    assert found["row_length"] == 36
    assert found["epoch_s"] == pytest.approx(
        found["microseconds_per_utterance"] * found["utterances"] / 1e6
    )


def test_pytorch_is_given_as_many_steps_an_epoch(config):
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e '.[bench]'")
    path = Path(__file__).parents[2] / "benchmarks" / "torch_reference.py"
    spec = importlib.util.spec_from_file_location("torch_reference", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made = []

    def create(prepared, hyper, dialogues):
        made.append(module.TorchTrainer(prepared, hyper, batch_size=dialogues))
        return made[-1]

    found = measure_reference(config, create, repeats=1)
    assert list(found) == ["PyTorch", "one member", "16 members"]
    assert made[0].batches == found["PyTorch"]["steps"] and made[0].epoch == 2
    for row in found.values():
        assert row["times_faster"] == pytest.approx(
            found["PyTorch"]["epoch_s"] / row["per_member_s"]
        )
    # A member has two of the devices, many have all.
    assert [row["devices"] for row in found.values()] == [1, 2, len(jax.devices())]


# A compilation in a fresh process.
@pytest.mark.slow
def test_the_command_measures_members_with_a_device_per_core(
    config, tmp_path, monkeypatch, program_environment
):
    # A person's shell: without the devices that the tests simulate, and without strict types.
    monkeypatch.setenv("XLA_FLAGS", program_environment["XLA_FLAGS"])
    monkeypatch.delenv("JAX_NUMPY_DTYPE_PROMOTION")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    if divide_cpu(16) == 1:
        pytest.skip("needs two cores")
    result = benchmark(config, str(tmp_path), [], sections=["members"], repeats=1)
    assert [row["members"] for row in result["members"]] == [1, 4, 16]
    cores = divide_cpu(16)
    # Two for a member where there are as many, one otherwise.
    expected = [2, 8 if cores >= 8 else min(4, cores), cores]
    assert [row["devices"] for row in result["members"]] == expected
    assert "| devices |" in (tmp_path / "benchmark.md").read_text()
    # The compiler was timed, not a file that was read.
    assert not (tmp_path / "compiled").exists()
