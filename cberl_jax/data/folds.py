"""Folds of whole dialogues, for corpora without a dev and test split worth the name.

The test split of fold k is fold k; its dev split is a share of the other dialogues. The splits of
the file do not count.
"""

import dataclasses
import hashlib
import re
import warnings
from typing import Any, NamedTuple

import numpy as np

from cberl_jax.data.corpus import Corpus, shown
from cberl_jax.data.holdout import hold_out_dev

SPEAKER, SESSION = "speaker", "session"
# IEMOCAP's dialogues: Ses01F_impro01 is of session 1.
_SESSION = re.compile(r"(Ses\d+)")
# Without a number of folds every group is a fold, unless there are more than these.
MOST_GROUPS, USUAL_FOLDS = 10, 5

# What a run's folder keeps of its folds.
OF_FOLDS = ("folds", "fold_of_dialogue")


class Folds(NamedTuple):
    """Which fold each dialogue is tested in.

    Attributes:
      names: [F] of the folds.
      of_dialogue: [G] int in 0..F-1.
    """

    names: tuple[str, ...]
    of_dialogue: np.ndarray


def make_folds(corpus: Corpus, count: int, by: str, seed: int = 0) -> Folds:
    """Assigns every dialogue of a corpus to a fold.

    Args:
      corpus: G dialogues; its splits do not count.
      count: of folds; 0 for a fold per group, or ``USUAL_FOLDS`` of more than ``MOST_GROUPS``.
      by: dialogues of a group stay together: ``speaker`` (those that share one), ``session`` (of
        IEMOCAP's ids), or a key of ``corpus.groups``; empty for single dialogues.
      seed: of the assignment.

    Returns:
      The folds. Where their number is given, the classes are balanced between them as far as whole
      groups allow (scikit-learn's ``StratifiedGroupKFold``).

    Raises:
      UserError: there are fewer groups than folds, or they cannot be told.
    """
    names, of_group = np.unique(_groups(corpus, by), return_inverse=True)
    if not count:
        count = len(names) if len(names) <= MOST_GROUPS else USUAL_FOLDS
    if count < 2:
        raise corpus.error(f"folds need at least 2 parts, not {count}.")
    if count > len(names):
        what = f"groups by {by}" if by else "dialogues"
        raise corpus.error(f"{count} folds need as many {what}; there are {len(names)}.")
    if by and count == len(names):
        return Folds(tuple(map(str, names)), of_group.astype(np.int32))
    assigned = _balance(corpus, of_group, count, seed)
    return Folds(tuple(str(n + 1) for n in range(count)), assigned)


def describe_folds(folds: Folds | None) -> dict[str, Any]:
    """What a run's folder keeps of its folds: names, and a digest of who is in which."""
    if folds is None:
        return {}
    digest = hashlib.sha256(np.ascontiguousarray(folds.of_dialogue, "<i4").tobytes()).hexdigest()
    return dict(zip(OF_FOLDS, (list(folds.names), digest)))


def _balance(corpus: Corpus, group: np.ndarray, count: int, seed: int) -> np.ndarray:
    """[G] int, folds in which the classes are balanced, given the group [G] of each dialogue."""
    from sklearn.model_selection import StratifiedGroupKFold

    # Unlabelled utterances count as a class of their own: they fill folds, too.
    label, dialogue = corpus.label, corpus.dialogue_of
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    # That a class has fewer utterances than folds is no fault here: some folds lack it.
    fold = np.zeros(len(corpus.dialogue), np.int32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        parts = list(splitter.split(np.zeros(len(label)), label, group[dialogue]))
    for number, (_, held_out) in enumerate(parts):
        fold[dialogue[held_out]] = number
    return fold


def _groups(corpus: Corpus, by: str) -> np.ndarray:
    """[G] the group of each dialogue."""
    if not by:
        return corpus.dialogue
    if by == SPEAKER:
        return _by_speaker(corpus)
    if by == SESSION:
        found = [_SESSION.match(str(name)) for name in corpus.dialogue]
        unknown = [name for name, match in zip(corpus.dialogue, found) if match is None]
        if unknown:
            raise corpus.error(
                f"the session of dialogue {shown(unknown[0])} is not known: sessions are read from "
                "ids like IEMOCAP's (Ses01F_impro01)."
            )
        return np.array([match[1] for match in found])
    if by not in corpus.groups:
        known = ", ".join((SPEAKER, SESSION, *corpus.groups))
        raise corpus.error(
            f"there is nothing called {shown(by)} to make folds by, only {known}; an .npz names "
            f"the group of each dialogue in group.{by}."
        )
    return corpus.groups[by]


def _by_speaker(corpus: Corpus) -> np.ndarray:
    """[G] str, the first dialogue of those that are joined by their speakers."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    speaker, number = np.unique(corpus.speaker, return_inverse=True)
    dialogues = len(corpus.dialogue)
    links = coo_array(
        (np.ones(len(number), np.int8), (corpus.dialogue_of, dialogues + number)),
        shape=(dialogues + len(speaker),) * 2,
    )
    count, part = connected_components(links, directed=False)
    if count == 1:
        often = np.bincount(np.unique([corpus.dialogue_of, number], axis=1)[1])
        raise corpus.error(
            f"speakers join all {dialogues} dialogues, so no fold can be without the speakers of "
            f"the others ({shown(speaker[often.argmax()])} alone is in {often.max()} of them)."
        )
    _, first = np.unique(part[:dialogues], return_index=True)
    return corpus.dialogue[first][np.unique(part[:dialogues], return_inverse=True)[1]]


def check_unseen(corpus: Corpus) -> None:
    """Refuses features that an encoder made that was tuned on the labels of the train split.

    Every fold is tested, or dialogues of train judge as another dev split. Cross-fitted features
    are made by encoders that have not seen the labels of their own dialogues, but of the table
    alone that they were cross-fitted on: of another one, which may hold the same dialogues, all
    encoders make them.

    Raises:
      UserError: the corpus says of itself that it has such features.
    """
    for name in corpus.features:
        record = corpus.provenance.get(name, {})
        tuning = record.get("tuning")
        if not tuning:
            continue
        if not record.get("crossfit"):
            raise corpus.error(
                f"its features {name} are of an encoder that was tuned on labels of its train "
                "split, so that it has seen what folds test, or another dev split judges by: make "
                "them by an encoder that is not tuned, or by cberl extract --finetune "
                "--crossfit=5; --allow_seen takes them all the same."
            )
        learnt = tuning.get("transcript") if isinstance(tuning, dict) else None
        if learnt != record.get("transcript"):
            raise corpus.error(
                f"its features {name} are of encoders that were cross-fitted on another table, so "
                "that some may have seen what folds test, or another dev split judges by: "
                "cross-fit on this one by cberl extract --finetune=FOLDER --crossfit=5; "
                "--allow_seen takes them all the same."
            )


def warn_of_seen(corpus: Corpus) -> list[str]:
    """What to know where folds are made of features that do not say how they were made."""
    unknown = [name for name in corpus.features if name not in corpus.provenance]
    if not unknown:
        return []
    return [
        f"the file does not say how {', '.join(unknown)} was made; if an encoder was tuned on "
        "these labels, the scores of folds are too high"
    ]


def pool_splits(corpus: Corpus, split: str) -> Corpus:
    """A corpus all of whose dialogues are in one split: all are learnt from, and all are tested."""
    return dataclasses.replace(corpus, split=np.full(len(corpus.split), split))


def split_by_fold(corpus: Corpus, folds: Folds, number: int, dev_share: float) -> Corpus:
    """A corpus whose test split is one fold.

    Args:
      corpus: the corpus.
      folds: its folds.
      number: of the fold.
      dev_share: share of the other dialogues that become dev, at least one.

    Raises:
      UserError: too few dialogues are left for train and dev.
    """
    rest = folds.of_dialogue != number
    of_rest = np.repeat(rest, corpus.length)
    dev = hold_out_dev(corpus.label[of_rest], corpus.length[rest], dev_share, seed=number)
    if not dev.any():
        raise corpus.error(
            f"without fold {folds.names[number]} too few dialogues are left to hold some out for "
            "dev."
        )
    split = np.full(len(corpus.dialogue), "test", "U5")
    split[rest] = np.where(dev, "dev", "train")
    return dataclasses.replace(corpus, split=split)
