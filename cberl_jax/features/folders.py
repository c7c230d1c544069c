"""Folders with a file for every utterance: one for all tables, or one for each."""

import os
from collections.abc import Sequence
from pathlib import Path

from cberl_jax.data.readers.transcripts import Transcript
from cberl_jax.errors import UserError


def folder_of_each(
    transcript: Transcript, folders: Sequence[str | os.PathLike], flag: str
) -> list[Path]:
    """The folder of each utterance.

    Args:
      transcript: N utterances.
      folders: one for all tables, or one for each of them in their order.
      flag: that names them, for messages.

    Returns:
      [N] paths.

    Raises:
      UserError: one is missing, or there are too few or too many.
    """
    paths = [Path(folder) for folder in folders]
    tables = int(transcript.file.max()) + 1
    if len(paths) not in (1, tables):
        raise UserError(
            f"{flag} names {len(paths)} folders for {tables} transcripts; name one for all, or one "
            "for each in the same order."
        )
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path}: is not a folder.")
    return [paths[file if len(paths) > 1 else 0] for file in transcript.file]


def check_owners(
    transcript: Transcript, paths: Sequence[Path | None], flag: str, whole: Sequence[bool]
) -> None:
    """Refuses a file that would count for two utterances: tables may number alike.

    Args:
      transcript: N utterances.
      paths: [N] the file of each; None for none.
      flag: that names the folders.
      whole: [N] whether the file is of the whole dialogue, which its utterances share.

    Raises:
      UserError: naming the file and both utterances.
    """
    owners: dict[Path, int] = {}
    for number, path in enumerate(paths):
        if path is None:
            continue
        turn, file = transcript.turns[number], transcript.file[number]
        first = owners.setdefault(path, number)
        owner = transcript.turns[first]
        alike = transcript.file[first] == file
        shares = turn.shares_audio or (whole[number] and owner.dialogue == turn.dialogue)
        if first != number and not (alike and shares):
            raise UserError(
                f"{path}: belongs to both {owner.place} and {turn.place}; give each transcript its "
                f"own {flag}, in the same order."
            )
