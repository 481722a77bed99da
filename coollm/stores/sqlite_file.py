"""A SQLite file (WAL) that all workers of a host share.

What greenlets write in one turn of the event loop is one transaction: to begin and commit one takes 22 of the 54 µs of a decision. SQLite blocks the whole
worker while it waits for a lock, so it is not let wait: a busy file is tried again a moment later, and meanwhile other requests go on.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import gevent

from coollm.stores.base import StoreError
from coollm.waits import Waiter

T = TypeVar("T")
Execute = Callable[..., Any]
"""`sqlite3.Connection.execute`."""

BUSY_SECONDS = 5.0

# So many decisions take half a millisecond, for which the loop stands still.
MOST_AT_ONCE = 16


class SqliteFile:
    """One connection, for one worker: no call of it yields while it has begun a transaction. Tables of another version are made anew. All raises StoreError."""

    def __init__(self, path: Path, version: int, tables: Mapping[str, str], first: Sequence[str] = ()) -> None:
        """`tables` are columns by name; `first` are the statements that follow where they are made."""
        self.path = path
        self.after_begin: Callable[[], None] = _nothing
        self.before_commit: Callable[[], None] = _nothing
        self._waiting: deque[tuple[Callable[[Execute], Any], Waiter]] = deque()
        self._is_called = False
        self._tried_since: float | None = None
        self.took = 0.0
        try:
            self.connection = sqlite3.connect(path, timeout=0, isolation_level=None, cached_statements=128)
            path.chmod(0o600)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"{path}: {error}") from error
        self._patiently(lambda: self._prepare(version, tables, first))

    def read(self, work: Callable[[Execute], T]) -> T:
        """What `work` reads."""
        return self._patiently(lambda: work(self.connection.execute))

    def write(self, work: Callable[[Execute], T]) -> T:
        """What `work` gives, in a transaction, with that of others. What it raises undoes the others' too."""
        hub = gevent.get_hub()
        waiter = Waiter(hub, time.monotonic() + BUSY_SECONDS + 1)
        self._waiting.append((work, waiter))
        if not self._is_called:
            self._is_called = True
            hub.loop.run_callback(self._commit, hub)
        try:
            return cast("T", waiter.wait())
        except TimeoutError as error:
            raise StoreError(f"{self.path}: it is busy for too long") from error

    def _commit(self, hub: Any) -> None:
        """Called by the loop: writes what waits, at most MOST_AT_ONCE, or tries again in a moment where another process writes."""
        self._tried_since = self._tried_since or time.monotonic()
        batch = [self._waiting.popleft() for _ in range(min(MOST_AT_ONCE, len(self._waiting)))]
        try:
            results = self._transaction([work for work, _ in batch])
        except Exception as error:  # noqa: BLE001  whatever it is, those who wait are to know
            if isinstance(error, sqlite3.OperationalError) and _is_busy(error):
                self._waiting.extendleft(reversed(batch))
                timer = hub.loop.timer(random.uniform(0.0002, 0.002))
                timer.start(self._commit, hub)
                return
            self._next(hub)
            for _, waiter in batch:
                waiter.fail(self._failure(error))
        else:
            took = time.monotonic() - self._tried_since
            self._next(hub)
            for (_, waiter), result in zip(batch, results, strict=True):
                self.took = took
                waiter.give(result)

    def _failure(self, error: Exception) -> Exception:
        """What one of those who waited is told; each gets his own."""
        if not isinstance(error, sqlite3.Error):
            return error
        failure = StoreError(f"{self.path}: {error}")
        failure.__cause__ = error
        return failure

    def _next(self, hub: Any) -> None:
        """Those that still wait are written in the loop's next turn."""
        self._tried_since = None
        self._is_called = bool(self._waiting)
        if self._is_called:
            hub.loop.run_callback(self._commit, hub)

    def _transaction(self, works: Sequence[Callable[[Execute], Any]]) -> list[Any]:
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            self.after_begin()
            results = [work(execute) for work in works]
            self.before_commit()
            execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                execute("ROLLBACK")
            raise
        return results

    def close(self) -> None:
        """Closes the connection."""
        self.connection.close()

    def _prepare(self, version: int, tables: Mapping[str, str], first: Sequence[str]) -> None:
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = NORMAL")
        if self._version() == version:
            return

        def make(execute: Execute) -> None:
            if self._version() == version:
                return
            for name, columns in tables.items():
                execute(f"DROP TABLE IF EXISTS {name}")
                execute(f"CREATE TABLE {name} ({columns}) WITHOUT ROWID" if "BLOB" not in columns else f"CREATE TABLE {name} ({columns})")
            for statement in first:
                execute(statement)
            execute(f"PRAGMA user_version = {version}")

        self._transaction([make])

    def _version(self) -> int:
        return int(self.connection.execute("PRAGMA user_version").fetchone()[0])

    def _patiently(self, work: Callable[[], T]) -> T:
        """Runs `work`, again and again while another process holds the file's lock."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return work()
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise StoreError(f"{self.path}: {error}") from error
            except sqlite3.Error as error:
                raise StoreError(f"{self.path}: {error}") from error
            gevent.sleep(random.uniform(0.0002, 0.002))


def _nothing() -> None:
    pass


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
