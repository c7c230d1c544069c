"""The best results that any model can reach on a simulated conversation, computed exactly.

Section 2 of the design. The emotions of ``simulate.py`` are a Markov chain over the pair (last
emotion of the speaker, last emotion of the other party), each possibly "not yet spoken", hence
(C + 1)^2 states. The forward-backward recursion (Rabiner 1989, "A tutorial on hidden Markov
models", section III; the state space is ours) gives p(y_t | all features of the dialogue). Its
largest entry is the decision that maximises expected accuracy; its largest entry after division
by the prior maximises expected balanced accuracy.

No real corpus has a known law: nothing here applies to one.
"""

import numpy as np

from cberl_jax.data.corpus import Corpus
from cberl_jax.data.simulate import SIMULATED, Process, create_process, log_likelihood
from cberl_jax.errors import UserError
from cberl_jax.metrics import confusion_matrix, scores

# Dialogues handled at once: bounds the memory of the recursion at 512 turns to about 140 MB.
BLOCK = 256


def transition(process: Process) -> np.ndarray:
    """The law of the next emotion as one table.

    Args:
      process: the law.

    Returns:
      [C + 1, C + 1, C] p(y | s, o); s or o = C stands for a party that has not spoken.
    """
    num_classes = len(process.classes)
    base_rate = np.asarray(process.base_rate)
    # Row C: a party that has not spoken is copied from by drawing from the base rate.
    copied = np.concatenate([np.eye(num_classes), base_rate[None]])
    rest = 1 - process.inertia - process.contagion
    return process.inertia * copied[:, None] + process.contagion * copied[None] + rest * base_rate


def posterior(
    process: Process, log_likelihood: np.ndarray, speaker: np.ndarray, length: np.ndarray
) -> np.ndarray:
    """p(y_t | features of the whole dialogue), by smoothing.

    Args:
      process: the law.
      log_likelihood: [N, C] log density of each utterance's features, in nats; a constant added
        to a row changes nothing.
      speaker: [N] who speaks, at most two different values per dialogue.
      length: [G] utterances per dialogue, in order; their sum is N.

    Returns:
      [N, C] float64 probabilities.
    """
    return _by_block(process, log_likelihood, speaker, length, _smooth)


def causal_posterior(
    process: Process, log_likelihood: np.ndarray, speaker: np.ndarray, length: np.ndarray
) -> np.ndarray:
    """p(y_t | features up to turn t), by filtering: what a model without look-ahead can know.

    Args:
      process: the law.
      log_likelihood: [N, C], see ``posterior``.
      speaker: [N], see ``posterior``.
      length: [G], see ``posterior``.

    Returns:
      [N, C] float64 probabilities.
    """
    return _by_block(process, log_likelihood, speaker, length, _filter)


def context_free_posterior(process: Process, log_likelihood: np.ndarray) -> np.ndarray:
    """p(y_t | features of turn t): what a model of single utterances can know.

    Args:
      process: the law; the prior is its base rate, the exact marginal of every turn.
      log_likelihood: [N, C], see ``posterior``.

    Returns:
      [N, C] float64 probabilities.
    """
    return _normalise(np.log(process.base_rate) + log_likelihood)


def bayes_report(corpus: Corpus, process: Process, split: str = "test") -> dict:
    """The best possible results on one split of a simulated corpus.

    Args:
      corpus: drawn from ``process``; with fewer modalities, the best possible without them.
      process: the law.
      split: which split.

    Returns:
      classifier (``full``, ``causal``, ``context_free``) -> rule (``argmax``, best for
      accuracy; ``balanced``, the posterior divided by the prior, best for balanced accuracy) ->
      metric -> value in 0..1. ``accuracy``, ``balanced_accuracy``, ``weighted_f1`` and
      ``macro_f1`` are reached on the split's labels. ``expected_accuracy`` and
      ``expected_balanced_accuracy`` (a class's expected hits over its expected count, averaged
      over the classes) put the posterior in the labels' place and so are free of their luck.
    """
    chosen = corpus.in_split(split)
    if not np.any(corpus.label[chosen] >= 0):
        raise corpus.error(f"the {split} split has no labelled utterance to score")
    features = {name: array[chosen] for name, array in corpus.features.items()}
    present = {name: array[chosen] for name, array in corpus.present.items()}
    evidence = log_likelihood(process, features, present)
    turns = (corpus.speaker[chosen], corpus.length[corpus.split == split])
    posteriors = {
        "full": posterior(process, evidence, *turns),
        "causal": causal_posterior(process, evidence, *turns),
        "context_free": context_free_posterior(process, evidence),
    }
    label = corpus.label[chosen]
    return {
        name: {
            rule: _score_decision(label, probability, decision)
            for rule, decision in decisions(probability, process.base_rate).items()
        }
        for name, probability in posteriors.items()
    }


def best_possible(corpus: Corpus, causal: bool = False) -> dict[str, dict[str, float]] | None:
    """What no model can exceed in expectation on the test split of a simulated corpus.

    Accuracy is that of the most probable class, balanced accuracy that of the rule made for it, the
    posterior over the prior. Both are expected values: the labels that were drawn may by luck lift
    a model's score above them. F1 has no such bound here, since no rule for single utterances
    maximises it.

    Args:
      corpus: any.
      causal: whether the model sees no later turn.

    Returns:
      ``full`` (whole conversations) or ``causal``, and ``context_free`` (single utterances), each
      ``accuracy`` and ``balanced_accuracy``; None for a corpus that is not simulated.
    """
    if not corpus.source.startswith(SIMULATED):
        return None
    best = bayes_report(corpus, create_process())
    return {
        view: {
            "accuracy": best[view]["argmax"]["expected_accuracy"],
            "balanced_accuracy": best[view]["balanced"]["expected_balanced_accuracy"],
        }
        for view in ("causal" if causal else "full", "context_free")
    }


def decisions(probability: np.ndarray, base_rate: np.ndarray) -> dict[str, np.ndarray]:
    """The two best decisions from a posterior.

    Args:
      probability: [N, C] posterior.
      base_rate: [C] prior.

    Returns:
      ``argmax`` -> [N] the choice that maximises expected accuracy; ``balanced`` -> [N] the
      choice that maximises expected balanced accuracy.
    """
    return {
        "argmax": np.argmax(probability, axis=1),
        "balanced": np.argmax(probability / base_rate, axis=1),
    }


def _score_decision(
    label: np.ndarray, probability: np.ndarray, decision: np.ndarray
) -> dict[str, float]:
    classes = probability.shape[1]
    reached = scores(confusion_matrix(label, decision, classes))
    hit = probability[np.arange(len(decision)), decision]
    expected_hits = np.bincount(decision, weights=hit, minlength=classes)
    expected = {
        "expected_accuracy": np.mean(hit),
        "expected_balanced_accuracy": np.mean(expected_hits / probability.sum(axis=0)),
    }
    return {name: float(value) for name, value in (reached | expected).items()}


def _by_block(process, log_likelihood, speaker, length, infer) -> np.ndarray:
    """[N, C] what ``infer`` says, block by block of padded dialogues, as probabilities."""
    length = np.asarray(length)
    dialogue = np.repeat(np.arange(len(length)), length)
    start = np.cumsum(length) - length
    turn = np.arange(len(speaker)) - start[dialogue]
    switched = _switched(np.asarray(speaker), dialogue, turn)
    with np.errstate(divide="ignore"):
        log_law = np.log(transition(process))
    result = np.empty(log_likelihood.shape)
    for first in range(0, len(length), BLOCK):
        rows = slice(start[first], start[first] + np.sum(length[first : first + BLOCK]))
        place = (turn[rows], dialogue[rows] - first)
        shape = (place[0].max() + 1, place[1].max() + 1)
        # Padding after a dialogue carries no evidence, which leaves the posterior unchanged.
        evidence = np.zeros((*shape, log_likelihood.shape[1]))
        evidence[place] = log_likelihood[rows]
        swap = np.zeros(shape, bool)
        swap[place] = switched[rows]
        result[rows] = _normalise(infer(log_law, evidence, swap)[place])
    return result


def _switched(speaker: np.ndarray, dialogue: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """[N] bool, whether the speaker differs from the one of the turn before."""
    code = np.unique(speaker, return_inverse=True)[1]
    parties = np.bincount(np.unique(np.stack([dialogue, code]), axis=1)[0])
    if parties.max() > 2:
        raise UserError(
            f"dialogue number {np.argmax(parties)} has {parties.max()} speakers, but the exact "
            "posterior of a simulated conversation knows two parties"
        )
    return (turn > 0) & (code != np.roll(code, 1))


def _filter(log_law: np.ndarray, evidence: np.ndarray, swap: np.ndarray) -> np.ndarray:
    """[T, G, C] unnormalised log p(y_t | features up to t) of padded dialogues."""
    return np.logaddexp.reduce(_forward(log_law, evidence, swap), axis=3)


def _smooth(log_law: np.ndarray, evidence: np.ndarray, swap: np.ndarray) -> np.ndarray:
    """[T, G, C] unnormalised log p(y_t | all features) of padded dialogues."""
    past = _forward(log_law, evidence, swap)
    future = _backward(log_law, evidence, swap)
    return np.logaddexp.reduce(past + future, axis=3)


def _forward(log_law: np.ndarray, evidence: np.ndarray, swap: np.ndarray) -> np.ndarray:
    """Log joint density of the features up to turn t and the state after it.

    A state is seen from its turn's speaker: (own last emotion, other party's last emotion).

    Args:
      log_law: [C + 1, C + 1, C] log p(y | s, o).
      evidence: [T, G, C] log density of the features.
      swap: [T, G] bool, whether the speaker differs from the turn before.

    Returns:
      [T, G, C, C + 1]; the speaker of turn t has spoken, so the own axis needs no last row.
    """
    num_turns, num_dialogues, num_classes = evidence.shape
    after = np.empty((num_turns, num_dialogues, num_classes, num_classes + 1))
    state = np.full((num_dialogues, num_classes + 1, num_classes + 1), -np.inf)
    state[:, -1, -1] = 0
    for turn in range(num_turns):
        state = _swap_parties(state, swap[turn])
        reached = np.logaddexp.reduce(state[..., None] + log_law, axis=1)
        after[turn] = reached.transpose(0, 2, 1) + evidence[turn][:, :, None]
        state[:, :-1] = after[turn]
        state[:, -1] = -np.inf
    return after


def _backward(log_law: np.ndarray, evidence: np.ndarray, swap: np.ndarray) -> np.ndarray:
    """Log density of the features after turn t, given the state after it.

    Args:
      log_law: [C + 1, C + 1, C] log p(y | s, o).
      evidence: [T, G, C] log density of the features.
      swap: [T, G] bool, whether the speaker differs from the turn before.

    Returns:
      [T, G, C, C + 1], states as in ``_forward``.
    """
    num_turns, num_dialogues, num_classes = evidence.shape
    future = np.zeros((num_turns, num_dialogues, num_classes, num_classes + 1))
    for turn in range(num_turns - 1, 0, -1):
        ahead = (evidence[turn][:, :, None] + future[turn]).transpose(0, 2, 1)
        state = np.logaddexp.reduce(log_law + ahead[:, None], axis=3)
        future[turn - 1] = _swap_parties(state, swap[turn])[:, :-1]
    return future


def _swap_parties(state: np.ndarray, swap: np.ndarray) -> np.ndarray:
    """[G, C + 1, C + 1] the state seen from the other party wherever ``swap`` [G] says so."""
    return np.where(swap[:, None, None], state.transpose(0, 2, 1), state)


def _normalise(log_weight: np.ndarray) -> np.ndarray:
    """[N, C] probabilities from unnormalised logarithms."""
    weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
    return weight / weight.sum(axis=1, keepdims=True)
