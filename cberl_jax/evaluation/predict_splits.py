"""The members' probabilities for dev and test, and their scores."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from cberl_jax.data.dataset import create_table
from cberl_jax.data.folded_dataset import stack_rows
from cberl_jax.data.packing import choose_row_length, pack, turns_of
from cberl_jax.data.standardize import Standardiser
from cberl_jax.metrics import evaluate_predictions
from cberl_jax.training.epoch import MemberState, predict
from cberl_jax.training.fleet import Fleet
from cberl_jax.training.prepare import Members, Splits
from cberl_jax.training.streaming import find_budget, stream_rows

PREDICTED = ("dev", "test")


def predict_splits(
    fleet: Fleet,
    state: MemberState,
    splits: Splits,
    standardiser: Standardiser,
    corpus_bytes: int = 0,
) -> dict[str, np.ndarray]:
    """Probabilities of every seed for dev and test, in one program.

    Args:
      fleet: the members' program and devices.
      state: the members' states on the host; the kept parameters are used.
      splits: of the corpus.
      standardiser: the train statistics that belong to the state.
      corpus_bytes: the setting ``train.corpus_bytes``.

    Returns:
      Per split ``<split>.probability`` [S, n, C], ``<split>.label`` [n] int,
      ``<split>.dialogue`` [n] str and ``<split>.utterance`` [n] int, the turn from 0; and
      ``classes`` [C] str. With folds, test holds every utterance of the corpus in its order, as
      predicted by the seed's model that did not learn from it, and dev the dev splits of all folds
      in turn; ``<split>.fold`` [n] int tells which.
    """
    program, members = fleet.program, len(state.seed)
    folds, corpora = splits
    corpus = corpora[0]
    rows = _pack(splits, program.rows)
    parts, folded = fleet.parts, bool(folds)

    def of_member(variables, shared, fold):
        table, rows = shared
        if folded:
            table, rows = table._replace(fold=fold), jax.tree.map(lambda leaf: leaf[fold], rows)
        return predict(program, variables, table, rows, parts)

    variables = fleet.shard({**state.joint.variables, "params": state.joint.best})
    number = np.arange(members, dtype=np.int32) % len(corpora)
    table = create_table(corpus, standardiser, len(corpora) if folds else 0)
    spread = fleet.shard(number)

    def predict_rows(shared):
        arguments = variables, shared, spread
        return fleet.compile("predict", of_member, arguments, keep=True)(*arguments)

    budget = find_budget(table, corpus_bytes, folds is not None)
    if budget:
        packed = stream_rows(fleet, table, rows, budget, predict_rows, members)
    else:
        packed = fleet.gather(predict_rows(fleet.replicate((table, rows))), members)
    probability = np.zeros((members, len(corpus.label), len(corpus.classes)), np.float32)
    for fold in range(len(corpora)):
        own = jax.tree.map(lambda leaf, n=fold: leaf[n], rows) if folds else rows
        used, those = own.segment > 0, np.flatnonzero(number == fold)
        probability[np.ix_(those, own.index[used])] = packed[those][:, used]
    return {"classes": np.asarray(corpus.classes)} | {
        name: array
        for split in PREDICTED
        for name, array in _of_split(splits, split, probability).items()
    }


def _pack(splits: Splits, rows_per_batch: int):
    """Dev and test of the corpus, or of each fold, in rows."""
    folds, corpora = splits
    chosen = [np.flatnonzero(corpus.split != "train") for corpus in corpora]
    lengths = corpora[0].length[np.unique(np.concatenate(chosen))]
    length = choose_row_length(lengths, rows_per_batch)
    each = [
        pack(turns_of(corpus, dialogues), length, rows_per_batch)
        for corpus, dialogues in zip(corpora, chosen)
    ]
    return stack_rows(each) if folds else each[0]


def _of_split(splits: Splits, split: str, probability: np.ndarray) -> dict[str, np.ndarray]:
    """The arrays of one split, of probabilities [S F, N, C] of all utterances."""
    folds, corpora = splits
    here = [np.flatnonzero(corpus.in_split(split)) for corpus in corpora]
    fold = np.repeat(np.arange(len(corpora)), [len(own) for own in here])
    utterance = np.concatenate(here)
    if split == "test":
        # Each is there once: in the order of the corpus.
        order = np.argsort(utterance)
        utterance, fold = utterance[order], fold[order]
    by_seed = probability.reshape(-1, len(corpora), *probability.shape[1:])
    corpus = corpora[0]
    arrays = {
        "probability": by_seed[:, fold, utterance],
        "label": corpus.label[utterance],
        "dialogue": corpus.dialogue[corpus.dialogue_of[utterance]],
        "utterance": corpus.turn[utterance],
    }
    if folds:
        arrays["fold"] = fold.astype(np.int32)
    return {f"{split}.{name}": array for name, array in arrays.items()}


def score_members(
    members: Members,
    states: Sequence[Mapping[str, Any]],
    predictions: Mapping[str, np.ndarray],
    classes: Sequence[str],
) -> list[dict[str, Any]]:
    """Scores each seed on dev and test.

    Args:
      members: the members.
      states: per member its ``status`` and kept ``epoch``.
      predictions: from ``predict_splits``.
      classes: names of the C classes.

    Returns:
      Per seed ``seed``, in a sweep ``settings``, ``status``, ``epoch``, and ``dev`` and ``test``:
      ``evaluate_predictions``, None where it has diverged or the split has no labels. With folds
      the scores are of the predictions of all folds together, ``epoch`` is the mean of the folds',
      rounded, a seed has diverged where a model of it has, and ``folds`` is a list of the
      ``status`` and ``epoch`` of each.
    """
    lines = []
    for number, first in enumerate(range(0, len(members.seeds), members.folds)):
        own = states[first : first + members.folds]
        settings = members.settings[first]
        line = {
            "seed": int(members.seeds[first]),
            **({"settings": dict(settings)} if settings else {}),
        }
        line |= next((state for state in own if state["status"] != "ok"), own[0])
        if members.folds > 1:
            line["epoch"] = round(float(np.mean([state["epoch"] for state in own])))
            line["folds"] = [dict(state) for state in own]
        for split in PREDICTED:
            line[split] = None
            label = predictions[f"{split}.label"]
            if line["status"] == "ok" and np.any(label >= 0):
                probability = predictions[f"{split}.probability"][number]
                line[split] = evaluate_predictions(label, probability, classes)
        lines.append(line)
    return lines
