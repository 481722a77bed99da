"""What goes on now, for those who watch: made from the ledger at most every FRESH_SECONDS, however many look, and not at all while nobody does."""

from __future__ import annotations

import time

from gevent.lock import BoundedSemaphore

from coollm.core.types import Json
from coollm.ledger import figures
from coollm.ledger.book import Ledger
from coollm.ledger.figures import Second
from coollm.ledger.threads import in_thread

FRESH_SECONDS = 3.0
MINUTE_SECONDS = 60
SHOWN_MINUTES = 15
LATE_SECONDS = 10
"""Lines of other hosts come into the ledger this much later; what ended before that is not read again."""

MOST_ANSWERS = 2000
MOST_ROWS = 20


class LiveFigures:
    """One in each worker. It is asked by greenlets, of which one makes the figures, in a thread, and the others have them from it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lock = BoundedSemaphore()
        self._seconds: dict[int, Second] = {}
        self._read_until = 0
        self._told: Json = {}
        self._made = -FRESH_SECONDS

    def now(self) -> Json:
        """{"at", "minutes": [{"minute": seconds of the epoch, "requests", "errors", "tokens", "cost_usd"}], "p50_ms", …, "last": the last requests}. Raises as
        `Ledger.prepare`.
        """
        with self._lock:
            if time.monotonic() - self._made >= FRESH_SECONDS:
                self._told = in_thread(self._make)
                self._made = time.monotonic()
            return self._told

    def _make(self) -> Json:
        now = time.time()
        first = (int(now) // MINUTE_SECONDS - SHOWN_MINUTES + 1) * MINUTE_SECONDS
        since = max(first, self._read_until - LATE_SECONDS)
        fresh = {one.second: one for one in figures.seconds(self._ledger, since)}
        self._seconds = {**{second: one for second, one in self._seconds.items() if first <= second < since}, **fresh}
        self._read_until = int(now)
        quick = figures.quick(self._ledger, first * 1000, MOST_ANSWERS)
        return {"at": now, "minutes": self._minutes(first), **quick, "last": figures.last(self._ledger, MOST_ROWS, 0, {}, failed=False)}

    def _minutes(self, first: int) -> list[Json]:
        rows: list[Json] = [
            {"minute": first + number * MINUTE_SECONDS, "requests": 0, "errors": 0, "tokens": 0, "cost_usd": 0.0} for number in range(SHOWN_MINUTES)
        ]
        for one in self._seconds.values():
            place = (one.second - first) // MINUTE_SECONDS
            if place < SHOWN_MINUTES:
                row = rows[place]
                for name in ("requests", "errors", "tokens", "cost_usd"):
                    row[name] += getattr(one, name)
        return rows
