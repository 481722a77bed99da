"""Limits that an administrator has set, kept in the ledger's database, and beside it in a file for a start without the database."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
from sqlalchemy import delete, insert, select, update

from coollm.ledger.book import Ledger
from coollm.ledger.tables import overrides, revisions
from coollm.limits.overrides import NOTHING_SET, Override, Overrides

NAME = "limits"
FILE_NAME = "limits.json"


class OverrideBook:
    """Reads and writes what is set. Its calls block: a gateway makes them in a thread. All but `remembered` raise as `Ledger.prepare`."""

    def __init__(self, ledger: Ledger, state: Path) -> None:
        self._ledger = ledger
        self._file = state / FILE_NAME

    def remembered(self) -> Overrides:
        """What was set when this host last heard of it."""
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=Overrides)
        except (FileNotFoundError, UnicodeDecodeError, msgspec.DecodeError):
            return NOTHING_SET

    def newer(self, than: int) -> Overrides | None:
        """What is set, if it is of another revision."""
        with self._ledger.reading() as connection:
            revision = connection.execute(select(revisions.c.revision).where(revisions.c.name == NAME)).scalar() or 0
            if revision == than:
                return None
            rows = connection.execute(select(overrides).order_by(overrides.c.kind, overrides.c.id)).all()
        found = Overrides(
            revision=int(revision),
            rows=tuple(
                Override(kind=row.kind, id=row.id, fields=msgspec.json.decode(row.fields), budget_since=int(row.budget_since), set_ms=int(row.set_ms))
                for row in rows
            ),
        )
        self._remember(found)
        return found

    def write(self, override: Override) -> None:
        """Replaces what is set for one; an override that says nothing takes it away."""
        here = (overrides.c.kind == override.kind) & (overrides.c.id == override.id)
        with self._ledger.writing() as connection:
            connection.execute(delete(overrides).where(here))
            if override.fields or override.budget_since:
                said = {"fields": msgspec.json.encode(override.fields).decode(), "set_ms": int(time.time() * 1000)}
                connection.execute(insert(overrides).values(**{**msgspec.structs.asdict(override), **said}))
            changed = connection.execute(update(revisions).where(revisions.c.name == NAME).values(revision=revisions.c.revision + 1))
            if changed.rowcount == 0:
                connection.execute(insert(revisions).values(name=NAME, revision=1))

    def _remember(self, found: Overrides) -> None:
        """Written whole or not at all: workers do so at the same time."""
        draft = self._file.with_name(f"{FILE_NAME}.{time.time_ns()}")
        draft.touch(0o600)
        draft.write_bytes(msgspec.json.encode(found))
        draft.replace(self._file)
