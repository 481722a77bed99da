"""Clients and administrators that are kept in the ledger's database, beside those of the configuration. Their keys are kept as keyed hashes."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from datetime import datetime
from typing import Any

import msgspec

from coollm.core.config.schema import Client, Limits
from coollm.core.errors import InvalidRequest
from coollm.core.types import AdminRole, Value

CLIENT, ADMIN = "client", "admin"

KEY_BYTES = 32
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}")


class ClientFields(Value, frozen=True, forbid_unknown_fields=True):
    """What is said of a client, as in the configuration."""

    allowed_providers: tuple[str, ...] = ("*",)
    allowed_models: tuple[str, ...] = ("*",)
    allowed_addresses: tuple[str, ...] = ()
    description: str | None = None
    expires_at: datetime | None = None
    limits: Limits = Limits()
    team: str | None = None


class StoredKey(Value, frozen=True):
    """A key of a client or an administrator. `digest` is the keyed hash in hexadecimal digits; `expires_ms` is 0 if it does not; both in milliseconds."""

    digest: str
    kind: str
    owner: str
    prefix: str
    created_ms: int
    expires_ms: int = 0


class StoredClient(Value, frozen=True):
    """A client; `revoked_ms` is 0 if it is not."""

    id: str
    fields: ClientFields
    created_ms: int
    revoked_ms: int = 0
    by: str = ""

    def client(self) -> Client:
        """As requests know it."""
        return Client(id=self.id, **{name: getattr(self.fields, name) for name in ClientFields.__struct_fields__})


class StoredAdmin(Value, frozen=True):
    """An administrator; one without a key is a name of the directory's that is shut out."""

    id: str
    role: AdminRole
    created_ms: int
    revoked_ms: int = 0
    by: str = ""


class Stored(Value, frozen=True):
    """All that is kept, at a revision, which goes up with each change."""

    revision: int = 0
    clients: tuple[StoredClient, ...] = ()
    admins: tuple[StoredAdmin, ...] = ()
    keys: tuple[StoredKey, ...] = ()

    def find_client(self, identity: str) -> StoredClient | None:
        """A client by its id."""
        return next((one for one in self.clients if one.id == identity), None)

    def find_admin(self, identity: str) -> StoredAdmin | None:
        """An administrator by the id."""
        return next((one for one in self.admins if one.id == identity), None)

    def keys_of(self, kind: str, owner: str) -> tuple[StoredKey, ...]:
        """The keys of one, the oldest first."""
        return tuple(sorted((key for key in self.keys if (key.kind, key.owner) == (kind, owner)), key=lambda key: key.created_ms))


def keyed_digest(hash_key: bytes, key: str) -> str:
    """HMAC-SHA-256 of a whole key, under a key that is no part of the database it is kept in."""
    return hmac.new(hash_key, key.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


def new_key(kind: str) -> tuple[str, str]:
    """A key that nobody can guess, and the part of it by which it is known."""
    prefix = f"{'coo' if kind == CLIENT else 'cooadm'}_{secrets.token_hex(4)}"
    return f"{prefix}_{secrets.token_urlsafe(KEY_BYTES)}", prefix


def check_identifier(identity: Any) -> str:
    """An id. Raises InvalidRequest."""
    if not isinstance(identity, str) or not _IDENTIFIER.fullmatch(identity):
        message = "'id' must be 1 to 64 letters, digits, '.', '_' or '-', the first a letter or digit"
        raise InvalidRequest(message, param="id")
    return identity


def fields_from(told: dict[str, Any], before: ClientFields | None = None) -> ClientFields:
    """What is said of a client, upon what was said before; None takes a field back. Raises InvalidRequest."""
    known = msgspec.to_builtins(before) if before else {}
    merged = {name: value for name, value in {**known, **told}.items() if value is not None}
    if isinstance(merged.get("limits"), dict):
        merged["limits"] = {name: value for name, value in merged["limits"].items() if value is not None}
    try:
        return msgspec.convert(merged, ClientFields)
    except msgspec.ValidationError as error:
        raise InvalidRequest(str(error)) from None
