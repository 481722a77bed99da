"""Says again and again, in a thread of its own, that somebody is still at it."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Heartbeat:
    """Does `beat` every so many seconds from `start` to `stop`, which waits for one that is under way."""

    def __init__(self, beat: Callable[[], object], seconds: float) -> None:
        self._beat = beat
        self._seconds = seconds
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._seconds):
            self._beat()
