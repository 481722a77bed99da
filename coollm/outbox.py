"""What is sent in one turn of an event loop, and what is done before.

To wake a process that sleeps was nearly half of what the kernel did for a request (perf, 64 clients).

Source: ev(3), `ev_pending_count` of libev, which is `pendingcnt` of gevent's loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import gevent

from coollm.waits import OfLoop

# So many pieces are sent together at most: the first of them has waited for the others.
MOST_TOGETHER = 32


class Sender(Protocol):
    """Has something to send."""

    def send_due(self) -> None:
        """Sends it."""


class Outbox:
    """What is to be sent in this turn of one event loop: together, so that whoever gets it is woken once, and not for each piece. Nothing waits when there is
    nothing else to do in this turn.
    """

    def __init__(self, hub: Any) -> None:
        self._loop = hub.loop
        self._waiting: list[Sender] = []
        # What is to be done before anything is sent, in the order of these keys.
        self.first: dict[Callable[[], None], None] = {}

    def do_first(self) -> None:
        """Does all of it."""
        first, self.first = self.first, {}
        for work in first:
            work()

    def add(self, one: Sender) -> None:
        """It has something to send."""
        waiting, has_more = self._waiting, self._loop.pendingcnt
        if not waiting:
            if not has_more:
                one.send_due()
                return
            self._loop.run_callback(self.empty)
        waiting.append(one)
        if not has_more or len(waiting) >= MOST_TOGETHER:
            self.empty()

    def empty(self) -> None:
        """Sends all."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.send_due()


_outboxes = OfLoop(Outbox)


def outbox_of(hub: Any) -> Outbox:
    """That of a hub's loop."""
    return _outboxes.of(hub)


def before_sending(work: Callable[[], None]) -> None:
    """Does `work` before another byte is sent over any wire of this thread's loop, once. Where nothing is sent it waits."""
    outbox_of(gevent.get_hub()).first[work] = None
