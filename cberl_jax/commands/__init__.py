"""The commands: ``cberl <command>`` and the programs in ``experiments/`` run the same functions.

A module per command. Its docstring is the command's help, ``define_flags`` defines its flags and
``main`` is what it does. Importing such a module defines no flag and imports no jax: what ``main``
needs is imported there, so that ``cberl --help`` is quick.
"""

import importlib
from types import ModuleType

from cberl_jax import cli

COMMANDS = (
    *("train", "sweep", "search", "ablate", "compare", "evaluate", "predict", "convert", "extract"),
    *("export", "gan-report", "baselines", "benchmark"),
)


def find(name: str) -> ModuleType:
    """The module of a command, one of ``COMMANDS``."""
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")


def run(name: str, help_text: str | None = None) -> None:
    """Runs a command with the flags of the process, and exits.

    Args:
      name: one of ``COMMANDS``.
      help_text: what ``--help`` prints above the flags; by default the docstring of its module.
    """
    command = find(name)
    arguments = getattr(command, "ARGUMENTS", ())
    cli.run(command.main, command.define_flags, help_text or command.__doc__ or "", arguments)


def summarise() -> str:
    """A line per command: its name and the first line of its help."""
    width = max(map(len, COMMANDS))
    lines = [
        f"  {name:<{width}}  {(find(name).__doc__ or '').splitlines()[0]}" for name in COMMANDS
    ]
    return "\n".join(lines)
