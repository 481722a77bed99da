"""Answers in a SQLite file of their own, shared by all workers of a host: their bytes do not hold up the decisions of limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from coollm.cache.base import CLAIM_SECONDS, Absent, AnswerStore
from coollm.core.config.schema import RuntimeStorage
from coollm.stores.sqlite_file import SqliteFile

FILE_NAME = "cache.sqlite"
SCHEMA_VERSION = 1

_TABLES = {
    "answers": "key TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL, size INTEGER NOT NULL, until REAL NOT NULL, asked REAL NOT NULL",
    "claims": "key TEXT NOT NULL PRIMARY KEY, owner TEXT NOT NULL, until REAL NOT NULL",
    "total": "id INTEGER NOT NULL PRIMARY KEY, bytes INTEGER NOT NULL",
}

# When an answer was last asked for is written this seldom: reading must not become writing.
NOTED_EVERY_SECONDS = 10.0


def open_answers(settings: RuntimeStorage, state: Path, most_bytes: int) -> AnswerStore:  # noqa: ARG001  the signature of all
    """The answers in `state`/FILE_NAME."""
    return SqliteAnswers(state / FILE_NAME, most_bytes)


class SqliteAnswers:
    """The contract in three tables."""

    def __init__(self, path: Path, most_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self._file = SqliteFile(path, SCHEMA_VERSION, _TABLES, ("CREATE INDEX answers_asked ON answers (asked)", "INSERT INTO total VALUES (0, 0)"))
        self._most_bytes = most_bytes
        self._clock = clock

    def look(self, key: str, owner: str) -> bytes | Absent:
        now = self._clock()
        row = self._file.read(lambda execute: execute("SELECT value, asked FROM answers WHERE key = ? AND until > ?", (key, now)).fetchone())
        if row is None:
            row = self._file.write(lambda execute: self._claim(execute, key, owner, now))
            if isinstance(row, Absent):
                return row
        if row[1] < now - NOTED_EVERY_SECONDS:
            self._file.write(lambda execute: execute("UPDATE answers SET asked = ? WHERE key = ?", (now, key)))
        return bytes(row[0])

    @staticmethod
    def _claim(execute: Callable[..., Any], key: str, owner: str, now: float) -> Any:
        """The answer, if it has come since it was looked for; else whose it is to fetch."""
        row = execute("SELECT value, asked FROM answers WHERE key = ? AND until > ?", (key, now)).fetchone()
        if row is not None:
            return row
        statement = (
            "INSERT INTO claims VALUES (?, ?, ?) ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, until = excluded.until "
            "WHERE owner = excluded.owner OR until <= ?"
        )
        claimed = execute(statement, (key, owner, now + CLAIM_SECONDS, now)).rowcount
        return Absent.YOURS if claimed else Absent.FETCHED_BY_ANOTHER

    def renew(self, keys: Sequence[str], owner: str) -> None:
        until = self._clock() + CLAIM_SECONDS
        self._file.write(lambda execute: [execute("UPDATE claims SET until = ? WHERE key = ? AND owner = ?", (until, key, owner)) for key in keys])

    def keep(self, key: str, value: bytes, seconds: int, owner: str) -> None:
        now = self._clock()

        def work(execute: Callable[..., Any]) -> None:
            self._forget(execute, "key = ? OR until <= ?", (key, now))
            execute("INSERT INTO answers VALUES (?, ?, ?, ?, ?)", (key, value, len(value), now + seconds, now))
            execute("UPDATE total SET bytes = bytes + ?", (len(value),))
            while execute("SELECT bytes FROM total").fetchone()[0] > self._most_bytes:
                self._forget(execute, "key = (SELECT key FROM answers ORDER BY asked LIMIT 1)", ())
            execute("DELETE FROM claims WHERE until <= ? OR (key = ? AND owner = ?)", (now, key, owner))

        self._file.write(work)

    def give_up(self, key: str, owner: str) -> None:
        self._file.write(lambda execute: execute("DELETE FROM claims WHERE key = ? AND owner = ?", (key, owner)))

    def size(self) -> int:
        return int(self._file.read(lambda execute: execute("SELECT bytes FROM total").fetchone()[0]))

    def close(self) -> None:
        self._file.close()

    @staticmethod
    def _forget(execute: Callable[..., Any], where: str, values: tuple[Any, ...]) -> None:
        gone = execute(f"DELETE FROM answers WHERE {where} RETURNING size", values).fetchall()  # noqa: S608  the conditions stand in this file
        if gone:
            execute("UPDATE total SET bytes = bytes - ?", (sum(row[0] for row in gone),))
