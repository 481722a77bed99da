"""A client who was let in is let in again without being looked for; nobody else is."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from coollm.api.access import authorize
from coollm.api.http import Exchange
from coollm.api.routes import Access
from coollm.core.config.schema import Settings
from coollm.core.errors import NotAllowed, NotAuthenticated
from coollm.core.secrets import Secret
from coollm.identity.principal import Principal
from coollm.identity.roster import Roster, Uses
from coollm.identity.stored import Stored

KEY = "client-key-of-the-tests"
OTHER_KEY = "client-key-of-another"
HOME = "10.0.0.7"


def services_of(*, trusted: list[str] | None = None, **client: Any) -> Any:
    given = {
        "version": "1.0",
        "api_keys": [{"id": "app", "key": Secret(KEY), **client}, {"id": "other", "key": Secret(OTHER_KEY)}],
        "server": {"trusted_proxies": trusted or []},
    }
    settings = msgspec.convert(given, Settings)
    return SimpleNamespace(settings=settings, uses=Uses(), watcher=SimpleNamespace(roster=Roster(settings, None, Stored())))


def ask(services: Any, peer: str = HOME, **headers: str) -> str:
    environ = {"REMOTE_ADDR": peer, **{f"HTTP_{name.upper()}": value for name, value in headers.items()}}
    principal = authorize(services, Exchange(environ), Access.CLIENT)
    return f"{cast('Principal', principal).name} from {cast('Principal', principal).address}"


def test_by_what_he_sent_and_his_address() -> None:
    services = services_of()
    for _ in range(2):
        assert ask(services, authorization=f"Bearer {KEY}") == f"app from {HOME}"
        assert ask(services, "10.0.0.8", authorization=f"bearer  {KEY} ") == "app from 10.0.0.8"
        assert ask(services, authorization=f"Bearer {OTHER_KEY}") == f"other from {HOME}"
        with pytest.raises(NotAuthenticated, match="unknown"):
            ask(services, authorization=f"Bearer {KEY}x")
    assert len(services.watcher.roster.let_in) == 3


def test_not_by_a_header_that_said_nothing_of_him() -> None:
    services = services_of()
    assert ask(services, authorization="Basic YTpi", x_api_key=KEY) == f"app from {HOME}"
    assert ask(services, authorization="Bearer ", x_api_key=KEY) == f"app from {HOME}"
    assert ask(services, api_key=KEY) == f"app from {HOME}"
    for authorization in ("Basic YTpi", "Bearer ", ""):
        with pytest.raises(NotAuthenticated, match="no API key"):
            ask(services, authorization=authorization)
    assert services.watcher.roster.let_in == {}


def test_not_when_his_time_is_over() -> None:
    services = services_of(expires_at=(datetime.now(UTC) + timedelta(seconds=0.3)).isoformat())
    assert ask(services, authorization=f"Bearer {KEY}") == f"app from {HOME}"
    assert services.watcher.roster.let_in
    time.sleep(0.4)
    with pytest.raises(NotAuthenticated, match="expired"):
        ask(services, authorization=f"Bearer {KEY}")


def test_not_from_another_address_than_he_may_ask_from() -> None:
    services = services_of(allowed_addresses=[HOME])
    for _ in range(2):
        assert ask(services, authorization=f"Bearer {KEY}") == f"app from {HOME}"
        with pytest.raises(NotAllowed, match=r"10\.0\.0\.8"):
            ask(services, "10.0.0.8", authorization=f"Bearer {KEY}")


def test_behind_a_proxy_it_is_the_proxy_that_says_from_where() -> None:
    services = services_of(trusted=["10.0.0.1"])
    for address in ("192.0.2.1", "192.0.2.2"):
        assert ask(services, "10.0.0.1", authorization=f"Bearer {KEY}", x_forwarded_for=address) == f"app from {address}"
    assert services.watcher.roster.let_in == {}
