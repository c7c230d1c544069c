"""Compiled programs that are kept: what is found without tracing is what would be traced."""

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from tiny import BARE, NO_PARTS, TINY, tiny_config, tiny_corpus

from cberl_jax.runtime import compiled
from cberl_jax.training.fleet import Fleet, compile_once
from cberl_jax.training.prepare import prepare

ROOT = Path(__file__).parent.parent.parent
# Names of the functions below, one each time that one is traced.
traced = []
X = np.arange(3, dtype=np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder that a command would keep its programs in."""
    monkeypatch.setattr(compiled, "_open", lambda: tmp_path)
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    traced.clear()
    yield tmp_path
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


class Pair(NamedTuple):
    first: jax.Array
    rest: dict


def scale(factor, x):
    traced.append("scale")
    return Pair(factor * x, {"sum": x.sum(), "nothing": None})


def scale_again(factor, x):
    traced.append("scale again")
    return Pair(factor * x, {"sum": x.sum(), "nothing": None})


scale_again.__name__ = "scale"  # It is in the text.


def run(function, *arguments, **options):
    jax.clear_caches()  # As in another process.
    return compile_once(function, *arguments, **options)(*arguments)


def programs(folder):
    return sorted(folder.glob("*.program"))


def test_a_program_is_traced_once_and_gives_the_same_tree(folder):
    results = [run(functools.partial(scale, 2.0), X) for _ in range(3)]
    assert traced == ["scale"] and len(programs(folder)) == 1
    for result in results:
        assert isinstance(result, Pair) and result.rest["nothing"] is None
        np.testing.assert_array_equal(result.first, 2 * X)
        assert float(result.rest["sum"]) == 3.0


def add(value):
    return lambda x: x + value


def added(x, value=1.0, *, other=2.0):
    return x + value + other


def first_and_second():
    """Two functions in one line."""
    return (lambda x: x + 1.0), (lambda x: x + 2.0)


def with_keyword(other):
    def function(x, value=1.0, *, other=other):
        return x + value + other

    return function


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (add(1.0), add(2.0)),
        (add(1), add(1.0)),
        (functools.partial(added, value=3.0), functools.partial(added, other=3.0)),
        (functools.partial(added, value=3.0), functools.partial(added, value=4.0)),
        (with_keyword(1.0), with_keyword(2.0)),
        first_and_second(),
        (functools.partial(jnp.sum, axis=0), functools.partial(jnp.prod, axis=0)),
        (jnp.sin, jnp.cos),
        (jax.nn.relu, jax.nn.gelu),
    ],
)
def test_another_function_or_captured_value_is_another_program(folder, one, other):
    for function in (one, other, one, other):
        np.testing.assert_allclose(run(function, X), function(jnp.asarray(X)), rtol=1e-6)
    assert len(list(folder.glob("*.trace"))) == 2


def test_other_shapes_types_and_options_are_other_programs(folder):
    double = functools.partial(scale, 2)
    cases = [X, X[:2], X.astype(np.int32), X[:, None], jnp.float32(3), jnp.asarray(3.0)]
    for x in cases + cases:
        result = run(double, x).first
        assert result.dtype == x.dtype
        np.testing.assert_array_equal(result, 2 * np.asarray(x))
    assert len(traced) == len(cases)
    for device in jax.local_devices()[:2] * 2:
        assert run(double, X, device=device).first.devices() == {device}
    assert len(traced) == len(cases) + 1


def test_the_same_text_is_one_program_whatever_it_was_traced_from(folder):
    run(functools.partial(scale, 2.0), X)
    run(functools.partial(scale_again, 2.0), X)
    run(functools.partial(scale_again, 2.0), X)
    assert traced == ["scale", "scale again"] and len(programs(folder)) == 1


def plus(array, x):
    traced.append("plus")
    return x + array


def test_what_has_no_sure_name_is_traced_each_time(folder):
    captured = np.ones(3, np.float32)
    for value in (1.0, 5.0, 5.0):
        captured[:] = value
        np.testing.assert_array_equal(run(functools.partial(plus, captured), X), X + value)
    assert traced == ["plus"] * 3 and not list(folder.iterdir())

    def again(x, times=3):
        traced.append("again")
        return again(x + 1, times - 1) if times else x

    for _ in range(2):
        np.testing.assert_array_equal(run(again, X), X + 3)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("ending", [".program", ".trace"])
@pytest.mark.parametrize("damage", ["empty", "short", "bit", "gone"])
def test_a_damaged_file_is_made_anew(folder, ending, damage):
    double = functools.partial(scale, 2.0)
    run(double, X)
    (path,) = folder.glob(f"*{ending}")
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "short": whole[:-1], "bit": flipped}[damage])
    np.testing.assert_array_equal(run(double, X).first, 2 * X)
    assert traced == ["scale"] * 2
    run(double, X)
    assert traced == ["scale"] * 2


def leave_trace():
    traced.append("a stranger's code")


class Payload:
    def __reduce__(self):
        return leave_trace, ()


@pytest.mark.parametrize("whose", ["writable by others", "of another person", "own"])
def test_a_file_that_may_be_a_strangers_is_not_read(folder, whose):
    double = functools.partial(scale, 2.0)
    run(double, X)
    (path,) = programs(folder)
    assert path.stat().st_mode & 0o777 == 0o600
    compiled._write(path, Payload())
    if whose == "writable by others":
        path.chmod(0o620)
    elif whose == "of another person":
        if os.getuid():
            pytest.skip("only root can give a file away")
        os.chown(path, 12345, -1)
    np.testing.assert_array_equal(run(double, X).first, 2 * X)
    # That of one's own is read: the others would have been, too.
    assert ("a stranger's code" in traced) == (whose == "own")


def test_without_room_the_program_runs_all_the_same(folder):
    folder.rmdir()
    for _ in range(2):
        np.testing.assert_array_equal(run(functools.partial(scale, 2.0), X).first, 2 * X)
    assert traced == ["scale"] * 2


def test_the_programs_that_were_not_used_for_longest_go(folder, monkeypatch):
    first, second, third = (functools.partial(scale, factor) for factor in (2.0, 3.0, 4.0))
    run(first, X)
    monkeypatch.setattr(compiled, "LARGEST", int(2.5 * programs(folder)[0].stat().st_size))
    for function in (second, first, third):
        run(function, X)
    assert len(traced) == 3 and len(programs(folder)) == 2
    run(first, X)
    run(third, X)
    assert len(traced) == 3
    run(second, X)
    assert len(traced) == 4


def test_the_settings_of_jax_are_part_of_a_name(monkeypatch):
    settings = compiled._settings.__wrapped__
    before = settings()
    assert settings() == before
    with jax.default_matmul_precision("highest"):
        pass
    monkeypatch.setenv("XLA_FLAGS", "--xla_other")
    assert settings() != before
    monkeypatch.undo()
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    assert settings() == before
    jax.config.update("jax_default_matmul_precision", "highest")
    try:
        assert settings() != before
    finally:
        jax.config.update("jax_default_matmul_precision", None)


def test_code_that_a_person_has_loaded_is_part_of_a_name(tmp_path, monkeypatch):
    sources = compiled._sources.__wrapped__
    before = sources()
    assert sources() == before and str(ROOT / "cberl_jax" / "losses.py") in before
    (tmp_path / "of_a_lab.py").write_text("RATE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    __import__("of_a_lab")
    monkeypatch.setitem(sys.modules, "of_a_lab", sys.modules["of_a_lab"])
    with_it = sources()
    (tmp_path / "of_a_lab.py").write_text("RATE = 2\n")
    assert len({before, with_it, sources()}) == 3


def test_only_commands_keep_their_programs(tmp_path, monkeypatch):
    open_ = compiled._open.__wrapped__
    monkeypatch.setattr(compiled, "compilation_cache", None)  # jax's own stays as it is
    assert open_() is None
    monkeypatch.setattr(compiled, "_kept", True)
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    assert open_() is None
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setattr(sys.modules["__main__"], "__file__", "a program", raising=False)
    try:
        jax.config.update("jax_compilation_cache_dir", "gs://bucket/programs")
        assert open_() is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def of_member(state, shared, hyper):
    traced.append("of_member")
    return {"sum": state["sum"] + hyper * shared.sum(), "count": state["count"] + 1}


def split_rows(place, state, shared, hyper):
    traced.append("split_rows")
    return state + hyper * place(shared).sum()


def test_a_fleet_reads_the_program_of_its_devices(folder):
    program = prepare(tiny_config(**NO_PARTS), tiny_corpus()).program
    devices = jax.local_devices()
    hyper, shared = np.arange(4, dtype=np.float32), np.ones(4, np.float32)
    state = {"sum": np.zeros(4, np.float32), "count": np.zeros(4, np.int32)}
    for number, used in enumerate((1, 2, 4, 1, 2, 4)):
        jax.clear_caches()
        fleet = Fleet(program, 4, devices[:used])
        arguments = fleet.shard(state), fleet.replicate(shared), fleet.shard(hyper)
        step = fleet.compile("step", of_member, arguments)
        result = fleet.gather(step(*arguments), 4)
        np.testing.assert_array_equal(result["sum"], 4 * hyper)
        np.testing.assert_array_equal(result["count"], 1)
        # The state's memory has become the result's.
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(arguments[0]))
        assert fleet.memory("step")[1] > 0
        assert len(traced) == min(number + 1, 3)
    kept = Fleet(program, 4, devices[:1])
    arguments = kept.shard(state), kept.replicate(shared), kept.shard(hyper)
    kept.compile("step", of_member, arguments, keep=True)(*arguments)
    assert len(traced) == 4 and not arguments[0]["sum"].is_deleted()


def test_a_fleet_that_splits_a_batch_reads_its_program(folder):
    program = prepare(tiny_config(**NO_PARTS), tiny_corpus()).program
    shared = np.arange(8, dtype=np.float32)
    for used in (1, 2, 4, 2, 4):
        jax.clear_caches()
        fleet = Fleet(program, 1, jax.local_devices()[:used])
        assert fleet.split == used
        one = np.ones(1, np.float32)
        arguments = fleet.shard(one), fleet.replicate(shared), fleet.shard(one)
        step = fleet.compile("step", functools.partial(split_rows, fleet.place), arguments)
        np.testing.assert_array_equal(fleet.gather(step(*arguments), 1), [29.0])
    assert len(traced) == 3


OWN_PROGRAM = """
import atexit
import sys

import jax

from cberl_jax.commands import run
from cberl_jax.training import joint_step

names = []


def note(event, seconds, fun_name="", **more):
    if event.endswith("jaxpr_trace_duration"):
        names.append(fun_name)


jax.monitoring.register_event_duration_secs_listener(note)
atexit.register(lambda: print("traced:", *names, file=sys.stderr))
{changed}
run("train")
"""
CHANGED = """
focal_loss = joint_step.focal_loss
joint_step.focal_loss = lambda *given, **named: 2.0 * focal_loss(*given, **named)
"""


# Functions of the package that a whole run traces; the others that jax lists are single operations.
OURS = {"create_state", "gan", "joint", "of_member", "forward", "_make"}


def train(workdir, environment, changed="", **settings):
    """Trains by a program of a person's own; its metrics, and which of ``OURS`` it has traced."""
    program = workdir.parent / "own.py"
    program.write_text(OWN_PROGRAM.format(changed=changed))
    flags = ["--config=demo", f"--workdir={workdir}"]
    flags += [f"--config.{name}={value}" for name, value in (TINY | BARE | settings).items()]
    done = subprocess.run(
        [sys.executable, str(program), *flags],
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    (names,) = (line for line in done.stderr.splitlines() if line.startswith("traced:"))
    return (workdir / "metrics.jsonl").read_text(), OURS & set(names.split())


@pytest.mark.slow
def test_a_second_start_traces_nothing_of_a_run(tmp_path, program_environment):
    environment = program_environment | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "kept")}
    settings = {"augment.method": "gan", "gan.epochs": 1}
    first, traced_first = train(tmp_path / "first", environment, **settings)
    # Nor do other numbers of epochs, rates or seeds.
    longer = {"train.epochs": 5, "gan.epochs": 2, "optim.learning_rate": 1e-3}
    second, traced_second = train(tmp_path / "second", environment, **settings | longer)
    assert traced_first == OURS and traced_second == set()
    assert len(second.splitlines()) == len(first.splitlines()) + 2


@pytest.mark.slow
def test_a_function_that_a_person_has_changed_is_traced(tmp_path, program_environment):
    environment = program_environment | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "kept")}
    few = NO_PARTS | {"train.epochs": 2}
    first, _ = train(tmp_path / "first", environment, **few)
    second, traced_second = train(tmp_path / "second", environment, **few)
    assert first == second and not traced_second
    changed, traced_changed = train(tmp_path / "changed", environment, CHANGED, **few)
    environment = program_environment | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "empty")}
    alone, _ = train(tmp_path / "alone", environment, CHANGED, **few)
    assert "joint" in traced_changed and changed == alone != first
