"""Folds from a person's own table: a CSV with the columns dialogue and fold."""

import numpy as np

from cberl_jax.data.corpus import Corpus, shown
from cberl_jax.data.folds import Folds
from cberl_jax.data.readers.tables import read_table
from cberl_jax.errors import UserError


def read_folds(corpus: Corpus, path: str) -> Folds:
    """Reads which fold each dialogue is tested in.

    Args:
      corpus: G dialogues.
      path: CSV in UTF-8 with the columns ``dialogue`` and ``fold``, a row per dialogue.

    Raises:
      UserError: a column or a dialogue is missing, unknown or there twice, or there is one fold.
    """
    table = read_table(path)
    for name in ("dialogue", "fold"):
        if name not in table:
            raise UserError(f"{path}: needs the columns dialogue and fold; {name} is missing")
    known, fold = set(corpus.dialogue.tolist()), {}
    for dialogue, name, line in zip(table["dialogue"], table["fold"], table.lines):
        place = f"{path}: line {line}: dialogue {shown(dialogue)}"
        if dialogue not in known:
            raise UserError(f"{place} is not in {corpus.source}")
        if dialogue in fold:
            raise UserError(f"{place} is there twice")
        if not name:
            raise UserError(f"{place} has no fold")
        fold[dialogue] = name
    lacking = [name for name in corpus.dialogue.tolist() if name not in fold]
    if lacking:
        raise UserError(
            f"{path}: {len(lacking)} of {len(known)} dialogues have no line, such as "
            f"{shown(lacking[0])}"
        )
    names, number = np.unique(
        [fold[name] for name in corpus.dialogue.tolist()], return_inverse=True
    )
    if len(names) < 2:
        raise UserError(f"{path}: folds need at least 2 parts; all dialogues are in {names[0]!r}")
    return Folds(tuple(map(str, names)), number.astype(np.int32))
