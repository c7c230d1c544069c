"""The model card: every figure is the run's, and its limits are those of this run."""

import dataclasses
import re

import numpy as np
import pytest
import yaml
from made import MADE
from tiny import tiny_config

from cberl_jax.data.corpus import fingerprint
from cberl_jax.data.simulate import SimulatedSize, create_process, simulate_corpus
from cberl_jax.metrics import evaluate_predictions
from cberl_jax.reports.model_card import NOT_FOR, format_model_card, write_model_card
from cberl_jax.reports.run import TrainingData, create_report, splits_notices
from cberl_jax.runtime.workdir import Workdir
from cberl_jax.training.prepare import Splits


@pytest.fixture(scope="module")
def corpus():
    """Simulated conversations that pass for a person's own, whose name would be a heading."""
    corpus = simulate_corpus(create_process(), SimulatedSize(40, 8, 30, 4, 8), seed=0)
    return dataclasses.replace(corpus, source="my|corpus.npz")


def create_scored(corpus, seeds, lost=()):
    """A report whose members are right on every other utterance, but never about class 1."""
    members, probability = [], []
    test = corpus.in_split("test")
    for seed in seeds:
        line = {"seed": seed, "status": "diverged" if seed in lost else "ok", "epoch": 2}
        for split in ("dev", "test"):
            label = corpus.label[corpus.in_split(split)]
            guess = np.where((np.arange(len(label)) + seed) % 2 & (label != 1), label, 0)
            own = np.eye(len(corpus.classes))[guess] * 0.4 + 0.1
            scores = evaluate_predictions(label, own, corpus.classes)
            line[split] = None if seed in lost else scores
        members.append(line)
        probability.append(own)
    predictions = {
        "test.probability": np.stack(probability),
        "test.label": corpus.label[test],
        "test.dialogue": corpus.dialogue[corpus.dialogue_of[test]],
    }
    generated = np.arange(len(corpus.classes))
    return create_report(
        TrainingData(corpus, Splits(None, (corpus,)), generated),
        members,
        predictions,
        causal=False,
        timing={},
        provenance=MADE | {"fingerprint": fingerprint(corpus)},
    )


def cells(card, first):
    """The cells of the one table line that starts with a word."""
    (line,) = [line for line in card.splitlines() if line.startswith(f"| {first} ")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_card_holds_the_runs_own_figures(corpus):
    report = create_scored(corpus, [0, 1, 2])
    card = format_model_card(tiny_config(), Splits(None, (corpus,)), report)
    assert "\n---\n\n# Model card: CBERL on my\\|corpus.npz\n" in card
    assert "cberl-jax 0.0.7" in card and "3 members" in card and fingerprint(corpus) in card
    for name in corpus.classes:
        own, counts = cells(card, name), report["augmentation"][name]
        for column, key in ((3, "test"), (6, "ensemble")):
            scores = report[key]["per_class"][name]
            assert own[column].startswith(f"{scores['f1']['mean']:.3f}")
        numbers = [scores["support"], counts["real"], counts["generated"]]
        assert own[7:] == [str(number) for number in numbers]
    for row, key in (
        ("mean of the members, test", "test"),
        ("average of the members' probabilities, test", "ensemble"),
        ("mean of the members, dev", "dev"),
    ):
        assert cells(card, row)[2].startswith(f"{report[key]['weighted_f1']['mean']:.3f}")
    assert "`predict` and `export` use" in card
    test = corpus.in_split("test")
    speakers = len(np.unique(corpus.speaker[test]))
    counts = [30, test.sum(), (corpus.label[test] >= 0).sum(), speakers]
    assert cells(card, "test")[1:] == [str(count) for count in counts]
    assert NOT_FOR in card


def test_limits_are_this_runs(corpus):
    card = format_model_card(
        tiny_config(), Splits(None, (corpus,)), create_scored(corpus, [0, 1, 2])
    )
    assert f"Of 100 utterances of {corpus.classes[1]}, 0 are recognised." in card
    counts = corpus.class_counts("test")
    few = [f"{n} ({c})" for n, c in zip(corpus.classes, counts) if 0 < c < 100]
    assert few and f"Few test utterances: {', '.join(few)}." in card
    for absent in ("diverged", "single member", "simulated", "looked at", "has none"):
        assert absent not in card

    label = np.where(corpus.label == 3, 0, corpus.label)
    without = dataclasses.replace(corpus, label=label, source="simulated:small")
    config = tiny_config(**{"train.best_on_test": True})
    card = format_model_card(
        config, Splits(None, (without,)), create_scored(without, [0, 1], lost=[1])
    )
    assert "3 members: too few to say" in format_model_card(
        tiny_config(), Splits(None, (corpus,)), create_scored(corpus, [0, 1, 2])
    )
    assert "A single member" in card and "1 of 2 trainings diverged" in card
    assert f"the test split has none: {corpus.classes[3]}." in card
    assert "The data is simulated" in card and "was looked at in training" in card


def test_a_card_names_the_parts_in_use_and_whether_the_model_is_for_live_use(corpus):
    report = create_scored(corpus, [0])
    switched = {"model.djvae": False, "model.causal": True, "augment.method": "smote"}
    card = format_model_card(tiny_config(**switched), Splits(None, (corpus,)), report)
    assert "Parts in use: BiLSTM, graph attention, reconstruction of masked nodes." in card
    assert "can follow a conversation live" in card
    nothing = {name: own | {"generated": 0} for name, own in report["augmentation"].items()}
    for counts, named in ((report["augmentation"], True), (nothing, False)):
        whole = report | {"augmentation": counts}
        card = format_model_card(tiny_config(), Splits(None, (corpus,)), whole)
        assert ("GAN augmentation" in card) == named
    assert "is not for live use" in format_model_card(
        tiny_config(), Splits(None, (corpus,)), report
    )


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({}, "with the turns before and after it,"),
        ({"model.causal": True}, "with the turns before it,"),
        ({"model.bilstm": False, "model.past": 0}, "with the turns after it,"),
        ({"model.bilstm": False, "model.past": 0, "model.future": 0}, "by itself,"),
        ({"model.bilstm": False, "model.graph": False, "model.residual_turns": 1}, "and after it,"),
        (
            {"model.bilstm": False, "model.graph": False, "model.reconstruction": False},
            "by itself,",
        ),
    ],
)
def test_a_card_says_which_turns_the_parts_in_use_see(corpus, parts, said):
    card = format_model_card(
        tiny_config(**parts), Splits(None, (corpus,)), create_scored(corpus, [0])
    )
    assert re.search(f"An utterance is judged .*{said} and the model", card)


def test_a_causal_model_of_features_that_look_ahead_is_not_for_live_use(corpus):
    """The file says so: timing with the gap to the next turn, text read with turns after it."""
    causal = tiny_config(**{"model.causal": True})
    for record, ahead in (
        ({"extractor": "timing", "causal": False}, True),
        ({"encoder": "e", "context": {"past": 5, "future": 2}}, True),
        ({"extractor": "timing", "causal": True}, False),
        ({"encoder": "e", "context": None}, False),
    ):
        made = dataclasses.replace(corpus, provenance={"text": record})
        splits = Splits(None, (made,))
        card = format_model_card(causal, splits, create_scored(made, [0]))
        assert ("by its features text with later ones" in card) == ahead
        assert ("can follow a conversation live" in card) != ahead
        told = [line for line in splits_notices(splits, True) if "look at later turns" in line]
        assert len(told) == ahead
        assert not any("later turns" in line for line in splits_notices(splits, False))


def test_a_run_without_a_sound_member_has_no_card(corpus, tmp_path):
    folder = Workdir(tmp_path)
    write_model_card(
        folder, tiny_config(), Splits(None, (corpus,)), create_scored(corpus, [0], lost=[0])
    )
    assert not folder.model_card.exists()
    write_model_card(folder, tiny_config(), Splits(None, (corpus,)), create_scored(corpus, [0]))
    assert "\n# Model card" in folder.model_card.read_text()


def test_hubs_read_the_block_at_the_top(corpus, tmp_path):
    reason = "huggingface_hub, whose classes read cards, is not installed"
    hub = pytest.importorskip("huggingface_hub", reason=reason)
    # A name that YAML would take for something else, and letters that a hub's names do not have.
    named = dataclasses.replace(corpus, source="/disk/own/secret: 'é #1\n- no.npz")
    report = create_scored(named, [0, 1])
    text = format_model_card(tiny_config(**{"data.corpus": "meld"}), Splits(None, (named,)), report)
    assert "/disk/own" not in text
    (tmp_path / "card.md").write_text(text)
    data = hub.ModelCard.load(tmp_path / "card.md").data
    assert data.to_dict()["library_name"] == "cberl-jax"
    assert (data.language, data.license) == ("en", None)
    assert "cberl" in data.tags and data.datasets == ["secret-1-no"]
    assert data.metrics == ["accuracy", "balanced_accuracy", "f1"]
    assert data.model_name == f"CBERL on {named.name}"
    found = {(r.dataset_split, r.metric_name): r for r in data.eval_results}
    for part, title, key in (
        ("test", "average of the members' probabilities", "ensemble"),
        ("test", "mean of the members", "test"),
        ("dev", "mean of the members", "dev"),
    ):
        for name, metric in (("weighted F1", "weighted_f1"), ("accuracy", "accuracy")):
            result = found.pop((part, f"{name}, {title}"))
            assert result.metric_value == pytest.approx(report[key][metric]["mean"], abs=5e-5)
            assert result.metric_type == {"weighted_f1": "f1"}.get(metric, metric)
            assert result.dataset_name == named.name
    assert len(found) == 6
    # Written again by the hub's own class, nothing is lost.
    again = hub.ModelCard(str(hub.ModelCard(text))).data
    assert again.to_dict() == data.to_dict()


def test_a_card_without_test_scores_or_a_known_language_leaves_them_out(corpus):
    without = dataclasses.replace(
        corpus, label=np.where(corpus.in_split("test"), -1, corpus.label).astype(np.int32)
    )
    card = format_model_card(tiny_config(), Splits(None, (without,)), create_scored(without, [0]))
    block = yaml.safe_load(card.split("---\n")[1])
    assert "language" not in block and "license" not in block
    splits = [result["dataset"]["split"] for result in block["model-index"][0]["results"]]
    assert splits == ["dev"]
