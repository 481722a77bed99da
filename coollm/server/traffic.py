"""What a worker has served since it started, and what it serves now: for `coollm status`, and for the receipt of a restart."""

from __future__ import annotations

import heapq
import time
from bisect import bisect_left
from typing import Protocol

from coollm.core.instances import LATENCY_BOUNDS

FAILED = "5"
MOST_AGES = 20


class Served(Protocol):
    """A connection, as far as it matters here."""

    is_stream: bool
    status: str
    was_stopped: bool


class Traffic:
    """Totals of one worker. A request has failed where the answer was a 5xx or none; a stream was cut where the gateway ended it."""

    __slots__ = ("_live", "counts", "failed", "requests", "streams_cut", "streams_finished")

    def __init__(self) -> None:
        self.requests = 0
        self.failed = 0
        self.streams_finished = 0
        self.streams_cut = 0
        self.counts = [0] * (len(LATENCY_BOUNDS) + 1)
        self._live: dict[Served, float] = {}

    def begin(self, served: Served, began: float) -> None:
        """A request is served from now on."""
        self._live[served] = began

    def end(self, served: Served, now: float) -> None:
        """It was answered, to the end."""
        began = self._live.pop(served)
        self.requests += 1
        if served.was_stopped and served.is_stream:
            self.streams_cut += 1
        elif served.is_stream:
            self.streams_finished += 1
        else:
            self.counts[bisect_left(LATENCY_BOUNDS, now - began)] += 1
        if served.status.startswith(FAILED):
            self.failed += 1

    def give_up(self, served: Served, *, is_fault: bool) -> None:
        """Its answer broke off: by a fault of the gateway, or because the client went."""
        if self._live.pop(served, None) is None:
            return
        self.requests += 1
        if is_fault or served.was_stopped:
            self.failed += 1
            self.streams_cut += served.is_stream

    def now(self) -> tuple[int, int, float]:
        """Requests under way, how many of them are streams, and the age of the oldest stream in seconds."""
        streams = [began for served, began in self._live.items() if served.is_stream]
        return len(self._live), len(streams), time.monotonic() - min(streams) if streams else 0.0

    def ages(self) -> list[float]:
        """How long the oldest requests that are under way have been, in seconds, the oldest first."""
        now = time.monotonic()
        return [round(now - began, 1) for began in heapq.nsmallest(MOST_AGES, self._live.values())]
