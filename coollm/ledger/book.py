"""The ledger in SQL: what requests used, and its sums by the hour. Every request is in it once, by its id, however often its line is shipped."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import msgspec
from gevent.monkey import get_original
from sqlalchemy import Connection, Dialect, Engine, Table, Update, and_, bindparam, case, create_engine, delete, event, func, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.pool import SingletonThreadPool
from sqlalchemy.sql.compiler import SQLCompiler

from coollm.core.batches import batches
from coollm.core.config.schema import Settings
from coollm.core.errors import OperationFailed
from coollm.core.money import NANO_USD
from coollm.core.pauses import no_pauses
from coollm.core.types import Json
from coollm.ledger.entry import Entry
from coollm.ledger.migrations import HOURS_OF_A_DAY, migrate
from coollm.ledger.pool import NativePool
from coollm.ledger.tables import COUNTS, SUMS, days, erasures, hours, revisions, shipped, usage
from coollm.limits.scopes import HEDGE, MODEL
from coollm.limits.settlement import Ending

By = Literal["client", "provider", "model", "day"]
LONGEST_MODEL = 190
BATCH = 2000
STEP = 100
LOOKED_UP = 250
CONNECT_SECONDS = 5
MOST_THREADS = 32
FILE_NAME = "ledger.sqlite"
PRUNE_BATCH = 2000
PRUNE_PAUSE_SECONDS = 0.02
FIRST_ERROR = 400
HOUR_MS = 3_600_000
DAY_MS = HOUR_MS * HOURS_OF_A_DAY

_VERIFIED = (*COUNTS, "cost_nano_usd", "saved_nano_usd")

# Stands in the place of a log's name, for how far the ledger was pruned.
_PRUNED = "pruned"


class Ledger:
    """The ledger at an SQLAlchemy URL. Its calls block: a gateway makes them in a thread."""

    def __init__(self, url: str) -> None:
        """Raises OperationFailed for an address or a driver that there is not. Nothing is connected yet."""
        shown = url.partition("://")[0]
        try:
            self._engine: Engine = create_engine(url, pool_pre_ping=True, connect_args=_patience(url), **_pool(url))
        except (SQLAlchemyError, ImportError) as error:
            extra = "postgres" if "postgres" in shown else "mysql"
            way_out = f"pip install 'coollm[{extra}]'" if isinstance(error, ImportError) else "check storage.ledger.url"
            raise OperationFailed(f"the ledger ({shown[:20]}) cannot be opened: {type(error).__name__}", way_out) from error
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _prepare_sqlite)
        # Native: a lock of gevent's that threads wait for, each with a loop of its own, was seen to be let go without the one that waits being told.
        self._lock = get_original("_thread", "allocate_lock")()
        self._is_prepared = False

    def prepare(self) -> None:
        """Makes the tables or brings them up to date, once. Raises SQLAlchemyError if the database does not answer or refuses, and OperationFailed if a newer
        gateway wrote it.
        """
        if self._is_prepared:
            return
        with self._lock:
            if not self._is_prepared:
                migrate(self._engine)
                self._is_prepared = True

    def writing(self) -> AbstractContextManager[Connection]:
        """A transaction to write in. Raises as `prepare`."""
        self.prepare()
        return self._engine.begin()

    def reading(self) -> AbstractContextManager[Connection]:
        """A connection to read with. Raises as `prepare`."""
        self.prepare()
        return self._engine.connect()

    @property
    def dialect(self) -> str:
        """`sqlite`, `postgresql`, `mysql` or `mariadb`."""
        return self._engine.dialect.name

    @property
    def file(self) -> Path | None:
        """SQLite's file; None of another database."""
        name = self._engine.url.database
        return Path(name) if self.dialect == "sqlite" and name else None

    def one_moment(self) -> AbstractContextManager[Connection]:
        """A connection whose queries all see the same moment, however long they take, and do not hold their rows in memory. Raises as `prepare`."""
        self.prepare()
        if self.dialect == "sqlite":
            return self._engine.connect().execution_options(stream_results=True)
        return self._engine.connect().execution_options(isolation_level="REPEATABLE READ", stream_results=True)

    def close(self) -> None:
        """Lets go of connections."""
        self._engine.dispose()

    def position(self, log: str) -> tuple[int, int]:
        """The inode of a usage log, and how many bytes of it are in the ledger; zeros if none are."""
        with self.reading() as connection:
            row = connection.execute(select(shipped.c.inode, shipped.c.bytes).where(shipped.c.log == log)).first()
        return (int(row.inode), int(row.bytes)) if row else (0, 0)

    def ship(self, entries: Sequence[Entry], log: str, inode: int, position: int, pause: Callable[[], None] = no_pauses) -> int:
        """Adds entries that are not there yet, and notes how far the log is read, all or nothing. Returns how many were new. `pause` is called
        between steps.
        """
        try:
            return self._ship(entries, log, inode, position, pause, are_new=True)
        except IntegrityError:
            # Few batches hold a request that is there: its line was written twice, or the log is read again.
            return self._ship(entries, log, inode, position, pause, are_new=False)

    def _ship(self, entries: Sequence[Entry], log: str, inode: int, position: int, pause: Callable[[], None], *, are_new: bool) -> int:
        """Raises IntegrityError if one of those that `are_new` is there, or is among them twice."""
        with self.writing() as connection:
            new = self._add(connection, entries, pause, are_new=are_new)
            changed = connection.execute(update(shipped).where(shipped.c.log == log).values(inode=inode, bytes=position))
            if changed.rowcount == 0:
                connection.execute(insert(shipped).values(log=log, inode=inode, bytes=position))
        return new

    def erase_client(self, client: str, alias: str) -> int:
        """Gives all that a client has used until now another name. The sums of all stay. Returns how many requests that were."""
        now = int(time.time() * 1000)
        with self.writing() as connection:
            connection.execute(insert(erasures).values(client=_name_hash(client), at_ms=now, alias=alias))
        count = 0
        while True:
            with self.writing() as connection:
                own = select(usage.c.request_id).where(usage.c.client == client, usage.c.at_ms <= now).limit(PRUNE_BATCH)
                ids = list(connection.execute(own).scalars())
                if ids:
                    connection.execute(update(usage).where(usage.c.request_id.in_(ids)).values(client=alias))
            count += len(ids)
            if len(ids) < PRUNE_BATCH:
                break
            time.sleep(PRUNE_PAUSE_SECONDS)
        with self.writing() as connection:
            for table in (hours, days):
                connection.execute(update(table).where(table.c.client == client).values(client=alias))
        return count

    def _erased(self, connection: Connection, entries: Sequence[Entry]) -> Sequence[Entry]:
        """The entries, those of erased clients with the name that stands for them."""
        aliases = {(row.client): (int(row.at_ms), row.alias) for row in connection.execute(select(erasures).order_by(erasures.c.at_ms))}
        if not aliases:
            return entries
        found = []
        for entry in entries:
            known = aliases.get(_name_hash(entry.client))
            found.append(msgspec.structs.replace(entry, client=known[1]) if known is not None and entry.at_ms <= known[0] else entry)
        return found

    def _add(self, connection: Connection, entries: Sequence[Entry], pause: Callable[[], None], *, are_new: bool) -> int:
        new = self._erased(connection, entries)
        if not are_new:
            new = self._unknown(connection, new, pause)
        if new:
            self._insert(connection, new, pause)
            by_hour = _sums(new)
            for table, sums in ((hours, by_hour), (days, _by_day(by_hour))):
                for key, amounts in sorted(sums.items()):
                    pause()
                    self._add_up(connection, table, key, amounts)
        return len(new)

    @staticmethod
    def _unknown(connection: Connection, entries: Sequence[Entry], pause: Callable[[], None]) -> Sequence[Entry]:
        """Of each request that is not there the first entry, which is the one that counts."""
        by_id = {entry.request_id: entry for entry in reversed(entries)}
        known: set[str] = set()
        for ids in batches(by_id, LOOKED_UP):
            pause()
            known.update(connection.execute(select(usage.c.request_id).where(usage.c.request_id.in_(ids))).scalars())
        return [entry for entry in by_id.values() if entry.request_id not in known]

    @staticmethod
    def _insert(connection: Connection, entries: Sequence[Entry], pause: Callable[[], None]) -> None:
        """By the driver itself: what SQLAlchemy does to the parameters was a third of all shipping."""
        made = _inserting(connection.dialect)
        names = list(made.positiontup or made.binds)
        for step in batches(entries, STEP):
            pause()
            rows = list(map(msgspec.structs.astuple, step))  # its fields are the columns
            connection.exec_driver_sql(made.string, rows if made.positional else [dict(zip(names, row, strict=True)) for row in rows])

    @staticmethod
    def _add_up(connection: Connection, table: Table, key: tuple[int, str, str, str], sums: dict[str, int]) -> None:
        names = [column.name for column in table.primary_key]
        changed = connection.execute(_adding(table), {**{f"of_{name}": value for name, value in zip(names, key, strict=True)}, **sums})
        if changed.rowcount == 0:
            connection.execute(insert(table).values(**dict(zip(names, key, strict=True)), **sums))

    def report(self, by: By, start_ms: int = 0, end_ms: int = 2**53, of: tuple[str, str] | None = None) -> Json:
        """Sums of the hours that begin from `start_ms` until before `end_ms`: {"rows": [...], "total": {...}}. Whole days are read as days. `of` is a client or
        a provider, by its kind and id, whose requests alone are added up.
        """
        first, last = start_ms // HOUR_MS, -(-end_ms // HOUR_MS)
        first_day, last_day = -(-first // HOURS_OF_A_DAY), last // HOURS_OF_A_DAY
        spans = [(hours, first, last)]
        if first_day < last_day:
            spans = [(hours, first, first_day * HOURS_OF_A_DAY), (days, first_day, last_day), (hours, last_day * HOURS_OF_A_DAY, last)]
        rows: dict[Any, dict[str, int]] = {}
        with self.reading() as connection:
            for table, start, end in spans:
                time = table.primary_key.columns[0]
                group = time if by == "day" else table.c[by]
                summed = (func.sum(table.c[name]).label(name) for name in SUMS)
                for row in connection.execute(
                    select(group.label("group"), *summed).where(time >= start, time < end, *([table.c[of[0]] == of[1]] if of else [])).group_by(group)
                ):
                    name = _day(int(row.group) if table is days else int(row.group) // HOURS_OF_A_DAY) if by == "day" else row.group
                    sums = rows.setdefault(name, dict.fromkeys(SUMS, 0))
                    for one in SUMS:
                        sums[one] += int(getattr(row, one))
        total = {name: sum(sums[name] for sums in rows.values()) for name in SUMS}
        ordered = sorted(rows.items(), key=lambda item: item[0] if by == "day" else (-item[1]["cost_nano_usd"], -item[1]["requests"], item[0]))
        return {"by": by, "rows": [{by: name, **_told(sums)} for name, sums in ordered], "total": _told(total)}

    def spent(self, kind: str, identities: Sequence[str], start_ms: int, end_ms: int, until_ms: int = 2**53, without: Sequence[str] = ()) -> int:
        """Billionths of a dollar that clients, or the models of a pattern, or the second requests of races have cost: what was charged in a time and had ended
        by `until_ms`, but for the requests `without`. Of what was pruned the sums by the hour tell.
        """
        pruned = self.pruned_before()
        within = and_(usage.c.charged_ms >= start_ms, usage.c.charged_ms < end_ms, usage.c.at_ms >= max(start_ms, pruned), usage.c.at_ms <= until_ms)
        if without:
            within = and_(within, usage.c.request_id.not_in(list(without)))
        spans = [(usage, and_(within, usage.c.second) if kind == HEDGE else within)]
        if start_ms < pruned and kind != HEDGE:
            spans.append((hours, and_(hours.c.hour >= start_ms // HOUR_MS, hours.c.hour < min(pruned, end_ms) // HOUR_MS)))
        return sum(self._spent_in(kind, identities, table, where) for table, where in spans)

    def _spent_in(self, kind: str, identities: Sequence[str], table: Table, where: Any) -> int:
        total = func.coalesce(func.sum(table.c.cost_nano_usd), 0)
        with self.reading() as connection:
            if kind == HEDGE:
                return int(connection.execute(select(total).where(where)).scalar() or 0)
            if kind != MODEL:
                return int(connection.execute(select(total).where(where, table.c.client.in_(list(identities)))).scalar() or 0)
            rows = connection.execute(select(table.c.provider, table.c.model, total).where(where).group_by(table.c.provider, table.c.model))
            return sum(
                int(cost)
                for provider, model, cost in rows
                if any(fnmatchcase(model, pattern) or fnmatchcase(f"{provider}:{model}", pattern) for pattern in identities)
            )

    def sums(self, since_ms: int) -> dict[str, dict[str, int]]:
        """Requests, tokens and money from a full day on, added up over the requests themselves, over the hours and over the days: all the same."""
        hour = since_ms // HOUR_MS
        own = (func.coalesce(func.sum(case((usage.c.ending == Ending.HEDGED.value, 0), else_=1)), 0), usage.c.at_ms >= since_ms)
        hourly = (func.coalesce(func.sum(hours.c.requests), 0), hours.c.hour >= hour)
        daily = (func.coalesce(func.sum(days.c.requests), 0), days.c.day >= hour // HOURS_OF_A_DAY)
        found = {}
        with self.reading() as connection:
            for table, (requests, within) in {usage: own, hours: hourly, days: daily}.items():
                added = (func.coalesce(func.sum(table.c[name]), 0) for name in _VERIFIED)
                row = connection.execute(select(requests, *added).select_from(table).where(within)).one()
                found[table.name.removeprefix("usage_")] = {name: int(value) for name, value in zip(("requests", *_VERIFIED), row, strict=True)}
        return {"requests": found.pop(usage.name), **found}

    def revisions(self) -> dict[str, int]:
        """How often what is set while gateways run has changed, by its name."""
        with self.reading() as connection:
            return {str(row.name): int(row.revision) for row in connection.execute(select(revisions))}

    def key_uses(self, since_ms: int) -> dict[tuple[str, str], tuple[int, int]]:
        """How often each vendor key was used since then, and when last in milliseconds of the epoch, by provider and key id."""
        query = select(usage.c.provider, usage.c.key_id, func.count(), func.max(usage.c.at_ms)).where(usage.c.at_ms >= since_ms)
        with self.reading() as connection:
            rows = connection.execute(query.group_by(usage.c.provider, usage.c.key_id))
            return {(str(provider), str(key)): (int(count), int(last)) for provider, key, count, last in rows}

    def used_by(self, provider: str, key_id: str, since_ms: int) -> list[tuple[str, int, int]]:
        """Who has used a vendor key since then: clients, how often, and when last in milliseconds of the epoch."""
        own = and_(usage.c.provider == provider, usage.c.key_id == key_id, usage.c.at_ms >= since_ms)
        query = select(usage.c.client, func.count(), func.max(usage.c.at_ms)).where(own).group_by(usage.c.client).order_by(usage.c.client)
        with self.reading() as connection:
            return [(str(client), int(count), int(last)) for client, count, last in connection.execute(query)]

    def known(self, request_ids: Sequence[str]) -> set[str]:
        """Which of the requests are in the ledger."""
        with self.reading() as connection:
            return set(connection.execute(select(usage.c.request_id).where(usage.c.request_id.in_(list(request_ids)))).scalars())

    def cost_of(self, request_id: str) -> int | None:
        """Billionths of a dollar that a request has cost, 0 where no price is known; None if it is not there."""
        with self.reading() as connection:
            row = connection.execute(select(usage.c.cost_nano_usd).where(usage.c.request_id == request_id)).first()
        return None if row is None else int(row[0] or 0)

    def pruned_before(self) -> int:
        """Requests that ended before this time, in milliseconds of the epoch, may be there in their sums alone."""
        return self.position(_PRUNED)[1]

    def export(self, start_ms: int = 0, end_ms: int = 2**53, client: str | None = None) -> Iterator[Json]:
        """Every request in a time, in its order; of one client alone where it is named."""
        last = (start_ms, "")
        while True:
            after = (usage.c.at_ms > last[0]) | and_(usage.c.at_ms == last[0], usage.c.request_id > last[1])
            query = (
                select(usage)
                .where(after, usage.c.at_ms < end_ms, *([usage.c.client == client] if client is not None else []))
                .order_by(usage.c.at_ms, usage.c.request_id)
                .limit(BATCH)
            )
            with self.reading() as connection:
                rows = connection.execute(query).mappings().all()
            for row in rows:
                yield {str(name): value for name, value in row.items()}
            if len(rows) < BATCH:
                return
            last = (rows[-1]["at_ms"], rows[-1]["request_id"])

    def prune(self, before_ms: int) -> int:
        """Deletes requests that ended on the days before, UTC, in small batches between which others write. The sums stay. Returns how many."""
        before_ms = before_ms // DAY_MS * DAY_MS
        gone = 0
        self.ship([], _PRUNED, 0, max(before_ms, self.pruned_before()))
        while True:
            with self.writing() as connection:
                old = select(usage.c.request_id).where(usage.c.at_ms < before_ms).order_by(usage.c.at_ms).limit(PRUNE_BATCH)
                ids = list(connection.execute(old).scalars())
                if ids:
                    connection.execute(delete(usage).where(usage.c.request_id.in_(ids)))
            gone += len(ids)
            if len(ids) < PRUNE_BATCH:
                return gone
            time.sleep(PRUNE_PAUSE_SECONDS)

    def clear(self) -> None:
        """Forgets everything, to be rebuilt from the usage logs."""
        with self.writing() as connection:
            for table in (usage, hours, days, shipped):
                connection.execute(delete(table))


def open_ledger(settings: Settings, state: Path) -> Ledger:
    """The ledger of a configuration. Raises OperationFailed."""
    url = settings.storage.ledger.url
    return Ledger(url.reveal() if url else f"sqlite:///{state / FILE_NAME}")


def _pool(url: str) -> dict[str, Any]:
    """PyMySQL's connections are gevent's in a gateway, and of use to the thread that made them alone: each thread has its own."""
    if url.startswith("mysql"):
        return {"poolclass": SingletonThreadPool, "pool_size": MOST_THREADS}
    return {"poolclass": NativePool}


def _patience(url: str) -> dict[str, int]:
    """How many seconds a server may take to accept a connection; and after which one that is gone without a word, with its host, is given up.

    Source: https://www.postgresql.org/docs/current/libpq-connect.html (keepalives_…, and tcp_user_timeout in milliseconds)
    """
    if url.startswith("sqlite"):
        return {}
    gone = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": CONNECT_SECONDS * 1000}
    return {"connect_timeout": CONNECT_SECONDS, **(gone if url.startswith("postgresql") else {})}


def _prepare_sqlite(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "busy_timeout = 5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


@functools.lru_cache(maxsize=4)
def _inserting(dialect: Dialect) -> SQLCompiler:
    made = insert(usage).compile(dialect=dialect, column_keys=[column.name for column in usage.columns])
    assert isinstance(made, SQLCompiler)  # noqa: S101  as every dialect of ours has it
    return made


@functools.cache
def _adding(table: Table) -> Update:
    """Adds amounts, which are parameters by their names, to the sums of a key, whose parts are `of_` and their names."""
    here = and_(*(column == bindparam(f"of_{column.name}") for column in table.primary_key))
    return update(table).where(here).values({name: table.c[name] + bindparam(name) for name in SUMS})


def _sums(entries: Iterable[Entry]) -> dict[tuple[int, str, str, str], dict[str, int]]:
    """What the requests of each hour, client, provider and model come to."""
    groups: dict[tuple[int, str, str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.at_ms // HOUR_MS, entry.client, entry.provider, entry.model[:LONGEST_MODEL]), []).append(entry)
    found = {}
    for key, group in groups.items():
        costs = [entry.cost_nano_usd for entry in group if entry.cost_nano_usd is not None]
        found[key] = {
            "requests": len([entry for entry in group if entry.ending != Ending.HEDGED.value]),
            "errors": len([entry for entry in group if entry.status >= FIRST_ERROR]),
            **{name: sum(map(attrgetter(name), group)) for name in (*COUNTS, "saved_nano_usd", "cached", "estimated", "latency_ms")},
            "unpriced": len(group) - len(costs),
            "cost_nano_usd": sum(costs),
        }
    return found


def _by_day(hours: dict[tuple[int, str, str, str], dict[str, int]]) -> dict[tuple[int, str, str, str], dict[str, int]]:
    found: dict[tuple[int, str, str, str], dict[str, int]] = {}
    for (hour, client, provider, model), sums in hours.items():
        day = found.setdefault((hour // HOURS_OF_A_DAY, client, provider, model), dict.fromkeys(SUMS, 0))
        for name, amount in sums.items():
            day[name] += amount
    return found


def _told(sums: dict[str, int]) -> Json:
    """Sums as a report tells them: reasoning is output, and what was written to a cache is input."""
    return {
        "requests": sums["requests"],
        "errors": sums["errors"],
        "input_tokens": sums["input_tokens"] + sums["cache_write_tokens"] + sums["cache_write_1h_tokens"],
        "cached_input_tokens": sums["cached_input_tokens"],
        "output_tokens": sums["output_tokens"] + sums["reasoning_tokens"],
        "cost_usd": sums["cost_nano_usd"] / NANO_USD,
        "saved_usd": sums["saved_nano_usd"] / NANO_USD,
        "cached": sums["cached"],
        "estimated": sums["estimated"],
        "unpriced": sums["unpriced"],
        "latency_ms": round(sums["latency_ms"] / sums["requests"]) if sums["requests"] else None,
    }


def _name_hash(client: str) -> str:
    return hashlib.sha256(b"coollm erased client\0" + client.encode()).hexdigest()


def _day(day: int) -> str:
    return datetime.fromtimestamp(day * 86400, UTC).date().isoformat()
