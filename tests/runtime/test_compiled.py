"""Compiled programs that are kept: what is found without tracing is what would be traced."""

import functools
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from tiny import BARE, NO_PARTS, TINY, tiny_config, tiny_corpus

from cberl_jax.config import CONFIG_MODULE
from cberl_jax.runtime import compiled, origins
from cberl_jax.training.fleet import Fleet, compile_once
from cberl_jax.training.prepare import prepare

ROOT = Path(__file__).parent.parent.parent
# Names of the functions below, one each time that one is traced.
traced = []
X = np.arange(3, dtype=np.float32)


class Loaded:
    """The code of a process in which nothing changes."""

    def name(self):
        return "all code"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder that a command would keep its programs in."""
    monkeypatch.setattr(compiled, "_open", lambda: tmp_path)
    monkeypatch.setattr(compiled, "_sources", Loaded())
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


class Swapped(NamedTuple):
    rest: float
    first: float


def of_first(pair):
    return lambda x: x * pair.first


def of_kind(values):
    return lambda x: x + float(isinstance(values, dict))


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
        (of_first(Pair(2.0, 5.0)), of_first(Swapped(2.0, 5.0))),
        (of_kind({"a": 1}), of_kind([("a", 1)])),
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


def test_functions_that_use_other_arguments_have_other_programs(folder):
    pair = {"one": X, "other": X + 5}
    for name in ("one", "other", "one"):
        result = run(lambda values, name=name: 2 * values[name], pair)
        np.testing.assert_array_equal(result, 2 * pair[name])


def test_the_weak_type_of_a_result_is_kept(folder):
    weak, strong = lambda x: (x, 1.0), lambda x: (x, jnp.float32(1.0))
    strong.__name__ = weak.__name__
    for function in (weak, strong, weak):
        assert run(function, X)[1].weak_type == (function is weak)
    assert len(programs(folder)) == 2


def made_in_a_function(slope):
    @jax.custom_vjp
    def double(x):
        return 2 * x

    double.defvjp(lambda x: (2 * x, None), lambda kept, gradient: (slope * gradient,))

    class Local:
        factor = slope

    return double, Local


def test_what_is_made_in_a_function_has_no_name(folder):
    for slope in (1.0, 5.0):
        double, local = made_in_a_function(slope)
        derivative = run(lambda x, double=double: jax.grad(double)(x), np.float32(1))
        assert float(derivative) == slope
        np.testing.assert_array_equal(run(lambda x, local=local: local.factor * x, X), slope * X)
    assert not list(folder.iterdir())


def test_a_function_that_calls_python_runs_and_is_not_kept(folder, caplog):
    seen = []

    def show(x):
        jax.debug.callback(lambda value: seen.append(value.tolist()), x)
        return x

    for _ in range(2):
        np.testing.assert_array_equal(run(show, X), X)
        jax.effects_barrier()
    assert seen == [X.tolist()] * 2 and not list(folder.iterdir())
    assert "a compiled program is not kept" in caplog.text


def test_a_program_whose_code_changes_while_it_is_traced_is_not_kept(folder, monkeypatch):
    class Edited(Loaded):
        def name(self):
            return f"code {len(traced)}"

    monkeypatch.setattr(compiled, "_sources", Edited())
    for number in (1, 2):
        np.testing.assert_array_equal(run(functools.partial(scale, 2.0), X).first, 2 * X)
        assert len(traced) == number and not list(folder.iterdir())


def test_a_file_under_the_name_of_another_one_is_not_read(folder):
    run(functools.partial(scale, 2.0), X)
    (first,) = programs(folder)
    run(functools.partial(scale, 3.0), X)
    (second,) = set(programs(folder)) - {first}
    os.replace(first, second)
    np.testing.assert_array_equal(run(functools.partial(scale, 3.0), X).first, 3 * X)


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
    compiled._write(path, Payload(), "all code")
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
    before = origins.name_settings()
    for name in ("XLA_FLAGS", "JAX_OTHER", "FLAX_FIX_RNG_SEPARATOR"):
        with monkeypatch.context() as changed:
            changed.setenv(name, "--other")
            assert origins.name_settings() != before
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    with jax.default_device(jax.local_devices()[1]):
        assert origins.name_settings() == before
    with jax.default_matmul_precision("highest"):
        assert origins.name_settings() != before
    assert origins.name_settings() == before


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of a package, the only code beside installed libraries and the program's."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "__main__.py").write_text("")
    (folder / "losses.py").write_text("WEIGHT = 1\n")
    # Other tests of this process may have loaded a config, or a module of their own.
    installed = origins._installed_folders()
    known = {n: f for n, f in origins._loaded_files().items() if f.startswith(installed)}
    monkeypatch.setattr(origins, "_loaded_files", lambda: known)
    monkeypatch.setattr(origins, "PACKAGE", folder)
    monkeypatch.setattr(origins, "EXPERIMENTS", tmp_path / "experiments")
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__file__", str(folder / "__main__.py"), raising=False)
    known["__main__"] = main.__file__
    return folder, known


def is_named(sources):
    try:
        return bool(sources.name())
    except origins.Unnamed:
        return False


def later():
    return time.time() + 1


@pytest.mark.parametrize("when", ["before it is named", "after that"])
@pytest.mark.parametrize("change", ["edited", "new", "gone"])
def test_code_that_has_changed_since_the_start_has_no_name(package, when, change):
    sources = origins.Sources(later())
    if when == "after that":
        assert is_named(sources)
    if change == "gone":
        (package[0] / "losses.py").unlink()
    else:
        path = package[0] / ("losses.py" if change == "edited" else "new.py")
        path.write_text("WEIGHT = 23\n")
    assert not is_named(sources)
    # The next start has other code.
    assert is_named(origins.Sources(later()))


def test_a_file_that_is_younger_than_the_process_has_no_name(package):
    assert not is_named(origins.Sources(time.time() - 60))


def test_names_of_the_code_follow_its_text(package):
    folder, known = package
    names = [origins.Sources(later()).name()]
    (folder / "losses.py").write_text("WEIGHT = 2\n")
    names.append(origins.Sources(later()).name())
    config = known[CONFIG_MODULE] = str(folder.parent / "mine.py")
    for text in ("a = 1", "a = 2"):
        Path(config).write_text(text)
        names.append(origins.Sources(later()).name())
    assert len(set(names)) == 4
    (folder / "losses.py").write_text("WEIGHT = 1\n")
    # What an editor leaves while a file is changed.
    (folder / ".#losses.py").symlink_to("nowhere")
    del known[CONFIG_MODULE]
    again = origins.Sources(later()).name()
    assert again.splitlines()[:-1] == names[0].splitlines()[:-1]


@pytest.mark.parametrize("own", ["a program", "a program read from a pipe", "a module"])
def test_where_a_persons_own_code_is_loaded_nothing_has_a_name(package, own, monkeypatch):
    folder, known = package
    path = folder.parent / "own.py"
    path.write_text("")
    if own == "a module":
        known["of_a_lab"] = str(path)
    else:
        known["__main__"] = str(path) if own == "a program" else "<stdin>"
        monkeypatch.setattr(sys.modules["__main__"], "__file__", known["__main__"])
    assert not is_named(origins.Sources(later()))


def test_the_programs_of_the_repository_are_named(package, monkeypatch):
    folder, known = package
    (folder.parent / "experiments").mkdir()
    (folder.parent / "bin").mkdir()
    for name in ("experiments/train.py", "bin/cberl"):
        path = folder.parent / name
        path.write_text("")
        # Some library lists the program under another name, too.
        known["__main__"] = known["__mp_main__"] = str(path)
        monkeypatch.setattr(sys.modules["__main__"], "__file__", str(path))
        assert is_named(origins.Sources(later()))


def test_only_commands_keep_their_programs(tmp_path, package, monkeypatch):
    open_ = compiled._open.__wrapped__
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "kept"))
        # The Python interface does not call ``keep_compiled``.
        assert open_() is None
        compiled.keep_compiled(later())
        assert open_() == tmp_path / "kept" and not list((tmp_path / "kept").iterdir())
        assert open_() is None and not jax.config.jax_enable_compilation_cache
        jax.config.update("jax_enable_compilation_cache", True)
        jax.config.update("jax_compilation_cache_dir", "gs://bucket/programs")
        assert open_() is None
        (tmp_path / "file").write_text("")
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "file" / "in it"))
        assert open_() is None
    finally:
        monkeypatch.setattr(compiled, "_sources", None)
        jax.config.update("jax_compilation_cache_dir", before)
        jax.config.update("jax_enable_compilation_cache", True)
        compilation_cache.reset_cache()


def of_member(state, shared, hyper):
    traced.append("of_member")
    return {"sum": state["sum"] + hyper * shared.sum(), "count": state["count"] + 1}


def split_rows(parts, state, shared, hyper):
    traced.append("split_rows")
    return state + hyper * parts.place(shared).sum()


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
        step = fleet.compile("step", functools.partial(split_rows, fleet.parts), arguments)
        np.testing.assert_array_equal(fleet.gather(step(*arguments), 1), [29.0])
    assert len(traced) == 3


# A program of a person's own, which replaces a function of the package.
OWN_PROGRAM = """
import os
from cberl_jax.commands import run
from cberl_jax.training import joint_step

focal_loss = joint_step.focal_loss
factor = float(os.environ["FACTOR"])
joint_step.focal_loss = lambda *given, **named: factor * focal_loss(*given, **named)
run("train")
"""
# Functions that a whole run traces; the others that jax lists are single operations.
OURS = {"create_state", "gan", "joint", "of_member", "forward", "_make"}


def train(workdir, environment, program=("-m", "cberl_jax", "train"), **settings):
    """Trains in a process of its own; its metrics, and which of ``OURS`` it has traced."""
    flags = ["--config=demo", f"--workdir={workdir}"]
    flags += [f"--config.{name}={value}" for name, value in (TINY | BARE | settings).items()]
    done = subprocess.run(
        [sys.executable, *program, *flags],
        env=environment | {"PYTHONPATH": str(ROOT), "JAX_LOG_COMPILES": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    names = re.findall(r"Finished tracing (\w+) for jit", done.stderr)
    return (workdir / "metrics.jsonl").read_text(), OURS & set(names)


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
def test_a_function_that_a_person_has_replaced_is_traced(tmp_path, program_environment):
    environment = program_environment | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "kept")}
    few = NO_PARTS | {"train.epochs": 2}
    first, _ = train(tmp_path / "first", environment, **few)
    second, traced_second = train(tmp_path / "second", environment, **few)
    assert first == second and not traced_second
    own = tmp_path / "own.py"
    own.write_text(OWN_PROGRAM)
    losses = []
    for factor in ("1", "3"):
        text, names = train(
            tmp_path / factor, environment | {"FACTOR": factor}, program=(str(own),), **few
        )
        assert "joint" in names
        losses.append(text)
    assert losses[0] == first != losses[1]
