"""A model as an ONNX file gives the model's numbers under ONNX Runtime, which knows no jax.

jax2onnx needs an environment of its own (docs/prediction.md), where this test runs, too.
"""

import json

import numpy as np
import pytest
from tiny import tiny_config

import cberl_jax as cberl
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus

LENGTH = 9
PARTS = {
    "whole": {"model.layers": 2},
    # Attention over a row that is cut into blocks.
    "causal, blocks": {"model.causal": True, "model.past": 1, "data.components": 3},
}


@pytest.mark.slow
@pytest.mark.parametrize("parts, length", [("whole", LENGTH), ("causal, blocks", 70)])
@pytest.mark.filterwarnings("default")
def test_onnx_runtime_gives_the_models_numbers(parts, length, tmp_path):
    pytest.importorskip("jax2onnx", reason="jax2onnx is not installed")
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    settings = {"augment.method": "none", "train.epochs": 1, "optim.learning_rate": 0.02}
    corpus = simulate_corpus(create_process(), SimulatedSize(12, 4, 4, 4, 4), seed=0)
    run = cberl.train(
        corpus, tiny_config(), seeds=2, settings=settings | PARTS[parts], pictures=False
    )
    cberl.export(run, tmp_path / "model", format="folder")
    model = cberl.load(tmp_path / "model")
    meaning = cberl.export(tmp_path / "model", tmp_path / "m.onnx", length, format="onnx")
    assert json.loads((tmp_path / "m.onnx.json").read_text()) == meaning
    assert (tmp_path / "m.onnx.md").read_text() == (tmp_path / "model" / "README.md").read_text()

    session = runtime.InferenceSession(tmp_path / "m.onnx")
    told = session.get_modelmeta().custom_metadata_map
    assert {name: json.loads(value) for name, value in told.items()} == meaning
    assert meaning["classes"] == list(model.classes) and meaning["members"] == 2
    lengths = (1, length // 2, length)
    generator = np.random.default_rng(0)
    feed = {"turns": np.asarray(lengths, np.int32)}
    feed["speaker"] = generator.integers(0, 3, (3, length)).astype(np.int32)
    for name, width in model.widths.items():
        features = generator.normal(size=(3, length, width))
        feed[f"features.{name}"] = features.astype(np.float32)
        feed[f"present.{name}"] = generator.random((3, length)) < 0.8
    assert {own.name for own in session.get_inputs()} == feed.keys()
    (found,) = session.run(["probability"], feed)
    conversations = [
        [
            {
                "speaker": str(feed["speaker"][number, turn]),
                "features": {
                    m: feed[f"features.{m}"][number, turn]
                    if feed[f"present.{m}"][number, turn]
                    else None
                    for m in model.widths
                },
            }
            for turn in range(turns)
        ]
        for number, turns in enumerate(lengths)
    ]
    for own, expected in zip(found, model.predict_proba(conversations)):
        np.testing.assert_allclose(own[: len(expected)], expected, atol=1e-5)
    # As many conversations as one likes; each by itself gives what it gives among others.
    (alone,) = session.run(["probability"], {name: x[1:2] for name, x in feed.items()})
    np.testing.assert_array_equal(alone[0], found[1])
    assert np.ptp(found[2], axis=0).max() > 1e-3
