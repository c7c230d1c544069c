"""The members' probabilities for dev and test, and their scores."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cberl_jax.data.corpus import Corpus
from cberl_jax.data.dataset import create_table
from cberl_jax.data.packing import pack_dialogues
from cberl_jax.data.standardize import Standardiser
from cberl_jax.metrics import evaluate_predictions
from cberl_jax.training.epoch import MemberState, predict
from cberl_jax.training.fleet import Fleet
from cberl_jax.training.prepare import Members


def predict_splits(
    fleet: Fleet, state: MemberState, corpus: Corpus, standardiser: Standardiser
) -> dict[str, np.ndarray]:
    """Probabilities of every member for dev and test, in one program.

    Args:
      fleet: the members' program and devices.
      state: the members' states on the host; the kept parameters are used.
      corpus: the corpus.
      standardiser: the train statistics that belong to the state.

    Returns:
      Per split ``<split>.probability`` [S, n, C], ``<split>.label`` [n] int,
      ``<split>.dialogue`` [n] str and ``<split>.utterance`` [n] int, the turn from 0; and
      ``classes`` [C] str.
    """
    program, members = fleet.program, len(state.seed)
    rows = pack_dialogues(corpus, corpus.split != "train", program.rows)

    def of_member(variables, shared, _):
        return predict(program, variables, *shared, fleet.place)

    variables = fleet.shard({**state.joint.variables, "params": state.joint.best})
    shared = fleet.replicate((create_table(corpus, standardiser), rows))
    nothing = fleet.shard(np.zeros(members, np.float32))
    function = fleet.compile("predict", of_member, variables, shared, nothing, keep=True)
    packed = fleet.gather(function(variables, shared, nothing), members)
    probability = np.zeros((members, len(corpus.label), len(corpus.classes)), np.float32)
    used = rows.segment > 0
    probability[:, rows.index[used]] = packed[:, used]

    arrays = {"classes": np.asarray(corpus.classes)}
    for split in ("dev", "test"):
        here = corpus.in_split(split)
        arrays[f"{split}.probability"] = probability[:, here]
        arrays[f"{split}.label"] = corpus.label[here]
        arrays[f"{split}.dialogue"] = corpus.dialogue[corpus.dialogue_of[here]]
        arrays[f"{split}.utterance"] = corpus.turn[here]
    return arrays


def score_members(
    members: Members,
    states: Sequence[Mapping[str, Any]],
    predictions: Mapping[str, np.ndarray],
    classes: Sequence[str],
) -> list[dict[str, Any]]:
    """Scores each member on dev and test.

    Args:
      members: the members.
      states: per member its ``status`` and kept ``epoch``.
      predictions: from ``predict_splits``.
      classes: names of the C classes.

    Returns:
      Per member ``seed``, in a sweep ``settings``, ``status``, ``epoch``, and ``dev`` and ``test``:
      ``evaluate_predictions``, None where it has diverged or the split has no labels.
    """
    lines = []
    for number, (seed, settings, state) in enumerate(zip(members.seeds, members.settings, states)):
        line = {"seed": int(seed), **({"settings": dict(settings)} if settings else {}), **state}
        for split in ("dev", "test"):
            line[split] = None
            label = predictions[f"{split}.label"]
            if state["status"] == "ok" and np.any(label >= 0):
                probability = predictions[f"{split}.probability"][number]
                line[split] = evaluate_predictions(label, probability, classes)
        lines.append(line)
    return lines
