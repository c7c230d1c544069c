"""The canonical file: what is written is read, and every kind of wrong file is one sentence."""

import os

import numpy as np
import pytest
from readers import ARRAYS

from cberl_jax.data.corpus import Corpus, fingerprint
from cberl_jax.data.readers.load import load_corpus
from cberl_jax.data.readers.npz import read_npz, write_npz
from cberl_jax.errors import UserError


def arrays() -> dict[str, np.ndarray]:
    return {key: value for key, value in ARRAYS.items() if key != "present.text"} | {
        "utterance": np.array(["hi", "", "you’re", "well", "no"]),
        "features.audio": np.linspace(0, 1, 15, dtype=np.float32).reshape(5, 3),
        "present.audio": np.array([1, 1, 0, 1, 1], bool),
    }


def saved(path, **changes):
    """Writes the arrays above with some replaced, or left out where None."""
    held = {key: value for key, value in (arrays() | changes).items() if value is not None}
    np.savez_compressed(path, **held)
    return path


def message(path) -> str:
    with pytest.raises(UserError) as error:
        read_npz(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    return text.removeprefix(f"{path}: ")


def test_reads_every_key(tmp_path):
    corpus = read_npz(saved(tmp_path / "c.npz"))
    assert corpus.classes == ("calm", "glad")
    assert corpus.speaker.tolist() == ["Zoë", "M", "M", "李", "F"]
    assert corpus.utterance[2] == "you’re"
    assert corpus.label.dtype == corpus.length.dtype == np.int32
    assert corpus.modalities == ("text", "audio")
    np.testing.assert_array_equal(corpus.features["text"], arrays()["features.text"])
    assert all(array.dtype == np.float32 for array in corpus.features.values())
    np.testing.assert_array_equal(corpus.features["audio"][2], 0)
    assert corpus.present["text"].all() and not corpus.present["audio"][2]


def test_without_flags_a_row_of_nan_is_an_absent_modality(tmp_path):
    audio = arrays()["features.audio"]
    audio[3] = np.nan
    changes = {"features.audio": audio, "present.audio": None}
    corpus = read_npz(saved(tmp_path / "c.npz", **changes))
    assert corpus.present["audio"].tolist() == [True, True, True, False, True]
    assert not corpus.features["audio"][3].any()
    assert corpus.remarks == ("audio is nan in 1 of 5 utterances, which count as lacking it",)
    # Where the flags say that it is there, the two disagree.
    flagged = saved(tmp_path / "d.npz", **{"features.audio": audio})
    assert "feature 0 of audio at dialogue" in message(flagged)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
def test_reads_every_float_type_and_order(tmp_path, dtype):
    text = np.asfortranarray(np.arange(10).reshape(5, 2).astype(dtype))
    corpus = read_npz(saved(tmp_path / "c.npz", **{"features.text": text}))
    np.testing.assert_array_equal(corpus.features["text"], np.arange(10).reshape(5, 2))


def test_optional_keys_may_be_missing(tmp_path):
    path = saved(tmp_path / "c.npz", utterance=None, **{"present.audio": None})
    corpus = read_npz(path)
    assert corpus.utterance is None and corpus.present["audio"].all()


def test_what_is_written_is_read(tmp_path):
    corpus = read_npz(saved(tmp_path / "c.npz"))
    write_npz(corpus, tmp_path / "d.npz")
    assert fingerprint(read_npz(tmp_path / "d.npz")) == fingerprint(corpus)
    write_npz(corpus, tmp_path / "e.npz")
    assert (tmp_path / "d.npz").read_bytes() == (tmp_path / "e.npz").read_bytes()


def test_written_without_optional_keys(tmp_path):
    path = saved(tmp_path / "c.npz", utterance=None, **{"present.audio": None})
    write_npz(read_npz(path), path)
    assert set(np.load(path)) == set(arrays()) - {"utterance", "present.audio"}


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_truncated_file(tmp_path, share):
    data = saved(tmp_path / "c.npz").read_bytes()
    path = tmp_path / "t.npz"
    path.write_bytes(data[: int(share * len(data))])
    assert message(path).startswith("is not an .npz file, or is damaged")


def test_every_flipped_byte_is_an_error_or_harmless(tmp_path):
    """A damaged file may only raise UserError, or give the sound corpus (an unused byte)."""
    sound = saved(tmp_path / "c.npz").read_bytes()
    expected = fingerprint(read_npz(tmp_path / "c.npz"))
    path = tmp_path / "d.npz"
    refused = 0
    for position in range(0, len(sound), 29):
        damaged = bytearray(sound)
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        try:
            assert fingerprint(read_npz(path)) == expected
        except UserError:
            refused += 1
    assert refused > len(sound) / 58


@pytest.mark.parametrize("reader", [read_npz, load_corpus])
def test_unreadable_paths(tmp_path, reader):
    with pytest.raises(UserError, match="No such file"):
        reader(tmp_path / "none.npz")
    with pytest.raises(UserError, match="Is a directory"):
        reader(tmp_path)


def test_write_that_fails_midway_leaves_the_old_file(tmp_path, monkeypatch):
    corpus = read_npz(saved(tmp_path / "c.npz"))
    before = (tmp_path / "c.npz").read_bytes()

    def fail(file, **_):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(UserError, match=r"c.npz: cannot be written \(No space left on device\)"):
        write_npz(corpus, tmp_path / "c.npz")
    assert (tmp_path / "c.npz").read_bytes() == before
    assert os.listdir(tmp_path) == ["c.npz"]


def test_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    corpus = read_npz(saved(tmp_path / "c.npz"))
    before = (tmp_path / "c.npz").read_bytes()

    def interrupt(file, **_):
        file.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_npz(corpus, tmp_path / "c.npz")
    assert (tmp_path / "c.npz").read_bytes() == before
    assert os.listdir(tmp_path) == ["c.npz"]


@pytest.mark.parametrize("place", ["none/c.npz", "file/c.npz", "folder"])
def test_unwritable_paths(tmp_path, place):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    corpus: Corpus = read_npz(saved(tmp_path / "c.npz"))
    with pytest.raises(UserError, match="cannot be written"):
        write_npz(corpus, tmp_path / place)
    assert sorted(os.listdir(tmp_path)) == ["c.npz", "file", "folder"]
