"""A run's folder is data: nothing in it is run, and no reader could be made to."""

import ast
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from readers import CONFIG

from cberl_jax.config.variants import read_variants
from cberl_jax.errors import UserError
from cberl_jax.evaluation.outcomes import read_outcome
from cberl_jax.runtime.checkpoints import open_checkpoints
from cberl_jax.runtime.workdir import FORMAT
from cberl_jax.serving.restore import read_settings
from cberl_jax.version import __version__

ROOT = Path(__file__).parents[2]
SOURCES = [*(ROOT / "cberl_jax").rglob("*.py"), *(ROOT / "experiments").glob("*.py")]
# Modules that make objects, or programs, of what they read.
MAKERS = {
    "pickle",
    "_pickle",
    "cPickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "yaml",
}
RUNNERS = {"eval", "exec", "compile", "__import__"}


class Payload:
    """Leaves a canary when it is unpickled by anything that trusts it."""

    def __reduce__(self):
        return os.system, ("touch CANARY",)


def nodes(kind):
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, kind):
                yield path.relative_to(ROOT).as_posix(), node


def test_only_the_guarded_reader_and_the_compiled_programs_know_of_pickle():
    found = set()
    for path, node in nodes((ast.Import, ast.ImportFrom)):
        names = [alias.name for alias in node.names]
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
        found |= {(path, name) for name in names if name.partition(".")[0] in MAKERS}
    written = ("cberl_jax/reports/model_card.py", "yaml")
    # Machine code of the user's own: tests/runtime/test_compiled.py.
    compiled = ("cberl_jax/runtime/compiled.py", "pickle")
    assert found == {("cberl_jax/data/readers/unpickling.py", "pickle"), written, compiled}


def test_yaml_is_written_and_never_read():
    used = {
        node.attr
        for _, node in nodes(ast.Attribute)
        if isinstance(node.value, ast.Name) and node.value.id == "yaml"
    }
    assert used == {"dump", "SafeDumper"}


def test_the_guarded_reader_takes_constants_and_a_base_class_of_pickle_alone():
    """Its opcodes, and the unpickler whose every opcode is bounded: never load or loads."""
    used = {
        node.attr
        for path, node in nodes(ast.Attribute)
        if isinstance(node.value, ast.Name) and node.value.id == "pickle"
        if path != "cberl_jax/runtime/compiled.py"
    }
    assert {name for name in used if not name.isupper()} == {"_Unpickler"}


def test_numpy_never_loads_pickles():
    loading = set()
    for path, node in nodes(ast.Call):
        name = ast.unparse(node.func)
        assert name not in ("np.fromfile", "np.memmap", "np.lib.format.read_array"), path
        if name in ("np.load", "numpy.load"):
            options = {k.arg: ast.literal_eval(k.value) for k in node.keywords}
            assert options["allow_pickle"] is False and len(node.args) == 1, path
            assert options.keys() <= {"allow_pickle", "mmap_mode"}, path
            loading.add(path)
    assert loading == {
        "cberl_jax/data/readers/tables.py",
        "cberl_jax/evaluation/outside.py",
        "cberl_jax/features/clips.py",
        "cberl_jax/features/layers.py",
        "cberl_jax/runtime/workdir.py",
    }


def test_nothing_is_evaluated():
    for path, node in nodes(ast.Call):
        assert not (isinstance(node.func, ast.Name) and node.func.id in RUNNERS), path


def state():
    return {"seed": np.arange(2), "weights": {"a": np.ones((2, 3), np.float32)}}


def objects() -> bytes:
    """An array of objects, as numpy saves it."""
    file = io.BytesIO()
    np.save(file, np.array([Payload()], object), allow_pickle=True)
    return file.getvalue()


SMUGGLED = {"pickle": pickle.dumps(Payload()), "array of objects": objects()}
# Run in a process of its own, in the folder where a canary would appear.
RESTORE = """
import pathlib, sys
sys.path[:0] = {tests}
from test_trust import open_checkpoints, state
for folder in sorted(pathlib.Path(".").iterdir()):
    with open_checkpoints(folder) as checkpoints:
        try:
            restored, _ = checkpoints.restore(state(), {{"mean": state()["seed"]}})
            print(folder, restored["seed"].tolist())
        except Exception:
            print(folder, "refused")
"""


def smuggle(folder, payload: bytes, instead: bool) -> None:
    """Puts a payload beside the files of a checkpoint, or in the place of each of them."""
    for path in list(folder.rglob("*")):
        if path.is_dir():
            (path / "state.pkl").write_bytes(payload)
            (path / "weights.npy").write_bytes(payload)
        elif instead:
            path.write_bytes(payload)


def test_a_checkpoint_is_data(tmp_path):
    """A file beside the arrays is not looked at; one in the place of them is no checkpoint."""
    original, copies = tmp_path / "original", tmp_path / "copies"
    with open_checkpoints(original) as checkpoints:
        checkpoints.save(3, state(), {"mean": state()["seed"]})
    for kind, payload in SMUGGLED.items():
        for where in ("beside", "instead"):
            folder = shutil.copytree(original, copies / f"{where} {kind}")
            smuggle(folder, payload, where == "instead")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            RESTORE.format(tests=[str(path) for path in Path(__file__).parents[:2]]),
        ],
        cwd=copies,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "beside array of objects [0, 1]",
        "beside pickle [0, 1]",
        "instead array of objects refused",
        "instead pickle refused",
    ]
    assert not (copies / "CANARY").exists()


@pytest.mark.parametrize("kind", SMUGGLED)
def test_the_files_beside_it_are_data(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_bytes(SMUGGLED[kind])
    (tmp_path / "report.json").write_text(json.dumps({"members": [{"status": "ok"}]}))
    with pytest.raises(UserError, match="config.json: is damaged"):
        read_settings(tmp_path)
    sound = {"format": FORMAT, "version": __version__}
    (tmp_path / "config.json").write_text(json.dumps(sound))
    (tmp_path / "predictions.npz").write_bytes(SMUGGLED[kind])
    with pytest.raises(UserError, match="predictions.npz: is damaged"):
        read_outcome(tmp_path)
    np.savez(tmp_path / "predictions.npz", classes=np.array([Payload()], object))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_outcome(tmp_path)
    assert not (tmp_path / "CANARY").exists()


# What one of the entries of config.json is, and what is said of it.
DAMAGED = {
    "number for a switch": ({"model.causal": 1}, "model.causal = 1: has to be of type bool"),
    "text for a number": ({"loss.gamma": "2"}, "loss.gamma = '2': has to be of type float"),
    "beyond any float": ({"loss.gamma": 10**400}, "loss.gamma: is a number with too many digits"),
    "NaN": ({"loss.gamma": float("nan")}, "loss.gamma = nan: has to be from 0.0 to 100.0"),
    "beyond 32 bits": ({"model.hidden": 2**40}, "has to be from 1 to 2147483647"),
    "no widths": ({"widths": None}, "widths is missing or of no use"),
    "negative widths": ({"widths": {"text": -1}}, "widths is missing or of no use"),
    "huge widths": ({"widths": {"text": 2**40}}, "widths is missing or of no use"),
    "seeds as text": ({"seeds": ["0"]}, "seeds is missing or of no use"),
    "one class": ({"classes": "calm"}, "classes is missing or of no use"),
    "generated as a number": ({"generated": 3}, "generated is missing or of no use"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_config_is_named(tmp_path, case):
    changes, message = DAMAGED[case]
    (tmp_path / "report.json").write_text("{}")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | changes))
    with pytest.raises(UserError) as error:
        read_settings(tmp_path)
    text = f"{tmp_path / 'config.json'}: is damaged ("
    assert str(error.value).startswith(text) and message in str(error.value)


@pytest.mark.parametrize("content", [b"[]", b"3", b"\xff", b"[" * 10**5, b'{"format": 1'])
def test_what_is_no_config_is_named(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match="config.json: is damaged"):
        read_settings(tmp_path)
    with pytest.raises(UserError, match="config.json: "):
        read_variants(tmp_path / "config.json")


def test_a_setting_that_changes_nothing_may_be_missing(tmp_path):
    earlier = {name: value for name, value in CONFIG.items() if name != "data.allow_repeats"}
    earlier["loss.gamma"] = 3.5
    (tmp_path / "report.json").write_text("{}")
    (tmp_path / "config.json").write_text(json.dumps(earlier))
    _, config, _ = read_settings(tmp_path)
    assert not config.data.allow_repeats and config.loss.gamma == 3.5


def test_the_payload_works_where_it_is_trusted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pickle.loads(SMUGGLED["pickle"])
    assert (tmp_path / "CANARY").exists()
