"""Clients, administrators and their keys in the ledger's database, and beside it in a file for a start without the database."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, Table, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from coollm.identity.stored import CLIENT, ClientFields, Stored, StoredAdmin, StoredClient, StoredKey
from coollm.ledger.book import Ledger
from coollm.ledger.tables import access_key_uses, access_keys, admins, clients, revisions

NAME = "access"
FILE_NAME = "access.json"


class AccessBook:
    """Reads and writes who may use and administer the gateway. Its calls block. All but `remembered` raise as `Ledger.prepare`."""

    def __init__(self, ledger: Ledger, state: Path) -> None:
        self._ledger = ledger
        self._file = state / FILE_NAME

    def remembered(self) -> Stored:
        """What there was when this host last heard of it."""
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=Stored)
        except (FileNotFoundError, UnicodeDecodeError, msgspec.MsgspecError):
            return Stored()

    def newer(self, than: int) -> Stored | None:
        """What there is, if it is of another revision."""
        with self._ledger.reading() as connection:
            revision = connection.execute(select(revisions.c.revision).where(revisions.c.name == NAME)).scalar() or 0
            if revision == than:
                return None
            found = Stored(
                revision=int(revision),
                clients=tuple(
                    StoredClient(
                        id=row.id,
                        fields=msgspec.json.decode(row.fields, type=ClientFields),
                        created_ms=int(row.created_ms),
                        revoked_ms=int(row.revoked_ms),
                        by=row.made_by,
                    )
                    for row in connection.execute(select(clients).order_by(clients.c.id))
                ),
                admins=tuple(
                    StoredAdmin(id=row.id, role=row.role, created_ms=int(row.created_ms), revoked_ms=int(row.revoked_ms), by=row.made_by)
                    for row in connection.execute(select(admins).order_by(admins.c.id))
                ),
                keys=tuple(
                    StoredKey(
                        digest=row.digest, kind=row.kind, owner=row.owner, prefix=row.prefix, created_ms=int(row.created_ms), expires_ms=int(row.expires_ms)
                    )
                    for row in connection.execute(select(access_keys).order_by(access_keys.c.digest))
                ),
            )
        self._remember(found)
        return found

    def add_client(self, client: StoredClient, key: StoredKey) -> bool:
        """Keeps a client that is new, with its key. Whether it is: of many who make the same at the same time one does."""
        return self._add(clients, {"id": client.id, **_said_of_client(client)}, key)

    def add_admin(self, admin: StoredAdmin, key: StoredKey) -> bool:
        """The same of an administrator."""
        return self._add(admins, {"id": admin.id, **_said_of_admin(admin)}, key)

    def _add(self, table: Table, row: dict[str, Any], key: StoredKey) -> bool:
        try:
            with self._ledger.writing() as connection:
                connection.execute(insert(table).values(**row))
                connection.execute(insert(access_keys).values(**msgspec.structs.asdict(key)))
                _changed(connection)
        except IntegrityError:
            return False
        return True

    def put_client(self, client: StoredClient) -> None:
        """Keeps what is said of a client now."""
        self._put(clients, client.id, _said_of_client(client))

    def put_admin(self, admin: StoredAdmin) -> None:
        """Keeps the role of now; a name that is not there is added."""
        self._put(admins, admin.id, _said_of_admin(admin))

    def _put(self, table: Table, identity: str, said: dict[str, Any]) -> None:
        with self._ledger.writing() as connection:
            if connection.execute(update(table).where(table.c.id == identity).values(**said)).rowcount == 0:
                connection.execute(insert(table).values(id=identity, **said))
            _changed(connection)

    def replace_key(self, key: StoredKey, old_expires_ms: int) -> None:
        """Adds a key; those that the owner has end by then, or when they would have ended anyway. What has ended is removed."""
        now = int(time.time() * 1000)
        of_owner = (access_keys.c.kind == key.kind) & (access_keys.c.owner == key.owner)
        with self._ledger.writing() as connection:
            connection.execute(delete(access_keys).where(of_owner & (access_keys.c.expires_ms > 0) & (access_keys.c.expires_ms <= now)))
            if old_expires_ms <= now:
                connection.execute(delete(access_keys).where(of_owner))
            else:
                later = (access_keys.c.expires_ms == 0) | (access_keys.c.expires_ms > old_expires_ms)
                connection.execute(update(access_keys).where(of_owner & later).values(expires_ms=old_expires_ms))
            connection.execute(insert(access_keys).values(**msgspec.structs.asdict(key)))
            _changed(connection)

    def remove(self, kind: str, identity: str) -> None:
        """Removes a client or an administrator with the keys."""
        table = clients if kind == CLIENT else admins
        of_owner = (access_keys.c.kind == kind) & (access_keys.c.owner == identity)
        with self._ledger.writing() as connection:
            prefixes = connection.execute(select(access_keys.c.prefix).where(of_owner)).scalars().all()
            connection.execute(delete(access_key_uses).where(access_key_uses.c.prefix.in_(prefixes)))
            connection.execute(delete(access_keys).where(of_owner))
            connection.execute(delete(table).where(table.c.id == identity))
            _changed(connection)

    def note_uses(self, uses: Mapping[str, tuple[int, int]]) -> None:
        """Adds how often keys were used, and when last."""
        with self._ledger.writing() as connection:
            for prefix, (count, last_ms) in sorted(uses.items()):
                more = {"requests": access_key_uses.c.requests + count, "last_used_ms": last_ms}
                if connection.execute(update(access_key_uses).where(access_key_uses.c.prefix == prefix).values(**more)).rowcount == 0:
                    connection.execute(insert(access_key_uses).values(prefix=prefix, requests=count, last_used_ms=last_ms))

    def uses(self) -> dict[str, tuple[int, int]]:
        """How often each key was used, and when last in milliseconds, by its prefix."""
        with self._ledger.reading() as connection:
            return {row.prefix: (int(row.requests), int(row.last_used_ms)) for row in connection.execute(select(access_key_uses))}

    def _remember(self, found: Stored) -> None:
        """Written whole or not at all: workers do so at the same time."""
        draft = self._file.with_name(f"{FILE_NAME}.{time.time_ns()}")
        draft.touch(0o600)
        draft.write_bytes(msgspec.json.encode(found))
        draft.replace(self._file)


def _changed(connection: Connection) -> None:
    changed = connection.execute(update(revisions).where(revisions.c.name == NAME).values(revision=revisions.c.revision + 1))
    if changed.rowcount == 0:
        connection.execute(insert(revisions).values(name=NAME, revision=1))


def _said_of_client(client: StoredClient) -> dict[str, Any]:
    # In ASCII: not every database keeps every letter.
    fields = json.dumps(msgspec.to_builtins(client.fields))
    return {"fields": fields, "created_ms": client.created_ms, "revoked_ms": client.revoked_ms, "made_by": _ascii(client.by)}


def _said_of_admin(admin: StoredAdmin) -> dict[str, Any]:
    return {"role": admin.role, "created_ms": admin.created_ms, "revoked_ms": admin.revoked_ms, "made_by": _ascii(admin.by)}


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()[:128]
