"""Copies of the ledger for backups: SQLite's file by SQLite's own means, other databases table by table, and either of them put back.

    DIR/ledger.sqlite      a file that is whole by itself
    DIR/tables/NAME.jsonl  the first line has the names of the columns, each other one a row

Sources: https://www.sqlite.org/backup.html (a copy begins anew when somebody writes, unless its own connection holds one moment open:
https://www.sqlite.org/isolation.html), https://docs.sqlalchemy.org/en/20/core/connections.html#using-server-side-cursors-a-k-a-stream-results.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Table, delete, insert, select, update

from coollm.core.background import write_out
from coollm.core.batches import batches
from coollm.core.errors import CheckFailed, OperationFailed
from coollm.ledger.book import FILE_NAME, Ledger
from coollm.ledger.tables import access_keys, admins, clients, metadata, overrides, revisions, shipped, version

TABLES = "tables"
PAGES = 1024
BATCH = 1000

OF_CLIENTS = (clients, admins, access_keys, overrides)
"""What is restored with `--only clients`."""


def save_sqlite(source: Path, target: Path) -> None:
    """Copies a database that others write to as it is at one moment. It rests as long as it works, so that they are not held up. Raises OperationFailed."""
    try:
        with (
            contextlib.closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True, timeout=30, isolation_level=None)) as one,
            contextlib.closing(sqlite3.connect(target)) as other,
        ):
            other.execute("PRAGMA synchronous = OFF")
            one.execute("BEGIN")
            one.execute("SELECT count(*) FROM sqlite_master").fetchone()
            worked = time.monotonic()
            descriptor = os.open(target, os.O_RDONLY)

            def rest(*_: int) -> None:
                nonlocal worked
                write_out(descriptor)
                time.sleep(time.monotonic() - worked)
                worked = time.monotonic()

            try:
                one.backup(other, pages=PAGES, progress=rest)
            finally:
                os.close(descriptor)
            other.execute("PRAGMA journal_mode = DELETE")
            _check(other, source)
    except sqlite3.Error as error:
        raise OperationFailed(f"{source}: cannot be copied: {error}", "make room on the disk; a damaged ledger: coollm usage rebuild --from-logs") from error


def check_sqlite(file: Path) -> None:
    """Raises CheckFailed if SQLite finds a fault in a file."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as opened:
            _check(opened, file)
    except (sqlite3.Error, OperationFailed) as error:
        raise CheckFailed(f"{file.name}: {getattr(error, 'message', error)}") from error


def _check(opened: sqlite3.Connection, file: Path) -> None:
    told = opened.execute("PRAGMA quick_check(1)").fetchone()[0]
    if told != "ok":
        raise OperationFailed(f"{file}: SQLite says that it is damaged: {' '.join(str(told).split())}", "coollm usage rebuild --from-logs makes it anew")


def dump(ledger: Ledger, directory: Path) -> None:
    """Writes every table of a ledger as it is at one moment. Raises SQLAlchemyError, OSError and OperationFailed."""
    (directory / TABLES).mkdir(parents=True)
    with ledger.one_moment() as connection:
        for table in _tables():
            with (directory / TABLES / f"{table.name}.jsonl").open("wb") as file:
                file.write(orjson.dumps([column.name for column in table.columns]) + b"\n")
                for row in connection.execute(select(table)).yield_per(BATCH):
                    file.write(orjson.dumps(tuple(row)) + b"\n")


def make_sqlite(directory: Path) -> None:
    """Makes DIR/ledger.sqlite of DIR/tables. Raises CheckFailed for a table that makes no sense."""
    ledger = Ledger(f"sqlite:///{directory / FILE_NAME}")
    try:
        with ledger.writing() as connection:
            for table in _tables():
                for rows in batches(_read(directory / TABLES / f"{table.name}.jsonl", table), BATCH):
                    connection.execute(insert(table), rows)
    finally:
        ledger.close()


def _read(file: Path, table: Table) -> Iterator[dict[str, Any]]:
    try:
        with file.open("rb") as lines:
            names = orjson.loads(next(lines))
            if not set(names) <= {column.name for column in table.columns}:
                raise CheckFailed(f"{file.name}: it has columns that this version does not know", "restore with the version that made it, or a newer one")
            for line in lines:
                yield dict(zip(names, orjson.loads(line), strict=True))
    except (OSError, ValueError, StopIteration, TypeError) as error:
        raise CheckFailed(f"{file.name}: this is no table of a ledger") from error


def sqlite_counts(file: Path) -> dict[str, int]:
    """How many rows each table of a copy has; it is not changed, not even brought up to date. Raises CheckFailed."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as opened:
            known = {name for (name,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            return {table.name: int(opened.execute(f'SELECT count(*) FROM "{table.name}"').fetchone()[0]) for table in _tables() if table.name in known}  # noqa: S608  our own names
    except sqlite3.Error as error:
        raise CheckFailed(f"{file.name}: {error}") from error


def dumped_counts(directory: Path) -> dict[str, int]:
    """The same of tables that were dumped."""
    found = {}
    for file in sorted((directory / TABLES).glob("*.jsonl")):
        with file.open("rb") as lines:
            found[file.stem] = sum(1 for _ in lines) - 1
    return found


def fold(file: Path) -> None:
    """Makes a file whole by itself again, without a log beside it."""
    with contextlib.closing(sqlite3.connect(file)) as opened:
        opened.execute("PRAGMA journal_mode = DELETE")


def adopt(ledger: Ledger) -> None:
    """Makes a ledger that was copied another host's own. The usage logs are read again from their beginnings, for they are other files there, and what is known
    is not added twice; who watches clients and limits notices them.
    """
    with ledger.writing() as connection:
        connection.execute(delete(shipped).where(shipped.c.inode != 0))
        connection.execute(update(revisions).values(revision=_new_revision()))


def replace(source: Ledger, target: Ledger, tables: Sequence[Table] | None = None) -> None:
    """Puts the rows of one ledger in the place of another's, all or nothing. Who watches clients and limits notices."""
    with source.one_moment() as from_, target.writing() as to:
        for table in tables or _tables():
            if table is revisions:
                continue
            to.execute(delete(table))
            for rows in batches(map(dict, from_.execute(select(table)).yield_per(BATCH).mappings()), BATCH):
                to.execute(insert(table), rows)
        for name in _revised(from_, to):
            to.execute(delete(revisions).where(revisions.c.name == name))
            to.execute(insert(revisions).values(name=name, revision=_new_revision()))


def _new_revision() -> int:
    return time.time_ns() // 1_000_000


def _revised(*connections: Any) -> set[str]:
    return {str(name) for connection in connections for name in connection.execute(select(revisions.c.name)).scalars()}


def _tables() -> list[Table]:
    return [table for table in metadata.sorted_tables if table is not version]
