"""What is sound in a corpus and still worth a look before hours of training.

Nothing here is an error: a constant column is harmless, and a class without train utterances may be
meant. Each is a sentence with its number and the first place.
"""

import unicodedata
from collections.abc import Mapping

import numpy as np

from cberl_jax.data.corpus import SPLITS, Corpus, describe

HEADING = "Worth a look"
# IEMOCAP's labels for utterances without a majority, and for what is none of its classes.
NO_CLASS = ("xxx", "oth", "other")
# What tables hold where there is nothing.
NOTHING = ("none", "null", "nil", "na", "n/a", "-", "?", "unknown", "unlabelled", "unlabeled")


def notices(corpus: Corpus) -> list[str]:
    """Sentences about a corpus, none where nothing is worth a look.

    Args:
      corpus: validated.

    Returns:
      What was decided in reading; dialogues in no split; classes without train utterances;
      modalities that are absent from a whole split; rows of zeros; columns that are constant in
      train.
    """
    found = list(corpus.remarks)
    if corpus.left_out:
        found.append(f"{corpus.left_out} dialogues of the file stand in no split and are left out")
    found += [
        f"the class {name} is IEMOCAP's mark for no class; leave those labels empty to train "
        "without them"
        for name in corpus.classes
        if name.lower() in NO_CLASS
    ]
    found += [
        f"the class {name} may stand for no label; leave those labels empty if it does"
        for name in corpus.classes
        if name.lower() in NOTHING
    ]
    found += _alike_classes(corpus)
    found += _untaught_classes(corpus)
    for name in corpus.features:
        found += _absent_splits(corpus, name)
        found += _zero_rows(corpus, name)
        found += _constant_columns(corpus, name)
    return found


def say_absent(
    present: Mapping[str, np.ndarray], features: Mapping[str, np.ndarray]
) -> tuple[str, ...]:
    """What a reader remarks where rows of nan count as absent.

    Args:
      present: modality -> [N] bool, false where the row is nan.
      features: modality -> [N, d]; a width of 0 says nothing.
    """
    return tuple(
        f"{name} is nan in {np.sum(~there)} of {len(there)} utterances, which count as lacking it"
        for name, there in present.items()
        if features[name].shape[1] and not there.all()
    )


def describe_with_notices(corpus: Corpus) -> str:
    """What ``describe`` says and, under a heading, the notices if there are any."""
    found = notices(corpus)
    if not found:
        return describe(corpus)
    return "\n".join([describe(corpus), "", f"{HEADING}:", *(f"- {line}" for line in found)])


def _alike_classes(corpus: Corpus) -> list[str]:
    """Names of classes that look the same but for letter case or the way accents are written."""
    first: dict[str, str] = {}
    found = []
    for name in corpus.classes:
        plain = unicodedata.normalize("NFKC", name).casefold().strip()
        if plain in first:
            found.append(
                f"the classes {first[plain]!r} and {name!r} count as two, but differ only in "
                "letter case or in how accents are written"
            )
        first.setdefault(plain, name)
    return found


def _untaught_classes(corpus: Corpus) -> list[str]:
    """Classes that nothing in train is labelled with."""
    counts = {split: corpus.class_counts(split) for split in SPLITS}
    return [
        f"the class {name} has no train utterance ({counts['dev'][c]} in dev, "
        f"{counts['test'][c]} in test), so it cannot be learnt"
        for c, name in enumerate(corpus.classes)
        if not counts["train"][c]
    ]


def _absent_splits(corpus: Corpus, name: str) -> list[str]:
    absent = [
        split
        for split in SPLITS
        if (inside := corpus.in_split(split)).any() and not corpus.present[name][inside].any()
    ]
    return [f"{name} is absent from all of {' and '.join(absent)}"] if absent else []


def _zero_rows(corpus: Corpus, name: str) -> list[str]:
    """Rows that count as present and hold nothing."""
    present = corpus.present[name]
    zero = np.flatnonzero(present & ~corpus.features[name].any(axis=1))
    if not zero.size:
        return []
    return [
        f"{name} is all zeros in {zero.size} of the {present.sum()} utterances that have it, first "
        f"at {corpus.place(int(zero[0]))}; if it is missing there, say so (present.{name})"
    ]


def _constant_columns(corpus: Corpus, name: str) -> list[str]:
    rows = corpus.features[name][corpus.present[name] & corpus.in_split("train")]
    if len(rows) < 2:
        return []
    constant = np.flatnonzero((rows == rows[0]).all(axis=0))
    if not constant.size:
        return []
    return [
        f"{constant.size} of the {rows.shape[1]} columns of {name} are constant in train, first "
        f"column {constant[0]}"
    ]
