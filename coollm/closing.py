"""The end of requests: their lines in the usage log, then their settlements; those of one turn of the event loop together.

First the line: who is killed between the two leaves a hold, which is settled at its estimate and not counted twice. One write and one decision of the store
for all that end in a turn cost a part of what they would for each.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import gevent

from coollm.core.types import Usage
from coollm.ledger.entry import entry_of
from coollm.ledger.usage_log import UsageLog
from coollm.limits.limiter import Limiter, Reservation
from coollm.stores.base import StoreError
from coollm.telemetry.record import RequestRecord

Reservations = Sequence[Reservation | None]

_log = logging.getLogger("coollm.closing")


class Closer:
    """Keeps what is to be written and settled until the turn of the loop is over."""

    def __init__(self, usage_log: UsageLog, limiter: Limiter, watch: Callable[[RequestRecord], None]) -> None:
        """`watch` is told of each request as it ends: for the log and the metrics."""
        self._usage_log = usage_log
        self._limiter = limiter
        self._watch = watch
        self._due: list[tuple[Reservations, Usage]] = []
        self._is_called = False

    def tell(self, record: RequestRecord) -> None:
        """A request has ended."""
        self._usage_log.add(entry_of(record))
        self._watch(record)
        self._call()

    def tell_now(self, record: RequestRecord) -> None:
        """The same, and its line is written before this returns."""
        self.tell(record)
        self.flush()

    def settle(self, reservations: Reservations, usage: Usage) -> None:
        """Settles reservations of a request that was told of. What counts as running is let go before this returns: the client may send its next request."""
        if any(one is not None and one.is_live for one in reservations):
            self.settle_now(reservations, usage)
        else:
            self._due.append((reservations, usage))
            self._call()

    def settle_now(self, reservations: Reservations, usage: Usage) -> None:
        """Settles before this returns."""
        self._usage_log.flush()
        self._settle([(reservations, usage)])

    def flush(self) -> None:
        """Writes and settles all that waits."""
        self._is_called = False
        self._usage_log.flush()
        if self._due:
            due, self._due = self._due, []
            self._settle(due)

    def _call(self) -> None:
        if not self._is_called:
            self._is_called = True
            gevent.get_hub().loop.run_callback(gevent.spawn, self.flush)

    def _settle(self, due: Sequence[tuple[Reservations, Usage]]) -> None:
        """A store that fails now leaves estimates standing, which is the safe side, and fails no request that was served."""
        try:
            self._limiter.settle_all(due)
        except StoreError:
            _log.warning("reservations could not be settled and stand at their estimates", extra={"requests": len(due)})
