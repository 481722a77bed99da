"""What this worker has seen of each vendor key: calls in flight, latency, errors."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

# Half of what was seen counts no more after this time.
HALF_LIFE_SECONDS = 30.0


class KeyStats:
    """Figures of one key. Latency is a peak EWMA: a slow answer counts at once, fast ones bring it down slowly."""

    __slots__ = ("_seen", "consecutive_failures", "error_rate", "in_flight", "latency_seconds")

    def __init__(self) -> None:
        self.in_flight = 0
        self.latency_seconds: float | None = None
        self.error_rate = 0.0
        self.consecutive_failures = 0
        self._seen: float | None = None

    def record(self, now: float, *, failed: bool, latency_seconds: float | None) -> None:
        """Takes in one attempt that has ended. A fault of the client is none of the key's and is not recorded."""
        # Even attempts at the same moment move the figures by a tenth.
        kept = 0.0 if self._seen is None else min(0.9, math.exp2(-(now - self._seen) / HALF_LIFE_SECONDS))
        self._seen = now
        self.error_rate = self.error_rate * kept + failed * (1 - kept)
        self.consecutive_failures = self.consecutive_failures + 1 if failed else 0
        if latency_seconds is not None:
            before = self.latency_seconds
            faded = latency_seconds if before is None else before * kept + latency_seconds * (1 - kept)
            self.latency_seconds = max(latency_seconds, faded)


class Board:
    """The statistics of all keys of this worker."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._keys: dict[str, KeyStats] = {}
        self._turns: dict[str, int] = {}

    def of(self, key: str) -> KeyStats:
        """The figures of one key."""
        return self._keys.setdefault(key, KeyStats())

    def begin(self, key: str) -> None:
        """An attempt starts."""
        self.of(key).in_flight += 1

    def end(self, key: str) -> None:
        """An attempt no longer occupies the key."""
        stats = self.of(key)
        stats.in_flight = max(0, stats.in_flight - 1)

    def record(self, key: str, *, failed: bool, latency_seconds: float | None = None) -> None:
        """Takes in how an attempt went."""
        self.of(key).record(self._clock(), failed=failed, latency_seconds=latency_seconds)

    def turn(self, group: tuple[str, ...]) -> int:
        """A number that goes up by one with each call for the same group of targets."""
        name = "\n".join(group)
        if len(self._turns) > 10_000:
            self._turns.clear()
        number = self._turns.get(name, 0)
        self._turns[name] = number + 1
        return number
