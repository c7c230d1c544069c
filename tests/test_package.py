"""The package as it is handed on: built, installed without its sources, its dependencies told."""

import configparser
import email
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from setuptools import build_meta

from cberl_jax.commands import COMMANDS
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
    for name in ("setup.cfg", "pyproject.toml", "DESCRIPTION.md", "LICENSE"):
        (sources / name).write_bytes((ROOT / name).read_bytes())
    for path in package_files():
        copy = sources / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    archive = folder / build(sources, folder, "build_sdist")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    unpacked = folder / archive.name.removesuffix(".tar.gz")
    return folder / build(unpacked, folder, "build_wheel")


def package_files():
    """The modules, and the mark that says that they are typed."""
    return [*(ROOT / "cberl_jax").rglob("*.py"), ROOT / "cberl_jax" / "py.typed"]


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
    assert names == {path.relative_to(ROOT).as_posix() for path in package_files()}
    assert f"-{__version__}-" in wheel.name


def read_metadata(wheel, name="METADATA"):
    with zipfile.ZipFile(wheel) as archive:
        (path,) = [x for x in archive.namelist() if x.endswith(f".dist-info/{name}")]
        return archive.read(path).decode()


def test_every_link_of_the_wheel_leads_to_the_paper(wheel):
    metadata = email.message_from_string(read_metadata(wheel))
    description = metadata.get_payload()
    assert description.strip() == (ROOT / "DESCRIPTION.md").read_text().strip()
    assert metadata["Description-Content-Type"] == "text/markdown"
    linked = re.findall(r"\]\(([^)]*)\)", description)
    projects = [url.split(", ")[1] for url in metadata.get_all("Project-URL")]
    # No place in the repository is named, since the index has none of its files.
    paper = read_citation()["preferred-citation"]
    known = {paper["url"], f"https://doi.org/{paper['doi']}"}
    assert (
        set(linked) == set(projects) == set(re.findall(r"https?://[^\s)]+", description)) == known
    )


def test_the_description_names_commands_that_there_are(wheel):
    scripts = configparser.ConfigParser()
    scripts.read_string(read_metadata(wheel, "entry_points.txt"))
    assert dict(scripts["console_scripts"]) == {"cberl": "cberl_jax.__main__:main"}
    named = re.findall(r"\bcberl ([a-z-]+) ", (ROOT / "DESCRIPTION.md").read_text())
    assert len(named) > 3 and set(named) <= set(COMMANDS)


def read_citation():
    return yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_the_citation_and_the_changes_are_of_this_version():
    citation = read_citation()
    assert citation["version"] == __version__ and citation["cff-version"] == "1.2.0"
    for cited in (citation, citation["preferred-citation"]):
        assert cited["title"] and cited["authors"] and cited["type"] in ("software", "article")
    released = re.findall(r"^## (\d[\d.]*) \(", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert released[0] == __version__ and released == sorted(released, reverse=True)


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_wheel_in_an_empty_environment_gives_the_console_script(
    wheel, program_environment, tmp_path
):
    home, work = tmp_path / "environment", tmp_path / "work"
    venv.create(home, with_pip=True)
    work.mkdir()
    # Only what the wheel itself asks for, in the versions that are tested.
    pins = re.findall(r"^[\w.-]+==[\w.]+", (ROOT / "requirements.lock").read_text(), re.M)
    (work / "pins.txt").write_text("\n".join(pins))
    environment = {k: v for k, v in program_environment.items() if k != "PYTHONPATH"}

    def call(program, *arguments, timeout):
        command = [str(home / "bin" / program), *map(str, arguments)]
        done = subprocess.run(
            command, cwd=work, env=environment, capture_output=True, text=True, timeout=timeout
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    options = ("--quiet", "--disable-pip-version-check", "--constraint", "pins.txt")
    call("pip", "install", *options, wheel, timeout=1200)
    place = call("python", "-c", "import cberl_jax; print(cberl_jax.__file__)", timeout=60)
    assert place.startswith(str(home))
    printed = call("cberl", "--help", timeout=60)
    assert all(f"\n  {name} " in printed for name in COMMANDS)
    flags = ("--config=demo", "--workdir=runs/demo", "--seeds=1", "--config.train.epochs=1")
    flags += ("--config.gan.epochs=1",)
    printed = call("cberl", "train", *flags, timeout=600)
    assert "macro F1" in printed
    assert (work / "runs" / "demo" / "report.html").stat().st_size > 0
    command = ("--workdir=runs/demo", "--input=simulated:small", "--output=emotions.jsonl")
    assert "emotions.jsonl: " in call("cberl", "predict", *command, timeout=600)


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
    for name in ("requirements.lock", "pyproject.toml", "Makefile"):
        assert "http" not in (ROOT / name).read_text(), name
    paper = read_citation()["preferred-citation"]
    urls = re.findall(r"https?://\S+", (ROOT / "setup.cfg").read_text())
    assert set(urls) == {paper["url"], f"https://doi.org/{paper['doi']}"}
