"""The console script ``cberl``, which is ``python -m cberl_jax`` too."""

import difflib
import sys

from cberl_jax import cli
from cberl_jax.commands import COMMANDS, run, summarise
from cberl_jax.version import __version__

USAGE = """CBERL: emotion recognition in conversations, in JAX.

usage: cberl <command> [flags]
       cberl <command> --help
"""


def main() -> None:
    """Runs the command that the first argument names."""
    if len(sys.argv) < 2:
        cli.fail(f"name a command: {', '.join(COMMANDS)}; cberl --help says what each does")
    name = sys.argv[1]
    if name in cli.HELP:
        cli.show(f"{USAGE}\n{summarise()}")
    elif name == "--version":
        print(__version__)
    elif name in COMMANDS:
        sys.argv[:2] = [f"cberl {name}"]
        run(name)
    else:
        near = difflib.get_close_matches(name, COMMANDS, 1, 0.0)[0]
        cli.fail(f"there is no command {name!r}; the nearest is {near!r}")


if __name__ == "__main__":
    main()
