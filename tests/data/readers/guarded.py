"""Reads files in a process that reports what else they made it do: ``guarded.py FOLDER``.

A program of its own, since what audits a process can never be taken out of it again. A line of JSON
for each file of the folder goes to the standard output.
"""

import copyreg
import json
import pickle
import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np

from cberl_jax.data.readers.load import load_conversations, load_corpus
from cberl_jax.data.readers.npz import write_npz
from cberl_jax.errors import UserError

SECONDS = 30
# Over 300 times a file's size there is room for what any file costs.
FREE_MEMORY = 2**26


def read_by_the_standard_library(path: str) -> object:
    """What happens without a guard: to show that this program notices it."""
    with open(path, "rb") as file:
        return pickle.load(file)


READERS = {
    ".pkl": load_corpus,
    ".npz": load_corpus,
    ".jsonl": load_conversations,
    ".unguarded": read_by_the_standard_library,
}
# numpy parses the header of an array, and never runs it: that would be an "exec".
HARMLESS = {"object.__getattr__", "sys._getframe", "compile", "array.__new__"}


class Watch:
    """What a process does besides reading one file."""

    def __init__(self):
        self.path, self.events = None, []
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple) -> None:
        if self.path is None or event in HARMLESS:
            return
        if event == "open" and arguments[0] == self.path and arguments[1] in ("r", "rb"):
            return
        self.events.append(f"{event} {arguments[:1]!r}"[:200])


def limit_memory(size: int) -> None:
    """Allows so many bytes more than are in use, where the system can tell."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    statm = Path("/proc/self/statm")
    used = int(statm.read_text().split()[0]) * resource.getpagesize() if statm.exists() else None
    limit = resource.RLIM_INFINITY if used is None else used + size
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard < 0 else min(limit, hard), hard))


def read(path: Path, watch: Watch) -> dict:
    limit_memory(FREE_MEMORY + 300 * path.stat().st_size)
    signal.alarm(SECONDS)
    began, message, fault = time.process_time(), None, None
    watch.path, watch.events = str(path), []
    try:
        READERS[path.suffix](str(path))
    except UserError as error:
        message = str(error).removeprefix(str(path))
    except BaseException as error:
        fault = repr(error)
    events, watch.path = watch.events, None
    seconds = time.process_time() - began
    return {"message": message, "fault": fault, "events": events, "seconds": seconds}


def main(folder: Path) -> None:
    copyreg._inverted_registry[1] = ("os", "system")
    files = sorted(folder.iterdir())
    # Whatever a sound file has imported is there before the watch begins.
    write_npz(load_corpus("simulated:small"), "warm.npz")
    load_corpus("warm.npz")
    np.char.decode(np.array([b"a"]), "latin1")
    b"a".decode("raw-unicode-escape")
    watch = Watch()
    for path in files:
        print(json.dumps({"name": path.name, **read(path, watch)}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
