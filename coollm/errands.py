"""Work that comes up in the event loop and may have to wait, in a greenlet that stays for the next.

A new greenlet has a stack for Python's frames, which the kernel makes, fills with zeros as it is touched, and takes back. Where a worker has little to do that
was one for each request.

Source: `push_chunk` in Python/pystate.c of CPython 3.11 (16 KiB of mmap).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent

from coollm.waits import OfLoop


class Errands:
    """The greenlets of one event loop that have nothing to do: one stays, and there are others while that one waits for something in its work."""

    def __init__(self, hub: Any) -> None:  # noqa: ARG002  what is kept for a loop must not hold it
        self._idle: list[Any] = []

    def begin(self, work: Callable[[], None]) -> None:
        """Called by the loop."""
        if self._idle:
            self._idle.pop().switch(work)
        else:
            gevent.spawn(self._serve, work)

    def _serve(self, work: Callable[[], None] | None) -> None:
        while work is not None:
            work()
            work = None  # which would hold what it is of, until there is another
            if not self._idle:
                self._idle.append(gevent.getcurrent())
                work = gevent.get_hub().switch()


_errands = OfLoop(Errands)


def do_soon(work: Callable[[], None]) -> None:
    """Does `work` when this turn of the event loop is over."""
    hub = gevent.get_hub()
    hub.loop.run_callback(_errands.of(hub).begin, work)
