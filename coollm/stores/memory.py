"""Counters in the memory of one worker. For tests and for a gateway of one worker: several workers would each allow the whole limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from coollm.core.config.schema import RuntimeStorage
from coollm.stores.base import (
    Candidate,
    Charge,
    Cooldown,
    Correction,
    Decision,
    Skipped,
    Store,
    Used,
    oldest_counted,
    seconds_until_room,
    shortest_wait,
)

SWEEP_EVERY_SECONDS = 10


def open_store(settings: RuntimeStorage, state: Path) -> Store:  # noqa: ARG001  the signature of every store
    """A store of this process."""
    return MemoryStore()


class MemoryStore:
    """The contract in plain dictionaries. It never yields to another greenlet, so every call is atomic."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._windows: dict[str, dict[int, int]] = {}
        self._cooling: dict[str, tuple[float, str]] = {}
        self._swept = 0.0

    def decide(self, charges: Sequence[Charge], candidates: Sequence[Candidate]) -> Decision:
        now = self._clock()
        self._sweep(now)
        for charge in charges:
            wait = self._wait(charge, now)
            if wait != 0:
                return Decision(refused=charge, retry_after_seconds=wait)
        skipped: list[Skipped] = []
        for index, candidate in enumerate(candidates):
            reason = self._why_not(candidate, now)
            if reason is None:
                used = tuple(self._charge(charge, int(now)) for charge in (*charges, *candidate.charges))
                return Decision(chosen=index, bucket=int(now), skipped=tuple(skipped), used=used)
            skipped.append(reason)
        return Decision(skipped=tuple(skipped), retry_after_seconds=shortest_wait(skipped))

    def settle(self, corrections: Iterable[Correction]) -> None:
        for correction in corrections:
            window = self._windows.get(correction.counter)
            if window is not None and correction.bucket in window:
                window[correction.bucket] = max(0, window[correction.bucket] + correction.difference)

    def cool(self, key: str, seconds: float, cause: str) -> None:
        until = self._clock() + seconds
        if until > self._cooling.get(key, (0.0, ""))[0]:
            self._cooling[key] = (until, cause)

    def cooldowns(self) -> Mapping[str, Cooldown]:
        now = self._clock()
        return {key: Cooldown(seconds=until - now, cause=cause) for key, (until, cause) in self._cooling.items() if until > now}

    def used(self, counters: Sequence[str]) -> Mapping[str, int]:
        now = self._clock()
        return {counter: sum(amount for _, amount in self._counted(counter, now)) for counter in counters}

    def ping(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _why_not(self, candidate: Candidate, now: float) -> Skipped | None:
        until, cause = self._cooling.get(candidate.key, (0.0, ""))
        if until > now:
            return Skipped(key=candidate.key, reason=f"cooling: {cause}", retry_after_seconds=until - now)
        for charge in candidate.charges:
            wait = self._wait(charge, now)
            if wait != 0:
                return Skipped(key=candidate.key, reason=f"limit: {charge.counter}", retry_after_seconds=wait)
        return None

    def _wait(self, charge: Charge, now: float) -> float | None:
        return seconds_until_room(self._counted(charge.counter, now), charge, now)

    def _counted(self, counter: str, now: float) -> list[tuple[int, int]]:
        oldest = oldest_counted(now)
        return [(bucket, amount) for bucket, amount in self._windows.get(counter, {}).items() if bucket >= oldest]

    def _charge(self, charge: Charge, bucket: int) -> Used:
        window = self._windows.setdefault(charge.counter, {})
        window[bucket] = window.get(bucket, 0) + charge.amount
        return Used(counter=charge.counter, used=sum(amount for _, amount in self._counted(charge.counter, bucket)), limit=charge.limit)

    def _sweep(self, now: float) -> None:
        if now - self._swept < SWEEP_EVERY_SECONDS:
            return
        self._swept = now
        oldest = oldest_counted(now)
        for counter, window in list(self._windows.items()):
            for bucket in [bucket for bucket in window if bucket < oldest]:
                del window[bucket]
            if not window:
                del self._windows[counter]
        for key in [key for key, (until, _) in self._cooling.items() if until <= now]:
            del self._cooling[key]
