"""The end of requests: their lines in the usage log, then their settlements.

First the line, before the client has its answer: who is killed between the two leaves a hold, which is settled at its estimate and not counted twice. What
ends in one turn of the event loop is settled in one decision of the store, for a part of what it would cost one by one.
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
    """Tells of requests that have ended, and keeps what is to be settled until the turn of the loop is over."""

    def __init__(self, usage_log: UsageLog, limiter: Limiter, watch: Callable[[RequestRecord], None]) -> None:
        """`watch` is told of each request as it ends: for the log and the metrics."""
        self._usage_log = usage_log
        self._limiter = limiter
        self._watch = watch
        self._due: list[tuple[Reservations, Usage]] = []
        self._is_called = False

    def tell(self, record: RequestRecord) -> None:
        """A request has ended; its line is written when this returns."""
        self._usage_log.write(entry_of(record))
        self._watch(record)

    def settle(self, reservations: Reservations, usage: Usage) -> None:
        """Settles reservations of a request that was told of. What counts as running is let go before this returns: the client may send its next request."""
        if any(one is not None and one.is_live for one in reservations):
            self.settle_now(reservations, usage)
        else:
            self._due.append((reservations, usage))
            if not self._is_called:
                self._is_called = True
                gevent.get_hub().loop.run_callback(gevent.spawn, self.flush)

    def settle_now(self, reservations: Reservations, usage: Usage) -> None:
        """Settles before this returns."""
        self._settle([(reservations, usage)])

    def flush(self) -> None:
        """Settles all that waits."""
        self._is_called = False
        if self._due:
            due, self._due = self._due, []
            self._settle(due)

    def _settle(self, due: Sequence[tuple[Reservations, Usage]]) -> None:
        """A store that fails now leaves estimates standing, which is the safe side, and fails no request that was served."""
        try:
            self._limiter.settle(due)
        except StoreError:
            _log.warning("reservations could not be settled and stand at their estimates", extra={"requests": len(due)})
