"""Every command of the README is run as it stands, but smaller; every link leads somewhere."""

import importlib.util
import json
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import TINY

from cberl_jax.data.readers.npz import write_npz
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text()
PARTS = ("djvae", "bilstm", "graph", "reconstruction")
# In place of a config of experiments/configs: parts that compile fast.
CONFIG = f"""
from cberl_jax.config.settings import default_config


def get_config():
    config = default_config()
    config.update_from_flattened_dict({
    TINY
    | {
        "train.epochs": 2,
        "augment.method": "none",
        **dict.fromkeys([f"model.{part}" for part in PARTS], False),
    }
})
    return config
"""
# What CI runs itself.
BY_CI = ("make demo", "make test")


def list_commands(text):
    """The commands in a text's fences and tables, continued lines joined, comments dropped."""
    fenced = "\n".join(re.findall(r"^```\n(.*?)^```", text, re.M | re.S)).replace("\\\n", " ")
    lines = [line.split("  #")[0] for line in fenced.splitlines()]
    quoted = re.findall(r"^\| `([^`]+)`", text, re.M)
    return [" ".join(line.split()) for line in [*lines, *quoted] if line.strip()]


def test_commands_are_found():
    commands = list_commands(README)
    programs = {path.name for path in (ROOT / "experiments").glob("*.py")}
    named = {Path(shlex.split(line)[1]).name for line in commands if line.startswith("python")}
    assert named <= programs
    # The others are in the documents that it links to.
    assert programs - named == {"baselines.py", "benchmark.py", "gan_report.py", "search.py"}
    assert [line for line in commands if not line.startswith("python")] == list(BY_CI)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a reader would be: programs, feature files, conversations, a transcript."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "experiments").symlink_to(ROOT / "experiments")
    (folder / "tiny.py").write_text(CONFIG)
    corpus = simulate_corpus(create_process(), SimulatedSize(12, 4, 4, 4, 4), seed=0)
    write_npz(corpus, folder / "meld.npz")
    turns = [
        {"speaker": speaker, "features": {m: [0.5] * w for m, w in corpus.widths.items()}}
        for speaker in ("Ross", "Rachel")
    ]
    line = json.dumps({"dialogue": "scene 1", "turns": turns})
    (folder / "conversations.jsonl").write_text(line + "\n")
    (folder / "IEMOCAP_features.pkl").write_bytes(pickle.dumps(iemocap_layout()))
    (folder / "conv.csv").write_text("dialogue,speaker,text\na,Ross,We were on a break!\n")
    return folder


def iemocap_layout():
    """The nine parts of an IEMOCAP pickle as MMGCN has it, with three short dialogues a split."""
    draw = np.random.default_rng(0)
    ids = {"train": ["Ses01_a", "Ses02_b", "Ses03_c", "Ses04_d"], "test": ["Ses05_e", "Ses05_f"]}
    names = [name for split in ids.values() for name in split]

    def each(width):
        return {name: [draw.normal(size=width) for _ in range(6)] for name in names}

    speakers = {name: ["M", "F"] * 3 for name in names}
    labels = {name: list(range(6)) for name in names}
    turns = {name: [f"{name}_{turn}" for turn in range(6)] for name in names}
    sentences = {name: ["Well."] * 6 for name in names}
    features = each(100), each(1582), each(342)
    return (turns, speakers, labels, *features, sentences, ids["train"], ids["test"])


def shrink(command):
    """The same command for a corpus and a model that take seconds."""
    words = [
        "--config=tiny.py" if word.startswith("--config=experiments/configs/") else word
        for word in shlex.split(command)[1:]
    ]
    words = [re.sub(r"^--seeds=\d+$", "--seeds=2", word) for word in words]
    if words[0].endswith("ablate.py"):
        words.append("--variants=full,gamma = 0")
    return [sys.executable, *words]


def run(words, folder, environment):
    environment = environment | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_every_command_runs(folder, program_environment):
    (program,) = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    assert 'config="meld", seeds=8' in program
    small = f"""
import sys
sys.path.insert(0, {str(folder)!r})
import tiny
{program.replace('config="meld", seeds=8', "config=tiny.get_config(), seeds=2")}
print(labels)
"""
    # First the runs that the commands speak of.
    printed = run([sys.executable, "-c", small], folder, program_environment)
    assert "weighted F1" in printed and "[array([" in printed
    shutil.copytree(folder / "runs" / "meld", folder / "runs" / "other")
    for command in list_commands(README):
        needs_extra = "extract.py" in command
        if command in BY_CI or needs_extra and not has_features():
            continue
        assert run(shrink(command), folder, program_environment), command
    for left in (
        *("iemocap.npz", "runs/iemocap/report.html", "runs/sweep/sweep.html"),
        *("runs/parts/ablation.html", "emotions.jsonl", "model.bin", "model.bin.md"),
    ):
        assert (folder / left).stat().st_size > 0, left
    assert (folder / "conv.npz").exists() == has_features()


def has_features():
    """Whether the extra ``features`` is installed."""
    return all(importlib.util.find_spec(name) for name in ("sentence_transformers", "opensmile"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    links = re.findall(r"\]\((?!http)([^)#]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []
    if document.name == "README.md":
        assert len(links) > 6


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_every_row_of_a_table_is_under_its_head(document):
    """A blank line would end the table, and the rows after it would be shown as text."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    for table in re.findall(r"^\|.*(?:\n\|.*)*", text, flags=re.MULTILINE):
        head, line, *rows = [re.sub(r"`[^`]*`", "", row) for row in table.split("\n")]
        assert re.fullmatch(r"\|( ?:?-+:? ?\|)+", line), table
        assert {row.count("|") for row in rows} <= {head.count("|")}, table


def test_lines_are_no_longer_than_a_page_is_wide():
    for document in DOCUMENTS:
        prose = [x for x in document.read_text().splitlines() if not x.startswith(("|", "!", " "))]
        assert max(map(len, prose)) <= 112, document


def test_ci_runs_what_is_left_to_it():
    script = (ROOT / ".ci" / "run").read_text()
    assert all(command in script for command in BY_CI)
