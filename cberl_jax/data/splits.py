"""Splits that are drawn from train by whole dialogues."""

from collections.abc import Mapping

import numpy as np

from cberl_jax.data.holdout import hold_out_dev
from cberl_jax.errors import UserError

LARGEST_SHARE = 0.5


def hold_out(
    split: np.ndarray,
    label: np.ndarray,
    length: np.ndarray,
    shares: Mapping[str, float],
    seed: int = 0,
) -> np.ndarray:
    """Moves whole train dialogues into splits that have none.

    Args:
      split: [G] str, the split of each dialogue.
      label: [N] int labels, -1 for none; dialogues are chosen as ``hold_out_dev`` says.
      length: [G] int utterances per dialogue.
      shares: ``dev`` or ``test`` -> share of the train dialogues; 0 leaves a split as it is.
      seed: of the choice.

    Returns:
      [G] str; at least one dialogue for each share above 0.

    Raises:
      UserError: a share is not within 0 and a half, is more than half of what an earlier one
        leaves, leaves nothing to train on, or is of a split that has dialogues already.
    """
    drawn, left = split.astype("U8"), 1.0
    for name, share in shares.items():
        if not share:
            continue
        if not 0 < share <= LARGEST_SHARE:
            raise UserError(f"{name}_share = {share}: has to be from 0 to {LARGEST_SHARE}")
        # Rounding aside; what would be taken instead is less than was asked for.
        if share > LARGEST_SHARE * left + 1e-9:
            raise UserError(
                f"{name}_share = {share}: is more than half of the train dialogues that the other "
                f"share leaves; {LARGEST_SHARE * left:g} is the most"
            )
        if np.any(drawn == name):
            raise UserError(f"{name}_share = {share}: there is a {name} split; leave the share out")
        train = np.flatnonzero(drawn == "train")
        own = label[np.repeat(drawn == "train", length)]
        taken = hold_out_dev(own, length[train], min(share / left, LARGEST_SHARE), seed)
        if not taken.any() or taken.all():
            raise UserError(f"train has too few dialogues to hold some out for {name}")
        drawn[train[taken]] = name
        left -= share
    return drawn
