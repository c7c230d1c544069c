"""What a person says of a file that does not say it itself.

The same for every reader, for ``convert.py`` (flags of these names) and for a training (settings
``data.<name>``). An option that is not given is empty, and the file decides.
"""

import dataclasses
import math
from collections.abc import Iterable

from cberl_jax.data.corpus import SPLIT_NAMES
from cberl_jax.data.readers.known import CORPORA
from cberl_jax.errors import UserError

SPLIT_CHOICES = (
    ("train", "test"),
    ("test", "train"),
    ("train", "dev", "test"),
    ("train", "test", "dev"),
    ("dev", "train", "test"),
    ("dev", "test", "train"),
    ("test", "train", "dev"),
    ("test", "dev", "train"),
)
# Half of train at most: there has to be more to learn from than to choose by.
LARGEST_DEV_SHARE = 0.5


@dataclasses.dataclass(frozen=True)
class ReadingOptions:
    """How to read a file; the empty value of each leaves it to the file.

    Attributes:
      classes: names of the classes in the order of their numbers.
      corpus: key of ``CORPORA``, whose class names and official splits count.
      splits: names of the lists of dialogue ids, in the file's order.
      bins: rising edges that cut labels that are real numbers into classes.
      dev_share: share of the train dialogues to hold out as dev where the file has no dev split.
      without_splits: the splits of the file do not count, and need not be there.
    """

    classes: tuple[str, ...] = ()
    corpus: str = ""
    splits: tuple[str, ...] = ()
    bins: tuple[float, ...] = ()
    dev_share: float = 0.0
    without_splits: bool = False


def parse_options(
    classes: str = "", corpus: str = "", splits: str = "", bins: str = "", dev_share: float = 0.0
) -> ReadingOptions:
    """Options as a person writes them: lists are joined by commas.

    Args:
      classes: as in ``happy,sad``.
      corpus: as in ``meld``.
      splits: as in ``train,dev,test``; valid, val and validation count as dev.
      bins: as in ``-3,0,3``; inf is a number.
      dev_share: in 0 to 0.5.

    Returns:
      The options.

    Raises:
      UserError: naming the option and what it admits.
    """
    options = ReadingOptions(
        classes=_parse_classes(classes),
        corpus=_parse_corpus(corpus),
        splits=_parse_splits(splits),
        bins=_parse_bins(bins),
        dev_share=float(dev_share),
    )
    if not 0 <= options.dev_share <= LARGEST_DEV_SHARE:
        raise UserError(f"dev_share = {dev_share}: has to be from 0 to {LARGEST_DEV_SHARE}")
    if options.bins and options.classes and len(options.classes) != len(options.bins) - 1:
        raise UserError(
            f"bins = {bins}: {len(options.bins)} edges cut {len(options.bins) - 1} classes, but "
            f"classes = {classes} names {len(options.classes)}"
        )
    return options


def _names(value: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in value.split(",")) if value.strip() else ()


def _parse_classes(value: str) -> tuple[str, ...]:
    classes = _names(value)
    if classes and (len(classes) < 2 or not all(classes) or len(set(classes)) < len(classes)):
        raise UserError(
            f"classes = {value!r}: has to be at least two different names joined by commas"
        )
    return classes


def _parse_corpus(value: str) -> str:
    name = value.strip().lower()
    if name and name not in CORPORA:
        raise UserError(f"corpus = {value!r}: has to be one of {', '.join(CORPORA)}")
    return name


def _parse_splits(value: str) -> tuple[str, ...]:
    splits = tuple(SPLIT_NAMES.get(name.lower(), name) for name in _names(value))
    if splits and splits not in SPLIT_CHOICES:
        raise UserError(
            f"splits = {value!r}: has to name the lists of ids in the file's order, such as "
            "train,dev,test or train,test,dev, or train,test"
        )
    return splits


def _parse_bins(value: str) -> tuple[float, ...]:
    try:
        bins = tuple(map(float, _names(value)))
    except ValueError:
        bins = (math.nan,)
    if bins and (len(bins) < 3 or not _rises(bins)):
        raise UserError(
            f"bins = {value!r}: has to be at least three rising numbers joined by commas, such as "
            "-3,0,3 for two classes"
        )
    return bins


def _rises(numbers: Iterable[float]) -> bool:
    numbers = tuple(numbers)
    return all(a < b for a, b in zip(numbers, numbers[1:]))
