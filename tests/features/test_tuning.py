"""The tuning of a text encoder: steps, frozen layers, and going on where it was stopped."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from encoders import WORDS, needs_encoder, write_encoder

from cberl_jax.data.readers.load import load_corpus
from cberl_jax.data.readers.transcripts import read_transcripts
from cberl_jax.errors import UserError
from cberl_jax.features.context import Context, embed, make_inputs
from cberl_jax.features.extract import Sources, extract
from cberl_jax.features.provenance import hash_state
from cberl_jax.features.text import load_encoder
from cberl_jax.features.tuning import Loss, Tuning

ROOT = Path(__file__).parents[2]
CONTEXT = Context(2, 0, 24, True)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders")
    return {kind: write_encoder(folder / kind, kind, 3, dropout=0.2) for kind in ("Bert", "MPNet")}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with 80 random utterances to learn from, and some to judge by."""
    monkeypatch.chdir(tmp_path)
    random, words = np.random.default_rng(0), sorted(set(WORDS.split()) - {":", ",", "."})
    lines = ["dialogue,speaker,text,split,label"]
    for split, dialogues in (("train", 20), ("dev", 3), ("test", 3)):
        for d in range(dialogues):
            for t in range(4):
                text = " ".join(random.choice(words, random.integers(1, 9)))
                label = "joy" if "good" in text or "cat" in text or "yes" in text else "fear"
                lines.append(f"{split}{d},{'AB'[t % 2]},{text},{split},{label}")
    (tmp_path / "conv.csv").write_text("\n".join(lines))
    return tmp_path


def run(encoder, tuning, tuned="tuned", context=CONTEXT):
    said = []
    sources = Sources(
        ["conv.csv"], text_encoder=str(encoder), timing="", tuned=tuned, tuning=tuning,
        context=context,
    )  # fmt: skip
    return extract(sources, "out.npz", said.append).features["text"], "\n".join(said)


@needs_encoder
def test_an_encoder_that_lacks_a_pooler_is_known_again(tmp_path):
    """As RoBERTa is published; otherwise its tuning would not go on, nor a run find it."""
    import torch
    import transformers

    folder = write_encoder(tmp_path / "e")
    config = transformers.AutoConfig.from_pretrained(folder)
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    before = torch.random.get_rng_state()
    names = {hash_state(load_encoder(str(folder))) for _ in range(2)}
    assert len(names) == 1 and torch.equal(torch.random.get_rng_state(), before)


@needs_encoder
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stopped_tuning_goes_on_and_ends_with_the_same_numbers(folder, encoders, number):
    """By a real process; the encoder has dropout, so the draws have to be the same as well."""
    loss = Loss("focal", 1.0, 0.9, 0.5)
    tuning = Tuning(12, 1e-3, 3, loss, patience=12, precision="float32")
    expected, _ = run(encoders["Bert"], tuning, "whole")
    command = [
        sys.executable, "-m", "cberl_jax", "extract", "--transcript=conv.csv", "--timing=",
        f"--text_encoder={encoders['Bert']}", "--output=two.npz", "--finetune=two",
        "--context_past=2", "--context_tokens=24", "--finetune_epochs=12", "--precision=float32",
        "--finetune_learning_rate=0.001", "--seed=3", "--finetune_patience=12",
        "--finetune_loss=focal", "--finetune_class_balance=0.9", "--finetune_contrastive=0.5",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, **pipes)
    for line in process.stdout:
        if "epoch 3/12" in line:
            process.send_signal(number)
            break
    _, errors = process.communicate(timeout=120)
    if number == signal.SIGTERM:
        assert process.returncode == 143 and "The same command goes on" in errors
    assert not (folder / "two.npz").exists() and not (folder / "two").exists()
    done = subprocess.run(command, env=environment, timeout=200, **pipes)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"going on after batch ([6-9]|1\d|2\d)", done.stdout)
    np.testing.assert_array_equal(load_corpus("two.npz").features["text"], expected)
    assert not (folder / "two.tuning").exists()


@needs_encoder
def test_several_seeds_are_several_tunings_each_with_features_of_its_own(folder, encoders):
    tuning = Tuning(4, 1e-3, 6, patience=4, precision="float32")
    alone, _ = run(encoders["Bert"], tuning, "one")
    command = [
        sys.executable, "-m", "cberl_jax", "extract", "--transcript=conv.csv", "--timing=",
        f"--text_encoder=small={encoders['Bert']}", "--output=two.npz", "--finetune=two",
        "--context_past=2", "--context_tokens=24", "--finetune_epochs=4", "--precision=float32",
        "--finetune_learning_rate=0.001", "--seed=5", "--finetune_seeds=2",
        "--finetune_patience=4",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # Killed while the second seed is tuned.
    process, epochs = subprocess.Popen(command, env=environment, **pipes), 0
    for line in process.stdout:
        epochs += "epoch 2/4" in line
        if epochs == 2:
            process.kill()
            break
    process.communicate(timeout=120)
    assert (folder / "two" / "s5").exists() and not (folder / "two" / "s6").exists()
    done = subprocess.run(command, env=environment, timeout=200, **pipes)
    assert (done.returncode, done.stderr) == (0, "")
    assert "epoch 1/4" not in done.stdout and done.stdout.count("going on after batch") == 1
    corpus = load_corpus("two.npz")
    assert list(corpus.features) == ["text.small_s5", "text.small_s6"]
    np.testing.assert_array_equal(corpus.features["text.small_s6"], alone)
    for seed in (5, 6):
        record = corpus.provenance[f"text.small_s{seed}"]
        assert (record["tuning"]["seed"], record["encoder"]) == (seed, f"two/s{seed}")
    assert sorted(path.name for path in (folder / "two").iterdir()) == ["s5", "s6"]


@needs_encoder
def test_more_seeds_are_added_and_others_are_refused(folder, encoders):
    def run_seeds(count, **changes):
        tuning = Tuning(1, 1e-3)._replace(**changes)
        sources = Sources(
            ["conv.csv"], text_encoder=str(encoders["Bert"]), timing="", tuned="two",
            tuning=tuning, tuned_seeds=count, context=CONTEXT,
        )  # fmt: skip
        said = []
        return extract(sources, "out.npz", said.append).features, "\n".join(said)

    two, _ = run_seeds(2)
    three, said = run_seeds(3)
    assert list(three) == ["text.s0", "text.s1", "text.s2"]
    # Only the third one is tuned.
    assert said.count("learns in") == 1
    for name, rows in two.items():
        np.testing.assert_array_equal(three[name], rows)
    assert not np.allclose(three["text.s0"], three["text.s1"], atol=1e-3)
    for changes, message in (
        ({"learning_rate": 1e-4}, "two/s0: was tuned otherwise .*learning_rate: 0.001 there, 0.0"),
        ({"crossfit": 3}, "two/s0: was tuned otherwise .*crossfit: 0 there, 3"),
    ):
        with pytest.raises(UserError, match=message):
            run_seeds(4, **changes)
    (folder / "two" / "thesis.txt").write_text("")
    with pytest.raises(UserError, match="two/thesis.txt: is there already; name a new folder"):
        run_seeds(2)


@needs_encoder
def test_another_tuning_does_not_go_on_with_it(folder, encoders):
    from cberl_jax.features.trainer import claim

    claim(folder / "tuned.tuning", {"epochs": 3})
    (folder / "tuned.tuning" / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(UserError, match="holds the checkpoint of another tuning .*epochs: 3 there"):
        run(encoders["Bert"], Tuning(2))
    # Without a checkpoint nothing is lost.
    (folder / "tuned.tuning" / "checkpoint.pt").unlink()
    run(encoders["Bert"], Tuning(1))
    (folder / "own.tuning").mkdir()
    (folder / "own.tuning" / "thesis.txt").write_text("")
    with pytest.raises(UserError, match="own.tuning: holds files of something else"):
        run(encoders["Bert"], Tuning(1), "own")


@needs_encoder
@pytest.mark.parametrize("kind", ["Bert", "MPNet"])
def test_frozen_layers_are_kept_and_the_others_learn_as_without(folder, encoders, kind):
    import torch

    from cberl_jax.features.layers import FrozenLayers, freeze

    encoder = load_encoder(str(encoders[kind]))
    before = {name: array.clone() for name, array in encoder.state_dict().items()}
    inputs = make_inputs(encoder, read_transcripts(["conv.csv"]), CONTEXT)
    freeze(encoder, 2)
    encoder.eval()
    which, slopes = np.arange(3, 9), []
    kept = FrozenLayers(encoder, inputs, 2, folder / "frozen.npy", np.arange(20))
    again = FrozenLayers(encoder, inputs, 2, folder / "frozen.npy", np.arange(20))
    for embedded in (
        embed(encoder, inputs, which),
        kept.embed(encoder, which),
        again.embed(encoder, which),
    ):
        encoder.zero_grad()
        embedded.square().sum().backward()
        slopes.append([p.grad for p in encoder.parameters() if p.requires_grad])
    for others in slopes[1:]:
        torch.testing.assert_close(others, slopes[0])
    run(encoders[kind], Tuning(2, 1e-3, freeze_layers=2, precision="float32"))
    after = load_encoder("tuned").state_dict()
    changed = {name for name, array in before.items() if not torch.equal(array, after[name])}
    assert changed and all(".layer.2." in name for name in changed)


@needs_encoder
def test_lower_layers_learn_more_slowly_where_they_are_told_to(encoders):
    from cberl_jax.features.layers import find_layers, group_parameters

    encoder = load_encoder(str(encoders["MPNet"]))
    head = __import__("torch").nn.Linear(16, 2)
    groups = group_parameters(encoder, head, 0.1, 0.5)
    rate = {id(p): group["rate"] for group in groups for p in group["params"]}
    low, middle, high = find_layers(encoder)
    first = next(encoder[0].auto_model.embeddings.parameters())
    found = [rate[id(p)] for p in (first, *(next(m.parameters()) for m in (low, middle, high)))]
    assert [*found, rate[id(head.weight)]] == pytest.approx([0.0125, 0.025, 0.05, 0.1, 0.1])
    assert len(rate) == len([*encoder.parameters(), *head.parameters()])
    assert all(p.ndim == 1 for g in groups if "weight_decay" in g for p in g["params"])


@needs_encoder
def test_batches_hold_everything_once_and_little_padding():
    from cberl_jax.features.layers import training_batches

    length = np.random.default_rng(0).integers(1, 100, 1000)
    batches = list(training_batches(length, 32, np.random.default_rng(1)))
    assert sorted(np.concatenate(batches)) == list(range(1000)) and len(batches) == 32
    assert max(len(batch) for batch in batches) == 32
    padded = sum(len(batch) * length[batch].max() for batch in batches)
    assert padded < 1.1 * length.sum()
    assert np.mean([length[batch].mean() for batch in batches[:8]]) == pytest.approx(50, abs=20)


@needs_encoder
def test_the_learning_rate_rises_and_falls():
    from cberl_jax.features.trainer import rate_factor

    found = [rate_factor(step, 20) for step in range(20)]
    assert found[:3] == [0.5, 1.0, 1.0] and found[3] == pytest.approx(17 / 18)
    assert found[-1] == pytest.approx(1 / 18) and found[2:] == sorted(found[2:], reverse=True)
    assert rate_factor(0, 1) == 1.0


@needs_encoder
def test_the_best_epoch_is_kept_and_the_tuning_ends_early(folder, encoders):
    """At a rate that destroys what it has learnt, later epochs are no better."""
    features, said = run(encoders["Bert"], Tuning(30, 1e-3, select="macro_f1", patience=3))
    scores = [float(x) for x in re.findall(r"macro F1 ([\d.]+) on dev", said)]
    assert len(scores) < 30 and max(scores) == max(scores[:-3])
    kept = __import__("json").loads((folder / "tuned" / "cberl_jax.json").read_text())["tuning"]
    best = int(np.argmax(scores))
    assert kept["epoch"] == best + 1 == len(scores) - 3
    assert kept["dev_macro_f1"] == pytest.approx(max(scores), abs=1e-3)
    assert np.isfinite(features).all()


@needs_encoder
def test_precisions(folder, encoders):
    full, _ = run(encoders["Bert"], Tuning(1, 1e-4, precision="float32"), "a")
    half, _ = run(encoders["Bert"], Tuning(1, 1e-4, precision="bfloat16"), "b")
    assert not np.array_equal(full, half)
    np.testing.assert_allclose(full, half, atol=0.05)
    _, said = run(encoders["Bert"], Tuning(1, 1e-4), "c")
    # No machine gains with an encoder that is 16 wide.
    assert "learns in float32" in said


@needs_encoder
@pytest.mark.parametrize("count", [3, 12])
def test_one_layer_at_least_learns(folder, encoders, count):
    with pytest.raises(UserError, match=f"--freeze_layers={count}: .* has 3 layers"):
        run(encoders["Bert"], Tuning(1, freeze_layers=count))
