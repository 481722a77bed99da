"""What is known of each vendor key: calls in flight, latency, errors; what this worker has seen, and what the others have told of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable

import msgspec

# Half of what was seen counts no more after this time.
HALF_LIFE_SECONDS = 30.0

# What counts less than this is forgotten: nobody has used the key for minutes.
LEAST_WEIGHT = 0.01


class Told(msgspec.Struct, frozen=True, array_like=True):
    """Figures of one key as a worker tells them: `weight` is how many attempts they stand for, older ones counting less. `attempts`, `failures` and
    the `seconds` that the others took are all since the worker began.
    """

    in_flight: int
    weight: float
    latency_seconds: float
    peak_seconds: float
    error_rate: float
    attempts: int = 0
    failures: int = 0
    seconds: float = 0.0

    def faded(self) -> Told:
        """Errors that nobody has seen repeated for a while are held against a key less and less; what nobody has seen for long is not known."""
        if self.weight >= 1.0:
            return self
        if self.weight < LEAST_WEIGHT:
            return msgspec.structs.replace(self, weight=0.0, latency_seconds=0.0, peak_seconds=0.0, error_rate=0.0)
        return msgspec.structs.replace(self, error_rate=self.error_rate * self.weight)


class KeyStats:
    """Figures of one key, as this worker has seen them. Means count what is older less; the peak EWMA takes a slow answer at once, and fast ones bring it
    down slowly.
    """

    __slots__ = ("_seen", "attempts", "consecutive_failures", "error_rate", "failures", "in_flight", "latency_seconds", "peak_seconds", "seconds", "weight")

    def __init__(self) -> None:
        self.in_flight = 0
        self.weight = 0.0
        self.latency_seconds = 0.0
        self.peak_seconds = 0.0
        self.error_rate = 0.0
        self.consecutive_failures = 0
        self.attempts = 0
        self.failures = 0
        self.seconds = 0.0
        self._seen = 0.0

    def failed(self, now: float) -> None:
        """Takes in an attempt that has failed. A fault of the client is none of the key's and is not taken in."""
        kept = self._count(now)
        self.error_rate = self.error_rate * kept + 1 - kept
        self.consecutive_failures += 1
        self.failures += 1

    def succeeded(self, now: float, latency_seconds: float) -> None:
        """Takes in an attempt that was answered."""
        kept = self._count(now)
        if self.error_rate:
            self.error_rate *= kept
        self.consecutive_failures = 0
        self.seconds += latency_seconds
        if not self.latency_seconds:
            self.latency_seconds = self.peak_seconds = latency_seconds
            return
        moved = latency_seconds * (1 - kept)
        self.latency_seconds = self.latency_seconds * kept + moved
        peak = self.peak_seconds * kept + moved
        self.peak_seconds = max(latency_seconds, peak)

    def _count(self, now: float) -> float:
        """One more attempt. How much of the figures so far is kept: even attempts at the same moment move them by a tenth."""
        before = self.weight * math.exp2((self._seen - now) / HALF_LIFE_SECONDS)
        self._seen, self.weight = now, before + 1
        self.attempts += 1
        return before / (before + 1) if before < 9 else 0.9

    def end(self) -> None:
        """An attempt no longer occupies the key."""
        if self.in_flight:
            self.in_flight -= 1

    def told(self, now: float) -> Told:
        """The figures of now."""
        weight = self.weight * math.exp2(-(now - self._seen) / HALF_LIFE_SECONDS) if self.weight else 0.0
        return Told(self.in_flight, weight, self.latency_seconds, self.peak_seconds, self.error_rate, self.attempts, self.failures, self.seconds)


class Board:
    """The statistics of all keys. `in_flight` and failures in a row are counted here; means are those of all workers together."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._keys: dict[str, KeyStats] = {}
        self._others: dict[str, list[Told]] = {}
        self.failures = 0

    def of(self, key: str) -> KeyStats:
        """What this worker has seen of a key."""
        stats = self._keys.get(key)
        if stats is None:
            stats = self._keys[key] = KeyStats()
        return stats

    def all_of(self, key: str) -> Told:
        """What all workers have seen of a key: calls in flight added up, the others by their weight. A weight of 0 is one of which nothing is known."""
        own = self._keys.get(key)
        if own is not None and key not in self._others:
            return own.told(self._clock()).faded()
        rows = [own.told(self._clock())] if own else []
        rows += self._others.get(key, ())
        weight = sum(row.weight for row in rows)
        in_flight = sum(row.in_flight for row in rows)
        timed = [row for row in rows if row.latency_seconds]
        heard = sum(row.weight for row in timed) or 1.0
        return Told(
            in_flight,
            weight,
            sum(row.latency_seconds * row.weight for row in timed) / heard,
            sum(row.peak_seconds * row.weight for row in timed) / heard,
            sum(row.error_rate * row.weight for row in rows) / (weight or 1.0),
            sum(row.attempts for row in rows),
            sum(row.failures for row in rows),
            sum(row.seconds for row in rows),
        ).faded()

    def news(self) -> dict[str, Told]:
        """What this worker tells the others."""
        now = self._clock()
        told = {key: stats.told(now) for key, stats in self._keys.items()}
        return {key: row for key, row in told.items() if row.in_flight or row.attempts}

    def hear(self, news: Iterable[dict[str, Told]]) -> None:
        """Takes in what the others tell now; what they told before counts no more."""
        heard: dict[str, list[Told]] = {}
        for one in news:
            for key, row in one.items():
                heard.setdefault(key, []).append(row)
        self._others = heard

    def begin(self, key: str) -> KeyStats:
        """An attempt starts. Its key's figures are told when it has ended."""
        stats = self._keys.get(key) or self.of(key)
        stats.in_flight += 1
        return stats

    def end(self, key: str) -> None:
        """An attempt no longer occupies the key."""
        self.of(key).end()

    def failed(self, key: str) -> None:
        """Takes in that an attempt has failed."""
        self.failures += 1
        self.of(key).failed(self._clock())

    def succeeded(self, key: str, latency_seconds: float) -> None:
        """Takes in that an attempt was answered: after so long came the first content."""
        stats = self._keys.get(key) or self.of(key)
        stats.succeeded(self._clock(), latency_seconds)
