"""What can end a run from outside: a mistake that a person can mend, and a wish to stop."""


class UserError(ValueError):
    """A mistake in a file, a flag or a setting.

    The message is one sentence for a person: what is wrong, in which file, at which place. The
    commands print it and exit with status 2.
    """


class FolderBusy(UserError):
    """Another process is at work in a folder."""


class Interrupted(Exception):
    """The run was asked to stop; a checkpoint is written. ``number`` is the signal's."""

    def __init__(self, number: int):
        super().__init__(f"stopped by signal {number}")
        self.number = number


class TooLarge(UserError):
    """A model that does not fit the memory of a device."""
