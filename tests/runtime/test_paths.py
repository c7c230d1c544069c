"""Where files go: the home folder, an empty path, a folder of something else."""

import re
from pathlib import Path

import pytest

from cberl_jax import cli
from cberl_jax.data.readers.load import read_corpus
from cberl_jax.errors import UserError
from cberl_jax.runtime.workdir import Workdir, check_unrelated

EXPERIMENTS = Path(__file__).parent.parent.parent / "experiments"
# Flags of text that hold no path.
NO_PATHS = {
    "part",
    "fold_by",
    "freeze",
    "audio_layer",
    "storage",
    "fix",
    "sampler",
    "classes",
    "timing",
    "coordinator",
    "metrics",
    "variants",
    "grid",
    "columns",
} | {
    "corpus",
    "splits",
    "bins",
}


def defined_flags():
    """Names of all flags of text that the programs define."""
    sources = [*EXPERIMENTS.glob("*.py"), Path(cli.__file__)]
    sources += (EXPERIMENTS.parent / "cberl_jax").glob("commands/*.py")
    kinds = r"DEFINE_(?:string|multi_string|list|config_file)\(\s*\"(\w+)\""
    return {name for source in sources for name in re.findall(kinds, source.read_text())}


def test_every_flag_of_text_is_known_to_hold_a_path_or_not():
    found = defined_flags()
    assert {"workdir", "data", "input"} <= found
    assert found <= cli.PATH_FLAGS | NO_PATHS


@pytest.mark.parametrize(
    "given, wanted",
    [
        ("--workdir=~/x", "--workdir=/home/me/x"),
        ("-workdir=~", "-workdir=/home/me"),
        ("--transcript=~/a.csv,b.csv,~/c.csv", "--transcript=/home/me/a.csv,b.csv,/home/me/c.csv"),
        ("--features=visual=~/v.npz", "--features=visual=/home/me/v.npz"),
        ("--config.data.path=~/x.npz", "--config.data.path=/home/me/x.npz"),
        ("--workdir=a~b/~c", "--workdir=a~b/~c"),
        ("--classes=~a", "--classes=~a"),
        ("--finetune=", "--finetune="),
        ("--timing=", "--timing="),
    ],
)
def test_arguments_with_a_home_folder(monkeypatch, given, wanted):
    monkeypatch.setenv("HOME", "/home/me")
    assert cli._expand_paths(given) == wanted


@pytest.mark.parametrize("name", ["workdir", "data", "output", "out", "fork"])
def test_an_empty_path_is_refused(name):
    with pytest.raises(UserError, match=f"--{name} is empty"):
        cli._expand_paths(f"--{name}=")


def test_python_expands_and_refuses_too(monkeypatch, tmp_path):
    import cberl_jax as cberl

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Workdir("~/run")
    assert (tmp_path / "run").is_dir() and not (tmp_path / "~").exists()
    assert cberl.Run("~/run").workdir == tmp_path / "run"
    corpus = read_corpus("simulated:small")
    corpus.save("~/small.npz")
    assert read_corpus("~/small.npz").dialogue.tolist() == corpus.dialogue.tolist()
    for call in (Workdir, cberl.Run, check_unrelated, corpus.save, read_corpus, cberl.load):
        with pytest.raises(UserError, match="is empty"):
            call("")
        with pytest.raises(UserError, match="a path.*, not int"):
            call(3)
    with pytest.raises(UserError, match="is empty"):
        cberl.train("simulated:small", workdir="")


def test_a_folder_of_something_else_is_refused_before_anything_is_written(tmp_path):
    import cberl_jax as cberl

    for name in ("thesis.tex", "photos", "a.txt", "b.txt"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=r"\(a.txt, b.txt, photos and 1 more\).*allow_unrelated"):
        check_unrelated(tmp_path)
    with pytest.raises(UserError, match="files that are of no run"):
        cberl.train("simulated:small", workdir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    # What is accepted comes as far as the corpus.
    with pytest.raises(UserError, match="missing.npz"):
        cberl.train(tmp_path / "missing.npz", workdir=tmp_path, allow_unrelated=True)


@pytest.mark.parametrize(
    "names",
    [
        (),
        (".lock", ".DS_Store"),
        ("slurm-12.out", "train.log"),
        ("metrics.jsonl", "checkpoints", "corpus.npz"),
        ("config.json", "notes.txt"),
    ],
)
def test_a_folder_of_a_run_hidden_files_and_logs_are_accepted(tmp_path, names):
    for name in names:
        (tmp_path / name).touch()
    check_unrelated(tmp_path)
    check_unrelated(tmp_path / "not" / "there")
