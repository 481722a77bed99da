"""Who asks: a client or an administrator by a key, somebody who has logged in by a session, or the administrator of this host by the local socket.

There is no route without a rule, and who is not let in by it is refused.
"""

from __future__ import annotations

import functools
import hmac
import ipaddress
import json
import socket
import time
from collections.abc import Sequence
from typing import Any

from coollm.api.client_watch import WIRE_KEY
from coollm.api.http import Exchange
from coollm.api.routes import ROLE_OF, Access
from coollm.core.errors import NotAllowed, NotAuthenticated
from coollm.core.secrets import key_digest
from coollm.core.types import AdminRole
from coollm.identity.principal import Principal
from coollm.identity.roster import Holder, LetIn
from coollm.identity.sessions import PREFIX as SESSION_PREFIX
from coollm.services import Services
from coollm.wire import Wire

LONGEST_KEY = 4096
LONGEST_ACTOR = 1000
ADMIN_KEY_NAME = "admin_api_key"


def is_local(environ: dict[str, Any]) -> bool:
    """Whether a request came over one of the gateway's Unix sockets."""
    wire = environ.get(WIRE_KEY)
    return wire is not None and wire.family == socket.AF_UNIX


def local_administrator(exchange: Exchange) -> Principal | None:
    """Who asks over the gateway's Unix socket, which only the gateway's own user and root can open; None for everybody else.

    The command says who gave it (`x-coollm-actor`): whoever can open the socket may do everything anyway. Source: unix(7), SO_PEERCRED.
    """
    if not is_local(exchange.environ):
        return None
    wire = exchange.environ[WIRE_KEY]
    told = exchange.environ.get("HTTP_X_COOLLM_ACTOR", "")
    name = told if told.isprintable() and 0 < len(told) <= LONGEST_ACTOR else ""
    return Principal(kind="local", name=name or _peer(wire), role="admin", address="local")


def _peer(wire: Wire) -> str:
    try:
        return f"uid {wire.peer_user()}"
    except OSError:
        return "local"


CONSOLE_KEY = "coollm.console"
"""Where the console says who has signed in, as it asks on his behalf: what a client sends does not come there (PEP 3333: its headers begin with HTTP_)."""


def authorize(services: Services, exchange: Exchange, access: Access) -> Principal | None:
    """Who asks; None on public routes. Raises NotAuthenticated, NotAllowed and LimitReached."""
    if access is Access.PUBLIC:
        return None
    signed_in: Principal | None = exchange.environ.get(CONSOLE_KEY)
    if signed_in is not None:
        return _with_role(services, exchange, signed_in, ROLE_OF.get(access, "operator"))
    if access is Access.CLIENT:
        return _client(services, exchange)
    local = local_administrator(exchange)
    return local if local is not None else _administrator(services, exchange, access)


def _client(services: Services, exchange: Exchange) -> Principal | None:
    roster, environ = services.watcher.roster, exchange.environ
    sent, peer = environ.get("HTTP_AUTHORIZATION", ""), environ.get("REMOTE_ADDR", "")
    known = roster.let_in.get((sent, peer))
    if known is not None and known.ends > time.time():
        if known.principal.via:
            services.uses.note(known.principal.via)
        return known.principal
    key = presented_key(exchange)
    if not key:
        local = local_administrator(exchange)
        if local is None:
            raise NotAuthenticated("no API key: send it as 'Authorization: Bearer KEY'", code="missing_api_key")
        return local
    holder = roster.holder(key)
    if holder is None or holder.client is None:
        local = local_administrator(exchange)
        if local is None:
            raise NotAuthenticated("unknown API key")
        return local
    _check(holder)
    client = holder.client
    address = address_of(services, exchange)
    if client.allowed_addresses and not is_within(address, client.allowed_addresses):
        raise NotAllowed(f"this key may not be used from {address}", code="address_not_allowed")
    via = ""
    if holder.key is not None:
        via = holder.key.prefix
        services.uses.note(via)
    principal = Principal(kind="client", name=client.client_id, address=address, via=via, client=client)
    # Where these two alone say who asks, and from where.
    if key == bearer_of(sent) and not services.settings.server.trusted_proxies:
        roster.remember(sent, peer, LetIn(principal, holder.expires))
    return principal


def _administrator(services: Services, exchange: Exchange, access: Access) -> Principal:
    address = address_of(services, exchange)
    services.guard.admit(address)
    try:
        principal = _by_key(services, presented_key(exchange), address)
    except NotAuthenticated as error:
        if error.code == "missing_api_key":
            services.audit.count("nobody", address, "missing_api_key")
            raise
        services.guard.failed(address)
        services.audit.tell(None, "denied", address=address, reason=error.code, method=exchange.environ["REQUEST_METHOD"], path=_path(exchange))
        raise
    return _with_role(services, exchange, principal, ROLE_OF[access])


def _with_role(services: Services, exchange: Exchange, principal: Principal, needed: AdminRole) -> Principal:
    if not principal.may(needed):
        services.audit.tell(principal, "denied", reason="role", method=exchange.environ["REQUEST_METHOD"], path=_path(exchange))
        raise NotAllowed(f"this needs the role {needed}, and {principal.name} is {principal.role or 'a client'}", code="role_required")
    return principal


def _by_key(services: Services, key: str, address: str) -> Principal:
    if not key:
        raise NotAuthenticated("no admin key: send it as 'Authorization: Bearer KEY'", code="missing_api_key")
    if key.startswith(SESSION_PREFIX) and services.sessions is not None:
        session = services.sessions.read(key)
        if session is None or session.name in services.watcher.roster.shut_out:
            raise NotAuthenticated("this is no session of this gateway", code="invalid_session")
        if session.ends <= time.time():
            raise NotAuthenticated("this session has ended: log in again", code="expired_session")
        return Principal(kind="ldap" if session.kind == "ldap" else "password", name=session.name, role=session.role, address=address)
    admin = services.settings.server.admin_api_key
    if admin is not None and hmac.compare_digest(admin.digest(), key_digest(key)):
        return Principal(kind="key", name=ADMIN_KEY_NAME, role="admin", address=address)
    holder = services.watcher.roster.holder(key)
    if holder is None:
        raise NotAuthenticated("this is not an admin key")
    _check(holder)
    via = holder.key.prefix if holder.key is not None else ""
    if holder.admin is None:
        assert holder.client is not None  # noqa: S101  a key is of one or the other
        return Principal(kind="client", name=holder.client.client_id, address=address, via=via)
    services.uses.note(via)
    return Principal(kind="key", name=holder.admin.id, role=holder.admin.role, address=address, via=via)


def _check(holder: Holder) -> None:
    if holder.is_revoked:
        raise NotAuthenticated("this API key was revoked", code="revoked_api_key")
    if holder.expires <= time.time():
        raise NotAuthenticated("this API key has expired", code="expired_api_key")


def presented_key(exchange: Exchange) -> str:
    """The key of a request, from `Authorization: Bearer`, or `x-api-key` and `api-key` as Anthropic's and Azure's clients send it."""
    environ = exchange.environ
    key: str = bearer_of(environ.get("HTTP_AUTHORIZATION", "")) or environ.get("HTTP_X_API_KEY", "") or environ.get("HTTP_API_KEY", "")
    return key if len(key) <= LONGEST_KEY else ""


def bearer_of(sent: str) -> str:
    """The key in an `Authorization` header; none where it holds something else."""
    scheme, _, value = sent.partition(" ")
    return value.strip() if scheme.lower() == "bearer" else ""


def address_of(services: Services, exchange: Exchange) -> str:
    """Where a request comes from: the peer's address, or what a proxy that is trusted says of its peer."""
    peer: str = exchange.environ.get("REMOTE_ADDR", "")
    trusted = services.settings.server.trusted_proxies
    if not trusted or not is_within(peer, trusted):
        return peer or "local"
    for said in reversed(exchange.environ.get("HTTP_X_FORWARDED_FOR", "").split(",")):
        address = said.strip()
        if not _is_address(address):
            break
        if not is_within(address, trusted):
            return str(address)
    return peer


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


@functools.lru_cache(maxsize=4096)
def is_within(address: str, networks: Sequence[str]) -> bool:
    """Whether an address is one of these, or in one of these networks."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    found = getattr(found, "ipv4_mapped", None) or found
    return any(found in ipaddress.ip_network(one, strict=False) for one in networks)


def _path(exchange: Exchange) -> str:
    return json.dumps(exchange.environ.get("PATH_INFO", "")[:200])[1:-1]
