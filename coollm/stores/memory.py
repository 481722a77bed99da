"""Counters in the memory of one worker. For tests and for a gateway of one worker: several workers would each allow the whole limit."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from coollm.core.config.schema import RuntimeStorage
from coollm.stores.base import (
    NEWS_SECONDS,
    Candidate,
    Charge,
    Cooldown,
    Decision,
    Hold,
    Orphan,
    Part,
    Settlement,
    Skipped,
    Standing,
    Store,
    Used,
    held_parts,
    periods_of,
    seconds_until_room,
    shortest_wait,
)

SWEEP_EVERY_SECONDS = 10


def open_store(settings: RuntimeStorage, state: Path) -> Store:  # noqa: ARG001  the signature of every store
    """A store of this process."""
    return MemoryStore()


class _Bucket(msgspec.Struct):
    """An amount, and when it may be forgotten."""

    amount: int
    expires: int


class _Held(msgspec.Struct, frozen=True):
    """A hold, when it was made, and what it lets go of."""

    hold: Hold
    key: str
    made: float
    parts: tuple[Part, ...]


class MemoryStore:
    """The contract in plain dictionaries. It never yields to another greenlet, so every call is atomic."""

    epoch = 0

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._counters: dict[str, dict[int, _Bucket]] = {}
        self._cooling: dict[str, tuple[float, str]] = {}
        self._holds: dict[str, _Held] = {}
        self._owners: dict[str, float] = {}
        self._news: dict[str, tuple[float, bytes]] = {}
        self._claims: dict[str, tuple[float, str]] = {}
        self._identity = secrets.token_hex(8)
        self._swept = 0.0

    def decide(self, charges: Sequence[Charge], candidates: Sequence[Candidate], own: Hold | None = None, leased: Hold | None = None) -> Decision:
        now = self._clock()
        self._sweep(now)
        if self._holds:
            self.cancel([hold.id for hold in (own, leased) if hold is not None])
        for charge in charges:
            wait = self._wait(charge, now)
            if wait != 0:
                used = tuple(Used(counter=one.counter, used=self._used(one, now), limit=one.limit) for one in charges)
                return Decision(refused=charge, retry_after_seconds=wait, used=used)
        skipped: list[Skipped] = []
        for index, candidate in enumerate(candidates):
            reason = self._why_not(candidate, now)
            if reason is None:
                used = tuple(self._charge(charge, now) for charge in (*charges, *candidate.charges))
                for hold, held in ((own, charges), (leased, candidate.charges)):
                    if hold is not None and held:
                        self._holds[hold.id] = _Held(hold, candidate.key, now, held_parts(held, now))
                return Decision(chosen=index, now=now, skipped=tuple(skipped), used=used)
            skipped.append(reason)
        return Decision(skipped=tuple(skipped), retry_after_seconds=shortest_wait(skipped))

    def settle(self, settlements: Sequence[Settlement]) -> None:
        for one in settlements:
            if self._end(one.hold, takes_back=False):
                for correction in one.corrections:
                    self._add(correction.counter, correction.bucket, correction.difference)

    def cancel(self, holds: Sequence[str]) -> None:
        for hold in holds:
            self._end(hold, takes_back=True)

    def beat(self, owner: str, news: bytes) -> Sequence[bytes]:
        now = self._clock()
        self._owners[owner] = now
        self._news[owner] = (now, news)
        for gone in [other for other, (since, _) in self._news.items() if since < now - NEWS_SECONDS]:
            del self._news[gone]
        return [told for other, (_, told) in self._news.items() if other != owner]

    def orphans(self, seconds: float) -> Sequence[Orphan]:
        before = self._clock() - seconds
        dead = [held for held in self._holds.values() if self._owners.get(held.hold.owner, held.made) < before]
        return [Orphan(id=held.hold.id, note=held.hold.note, key=held.key, periods=periods_of(held.parts)) for held in dead]

    def cool(self, key: str, seconds: float, cause: str) -> None:
        until = self._clock() + seconds
        if until > self._cooling.get(key, (0.0, ""))[0]:
            self._cooling[key] = (until, cause)

    def cooldowns(self) -> Mapping[str, Cooldown]:
        now = self._clock()
        return {key: Cooldown(seconds=until - now, cause=cause) for key, (until, cause) in self._cooling.items() if until > now}

    def used(self, charges: Sequence[Charge]) -> Mapping[str, int]:
        now = self._clock()
        return {charge.counter: self._used(charge, now) for charge in charges}

    def standing(self, charges: Sequence[Charge]) -> Mapping[str, Standing]:
        now = self._clock()
        found = {}
        for charge in charges:
            place = (charge.counter, charge.span.bucket(now))
            held = {one.hold.id: part.amount for one in self._holds.values() for part in periods_of(one.parts) if (part.counter, part.bucket) == place}
            found[charge.counter] = Standing(used=self._used(charge, now), held=held)
        return found

    def charge(self, charges: Sequence[Charge]) -> None:
        now = self._clock()
        for one in charges:
            self._charge(one, now)

    def claim(self, name: str, owner: str, seconds: float) -> bool:
        now = self._clock()
        until, holder = self._claims.get(name, (0.0, owner))
        if until > now and holder != owner:
            return False
        self._claims[name] = (now + seconds, owner)
        return True

    def release(self, name: str, owner: str) -> None:
        if self._claims.get(name, (0.0, ""))[1] == owner:
            del self._claims[name]

    def identity(self) -> str:
        return self._identity

    def ping(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _end(self, hold: str, *, takes_back: bool) -> bool:
        """Ends a hold, with its parts of periods or without; whether it was there."""
        held = self._holds.pop(hold, None)
        for part in held.parts if held else ():
            if part.is_live or takes_back:
                self._add(part.counter, part.bucket, -part.amount)
        return held is not None

    def _add(self, counter: str, bucket: int, difference: int) -> None:
        held = self._counters.get(counter, {}).get(bucket)
        if held is not None:
            held.amount = max(0, held.amount + difference)

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
        return seconds_until_room(self._counted(charge, now), charge, now)

    def _counted(self, charge: Charge, now: float) -> list[tuple[int, int]]:
        oldest = charge.span.oldest(now)
        return [(bucket, held.amount) for bucket, held in self._counters.get(charge.counter, {}).items() if bucket >= oldest]

    def _used(self, charge: Charge, now: float) -> int:
        return sum(amount for _, amount in self._counted(charge, now))

    def _charge(self, charge: Charge, now: float) -> Used:
        buckets = self._counters.setdefault(charge.counter, {})
        held = buckets.setdefault(charge.span.bucket(now), _Bucket(0, charge.span.expires(now)))
        held.amount = max(0, held.amount + charge.amount)
        return Used(counter=charge.counter, used=self._used(charge, now), limit=charge.limit)

    def _sweep(self, now: float) -> None:
        if now - self._swept < SWEEP_EVERY_SECONDS:
            return
        self._swept = now
        for counter, buckets in list(self._counters.items()):
            for bucket in [bucket for bucket, held in buckets.items() if held.expires < now]:
                del buckets[bucket]
            if not buckets:
                del self._counters[counter]
        for timed in (self._cooling, self._claims):
            for key in [key for key, (until, _) in timed.items() if until <= now]:
                del timed[key]
