"""The console script: what it lists, how quickly, what it refuses, and what runs behind it."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import TINY

from cberl_jax.commands import COMMANDS, find
from cberl_jax.config.presets import CONFIGS, read_config
from cberl_jax.config.settings import SETTINGS, flatten
from cberl_jax.errors import UserError
from cberl_jax.version import __version__

ROOT = Path(__file__).parents[2]
PROGRAMS = {path.stem.replace("_", "-"): path for path in (ROOT / "experiments").glob("*.py")}
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def cberl(*arguments, folder=ROOT):
    command = [sys.executable, "-m", "cberl_jax", *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )


def test_the_help_lists_every_command_with_the_first_line_of_its_own():
    printed = cberl("--help").stdout
    listed = dict(re.findall(r"^  ([a-z-]+)  +(\S.*)$", printed, re.M))
    assert tuple(listed) == COMMANDS
    for name, line in listed.items():
        assert find(name).__doc__.startswith(line + "\n")
    assert max(map(len, printed.splitlines())) <= 80


def test_the_help_needs_no_jax_and_little_time():
    script = (
        "import sys, time; sys.argv = ['cberl', '--help']; from cberl_jax.__main__ import main; "
        "main(); assert not {'jax', 'numpy', 'ml_collections'} & set(sys.modules); "
        "print(time.process_time(), file=sys.stderr)"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Of the processor, start of Python included: other processes may have the cores.
    assert float(done.stderr) < 0.3


def test_importing_the_commands_defines_no_flag():
    script = (
        "from absl import app, flags; before = set(flags.FLAGS); from cberl_jax import commands; "
        "[commands.find(name) for name in commands.COMMANDS]; print(set(flags.FLAGS) - before)"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["trian"], "there is no command 'trian'; the nearest is 'train'"),
        (["gan_report"], "there is no command 'gan_report'; the nearest is 'gan-report'"),
        (["--workdir=run"], "there is no command '--workdir=run'"),
        ([], "name a command: train, sweep,"),
    ],
)
def test_what_is_no_command_is_refused(arguments, message):
    done = cberl(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1


def test_every_command_has_a_program_that_says_the_same():
    assert PROGRAMS.keys() == set(COMMANDS)
    for name in COMMANDS:
        program = PROGRAMS[name].read_text()
        assert f'run("{name}", __doc__)' in program
        assert f"python experiments/{PROGRAMS[name].name} " in program
        assert f"cberl {name} " in find(name).__doc__


@pytest.mark.parametrize("name", ["train", "compare", "gan-report"])
def test_the_help_of_a_command_is_its_text_its_flags_and_the_settings(name):
    done = cberl(name, "--help")
    assert done.returncode == 0, done.stderr
    text, _, flags = done.stdout.partition("flags (those of absl: --helpfull):")
    assert text.strip() == find(name).__doc__.strip()
    wanted = {
        "train": {"config", "data", "workdir", "seeds", "fork", "[no]pictures", "coordinator"},
        "compare": {"metrics", "predictions", "output"},
        "gan-report": {"data", "workdir"},
    }[name]
    named = set(re.findall(r"^  --([\w\[\]]+):", flags, re.M))
    assert wanted <= named and (name == "train" or named == wanted)
    assert all((f"\n{setting} = " in flags) == (name == "train") for setting in SETTINGS)
    # The program's own text heads the program's help.
    command = [sys.executable, str(PROGRAMS[name]), "--help"]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith(flags)
    assert f"python experiments/{PROGRAMS[name].name}" in done.stdout


def test_the_version_is_printed():
    assert cberl("--version").stdout == f"{__version__}\n"


def test_help_that_is_not_read_to_its_end_is_no_fault():
    command = f"{sys.executable} -m cberl_jax train --help | head -1"
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.stderr == "" and done.stdout.startswith("Trains CBERL")


def test_a_preset_is_named_where_a_file_may_be(tmp_path):
    for name, create in CONFIGS.items():
        assert flatten(read_config(name)) == flatten(create())
        assert flatten(read_config(ROOT / f"experiments/configs/{name}.py")) == flatten(create())
    # An argument for get_config() follows a colon.
    file = tmp_path / "own.py"
    file.write_text(
        "from cberl_jax.config.presets import CONFIGS\n\n\ndef get_config(name='demo'):\n"
        "    return CONFIGS[name]()\n"
    )
    assert flatten(read_config(f"{file}:mosi")) == flatten(CONFIGS["mosi"]())
    assert flatten(read_config(file)) == flatten(CONFIGS["demo"]())
    with pytest.raises(UserError, match="neither a file nor one of the configs default"):
        read_config(tmp_path)


@pytest.mark.slow
def test_the_console_script_trains_under_a_preset_as_the_program_does(
    program_environment, tmp_path
):
    settings = TINY | {"gan.epochs": 1, "train.epochs": 1, "model.djvae": False}
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    flags += ["--config.model.reconstruction=False", "--nopictures"]
    written = []
    commands = {
        "console": ["-m", "cberl_jax", "train", "--config=demo"],
        "program": [str(PROGRAMS["train"]), "--config=experiments/configs/demo.py"],
    }
    for name, command in commands.items():
        done = subprocess.run(
            [sys.executable, *command, f"--workdir={tmp_path / name}", *flags],
            cwd=ROOT, env=program_environment | {"PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        files = ("config.json", "metrics.jsonl")
        written.append([(tmp_path / name / file).read_bytes() for file in files])
    assert written[0] == written[1]


def test_the_benchmark_says_that_the_wheel_has_no_reference(monkeypatch, tmp_path, capsys):
    benchmark = importlib.import_module("cberl_jax.commands.benchmark")
    assert benchmark.REFERENCE == ROOT / "benchmarks" / "torch_reference.py"
    assert benchmark.REFERENCE.is_file()
    monkeypatch.setattr(benchmark, "REFERENCE", tmp_path / "torch_reference.py")
    assert benchmark.find_reference() is None
    said = capsys.readouterr().out
    assert "benchmarks/torch_reference.py" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    "flag, causal", [(None, True), ("--nocausal", False), ("--causal=false", False)]
)
def test_a_short_flag_counts_whatever_the_config_says(tmp_path, flag, causal):
    config = tmp_path / "causal.py"
    config.write_text(
        "from cberl_jax.config.settings import default_config\n"
        "def get_config():\n"
        "    config = default_config()\n"
        "    config.model.causal = True\n"
        "    return config\n"
    )
    script = (
        "from cberl_jax import cli; from cberl_jax.commands import train; "
        "cli.run(lambda: print(cli.read_settings().model.causal), train.define_flags, '')"
    )
    command = [sys.executable, "-c", script, f"--config={config}", f"--workdir={tmp_path / 'run'}"]
    command += [flag] if flag else []
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.stdout == f"{causal}\n", done.stderr


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["export", "--workdir=run", "--output=out", "--format=folder", "--length=8"],
            "--length changes nothing with --format=folder",
        ),
        (
            ["sweep", "--config=demo", "--workdir=run", "--grid=loss.gamma=0,1", "--jobs=4"],
            "--jobs changes nothing without --slurm",
        ),
        (
            ["benchmark", "--config=demo", "--out=run", "--members=8"],
            "--members changes nothing without --target",
        ),
        (
            ["benchmark", "--config=demo", "--out=run", "--target=h100", "--repeats=3"],
            "--repeats changes nothing with --target, which runs nothing",
        ),
    ],
)
def test_flags_that_would_change_nothing_are_refused(tmp_path, arguments, message):
    done = cberl(*arguments, folder=tmp_path)
    assert done.returncode == 2 and message in done.stderr
    assert not (tmp_path / "run").exists()
