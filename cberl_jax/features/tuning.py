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
from cberl_jax.features.optional import load_library

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

BATCH = 32
WEIGHT_DECAY = 0.01


class Tuning(NamedTuple):
    """How long and how fast to tune: epochs, AdamW's learning rate, and the seed of all draws."""

    epochs: int = 3
    learning_rate: float = 2e-5
    seed: int = 0


class Part(NamedTuple):
    """The labelled, non-empty utterances of one split: n texts and their labels [n] int."""

    texts: list[str]
    label: np.ndarray


def labelled_part(transcript: Transcript, split: str) -> Part:
    """What one split has to learn from, or to be judged by.

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
    return Part([transcript.turns[row].text for row in rows], transcript.label[rows])


def tune(
    encoder: "SentenceTransformer",
    transcript: Transcript,
    tuning: Tuning,
    say: Callable[[str], None] = print,
) -> None:
    """Tunes the encoder in place.

    Args:
      encoder: as of ``load_encoder``.
      transcript: utterances with labels in train and dev.
      tuning: how long and how fast.
      say: is told each epoch's weighted F1 on dev.

    Raises:
      UserError: train or dev has no label.
    """
    torch = load_library("torch")
    train, dev = labelled_part(transcript, "train"), labelled_part(transcript, "dev")
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
        _train_epoch(encoder, head, optimiser, train)
        predicted = _predict(encoder, head, dev.texts)
        score = f1_score(dev.label, predicted, average="weighted")
        say(f"text encoder, epoch {epoch + 1}/{tuning.epochs}: weighted F1 {score:.3f} on dev")
        if score > best:
            best, kept = score, copy.deepcopy(encoder.state_dict())
    encoder.load_state_dict(kept)


def _train_epoch(
    encoder: "SentenceTransformer",
    head: "torch.nn.Linear",
    optimiser: "torch.optim.Optimizer",
    train: Part,
) -> None:
    torch = load_library("torch")
    batch_to_device = load_library("sentence_transformers.util").batch_to_device
    encoder.train()
    label = torch.as_tensor(train.label, dtype=torch.long, device=encoder.device)
    for rows in torch.randperm(len(train.texts)).split(BATCH):
        tokens = encoder.preprocess([train.texts[row] for row in rows])
        tokens = batch_to_device(tokens, encoder.device)
        logits = head(encoder(tokens)["sentence_embedding"])
        loss = torch.nn.functional.cross_entropy(logits, label[rows.to(encoder.device)])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def _predict(
    encoder: "SentenceTransformer", head: "torch.nn.Linear", texts: list[str]
) -> np.ndarray:
    """[n] int, the head's classes."""
    torch = load_library("torch")
    with torch.no_grad():
        embedded = encoder.encode(texts, convert_to_tensor=True, show_progress_bar=False)
        return head(embedded).argmax(dim=-1).cpu().numpy()
