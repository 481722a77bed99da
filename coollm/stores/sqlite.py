"""Counters in one SQLite file that all workers and instances of a host share. A decision is one transaction of well under a millisecond."""

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
from coollm.stores.sqlite_file import SqliteFile

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


class SqliteStore:
    """The contract in some tables. One connection for each worker, used by one greenlet at a time because no call of it yields."""

    epoch = 0

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._swept = 0.0
        first = ("CREATE INDEX charges_expire ON charges (expires)", f"INSERT INTO identities VALUES ('{secrets.token_hex(8)}')")  # noqa: S608  it is hexadecimal
        self._file = SqliteFile(path, SCHEMA_VERSION, _TABLES, first)
        self._connection = self._file.connection

    def decide(self, charges: Sequence[Charge], candidates: Sequence[Candidate], own: Hold | None = None, leased: Hold | None = None) -> Decision:
        return self._file.write(lambda _: self._decide(charges, candidates, own, leased))

    def settle(self, settlements: Sequence[Settlement]) -> None:
        if settlements:
            self._file.write(lambda _: self._settle(settlements))

    def cancel(self, holds: Sequence[str]) -> None:
        self._file.write(lambda _: [self._end(hold, takes_back=True) for hold in holds])

    def beat(self, owner: str, news: bytes) -> Sequence[bytes]:
        return self._file.write(lambda _: self._beat(owner, news))

    def orphans(self, seconds: float) -> Sequence[Orphan]:
        return self._file.write(lambda _: self._orphans(self._clock() - seconds))

    def cool(self, key: str, seconds: float, cause: str) -> None:
        statement = (
            "INSERT INTO cooldowns VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET until = excluded.until, cause = excluded.cause WHERE excluded.until > until"
        )
        self._file.write(lambda _: self._connection.execute(statement, (key, self._clock() + seconds, cause)))

    def cooldowns(self) -> Mapping[str, Cooldown]:
        now = self._clock()
        rows = self._file.read(lambda _: self._connection.execute("SELECT key, until, cause FROM cooldowns WHERE until > ?", (now,)).fetchall())
        return {key: Cooldown(seconds=until - now, cause=cause) for key, until, cause in rows}

    def used(self, charges: Sequence[Charge]) -> Mapping[str, int]:
        now = self._clock()
        return self._file.read(lambda _: {charge.counter: self._used(charge, now) for charge in charges})

    def standing(self, charges: Sequence[Charge]) -> Mapping[str, Standing]:
        return self._file.write(lambda _: self._standing(charges))

    def charge(self, charges: Sequence[Charge]) -> None:
        self._file.write(lambda _: self._charge(charges, self._clock()))

    def claim(self, name: str, owner: str, seconds: float) -> bool:
        now = self._clock()
        statement = (
            "INSERT INTO claims VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, until = excluded.until "
            "WHERE owner = excluded.owner OR until <= ?"
        )
        return self._file.write(lambda _: self._connection.execute(statement, (name, owner, now + seconds, now)).rowcount == 1)

    def release(self, name: str, owner: str) -> None:
        self._file.write(lambda _: self._connection.execute("DELETE FROM claims WHERE name = ? AND owner = ?", (name, owner)))

    def identity(self) -> str:
        return str(self._file.read(lambda _: self._connection.execute("SELECT identity FROM identities").fetchone()[0]))

    def ping(self) -> None:
        # A write: a full disk still lets an empty transaction through.
        self._file.write(lambda _: self._connection.execute("INSERT OR REPLACE INTO charges VALUES ('ping', 0, 0, ?)", (int(self._clock()),)))

    def close(self) -> None:
        self._file.close()

    def _settle(self, settlements: Sequence[Settlement]) -> None:
        for one in settlements:
            if self._end(one.hold, takes_back=False):
                rows = [(correction.difference, correction.counter, correction.bucket) for correction in one.corrections if correction.difference]
                self._connection.executemany("UPDATE charges SET amount = max(0, amount + ?) WHERE counter = ? AND bucket = ?", rows)

    def _end(self, hold: str, *, takes_back: bool) -> bool:
        """Ends a hold, with its parts of periods or without; whether it was there."""
        row = self._connection.execute("DELETE FROM holds WHERE id = ? RETURNING parts", (hold,)).fetchone()
        freed = [(part.amount, part.counter, part.bucket) for part in _read_parts(row[0]) if part.is_live or takes_back] if row else []
        if freed:
            self._connection.executemany("UPDATE charges SET amount = max(0, amount - ?) WHERE counter = ? AND bucket = ?", freed)
        return row is not None

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
        return {one.counter: Standing(used=self._used(one, now), held=held.get((one.counter, one.span.bucket(now)), {})) for one in charges}

    def _orphans(self, before: float) -> Sequence[Orphan]:
        statement = "SELECT id, note, key, parts FROM holds LEFT JOIN owners USING (owner) WHERE coalesce(seen, made) < ?"
        rows = self._connection.execute(statement, (before,)).fetchall()
        self._connection.execute("DELETE FROM owners WHERE seen < ?", (before - FORGET_OWNERS_SECONDS,))
        return [Orphan(id=hold, note=note, key=key, periods=periods_of(_read_parts(parts))) for hold, note, key, parts in rows]

    def _hold(self, hold: Hold | None, key: str, charges: Sequence[Charge], now: float) -> None:
        if hold is not None and charges:
            row = (hold.id, hold.owner, now, hold.note, key, _write_parts(charges, now))
            self._connection.execute("INSERT OR REPLACE INTO holds VALUES (?, ?, ?, ?, ?, ?)", row)

    def _decide(self, charges: Sequence[Charge], candidates: Sequence[Candidate], own: Hold | None, leased: Hold | None) -> Decision:
        now = self._clock()
        self._sweep(now)
        for hold in (own, leased):
            if hold is not None:
                self._end(hold.id, takes_back=True)
        used: dict[str, int] = {}
        for charge in charges:
            wait = self._wait(charge, now, used)
            if wait != 0:
                told = tuple(Used(counter=one.counter, used=self._used(one, now), limit=one.limit) for one in charges)
                return Decision(refused=charge, retry_after_seconds=wait, used=told)
        skipped: list[Skipped] = []
        cooling = {key: (until, cause) for key, until, cause in self._connection.execute("SELECT key, until, cause FROM cooldowns WHERE until > ?", (now,))}
        for index, candidate in enumerate(candidates):
            reason = self._why_not(candidate, now, used, cooling)
            if reason is None:
                every = (*charges, *candidate.charges)
                self._charge(every, now)
                self._hold(own, candidate.key, charges, now)
                self._hold(leased, candidate.key, candidate.charges, now)
                after = tuple(Used(counter=one.counter, used=used[one.counter] + one.amount, limit=one.limit) for one in every)
                return Decision(chosen=index, now=now, skipped=tuple(skipped), used=after)
            skipped.append(reason)
        return Decision(skipped=tuple(skipped), retry_after_seconds=shortest_wait(skipped))

    def _charge(self, charges: Sequence[Charge], now: float) -> None:
        self._connection.executemany(
            "INSERT INTO charges VALUES (?, ?, max(0, ?), ?) ON CONFLICT (counter, bucket) DO UPDATE SET amount = max(0, amount + ?)",
            [(one.counter, one.span.bucket(now), one.amount, one.span.expires(now), one.amount) for one in charges],
        )

    def _why_not(self, candidate: Candidate, now: float, used: dict[str, int], cooling: Mapping[str, tuple[float, str]]) -> Skipped | None:
        if candidate.key in cooling:
            until, cause = cooling[candidate.key]
            return Skipped(key=candidate.key, reason=f"cooling: {cause}", retry_after_seconds=until - now)
        for charge in candidate.charges:
            wait = self._wait(charge, now, used)
            if wait != 0:
                return Skipped(key=candidate.key, reason=f"limit: {charge.counter}", retry_after_seconds=wait)
        return None

    def _wait(self, charge: Charge, now: float, used: dict[str, int]) -> float | None:
        if charge.counter not in used:
            used[charge.counter] = self._used(charge, now)
        if used[charge.counter] + charge.amount <= charge.limit:
            return 0.0
        rows = self._connection.execute("SELECT bucket, amount FROM charges WHERE counter = ? AND bucket >= ?", (charge.counter, charge.span.oldest(now)))
        return seconds_until_room(rows.fetchall(), charge, now)

    def _used(self, charge: Charge, now: float) -> int:
        statement = "SELECT coalesce(sum(amount), 0) FROM charges WHERE counter = ? AND bucket >= ?"
        return int(self._connection.execute(statement, (charge.counter, charge.span.oldest(now))).fetchone()[0])

    def _sweep(self, now: float) -> None:
        if now - self._swept < SWEEP_EVERY_SECONDS:
            return
        self._swept = now
        self._connection.execute("DELETE FROM charges WHERE expires < ?", (int(now),))
        self._connection.execute("DELETE FROM cooldowns WHERE until <= ?", (now,))
        self._connection.execute("DELETE FROM claims WHERE until <= ?", (now,))


def _write_parts(charges: Sequence[Charge], now: float) -> str:
    return msgspec.json.encode(held_parts(charges, now)).decode()


def _read_parts(text: str) -> tuple[Part, ...]:
    return () if text == "[]" else msgspec.json.decode(text, type=tuple[Part, ...])
