"""How features were made: kept in the file, in the run, and compared before a prediction."""

import dataclasses
import json

import numpy as np
import pytest
from tiny import NO_PARTS, QUIET, tiny_config, tiny_corpus

import cberl_jax as cberl
from cberl_jax.data.corpus import fingerprint
from cberl_jax.data.provenance import check_provenance
from cberl_jax.data.readers.npz import read_npz
from cberl_jax.errors import UserError
from cberl_jax.serving.model import load
from cberl_jax.studies.evaluate import evaluate_run
from cberl_jax.studies.train import train_and_evaluate
from cberl_jax.training.prepare import load_data

MADE = {
    "encoder": "runs/encoder", "weights": {"a.safetensors": "12"}, "context": {"past": 5},
    "crossfit": 0, "pooling": "mean",
}  # fmt: skip


@pytest.fixture
def corpus():
    return tiny_corpus()


def with_record(corpus, **changes):
    return dataclasses.replace(corpus, provenance={"text": MADE | changes})


def test_a_file_keeps_it_and_the_contents_stay_what_they_are(corpus, tmp_path):
    file = tmp_path / "a.npz"
    with_record(corpus).save(file)
    read = read_npz(file)
    assert read.provenance == {"text": MADE}
    corpus.save(file)
    assert "provenance" not in np.load(file)
    assert read_npz(file).provenance == {}
    assert fingerprint(read) == fingerprint(corpus) == fingerprint(read_npz(file))


@pytest.mark.parametrize(
    "held, message",
    [
        (np.array(["{}"]), "must be one string of JSON"),
        (np.array(3), "must be one string of JSON"),
        (np.array("{"), "'provenance' is not JSON"),
        (np.array("[" * 9000), "'provenance' is not JSON"),
        (np.array("[1]"), "has to hold a record per modality"),
        (np.array('{"text": 3}'), "has to hold a record per modality"),
    ],
)
def test_what_is_none_is_refused(corpus, tmp_path, held, message):
    corpus.save(tmp_path / "a.npz")
    arrays = dict(np.load(tmp_path / "a.npz"))
    np.savez(tmp_path / "b.npz", **arrays, provenance=held)
    with pytest.raises(UserError, match=f"b.npz: .*{message}"):
        read_npz(tmp_path / "b.npz")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"context": None}, r'context: null here, {"past": 5} there'),
        ({"pooling": "own"}, 'pooling: "own" here, "mean" there'),
        ({"crossfit": 5}, "crossfit: 5 here, 0 there"),
        ({"weights": {"a.safetensors": "13"}, "encoder": "b"}, 'weights: "b" here, "runs/enc'),
    ],
)
def test_features_that_were_made_otherwise_are_refused(corpus, changes, message):
    with pytest.raises(UserError, match=f"of 'text' were made otherwise .*{message}"):
        check_provenance(with_record(corpus, **changes), {"text": MADE})


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder": "elsewhere", "weights": {"b.safetensors": "12"}},
        {"weights": {"state": "99"}},
        {"transcript": "other", "version": "9"},
    ],
)
def test_what_does_not_decide_the_features_may_differ(corpus, changes):
    check_provenance(with_record(corpus, **changes), {"text": MADE})
    check_provenance(corpus, {"text": MADE})
    check_provenance(with_record(corpus), {"audio": MADE})


def test_another_dev_split_is_not_drawn_of_what_an_encoder_has_seen(corpus, tmp_path):
    with_record(corpus, tuning={"seed": 0}).save(tmp_path / "tuned.npz")
    config = tiny_config(**NO_PARTS)
    config.data.path, config.data.other_dev = str(tmp_path / "tuned.npz"), 1
    with pytest.raises(UserError, match="tuned.npz.*tuned on labels .* another dev split judges"):
        load_data(config)
    config.data.allow_seen = True
    other = load_data(config)
    assert not np.array_equal(other.split, corpus.split)
    config.data.allow_seen, config.data.other_dev = False, 0
    np.testing.assert_array_equal(load_data(config).split, corpus.split)


def test_a_run_keeps_it_and_does_not_predict_other_features(corpus, tmp_path):
    with_record(corpus).save(tmp_path / "made.npz")
    config = tiny_config(**NO_PARTS)
    config.data.path = str(tmp_path / "made.npz")
    train_and_evaluate(config, str(tmp_path / "run"), [0], QUIET, False)
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["provenance"] == {"text": MADE}
    model = load(tmp_path / "run")
    assert len(model.predict(with_record(corpus))) == len(model.predict(corpus))
    with pytest.raises(UserError, match="made otherwise than those of the run"):
        model.predict(with_record(corpus, context={"past": 8}))
    with_record(corpus, context={"past": 8}).save(tmp_path / "other.npz")
    with pytest.raises(UserError, match="other.npz.* made otherwise than those of the run"):
        evaluate_run(str(tmp_path / "run"), str(tmp_path / "other.npz"))
    corpus.save(tmp_path / "unknown.npz")
    known, unknown = (
        evaluate_run(str(tmp_path / "run"), data) for data in (None, str(tmp_path / "unknown.npz"))
    )
    assert known["test"] == unknown["test"]


def test_a_run_is_scored_again_on_its_own_corpus_alone(corpus, tmp_path):
    """Not on a copy that a failed start has left, and not on what its file has become."""
    noise = np.random.default_rng(0).normal(0, 3, corpus.features["text"].shape)
    noisy = {"text": (corpus.features["text"] + noise).astype(np.float32)}
    other = dataclasses.replace(corpus, features=corpus.features | noisy)
    run, path, config = tmp_path / "run", tmp_path / "own.npz", tiny_config(**NO_PARTS)
    with pytest.raises(UserError, match="is no folder"):
        cberl.train(other, config, workdir=run, encoders=[tmp_path / "missing"], say=print)
    corpus.save(path)
    report = cberl.train(path, config, workdir=run, pictures=False, say=print).report()
    assert evaluate_run(str(run))["test"] == report["test"]
    other.save(path)
    with pytest.raises(UserError, match="own.npz: has changed since the run .* by --data"):
        evaluate_run(str(run))
    assert evaluate_run(str(run), str(path))["test"] != report["test"]
