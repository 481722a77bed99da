"""Counters in one SQLite file (WAL) that all workers and instances of a host share.

A decision is one `BEGIN IMMEDIATE` transaction of well under a millisecond. SQLite blocks the whole worker while it waits for a lock, so it is not let wait:
a busy file is tried again after a gevent sleep, in which other requests go on.
"""

from __future__ import annotations

import json
import random
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import gevent

from coollm.core.config.schema import RuntimeStorage
from coollm.stores.base import (
    Candidate,
    Charge,
    Cooldown,
    Correction,
    Decision,
    Hold,
    Orphan,
    Skipped,
    Store,
    StoreError,
    Used,
    live_parts,
    seconds_until_room,
    shortest_wait,
)

T = TypeVar("T")

FILE_NAME = "runtime.sqlite"
BUSY_SECONDS = 5.0
SWEEP_EVERY_SECONDS = 10
FORGET_OWNERS_SECONDS = 3600

SCHEMA_VERSION = 2

_TABLES = {
    "charges": "counter TEXT NOT NULL, bucket INTEGER NOT NULL, amount INTEGER NOT NULL, expires INTEGER NOT NULL, PRIMARY KEY (counter, bucket)",
    "cooldowns": "key TEXT NOT NULL PRIMARY KEY, until REAL NOT NULL, cause TEXT NOT NULL",
    "holds": "id TEXT NOT NULL PRIMARY KEY, owner TEXT NOT NULL, made REAL NOT NULL, note TEXT NOT NULL, key TEXT NOT NULL, live TEXT NOT NULL",
    "owners": "owner TEXT NOT NULL PRIMARY KEY, seen REAL NOT NULL",
}


def open_store(settings: RuntimeStorage, state: Path) -> Store:  # noqa: ARG001  the signature of every store
    """The store in `state`/FILE_NAME; the directory is there."""
    return SqliteStore(state / FILE_NAME)


class SqliteStore:
    """The contract in two tables. One connection for each worker, used by one greenlet at a time because no call of it yields."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._swept = 0.0
        with self._errors():
            self._connection = sqlite3.connect(path, timeout=0, isolation_level=None, cached_statements=64)
            path.chmod(0o600)
        self._patiently(self._prepare)

    def decide(self, charges: Sequence[Charge], candidates: Sequence[Candidate], own: Hold | None = None, leased: Hold | None = None) -> Decision:
        return self._transaction(lambda: self._decide(charges, candidates, own, leased))

    def settle(self, holds: Sequence[str], corrections: Iterable[Correction]) -> None:
        rows = [(one.difference, one.counter, one.bucket) for one in corrections if one.difference]
        if rows or holds:
            self._transaction(lambda: self._settle(holds, rows))

    def beat(self, owner: str) -> None:
        self._transaction(lambda: self._connection.execute("INSERT OR REPLACE INTO owners VALUES (?, ?)", (owner, self._clock())))

    def reap(self, seconds: float) -> Sequence[Orphan]:
        return self._transaction(lambda: self._reap(self._clock() - seconds))

    def cool(self, key: str, seconds: float, cause: str) -> None:
        statement = (
            "INSERT INTO cooldowns VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET until = excluded.until, cause = excluded.cause WHERE excluded.until > until"
        )
        self._transaction(lambda: self._connection.execute(statement, (key, self._clock() + seconds, cause)))

    def cooldowns(self) -> Mapping[str, Cooldown]:
        now = self._clock()
        rows = self._patiently(lambda: self._connection.execute("SELECT key, until, cause FROM cooldowns WHERE until > ?", (now,)).fetchall())
        return {key: Cooldown(seconds=until - now, cause=cause) for key, until, cause in rows}

    def used(self, charges: Sequence[Charge]) -> Mapping[str, int]:
        now = self._clock()
        return self._patiently(lambda: {charge.counter: self._used(charge, now) for charge in charges})

    def ping(self) -> None:
        # A write: a full disk still lets an empty transaction through.
        self._transaction(lambda: self._connection.execute("INSERT OR REPLACE INTO charges VALUES ('ping', 0, 0, ?)", (int(self._clock()),)))

    def close(self) -> None:
        self._connection.close()

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._transaction(self._make_tables)

    def _make_tables(self) -> None:
        """The tables of this version. What another version has counted cannot be read and begins anew."""
        if self._connection.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION:
            return
        for name, columns in _TABLES.items():
            self._connection.execute(f"DROP TABLE IF EXISTS {name}")
            self._connection.execute(f"CREATE TABLE {name} ({columns}) WITHOUT ROWID")
        self._connection.execute("CREATE INDEX charges_expire ON charges (expires)")
        self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _settle(self, holds: Sequence[str], rows: list[tuple[int, str, int]]) -> None:
        for hold in holds:
            self._let_go(hold)
        self._connection.executemany("UPDATE charges SET amount = max(0, amount + ?) WHERE counter = ? AND bucket = ?", rows)

    def _let_go(self, hold: str) -> None:
        """Ends a hold. One that is not there was reaped, or held nothing."""
        row = self._connection.execute("DELETE FROM holds WHERE id = ? RETURNING live", (hold,)).fetchone()
        if row is not None and row[0] != "[]":
            live = [(amount, counter) for counter, amount in json.loads(row[0])]
            self._connection.executemany("UPDATE charges SET amount = max(0, amount - ?) WHERE counter = ? AND bucket = 0", live)

    def _reap(self, before: float) -> Sequence[Orphan]:
        statement = "SELECT id, note, key FROM holds LEFT JOIN owners USING (owner) WHERE coalesce(seen, made) < ?"
        dead = [Orphan(id=hold, note=note, key=key) for hold, note, key in self._connection.execute(statement, (before,)).fetchall()]
        for orphan in dead:
            self._let_go(orphan.id)
        self._connection.execute("DELETE FROM owners WHERE seen < ?", (before - FORGET_OWNERS_SECONDS,))
        return dead

    def _hold(self, hold: Hold | None, key: str, charges: Sequence[Charge], now: float) -> None:
        if hold is not None and charges:
            row = (hold.id, hold.owner, now, hold.note, key, json.dumps(live_parts(charges)))
            self._connection.execute("INSERT OR REPLACE INTO holds VALUES (?, ?, ?, ?, ?, ?)", row)

    def _decide(self, charges: Sequence[Charge], candidates: Sequence[Candidate], own: Hold | None, leased: Hold | None) -> Decision:
        now = self._clock()
        self._sweep(now)
        used: dict[str, int] = {}
        for charge in charges:
            wait = self._wait(charge, now, used)
            if wait != 0:
                return Decision(refused=charge, retry_after_seconds=wait)
        skipped: list[Skipped] = []
        cooling = {key: (until, cause) for key, until, cause in self._connection.execute("SELECT key, until, cause FROM cooldowns WHERE until > ?", (now,))}
        for index, candidate in enumerate(candidates):
            reason = self._why_not(candidate, now, used, cooling)
            if reason is None:
                every = (*charges, *candidate.charges)
                self._connection.executemany(
                    "INSERT INTO charges VALUES (?, ?, ?, ?) ON CONFLICT (counter, bucket) DO UPDATE SET amount = amount + excluded.amount",
                    [(charge.counter, charge.span.bucket(now), charge.amount, charge.span.expires(now)) for charge in every],
                )
                self._hold(own, candidate.key, charges, now)
                self._hold(leased, candidate.key, candidate.charges, now)
                after = tuple(Used(counter=one.counter, used=used[one.counter] + one.amount, limit=one.limit) for one in every)
                return Decision(chosen=index, now=now, skipped=tuple(skipped), used=after)
            skipped.append(reason)
        return Decision(skipped=tuple(skipped), retry_after_seconds=shortest_wait(skipped))

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

    def _transaction(self, work: Callable[[], T]) -> T:
        def run() -> T:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                result = work()
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            return result

        return self._patiently(run)

    def _patiently(self, work: Callable[[], T]) -> T:
        """Runs `work`, again and again while another process holds the file's lock."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return work()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or time.monotonic() > deadline:
                    raise StoreError(f"{self._path}: {error}") from error
            except sqlite3.Error as error:
                raise StoreError(f"{self._path}: {error}") from error
            gevent.sleep(random.uniform(0.0002, 0.002))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{self._path}: {error}") from error
