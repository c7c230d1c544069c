"""A conversation as it happens: one turn in, its emotion out (a causal model).

Only what is not known yet is computed: the members see a window of the last turns and the LSTM's
state before it, and give the numbers that the whole conversation so far would give.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cberl_jax.data.corpus import Corpus
from cberl_jax.data.dataset import create_table
from cberl_jax.data.standardize import Standardiser
from cberl_jax.models.cberl import CBERL, Conversations, start_carry, window_length
from cberl_jax.models.ensemble import average_probability
from cberl_jax.models.masking import no_masking
from cberl_jax.runtime.numerics import pinned


class Emotion(NamedTuple):
    """The members' prediction for one turn.

    Attributes:
      label: the most probable class.
      probabilities: class -> mean over the members.
      spread: class -> standard deviation over the members, None with a single one.
    """

    label: str
    probabilities: dict[str, float]
    spread: dict[str, float] | None


@functools.partial(jax.jit, static_argnames="model")
def _step(
    variables: Any, carry: Any, window: Conversations, *, model: CBERL
) -> tuple[jax.Array, Any]:
    """[S, C] probabilities of the window's last turn, and the members' next carry."""
    rows, turns = window.segment.shape

    def of_member(variables: Any, carry: Any) -> tuple[jax.Array, Any]:
        (logits, _), moved = model.apply(
            {**variables, "carry": carry},
            window,
            no_masking((rows, turns)),
            0.0,
            mutable=["carry"],
        )
        return average_probability(logits[0, -1]), moved.get("carry", {})

    return jax.vmap(of_member)(variables, carry)


class Stream:
    """One conversation in progress. Made by ``Model.stream``."""

    def __init__(
        self,
        model: CBERL,
        variables: Any,
        standardiser: Standardiser,
        classes: tuple[str, ...],
        read: Callable[[Any, int], Corpus],
    ):
        """Starts a conversation.

        Args:
          model: a causal one.
          variables: its members', leaves [S, ...].
          standardiser: the train statistics.
          classes: names of the C classes.
          read: makes of a turn, and its number from 0, a corpus of one utterance.
        """
        self._model, self._variables, self._standardiser = model, variables, standardiser
        self._classes, self._read = classes, read
        members = len(jax.tree.leaves(variables)[0])
        self._carry = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf, (members, *leaf.shape)),
            start_carry(model.settings),
        )
        shape = (1, window_length(model.settings))
        self._window = Conversations(
            features={m: np.zeros((*shape, d), np.float32) for m, d in model.widths},
            present={m: np.zeros(shape, bool) for m, _ in model.widths},
            segment=np.zeros(shape, np.int32),
            speaker=np.zeros(shape, np.int32),
        )
        self._speakers: dict[str, int] = {}
        self._turns = 0

    @pinned()
    def push(self, turn: Mapping[str, Any]) -> Emotion:
        """Takes the next turn.

        Args:
          turn: a dictionary with ``speaker`` and ``features``, as in ``data/readers/jsonl.py``. Or
            without ``features``: they are then made of its ``text``, ``start`` and ``end``, and of
            the turns before it, as the run's were.

        Returns:
          Its emotion.

        Raises:
          UserError: what is wrong with the turn; the conversation goes on as if it had not been.
        """
        utterance = self._read(turn, self._turns)
        table = create_table(utterance, self._standardiser)
        name = str(utterance.speaker[0])
        number = self._speakers.setdefault(name, len(self._speakers))
        new = Conversations(
            features={m: table.features[m][None] for m in self._window.features},
            present={m: table.present[m][None] for m in self._window.present},
            segment=np.ones((1, 1), np.int32),
            speaker=np.full((1, 1), number, np.int32),
        )
        self._window = jax.tree.map(
            lambda old, one: np.concatenate([old[:, 1:], one], axis=1), self._window, new
        )
        found, self._carry = _step(self._variables, self._carry, self._window, model=self._model)
        self._turns += 1
        return self._emotion(np.asarray(found))

    def _emotion(self, members: np.ndarray) -> Emotion:
        mean = members.mean(axis=0)
        spread = None
        if len(members) > 1:
            deviation = members.std(axis=0, ddof=1)
            spread = dict(zip(self._classes, deviation.tolist()))
        label = self._classes[int(mean.argmax())]
        return Emotion(label, dict(zip(self._classes, mean.tolist())), spread)
