"""Views of a modality: their names, their choice, their statistics, and how they are joined."""

import dataclasses

import numpy as np
import pytest

from cberl_jax.config.views import find_unclear, group_views, modality_of, views_left_out
from cberl_jax.data.corpus import Corpus, describe, fingerprint
from cberl_jax.data.dataset import create_table, find_neighbours
from cberl_jax.data.notices import notices
from cberl_jax.data.readers.load import load_corpus
from cberl_jax.data.readers.tables import convert_table
from cberl_jax.data.standardize import (
    empty_standardiser,
    fit_standardiser,
    model_widths,
    standardised_widths,
)
from cberl_jax.data.subset import select_modalities, select_views
from cberl_jax.errors import UserError

RANDOM = np.random.default_rng(0)
TURNS = {
    "dialogue": np.repeat(list("abcdef"), 10),
    "speaker": np.tile(["A", "B"], 30),
    "label": np.tile(["calm", "glad"], 30),
    "split": np.repeat(["train", "train", "train", "train", "dev", "test"], 10),
}
A = RANDOM.normal(3, 2, (60, 5)).astype(np.float32)
B = RANDOM.normal(-1, 9, (60, 2)).astype(np.float32)
AUDIO = RANDOM.normal(size=(60, 3)).astype(np.float32)
LACKS_B = np.arange(60) % 4 == 0
LACKS_BOTH = np.arange(60) % 8 == 0


def rows(values, absent):
    return np.where(absent[:, None], np.nan, values).astype(np.float32)


def viewed() -> Corpus:
    """Text in two views, of which an utterance may lack one or both, and audio."""
    features = {"text.b": rows(B, LACKS_B), "audio": AUDIO, "text.a": rows(A, LACKS_BOTH)}
    return Corpus.from_frame(TURNS, features)


CORPUS = viewed()


def test_the_modality_stands_before_the_dot():
    assert [modality_of(name) for name in ("text", "text.a", "visual.clip-b")] == [
        *("text", "text", "visual")
    ]
    names = ("text.b", "audio", "text.a")
    assert group_views(names) == {"text": ["text.a", "text.b"], "audio": ["audio"]}
    assert find_unclear(names) is None and find_unclear([*names, "text"]) == ("text", "text.a")
    assert CORPUS.modalities == ("text", "audio")
    assert CORPUS.widths == {"text.b": 2, "audio": 3, "text.a": 5}


def test_the_setting_chooses_among_the_views_of_the_modalities_that_it_names():
    assert select_views(CORPUS, "") is CORPUS
    assert list(select_views(CORPUS, "text.a").features) == ["audio", "text.a"]
    assert list(select_views(CORPUS, " text.a , text.b").features) == list(CORPUS.features)
    assert list(select_modalities(CORPUS, "text").features) == ["text.b", "text.a"]
    names = ("text.a", "text.c", "text", "visual.x")
    assert [name for name in names if views_left_out(name, "text.a")] == ["text.c"]
    message = "frame: has no view 'text.c', only text.b, audio, text.a"
    with pytest.raises(UserError, match=message):
        select_views(CORPUS, "text.a,text.c")
    with pytest.raises(UserError, match="data.text_layers=views keeps text layers apart"):
        select_views(CORPUS, "text.roberta1")
    with pytest.raises(UserError, match="has no modality 'text.a', only text, audio"):
        select_modalities(CORPUS, "text.a")


def test_each_view_is_standardised_as_if_it_were_alone():
    joined = fit_standardiser(CORPUS)(CORPUS.features, CORPUS.present)
    assert {m: x.shape for m, x in joined.items()} == {"text": (60, 7), "audio": (60, 3)}
    for view, columns in (("text.a", slice(0, 5)), ("text.b", slice(5, 7))):
        one = dataclasses.replace(
            CORPUS,
            features={"text": CORPUS.features[view]},
            present={"text": CORPUS.present[view]},
        )
        alone = fit_standardiser(one)(one.features, one.present)["text"]
        np.testing.assert_array_equal(joined["text"][:, columns], alone)
    seen = joined["text"][CORPUS.in_split("train") & ~LACKS_B]
    np.testing.assert_allclose(seen[:, 5:].std(axis=0), 1, atol=1e-5)


def test_an_absent_view_is_zero_and_the_modality_is_there_while_any_view_is():
    table = create_table(CORPUS, fit_standardiser(CORPUS))
    np.testing.assert_array_equal(table.present["text"], ~LACKS_BOTH)
    assert not table.features["text"][LACKS_B, 5:].any()
    assert table.features["text"][LACKS_B & ~LACKS_BOTH, :5].all()
    assert not table.features["text"][LACKS_BOTH].any()
    assert table.present["audio"].all()


def test_the_order_of_the_file_does_not_count():
    turned = dataclasses.replace(CORPUS, features=dict(reversed(CORPUS.features.items())))
    for components in (0, 1):
        one, other = (
            create_table(corpus, fit_standardiser(corpus, components)).features["text"]
            for corpus in (CORPUS, turned)
        )
        np.testing.assert_array_equal(one, other)


def test_components_are_kept_of_each_view():
    widths = CORPUS.widths
    assert standardised_widths(widths, 3) == {"text.b": 2, "audio": 3, "text.a": 3}
    assert model_widths(widths, 3) == {"text": 5, "audio": 3}
    assert model_widths(widths, 0) == {"text": 7, "audio": 3}
    fitted, empty = fit_standardiser(CORPUS, 3), empty_standardiser(widths, 3)
    assert fitted.axes.keys() == empty.axes.keys() == {"text.a"}
    assert fitted.axes["text.a"].shape == empty.axes["text.a"].shape == (5, 3)
    text = fitted(CORPUS.features, CORPUS.present)["text"]
    seen = text[CORPUS.in_split("train") & ~LACKS_BOTH, :3].astype(np.float64)
    np.testing.assert_allclose(np.cov(seen.T), np.eye(3), atol=1e-5)


def test_smote_moves_between_utterances_of_the_same_views():
    standardiser = fit_standardiser(CORPUS)
    place = np.flatnonzero(CORPUS.in_split("train") & (CORPUS.label >= 0))
    near = find_neighbours(CORPUS, create_table(CORPUS, standardiser), place, 3)
    np.testing.assert_array_equal(LACKS_B[near], np.repeat(LACKS_B[place, None], 3, axis=1))


def test_a_corpus_of_views_goes_through_a_file(tmp_path):
    CORPUS.save(tmp_path / "views.npz")
    with np.load(tmp_path / "views.npz") as file:
        held = {key for key in file.files if "." in key}
    names = ("features.text.a", "features.text.b", "features.audio")
    assert held == {*names, "present.text.a", "present.text.b"}
    again = load_corpus(tmp_path / "views.npz")
    assert fingerprint(again) == fingerprint(CORPUS)
    assert fingerprint(select_views(again, "text.a")) != fingerprint(CORPUS)
    said = describe(again)
    assert "text.b: 2 wide, absent in 25.0 % of the utterances" in said
    assert "missing modalities: visual" in said


def test_a_table_has_views_by_their_names(tmp_path):
    lines = [",".join(map(str, row)) for row in zip(*TURNS.values())]
    (tmp_path / "turns.csv").write_text("\n".join([",".join(TURNS), *lines]))
    np.save(tmp_path / "a.npy", A)
    np.save(tmp_path / "b.npy", rows(B, LACKS_B))
    files = {"text.a": tmp_path / "a.npy", "text.b": tmp_path / "b.npy"}
    corpus = convert_table(tmp_path / "turns.csv", files, tmp_path / "out.npz")
    assert corpus.widths == load_corpus(tmp_path / "out.npz").widths == {"text.a": 5, "text.b": 2}
    np.testing.assert_array_equal(corpus.present["text.b"], ~LACKS_B)


@pytest.mark.parametrize(
    "names, message",
    [
        (("text", "text.a"), "holds both text and text.a; which of them is the text"),
        (("text.a.b", "audio"), "'text.a.b' cannot name a modality; use up to 64 letters"),
        (("text.", "audio"), "'text.' cannot name a modality"),
        (("roberta1", "text.roberta1"), "holds both roberta1 and text.roberta1, which are one"),
    ],
)
def test_names_that_say_too_little_or_too_much_are_refused(names, message):
    with pytest.raises(UserError, match=message):
        Corpus.from_frame(TURNS, dict.fromkeys(names, A))


def test_notices_name_the_view():
    constant = np.column_stack([B, np.ones(60)])
    corpus = Corpus.from_frame(TURNS, {"text.a": A, "text.b": constant})
    (line,) = [line for line in notices(corpus) if "constant" in line]
    assert "text.b" in line
