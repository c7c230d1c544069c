"""Intervals: by hand, within 0 and 1, and what they cover in simulation."""

import functools

import numpy as np
import pytest
import scipy.stats

from cberl_jax.evaluation.bootstrap import (
    Draws,
    confusions,
    draw_scores,
    named_scores,
    summarise_difference,
    summarise_models,
    summarise_score,
    summarise_split,
)
from cberl_jax.metrics import FEWEST_SEEDS, evaluate_predictions, scores

CLASSES = ("neutral", "fear", "joy")
DIALOGUES, LENGTH, DRAWS = 60, 10, 150


class World:
    """Trainings and dialogues without end: what is true of their scores is known.

    A member is right about an utterance with a probability that depends on its seed, on the seed
    and the class, and on the dialogue.
    """

    def __init__(self, seed, spread):
        self.generator, self.spread = np.random.default_rng(seed), spread

    def draw_split(self, dialogues):
        """Utterances per dialogue and class [G, C], and how easy each dialogue is [G]."""
        utterances = self.generator.multinomial(LENGTH, [0.6, 0.15, 0.25], size=dialogues)
        return utterances, self.generator.normal(size=dialogues)

    def draw_counts(self, members, utterances, ease):
        """[G, S, C, C] confusion matrices of new members."""
        skill = 0.8 + self.generator.normal(size=(members, 1)) * self.spread
        skill = skill + self.generator.normal(size=(members, 3)) * self.spread
        right = 1 / (1 + np.exp(-(skill + 0.8 * ease[:, None, None])))
        number = np.broadcast_to(utterances[:, None], right.shape)
        hits = self.generator.binomial(number, right)
        # What is wrong is taken for one of the other two classes.
        first = self.generator.binomial(number - hits, 0.5)
        counts = np.zeros((*right.shape, 3))
        for true in range(3):
            cells = (hits, first, number - hits - first)
            for column, cell in zip((true, (true + 1) % 3, (true + 2) % 3), cells):
                counts[..., true, column] = cell[..., true]
        return counts


@functools.cache
def truth(spread):
    """Metric -> score over very many members and dialogues."""
    world, found = World(99, spread), []
    for _ in range(20):
        counts = world.draw_counts(100, *world.draw_split(2000)).sum(axis=0)
        found.append({n: v.mean() for n, v in named_scores(counts, CLASSES).items()})
    return {n: np.mean([own[n] for own in found]) for n in METRICS}


METRICS = ("accuracy", "macro_f1", "F1 fear")


@functools.cache
def cover(members, spread, trials):
    """Share of intervals that hold what is true: of scores, and of differences of equal models."""
    world, known = World(members, spread), truth(spread)
    hits = {"score": [], "difference": []}
    for _ in range(trials):
        split = world.draw_split(DIALOGUES)
        pair = [draw_scores(world.draw_counts(members, *split), CLASSES, DRAWS) for _ in "ab"]
        for name in METRICS:
            low, high = summarise_score(pair[0][name])["ci95"]
            hits["score"].append(low <= known[name] <= high)
            gap = summarise_difference(pair[0][name], pair[1][name], paired=True)
            assert (gap["p"] < 0.05) == (gap["ci95"][0] > 0 or gap["ci95"][1] < 0)
            hits["difference"].append(gap["p"] >= 0.05)
    return {kind: np.mean(own) for kind, own in hits.items()}


@pytest.mark.parametrize("members, spread", [(4, 0.15), (8, 0.15), (8, 0.4), (16, 0.15), (16, 0.4)])
def test_intervals_cover_as_often_as_they_say(members, spread):
    found = cover(members, spread, 300)
    margin = 0.02 if members >= 8 else 0.03
    for kind, share in found.items():
        assert 0.95 - margin <= share <= 0.95 + margin, (kind, share)


def test_two_seeds_do_not_cover_what_other_seeds_give():
    # Hence no stars from them: see reports/ablation.py.
    assert 2 < FEWEST_SEEDS <= 4
    found = cover(2, 0.4, 100)
    assert found["score"] < 0.85 and found["difference"] < 0.85


def test_the_variance_of_a_mean_by_hand():
    # Four members 0.4, 0.4, 0.6, 0.6 whose drawn scores all move alike by -+0.1: of members
    # var = 0.04 / 3, over 4; of dialogues var = 2 * 0.01 / 1, times 3 / 2 for 3 dialogues; no rest.
    observed = np.array([0.4, 0.4, 0.6, 0.6])
    draws = Draws(observed, np.stack([observed - 0.1, observed + 0.1]), 3)
    flat = Draws(np.zeros(4), np.zeros((2, 4)), 3)
    gap = summarise_difference(draws, flat, paired=True)
    members, dialogues = 0.04 / 3 / 4, 0.03
    variance = members + dialogues
    freedom = variance**2 / (members**2 / 3 + dialogues**2 / 2)
    half = scipy.stats.t.ppf(0.975, freedom) * np.sqrt(variance)
    assert gap["mean"] == 0.5 and half > 0.5
    assert gap["ci95"] == pytest.approx([0.5 - half, min(0.5 + half, 1.0)])
    p = 2 * scipy.stats.t.sf(0.5 / np.sqrt(variance), freedom)
    # Never below what one draw among the observed ones would give.
    assert gap["p"] == pytest.approx(max(p, 1 / 3))


def members_of(seeds, share=0.7, dialogues=40, generator=None):
    generator = generator or np.random.default_rng(5)
    label = generator.choice(3, p=[0.6, 0.1, 0.3], size=dialogues * 8)
    right = generator.random((seeds, len(label))) < share
    guess = np.where(right, label, (label + 1) % 3)
    return np.eye(3)[guess] * 0.5 + 1 / 6, label, np.repeat(np.arange(dialogues), 8)


def test_confusions_are_counted_by_dialogue_and_member():
    probability, label, dialogue = members_of(3, dialogues=5)
    label = np.where(np.arange(len(label)) % 7, label, -1)
    counts = confusions(probability, label, dialogue)
    assert counts.shape == (5, 3, 3, 3)
    for g, s in np.ndindex(5, 3):
        here = (dialogue == g) & (label >= 0)
        expected = np.zeros((3, 3))
        np.add.at(expected, (label[here], probability[s, here].argmax(axis=-1)), 1)
        np.testing.assert_array_equal(counts[g, s], expected)


def test_the_means_are_the_scores_of_the_members_and_of_the_average():
    probability, label, dialogue = members_of(5)
    found = summarise_models(probability, label, dialogue, CLASSES)
    each = [evaluate_predictions(label, own, CLASSES) for own in probability]
    together = evaluate_predictions(label, probability.mean(axis=0), CLASSES)
    for name in ("accuracy", "weighted_f1", "macro_f1", "balanced_accuracy"):
        own = [one[name] for one in each]
        assert found["test"][name]["mean"] == pytest.approx(np.mean(own))
        assert found["test"][name]["std"] == pytest.approx(np.std(own, ddof=1))
        assert found["ensemble"][name]["mean"] == pytest.approx(together[name])
        assert found["ensemble"][name]["std"] is None
        for model in found.values():
            low, high = model[name]["ci95"]
            assert 0 <= low < model[name]["mean"] < high <= 1
    for name in CLASSES:
        for field in ("precision", "recall", "f1"):
            got = found["ensemble"]["per_class"][name][field]["mean"]
            assert got == pytest.approx(together["per_class"][name][field])
    # What the average gains stands out of what a member does.
    assert found["ensemble"]["accuracy"]["mean"] > found["test"]["accuracy"]["mean"] + 0.1


@pytest.mark.parametrize("share", [0.02, 0.98])
@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_intervals_stay_within_what_a_score_can_be(share, seeds):
    found = summarise_split(*members_of(seeds, share, dialogues=12), CLASSES)
    for name, own in found.items():
        if name == "per_class":
            continue
        low, high = own["ci95"]
        assert 0 <= low <= own["mean"] <= high <= 1
        assert high - low > 0.005


def test_a_class_of_few_utterances_has_no_interval_and_an_absent_one_no_support():
    probability, label, dialogue = members_of(4)
    label = np.where(label == 1, 0, label)
    label[3] = 1
    found = summarise_split(probability, label, dialogue, CLASSES)["per_class"]
    assert found["fear"]["support"] == 1
    assert all(found["fear"][field]["ci95"] is None for field in ("precision", "recall", "f1"))
    assert found["joy"]["f1"]["ci95"] is not None
    label[3] = 0
    assert (
        summarise_split(probability, label, dialogue, CLASSES)["per_class"]["fear"]["support"] == 0
    )


def test_draws_without_a_class_do_not_count_as_zero():
    # All ten utterances of a class in one dialogue of five: a third of the draws is without it.
    label = np.repeat([1, 0, 0, 0, 0], 10)
    probability = np.eye(3)[np.where(np.arange(50) % 5, label, 2)][None]
    counts = confusions(probability, label, np.repeat(np.arange(5), 10))
    drawn = draw_scores(counts, CLASSES, 500)
    assert 250 < len(drawn["recall fear"].drawn) < 450
    np.testing.assert_allclose(drawn["recall fear"].drawn, 0.8)
    assert len(drawn["accuracy"].drawn) == 500


def test_scores_that_do_not_vary_have_no_interval():
    label, dialogue = np.tile([0, 2], 20), np.repeat(np.arange(10), 4)
    found = summarise_split(np.eye(3)[label][None].repeat(5, axis=0), label, dialogue, CLASSES)
    assert found["accuracy"] == {"mean": 1.0, "std": 0.0, "ci95": None}
    # A single dialogue says nothing of others.
    probability, label, dialogue = members_of(4, dialogues=1)
    assert summarise_split(probability, label, dialogue, CLASSES)["accuracy"]["ci95"] is None


def test_dialogues_without_a_label_change_no_interval():
    """Three that have labels are no more certain where a hundred others have none."""
    probability, label, dialogue = members_of(4, dialogues=3)
    alone = summarise_split(probability, label, dialogue, CLASSES)
    more, _, others = members_of(4, dialogues=100)
    together = summarise_split(
        np.concatenate([more, probability], axis=1),
        np.concatenate([np.full(len(others), -1), label]),
        np.concatenate([others - 100, dialogue]),
        CLASSES,
    )
    assert together == alone and alone["accuracy"]["ci95"] is not None


def test_drawn_scores_are_those_of_drawn_dialogues():
    probability, label, dialogue = members_of(2, dialogues=6)
    counts = confusions(probability, label, dialogue)
    drawn = draw_scores(counts, CLASSES, 300, seed=4)
    times = np.random.default_rng(4).multinomial(6, np.full(6, 1 / 6), size=300)
    for number in (0, 1, 299):
        chosen = np.repeat(counts, times[number], axis=0).sum(axis=0)
        expected = scores(chosen)
        np.testing.assert_allclose(drawn["macro_f1"].drawn[number], expected["macro_f1"])
