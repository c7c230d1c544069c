"""A dev split taken out of train: for corpora without one, or in place of their own."""

import dataclasses

import numpy as np

from cberl_jax.data.corpus import UNLABELLED, Corpus

# Where a pickle has no dev split and no share is named.
USUAL_SHARE = 0.1


def hold_out_dev(
    label: np.ndarray, length: np.ndarray, share: float = USUAL_SHARE, seed: int = 0
) -> np.ndarray:
    """Chooses whole dialogues for a dev split, stratified by each dialogue's rarest class.

    The dialogues are sorted by their rarest class, at random within it, and every (1 /
    share)-th is taken. One that is alone with its rarest class is never taken, so that train
    keeps the class.

    Args:
      label: [N] int labels of the train split, ``UNLABELLED`` where there is none.
      length: [G] int utterances per dialogue.
      share: part of the dialogues to take, at least one; at most a half.
      seed: of the random choice.

    Returns:
      [G] bool, the dialogues to hold out; none if every dialogue is alone with its rarest
      class.
    """
    random = np.random.default_rng(seed)
    rarest = _rank_rarest(label, length)
    order = np.lexsort([random.random(len(length)), rarest])
    alone = np.bincount(rarest)[rarest] == 1
    pool = order[~alone[order]]
    taken = np.zeros(len(length), bool)
    if pool.size:
        count = min(max(1, round(share * len(length))), (pool.size + 1) // 2)
        steps = (np.arange(count) + random.random()) * pool.size / count
        taken[pool[steps.astype(int)]] = True
    return taken


def rank_dialogues(
    label: np.ndarray, length: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """[G] int, the dialogues sorted by their rarest class, at random within it.

    Args:
      label: [N] int, ``UNLABELLED`` where there is none.
      length: [G] int utterances per dialogue.
      random: of the order.
    """
    return np.lexsort([random.random(len(length)), _rank_rarest(label, length)])


def _rank_rarest(label: np.ndarray, length: np.ndarray) -> np.ndarray:
    """[G] int, how rare the rarest class of each dialogue is, 0 for the rarest of all."""
    counts = np.bincount(label[label != UNLABELLED], minlength=1)
    # Unlabelled utterances rank behind all classes, so they decide only where nothing else can.
    rank = np.append(np.argsort(np.argsort(counts, kind="stable")), len(counts))
    starts = np.concatenate([[0], np.cumsum(length)[:-1]])
    return np.minimum.reduceat(rank[label], starts)


def with_dev(corpus: Corpus, share: float) -> Corpus:
    """A corpus with a dev split.

    Args:
      corpus: sound but for the dev split, which may have no dialogue.
      share: of the train dialogues; 0 to leave the corpus as it is.

    Returns:
      The corpus, with dialogues of train in dev; the same corpus if it has a dev split, no train
      split or ``share`` is 0.

    Raises:
      UserError: train has too few dialogues to hold some out.
    """
    train = corpus.split == "train"
    if not share or not train.any() or np.any(corpus.split == "dev"):
        return corpus
    dev = hold_out_dev(corpus.label[np.repeat(train, corpus.length)], corpus.length[train], share)
    if not dev.any():
        raise corpus.error("train has too few dialogues to hold some out for dev.")
    split = corpus.split.astype("U5")
    split[np.flatnonzero(train)[dev]] = "dev"
    remark = (
        f"the file has no dev split: {dev.sum()} of {len(dev)} train dialogues are held out as dev "
        "(--dev_share sets the share)"
    )
    return dataclasses.replace(corpus, split=split, remarks=(*corpus.remarks, remark))


def with_other_dev(corpus: Corpus, seed: int) -> Corpus:
    """A corpus whose dev split is as many other dialogues, drawn out of train.

    Args:
      corpus: the corpus.
      seed: of the draw; 0 to leave the corpus as it is.

    Returns:
      The corpus, the dialogues of its own dev split in train; test stays.

    Raises:
      UserError: there is no dev split, or train has fewer than twice as many dialogues.
    """
    if not seed:
        return corpus
    train, dev = np.flatnonzero(corpus.split == "train"), corpus.split == "dev"
    if not dev.any() or len(train) < 2 * dev.sum():
        raise corpus.error(
            f"has {dev.sum()} dialogues in dev and {len(train)} in train; data.other_dev needs a "
            "dev split, and twice as many dialogues in train."
        )
    of_train = np.repeat(corpus.split == "train", corpus.length)
    share = dev.sum() / len(train)
    taken = hold_out_dev(corpus.label[of_train], corpus.length[train], share, seed)
    split = corpus.split.copy()
    split[dev], split[train[taken]] = "train", "dev"
    return dataclasses.replace(corpus, split=split)
