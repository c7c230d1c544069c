"""Fine-tunes a sentence encoder on the emotions of the train split.

A linear layer over the pooled embedding learns the labels together with the encoder; after each
epoch it is asked for the emotions of dev, and the encoder of the best epoch is kept, without the
layer. No label of test is used, and of dev only for that choice. The train features of a tuned
encoder are more separable than new ones will ever be: see the limits in BUILD_NOTES.md.
"""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from sklearn.metrics import f1_score

from cberl_jax.data.readers.transcripts import Transcript
from cberl_jax.errors import UserError
from cberl_jax.features.context import Inputs, embed
from cberl_jax.features.optional import load_library

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

BATCH = 32
WEIGHT_DECAY = 0.01


class Tuning(NamedTuple):
    """How long and how fast to tune: epochs, AdamW's learning rate, and the seed of all draws."""

    epochs: int = 3
    learning_rate: float = 2e-5
    seed: int = 0


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


def tune(
    encoder: "SentenceTransformer",
    inputs: Inputs,
    transcript: Transcript,
    tuning: Tuning,
    say: Callable[[str], None] = print,
) -> None:
    """Tunes the encoder in place.

    Args:
      encoder: as of ``load_encoder``.
      inputs: what it reads of the transcript.
      transcript: utterances with labels in train and dev.
      tuning: how long and how fast.
      say: is told each epoch's weighted F1 on dev.

    Raises:
      UserError: train or dev has no label.
    """
    torch = load_library("torch")
    train, dev = (labelled_rows(transcript, split) for split in ("train", "dev"))
    torch.manual_seed(tuning.seed)
    width, classes = encoder.get_embedding_dimension(), len(transcript.classes)
    head = torch.nn.Linear(width, classes, device=encoder.device)
    optimiser = torch.optim.AdamW(
        [*encoder.parameters(), *head.parameters()],
        lr=tuning.learning_rate,
        weight_decay=WEIGHT_DECAY,
    )
    best, kept = -1.0, None
    for epoch in range(tuning.epochs):
        _train_epoch(encoder, head, optimiser, inputs, train, transcript.label)
        predicted = _predict(encoder, head, inputs, dev)
        score = f1_score(transcript.label[dev], predicted, average="weighted")
        say(f"text encoder, epoch {epoch + 1}/{tuning.epochs}: weighted F1 {score:.3f} on dev")
        if score > best:
            best, kept = score, copy.deepcopy(encoder.state_dict())
    encoder.load_state_dict(kept)


def _train_epoch(encoder, head, optimiser, inputs: Inputs, rows: np.ndarray, label: np.ndarray):
    torch = load_library("torch")
    encoder.train()
    which = np.searchsorted(inputs.rows, rows)
    target = torch.as_tensor(label[rows], dtype=torch.long, device=encoder.device)
    for batch in torch.randperm(len(rows)).split(BATCH):
        logits = head(embed(encoder, inputs, which[batch]))
        loss = torch.nn.functional.cross_entropy(logits, target[batch.to(encoder.device)])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def _predict(encoder, head, inputs: Inputs, rows: np.ndarray) -> np.ndarray:
    """[n] int, the head's classes."""
    torch = load_library("torch")
    encoder.eval()
    which = np.searchsorted(inputs.rows, rows)
    with torch.no_grad():
        parts = [
            head(embed(encoder, inputs, own))
            for own in np.array_split(which, len(which) // BATCH + 1)
        ]
        return torch.cat(parts).argmax(dim=-1).cpu().numpy()
