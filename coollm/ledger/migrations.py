"""Brings the tables of an older gateway to this one's, step by step, one process at a time. A gateway whose ledger cannot be brought there does not serve.

What a step adds has a default, so that a gateway of the version before, which knows nothing of it, goes on writing beside this one, and can be gone back to.

Sources: https://www.postgresql.org/docs/current/explicit-locking.html (advisory locks), https://dev.mysql.com/doc/refman/8.4/en/locking-functions.html,
https://www.sqlite.org/lang_transaction.html.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, Table, func, insert, inspect, select, text, update
from sqlalchemy.schema import CreateColumn

from coollm.core.errors import OperationFailed
from coollm.ledger.tables import SUMS, days, hours, metadata, usage, version

Step = Callable[[Connection], None]

LOCK_NAME = "coollm ledger"
LOCK_NUMBER = 0x636F6F6C
LOCK_SECONDS = 60
HOURS_OF_A_DAY = 24


def _add_columns(connection: Connection, *tables: Table) -> None:
    """The columns that tables do not have yet."""
    for table in tables:
        known = {column["name"] for column in inspect(connection).get_columns(table.name)}
        for column in table.columns:
            if column.name not in known:
                clause = CreateColumn(column).compile(dialect=connection.dialect)
                name = connection.dialect.identifier_preparer.quote(table.name)
                connection.execute(text(f"ALTER TABLE {name} ADD COLUMN {clause}"))


def _charged_and_saved(connection: Connection) -> None:
    """Version 2: when a budget was charged, what the cache saved, tiers, and sums by the day."""
    _add_columns(connection, usage, hours)
    connection.execute(update(usage).where(usage.c.charged_ms == 0).values(charged_ms=usage.c.at_ms))
    metadata.create_all(connection)
    group = (hours.c.hour // HOURS_OF_A_DAY, hours.c.client, hours.c.provider, hours.c.model)
    summed = select(*group, *(func.sum(hours.c[name]) for name in SUMS)).group_by(*group)
    connection.execute(insert(days).from_select(["day", "client", "provider", "model", *SUMS], summed))


def _access_and_latency(connection: Connection) -> None:
    """Version 3: clients and administrators, how long requests took, and who was erased."""
    _add_columns(connection, usage, hours, days)
    metadata.create_all(connection)


def _causes(connection: Connection) -> None:
    """Version 4: what requests failed of."""
    _add_columns(connection, usage)


def _console(connection: Connection) -> None:
    """Version 5: the console's sessions, second factors, and when the first token came."""
    _add_columns(connection, usage)
    metadata.create_all(connection)


STEPS: tuple[Step, ...] = (_charged_and_saved, _access_and_latency, _causes, _console)
"""Step number n brings version n to version n + 1."""

NEWEST = len(STEPS) + 1


def migrate(engine: Engine) -> None:
    """Makes the tables, or brings them to the newest version. Raises SQLAlchemyError if the database does not answer or refuses; OperationFailed if it is
    of a newer gateway, or if another gateway brings it there and does not come to an end.
    """
    with _alone(engine) as connection:
        found = connection.execute(select(func.max(version.c.version))).scalar() if inspect(connection).has_table(version.name) else None
        if found is None:
            # Where a statement that makes a table ends the transaction, one who was killed may have left them without a version.
            metadata.create_all(connection)
            connection.execute(insert(version).values(version=NEWEST))
            return
        if found > NEWEST + 1:
            message = f"the ledger has version {found}, and this gateway knows version {NEWEST} and can use {NEWEST + 1}"
            raise OperationFailed(message, "use the gateway that wrote it, or a newer one")
        for number in range(found, NEWEST):
            STEPS[number - 1](connection)
            connection.execute(insert(version).values(version=number + 1))


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
    """A transaction in which no other gateway migrates. SQLite's has the file to itself from its first statement on."""
    with engine.connect() as connection:
        name = connection.dialect.name
        if name in ("mysql", "mariadb"):
            with _named_lock(connection), connection.begin():
                yield connection
            return
        with connection.begin():
            if name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            elif name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": LOCK_NUMBER})
            yield connection


@contextmanager
def _named_lock(connection: Connection) -> Iterator[None]:
    """MySQL's lock belongs to a connection and not to a transaction: it is let go when what was done under it is committed, not before."""
    is_held = connection.execute(text("SELECT GET_LOCK(:name, :seconds)"), {"name": LOCK_NAME, "seconds": LOCK_SECONDS}).scalar()
    connection.commit()
    if not is_held:
        raise OperationFailed(f"another gateway has brought the ledger up to date for {LOCK_SECONDS} s and has not ended", "see what its database waits for")
    try:
        yield
    finally:
        connection.execute(text("SELECT RELEASE_LOCK(:name)"), {"name": LOCK_NAME})
        connection.commit()
