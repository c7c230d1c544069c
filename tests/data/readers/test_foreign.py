"""Files of another kind: one sentence that says what a file is and what to do instead."""

import io
import pickle
import zipfile

import numpy as np
import pytest
from layouts import own

from cberl_jax.data.readers.load import load_conversations, load_corpus
from cberl_jax.errors import UserError


def archive(**members) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name, content in members.items():
            made.writestr(name.replace("__", "/"), content)
    return file.getvalue()


PICKLE = pickle.dumps(tuple(own()), 2)
FILES = {
    "a web page": (b"<!DOCTYPE html><html></html>", "is a web page, not data; the download failed"),
    "a page after a blank line": (b"\n\n<html lang='en'>", "is a web page"),
    "a page after a mark": (b"\xef\xbb\xbf<!doctype HTML>", "is a web page"),
    "an error in XML": (b"<?xml version='1.0'?><Error/>", "is a web page"),
    "a zip of a pickle": (
        archive(**{"IEMOCAP_features.pkl": PICKLE}),
        "is a zip that holds 'IEMOCAP_features.pkl'; unzip it and name that file",
    ),
    "a zip of a folder": (
        archive(**{"data__readme.txt": b"", "data__c.pickle": PICKLE}),
        "is a zip that holds 'data/c.pickle'; unzip it",
    ),
    "a zip of an archive": (archive(**{"c.npz": b""}), "is a zip that holds 'c.npz'"),
    "torch.save": (
        archive(archive__version=b"3", **{"archive__data.pkl": PICKLE}),
        "was written by torch.save; write arrays (tensor.numpy())",
    ),
    "torch.save of old": (
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
        "was written by torch.save",
    ),
    "a spreadsheet": (
        archive(**{"[Content_Types].xml": b"", "xl__workbook.xml": b""}),
        "is an Office document; save its table as CSV",
    ),
    "a zip of text": (archive(**{"notes.txt": b""}), "is a zip of other files ('notes.txt')"),
    "a git-lfs pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "is a pointer that git-lfs left; fetch the file by git lfs pull",
    ),
    "a program": (b'r"""Settings."""\n\nimport os\n', "is a Python program, not data; a file of"),
    "another program": (b"from cberl_jax import cli\n", "is a Python program"),
    "sound": (b"RIFF\x24\x08\x00\x00WAVEfmt ", "is sound or video"),
}


@pytest.mark.parametrize("case", FILES)
def test_another_kind_of_file_is_named(tmp_path, case):
    content, part = FILES[case]
    path = tmp_path / "corpus"
    path.write_bytes(content)
    for load in (load_corpus, load_conversations):
        with pytest.raises(UserError) as error:
            load(path)
        assert str(error.value).startswith(f"{path}: {part}") and "\n" not in str(error.value)


def test_a_program_is_known_by_its_ending_too(tmp_path):
    (tmp_path / "meld.py").write_text("x = 1\n")
    with pytest.raises(UserError, match="meld.py: is a Python program, not data"):
        load_corpus(tmp_path / "meld.py")


def test_tensors_in_a_pickle_are_refused_with_the_way_out(tmp_path):
    stream = b"\x80\x02}q\x00(X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n)Ru."
    (tmp_path / "c.pkl").write_bytes(stream)
    with pytest.raises(UserError) as error:
        load_corpus(tmp_path / "c.pkl")
    assert "'torch._utils._rebuild_tensor_v2' (save tensors as arrays, by tensor.numpy())" in str(
        error.value
    )


def test_a_sound_pickle_and_archive_are_none_of_them(tmp_path):
    (tmp_path / "c.pkl").write_bytes(PICKLE)
    corpus = load_corpus(tmp_path / "c.pkl")
    np.savez(
        tmp_path / "c.npz",
        classes=np.array(corpus.classes),
        dialogue=corpus.dialogue,
        split=corpus.split,
        length=corpus.length,
        speaker=corpus.speaker,
        label=corpus.label,
        **{f"features.{name}": array for name, array in corpus.features.items()},
    )
    assert len(load_corpus(tmp_path / "c.npz").label) == len(corpus.label)
