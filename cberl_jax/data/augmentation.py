"""Where generated utterances go: into the train dialogues themselves (section 3.1, [ours]).

A generated utterance needs a conversation. It takes the place of a minority utterance in that one's
own dialogue, for an epoch, with a probability that is the same for all utterances of a class. All
utterances of the class weigh more by what the class lacks, so that the real ones together weigh in
expectation what they did before, and the generated ones what is to be added. No dialogue is
copied: an epoch has as many steps as without augmentation. What a generated utterance may be made
from is decided here; its features are made anew every epoch, by each member's own GAN or by a
simpler remedy, so that all remedies share one rule of placement.
"""

from typing import NamedTuple

import numpy as np

from cberl_jax.data.corpus import Corpus

# Of the largest class; where nothing is filled up, the minority classes have less.
MINORITY_SHARE = 0.5
# Majority utterances that a generated one may be made from; an epoch draws one of them.
SOURCES = 8


class Placement(NamedTuple):
    """The M train utterances whose place a generated one may take.

    Attributes:
      minority: [C] bool, the classes that are generated.
      place: [M] int, indices into the corpus: the labelled train utterances of these classes.
      sources: [M, k] int, what the generated utterance may be made from: majority utterances, or
        only the very one that it replaces.
      generated: [C] int, generated utterances that each class is filled up by.
    """

    minority: np.ndarray
    place: np.ndarray
    sources: np.ndarray
    generated: np.ndarray


def choose_sources(corpus: Corpus, minority: np.ndarray, place: np.ndarray, seed: int):
    """Draws majority train utterances for each place, of its own speaker if there are any.

    Args:
      corpus: the corpus.
      minority: [C] bool.
      place: [M] int, indices into the corpus.
      seed: of the draw.

    Returns:
      [M, SOURCES] int indices into the corpus.
    """
    generator = np.random.default_rng(seed)
    label = np.maximum(corpus.label, 0)
    usable = corpus.in_split("train") & (corpus.label >= 0) & ~minority[label]
    pool = np.flatnonzero(usable)
    of_speaker: dict[str, list[int]] = {}
    for utterance in pool:
        of_speaker.setdefault(str(corpus.speaker[utterance]), []).append(int(utterance))
    chosen = np.zeros((len(place), SOURCES), np.int32)
    for number, name in enumerate(corpus.speaker[place]):
        own = of_speaker.get(str(name))
        chosen[number] = generator.choice(pool if own is None else own, SOURCES)
    return chosen


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
    corpus: Corpus, *, balance: float, max_ratio: int, translated: bool = True, seed: int = 0
) -> Placement:
    """Plans the generated utterances of a corpus.

    Args:
      corpus: the corpus; only its train split is read.
      balance: share of the largest class that every class is brought up to, in [0, 1].
      max_ratio: generated utterances for each real one of a class at most.
      translated: whether they are made from majority utterances, as by the GAN; otherwise from
        those that they replace.
      seed: of the choice of sources; all members share one placement.

    Returns:
      A Placement; empty where every class has its share already.
    """
    counts = corpus.class_counts("train")
    minority = find_minority(corpus, balance)
    lacking = np.minimum(int(balance * counts.max()) - counts, max_ratio * counts)
    rare = (corpus.label >= 0) & minority[np.maximum(corpus.label, 0)]
    place = np.flatnonzero(corpus.in_split("train") & rare).astype(np.int32)
    sources = place[:, None]
    if translated:
        sources = choose_sources(corpus, minority, place, seed)
    return Placement(minority, place, sources, np.where(minority, lacking, 0))
