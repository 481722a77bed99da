"""Counters in the memory of one worker. For tests and for a gateway of one worker: several workers would each allow the whole limit."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from coollm.core.config.schema import RuntimeStorage
from coollm.core.types import Used
from coollm.stores.base import (
    MINUTE,
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
    held_parts,
    periods_of,
    seconds_until_room,
    shortest_wait,
)

SWEEP_EVERY_SECONDS = 10


def open_store(settings: RuntimeStorage, state: Path) -> Store:  # noqa: ARG001  the signature of every store
    """A store of this process."""
    return MemoryStore()


class _Bucket:
    """An amount, and when it may be forgotten."""

    __slots__ = ("amount", "expires")

    def __init__(self, expires: int) -> None:
        self.amount = 0
        self.expires = expires


class _Counter:
    """The buckets of one counter. `held` is the bucket of its `present`, and `total` the sum from the `oldest` that counts then: they are found anew when a
    window has moved on, and not for each request.
    """

    __slots__ = ("buckets", "held", "oldest", "present", "total")

    def __init__(self) -> None:
        self.buckets: dict[int, _Bucket] = {}
        self.held = _Bucket(0)
        self.total = 0
        self.forget()

    def forget(self) -> None:
        """The present, and what it comes to, are found anew."""
        self.present: int | None = None
        self.oldest = -1

    def come_to(self, present: int, oldest: int, expires: int) -> None:
        """Charges go into the bucket `present` from now on, which may be forgotten at `expires`."""
        if present == self.present and oldest == self.oldest:
            return
        self.present = present
        held = self.buckets.get(present)
        if held is None:
            held = self.buckets[present] = _Bucket(expires)
        self.held = held
        self.total = self.used(oldest)
        self.oldest = oldest

    def used(self, oldest: int) -> int:
        """What the buckets from `oldest` on come to."""
        if oldest == self.oldest:
            return self.total
        return sum(held.amount for bucket, held in self.buckets.items() if bucket >= oldest)

    def add(self, bucket: int, difference: int) -> None:
        """Changes a bucket that is there."""
        held = self.buckets.get(bucket)
        if held is not None:
            if held.amount + difference < 0:
                difference = -held.amount
            held.amount += difference
            if bucket >= self.oldest:
                self.total += difference


# A hold, the candidate that was chosen, when it was made, and what it lets go of.
_Held = tuple[Hold, str, float, tuple[Part, ...]]


class MemoryStore:
    """The contract in plain dictionaries. It never yields to another greenlet, so every call is atomic."""

    epoch = 0
    took = None

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._counters: dict[str, _Counter] = {}
        self._cooling: dict[str, tuple[float, str]] = {}
        self._holds: dict[str, _Held] = {}
        self._owners: dict[str, float] = {}
        self._news: dict[str, tuple[float, bytes]] = {}
        self._claims: dict[str, tuple[float, str]] = {}
        self._identity = secrets.token_hex(8)
        self._swept = 0.0

    def decide(self, charges: Sequence[Charge], candidates: Sequence[Candidate], own: Hold | None = None, leased: Hold | None = None) -> Decision:
        now = self._clock()
        if now - self._swept >= SWEEP_EVERY_SECONDS:
            self._sweep(now)
        holds = self._holds
        if own is not None and own.id in holds:
            self._end(own.id, takes_back=True)
        if leased is not None and leased.id in holds:
            self._end(leased.id, takes_back=True)
        used: list[Used] = []
        full = self._charge_all(charges, now, used)
        if full is not None:
            self._undo(charges, now, len(used))
            refused, wait = full
            told = tuple(Used(counter=one.counter, used=self._used(one, now), limit=one.limit) for one in charges)
            return Decision(refused=refused, retry_after_seconds=wait, used=told)
        skipped: list[Skipped] = []
        for index, candidate in enumerate(candidates):
            key, cools = candidate.key, self._cooling.get(candidate.key)
            if cools is not None and cools[0] > now:
                skipped.append(Skipped(key=key, reason=f"cooling: {cools[1]}", retry_after_seconds=cools[0] - now))
                continue
            full = self._charge_all(candidate.charges, now, used)
            if full is None:
                if own is not None and charges:
                    holds[own.id] = own, key, now, held_parts(charges, now)
                if leased is not None and candidate.charges:
                    holds[leased.id] = leased, key, now, held_parts(candidate.charges, now)
                return Decision(chosen=index, now=now, skipped=tuple(skipped), used=tuple(used))
            self._undo(candidate.charges, now, len(used) - len(charges))
            del used[len(charges) :]
            skipped.append(Skipped(key=key, reason=f"limit: {full[0].counter}", retry_after_seconds=full[1]))
        self._undo(charges, now, len(charges))
        return Decision(skipped=tuple(skipped), retry_after_seconds=shortest_wait(skipped))

    def settle(self, settlements: Sequence[Settlement]) -> None:
        counters = self._counters
        for one in settlements:
            if self._end(one.hold, takes_back=False):
                for correction in one.corrections:
                    counter = counters.get(correction.counter)
                    if counter is not None:
                        counter.add(correction.bucket, correction.difference)

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
        dead = [held for held in self._holds.values() if self._owners.get(held[0].owner, held[2]) < before]
        return [Orphan(id=hold.id, note=hold.note(), key=key, periods=periods_of(parts)) for hold, key, _, parts in dead]

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
            held = {hold.id: one.amount for hold, _, _, parts in self._holds.values() for one in periods_of(parts) if (one.counter, one.bucket) == place}
            found[charge.counter] = Standing(used=self._used(charge, now), held=held)
        return found

    def charge(self, charges: Sequence[Charge]) -> None:
        now = self._clock()
        for one in charges:
            counter = self._counters.setdefault(one.counter, _Counter())
            bucket = one.span.bucket(now)
            counter.buckets.setdefault(bucket, _Bucket(one.span.expires(now)))
            counter.add(bucket, one.amount)

    def claim(self, name: str, owner: str, seconds: float) -> str:
        now = self._clock()
        until, holder = self._claims.get(name, (0.0, owner))
        if until > now and holder != owner:
            return holder
        self._claims[name] = (now + seconds, owner)
        return owner

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
        if held is None:
            return False
        for part in held[3]:
            counter = self._counters.get(part.counter)
            if counter is not None and (part.is_live or takes_back):
                counter.add(part.bucket, -part.amount)
        return True

    def _charge_all(self, charges: Sequence[Charge], now: float, used: list[Used]) -> tuple[Charge, float | None] | None:
        """Charges one after the other, and appends to `used` how full each counter is then. Returns the first for which there is no room, and the seconds until
        there is; None if all went in.
        """
        second, counters = int(now), self._counters
        for charge in charges:
            name, span, limit, amount = charge.counter, charge.span, charge.limit, charge.amount
            counter = counters.get(name)
            if counter is None:
                counter = counters[name] = _Counter()
            if span is not MINUTE or counter.present != second:
                counter.come_to(span.bucket(now), span.oldest(now), span.expires(now))
            total = counter.total + amount
            if total > limit:
                there = [(place, one.amount) for place, one in counter.buckets.items() if place >= counter.oldest]
                return charge, seconds_until_room(there, charge, now)
            counter.held.amount += amount
            counter.total = total
            used.append(Used(name, total, limit))
        return None

    def _undo(self, charges: Sequence[Charge], now: float, count: int) -> None:
        """Takes back the first `count` charges, which were made at `now`."""
        for charge in charges[:count]:
            counter = self._counters[charge.counter]
            counter.buckets[charge.span.bucket(now)].amount -= charge.amount
            counter.total -= charge.amount

    def _used(self, charge: Charge, now: float) -> int:
        counter = self._counters.get(charge.counter)
        return counter.used(charge.span.oldest(now)) if counter is not None else 0

    def _sweep(self, now: float) -> None:
        self._swept = now
        for name, counter in list(self._counters.items()):
            for bucket in [bucket for bucket, held in counter.buckets.items() if held.expires < now]:
                del counter.buckets[bucket]
            counter.forget()
            if not counter.buckets:
                del self._counters[name]
        for timed in (self._cooling, self._claims):
            for key in [key for key, (until, _) in timed.items() if until <= now]:
                del timed[key]
