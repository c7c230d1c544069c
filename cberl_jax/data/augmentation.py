"""Where generated utterances go: copies of training dialogues (section 3.1, [ours]).

A generated utterance needs a conversation. Training dialogues that hold an utterance of a minority
class are copied; in a copy the minority utterances' features are replaced by generated ones until
their class has its share, the rest stays as context that no loss counts. Which utterance each
generated one is made from is decided here; the features themselves are made anew every epoch, by
each member's own GAN or by a simpler remedy, so that all remedies share one rule of placement.
"""

from typing import NamedTuple

import numpy as np

from cberl_jax.data.corpus import Corpus
from cberl_jax.data.packing import Turns, turns_of

# Of the largest class; where nothing is filled up, the minority classes have less.
MINORITY_SHARE = 0.5


class Placement(NamedTuple):
    """M generated utterances and the dialogues that hold them.

    Attributes:
      minority: [C] bool, the classes that are generated.
      source: [M] int, the utterance that each is made from (index into the corpus): a majority one,
        or the very one that it replaces.
      target: [M] int, the class that each has to express.
      copies: the copied dialogues; the turn of generated utterance k has index N + k.
    """

    minority: np.ndarray
    source: np.ndarray
    target: np.ndarray
    copies: Turns


def choose_copies(held: np.ndarray, counts: np.ndarray, wanted: np.ndarray, most: int):
    """Chooses which dialogues to copy, rarest class first.

    Each class in turn takes copies of the dialogues that hold it, least copied first, until its
    share is reached, or every such dialogue has been copied ``most`` times.

    Args:
      held: [V, C] utterances of each minority class in each dialogue.
      counts: [C] real utterances per class.
      wanted: [C] utterances per class to be reached.
      most: copies per dialogue.

    Returns:
      [V] copies of each dialogue.
    """
    copies = np.zeros(len(held), np.int64)
    reached = counts.astype(np.int64).copy()
    for label in np.argsort(counts, kind="stable"):
        holders = np.flatnonzero(held[:, label])
        # Dialogues dense in this class first: fewer context turns per generated one.
        density = held[holders, label] / np.maximum(held[holders].sum(axis=1), 1)
        holders = holders[np.argsort(-density, kind="stable")]
        while reached[label] < wanted[label]:
            open_ = holders[copies[holders] < most]
            if not len(open_):
                break
            chosen = open_[np.argmin(copies[open_])]
            copies[chosen] += 1
            reached += held[chosen]
    return copies


def choose_sources(corpus: Corpus, minority: np.ndarray, speaker: np.ndarray, seed: int):
    """Draws a majority train utterance for each generated one, of its own speaker if there is one.

    Args:
      corpus: the corpus.
      minority: [C] bool.
      speaker: [M] str, the speaker of each generated utterance.
      seed: of the draw.

    Returns:
      [M] int indices into the corpus.
    """
    generator = np.random.default_rng(seed)
    label = np.maximum(corpus.label, 0)
    usable = corpus.in_split("train") & (corpus.label >= 0) & ~minority[label]
    pool = np.flatnonzero(usable)
    of_speaker: dict[str, list[int]] = {}
    for utterance in pool:
        of_speaker.setdefault(str(corpus.speaker[utterance]), []).append(int(utterance))
    draws = [generator.choice(of_speaker.get(str(name)) or pool) for name in speaker]
    return np.asarray(draws, np.int32)


def _choose_generated(label: np.ndarray, lacking: np.ndarray, minority: np.ndarray) -> np.ndarray:
    """[T] bool, the copied turns to be generated: of each minority class as many as it lacks."""
    generated = np.zeros(len(label), bool)
    for number in np.flatnonzero(minority):
        generated[np.flatnonzero(label == number)[: lacking[number]]] = True
    return generated


def find_minority(corpus: Corpus, balance: float) -> np.ndarray:
    """[C] bool, classes of the train split under a share ``balance`` of the largest one."""
    counts = corpus.class_counts("train")
    return (counts < int(balance * counts.max())) & (counts > 0)


def name_minority(corpus: Corpus, balance: float) -> list[str]:
    """The classes that are told of: those that are filled up, or else under half of the largest."""
    for share in (balance, MINORITY_SHARE):
        minority = find_minority(corpus, share)
        if minority.any():
            break
    return [name for name, rare in zip(corpus.classes, minority) if rare]


def place_generated(
    corpus: Corpus, *, balance: float, max_copies: int, translated: bool = True, seed: int = 0
) -> Placement:
    """Plans the generated utterances of a corpus.

    Args:
      corpus: the corpus; only its train split is read.
      balance: share of the largest class that every class is brought up to, in [0, 1].
      max_copies: copies of a dialogue at most.
      translated: whether they are made from majority utterances, as by the GAN; otherwise from
        those that they replace.
      seed: of the choice of sources; all members share one placement.

    Returns:
      A Placement; empty where every class has its share already.
    """
    counts = corpus.class_counts("train")
    wanted = int(balance * counts.max())
    minority = find_minority(corpus, balance)
    train = np.flatnonzero(corpus.split == "train")
    turns = turns_of(corpus, train)
    is_minority = (turns.label >= 0) & minority[np.maximum(turns.label, 0)]
    of_dialogue = np.repeat(np.arange(len(train)), turns.length)
    held = np.zeros((len(train), len(counts)), np.int64)
    np.add.at(held, (of_dialogue[is_minority], turns.label[is_minority]), 1)

    copies = choose_copies(held, counts, np.where(minority, wanted, 0), max_copies)
    # Round by round, so that what is left out below is last copies, not last dialogues.
    dialogues = np.concatenate([train[copies > number] for number in range(max_copies)])
    copied = turns_of(corpus, dialogues)
    generated = _choose_generated(copied.label, wanted - counts, minority)
    # A class may have its share before the last copy that was meant for it.
    of_copy = np.repeat(np.arange(len(dialogues)), copied.length)
    used = np.bincount(of_copy, weights=generated, minlength=len(dialogues)) > 0
    generated = generated[np.repeat(used, copied.length)]
    copied = turns_of(corpus, dialogues[used])
    original = copied.index[generated]
    index = copied.index.copy()
    index[generated] = len(corpus.label) + np.arange(len(original))
    source = original.astype(np.int32)
    if translated:
        source = choose_sources(corpus, minority, corpus.speaker[original], seed)
    return Placement(
        minority=minority,
        source=source,
        target=copied.label[generated],
        copies=copied._replace(index=index, weight=generated.astype(np.float32)),
    )
