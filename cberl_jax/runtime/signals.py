"""SIGTERM and Ctrl-C: when a training ends early, and what it ends with.

A training checks for them between two epochs, where it can write a checkpoint. A cluster that
sends SIGTERM kills the process soon afterwards. An epoch or a drawing that takes longer is
therefore cut off: a thread ends the process, and the newest checkpoint remains. A compilation is
cut off at once, since all is saved before it.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

# Of the ten seconds that clusters commonly give, less what writing a checkpoint takes.
GRACE_SECONDS = 6.0
STOPPING = "stopping after this epoch; once more stops at once, without a checkpoint"


class Stopper:
    """Records SIGTERM and Ctrl-C, which the training loop checks for between epochs."""

    def __init__(self, say: Callable[[str], None], grace: float = GRACE_SECONDS):
        """Args: what takes a line of progress; how long SIGTERM waits for the loop, in seconds."""
        self.received: int | None = None
        self._say, self._grace = say, grace
        self._over = threading.Event()
        self._writing = threading.Lock()
        # Set while nothing would be lost.
        self._all_saved = threading.Event()

    @contextlib.contextmanager
    def listening(self) -> Iterator["Stopper"]:
        """Listens within the block; only the main thread of a process can."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        old = {s: signal.signal(s, self._receive) for s in (signal.SIGTERM, signal.SIGINT)}
        # Python's own handlers wait for the main thread, which may be compiling; this does not.
        old_descriptor = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        watcher = threading.Thread(target=self._watch, args=(ours,), daemon=True)
        watcher.start()
        try:
            yield self
        finally:
            self._over.set()
            signal.set_wakeup_fd(old_descriptor)
            for number, handler in old.items():
                signal.signal(number, handler)
            theirs.close()
            watcher.join()
            ours.close()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """While the block writes, the process is not ended."""
        with self._writing:
            yield

    @contextlib.contextmanager
    def all_saved(self) -> Iterator[None]:
        """In the block, which may be long, there is nothing to save: a signal ends the process."""
        self._all_saved.set()
        try:
            yield
        finally:
            self._all_saved.clear()

    def _receive(self, number, frame):
        del frame
        if self.received is not None:
            raise KeyboardInterrupt
        # Not printed here: the signal may have come in the middle of another line.
        self.received = number

    def _watch(self, signals: socket.socket) -> None:
        """Reports the signal; ends the process if the loop does not act on SIGTERM in time."""
        reported = False
        while received := signals.recv(1):
            number = received[0]
            if number not in (signal.SIGTERM, signal.SIGINT):
                continue
            if not reported and not self._all_saved.is_set():
                reported = True
                self._say(STOPPING)
            self._end_if_late(number)

    def _end_if_late(self, number: int) -> None:
        """Ends the process once all is saved, or where SIGTERM's time is over."""
        late = time.monotonic() + self._grace
        while not self._over.wait(0.05):
            if self._all_saved.is_set():
                self._end(number, "stopped; nothing is lost. The same command goes on.")
            elif number == signal.SIGINT:
                return
            elif time.monotonic() > late:
                self._end(
                    number,
                    "stopped; what came after the newest checkpoint is lost. The same command "
                    "goes on.",
                )

    def _end(self, number: int, sentence: str) -> None:
        """Ends the process, unless the loop has acted on the signal meanwhile."""
        with self._writing:
            if self._over.wait(0.1):
                return
            print(sentence, file=sys.stderr, flush=True)
            os._exit(128 + number)
