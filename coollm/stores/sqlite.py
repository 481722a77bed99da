"""Counters in one SQLite file that all workers and instances of a host share.

Decisions and settlements of one turn of the event loop are one transaction. What they read is read once, and what they write is written at its end.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from coollm.core.config.schema import RuntimeStorage
from coollm.core.types import Used
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
    held_parts,
    periods_of,
    seconds_until_room,
    shortest_wait,
    written_notes,
)
from coollm.stores.sqlite_file import SqliteFile

T = TypeVar("T")

FILE_NAME = "runtime.sqlite"
SWEEP_EVERY_SECONDS = 10
FORGET_OWNERS_SECONDS = 3600

SCHEMA_VERSION = 3

_TABLES = {
    "charges": "counter TEXT NOT NULL, bucket INTEGER NOT NULL, amount INTEGER NOT NULL, expires INTEGER NOT NULL, PRIMARY KEY (counter, bucket)",
    "cooldowns": "key TEXT NOT NULL PRIMARY KEY, until REAL NOT NULL, cause TEXT NOT NULL",
    "holds": "id TEXT NOT NULL PRIMARY KEY, owner TEXT NOT NULL, made REAL NOT NULL, note TEXT NOT NULL, key TEXT NOT NULL, parts TEXT NOT NULL",
    "owners": "owner TEXT NOT NULL PRIMARY KEY, seen REAL NOT NULL, news BLOB NOT NULL",
    "claims": "name TEXT NOT NULL PRIMARY KEY, owner TEXT NOT NULL, until REAL NOT NULL",
    "identities": "identity TEXT NOT NULL PRIMARY KEY",
}


def open_store(settings: RuntimeStorage, state: Path) -> Store:  # noqa: ARG001  the signature of every store
    """The store in `state`/FILE_NAME; the directory is there."""
    return SqliteStore(state / FILE_NAME)


class _Batch:
    """What a transaction has read, and will write."""

    __slots__ = ("added", "cooling", "corrected", "ended", "held", "used")

    def __init__(self) -> None:
        self.used: dict[tuple[str, int], int] = {}
        self.added: dict[tuple[str, int], list[int]] = {}
        self.corrected: dict[tuple[str, int], int] = {}
        self.held: dict[str, tuple[Any, ...]] = {}
        self.ended: set[str] = set()
        self.cooling: dict[str, tuple[float, str]] | None = None

    def change(self, counter: str, bucket: int, difference: int) -> None:
        """Corrects a bucket."""
        place = (counter, bucket)
        if place in self.added:
            self.added[place][0] += difference
        else:
            self.corrected[place] = self.corrected.get(place, 0) + difference
        for known, oldest in self.used:
            if known == counter and bucket >= oldest:
                self.used[known, oldest] += difference


class SqliteStore:
    """The contract in some tables. One connection for each worker, used by one greenlet at a time because no call of it yields."""

    epoch = 0

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._swept = 0.0
        first = ("CREATE INDEX charges_expire ON charges (expires)", f"INSERT INTO identities VALUES ('{secrets.token_hex(8)}')")  # noqa: S608  it is hexadecimal
        self._file = SqliteFile(path, SCHEMA_VERSION, _TABLES, first)
        self._connection = self._file.connection
        self._batch = _Batch()
        self._file.after_begin, self._file.before_commit = self._begin, self._flush

    @property
    def took(self) -> float:
        return self._file.took

    def decide(self, charges: Sequence[Charge], candidates: Sequence[Candidate], own: Hold | None = None, leased: Hold | None = None) -> Decision:
        return self._file.write(lambda _: self._decide(charges, candidates, own, leased))

    def settle(self, settlements: Sequence[Settlement]) -> None:
        if settlements:
            self._file.write(lambda _: self._settle(settlements))

    def cancel(self, holds: Sequence[str]) -> None:
        self._alone(lambda: [self._end(hold, takes_back=True) for hold in holds])

    def beat(self, owner: str, news: bytes) -> Sequence[bytes]:
        return self._alone(lambda: self._beat(owner, news))

    def orphans(self, seconds: float) -> Sequence[Orphan]:
        return self._alone(lambda: self._orphans(self._clock() - seconds))

    def cool(self, key: str, seconds: float, cause: str) -> None:
        statement = (
            "INSERT INTO cooldowns VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET until = excluded.until, cause = excluded.cause WHERE excluded.until > until"
        )
        self._alone(lambda: self._connection.execute(statement, (key, self._clock() + seconds, cause)))

    def cooldowns(self) -> Mapping[str, Cooldown]:
        now = self._clock()
        rows = self._file.read(lambda _: self._connection.execute("SELECT key, until, cause FROM cooldowns WHERE until > ?", (now,)).fetchall())
        return {key: Cooldown(seconds=until - now, cause=cause) for key, until, cause in rows}

    def used(self, charges: Sequence[Charge]) -> Mapping[str, int]:
        now = self._clock()
        return self._file.read(lambda _: {charge.counter: self._read_used(charge.counter, charge.span.oldest(now)) for charge in charges})

    def standing(self, charges: Sequence[Charge]) -> Mapping[str, Standing]:
        return self._alone(lambda: self._standing(charges))

    def charge(self, charges: Sequence[Charge]) -> None:
        self._alone(lambda: self._add(charges, self._clock()))

    def claim(self, name: str, owner: str, seconds: float) -> str:
        now = self._clock()
        statement = (
            "INSERT INTO claims VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, until = excluded.until "
            "WHERE owner = excluded.owner OR until <= ?"
        )

        def work() -> str:
            self._connection.execute(statement, (name, owner, now + seconds, now))
            return str(self._connection.execute("SELECT owner FROM claims WHERE name = ?", (name,)).fetchone()[0])

        return self._alone(work)

    def release(self, name: str, owner: str) -> None:
        self._alone(lambda: self._connection.execute("DELETE FROM claims WHERE name = ? AND owner = ?", (name, owner)))

    def identity(self) -> str:
        return str(self._file.read(lambda _: self._connection.execute("SELECT identity FROM identities").fetchone()[0]))

    def ping(self) -> None:
        # A write: a full disk still lets an empty transaction through.
        self._alone(lambda: self._connection.execute("INSERT OR REPLACE INTO charges VALUES ('ping', 0, 0, ?)", (int(self._clock()),)))

    def close(self) -> None:
        self._file.close()

    def _alone(self, work: Callable[[], T]) -> T:
        """What `work` gives, which reads and writes the tables themselves."""

        def flushed(_: Any) -> T:
            self._flush()
            try:
                return work()
            finally:
                self._flush()

        return self._file.write(flushed)

    def _begin(self) -> None:
        self._batch = _Batch()

    def _flush(self) -> None:
        """Writes what the transaction has come to so far."""
        batch, many = self._batch, self._connection.executemany
        self._batch = _Batch()
        if batch.added:
            rows = [(counter, bucket, amount, expires, amount) for (counter, bucket), (amount, expires) in batch.added.items()]
            many(_ADD, rows)
        if batch.corrected:
            many(_CORRECT, [(difference, counter, bucket) for (counter, bucket), difference in batch.corrected.items() if difference])
        if batch.ended:
            many("DELETE FROM holds WHERE id = ?", [(hold,) for hold in batch.ended])
        if batch.held:
            many("INSERT OR REPLACE INTO holds VALUES (?, ?, ?, ?, ?, ?)", list(batch.held.values()))

    def _settle(self, settlements: Sequence[Settlement]) -> None:
        for one in settlements:
            if self._end(one.hold, takes_back=False):
                for correction in one.corrections:
                    if correction.difference:
                        self._batch.change(correction.counter, correction.bucket, correction.difference)

    def _end(self, hold: str, *, takes_back: bool) -> bool:
        """Ends a hold, with its parts of periods or without; whether it was there."""
        row = self._batch.held.pop(hold, None)
        if row is None and hold not in self._batch.ended:
            row = self._connection.execute("SELECT * FROM holds WHERE id = ?", (hold,)).fetchone()
        if row is None:
            return False
        self._batch.ended.add(hold)
        for part in _read_parts(row[5]):
            if part.is_live or takes_back:
                self._batch.change(part.counter, part.bucket, -part.amount)
        return True

    def _beat(self, owner: str, news: bytes) -> Sequence[bytes]:
        now = self._clock()
        self._connection.execute("INSERT OR REPLACE INTO owners VALUES (?, ?, ?)", (owner, now, news))
        rows = self._connection.execute("SELECT news FROM owners WHERE seen >= ? AND owner <> ?", (now - NEWS_SECONDS, owner))
        return [bytes(row[0]) for row in rows]

    def _standing(self, charges: Sequence[Charge]) -> Mapping[str, Standing]:
        now = self._clock()
        held: dict[tuple[str, int], dict[str, int]] = {}
        for hold, parts in self._connection.execute("SELECT id, parts FROM holds"):
            for part in periods_of(_read_parts(parts)):
                held.setdefault((part.counter, part.bucket), {})[hold] = part.amount
        return {
            one.counter: Standing(used=self._read_used(one.counter, one.span.oldest(now)), held=held.get((one.counter, one.span.bucket(now)), {}))
            for one in charges
        }

    def _orphans(self, before: float) -> Sequence[Orphan]:
        statement = "SELECT id, note, key, parts FROM holds LEFT JOIN owners USING (owner) WHERE coalesce(seen, made) < ?"
        rows = self._connection.execute(statement, (before,)).fetchall()
        self._connection.execute("DELETE FROM owners WHERE seen < ?", (before - FORGET_OWNERS_SECONDS,))
        return [Orphan(id=hold, note=note, key=key, periods=periods_of(_read_parts(parts))) for hold, note, key, parts in rows]

    def _hold(self, hold: Hold | None, note: str, key: str, charges: Sequence[Charge], now: float) -> None:
        if hold is not None and charges:
            self._batch.held[hold.id] = (hold.id, hold.owner, now, note, key, _write_parts(charges, now))
            self._batch.ended.discard(hold.id)

    def _take_back(self, own: Hold | None, leased: Hold | None) -> None:
        """What was asked before under the same names."""
        names = [hold.id for hold in (own, leased) if hold is not None]
        if not names:
            return
        found = self._connection.execute(f"SELECT id FROM holds WHERE id IN ({', '.join('?' * len(names))})", names).fetchall()  # noqa: S608  marks alone
        known = [name for name in names if name in self._batch.held]
        for name in {*(row[0] for row in found), *known}:
            self._end(name, takes_back=True)

    def _decide(self, charges: Sequence[Charge], candidates: Sequence[Candidate], own: Hold | None, leased: Hold | None) -> Decision:
        now = self._clock()
        self._sweep(now)
        self._take_back(own, leased)
        for charge in charges:
            wait = self._wait(charge, now)
            if wait != 0:
                told = tuple(Used(counter=one.counter, used=self._used(one, now), limit=one.limit) for one in charges)
                return Decision(refused=charge, retry_after_seconds=wait, used=told)
        skipped: list[Skipped] = []
        for index, candidate in enumerate(candidates):
            reason = self._why_not(candidate, now)
            if reason is None:
                used = [self._charge(charge, now) for charge in charges]
                used += [self._charge(charge, now) for charge in candidate.charges]
                own_note, leased_note = written_notes(own, leased)
                self._hold(own, own_note, candidate.key, charges, now)
                self._hold(leased, leased_note, candidate.key, candidate.charges, now)
                return Decision(chosen=index, now=now, skipped=tuple(skipped), used=tuple(used))
            skipped.append(reason)
        return Decision(skipped=tuple(skipped), retry_after_seconds=shortest_wait(skipped))

    def _charge(self, charge: Charge, now: float) -> Used:
        used = self._used(charge, now) + charge.amount  # before it is added: what was flushed meanwhile is read again
        place = (charge.counter, charge.span.bucket(now))
        added = self._batch.added.get(place)
        if added is None:
            self._batch.added[place] = [charge.amount, charge.span.expires(now)]
        else:
            added[0] += charge.amount
        self._batch.used[charge.counter, charge.span.oldest(now)] = used
        return Used(counter=charge.counter, used=used, limit=charge.limit)

    def _add(self, charges: Sequence[Charge], now: float) -> None:
        """Adds to the tables themselves, and never below zero."""
        self._connection.executemany(_ADD, [(one.counter, one.span.bucket(now), one.amount, one.span.expires(now), one.amount) for one in charges])

    def _why_not(self, candidate: Candidate, now: float) -> Skipped | None:
        cooling = self._batch.cooling
        if cooling is None:
            rows = self._connection.execute("SELECT key, until, cause FROM cooldowns WHERE until > ?", (now,))
            cooling = self._batch.cooling = {key: (until, cause) for key, until, cause in rows}
        if candidate.key in cooling:
            until, cause = cooling[candidate.key]
            if until > now:
                return Skipped(key=candidate.key, reason=f"cooling: {cause}", retry_after_seconds=until - now)
        for charge in candidate.charges:
            wait = self._wait(charge, now)
            if wait != 0:
                return Skipped(key=candidate.key, reason=f"limit: {charge.counter}", retry_after_seconds=wait)
        return None

    def _wait(self, charge: Charge, now: float) -> float | None:
        if self._used(charge, now) + charge.amount <= charge.limit:
            return 0.0
        self._flush()
        rows = self._connection.execute("SELECT bucket, amount FROM charges WHERE counter = ? AND bucket >= ?", (charge.counter, charge.span.oldest(now)))
        return seconds_until_room(rows.fetchall(), charge, now)

    def _used(self, charge: Charge, now: float) -> int:
        place = (charge.counter, charge.span.oldest(now))
        used = self._batch.used.get(place)
        if used is None:
            used = self._read_used(*place)
            if self._batch.added or self._batch.corrected:
                used += sum(row[0] for (counter, bucket), row in self._batch.added.items() if counter == place[0] and bucket >= place[1])
                used += sum(change for (counter, bucket), change in self._batch.corrected.items() if counter == place[0] and bucket >= place[1])
            self._batch.used[place] = used
        return used

    def _read_used(self, counter: str, oldest: int) -> int:
        statement = "SELECT coalesce(sum(amount), 0) FROM charges WHERE counter = ? AND bucket >= ?"
        return int(self._connection.execute(statement, (counter, oldest)).fetchone()[0])

    def _sweep(self, now: float) -> None:
        if now - self._swept < SWEEP_EVERY_SECONDS:
            return
        self._swept = now
        self._connection.execute("DELETE FROM charges WHERE expires < ?", (int(now),))
        self._connection.execute("DELETE FROM cooldowns WHERE until <= ?", (now,))
        self._connection.execute("DELETE FROM claims WHERE until <= ?", (now,))


_ADD = "INSERT INTO charges VALUES (?, ?, max(0, ?), ?) ON CONFLICT (counter, bucket) DO UPDATE SET amount = max(0, amount + ?)"
_CORRECT = "UPDATE charges SET amount = max(0, amount + ?) WHERE counter = ? AND bucket = ?"


def _write_parts(charges: Sequence[Charge], now: float) -> str:
    parts = held_parts(charges, now)
    return msgspec.json.encode(parts).decode() if parts else "[]"


def _read_parts(text: str) -> tuple[Part, ...]:
    return () if text == "[]" else msgspec.json.decode(text, type=tuple[Part, ...])
