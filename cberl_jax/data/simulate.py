"""A simulated corpus whose best possible result is known.

Section 2 of the design; the law is ours. Two parties speak in turn. An emotion is copied from
the speaker's own last turn (inertia), copied from the other party's last turn (contagion) or
drawn afresh from a base rate with MELD's imbalance, and every modality emits a feature vector
from a density of known form. ``bayes.py`` turns that law into the results that no model beats.

Left out on purpose: transcripts, more than two parties and features that depend on who speaks.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from cberl_jax.data.corpus import SPLITS, Corpus
from cberl_jax.data.readers.known import MELD_CLASSES
from cberl_jax.errors import UserError

# What the name of a simulated corpus begins with; its size follows.
SIMULATED = "simulated:"
MELD_TRAIN_COUNTS = (4710, 1205, 268, 683, 1743, 271, 1109)
PARTIES = np.array(["A", "B"])

# The concentration of the beta-binomial dialogue length: at MELD's mean and maximum, 6 gives
# MELD's standard deviation (5.8 turns).
LENGTH_CONCENTRATION = 6.0
# Modes of each class in each modality.
MODES = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Emission:
    """One modality's class-conditional density, an even mixture of isotropic Gaussians.

    Attributes:
      centres: [C, M, d] the M mode centres of each class, in feature units.
      deviation: standard deviation of every mode along every axis, in feature units.
      missing_rate: probability that an utterance lacks the modality, independent of all else.
    """

    centres: np.ndarray
    deviation: float = 1.0
    missing_rate: float = 0.0

    @property
    def width(self) -> int:
        """Feature width d."""
        return self.centres.shape[-1]


@dataclasses.dataclass(frozen=True, eq=False)
class Process:
    """The generative law of a conversation.

    With s the emotion of the speaker's last turn and o that of the other party's last turn,

      p(y_t | s, o) = inertia 1[y_t = s] + contagion 1[y_t = o]
                      + (1 - inertia - contagion) base(y_t)

    and before a party has spoken its mass goes to the base rate. Who speaks does not depend on
    the emotions, so the marginal of every turn is exactly the base rate.

    Attributes:
      classes: names of the C emotions.
      base_rate: [C] probabilities.
      inertia: probability of copying the speaker's own last emotion.
      contagion: probability of copying the other party's last emotion.
      emissions: modality -> its density; given the emotions, modalities and turns are
        independent.
      switch_rate: probability that the next turn is the other party's.
    """

    classes: tuple[str, ...]
    base_rate: np.ndarray
    inertia: float
    contagion: float
    emissions: Mapping[str, Emission]
    switch_rate: float = 0.8

    def __post_init__(self):
        if min(self.inertia, self.contagion) < 0 or self.inertia + self.contagion > 1:
            raise UserError(
                f"inertia {self.inertia} and contagion {self.contagion} must be at least 0 and "
                "add up to at most 1"
            )
        if np.min(self.base_rate) <= 0 or not np.isclose(np.sum(self.base_rate), 1):
            raise UserError(f"base rates {self.base_rate} must be above 0 and add up to 1")


@dataclasses.dataclass(frozen=True)
class SimulatedSize:
    """How many dialogues to draw and how long they are.

    Attributes:
      train: dialogues in the train split.
      dev: dialogues in the dev split.
      test: dialogues in the test split.
      mean_length: expected utterances per dialogue, between 1 and ``max_length``.
      max_length: most utterances per dialogue; all have as many if ``mean_length`` equals it.
    """

    train: int
    dev: int
    test: int
    mean_length: float = 9.6
    max_length: int = 33

    def __post_init__(self):
        if not 1 <= self.mean_length <= self.max_length:
            raise UserError(
                f"a mean length of {self.mean_length} utterances must lie between 1 and the "
                f"longest dialogue's {self.max_length}"
            )


SIZES = {
    "small": SimulatedSize(train=240, dev=60, test=120, mean_length=10.0),
    "meld": SimulatedSize(train=1038, dev=114, test=280),
    "huge": SimulatedSize(train=16 * 1038, dev=16 * 114, test=16 * 280),
}


class SimulatedDialogue(NamedTuple):
    """One dialogue of T utterances; the fields are those of ``Corpus``."""

    name: str
    split: str
    speaker: np.ndarray
    label: np.ndarray
    features: dict[str, np.ndarray]
    present: dict[str, np.ndarray]


def create_emission(
    key: tuple[int, int],
    num_classes: int,
    width: int,
    separation: float,
    *,
    rank: int = 4,
    missing_rate: float = 0.0,
) -> Emission:
    """Draws a modality's mode centres.

    All centres lie in a ``rank``-dimensional subspace, so that a classifier can learn the
    directions that matter from the frequent classes and needs few examples of the rare ones.

    Args:
      key: (law seed, number of the modality); the same key gives the same centres.
      num_classes: C.
      width: feature width d, at least ``rank``.
      separation: root mean square length of a class centre, in deviations; a mode is as far from
        its class centre. With two modes the best classifier is not linear.
      rank: dimension of the subspace.
      missing_rate: see ``Emission``.

    Returns:
      The density, with unit deviation.
    """
    seed, modality = key
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(modality,)))
    class_centre = rng.standard_normal((num_classes, 1, rank))
    offset = rng.standard_normal((num_classes, MODES, rank))
    subspace = np.linalg.qr(rng.standard_normal((width, rank)))[0].T
    centres = separation / np.sqrt(rank) * (class_centre + offset) @ subspace
    return Emission(centres, missing_rate=missing_rate)


def create_process(inertia: float = 0.5, contagion: float = 0.3, law_seed: int = 0) -> Process:
    """The law of the named sizes: MELD's classes and imbalance, text the strongest modality.

    The best possible accuracy is about 0.78, and about 0.64 without context.

    Args:
      inertia: see ``Process``.
      contagion: see ``Process``.
      law_seed: fixes the mode centres; it is not the seed of a corpus.

    Returns:
      The process, with text 24 wide, audio 12 and visual 12.
    """
    num_classes = len(MELD_CLASSES)
    emissions = {
        "text": create_emission((law_seed, 0), num_classes, 24, 1.05),
        "audio": create_emission((law_seed, 1), num_classes, 12, 0.5, missing_rate=0.05),
        "visual": create_emission((law_seed, 2), num_classes, 12, 0.5, missing_rate=0.1),
    }
    base_rate = np.array(MELD_TRAIN_COUNTS) / sum(MELD_TRAIN_COUNTS)
    return Process(MELD_CLASSES, base_rate, inertia, contagion, emissions)


def log_likelihood(
    process: Process, features: Mapping[str, np.ndarray], present: Mapping[str, np.ndarray]
) -> np.ndarray:
    """Exact log density of every utterance's features under every emotion.

    Args:
      process: the law that drew them.
      features: modality -> [N, d_m]; leave modalities out to marginalise over them.
      present: modality -> [N] bool, same keys.

    Returns:
      [N, C] float64, in nats, summed over the modalities that are present.
    """
    num_utterances = len(next(iter(features.values())))
    total = np.zeros((num_utterances, len(process.classes)))
    for modality, array in features.items():
        shown = present[modality]
        total[shown] += _log_density(process.emissions[modality], array[shown])
    return total


def iter_dialogues(
    process: Process, size: SimulatedSize, seed: int = 0
) -> Iterator[SimulatedDialogue]:
    """Draws dialogues one at a time, in constant memory: train, then dev, then test.

    Each dialogue has a random stream of its own, numbered by its split and its place there. So
    a smaller train split is the beginning of a larger one, and dev and test stay what they are.

    Args:
      process: the law.
      size: how many dialogues, and how long.
      seed: at least 0; other seeds give other dialogues under the same law.

    Yields:
      The dialogues, named ``<split>_<number>``.
    """
    if seed < 0:
        raise UserError(f"the seed of a simulated corpus must be at least 0, not {seed}")
    counts = (size.train, size.dev, size.test)
    for number, (split, count) in enumerate(zip(SPLITS, counts, strict=True)):
        for index in range(count):
            stream = np.random.SeedSequence(seed, spawn_key=(number, index))
            rng = np.random.default_rng(stream)
            yield _draw_dialogue(process, size, f"{split}_{index}", split, rng)


def stack_dialogues(
    process: Process, dialogues: Iterable[SimulatedDialogue], source: str = "simulated"
) -> Corpus:
    """Joins dialogues to a corpus; give it blocks of ``iter_dialogues`` to bound the memory.

    Args:
      process: the law that drew them.
      dialogues: at least one.
      source: the corpus's name in messages.

    Returns:
      The corpus, dialogues in the given order.
    """
    drawn = list(dialogues)
    if not drawn:
        raise UserError(f"{source}: a simulated corpus needs at least one dialogue")
    return Corpus(
        classes=process.classes,
        dialogue=np.array([d.name for d in drawn]),
        split=np.array([d.split for d in drawn]),
        length=np.array([len(d.label) for d in drawn], np.int32),
        speaker=np.concatenate([d.speaker for d in drawn]),
        label=np.concatenate([d.label for d in drawn]),
        features={m: np.concatenate([d.features[m] for d in drawn]) for m in process.emissions},
        present={m: np.concatenate([d.present[m] for d in drawn]) for m in process.emissions},
        source=source,
    )


def simulate_corpus(
    process: Process, size: SimulatedSize, seed: int = 0, name: str = "custom"
) -> Corpus:
    """Draws a corpus of any size, held in memory as a whole.

    Args:
      process: the law.
      size: how many dialogues, and how long.
      seed: at least 0.
      name: what the corpus's source says after ``simulated:``.

    Returns:
      The corpus, with every modality of the process and every label.
    """
    return stack_dialogues(process, iter_dialogues(process, size, seed), f"simulated:{name}")


def simulate(size: str = "small", seed: int = 0) -> Corpus:
    """Draws a corpus of a named size under the law of ``create_process()``.

    Args:
      size: ``small`` (420 dialogues), ``meld`` (MELD's 1,432) or ``huge`` (16 times as many;
        use ``iter_dialogues`` where they should not be in memory at once).
      seed: at least 0.

    Returns:
      The corpus; its source is ``simulated:<size>``.
    """
    if size not in SIZES:
        known = ", ".join(SIZES)
        raise UserError(f"there is no simulated corpus of size {size!r}; known sizes: {known}")
    return simulate_corpus(create_process(), SIZES[size], seed, size)


def _log_density(emission: Emission, features: np.ndarray) -> np.ndarray:
    """[N, C] log density of features [N, d], in nats."""
    num_classes, num_modes, width = emission.centres.shape
    centres = emission.centres.reshape(-1, width)
    points = features.astype(np.float64)
    squared = (
        np.sum(points**2, axis=1)[:, None] - 2 * points @ centres.T + np.sum(centres**2, axis=1)
    )
    variance = emission.deviation**2
    log_mode = -0.5 * (squared / variance + width * np.log(2 * np.pi * variance))
    log_mode = log_mode.reshape(-1, num_classes, num_modes)
    return np.logaddexp.reduce(log_mode, axis=2) - np.log(num_modes)


def _draw_dialogue(
    process: Process, size: SimulatedSize, name: str, split: str, rng: np.random.Generator
) -> SimulatedDialogue:
    length = _draw_length(size, rng)
    switches = rng.random(length - 1) < process.switch_rate
    party = np.concatenate([[0], np.cumsum(switches) % 2])
    label = _draw_emotions(process, party, rng)
    features, present = {}, {}
    for modality, emission in process.emissions.items():
        present[modality] = rng.random(length) >= emission.missing_rate
        drawn = _draw_features(emission, label, rng)
        features[modality] = np.where(present[modality][:, None], drawn, 0).astype(np.float32)
    return SimulatedDialogue(name, split, PARTIES[party], label, features, present)


def _draw_length(size: SimulatedSize, rng: np.random.Generator) -> int:
    """A beta-binomial length: bounded on both sides, with exactly the wanted mean."""
    if size.mean_length == size.max_length:
        return size.max_length
    share = (size.mean_length - 1) / (size.max_length - 1)
    if share == 0:
        return 1
    spread = rng.beta(LENGTH_CONCENTRATION * share, LENGTH_CONCENTRATION * (1 - share))
    return 1 + int(rng.binomial(size.max_length - 1, spread))


def _draw_emotions(process: Process, party: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[T] int32 emotions, given who speaks: the own last, the other's last, or a fresh draw."""
    length = len(party)
    fresh = rng.choice(len(process.classes), size=length, p=process.base_rate)
    cause = rng.random(length)
    label = np.empty(length, np.int32)
    last = [None, None]
    for turn, speaker in enumerate(party):
        own, other = last[speaker], last[1 - speaker]
        emotion = fresh[turn]
        if cause[turn] < process.inertia:
            emotion = emotion if own is None else own
        elif cause[turn] < process.inertia + process.contagion:
            emotion = emotion if other is None else other
        label[turn] = last[speaker] = emotion
    return label


def _draw_features(emission: Emission, label: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[T, d] one draw from the mixture of each utterance's emotion."""
    mode = rng.integers(emission.centres.shape[1], size=len(label))
    noise = emission.deviation * rng.standard_normal((len(label), emission.width))
    return emission.centres[label, mode] + noise
