"""Which list of dialogue ids is which split.

Files name their lists by nothing but the order, and both orders of three are in use. What the ids
and sizes say is certain for MELD, IEMOCAP and EmoryNLP; else the order has to be given.
"""

import re
from collections.abc import Mapping, Sequence, Set

from cberl_jax.data.corpus import SPLIT_NAMES, SPLITS
from cberl_jax.data.readers.entries import shown
from cberl_jax.data.readers.known import (
    EMORYNLP_SIZES,
    MELD_DEV_IDS,
    MELD_SIZES,
    MELD_TEST_IDS,
    MELD_TRAIN_IDS,
)
from cberl_jax.errors import UserError

_SESSION = re.compile(r"Ses(\d\d)[MF]?_")
_SPLIT_WORD = re.compile(r"(train|dev|valid|val|validation|test)(?![a-z])", re.IGNORECASE)
# A list so many times as long as the other is train, and the other dev.
_MUCH_LONGER = 2

Order = tuple[str, ...]


def name_lists(lists: Sequence[Set[str]], given: Order, usual: Order, source: str) -> Order:
    """The splits that the lists are.

    Args:
      lists: two or three lists of dialogue ids, in the file's order.
      given: their names, if a person has named them.
      usual: their names in the layout's published files, if there is one order.
      source: name of the file.

    Returns:
      A split for each list.

    Raises:
      UserError: the order is not certain, or is not that of so many lists.
    """
    if given and len(given) != len(lists):
        raise UserError(
            f"{source}: holds {len(lists)} lists of dialogue ids, but --splits names {len(given)}."
        )
    found = certain_order(lists)
    if not given and found and usual and found != usual:
        raise UserError(
            f"{source}: its lists of ids should be {', '.join(usual)}, but the ids say "
            f"{', '.join(found)}; name them by --splits={','.join(found)}, or as they are "
            "(data.splits in a config)."
        )
    if given or found:
        return given or found
    # Each published order begins with train, which is the longest.
    if not usual or 0 < len(lists[0]) < max(map(len, lists)):
        sizes = ", ".join(str(len(ids)) for ids in lists)
        choices = ("train,dev,test", "train,test,dev")
        what = "three lists of ids ({}) is dev and which is test"
        if len(lists) == 2:
            choices, what = ("train,test", "test,train"), "two lists of ids ({}) is train"
        raise UserError(
            f"{source}: it is not certain which of its {what.format(f'{sizes} dialogues')}; name "
            f"them in order by --splits={' or --splits='.join(choices)} (data.splits in a config)."
        )
    return usual


def say_order(lists: Sequence[Set[str]], order: Order) -> str:
    """What a person should know of the order that three lists were given."""
    pairs = ", ".join(f"{split} ({len(ids)} dialogues)" for split, ids in zip(order, lists))
    return f"the file's three lists of ids are read as {pairs}; --splits sets another order"


def say_contradiction(lists: Sequence[Set[str]], order: Order) -> tuple[str, ...]:
    """What a person should know who has named lists otherwise than their ids do."""
    found = certain_order(lists)
    if found in (None, order):
        return ()
    return (
        f"--splits names the lists of ids {', '.join(order)}, but the ids say {', '.join(found)}",
    )


def certain_order(lists: Sequence[Set[str]]) -> Order | None:
    """The order that the ids or the sizes of the lists prove, or None."""
    for find in (_by_words, meld_order, _by_sessions, _by_sizes):
        order = find(lists)
        if order is not None:
            return order
    return None


def _complete(names: Sequence[str | None]) -> Order | None:
    """The names if each is there once, and is one of as many splits as there are."""
    wanted = SPLITS if len(names) == 3 else ("train", "test")
    return tuple(names) if set(names) == set(wanted) and len(names) == len(wanted) else None


def _by_words(lists: Sequence[Set[str]]) -> Order | None:
    """Ids such as train_7."""
    names = []
    for ids in lists:
        matches = [_SPLIT_WORD.match(name) for name in ids]
        words = {SPLIT_NAMES[match[1].lower()] if match else None for match in matches}
        names.append(words.pop() if len(words) == 1 else None)
    return _complete(names)


def meld_order(lists: Sequence[Set[str]]) -> Order | None:
    """MELD's official splits: 0..1038 train, 1039..1152 dev, 1153..1432 test."""
    train = MELD_TRAIN_IDS | (MELD_DEV_IDS if len(lists) == 2 else set())
    return _complete([_meld_split(ids, train) for ids in lists])


def _meld_split(ids: Set[str], train: Set[int]) -> str | None:
    """The split of MELD that ids are of, if it is one."""
    if not ids or not all(name.isdecimal() and len(name) < 9 for name in ids):
        return None
    numbers = set(map(int, ids))
    if numbers <= MELD_TEST_IDS:
        return "test"
    if numbers <= MELD_DEV_IDS:
        return "dev"
    return "train" if numbers <= train else None


def _by_sessions(lists: Sequence[Set[str]]) -> Order | None:
    """IEMOCAP's fifth session is test, and train is much longer than dev.

    Not so where a fold of a cross-validation has the session in train.
    """
    sessions = []
    for ids in lists:
        matches = [_SESSION.match(name) for name in ids]
        if not matches or not all(matches):
            return None
        sessions.append({match[1] for match in matches})
    tests = [n for n, held in enumerate(sessions) if "05" in held]
    if len(tests) != 1:
        return None
    is_longest = len(lists[tests[0]]) == max(map(len, lists))
    if sessions[tests[0]] != {"05"} and (len(lists) == 2 or is_longest):
        return None
    rest = sorted((n for n in range(len(lists)) if n != tests[0]), key=lambda n: -len(lists[n]))
    if len(rest) == 2 and len(lists[rest[0]]) < _MUCH_LONGER * len(lists[rest[1]]):
        return None
    names = dict(zip(rest, ("train", "dev"))) | {tests[0]: "test"}
    return tuple(names[n] for n in range(len(lists)))


def _by_sizes(lists: Sequence[Set[str]]) -> Order | None:
    """The published sizes of MELD and EmoryNLP."""
    for sizes in MELD_SIZES + EMORYNLP_SIZES:
        names = {size: split for size, split in zip(sizes, SPLITS)}
        order = _complete([names.get(len(ids)) for ids in lists])
        if order and len(lists) == 3:
            return order
    return None


def check_disjoint(splits: Mapping[str, Set[str]], source: str) -> None:
    """Refuses a dialogue in two splits.

    Raises:
      UserError: naming it.
    """
    names = [split for split in SPLITS if split in splits]
    for number, one in enumerate(names):
        for other in names[number + 1 :]:
            both = splits[one] & splits[other]
            if both:
                raise UserError(
                    f"{source}: dialogue {shown(min(both))} is in two splits, {one} and {other}."
                )
