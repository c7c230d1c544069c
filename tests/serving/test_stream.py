"""Live use: a stream's numbers are those of the whole conversation, and nothing compiles twice."""

import numpy as np
import pytest
from tiny import NO_PARTS, tiny_config

import cberl_jax as cberl
from cberl_jax.data.readers.npz import write_npz
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.errors import UserError
from cberl_jax.models.cberl import CBERL
from cberl_jax.serving import stream as streams

BARE = {"augment.method": "none", "model.reconstruction": False, "train.epochs": 1}
PARTS = {
    "whole": {"model.layers": 2, "model.past": 2},
    "no graph": {"model.graph": False, "model.djvae": False, "model.residual_turns": 3},
    "no LSTM": {"model.bilstm": False, "model.djvae": False, "model.residual_turns": 2},
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "corpus.npz"
    write_npz(simulate_corpus(create_process(), SimulatedSize(12, 4, 4, 4, 4), seed=0), path)
    return path


@pytest.fixture(scope="module", params=PARTS)
def model(request, path):
    settings = {"model.causal": True, "optim.learning_rate": 0.02} | BARE | PARTS[request.param]
    return cberl.train(path, tiny_config(), seeds=2, settings=settings).model()


def conversation(turns, seed):
    """Turns of three speakers, whose modalities are absent now and then."""
    generator = np.random.default_rng(seed)
    corpus = simulate_corpus(create_process(), SimulatedSize(1, 1, 1, turns, turns), seed)
    return [
        {
            "speaker": str(generator.choice(["A", "B", "C"])),
            "features": {
                m: x[n] if generator.random() < 0.8 else None for m, x in corpus.features.items()
            },
        }
        for n in range(turns)
    ]


def test_a_stream_gives_the_numbers_of_the_whole_conversation(model):
    # Longer than the window, and more than one at a time.
    turns, others = conversation(12, seed=1), conversation(12, seed=2)
    whole = model.predictions([turns, others]).members
    streams = model.stream(), model.stream()
    for number, pair in enumerate(zip(turns, others)):
        for place, (stream, turn) in enumerate(zip(streams, pair)):
            members = whole[:, 12 * place + number]
            emotion = stream.push(turn)
            assert tuple(emotion.probabilities) == model.classes
            found = list(emotion.probabilities.values())
            np.testing.assert_allclose(found, members.mean(axis=0), atol=1e-5)
            assert emotion.label == model.classes[int(np.argmax(found))]
            spread = list(emotion.spread.values())
            np.testing.assert_allclose(spread, members.std(axis=0, ddof=1), atol=1e-5)


def test_what_was_said_before_matters(model):
    first, second = conversation(6, seed=3), conversation(6, seed=4)
    alone, after = model.stream(), model.stream()
    for turn in first:
        after.push(turn)
    gap = [
        abs(alone.push(turn).probabilities["neutral"] - after.push(turn).probabilities["neutral"])
        for turn in second
    ]
    # Without an LSTM that is so as far as the window reaches.
    assert max(gap) > 1e-4


def test_all_turns_share_one_program(model, monkeypatch):
    traced = []
    call = CBERL.__call__

    def counted(self, *arguments):
        traced.append(1)
        return call(self, *arguments)

    monkeypatch.setattr(CBERL, "__call__", counted)
    # The model has been compiled before.
    streams._step.clear_cache()
    stream = model.stream()
    for turn in conversation(8, seed=5):
        stream.push(turn)
    assert len(traced) == 1


def test_a_turn_with_a_mistake_changes_nothing(model):
    turns = conversation(4, seed=6)
    stream, other = model.stream(), model.stream()
    for turn in turns[:3]:
        stream.push(turn)
        other.push(turn)
    wrong = {"speaker": "Z", "features": {"text": [1.0, 2.0]}}
    with pytest.raises(UserError, match="turn 3 of the stream.*text"):
        stream.push(wrong)
    assert stream.push(turns[3]) == other.push(turns[3])


def test_a_model_that_sees_the_future_has_no_stream(path):
    settings = NO_PARTS | {"train.epochs": 1}
    run = cberl.train(path, tiny_config(), settings=settings)
    with pytest.raises(UserError, match="train one with --causal"):
        run.model().stream()
