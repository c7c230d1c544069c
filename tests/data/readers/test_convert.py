"""The convert program, run as a person runs it, and the error convention of all programs."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from layouts import SESSIONS, cycle, own, write

from cberl_jax.data.corpus import fingerprint
from cberl_jax.data.notices import describe_with_notices
from cberl_jax.data.readers.load import convert, load_corpus, read_corpus
from cberl_jax.errors import UserError

ROOT = Path(__file__).parents[3]


def run_program(*arguments) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "experiments" / "convert.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def write_pickle(path):
    """A tiny corpus in the layout with four text layers."""
    ids = [f"Ses0{k}F_impro" for k in range(6)]
    rows = ["u", "M", 5, *(np.full(4, k, np.float32) for k in range(4))]
    rows += [np.ones(3, np.float32), np.zeros(0, np.float32), "hello"]
    entries = [{key: [row, row] for key in ids} for row in rows]
    path.write_bytes(pickle.dumps((*entries, ids[:4], ids[4:]), protocol=2))
    return path


def test_program_writes_the_file_and_describes_it(tmp_path):
    source, target = write_pickle(tmp_path / "c.pkl"), tmp_path / "c.npz"
    done = run_program(f"--input={source}", f"--output={target}")
    assert (done.returncode, done.stderr) == (0, "")
    told = describe_with_notices(read_corpus(source))
    assert done.stdout == f"{told}\nwritten: {target}\n"
    assert "\n\nWorth a look:\n- the file has no dev split: 1 of 4 train dialogues" in done.stdout
    assert "missing modalities: visual" in done.stdout
    assert fingerprint(read_corpus(target)) == fingerprint(read_corpus(source))


def test_output_that_nobody_reads_on_ends_the_program_without_a_word(tmp_path):
    source = write_pickle(tmp_path / "c.pkl")
    command = [sys.executable, str(ROOT / "experiments" / "convert.py"), f"--input={source}"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [*command, f"--output={tmp_path / 'c.npz'}"],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=120,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
    assert len(load_corpus(tmp_path / "c.npz").dialogue) == 6


def test_options_of_the_program_name_what_the_file_does_not_say(tmp_path):
    label = cycle(-2.5, 0.5, 1.0)
    lists = [list(SESSIONS[::2]), list(SESSIONS[1::4]), list(SESSIONS[3::4])]
    source = write(tmp_path / "c.pkl", tuple(own(label=label, lists=lists)))
    target = tmp_path / "c.npz"
    files = (f"--input={source}", f"--output={target}")
    done = run_program(*files, "--splits=train,test,valid")
    assert done.returncode == 2 and "--bins=-3,0,3" in done.stderr
    options = ("--bins=-3,0,3", "--classes=negative,positive", "--splits=train,test,valid")
    done = run_program(*files, *options)
    assert (done.returncode, done.stderr) == (0, "")
    assert "dialogues in no split, left out: 0\n" in done.stdout
    corpus = read_corpus(target)
    assert corpus.classes == ("negative", "positive")
    assert [int(np.sum(corpus.split == s)) for s in ("train", "dev", "test")] == [10, 5, 5]
    assert corpus.dialogue[corpus.split == "dev"].tolist() == list(SESSIONS[3::4])


def test_conversion_keeps_the_text_layers_apart(tmp_path):
    source, target = write_pickle(tmp_path / "c.pkl"), tmp_path / "c.npz"
    corpus = convert(source, target)
    layers = [f"text.roberta{k}" for k in (1, 2, 3, 4)]
    assert list(corpus.features) == [*layers, "audio"] and corpus.modalities == ("text", "audio")
    assert list(load_corpus(target, "views").features) == [*layers, "audio"]
    np.testing.assert_array_equal(load_corpus(target).features["text"], 1.5)
    np.testing.assert_array_equal(load_corpus(target, "3").features["text"], 2)


def test_file_is_known_by_its_content_and_not_its_name(tmp_path):
    source, target = write_pickle(tmp_path / "misnamed.npz"), tmp_path / "misnamed.pkl"
    convert(source, target)
    assert fingerprint(load_corpus(target)) == fingerprint(load_corpus(source))


def test_conversion_in_place_replaces_the_file(tmp_path):
    path = write_pickle(tmp_path / "c.data")
    expected = fingerprint(read_corpus(path))
    convert(path, path)
    assert path.read_bytes()[:2] == b"PK"
    assert fingerprint(read_corpus(path)) == expected


def test_failed_conversion_leaves_the_target(tmp_path):
    (tmp_path / "c.pkl").write_text("no pickle")
    (tmp_path / "c.npz").write_text("old")
    with pytest.raises(UserError):
        convert(tmp_path / "c.pkl", tmp_path / "c.npz")
    assert (tmp_path / "c.npz").read_text() == "old"


@pytest.mark.parametrize(
    "arguments, part",
    [
        (
            ("--input=none.pkl", "--output=c.npz"),
            "error: none.pkl: cannot be read (No such file",
        ),
        (
            ("--inptu=none.pkl",),
            "error: Unknown command line flag 'inptu'. Did you mean: input",
        ),
        (
            ("--table=t.csv", "--output=c.npz", "--corpus=meld"),
            "error: --corpus: the labels of a --table are named by itself or by --classes; take",
        ),
        (
            ("--table=t.csv", "--output=c.npz", "--splits=train,test"),
            "error: --splits: the splits of a --table stand in its column split, or are drawn by",
        ),
        (
            ("--input=c.pkl", "--output=c.npz", "--features=text=text.npy"),
            "error: --features: only a --table has features in files of their own; take it away",
        ),
        ((), "error: flag --output=None: Flag --output must have a value other than None."),
        (
            ("--output=c.npz",),
            "error: name either a file by --input, or a table of your own by --table",
        ),
        (
            ("--input=a", "--output=b", "c"),
            "error: unexpected argument 'c'; flags start with --.",
        ),
    ],
)
def test_a_persons_mistake_is_one_sentence_and_status_2(arguments, part):
    done = run_program(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(part) and done.stderr.count("\n") == 1
