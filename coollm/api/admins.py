"""Administrators with keys of their own, and logging in with a name and a password."""

from __future__ import annotations

import msgspec
from flask import Response, g

from coollm.api.access import address_of
from coollm.api.answers import json_response
from coollm.api.body import parse_body, read_body
from coollm.api.clients import hash_key, key_rows, make_key, replace_key
from coollm.api.fields import required_text, typed
from coollm.api.routes import Access, Route
from coollm.api.sign_in import sign_in
from coollm.core.clock import now_ms
from coollm.core.errors import InvalidRequest, UnknownRoute
from coollm.core.registry import did_you_mean
from coollm.core.types import ADMIN_ROLES, AdminRole, Json
from coollm.identity.principal import Principal
from coollm.identity.sessions import Sessions
from coollm.identity.stored import ADMIN, StoredAdmin, check_identifier
from coollm.ledger.threads import in_thread
from coollm.services import Services


def create(services: Services) -> Response:
    """Makes an administrator: {"id", "role"}. The answer has the key, which is shown this once."""
    asked = parse_body(read_body(services, g.exchange))
    identity, role = check_identifier(asked.get("id")), _role(asked)
    key, kept = make_key(services, ADMIN, identity)
    admin = StoredAdmin(id=identity, role=role, created_ms=now_ms(), by=g.exchange.principal.name)
    if not in_thread(lambda: services.access.add_admin(admin, kept)):
        raise InvalidRequest(f"there is an administrator '{identity}' already", param="id", code="admin_exists", status=409)
    services.watcher.look()
    g.changed = {"admin": identity, "role": role}
    return json_response({"id": identity, "role": role, "key": key, "prefix": kept.prefix}, 201)


def list_admins(services: Services) -> Response:
    """Every administrator, with the keys' prefixes and when they were used."""
    services.watcher.look()
    uses = in_thread(services.access.uses)
    rows = [_row(services, one, uses) for one in services.watcher.roster.stored.admins]
    settings = services.settings
    if settings.server.admin_api_key is not None:
        rows.insert(0, {"id": "admin_api_key", "role": "admin", "source": "configuration", "revoked": False, "keys": []})
    if settings.server.webui.admin_password is not None:
        rows.insert(0, {"id": settings.server.webui.admin_id, "role": "admin", "source": "configuration", "revoked": False, "keys": []})
    return json_response({"admins": rows, "directory": settings.auth.type if settings.auth else None})


def change(services: Services, identity: str) -> Response:
    """Changes the role, or {"revoked": true}. A name that there is not is shut out: one of the directory's, or one who has logged in."""
    asked = parse_body(read_body(services, g.exchange))
    revoked = typed(asked, "revoked", bool, "true or false")
    services.watcher.look()
    before = services.watcher.roster.stored.find_admin(identity)
    if before is None:
        if not revoked:
            raise _unknown(services, identity)
        before = StoredAdmin(id=check_identifier(identity), role="viewer", created_ms=now_ms(), by=g.exchange.principal.name)
    role = _role(asked) if "role" in asked else before.role
    revoked_ms = before.revoked_ms if revoked is None else (before.revoked_ms or now_ms()) if revoked else 0
    after = msgspec.structs.replace(before, role=role, revoked_ms=revoked_ms)
    in_thread(lambda: services.access.put_admin(after))
    services.watcher.look()
    g.changed = {"admin": identity, "before": before.role, "role": role, "revoked": bool(revoked_ms)}
    return json_response(_row(services, after, in_thread(services.access.uses)))


def remove(services: Services, identity: str) -> Response:
    """Removes an administrator with the keys."""
    _stored(services, identity)
    in_thread(lambda: services.access.remove(ADMIN, identity))
    services.watcher.look()
    g.changed = {"admin": identity}
    return json_response({"id": identity, "deleted": True})


def rotate(services: Services, identity: str) -> Response:
    """Gives an administrator another key: {"overlap": "24h"} is how long the old ones go on. The answer has the key, which is shown this once."""
    return json_response(replace_key(services, ADMIN, _stored(services, identity).id))


def who(services: Services) -> Response:  # noqa: ARG001
    """Who asks, and in which role."""
    principal: Principal = g.exchange.principal
    return json_response({"name": principal.name, "kind": principal.kind, "role": principal.role, "address": principal.address})


def log_in(services: Services) -> Response:
    """A session for {"name", "password"} of the directory or of the configuration's own administrator, and the "code" of a second factor where there is one: a
    token to send in the place of an admin key.
    """
    address = address_of(services, g.exchange)
    services.guard.admit(address)
    asked = parse_body(read_body(services, g.exchange))
    name, password = required_text(asked, "name"), required_text(asked, "password")
    principal = sign_in(services, name, password, typed(asked, "code", str, "text") or "", address)
    role = principal.role
    assert role is not None  # noqa: S101  who has none was refused
    sessions = services.sessions or Sessions(hash_key(services))
    token, ends = sessions.begin(principal.kind, principal.name, role)
    services.audit.tell(principal, "login", state="done", ends=ends)
    return json_response({"token": token, "name": principal.name, "role": role, "ends": ends})


def reset(services: Services, identity: str) -> Response:
    """Takes somebody's second factor away, and ends every session of his in the console."""
    had_factor = in_thread(lambda: services.console_book.drop_second_factor(identity))
    ended = in_thread(lambda: services.console_book.end_all_of(identity))
    g.changed = {"admin": identity[:64], "second_factor": had_factor, "sessions": ended}
    return json_response({"id": identity, "second_factor": had_factor, "sessions": ended})


def _role(asked: Json) -> AdminRole:
    role = typed(asked, "role", str, "a role") or "viewer"
    if role not in ADMIN_ROLES:
        raise InvalidRequest(f"there is no role '{role[:40]}'{did_you_mean(role, ADMIN_ROLES)}; roles: {', '.join(ADMIN_ROLES)}", param="role")
    return ADMIN_ROLES[ADMIN_ROLES.index(role)]


def _stored(services: Services, identity: str) -> StoredAdmin:
    services.watcher.look()
    found = services.watcher.roster.stored.find_admin(identity)
    if found is None:
        raise _unknown(services, identity)
    return found


def _unknown(services: Services, identity: str) -> UnknownRoute:
    known = [one.id for one in services.watcher.roster.stored.admins]
    return UnknownRoute(f"no administrator '{identity[:80]}'{did_you_mean(identity, known)}", code="admin_not_found")


def _row(services: Services, one: StoredAdmin, uses: dict[str, tuple[int, int]]) -> Json:
    keys = key_rows(services.watcher.roster.stored.keys_of(ADMIN, one.id), uses)
    told = {"id": one.id, "role": one.role, "source": "store", "revoked": bool(one.revoked_ms), "created_ms": one.created_ms, "by": one.by}
    return {**told, "keys": keys}


ROUTES = (
    Route("/admin/v1/login", ("POST",), Access.PUBLIC, log_in, "admin_login"),
    Route("/admin/v1/whoami", ("GET",), Access.VIEWER, who, "admin_whoami"),
    Route("/admin/v1/admins", ("GET",), Access.VIEWER, list_admins, "admin_admins"),
    Route("/admin/v1/admins", ("POST",), Access.ADMIN, create, "admin_admins_create", changes=True),
    Route("/admin/v1/admins/<identity>", ("PUT",), Access.ADMIN, change, "admin_admin_change", changes=True),
    Route("/admin/v1/admins/<identity>", ("DELETE",), Access.ADMIN, remove, "admin_admin_delete", changes=True),
    Route("/admin/v1/admins/<identity>/reset", ("POST",), Access.ADMIN, reset, "admin_admin_reset", changes=True),
    Route("/admin/v1/admins/<identity>/rotate", ("POST",), Access.ADMIN, rotate, "admin_admin_rotate", changes=True),
)
