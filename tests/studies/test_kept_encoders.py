"""The runs that studies leave keep the encoders of their features, as a training does."""

import dataclasses

import numpy as np
import pytest
from tiny import NO_PARTS, tiny_config, tiny_corpus

import cberl_jax as cberl
from cberl_jax.features.kept import hash_weights

SETTINGS = {"train.epochs": 1} | NO_PARTS
HOW = {"pictures": False, "say": lambda line: None}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A corpus with two views of text, the folders of their encoders, and one of neither."""
    monkeypatch.chdir(tmp_path)
    corpus, made = tiny_corpus(), {}
    for name in ("mini", "large", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(name.encode())
        weights = hash_weights(name)
        made[f"text.{name}"] = {
            "encoder": name, "weights": weights, "pooling": "mean", "context": None
        }  # fmt: skip
    del made["text.other"]
    text = corpus.features["text"]
    # The second view is noise, so that the best point is known.
    views = {
        "text.mini": text,
        "text.large": np.random.default_rng(0).normal(size=text.shape).astype(np.float32),
    }
    dataclasses.replace(
        corpus,
        features=views,
        present={name: corpus.present["text"] for name in views},
        provenance=made,
    ).save("corpus.npz")
    return tmp_path


def sweep(encoders, views=("text.mini", "text.large")):
    grid = {"data.views": list(views)}
    options = {"workdir": "sweep", "seeds": 2, "encoders": encoders, "settings": SETTINGS}
    return cberl.sweep("corpus.npz", tiny_config(), grid=grid, **options, **HOW)


def ablate(encoders, views="text.mini"):
    options = {"workdir": "parts", "variants": ["full"], "encoders": encoders}
    settings = SETTINGS | {"data.views": views}
    return cberl.ablate("corpus.npz", tiny_config(), settings=settings, **options, **HOW)


def search(encoders, views=("text.mini", "text.large")):
    pytest.importorskip("optuna", reason="needs pip install 'cberl-jax[search]'")
    space = {"data.views": list(views), "loss.gamma": (0.0, 2.0)}
    options = {"trials": 4, "batch": 2, "seeds": 1, "best_seeds": 1, "space": space}
    options |= {"workdir": "search", "encoders": encoders, "settings": SETTINGS}
    return cberl.search("corpus.npz", tiny_config(), **options, **HOW)


def kept(path):
    return {own.name: (own / "model.safetensors").read_text() for own in path.glob("encoders/*")}


@pytest.mark.parametrize("study", [sweep, ablate, search])
def test_wrong_encoders_are_refused_before_anything_is_trained(folder, study):
    (folder / "program").mkdir()
    (folder / "program" / "model.safetensors").write_bytes(b"mini")
    (folder / "program" / "model.py").write_text("")
    for name, message in (
        ("other", "other: its weights made none of the run's features"),
        ("none", "none: is no folder"),
        ("program", "program/model.py: is or names a program"),
        ("", "the encoder is empty"),
    ):
        with pytest.raises(cberl.UserError, match=message):
            study(["mini", name])
    assert not list(folder.rglob("chunks"))


def test_an_encoder_of_a_view_that_no_point_sees_is_refused(folder):
    with pytest.raises(cberl.UserError, match="large: its weights made none of the run's"):
        sweep(["mini", "large"], ["text.mini"])
    with pytest.raises(cberl.UserError, match="large: its weights made none of the run's"):
        ablate(["mini", "large"])


@pytest.mark.slow
def test_a_sweeps_best_run_keeps_the_encoders_of_its_own_features(folder):
    report = sweep(["mini", "large"])
    assert report["best"] == {"data.views": "text.mini"}
    assert kept(folder / "sweep" / "best") == {"text.mini": "mini"}


@pytest.mark.slow
def test_the_reference_of_an_ablation_and_the_winner_of_a_search_keep_them(folder):
    ablate([])
    assert not kept(folder / "parts" / "reference")
    # The same study started again adds them.
    ablate(["mini"])
    assert kept(folder / "parts" / "reference") == {"text.mini": "mini"}
    name = search(["mini", "large"])["best"]["data.views"]
    assert kept(folder / "search" / "best") == {name: name.removeprefix("text.")}
