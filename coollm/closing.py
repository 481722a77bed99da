"""The end of requests: their lines in the usage log, then their settlements.

First the line, before the client has its answer: who is killed between the two leaves a hold, which is settled at its estimate and not counted twice. What
ends in one turn of the event loop has its lines written together, before anything is sent; it is told to the log and the metrics, and settled in one decision
of the store, when its answers have gone out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from coollm.core.types import Usage
from coollm.errands import do_soon
from coollm.ledger.entry import line_of
from coollm.ledger.usage_log import UsageLog
from coollm.limits.limiter import Limiter, Reservation
from coollm.outbox import before_sending
from coollm.stores.base import StoreError
from coollm.telemetry.record import RequestRecord

Reservations = Sequence[Reservation | None]

_log = logging.getLogger("coollm.closing")


class Closer:
    """Tells of requests that have ended, and keeps what is to be settled until the turn of the loop is over."""

    def __init__(self, usage_log: UsageLog, limiter: Limiter, watch: Callable[[Sequence[RequestRecord]], None]) -> None:
        """`watch` is told of requests that have ended, for the log and the metrics: when their clients have been answered."""
        self._usage_log = usage_log
        self._limiter = limiter
        self._watch = watch
        self._lines: list[bytes] = []
        self._told: list[RequestRecord] = []
        self._due: list[tuple[Reservations, Usage]] = []
        self._is_called = False

    def tell(self, record: RequestRecord) -> None:
        """A request has ended; its line is in the usage log before anything more is sent."""
        self._lines.append(line_of(record))
        if len(self._lines) == 1:
            before_sending(self._write)
        self._told.append(record)
        if not self._is_called:
            self._call()

    def end(self, record: RequestRecord, reservations: Reservations, usage: Usage) -> None:
        """The same, and settles what was reserved for it. What counts as running is let go before this returns: the client may send its next request."""
        self.tell(record)
        for one in reservations:
            if one is not None and one.is_live:
                self.settle_now(reservations, usage)
                return
        self._due.append((reservations, usage))

    def settle_now(self, reservations: Reservations, usage: Usage) -> None:
        """Settles before this returns."""
        self._settle([(reservations, usage)])

    def flush(self) -> None:
        """Writes, watches and settles all that waits."""
        self._write()
        self._is_called = False
        (told, self._told), (due, self._due) = (self._told, []), (self._due, [])
        try:
            if told:
                self._watch(told)
        finally:
            if due:
                self._settle(due)

    def _call(self) -> None:
        """What waits is seen to when this turn of the loop is over, after the answers that go out then."""
        self._is_called = True
        do_soon(self.flush)

    def _write(self) -> None:
        if self._lines:
            lines, self._lines = self._lines, []
            self._usage_log.write(*lines)

    def _settle(self, due: Sequence[tuple[Reservations, Usage]]) -> None:
        """A store that fails now leaves estimates standing, which is the safe side, and fails no request that was served."""
        self._write()
        try:
            self._limiter.settle(due)
        except StoreError:
            _log.warning("reservations could not be settled and stand at their estimates", extra={"requests": len(due)})
