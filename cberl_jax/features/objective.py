"""What a text encoder is tuned on: the losses, in torch.

Cross entropy, or the focal loss of ``cberl_jax/losses.py`` with its class weights; beside it, where
it is given a weight, a contrastive term with prototypes (Song et al., Supervised Prototypical
Contrastive Learning for Emotion Recognition in Conversation, EMNLP 2022). Left out of that paper
are its curriculum and its prompt.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cberl_jax.features.tuning import Loss
from cberl_jax.losses import class_balanced_weights

# Of the paper's settings for MELD: its queue holds 256 per class, of which 64 make a prototype.
QUEUE, SUPPORT = 256, 64


def focal_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    gamma: float,
    class_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """The focal loss of ``cberl_jax.losses.focal_loss``, for torch.

    Args:
      logits: [n, C] float.
      labels: [n] int in 0..C-1.
      gamma: the focusing factor, not negative; at 0 it is the cross entropy.
      class_weights: [C], or None for one.

    Returns:
      [n] float, not negative.

    References:
      Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, equations 4 and 5.
    """
    target = functional.one_hot(labels, logits.shape[-1]).bool()
    log_true = logits.log_softmax(-1)[target]
    others = logits.masked_fill(target, -torch.inf)
    log_others = others.logsumexp(-1) - logits.logsumexp(-1)
    loss = -torch.exp(gamma * log_others.clamp(max=0.0)) * log_true
    return loss if class_weights is None else loss * class_weights[labels]


def prototypical_contrastive(
    features: torch.Tensor,
    labels: torch.Tensor,
    prototypes: torch.Tensor,
    known: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """Supervised contrastive loss with a prototype of each class beside the batch.

    With F(a, b) = exp(cos(a, b) / temperature), A(i) the batch without i, P(i) those of A(i) with
    the label of i, T_c the prototype of class c::

        positive = sum_{p in P(i)} F(z_i, z_p) + F(z_i, T_{y_i})
        all      = sum_{j in A(i)} F(z_i, z_j) + sum_c F(z_i, T_c)
        loss_i   = -log(positive / (|P(i)| + 1) / all)

    A rare class that is alone in a batch is drawn to its prototype. A class without a prototype has
    no such term; an utterance with neither has a loss of 0.

    Args:
      features: [n, d] float.
      labels: [n] int.
      prototypes: [C, d] float.
      known: [C] bool, which prototypes there are.
      temperature: above 0.

    Returns:
      [n] float.

    References:
      Song et al., EMNLP 2022, section 3.3. The own prototype is in the denominator, too, so that
      no quotient is above 1.
    """
    own = functional.normalize(features, dim=-1)
    anchors = torch.cat([own, functional.normalize(prototypes, dim=-1)])
    classes = torch.cat([labels, torch.arange(len(prototypes), device=labels.device)])
    itself = torch.eye(len(own), len(anchors), dtype=torch.bool, device=labels.device)
    there = torch.cat([torch.ones_like(labels, dtype=torch.bool), known]) & ~itself
    score = (own @ anchors.T / temperature).masked_fill(~there, -torch.inf)
    positive = there & (classes == labels[:, None])
    count = positive.sum(-1)
    # Rows without a positive are given one, so that no infinity reaches the gradient.
    alone = count == 0
    positive = positive | (alone[:, None] & itself)
    score = torch.where(alone[:, None] & itself, 0.0, score)
    near = score.masked_fill(~positive, -torch.inf).logsumexp(-1)
    loss = score.logsumexp(-1) - near + torch.log(count.clamp(min=1).to(score.dtype))
    return torch.where(alone, torch.zeros_like(loss), loss)


class Objective(nn.Module):
    """A linear layer over features, and the loss of its logits."""

    def __init__(self, loss: Loss, width: int, counts: np.ndarray):
        """Args: the loss; width d of the features; [C] train utterances per class."""
        super().__init__()
        self.loss, classes = loss, len(counts)
        self.head = nn.Linear(width, classes)
        weights = torch.ones(classes)
        if loss.class_balance:
            balanced = np.array(class_balanced_weights(counts, beta=loss.class_balance))
            weights = torch.from_numpy(balanced)
        self.register_buffer("weights", weights)
        if loss.contrastive:
            self.register_buffer("queue", torch.zeros(classes, QUEUE, width))
            self.register_buffer("seen", torch.zeros(classes, dtype=torch.long))

    def forward(self, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of a batch [n, d] with labels [n], a scalar."""
        features = features.float()
        gamma = self.loss.gamma if self.loss.name == "focal" else 0.0
        each = focal_loss(
            self.head(features), labels, gamma=gamma, class_weights=self.weights.to(features)
        )
        if self.loss.contrastive:
            prototypes, known = self._prototypes()
            term = prototypical_contrastive(
                features, labels, prototypes, known, self.loss.temperature
            )
            each = each + self.loss.contrastive * term
            self._remember(features.detach(), labels)
        return each.mean()

    def _prototypes(self) -> tuple[torch.Tensor, torch.Tensor]:
        """[C, d] means of utterances drawn from each class's queue, and [C] which there are."""
        held = self.seen.clamp(max=QUEUE)
        draws = torch.rand(len(held), SUPPORT, device=held.device) * held[:, None]
        index = draws.long().clamp(max=QUEUE - 1)
        own = torch.gather(self.queue, 1, index[..., None].expand(-1, -1, self.queue.shape[-1]))
        return own.mean(1), held > 0

    def _remember(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Puts utterances in the place of the oldest ones of their classes."""
        for row, label in zip(features, labels.tolist()):
            self.queue[label, self.seen[label] % QUEUE] = row
            self.seen[label] += 1
