"""Clients, for the administrator: made, looked at, changed, given another key, shut out and removed while the gateway runs.

A key is shown once, in the answer that makes it. Those of the configuration are listed beside those of the database, and changed in the configuration.
"""

from __future__ import annotations

import ipaddress
from typing import Any

import msgspec
from flask import Response, g

from coollm.api.answers import json_response
from coollm.api.body import parse_body, read_body
from coollm.api.fields import typed
from coollm.api.routes import Access, Route
from coollm.core.clock import now_ms
from coollm.core.config.schema import Client
from coollm.core.config.values import Duration
from coollm.core.errors import InvalidRequest, UnknownRoute
from coollm.core.paths import find_config
from coollm.core.registry import did_you_mean
from coollm.core.secret_store import make_hash_key
from coollm.core.types import Json
from coollm.identity.stored import CLIENT, ClientFields, StoredClient, StoredKey, check_identifier, fields_from, keyed_digest, new_key
from coollm.ledger.threads import in_thread
from coollm.services import Services

DEFAULT_OVERLAP = "24h"
LONGEST_OVERLAP_SECONDS = 90 * 86400.0
READ_ONLY = ("id", "key", "revoked", "source", "prefix", "keys", "created_ms", "by", "shadowed")


def hash_key(services: Services) -> bytes:
    """What keys are hashed under, made if it is not there yet. Raises OperationFailed."""
    return in_thread(lambda: make_hash_key(find_config().absolute(), services.state))


def make_key(services: Services, kind: str, owner: str) -> tuple[str, StoredKey]:
    """A key, and what is kept of it. Raises OperationFailed."""
    key, prefix = new_key(kind)
    digest = keyed_digest(hash_key(services), key)
    return key, StoredKey(digest=digest, kind=kind, owner=owner, prefix=prefix, created_ms=now_ms())


def create(services: Services) -> Response:
    """Makes a client: {"id", and what the configuration says of one}. The answer has the key, which is shown this once."""
    asked = parse_body(read_body(services, g.exchange))
    identity = check_identifier(asked.pop("id", None))
    if identity in services.watcher.roster.configured:
        raise InvalidRequest(f"'{identity}' is a client of the configuration", param="id", code="client_exists", status=409)
    fields = _checked(services, fields_from(asked))
    key, kept = make_key(services, CLIENT, identity)
    client = StoredClient(id=identity, fields=fields, created_ms=now_ms(), by=g.exchange.principal.name)
    if not in_thread(lambda: services.access.add_client(client, kept)):
        raise InvalidRequest(f"there is a client '{identity}' already", param="id", code="client_exists", status=409)
    services.watcher.look()
    g.changed = {"client": identity, "after": _fields(fields)}
    return json_response({"id": identity, "key": key, "prefix": kept.prefix, **_fields(fields)}, 201)


def list_clients(services: Services) -> Response:
    """Every client, of the configuration and of the database, with the keys' prefixes and when they were used."""
    services.watcher.look()
    uses = in_thread(services.access.uses)
    roster = services.watcher.roster
    rows = [_configured(client) for client in roster.configured.values()]
    rows += [_row(services, one, uses) for one in roster.stored.clients]
    return json_response({"clients": rows})


def show(services: Services, identity: str) -> Response:
    """One client."""
    services.watcher.look()
    configured = services.watcher.roster.configured.get(identity)
    if configured is not None:
        return json_response(_configured(configured))
    return json_response(_row(services, _stored(services, identity), in_thread(services.access.uses)))


def change(services: Services, identity: str) -> Response:
    """Changes what is said of a client: fields as the configuration has them, null to take one back, and {"revoked": true or false}."""
    asked = parse_body(read_body(services, g.exchange))
    before = _stored(services, identity)
    revoked = typed(asked, "revoked", bool, "true or false")
    told = {name: value for name, value in asked.items() if name not in READ_ONLY}
    fields = _checked(services, fields_from(told, before.fields))
    revoked_ms = before.revoked_ms if revoked is None else (before.revoked_ms or now_ms()) if revoked else 0
    after = msgspec.structs.replace(before, fields=fields, revoked_ms=revoked_ms)
    if after != before:
        in_thread(lambda: services.access.put_client(after))
        services.watcher.look()
    g.changed = {"client": identity, "before": _fields(before.fields), "after": _fields(fields), "revoked": bool(revoked_ms)}
    return json_response(_row(services, after, in_thread(services.access.uses)))


def remove(services: Services, identity: str) -> Response:
    """Removes a client with its keys. What it used and cost stays in the ledger."""
    before = _stored(services, identity)
    in_thread(lambda: services.access.remove(CLIENT, identity))
    services.watcher.look()
    g.changed = {"client": identity, "before": _fields(before.fields)}
    return json_response({"id": identity, "deleted": True})


def rotate(services: Services, identity: str) -> Response:
    """Gives a client another key: {"overlap": "24h"} is how long the old ones go on. The answer has the key, which is shown this once."""
    return json_response(replace_key(services, CLIENT, _stored(services, identity).id))


def replace_key(services: Services, kind: str, owner: str) -> Json:
    """Gives a client or an administrator another key, as the body of the request says. Returns what is answered."""
    overlap = _overlap_seconds(parse_body(read_body(services, g.exchange) or b"{}"))
    key, kept = make_key(services, kind, owner)
    ends = now_ms() + int(overlap * 1000)
    in_thread(lambda: services.access.replace_key(kept, ends))
    services.watcher.look()
    g.changed = {kind: owner, "key": kept.prefix, "old_keys_end": ends if overlap else 0}
    return {"id": owner, "key": key, "prefix": kept.prefix, "old_keys_expire_ms": ends if overlap else None}


def _overlap_seconds(asked: Json) -> float:
    """How long old keys go on. Raises InvalidRequest."""
    text = typed(asked, "overlap", str, "a time such as 24h")
    try:
        seconds = float(Duration.parse(DEFAULT_OVERLAP if text is None else text))
    except ValueError as error:
        raise InvalidRequest(f"'overlap': {error}", param="overlap") from None
    if seconds > LONGEST_OVERLAP_SECONDS:
        raise InvalidRequest("'overlap' is at most 90d", param="overlap")
    return seconds


def key_rows(keys: tuple[StoredKey, ...], uses: dict[str, tuple[int, int]]) -> list[Json]:
    """Keys as they are listed: never more of one than its prefix."""
    rows = []
    for key in keys:
        requests, last_ms = uses.get(key.prefix, (0, 0))
        rows.append(
            {
                "prefix": key.prefix,
                "created_ms": key.created_ms,
                "expires_ms": key.expires_ms or None,
                "expired": bool(key.expires_ms and key.expires_ms <= now_ms()),
                "requests": requests,
                "last_used_ms": last_ms or None,
            }
        )
    return rows


def _stored(services: Services, identity: str) -> StoredClient:
    services.watcher.look()
    roster = services.watcher.roster
    found = roster.stored.find_client(identity)
    if found is None and identity in roster.configured:
        message = f"'{identity[:80]}' is a client of the configuration: change it there (coollm config apply)"
        raise InvalidRequest(message, param="id", code="client_of_configuration", status=409)
    if found is None:
        raise UnknownRoute(f"no client '{identity[:80]}'{did_you_mean(identity, [one.client_id for one in roster.clients()])}", code="client_not_found")
    return found


def _checked(services: Services, fields: ClientFields) -> ClientFields:
    """What the configuration's own checks ask of a client. Raises InvalidRequest."""
    settings = services.settings
    known = {name for provider in settings.llm_providers for name in (provider.id, provider.type)} | {"*"}
    for name in fields.allowed_providers:
        if name not in known:
            raise InvalidRequest(f"no provider '{name[:80]}'{did_you_mean(name, known)}", param="allowed_providers")
    teams = [team.id for team in settings.teams]
    if fields.team is not None and fields.team not in teams:
        raise InvalidRequest(f"no team '{fields.team[:80]}'{did_you_mean(fields.team, teams)}", param="team")
    for address in fields.allowed_addresses:
        try:
            ipaddress.ip_network(address, strict=False)
        except ValueError:
            message = f"expected an address or a network such as 10.1.0.0/16, got '{address[:80]}'"
            raise InvalidRequest(message, param="allowed_addresses") from None
    if fields.expires_at is not None and fields.expires_at.tzinfo is None:
        raise InvalidRequest("'expires_at' needs a time zone, such as 2027-01-31T00:00:00Z", param="expires_at")
    return fields


def _fields(fields: Client | ClientFields) -> Json:
    told: dict[str, Any] = {name: getattr(fields, name) for name in ClientFields.__struct_fields__}
    built: Json = msgspec.to_builtins(told)
    return built


def _configured(client: Client) -> Json:
    return {"id": client.client_id, "source": "configuration", "revoked": False, **_fields(client), "keys": []}


def _row(services: Services, one: StoredClient, uses: dict[str, tuple[int, int]]) -> Json:
    return {
        "id": one.id,
        "source": "store",
        "shadowed": one.id in services.watcher.roster.configured,
        "revoked": bool(one.revoked_ms),
        "created_ms": one.created_ms,
        "by": one.by,
        **_fields(one.fields),
        "keys": key_rows(services.watcher.roster.stored.keys_of(CLIENT, one.id), uses),
    }


ROUTES = (
    Route("/admin/v1/clients", ("GET",), Access.VIEWER, list_clients, "admin_clients"),
    Route("/admin/v1/clients", ("POST",), Access.ADMIN, create, "admin_clients_create", changes=True),
    Route("/admin/v1/clients/list", ("GET",), Access.VIEWER, list_clients, "admin_clients_list"),
    Route("/admin/v1/clients/<identity>", ("GET",), Access.VIEWER, show, "admin_client"),
    Route("/admin/v1/clients/<identity>", ("PUT",), Access.ADMIN, change, "admin_client_change", changes=True),
    Route("/admin/v1/clients/<identity>", ("DELETE",), Access.ADMIN, remove, "admin_client_delete", changes=True),
    Route("/admin/v1/clients/<identity>/rotate", ("POST",), Access.ADMIN, rotate, "admin_client_rotate", changes=True),
)
