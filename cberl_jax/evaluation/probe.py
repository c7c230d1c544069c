"""Whether the rows of each modality belong to their utterances: a check of a corpus, in seconds.

A ridge regression of the class indicators on one modality is fitted on train and applied to
dialogues that it has not seen: those of dev, and, for more certainty, those of train, a fold at a
time. Its fit is the correlation r between what it predicts and the labels. With rows that belong to
other utterances r is 0 on average; how far it strays by chance is measured by giving dialogues the
predictions of other dialogues, turned round by any number of turns. That keeps all likeness between
neighbouring turns, which would make a test by shuffled rows too sure.

A modality looks late or early where rows that are moved by one turn fit better; the two fits are
compared dialogue by dialogue. What is not linear is not found. The thresholds are ours; how often
they raise a false alarm is measured in ``docs/probe.md``.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_limits

from cberl_jax.data.corpus import Corpus
from cberl_jax.data.readers.load import load_corpus
from cberl_jax.data.standardize import fit_standardiser
from cberl_jax.data.subset import keep_train_share
from cberl_jax.data.text_layers import combine_text_layers
from cberl_jax.data.validate import validate

FOLDS = 5
DRAWS = 200
# Penalty per train utterance, on standardised features.
PENALTY = 1.0
# More train utterances add nothing but time; wider modalities are reduced to principal components.
MOST_UTTERANCES, WIDEST, COMPONENTS, PCA_ROWS = 12_000, 512, 256, 5000
# Standard errors from which a fit is a signal; r below which, with 95 % certainty, it is none.
SIGNAL, NEGLIGIBLE, CERTAINTY = 3.0, 0.05, 1.645
# Of the fit on train, below which that on dev is none.
PART = 0.2
# One-sided p from which a moved fit is better, and standard errors from which another order fits.
MOVED, REORDERED = 1e-4, 5.0
SPLITS = ("dev", "train")
ALARMS = ("none", "constant", "late", "early", "order", "dev")


class Fit(NamedTuple):
    """How well predictions fit the labels.

    Attributes:
      r: correlation over utterances and classes, less what is found by chance on average.
      error: its standard error; infinite where there is too little to compare.
    """

    r: float
    error: float

    @property
    def certainty(self) -> float:
        """The number of standard errors in r."""
        return self.r / self.error

    @property
    def upper(self) -> float:
        """What r does not exceed, with 95 % certainty."""
        return max(self.r, 0.0) + CERTAINTY * self.error


NO_FIT = Fit(0.0, np.inf)


@dataclasses.dataclass(frozen=True)
class ModalityProbe:
    """What was found of one modality.

    Attributes:
      name: of the modality.
      verdict: ``signal``; ``undecided``, no signal found but too little data to rule one out;
        ``none``; ``constant``; ``late`` or ``early``, rows fit better when moved by a turn;
        ``order``, they fit with dialogues in another order; ``dev``, a signal in train and none in
        dev.
      sentence: the verdict with its numbers.
      dev: arrangement of the rows (``as they are``, ``one turn later``, ``one turn earlier``,
        ``other dialogues``, ``shuffled``) -> fit on dev.
      train: the same on held-out train dialogues; the first three alone.
      utterances: labelled dev utterances that have the modality.
    """

    name: str
    verdict: str
    sentence: str
    dev: dict[str, Fit]
    train: dict[str, Fit]
    utterances: int


@dataclasses.dataclass(frozen=True)
class Probe:
    """The probe of a corpus; printed it is a table and a sentence per modality."""

    source: str
    modalities: dict[str, ModalityProbe]

    @property
    def alarms(self) -> list[str]:
        """Sentences on what is wrong with the rows, none where they look right."""
        return [m.sentence for m in self.modalities.values() if m.verdict in ALARMS]

    def __str__(self) -> str:
        head = ["fit r", "rows from", *ARRANGEMENTS]
        table = [head]
        for modality in self.modalities.values():
            for split in SPLITS:
                fits = getattr(modality, split)
                cells = [_spell(fits[a]) if a in fits else "" for a in ARRANGEMENTS]
                table.append([modality.name, split, *cells])
        widths = [max(map(len, column)) for column in zip(*table)]
        lines = ["  ".join(f"{c:>{w}}" for c, w in zip(row, widths)) for row in table]
        sentences = [modality.sentence for modality in self.modalities.values()]
        return "\n".join([f"probe of {self.source}", *lines, *sentences])


def _spell(fit: Fit) -> str:
    return "-" if np.isinf(fit.error) else f"{fit.r:.3f} +-{fit.error:.3f}"


def probe(corpus: Corpus | str | os.PathLike, seed: int = 0) -> Probe:
    """Checks whether the rows of each modality belong to their utterances.

    Args:
      corpus: a Corpus, or what ``train`` takes.
      seed: of what is drawn.

    Returns:
      The Probe: fits and a verdict per modality. ``alarms`` lists what looks wrong.

    Raises:
      UserError: the corpus is at fault, or train or dev has no labels of two classes.
    """
    if not isinstance(corpus, Corpus):
        corpus = load_corpus(corpus)
    corpus = validate(combine_text_layers(validate(corpus), "mean"))
    for split in ("train", "dev"):
        if np.sum(corpus.class_counts(split) > 0) < 2:
            raise corpus.error(f"the {split} split has labels of one class or none to probe with")
    utterances = int(corpus.in_split("train").sum())
    corpus = keep_train_share(corpus, min(1.0, MOST_UTTERANCES / utterances), seed)
    # Each view for itself: one may be aligned and another not.
    standardised = fit_standardiser(corpus).of_views(corpus.features, corpus.present)
    # Fits this small gain nothing from threads, and lose much where cores are shared.
    with threadpool_limits(1):
        found = {
            name: _Prober(corpus, name, standardised[name], seed).judge()
            for name in corpus.features
        }
    return Probe(corpus.source, found)


# An arrangement gives the row of each utterance, -1 for none.
Arrangement = Callable[[Corpus, np.ndarray, np.random.Generator], np.ndarray]


def _move(turns: int) -> Arrangement:
    def arrange(corpus: Corpus, present: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        turn = corpus.turn + turns
        inside = (turn >= 0) & (turn < corpus.length[corpus.dialogue_of])
        return np.where(inside, np.arange(len(turn)) + turns, -1)

    return arrange


def _of_other_dialogues(
    corpus: Corpus, present: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Rows of the next dialogue of the split in a random order, repeated where that is shorter."""
    donor = np.arange(len(corpus.length))
    for split in np.unique(corpus.split):
        order = rng.permutation(np.flatnonzero(corpus.split == split))
        donor[order] = np.roll(order, 1)
    donor = donor[corpus.dialogue_of]
    return corpus.start[donor] + corpus.turn % corpus.length[donor]


def _shuffled(corpus: Corpus, present: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    rows = np.arange(len(present))
    for split in np.unique(corpus.split):
        here = np.flatnonzero(corpus.in_split(split) & present)
        rows[here] = rng.permutation(here)
    return rows


AS_THEY_ARE, LATER, EARLIER = "as they are", "one turn later", "one turn earlier"
ARRANGEMENTS: dict[str, Arrangement] = {
    AS_THEY_ARE: _move(0),
    LATER: _move(1),
    EARLIER: _move(-1),
    "other dialogues": _of_other_dialogues,
    "shuffled": _shuffled,
}
CONTROLS = ("other dialogues", "shuffled")


def _natural(name: str) -> list:
    """A key that sorts dia2 before dia10."""
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in re.split(r"(\d+)", name)]


# Orders of dialogues that the files of one modality may have been joined in.
ORDERS: dict[str, Callable[[Sequence[str]], list[int]]] = {
    "by name as text": lambda names: sorted(range(len(names)), key=names.__getitem__),
    "by the numbers in their names": lambda names: sorted(
        range(len(names)), key=lambda g: _natural(names[g])
    ),
    "from the last to the first": lambda names: list(reversed(range(len(names)))),
}


class _Prober:
    """The fits of one modality."""

    def __init__(self, corpus: Corpus, name: str, values: np.ndarray, seed: int):
        """Args: the corpus; a modality of it; its standardised features [N, d]; a seed."""
        self.corpus, self.name = corpus, name
        self.present = corpus.present[name]
        # Its signal may lie in what is left out then.
        self.reduced = values.shape[1] > WIDEST
        self.values = _reduce(values, corpus.in_split("train") & self.present, seed)
        self.rng = np.random.default_rng(seed)
        classes = np.arange(len(corpus.classes))
        self.indicator = (corpus.label[:, None] == classes).astype(np.float32)
        # Held out together: a dialogue is never learnt from where it is predicted.
        self.fold = (np.arange(len(corpus.length)) % FOLDS)[corpus.dialogue_of]

    def predict(self, rows: np.ndarray, folds: bool = True) -> np.ndarray:
        """[N, C] predictions for utterances that were not learnt; NaN where there are none.

        Args:
          rows: [N] the row of each utterance, -1 for none.
          folds: whether train utterances are predicted too, a fold at a time.
        """
        usable = (rows >= 0) & self.present[rows] & (self.corpus.label >= 0)
        train = usable & self.corpus.in_split("train")
        found = np.full(self.indicator.shape, np.nan)
        parts = [(train, usable & self.corpus.in_split("dev"))]
        if folds:
            parts += [(train & (self.fold != k), train & (self.fold == k)) for k in range(FOLDS)]
        for learnt, held_out in parts:
            if learnt.any() and held_out.any():
                model = Ridge(alpha=PENALTY * learnt.sum())
                model.fit(self.values[rows[learnt]], self.indicator[learnt])
                own = model.predict(self.values[rows[held_out]]).reshape(held_out.sum(), -1)
                # Their mean tells of the labels that were learnt, not of the rows.
                found[held_out] = own - own.mean(axis=0)
        return found

    def measure(self, found: np.ndarray, split: str) -> Fit:
        """The fit of predictions on one split."""
        here = np.flatnonzero(~np.isnan(found[:, 0]) & self.corpus.in_split(split))
        label, predicted = self.corpus.label[here], found[here]
        indicator = self.indicator[here]
        scale = np.sqrt((predicted**2).sum() * ((indicator - indicator.mean(axis=0)) ** 2).sum())
        _, start, length = np.unique(
            self.corpus.dialogue_of[here], return_index=True, return_counts=True
        )
        if len(length) < 2 or scale <= 1e-9 * len(here):
            return NO_FIT
        drawn = [
            predicted[rows, label].sum() for rows in _turned_rows(start, length, DRAWS, self.rng)
        ]
        r = predicted[np.arange(len(here)), label].sum() - np.mean(drawn)
        return Fit(float(r / scale), float(max(np.std(drawn) / scale, 1e-9)))

    def gain(self, one: np.ndarray, other: np.ndarray) -> float:
        """One-sided p of the hypothesis that ``other`` fits no better than ``one``."""
        both = ~np.isnan(one[:, 0]) & ~np.isnan(other[:, 0])
        label = np.maximum(self.corpus.label, 0)[:, None]
        gains = np.take_along_axis(other - one, label, axis=1)[both, 0]
        total = np.bincount(self.corpus.dialogue_of[both], weights=gains)
        total = total[np.unique(self.corpus.dialogue_of[both])]
        if len(total) < 3 or not total.std():
            return 1.0
        return float(stats.ttest_1samp(total, 0.0, alternative="greater").pvalue)

    def judge(self) -> ModalityProbe:
        """All fits, and what they say."""
        found, dev, train = {}, {}, {}
        for name, arrange in ARRANGEMENTS.items():
            rows = arrange(self.corpus, self.present, self.rng)
            found[name] = self.predict(rows, folds=name not in CONTROLS)
            dev[name] = self.measure(found[name], "dev")
            if name not in CONTROLS:
                train[name] = self.measure(found[name], "train")
        verdict, sentence = self._decide(found, dev, train)
        labelled = self.corpus.in_split("dev") & (self.corpus.label >= 0) & self.present
        return ModalityProbe(
            self.name, verdict, f"{self.name} {sentence}", dev, train, int(labelled.sum())
        )

    def _decide(
        self, found: dict[str, np.ndarray], dev: dict[str, Fit], train: dict[str, Fit]
    ) -> tuple[str, str]:
        """The verdict, and the sentence after the modality's name."""
        if not self.values[self.corpus.in_split("train")].any():
            # Standardised by train, a constant is zero.
            return "constant", "is constant in train, so nothing can be learnt from it"
        here = _join(dev[AS_THEY_ARE], train[AS_THEY_ARE])
        for name, verdict in ((LATER, "late"), (EARLIER, "early")):
            p, moved = self.gain(found[AS_THEY_ARE], found[name]), _join(dev[name], train[name])
            if p < MOVED and moved.certainty > SIGNAL:
                return verdict, (
                    f"looks one turn {verdict}: its rows fit with r = {moved.r:.3f} when each "
                    f"utterance has the row that stands {name} and {here.r:.3f} as they are "
                    f"(p = {p:.0e})"
                )
        if here.certainty < SIGNAL:
            return self._find_order() or _weak(here, self.reduced)
        learnt = train[AS_THEY_ARE].r
        if dev[AS_THEY_ARE].upper < max(NEGLIGIBLE, PART * learnt):
            return "dev", (
                f"carries a signal in train (r = {learnt:.3f}) and none in dev (r = "
                f"{_spell(dev[AS_THEY_ARE])}): are dev's rows those of other utterances?"
            )
        return "signal", f"carries a signal (r = {_spell(here)}), best with its rows as they are"

    def _find_order(self) -> tuple[str, str] | None:
        """The verdict where the rows fit with dialogues in another order, or else None."""
        corpus = self.corpus
        for name, order in ORDERS.items():
            written = np.asarray(order([str(d) for d in corpus.dialogue]))
            if np.array_equal(written, np.arange(len(written))):
                continue
            start = np.empty(len(written), np.int64)
            start[written] = np.cumsum(corpus.length[written]) - corpus.length[written]
            found = self.predict(start[corpus.dialogue_of] + corpus.turn)
            fit = _join(self.measure(found, "dev"), self.measure(found, "train"))
            if fit.certainty > REORDERED:
                return "order", (
                    f"looks as if written with dialogues in another order: its rows fit with "
                    f"r = {_spell(fit)} when the dialogues are ordered {name}, and not as they are"
                )
        return None


def _reduce(values: np.ndarray, train: np.ndarray, seed: int) -> np.ndarray:
    """Principal components of a modality that is too wide to fit in seconds."""
    if values.shape[1] <= WIDEST:
        return values
    some = np.random.default_rng(seed).permutation(np.flatnonzero(train))[:PCA_ROWS]
    components = min(COMPONENTS, len(some))
    pca = PCA(components, svd_solver="randomized", iterated_power=2, random_state=seed)
    return pca.fit(values[some]).transform(values)


def _turned_rows(start: np.ndarray, length: np.ndarray, draws: int, rng: np.random.Generator):
    """Rows of other dialogues, turned round by any number of turns.

    Args:
      start: [G] where each dialogue begins.
      length: [G] its utterances.
      draws: how often.
      rng: draws them.

    Yields:
      [N] int, for each utterance the one whose place it is given.
    """
    dialogue = np.repeat(np.arange(len(length)), length)
    position = np.arange(len(dialogue)) - start[dialogue]
    for _ in range(draws):
        donor = rng.permutation(len(length))[dialogue]
        turned = rng.integers(0, 1 << 20, len(length))[dialogue]
        yield start[donor] + (position + turned) % length[donor]


def _join(one: Fit, other: Fit) -> Fit:
    """Two independent fits as one, weighed by their precision."""
    weights = np.array([one.error, other.error]) ** -2.0
    if not weights.sum():
        return NO_FIT
    r = (weights * [one.r, other.r]).sum() / weights.sum()
    return Fit(float(r), float(weights.sum() ** -0.5))


def _weak(fit: Fit, reduced: bool) -> tuple[str, str]:
    """The verdict where no order of the rows fits."""
    if fit.upper < NEGLIGIBLE and not reduced:
        return "none", (
            f"carries no signal that a linear classifier finds (r = {_spell(fit)}): are its rows "
            "those of other utterances?"
        )
    return "undecided", (
        f"is undecided (r = {_spell(fit)}): there is too little data to tell a weak signal from "
        "none"
    )
