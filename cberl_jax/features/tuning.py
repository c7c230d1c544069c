"""How a text encoder is tuned on the emotions of the train split: settings, and its utterances.

The work itself is in ``trainer.py``, which needs torch. The train features of a tuned encoder are
more separable than new ones will ever be: see the limits in BUILD_NOTES.md, and ``crossfit.py``.
"""

from typing import Any, NamedTuple

import numpy as np

from cberl_jax.data.readers.transcripts import Transcript
from cberl_jax.errors import UserError
from cberl_jax.metrics import SELECTIONS

LOSSES = ("cross_entropy", "focal")
PRECISIONS = ("auto", "float32", "bfloat16")


class Loss(NamedTuple):
    """The loss of a tuning.

    Attributes:
      name: one of ``LOSSES``.
      gamma: focusing factor of the focal loss.
      class_balance: beta of the class weights by the effective number of samples; 0 for none.
      contrastive: weight of the contrastive term, see ``objective.py``; 0 for none.
      temperature: of that term.
    """

    name: str = "cross_entropy"
    gamma: float = 1.0
    class_balance: float = 0.0
    contrastive: float = 0.0
    temperature: float = 0.1


class Tuning(NamedTuple):
    """How an encoder is tuned.

    Attributes:
      epochs: at most, of which the best on dev is kept.
      learning_rate: of AdamW, at its highest: it rises over the first tenth of the steps and then
        falls to zero, both linearly.
      seed: of all draws.
      loss: what is minimised.
      select: dev metric that picks the epoch, one of ``metrics.SELECTIONS``.
      patience: epochs without a gain on dev after which it ends.
      freeze_layers: lowest layers that do not learn.
      layer_decay: times which each layer learns more slowly than the one above it.
      precision: one of ``PRECISIONS``; auto takes bfloat16 where the machine multiplies it.
      crossfit: folds of the train dialogues, see ``crossfit.py``; 0 for one encoder.
    """

    epochs: int = 3
    learning_rate: float = 2e-5
    seed: int = 0
    loss: Loss = Loss()
    select: str = "mean_f1"
    patience: int = 2
    freeze_layers: int = 0
    layer_decay: float = 1.0
    precision: str = "auto"
    crossfit: int = 0

    def flatten(self) -> dict[str, Any]:
        """Name -> value, for a file."""
        own = self._asdict()
        return own | {f"loss_{k}": v for k, v in own.pop("loss")._asdict().items()}


def check_tuning(tuning: Tuning) -> None:
    """Refuses settings that mean nothing.

    Raises:
      UserError: naming the flag.
    """
    loss = tuning.loss
    if tuning.crossfit in (1, 2):
        raise UserError(
            f"--crossfit={tuning.crossfit}: no two encoders would learn from a common utterance, "
            "by which their spaces are aligned; 0, or 3 and more, will do."
        )
    if not 0 <= loss.class_balance < 1:
        raise UserError(
            f"--finetune_class_balance={loss.class_balance}: has to be at least 0 and below 1."
        )
    known = (
        ("finetune_loss", loss.name, LOSSES),
        ("finetune_select", tuning.select, SELECTIONS),
        ("precision", tuning.precision, PRECISIONS),
    )
    for flag, value, names in known:
        if value not in names:
            raise UserError(f"--{flag}={value}: has to be one of {', '.join(names)}.")


def labelled_rows(transcript: Transcript, split: str) -> np.ndarray:
    """[n] int, the utterances that one split has to learn from, or to be judged by.

    Raises:
      UserError: it has nothing.
    """
    rows = np.flatnonzero(transcript.in_split(split) & (transcript.label >= 0))
    rows = [row for row in rows if transcript.turns[row].text]
    if not transcript.has_splits or not rows:
        raise UserError(
            f"{transcript.source}: the {split} split has no labelled utterance; tuning the text "
            "encoder needs labels in train and in dev."
        )
    return np.array(rows)
