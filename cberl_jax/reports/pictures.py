"""What the pictures of a run show: the numbers behind them, and which are drawn.

They come from what the run's folder holds (predictions, metrics, the report's figures) and, for
features and attention, from one more pass of the first sound member over the split that is shown:
test, or dev where test has no labels. A picture that has no data is left out.

A caption says first what is shown and then how to read it.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from sklearn import metrics

from cberl_jax.data.augmentation import find_minority
from cberl_jax.data.corpus import Corpus
from cberl_jax.evaluation.activations import Activations, attention_within, compute_activations
from cberl_jax.evaluation.generated import create_samples, lay_out
from cberl_jax.evaluation.generated_quality import project
from cberl_jax.metrics import summarise
from cberl_jax.reports.html import plain
from cberl_jax.reports.plots.attention import STRONG, Conversation, draw_attention
from cberl_jax.reports.plots.fonts import can_draw, drawable, spell_key, warn_of_numbers
from cberl_jax.reports.plots.generated import draw_utterances
from cberl_jax.reports.plots.run import (
    FEW_IN_BIN,
    Calibration,
    Curve,
    draw_calibration,
    draw_class_counts,
    draw_class_scores,
    draw_confusion,
    draw_curves,
    draw_features,
)
from cberl_jax.reports.run import Picture, scored_split
from cberl_jax.reports.tables import TITLES
from cberl_jax.training.outcome import TrainedRun

BINS = 10
# Utterances in the picture of features, as far as every class may have FEWEST_OF_CLASS.
POINTS, FEWEST_OF_CLASS = 700, 20
# Turns of a conversation that is easy to read, and the most that are drawn of a longer one.
TURNS = (5, 10)


class Scored(NamedTuple):
    """What the M sound members of a run made of a split.

    Attributes:
      probability: [M, n, C].
      label: [n] int, -1 where there is none.
    """

    probability: np.ndarray
    label: np.ndarray


def mean_confusion(label: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Counts by true class (row) and predicted class (column), mean over members.

    Args:
      label: [n] int; utterances below zero do not count.
      probability: [M, n, C].

    Returns:
      [C, C] float.
    """
    counted, names = label >= 0, np.arange(probability.shape[-1])
    guesses = probability[:, counted].argmax(axis=-1)
    each = [metrics.confusion_matrix(label[counted], guess, labels=names) for guess in guesses]
    return np.mean(each, axis=0)


def measure_calibration(label: np.ndarray, probability: np.ndarray) -> Calibration:
    """Compares how sure the predictions are with how often they are right.

    Args:
      label: [n] int; utterances below zero do not count.
      probability: [n, C].

    References:
      Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3.
    """
    counted = label >= 0
    confidence = probability[counted].max(axis=-1).astype(np.float64)
    right = probability[counted].argmax(axis=-1) == label[counted]
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    count = np.bincount(place, minlength=BINS)
    sums = [np.bincount(place, weights=x, minlength=BINS) for x in (confidence, right)]
    means = [np.where(count, x / np.maximum(count, 1), np.nan) for x in sums]
    error = np.abs(sums[0] - sums[1]).sum() / count.sum()
    return Calibration(*means, count, float(error))


def read_curve(
    lines: Sequence[Mapping[str, Any]], kept: Mapping[int, int], field: str, name: str
) -> Curve:
    """A figure over the epochs of the joint stage.

    Args:
      lines: of ``metrics.jsonl``.
      kept: member -> its kept epoch, from 1; the others do not count.
      field: of the lines.
      name: of the curve.
    """
    values: dict[int, dict[int, float]] = {}
    for line in lines:
        if line["stage"] == "joint" and line["member"] in kept:
            values.setdefault(line["epoch"] + 1, {})[line["member"]] = line[field]
    epochs = sorted(values)
    of_epoch = [np.asarray(list(values[epoch].values())) for epoch in epochs]
    return Curve(
        name,
        np.asarray(epochs),
        *(np.asarray([fold(own) for own in of_epoch]) for fold in (np.mean, np.min, np.max)),
        np.asarray([(epoch, values[epoch][member]) for member, epoch in kept.items()]),
    )


def choose_points(label: np.ndarray, classes: int) -> np.ndarray:
    """Utterances for a picture: all of a rare class, a part of a frequent one, always the same.

    Args:
      label: [n] int; utterances below zero are left out.
      classes: number C.

    Returns:
      [k] int, sorted.
    """
    most = max(POINTS // classes, FEWEST_OF_CLASS)
    order = np.random.default_rng(0).permutation(len(label))
    chosen = [order[label[order] == number][:most] for number in range(classes)]
    return np.sort(np.concatenate(chosen))


def choose_conversation(corpus: Corpus, minority: np.ndarray, split: str = "test") -> int:
    """The dialogue of a split that shows most, judged by its true labels: always the same one.

    One of 5 to 10 turns or as near to that as there is, with a minority class, with two speakers,
    with all labels, with as many classes as can be; the first of those.

    Args:
      corpus: the corpus.
      minority: [C] bool.
      split: of the corpus.

    Returns:
      Its number.
    """

    def worth(dialogue: int) -> tuple[int, ...]:
        here = slice(corpus.start[dialogue], corpus.start[dialogue] + corpus.length[dialogue])
        label, speakers = corpus.label[here], len(set(corpus.speaker[here].tolist()))
        length, known = len(label), label[label >= 0]
        off = max(TURNS[0] - length, length - TURNS[1], 0)
        rare = bool(minority[known].any())
        return -off, rare, speakers > 1, len(known) == length, len(np.unique(known)), -dialogue

    return max(np.flatnonzero(corpus.split == split).tolist(), key=worth)


def choose_turns(label: np.ndarray, minority: np.ndarray) -> slice:
    """Where to look at a dialogue of labels [T]: all of it, or around its first minority turn."""
    turns = len(label)
    rare = np.flatnonzero((label >= 0) & minority[np.maximum(label, 0)])
    middle = rare[0] if len(rare) else 0
    start = int(np.clip(middle - TURNS[1] // 2, 0, max(turns - TURNS[1], 0)))
    return slice(start, min(start + TURNS[1], turns))


def show_conversation(
    corpus: Corpus, dialogue: int, minority: np.ndarray, guess: np.ndarray, attention: np.ndarray
) -> Conversation:
    """What is drawn of a conversation.

    Args:
      corpus: the corpus.
      dialogue: the number of one of T turns.
      minority: [C] bool.
      guess: [T] int, the predicted classes.
      attention: [T, T].
    """
    start, length = corpus.start[dialogue], corpus.length[dialogue]
    whole = slice(start, start + length)
    part = choose_turns(corpus.label[whole], minority)
    names = (*corpus.classes, "")
    text = [] if corpus.utterance is None else corpus.utterance[whole][part].tolist()
    speaker = corpus.speaker[whole][part].tolist()
    known = list(dict.fromkeys(speaker))
    shown = dict(zip(known, drawable(known, "speaker ")))
    return Conversation(
        title=str(corpus.dialogue[dialogue]),
        turn=np.arange(length)[part],
        speaker=[shown[name] for name in speaker],
        text=text if any(line and can_draw(line) for line in text) else None,
        truth=[names[label] for label in corpus.label[whole][part]],
        guess=[names[label] for label in guess[part]],
        attention=attention,
    )


class Illustrator:
    """Draws the pictures of one run; each method is a picture and says what it shows."""

    def __init__(self, run: TrainedRun, report: Mapping[str, Any]):
        """Args: the run and its report, of which at least one member is sound."""
        self.run, self.report = run, report
        # What is inside a model is shown of the first fold's.
        self.prepared = run.prepared.each[0]
        corpus = self.prepared.corpus
        self.names, shown = corpus.classes, drawable(corpus.classes)
        # With its class names as they are drawn.
        self.corpus = dataclasses.replace(corpus, classes=tuple(shown))
        self.split = scored_split(report)
        members = report["members"]
        sound = [n for n, member in enumerate(members) if member["status"] == "ok"]
        stored = run.folder.read_predictions()
        probability, label = (stored[f"{self.split}.{name}"] for name in ("probability", "label"))
        self.scored = Scored(probability[sound], label)
        folds = len(run.prepared.each)
        self.kept = {
            n * folds + k: own["epoch"]
            for n in sound
            for k, own in enumerate(members[n].get("folds") or [members[n]])
        }
        self.number = sound[0] * folds
        self.first = f"the first sound member (seed {members[sound[0]]['seed']})"
        # What that one was tested on.
        self.tested = self.scored._replace(probability=self.scored.probability[:1])
        if run.prepared.folds:
            self.first += f", fold {run.prepared.folds.names[0]}"
            here = stored[f"{self.split}.fold"] == 0
            own = self.tested.probability[:, here]
            self.tested = self.tested._replace(probability=own, label=label[here])
        self.minority = find_minority(self.corpus, run.config.augment.balance)

    def draw(self) -> Iterator[Picture]:
        """Draws all pictures that there is something to see in."""
        steps: list[Callable[..., Picture | None]] = [self.confusion, self.class_scores]
        steps += [self.curves, self.class_counts, self.calibration]
        found = [step() for step in steps]
        inside = self._compute_activations()
        found += [self.features(inside), self.generated(), self.attention(inside)]
        first, *others = (picture for picture in found if picture is not None)
        yield first._replace(text=first.text + self._notes())
        yield from others

    def _notes(self) -> str:
        """What holds for all pictures, for the caption of the first."""
        text = ""
        if self.split == "dev":
            text += " Test has no labels: this picture and the others show dev, which also chose "
            text += "the epochs, so that its scores are better than those of new conversations."
        key = spell_key(list(map(plain, self.names)), self.corpus.classes)
        if key:
            text += f" Numbers stand for the class names, in all pictures: {key}."
        return text

    def _path(self, name: str):
        return self.run.folder.path / f"report_{name}.png"

    def _compute_activations(self) -> Activations:
        joint, prepared = self.run.state.joint, self.prepared
        every = {**joint.variables, "params": joint.best}
        variables = jax.tree.map(lambda leaf: leaf[self.number], every)
        return compute_activations(
            prepared.program, variables, self.corpus, prepared.standardiser, self.split
        )

    def _as_drawn(self, by_class: Mapping[str, Any]) -> dict[str, Any]:
        """What a report holds of each class, by the names that are drawn."""
        return {shown: by_class[name] for name, shown in zip(self.names, self.corpus.classes)}

    def confusion(self) -> Picture:
        """True by predicted classes."""
        path = self._path("confusion")
        counts = mean_confusion(self.scored.label, self.scored.probability)
        draw_confusion(path, self.corpus.classes, counts, self.split)
        text = f"{self.split.capitalize()} utterances by true class (row) and predicted class "
        text += "(column), mean over members. A cell has the share of its row in per cent, and "
        text += "where there is room the number of utterances; the diagonal holds what is right, "
        text += "and an empty cell no utterance."
        return Picture(path.name, "Confusion", text)

    def class_scores(self) -> Picture:
        """F1 of every class."""
        path = self._path("f1")
        names = [name for name, rare in zip(self.corpus.classes, self.minority) if rare]
        scores = self._as_drawn(self.report[self.split]["per_class"])
        draw_class_scores(path, scores, names, self.split)
        text = f"F1 of every class on {self.split}. A bar is the mean over members"
        if self.split == "test":
            text += ", the line on it the 95 % interval that the table of classes has, too"
        text += "."
        if names:
            share = 100 * self.run.config.augment.balance
            listed = ", ".join(map(plain, names))
            text += f" Minority classes ({listed}) have less than {share:.0f} % of the train "
            text += "utterances of the largest class."
        return Picture(path.name, "F1 by class", text)

    def curves(self) -> Picture:
        """Dev score and loss over the epochs."""
        path, select = self._path("curves"), self.run.config.train.select
        lines = self.run.folder.read_metrics()
        fields = {f"dev_{select}": f"dev {TITLES[select]}", "total": "total loss on train"}
        draw_curves(path, [read_curve(lines, self.kept, *pair) for pair in fields.items()])
        text = f"Dev {TITLES[select]}, by which the epoch of every member is chosen, and the loss "
        text += "on train over the epochs. "
        if len(self.kept) > 1:
            text += "The line is the mean over the members that were still training in an epoch, "
            text += "the band reaches from the lowest to the highest of them. "
        text += "A triangle stands at the epoch that a member was kept from and at that member's "
        text += "own score or loss in it, not at the mean."
        return Picture(path.name, "Learning", text)

    def class_counts(self) -> Picture:
        """Train utterances before and after augmentation."""
        path = self._path("classes")
        draw_class_counts(path, self._as_drawn(self.report["augmentation"]))
        text = "Labelled train utterances of every class, and the generated ones that fill it up "
        text += f"(augmentation: {self.run.config.augment.method}). Numbers are real + generated."
        return Picture(path.name, "Classes before and after augmentation", text)

    def calibration(self) -> Picture:
        """How far the probabilities can be trusted."""
        path, scored = self._path("calibration"), self.scored
        ensemble = measure_calibration(scored.label, scored.probability.mean(axis=0))
        own = [measure_calibration(scored.label, one).error for one in scored.probability]
        draw_calibration(path, ensemble, summarise(own))
        text = f"{self.split.capitalize()} predictions in {BINS} bins by the probability of the "
        text += "predicted class: above, the share that is right; below, the share of all "
        text += "utterances in a bin. On the dashed line a class of probability 0.7 is right in 7 "
        text += "cases of 10; below it the probabilities are too high, above it too low. A hollow "
        text += f"point stands for under {FEW_IN_BIN} utterances, which say little. Expected "
        text += "calibration error (mean gap to the line, each bin weighs as many utterances as it "
        text += f"has): {ensemble.error:.3f} of the members' mean probabilities (ensemble), "
        text += f"{np.mean(own):.3f} of a member on average."
        return Picture(path.name, "Calibration", text)

    def features(self, inside: Activations) -> Picture | None:
        """Fused features in the plane."""
        path, classes = self._path("features"), self.corpus.classes
        chosen = choose_points(self.tested.label, len(classes))
        if len(chosen) < 3:
            return None
        points, how = project(inside.code[chosen])
        draw_features(path, classes, self.tested.label[chosen], points)
        text = f"{self.split.capitalize()} utterances by {how} of the features that the context "
        text += f"parts of {self.first} give them; at most "
        text += f"{max(POINTS // len(classes), FEWEST_OF_CLASS)} of a class. A panel has one class "
        text += "in colour and all others in grey. Points that lie close have similar features; "
        text += "the axes, and distances between groups, have no meaning of their own."
        return Picture(path.name, "Features", text)

    def generated(self) -> Picture | None:
        """Generated utterances among real ones."""
        prepared = self.prepared
        # With folds, this one may have nothing to generate.
        if self.run.prepared.program.gan is None or not prepared.generated.any():
            return None
        samples = create_samples(
            self.corpus,
            prepared.data,
            prepared.program,
            self.run.state,
            [self.number],
            prepared.standardiser,
        )
        panels = lay_out(samples)
        if not panels:
            return None
        path = self._path("generated")
        draw_utterances(path, panels)
        text = "Train utterances of the generated classes, by their features of all modalities: "
        text += f"real ones, those that {self.first} makes, and the majority utterances that it "
        text += "makes them from. A triangle on a grey halo has hardly moved. Below, the distance "
        text += "travelled: 0 at the source, 1 where real utterances are."
        return Picture(path.name, "Generated utterances", text)

    def attention(self, inside: Activations) -> Picture | None:
        """Which turn attends to which in one conversation."""
        if inside.attention is None:
            return None
        path, corpus = self._path("attention"), self.corpus
        dialogue = choose_conversation(corpus, self.minority, self.split)
        length = int(corpus.length[dialogue])
        inside_split = corpus.in_split(self.split)
        start = int(inside_split[: corpus.start[dialogue]].sum())
        past = self.prepared.program.model.settings.past
        weights = attention_within(inside, start, length, past)
        guess = self.tested.probability[0, start : start + length].argmax(axis=-1)
        conversation = show_conversation(corpus, dialogue, self.minority, guess, weights)
        draw_attention(path, conversation)
        text = (
            f"{self.split.capitalize()} dialogue {plain(conversation.title)}, turns "
            f"{conversation.turn[0]} to {conversation.turn[-1]} of {length} from 0: attention in "
            f"the last graph layer of {self.first}, mean over heads. An arrow leads from the turn "
            "that is attended to (tail) to the turn that attends (head); the wider, the greater "
            f"the weight. Drawn are those of more than {STRONG} times the weight that they would "
            "have if a turn attended to all turns in its window alike. The dialogue was chosen by "
            "its true labels, not by its predictions."
        )
        return Picture(path.name, "Attention in a conversation", text)


def illustrate(
    run: TrainedRun, report: Mapping[str, Any], say: Callable[[str], None] | None = None
) -> list[Picture]:
    """Draws the pictures of a run into its folder.

    Args:
      run: trained and scored.
      report: from ``create_report``.
      say: takes a warning where pictures have to number the classes; by default none is given.

    Returns:
      The pictures in the order in which they are to be shown; none if all members have diverged.
    """
    if not report["dev"]:
        return []
    illustrator = Illustrator(run, report)
    warning = warn_of_numbers(illustrator.names, illustrator.corpus.classes)
    if warning and say:
        say(warning)
    return list(illustrator.draw())
