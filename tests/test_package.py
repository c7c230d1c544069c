"""The package as it is handed on: built, installed without its sources, its dependencies told."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from setuptools import build_meta

from cberl_jax.version import __version__

ROOT = Path(__file__).parent.parent
TRAINS = """
import cberl_jax as cberl
from cberl_jax.config import presets as configs

config = configs.change(configs.demo(), {
    "gan.epochs": 1, "gan.steps": 2, "train.epochs": 1, "model.hidden": 8, "model.djvae": False,
    "model.reconstruction": False, "gan.hidden": 4,
})
run = cberl.train("simulated:small", config, workdir="run", pictures=False, say=lambda line: None)
print(cberl.__file__)
print(cberl.load("run").predict("simulated:small")[0])
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel that is built from a source archive and not from this folder."""
    folder = tmp_path_factory.mktemp("build")
    # The builder writes beside the sources: a copy of what is under version control is enough.
    sources = folder / "sources"
    sources.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        (sources / name).write_bytes((ROOT / name).read_bytes())
    for path in (ROOT / "cberl_jax").rglob("*.py"):
        copy = sources / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    archive = folder / build(sources, folder, "build_sdist")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    unpacked = folder / archive.name.removesuffix(".tar.gz")
    return folder / build(unpacked, folder, "build_wheel")


def build(sources, target, kind):
    """Runs the build backend as pip does: in the sources, in a process of its own."""
    code = f"from setuptools import build_meta; print(build_meta.{kind}({str(target)!r}))"
    assert hasattr(build_meta, kind)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=sources, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_the_wheel_holds_every_module_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "cberl_jax").rglob("*.py")}
    assert names == modules and f"-{__version__}-" in wheel.name


def test_the_installed_wheel_trains_and_predicts_without_the_sources(
    wheel, program_environment, tmp_path
):
    site, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    environment = program_environment | {"PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-c", TRAINS],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site))


def test_every_locked_package_has_a_hash_and_a_licence():
    lock = (ROOT / "requirements.lock").read_text()
    blocks = [b for b in re.split(r"\n(?=\S)", lock.strip()) if not b.startswith("#")]
    locked = {}
    for block in blocks:
        name, version = re.match(r"([\w.-]+)==([\w.]+)", block).groups()
        assert "--hash=sha256:" in block, name
        locked[normal(name)] = version
    table = (ROOT / "docs" / "dependencies.md").read_text()
    told = dict(re.findall(r"^\| ([\w.-]+) +\| (\d[\w.]*) +\| [^|]*\w[^|]*\|$", table, re.M))
    assert {normal(name): version for name, version in told.items()} == locked


def normal(name):
    """A package's name as the index knows it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_nothing_here_names_an_index():
    for name in ("requirements.lock", "setup.cfg", "pyproject.toml", "Makefile"):
        assert "http" not in (ROOT / name).read_text(), name
