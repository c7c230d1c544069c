"""What makes a corpus sound; every reader ends here.

Section 2 of the design. Each message names the file, and the dialogue and utterance where there
is one. Deliberately allowed: a class without utterances in a split, a train split of one class,
one-utterance dialogues and constant feature columns. Conversations that are only to be predicted
need neither splits nor labels.
"""

import dataclasses
import hashlib
from collections.abc import Iterator

import numpy as np

from cberl_jax.config.views import FEATURE_NAME, NAMING, find_unclear
from cberl_jax.data.corpus import SPLITS, UNLABELLED, Corpus, shown
from cberl_jax.data.text_layers import name_layers

# What may repeat by chance: MELD has two such dialogues of text alone ("Hey." "Hey."), of 280.
CHANCE_TURNS = 2
CHANCE_SHARE = 0.01


def validate(corpus: Corpus, *, to_predict: bool = False, without_splits: bool = False) -> Corpus:
    """Checks a corpus and brings its features into the form that the rest relies on.

    Args:
      corpus: a corpus as a reader built it. Features are [N, d_m] of any float type.
      to_predict: it is only to be predicted: the splits do not count, and labels and their
        classes need not be there.
      without_splits: the splits do not count, but labels do.

    Returns:
      The corpus with float32 features whose absent rows are zero, and without the modalities
      that are absent throughout (width 0, or present nowhere).

    Raises:
      UserError: with one sentence, for the first fault that is found.
    """
    if not to_predict:
        _check_classes(corpus)
    _check_dialogues(corpus)
    _check_text(corpus)
    _check_names(corpus)
    if not (to_predict or without_splits):
        _check_splits(corpus)
    _check_utterances(corpus)
    _check_labels(corpus)
    for name in corpus.features:
        _check_modality(corpus, name)
    corpus = name_layers(corpus)
    _check_views(corpus)
    if not (to_predict or without_splits):
        check_train(corpus)
    features, present, remarks = {}, {}, list(corpus.remarks)
    for name, array in corpus.features.items():
        if array.shape[1] and corpus.present[name].any():
            features[name] = _clean_features(corpus, name)
            present[name] = corpus.present[name]
        else:
            remarks.append(f"the file has a place for {name}, but it is absent everywhere")
    if not features:
        raise corpus.error("no modality is present in any utterance.")
    return dataclasses.replace(corpus, features=features, present=present, remarks=tuple(remarks))


def _check_classes(corpus: Corpus) -> None:
    classes = corpus.classes
    if len(classes) < 2:
        raise corpus.error(f"there must be at least 2 classes, not {len(classes)}.")
    repeated = _first_repeated(classes)
    if repeated is not None:
        raise corpus.error(f"the class {shown(repeated)} is listed twice.")
    if not all(classes):
        raise corpus.error("a class has an empty name.")


def _check_dialogues(corpus: Corpus) -> None:
    count = len(corpus.dialogue)
    if not count:
        raise corpus.error("there is no dialogue.")
    for field in ("split", "length"):
        found = len(getattr(corpus, field))
        if found != count:
            raise corpus.error(f"{field} has {found} entries for {count} dialogues.")
    for name, values in corpus.groups.items():
        if len(values) != count:
            raise corpus.error(f"group.{name} has {len(values)} entries for {count} dialogues.")
    empty = np.flatnonzero(corpus.length < 1)
    if empty.size:
        name, length = shown(corpus.dialogue[empty[0]]), corpus.length[empty[0]]
        raise corpus.error(f"dialogue {name} is empty (length {length}).")


def _check_text(corpus: Corpus) -> None:
    """Refuses what no file in UTF-8 could hold: reports and predictions could not be written."""
    for field in ("classes", "dialogue", "speaker", "utterance"):
        try:
            "".join(getattr(corpus, field) if getattr(corpus, field) is not None else ()).encode()
        except UnicodeEncodeError as error:
            raise corpus.error(
                f"{field} holds half a character, \\ud800 to \\udfff, which is no text."
            ) from error


def _check_names(corpus: Corpus) -> None:
    repeated = _first_repeated(corpus.dialogue.tolist())
    if repeated is not None:
        found = set(corpus.split[corpus.dialogue == repeated].tolist())
        if len(found) > 1:
            places = " and ".join(split for split in SPLITS if split in found)
            raise corpus.error(f"dialogue {shown(repeated)} is in two splits, {places}.")
        raise corpus.error(f"two dialogues are named {shown(repeated)}.")


def _check_splits(corpus: Corpus) -> None:
    unknown = np.flatnonzero(~np.isin(corpus.split, SPLITS))
    if unknown.size:
        split, name = shown(corpus.split[unknown[0]]), shown(corpus.dialogue[unknown[0]])
        raise corpus.error(
            f"dialogue {name} is in an unknown split {split}; use train, dev or test."
        )
    for split in SPLITS:
        if not np.any(corpus.split == split):
            way_out = "; --dev_share=0.1 takes a tenth of train (data.dev_share in a config)"
            raise corpus.error(
                f"the {split} split has no dialogue{way_out if split == 'dev' else ''}."
            )


def _check_utterances(corpus: Corpus) -> None:
    count = sum(corpus.length.tolist())
    fields = {"label": corpus.label, "speaker": corpus.speaker}
    if corpus.utterance is not None:
        fields["utterance"] = corpus.utterance
    for kind in ("features", "present"):
        arrays = getattr(corpus, kind)
        fields |= {f"{kind}.{name}": array for name, array in arrays.items()}
    for name, array in fields.items():
        if len(array) != count:
            raise corpus.error(
                f"{name} has {len(array)} rows, but the dialogues' lengths sum to {count}."
            )


def _check_labels(corpus: Corpus) -> None:
    if corpus.label.ndim != 1 or corpus.label.dtype.kind not in "iu":
        raise corpus.error("labels must be one integer per utterance.")
    top = len(corpus.classes) - 1
    if top < 0 and np.any(corpus.label != UNLABELLED):
        raise corpus.error("there are labels, but no classes that name them.")
    wrong = np.flatnonzero((corpus.label < UNLABELLED) | (corpus.label > top))
    if wrong.size:
        raise corpus.error(
            f"label {corpus.label[wrong[0]]} at {corpus.place(wrong[0])} is out of range: "
            f"labels go from 0 to {top}, or {UNLABELLED} for none."
        )


def _check_modality(corpus: Corpus, name: str) -> None:
    if not FEATURE_NAME.fullmatch(name):
        raise corpus.error(f"{shown(name)} cannot name a modality; {NAMING}.")
    array = corpus.features[name]
    if array.ndim != 2 or array.dtype.kind != "f":
        raise corpus.error(f"features.{name} must be a table of real numbers, [N, width].")
    present = corpus.present.get(name)
    if present is None or present.shape != array.shape[:1] or present.dtype != bool:
        raise corpus.error(f"present.{name} must hold one boolean per utterance.")


def _check_views(corpus: Corpus) -> None:
    unclear = find_unclear(corpus.features)
    if unclear:
        raise corpus.error(
            f"holds both {unclear[0]} and {unclear[1]}; which of them is the {unclear[0]}? Two "
            f"views of it need two names, such as {unclear[0]}.first."
        )


def check_train(corpus: Corpus) -> None:
    """Refuses a train split from which nothing could be learnt.

    Raises:
      UserError: it has no label, or nothing of a modality that the corpus has.
    """
    if not corpus.class_counts("train").any():
        raise corpus.error("the train split has no labelled utterance.")
    train = corpus.in_split("train")
    for name, present in corpus.present.items():
        held = corpus.features[name].shape[1] and present.any()
        if held and not present[train].any():
            raise corpus.error(f"the modality {name} is absent from the whole train split.")


def check_repeats(corpus: Corpus) -> None:
    """Refuses a corpus whose splits share dialogues, whatever these are called.

    The same features and labels are the same dialogue. Very short ones may be alike by chance as
    long as they are few: up to ``CHANCE_TURNS`` turns, in up to ``CHANCE_SHARE`` of a split.

    Args:
      corpus: validated, with all modalities of its file: with fewer, more is alike.

    Raises:
      UserError: dialogues of dev are in train too, or dialogues of test in train or dev.
    """
    contents, first = list(_contents(corpus)), {}
    for split in SPLITS:
        here = np.flatnonzero(corpus.split == split).tolist()
        repeated = [g for g in here if contents[g] in first]
        again = max(repeated, key=corpus.length.__getitem__, default=None)
        if again is not None and (
            corpus.length[again] > CHANCE_TURNS or len(repeated) > CHANCE_SHARE * len(here)
        ):
            before = first[contents[again]]
            raise corpus.error(
                f"dialogue {shown(corpus.dialogue[again])} of {split} has the features and labels "
                f"of dialogue {shown(corpus.dialogue[before])} of {corpus.split[before]} "
                f"({len(repeated)} of {len(here)} dialogues of {split} repeat others); take them "
                "out of one split, or accept them by --config.data.allow_repeats=True."
            )
        first = {contents[g]: g for g in here} | first


def _contents(corpus: Corpus) -> Iterator[bytes]:
    """Of each dialogue, a digest of its features and labels."""
    columns = [corpus.label, *corpus.features.values(), *corpus.present.values()]
    columns = [np.ascontiguousarray(column) for column in columns]
    for start, length in zip(corpus.start, corpus.length):
        digest = hashlib.sha256()
        for column in columns:
            digest.update(column[start : start + length].tobytes())
        yield digest.digest()


def _clean_features(corpus: Corpus, name: str) -> np.ndarray:
    """Float32 with zeros where the modality is absent; refuses what is not finite."""
    present = corpus.present[name]
    # A number beyond float32 becomes infinite here and is reported as such.
    with np.errstate(over="ignore"):
        array = corpus.features[name].astype(np.float32)
    wrong = np.argwhere(~np.isfinite(array) & present[:, None])
    if wrong.size:
        row, column = wrong[0]
        way_out = ""
        if np.isnan(array[row, column]):
            way_out = f"; where {name} is missing, the whole row has to be nan (null in JSON)"
        raise corpus.error(
            f"feature {column} of {name} at {corpus.place(row)} is {array[row, column]}, "
            f"not a finite float32 number{way_out}."
        )
    array[~present] = 0
    return array


def _first_repeated(names) -> str | None:
    seen = set()
    for name in names:
        if name in seen:
            return str(name)
        seen.add(name)
    return None
