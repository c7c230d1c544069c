"""Cross-fitting: folds of whole dialogues, encoders that did not see them, one common space."""

import numpy as np
import pytest
from encoders import needs_encoder, write_encoder
from scipy.stats import ortho_group

from cberl_jax.data.readers.transcripts import read_transcripts
from cberl_jax.errors import UserError
from cberl_jax.features.context import Context
from cberl_jax.features.crossfit import align, align_folds, combine, fold_of
from cberl_jax.features.extract import Sources, extract
from cberl_jax.features.tuning import Tuning

HEAD = "dialogue,speaker,text,split,label"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = ["good day", "bad night", "yes", "no never", "the cat sat", "we were on a break"]
    lines = [HEAD]
    for split, count in (("train", 7), ("dev", 2), ("test", 2)):
        for d in range(count):
            for t in range(3):
                n = (d * 3 + t) % 6
                lines.append(f"{split}{d},A,{texts[n]},{split},{('joy', 'fear')[n % 2]}")
    (tmp_path / "conv.csv").write_text("\n".join(lines))
    return tmp_path


def test_a_rotated_and_shifted_space_is_brought_back():
    random = np.random.default_rng(0)
    wanted = random.normal(size=(40, 6)) + 3
    turned = (wanted - 1) @ ortho_group.rvs(6, random_state=0) + random.normal(size=6)
    way = align(turned[:25], wanted[:25])
    np.testing.assert_allclose(way.apply(turned), wanted, atol=1e-4)
    np.testing.assert_allclose(way.rotation @ way.rotation.T, np.eye(6), atol=1e-5)
    # Of what is no rotation, distances remain.
    other = align(random.normal(size=(25, 6)), wanted[:25])
    distance = np.linalg.norm(other.apply(turned[0]) - other.apply(turned[1]))
    assert distance == pytest.approx(np.linalg.norm(turned[0] - turned[1]), rel=1e-4)


def test_the_ways_are_fitted_on_what_both_encoders_saw_and_rows_come_out_of_fold():
    random, fold = np.random.default_rng(0), np.array([0, 0, 1, 1, 2, 2] * 5 + [-1] * 4)
    base = random.normal(size=(34, 4)).astype("f4")
    turn = ortho_group.rvs(4, random_state=1)
    features = [base, base @ turn, base.copy()]
    # What an encoder gives for text that it did not see plays no part in the fit.
    features[1][fold == 0] += 100
    ways = align_folds(features, lambda k: np.flatnonzero((fold >= 0) & (fold != k)))
    features[1][fold == 0] -= 100
    assert ways[0] is None
    features[1][33] = np.nan
    together = combine(features, ways, fold)
    np.testing.assert_allclose(together[:33], base[:33], atol=1e-4)
    assert np.isnan(together[33]).all()
    marked = [np.full((34, 4), float(k)) for k in range(3)]
    np.testing.assert_allclose(combine(marked, [None] * 3, fold)[:, 0], [*fold[:30], 1, 1, 1, 1])


def test_folds_are_whole_dialogues_of_train(folder):
    transcript = read_transcripts(["conv.csv"])
    fold = fold_of(transcript, 3, seed=1)
    train = transcript.in_split("train")
    assert (fold[~train] == -1).all() and set(fold[train]) == {0, 1, 2}
    own = fold[train].reshape(7, 3)
    assert (own == own[:, :1]).all() and np.bincount(own[:, 0]).max() == 3
    with pytest.raises(UserError, match="--crossfit=9 needs as many train dialogues, and .* 7"):
        fold_of(transcript, 9)


@needs_encoder
def test_train_features_do_not_depend_on_their_own_labels(folder):
    """With labels of one fold's dialogues exchanged, the encoder of that fold stays the same."""
    encoder = str(write_encoder(folder / "encoder"))
    tuning = Tuning(2, 1e-3, precision="float32", crossfit=3)
    given = Sources(
        ["conv.csv"],
        text_encoder=encoder,
        timing="",
        tuned="a",
        tuning=tuning,
        context=Context(1, 0, 20, True),
    )
    first = extract(given, "a.npz", str)
    fold = fold_of(read_transcripts(["conv.csv"]), 3)
    # Encoder 0 sets the space; its features of its own fold are a function of the others' labels.
    own = sorted({int(n) // 3 for n in np.flatnonzero(fold == 0)})
    table = (folder / "conv.csv").read_text()
    lines = [
        line.replace(",joy", ",?").replace(",fear", ",joy").replace(",?", ",fear")
        if any(line.startswith(f"train{d},") for d in own)
        else line
        for line in table.split("\n")
    ]
    (folder / "conv.csv").write_text("\n".join(lines))
    np.testing.assert_array_equal(fold_of(read_transcripts(["conv.csv"]), 3), fold)
    second = extract(given._replace(tuned="b"), "b.npz", str)
    same, there = fold == 0, first.features["text"]
    np.testing.assert_allclose(there[same], second.features["text"][same], atol=1e-5)
    assert not np.allclose(there[fold < 0], second.features["text"][fold < 0], atol=1e-4)
    assert first.provenance["text"]["crossfit"] == 3
    # The folder gives the same features of the same transcript, and means of another one.
    (folder / "conv.csv").write_text(table)
    again = extract(given._replace(text_encoder="a", tuned="", context=None), "c.npz", str)
    np.testing.assert_allclose(again.features["text"], there, atol=1e-5)
    (folder / "conv.csv").write_text("\n".join(lines))
    said = []
    extract(given._replace(text_encoder="a", tuned="", context=None), "d.npz", said.append)
    assert any("was cross-fitted on another transcript" in line for line in said)
