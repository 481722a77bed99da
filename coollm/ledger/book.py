"""The ledger in SQL: what requests used, and its sums by the hour. Every request is in it once, by its id, however often its line is shipped."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, Engine, and_, create_engine, delete, event, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from coollm.core.config.schema import Settings
from coollm.core.errors import OperationFailed
from coollm.core.money import NANO_USD
from coollm.core.types import Json
from coollm.ledger.entry import Entry
from coollm.ledger.tables import SUMS, VERSION, hours, metadata, shipped, usage, version

By = Literal["client", "provider", "model", "day"]
LONGEST_MODEL = 190
HOURS_OF_A_DAY = 24
BATCH = 500
CONNECT_SECONDS = 5
FILE_NAME = "ledger.sqlite"
PRUNE_BATCH = 5000
FIRST_ERROR = 400

_VERIFIED = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "cost_nano_usd")

# Stands in the place of a log's name, for how far the ledger was pruned.
_PRUNED = "pruned"


class Ledger:
    """The ledger at an SQLAlchemy URL. Its calls block: a gateway makes them in a thread."""

    def __init__(self, url: str) -> None:
        """Raises OperationFailed for an address or a driver that there is not. Nothing is connected yet."""
        shown = url.partition("://")[0]
        try:
            self._engine: Engine = create_engine(url, pool_size=2, max_overflow=0, pool_pre_ping=True, connect_args=_patience(url))
        except (SQLAlchemyError, ImportError) as error:
            extra = "postgres" if "postgres" in shown else "mysql"
            way_out = f"pip install 'coollm[{extra}]'" if isinstance(error, ImportError) else "check storage.ledger.url"
            raise OperationFailed(f"the ledger ({shown[:20]}) cannot be opened: {type(error).__name__}", way_out) from error
        if self._engine.dialect.name == "sqlite":
            event.listen(self._engine, "connect", _prepare_sqlite)
        self._lock = threading.Lock()
        self._is_prepared = False

    def prepare(self) -> None:
        """Makes the tables, once. Raises SQLAlchemyError if the database does not answer, and OperationFailed if another version wrote it."""
        with self._lock:
            if self._is_prepared:
                return
            with self._engine.begin() as connection:
                metadata.create_all(connection)
                found = connection.execute(select(version.c.version)).scalar()
                if found is None:
                    connection.execute(insert(version).values(version=VERSION))
            if found not in (None, VERSION):
                message = f"the ledger has version {found}, and this gateway knows version {VERSION}"
                raise OperationFailed(message, "use the gateway that wrote it, or a newer one")
            self._is_prepared = True

    def _begin(self) -> AbstractContextManager[Connection]:
        """A transaction. Raises as `prepare`."""
        self.prepare()
        return self._engine.begin()

    def _connect(self) -> AbstractContextManager[Connection]:
        """A connection to read with. Raises as `prepare`."""
        self.prepare()
        return self._engine.connect()

    def close(self) -> None:
        """Lets go of connections."""
        self._engine.dispose()

    def position(self, log: str) -> tuple[int, int]:
        """The inode of a usage log, and how many bytes of it are in the ledger; zeros if none are."""
        with self._connect() as connection:
            row = connection.execute(select(shipped.c.inode, shipped.c.bytes).where(shipped.c.log == log)).first()
        return (int(row.inode), int(row.bytes)) if row else (0, 0)

    def ship(self, entries: Sequence[Entry], log: str, inode: int, position: int) -> int:
        """Adds entries that are not there yet, and notes how far the log is read, all or nothing. Returns how many were new."""
        with self._begin() as connection:
            new = self._add(connection, entries)
            changed = connection.execute(update(shipped).where(shipped.c.log == log).values(inode=inode, bytes=position))
            if changed.rowcount == 0:
                connection.execute(insert(shipped).values(log=log, inode=inode, bytes=position))
        return new

    def _add(self, connection: Connection, entries: Sequence[Entry]) -> int:
        by_id = {entry.request_id: entry for entry in reversed(entries)}  # the first line of a request is the one that counts
        known = set(connection.execute(select(usage.c.request_id).where(usage.c.request_id.in_(list(by_id)))).scalars())
        new = [entry for entry in by_id.values() if entry.request_id not in known]
        if new:
            connection.execute(insert(usage), [msgspec.structs.asdict(entry) for entry in new])
            for key, sums in sorted(_sums(new).items()):
                self._add_to_hour(connection, key, sums)
        return len(new)

    @staticmethod
    def _add_to_hour(connection: Connection, key: tuple[int, str, str, str], sums: dict[str, int]) -> None:
        names = ("hour", "client", "provider", "model")
        here = and_(*(hours.c[name] == value for name, value in zip(names, key, strict=True)))
        changed = connection.execute(update(hours).where(here).values({name: hours.c[name] + amount for name, amount in sums.items()}))
        if changed.rowcount == 0:
            connection.execute(insert(hours).values(**dict(zip(names, key, strict=True)), **sums))

    def report(self, by: By, start_ms: int = 0, end_ms: int = 2**53) -> Json:
        """Sums of the hours that begin from `start_ms` until before `end_ms`: {"rows": [...], "total": {...}}."""
        group = hours.c.hour if by == "day" else hours.c[by]
        within = and_(hours.c.hour >= start_ms // 3_600_000, hours.c.hour < -(-end_ms // 3_600_000))
        query = select(group.label("group"), *(func.sum(hours.c[name]).label(name) for name in SUMS)).where(within).group_by(group)
        rows: dict[Any, dict[str, int]] = {}
        with self._connect() as connection:
            for row in connection.execute(query):
                name = _day(int(row.group)) if by == "day" else row.group
                sums = rows.setdefault(name, dict.fromkeys(SUMS, 0))
                for one in SUMS:
                    sums[one] += int(getattr(row, one))
        total = {name: sum(sums[name] for sums in rows.values()) for name in SUMS}
        ordered = sorted(rows.items(), key=lambda item: item[0] if by == "day" else (-item[1]["cost_nano_usd"], -item[1]["requests"], item[0]))
        return {"by": by, "rows": [{by: name, **_told(sums)} for name, sums in ordered], "total": _told(total)}

    def spent(self, kind: str, identity: str, start_ms: int, end_ms: int) -> int:
        """Billionths of a dollar that a client, a team, or the models of a pattern have cost in a time."""
        total = func.coalesce(func.sum(usage.c.cost_nano_usd), 0)
        within = and_(usage.c.at_ms >= start_ms, usage.c.at_ms < end_ms)
        with self._connect() as connection:
            if kind != "model":
                return int(connection.execute(select(total).where(within, usage.c[kind] == identity)).scalar() or 0)
            rows = connection.execute(select(usage.c.provider, usage.c.model, total).where(within).group_by(usage.c.provider, usage.c.model))
            return sum(int(cost) for provider, model, cost in rows if fnmatchcase(model, identity) or fnmatchcase(f"{provider}:{model}", identity))

    def sums(self, since_ms: int) -> tuple[dict[str, int], dict[str, int]]:
        """Requests, tokens and money from a full hour on: added up over the requests themselves, and over the hours. The two must be the same."""
        own = [func.coalesce(func.sum(usage.c[name]), 0) for name in _VERIFIED]
        hourly = [func.coalesce(func.sum(hours.c[name]), 0) for name in _VERIFIED]
        with self._connect() as connection:
            single = connection.execute(select(func.count(), *own).where(usage.c.at_ms >= since_ms)).one()
            summed = func.coalesce(func.sum(hours.c.requests), 0)
            added = connection.execute(select(summed, *hourly).where(hours.c.hour >= since_ms // 3_600_000)).one()
        names = ("requests", *_VERIFIED)
        return {name: int(value) for name, value in zip(names, single, strict=True)}, {name: int(value) for name, value in zip(names, added, strict=True)}

    def known(self, request_ids: Sequence[str]) -> set[str]:
        """Which of the requests are in the ledger."""
        with self._connect() as connection:
            return set(connection.execute(select(usage.c.request_id).where(usage.c.request_id.in_(list(request_ids)))).scalars())

    def cost_of(self, request_id: str) -> int | None:
        """Billionths of a dollar that a request has cost, 0 where no price is known; None if it is not there."""
        with self._connect() as connection:
            row = connection.execute(select(usage.c.cost_nano_usd).where(usage.c.request_id == request_id)).first()
        return None if row is None else int(row[0] or 0)

    def pruned_before(self) -> int:
        """Requests that ended before this time, in milliseconds of the epoch, may be there in their sums alone."""
        return self.position(_PRUNED)[1]

    def export(self, start_ms: int = 0, end_ms: int = 2**53) -> Iterator[Json]:
        """Every request in a time, in its order."""
        last = (start_ms, "")
        while True:
            after = (usage.c.at_ms > last[0]) | and_(usage.c.at_ms == last[0], usage.c.request_id > last[1])
            query = select(usage).where(after, usage.c.at_ms < end_ms).order_by(usage.c.at_ms, usage.c.request_id).limit(BATCH)
            with self._connect() as connection:
                rows = connection.execute(query).mappings().all()
            for row in rows:
                yield {str(name): value for name, value in row.items()}
            if len(rows) < BATCH:
                return
            last = (rows[-1]["at_ms"], rows[-1]["request_id"])

    def prune(self, before_ms: int) -> int:
        """Deletes requests that ended before, in small batches. The sums of their hours stay. Returns how many."""
        gone = 0
        self.ship([], _PRUNED, 0, max(before_ms, self.pruned_before()))
        while True:
            with self._begin() as connection:
                old = select(usage.c.request_id).where(usage.c.at_ms < before_ms).limit(PRUNE_BATCH)
                ids = list(connection.execute(old).scalars())
                if not ids:
                    return gone
                connection.execute(delete(usage).where(usage.c.request_id.in_(ids)))
                gone += len(ids)

    def clear(self) -> None:
        """Forgets everything, to be rebuilt from the usage logs."""
        with self._begin() as connection:
            for table in (usage, hours, shipped):
                connection.execute(delete(table))


def open_ledger(settings: Settings, state: Path) -> Ledger:
    """The ledger of a configuration. Raises OperationFailed."""
    url = settings.storage.ledger.url
    return Ledger(url.reveal() if url else f"sqlite:///{state / FILE_NAME}")


def _patience(url: str) -> dict[str, int]:
    """How many seconds a server may take to accept a connection."""
    return {} if url.startswith("sqlite") else {"connect_timeout": CONNECT_SECONDS}


def _prepare_sqlite(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "busy_timeout = 5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _sums(entries: Iterable[Entry]) -> dict[tuple[int, str, str, str], dict[str, int]]:
    found: dict[tuple[int, str, str, str], dict[str, int]] = {}
    for entry in entries:
        sums = found.setdefault((entry.hour, entry.client, entry.provider, entry.model[:LONGEST_MODEL]), dict.fromkeys(SUMS, 0))
        sums["requests"] += 1
        sums["errors"] += entry.status >= FIRST_ERROR
        sums["estimated"] += entry.estimated
        sums["unpriced"] += entry.cost_nano_usd is None
        sums["cost_nano_usd"] += entry.cost_nano_usd or 0
        for name in ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens"):
            sums[name] += getattr(entry, name)
    return found


def _told(sums: dict[str, int]) -> Json:
    """Sums as a report tells them: reasoning is output, and what was written to a cache is input."""
    return {
        "requests": sums["requests"],
        "errors": sums["errors"],
        "input_tokens": sums["input_tokens"] + sums["cache_write_tokens"],
        "cached_input_tokens": sums["cached_input_tokens"],
        "output_tokens": sums["output_tokens"] + sums["reasoning_tokens"],
        "cost_usd": sums["cost_nano_usd"] / NANO_USD,
        "estimated": sums["estimated"],
        "unpriced": sums["unpriced"],
    }


def _day(hour: int) -> str:
    return datetime.fromtimestamp(hour // HOURS_OF_A_DAY * 86400, UTC).date().isoformat()
