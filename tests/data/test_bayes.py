"""The exact posterior against enumeration, and the report against what it promises."""

import dataclasses
import itertools

import numpy as np
import pytest

from cberl_jax.data import bayes, simulate
from cberl_jax.errors import UserError

PATTERNS = ["A", "AAAA", "AB", "ABABA", "AABBA", "ABBAB", "ABBBA"]


def create_small_process(inertia=0.4, contagion=0.35):
    emission = simulate.create_emission((7, 0), num_classes=3, width=2, separation=1.0, rank=2)
    base_rate = np.array([0.6, 0.3, 0.1])
    return simulate.Process(("a", "b", "c"), base_rate, inertia, contagion, {"text": emission})


def sequence_probability(process, speaker, emotions):
    """p(emotions) by walking through the conversation as the law is worded."""
    last, probability = {}, 1.0
    for who, emotion in zip(speaker, emotions, strict=True):
        own = last.get(who)
        other = next((last[party] for party in last if party != who), None)
        base = process.base_rate[emotion]
        rest = 1 - process.inertia - process.contagion
        probability *= (
            rest * base
            + process.inertia * (base if own is None else own == emotion)
            + process.contagion * (base if other is None else other == emotion)
        )
        last[who] = emotion
    return probability


def enumerate_posterior(process, evidence, speaker):
    """[T, 3] p(y_t | all features), summed over all emotion sequences."""
    weight = np.zeros(evidence.shape)
    turns = np.arange(len(speaker))
    for emotions in itertools.product(range(3), repeat=len(speaker)):
        joint = sequence_probability(process, speaker, emotions)
        joint *= np.exp(evidence[turns, emotions].sum())
        weight[turns, emotions] += joint
    return weight / weight.sum(axis=1, keepdims=True)


def draw_patterns(patterns):
    rng = np.random.default_rng(0)
    length = np.array([len(pattern) for pattern in patterns])
    speaker = np.array(list("".join(patterns)))
    return rng.normal(scale=2, size=(len(speaker), 3)), speaker, length


LAWS = [(0.4, 0.35), (0.0, 0.0), (0.9, 0.0), (0.0, 0.8), (0.6, 0.4)]


@pytest.mark.parametrize("inertia, contagion", LAWS)
def test_posterior_equals_enumeration(inertia, contagion):
    process = create_small_process(inertia, contagion)
    evidence, speaker, length = draw_patterns(PATTERNS)
    found = bayes.posterior(process, evidence, speaker, length)
    for first, turns in zip(np.cumsum(length) - length, length, strict=True):
        rows = slice(first, first + turns)
        expected = enumerate_posterior(process, evidence[rows], speaker[rows])
        np.testing.assert_allclose(found[rows], expected, rtol=1e-9)


@pytest.mark.parametrize("inertia, contagion", LAWS)
def test_causal_posterior_equals_enumeration_of_the_past(inertia, contagion):
    process = create_small_process(inertia, contagion)
    evidence, speaker, length = draw_patterns(PATTERNS)
    found = bayes.causal_posterior(process, evidence, speaker, length)
    for first, turns in zip(np.cumsum(length) - length, length, strict=True):
        for turn in range(turns):
            past = slice(first, first + turn + 1)
            expected = enumerate_posterior(process, evidence[past], speaker[past])[-1]
            np.testing.assert_allclose(found[first + turn], expected, rtol=1e-9)


def test_without_evidence_every_turn_has_the_base_rate():
    process = simulate.create_process()
    corpus = simulate.simulate("small")
    nothing = np.zeros((len(corpus.label), 7))
    for infer in (bayes.posterior, bayes.causal_posterior):
        found = infer(process, nothing, corpus.speaker, corpus.length)
        expected = np.broadcast_to(process.base_rate, found.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_without_dependence_context_adds_nothing():
    process = create_small_process(0.0, 0.0)
    evidence, speaker, length = draw_patterns(PATTERNS)
    np.testing.assert_allclose(
        bayes.posterior(process, evidence, speaker, length),
        bayes.context_free_posterior(process, evidence),
        rtol=1e-9,
    )


def test_transition_rows_are_distributions():
    law = bayes.transition(create_small_process())
    np.testing.assert_allclose(law.sum(axis=2), 1, rtol=1e-12)
    # Own last emotion a, other's c: 0.4 + 0.25 * 0.6, 0.25 * 0.3, 0.35 + 0.25 * 0.1.
    np.testing.assert_allclose(law[0, 2], [0.55, 0.075, 0.375], rtol=1e-12)
    # Nobody has spoken: the base rate.
    np.testing.assert_allclose(law[3, 3], [0.6, 0.3, 0.1], rtol=1e-12)


def test_blocks_do_not_matter(monkeypatch):
    process = create_small_process()
    inputs = draw_patterns(PATTERNS)
    whole = bayes.posterior(process, *inputs)
    monkeypatch.setattr(bayes, "BLOCK", 2)
    np.testing.assert_allclose(bayes.posterior(process, *inputs), whole, rtol=1e-12)


def test_evidence_of_any_scale_stays_finite():
    process = create_small_process(0.6, 0.4)
    evidence, speaker, length = draw_patterns(PATTERNS)
    found = bayes.posterior(process, 1e4 * evidence - 1e6, speaker, length)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-12)


def test_three_parties_are_refused():
    with pytest.raises(UserError, match="dialogue number 1 has 3 speakers"):
        bayes.posterior(create_small_process(), *draw_patterns(["AB", "ABC"]))


@pytest.fixture(scope="module")
def meld_report():
    return bayes.bayes_report(simulate.simulate("meld"), simulate.create_process())


def test_report_shows_how_much_context_is_worth(meld_report):
    full, free = meld_report["full"]["argmax"], meld_report["context_free"]["argmax"]
    causal = meld_report["causal"]["argmax"]
    assert 0.75 < full["accuracy"] < 0.80
    assert 0.62 < free["accuracy"] < 0.68
    assert full["macro_f1"] > free["macro_f1"] + 0.12
    assert free["accuracy"] < causal["accuracy"] < full["accuracy"]


def test_each_rule_is_best_for_its_own_metric(meld_report):
    for rules in meld_report.values():
        for prefix in ("", "expected_"):
            argmax, balanced = rules["argmax"], rules["balanced"]
            assert argmax[prefix + "accuracy"] >= balanced[prefix + "accuracy"]
            metric = prefix + "balanced_accuracy"
            assert balanced[metric] >= argmax[metric]


def test_posteriors_are_calibrated():
    # Hits minus their posterior have mean 0; dialogues are independent, turns are not.
    process = simulate.create_process()
    corpus = simulate.simulate_corpus(process, simulate.SimulatedSize(0, 0, 800), seed=4)
    evidence = simulate.log_likelihood(process, corpus.features, corpus.present)
    turns = (corpus.speaker, corpus.length)
    posteriors = (
        bayes.posterior(process, evidence, *turns),
        bayes.causal_posterior(process, evidence, *turns),
        bayes.context_free_posterior(process, evidence),
    )
    for probability in posteriors:
        excess = np.eye(7)[corpus.label] - probability
        top = np.eye(7)[probability.argmax(axis=1)]
        for part in ((excess * top).sum(axis=1), *excess.T):
            per_dialogue = np.bincount(corpus.dialogue_of, weights=part)
            assert abs(per_dialogue.sum()) < 4 * np.sqrt(np.sum(per_dialogue**2))


def test_fewer_modalities_leave_a_lower_ceiling(meld_report):
    corpus = simulate.simulate("meld")
    audio_only = dataclasses.replace(corpus, features={"audio": corpus.features["audio"]})
    report = bayes.bayes_report(audio_only, simulate.create_process())
    ceiling = meld_report["full"]["argmax"]["accuracy"]
    assert report["full"]["argmax"]["accuracy"] < ceiling - 0.05


def test_report_ignores_unlabelled_utterances_and_absent_classes():
    process = create_small_process()
    corpus = simulate.simulate_corpus(process, simulate.SimulatedSize(0, 0, 30), seed=1)
    label = np.where(corpus.label == 0, corpus.label, -1)
    report = bayes.bayes_report(dataclasses.replace(corpus, label=label), process)
    scores = report["full"]["argmax"]
    # Only class a is left: accuracy, balanced accuracy and recall of class a coincide.
    assert scores["accuracy"] == scores["balanced_accuracy"]
    assert 0.5 < scores["accuracy"] < 1


def test_report_on_an_empty_split_is_refused():
    process = create_small_process()
    corpus = simulate.simulate_corpus(process, simulate.SimulatedSize(0, 0, 3))
    with pytest.raises(UserError, match="simulated:custom: the dev split has no labelled"):
        bayes.bayes_report(corpus, process, "dev")
