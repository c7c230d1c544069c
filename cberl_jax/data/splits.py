"""Names of splits as people write them, and splits that are drawn by dialogue."""

from collections.abc import Mapping

import numpy as np

from cberl_jax.errors import UserError

# What people write -> the split; upper case counts as lower.
SPLIT_NAMES = (
    dict.fromkeys(("train", "training"), "train")
    | dict.fromkeys(("dev", "val", "valid", "validation", "development"), "dev")
    | dict.fromkeys(("test", "testing"), "test")
)


def hold_out(split: np.ndarray, shares: Mapping[str, float], seed: int = 0) -> np.ndarray:
    """Moves whole train dialogues into splits that have none.

    Args:
      split: [G] str, the split of each dialogue.
      shares: ``dev`` or ``test`` -> share of the train dialogues; 0 leaves a split as it is.
      seed: of the choice.

    Returns:
      [G] str; at least one dialogue for each share above 0.

    Raises:
      UserError: a share is not within 0 and 1, leaves nothing to train on, or is of a split that
        has dialogues already.
    """
    wanted = {name: share for name, share in shares.items() if share}
    for name, share in wanted.items():
        if not 0 < share < 1:
            raise UserError(f"{name}_share={share}: has to be above 0 and below 1")
        if np.any(split == name):
            raise UserError(
                f"{name}_share={share}: there is a {name} split already; leave the share out"
            )
    pool = np.random.default_rng(seed).permutation(np.flatnonzero(split == "train"))
    counts = [max(1, round(share * len(pool))) for share in wanted.values()]
    if sum(counts) >= len(pool) and wanted:
        raise UserError(
            f"of {len(pool)} train dialogues {sum(counts)} would be held out, which leaves none to "
            "train on; lower the shares"
        )
    drawn = split.astype("U8")
    for name, part in zip(wanted, np.split(pool, np.cumsum(counts))):
        drawn[part] = name
    return drawn
