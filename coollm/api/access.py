"""Who asks: a client by its key, the administrator by the admin key, or the administrator of this host by the local socket."""

from __future__ import annotations

import hmac
import socket

from coollm.api.client_watch import WIRE_KEY
from coollm.api.http import Exchange
from coollm.api.routes import Access
from coollm.core.config.schema import Client
from coollm.core.errors import NotAuthenticated
from coollm.core.secrets import key_digest
from coollm.services import Services, has_expired

LONGEST_KEY = 4096


def is_local_administrator(exchange: Exchange) -> bool:
    """Whether the request came over the gateway's Unix socket, which only the gateway's own user can open."""
    wire = exchange.environ.get(WIRE_KEY)
    return wire is not None and wire.family == socket.AF_UNIX


def authorize(services: Services, exchange: Exchange, access: Access) -> Client | None:
    """The client that asks; None for the administrator and on public routes. Raises NotAuthenticated."""
    if access is Access.PUBLIC or is_local_administrator(exchange):
        return None
    key = presented_key(exchange)
    if not key:
        raise NotAuthenticated("no API key: send it as 'Authorization: Bearer KEY'", code="missing_api_key")
    digest = key_digest(key)
    if access is Access.ADMIN:
        admin = services.settings.server.admin_api_key
        if admin is None or not hmac.compare_digest(admin.digest(), digest):
            raise NotAuthenticated("this is not the admin key")
        return None
    client = services.client_of(digest)
    if client is None:
        raise NotAuthenticated("unknown API key")
    if has_expired(client):
        raise NotAuthenticated("this API key has expired", code="expired_api_key")
    return client


def presented_key(exchange: Exchange) -> str:
    """The key of a request, from `Authorization: Bearer`, or `x-api-key` and `api-key` as Anthropic's and Azure's clients send it."""
    environ = exchange.environ
    sent: str = environ.get("HTTP_AUTHORIZATION", "")
    if sent.startswith("Bearer "):  # as most write it
        key = sent[7:].strip()
    else:
        scheme, _, value = sent.partition(" ")
        key = value.strip() if scheme.lower() == "bearer" else ""
    key = key or environ.get("HTTP_X_API_KEY", "") or environ.get("HTTP_API_KEY", "")
    return key if len(key) <= LONGEST_KEY else ""
