"""A SQLite file (WAL) that all workers of a host share.

SQLite blocks the whole worker while it waits for a lock, so it is not let wait: a busy file is tried again after a gevent sleep, in which other requests go on.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import gevent

from coollm.stores.base import StoreError

T = TypeVar("T")
Execute = Callable[..., Any]
"""`sqlite3.Connection.execute`."""

BUSY_SECONDS = 5.0


class SqliteFile:
    """One connection, for one worker: no call of it yields while it has begun a transaction. Tables of another version are made anew. All raises StoreError."""

    def __init__(self, path: Path, version: int, tables: Mapping[str, str], first: Sequence[str] = ()) -> None:
        """`tables` are columns by name; `first` are the statements that follow where they are made."""
        self.path = path
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
        """What `work` gives, in a transaction."""

        def run() -> T:
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                result = work(self.connection.execute)
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise
            return result

        return self._patiently(run)

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

        self.write(make)

    def _version(self) -> int:
        return int(self.connection.execute("PRAGMA user_version").fetchone()[0])

    def _patiently(self, work: Callable[[], T]) -> T:
        """Runs `work`, again and again while another process holds the file's lock."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                return work()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or time.monotonic() > deadline:
                    raise StoreError(f"{self.path}: {error}") from error
            except sqlite3.Error as error:
                raise StoreError(f"{self.path}: {error}") from error
            gevent.sleep(random.uniform(0.0002, 0.002))
