"""Clients that are out of their ordinary: an hour with many times the requests, cost or errors that their hours usually have.

The ordinary is the median of a client's hours in the last fortnight, and how far they usually lie from it (the median absolute deviation, times 1.4826 as for a
normal distribution): a few wild hours of the past change neither. An hour is out of it if it lies far beyond both, and is not small. Hours without any request
count as zero, from the client's first hour in that time on. The hour that runs is looked at as it is; the one before stays until it has ended.

Source: https://en.wikipedia.org/wiki/Median_absolute_deviation.
"""

from __future__ import annotations

import fcntl
import logging
import os
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from gevent.event import Event
from prometheus_client import Gauge
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from coollm.core.errors import OperationFailed
from coollm.core.money import NANO_USD
from coollm.ledger.book import HOUR_MS, Ledger
from coollm.ledger.tables import hours
from coollm.ledger.threads import in_thread

KINDS = ("requests", "cost", "errors")
COLUMNS = {"requests": hours.c.requests, "cost": hours.c.cost_nano_usd, "errors": hours.c.errors}
UNITS = {"requests": 1.0, "cost": float(NANO_USD), "errors": 1.0}

HISTORY_HOURS = 14 * 24
LEAST_HOURS = 24
"""Of a client that is younger nobody knows what is usual."""

LEAST = {"requests": 100.0, "cost": 1.0, "errors": 20.0}
"""Requests, dollars and errors of an hour below which nothing is out of the ordinary."""

TIMES_MEDIAN = 3.0
DEVIATIONS = 6.0
NORMAL = 1.4826

FIRST_SECONDS, EVERY_SECONDS = 20.0, 120.0
MOST_TOLD = 100

_log = logging.getLogger("coollm.ledger")


class Anomaly(NamedTuple):
    """`amount` is what the hour has come to, `usual` the median of an hour, in requests, US dollars or errors; `hour` is one of the epoch."""

    client: str
    kind: str
    hour: int
    amount: float
    usual: float

    @property
    def ratio(self) -> float:
        """How many times the usual; where that is nothing, of the least that counts."""
        return self.amount / (self.usual or LEAST[self.kind])


def find_anomalies(ledger: Ledger, now: float) -> list[Anomaly]:
    """Those of this hour and of the one before, the largest ratio first. Raises SQLAlchemyError and OperationFailed."""
    current = int(now * 1000) // HOUR_MS
    first = current - 1 - HISTORY_HOURS
    summed = (func.sum(COLUMNS[kind]).label(kind) for kind in KINDS)
    query = select(hours.c.client, hours.c.hour, *summed).where(hours.c.hour >= first).group_by(hours.c.client, hours.c.hour)
    series: dict[str, dict[int, tuple[float, ...]]] = {}
    with ledger.reading() as connection:
        for row in connection.execute(query):
            series.setdefault(str(row.client), {})[int(row.hour)] = tuple(float(getattr(row, kind)) / UNITS[kind] for kind in KINDS)
    found = [one for client, own in series.items() for one in _of_client(client, own, current)]
    return sorted(found, key=lambda one: -one.ratio)


def _of_client(client: str, own: Mapping[int, Sequence[float]], current: int) -> Iterable[Anomaly]:
    begins = min(own)
    if current - 1 - begins < LEAST_HOURS:
        return
    nothing = (0.0,) * len(KINDS)
    past = [own.get(hour, nothing) for hour in range(begins, current - 1)]
    for place, kind in enumerate(KINDS):
        usual, bound = ordinary([hour[place] for hour in past])
        hour = max((current, current - 1), key=lambda one: own.get(one, nothing)[place])
        amount = own.get(hour, nothing)[place]
        if amount > max(bound, LEAST[kind]):
            yield Anomaly(client, kind, hour, amount, usual)


def ordinary(amounts: Sequence[float]) -> tuple[float, float]:
    """The median of hours, and what is the most that is not out of the ordinary."""
    usual = statistics.median(amounts)
    deviation = NORMAL * statistics.median(abs(amount - usual) for amount in amounts)
    return usual, max(TIMES_MEDIAN * usual, usual + DEVIATIONS * deviation)


class Anomalies:
    """Looks every two minutes, in one worker of a host at a time, and tells the metrics."""

    def __init__(self, ledger: Ledger, lock: Path, gauge: Gauge) -> None:
        self._ledger = ledger
        self._lock = lock
        self._gauge = gauge
        self._told: set[tuple[str, str]] = set()

    def run(self, stopped: Event) -> None:
        """Until it is stopped. A ledger that does not answer is asked again the next time."""
        stopped.wait(FIRST_SECONDS)
        while not stopped.is_set():
            try:
                in_thread(self.look)
            except (SQLAlchemyError, OperationFailed, OSError) as error:
                _log.warning("the ledger could not be searched for anomalies", extra={"reason": type(error).__name__})
            stopped.wait(EVERY_SECONDS)

    def look(self) -> None:
        """Looks once; not where another worker is at it."""
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._tell(find_anomalies(self._ledger, time.time())[:MOST_TOLD])
        except BlockingIOError:
            return
        finally:
            os.close(descriptor)

    def _tell(self, found: Sequence[Anomaly]) -> None:
        """What this worker has told before and is over is told as over; what a worker told that has ended goes with it."""
        now = {(one.client, one.kind): one.ratio for one in found}
        for place in self._told - set(now):
            self._gauge.labels(*place).set(0)
        for place, ratio in now.items():
            if place not in self._told:
                _log.warning("a client is out of its ordinary", extra={"client": place[0], "kind": place[1], "times": round(ratio, 1)})
            self._gauge.labels(*place).set(ratio)
        self._told |= set(now)
