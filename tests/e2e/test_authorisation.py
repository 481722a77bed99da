"""Who may use which route: every route of the table against every kind of asker. A route without a rule does not exist; one that is new is tested by its row."""

from __future__ import annotations

import datetime
import ipaddress
import itertools
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from coollm.api.routes import Access, Route
from coollm.core.registry import ENDPOINTS
from coollm.core.types import ADMIN_ROLES
from tests.conftest import GatewayHandle, SimulatorHandle, serve, simulated, wait_for

ADMIN_KEY = "the-admin-key-of-the-tests-0123456789"
ALL = [(route, method) for routes in ENDPOINTS.values() for route in routes for method in route.methods]
NEEDED = {Access.VIEWER: "viewer", Access.OPERATOR: "operator", Access.ADMIN: "admin"}

NOBODY = {
    "no key": (None, {"missing_api_key"}),
    "unknown": ("Bearer nobody-has-this-key", {"invalid_api_key"}),
    "sql": ("Bearer ' OR '1'='1' -- ", {"invalid_api_key"}),
    "sql union": ("Bearer x'; DROP TABLE clients; SELECT * FROM admins WHERE '1'='1", {"invalid_api_key"}),
    "ldap": ("Bearer *)(uid=*))(|(uid=*", {"invalid_api_key"}),
    "8 KB": ("Bearer " + "k" * 7900, {"missing_api_key"}),
    "not a bearer": ("Basic YWRtaW46YWRtaW4=", {"missing_api_key"}),
    "a session of nobody": ("Bearer coosession_eyJuYW1lIjoiYWRtaW4ifQ.AAAA", {"invalid_api_key", "invalid_session"}),
}


@pytest.fixture(scope="module")
def gateway(simulator: SimulatorHandle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHandle]:
    server = {"admin_api_key": ADMIN_KEY, "webui": {"admin_id": "root", "admin_password": "correct horse"}, "trusted_proxies": ["127.0.0.1"]}
    with serve(tmp_path_factory.mktemp("authorisation"), {"llm_providers": simulated(simulator.url)[:1], "server": server}) as handle:
        yield handle


@pytest.fixture(scope="module")
def keys(gateway: GatewayHandle) -> dict[str, str]:
    """A key of each kind, made over the admin API."""
    as_admin = {"authorization": f"Bearer {ADMIN_KEY}"}

    def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
        reply = requests.post(gateway.url + path, json=body, headers={**as_admin, **elsewhere()}, timeout=10)
        assert reply.status_code in (200, 201), reply.text
        return reply.json()

    found = {role: post("/admin/v1/admins", {"id": f"a-{role}", "role": role})["key"] for role in ADMIN_ROLES}
    found["revoked admin"] = post("/admin/v1/admins", {"id": "a-revoked", "role": "admin"})["key"]
    requests.put(f"{gateway.url}/admin/v1/admins/a-revoked", json={"revoked": True}, headers=as_admin, timeout=10)
    found["client"] = post("/admin/v1/clients", {"id": "c-good"})["key"]
    found["revoked"] = post("/admin/v1/clients", {"id": "c-revoked"})["key"]
    requests.put(f"{gateway.url}/admin/v1/clients/c-revoked", json={"revoked": True}, headers=as_admin, timeout=10)
    ends = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=1)
    found["expired"] = post("/admin/v1/clients", {"id": "c-expired", "expires_at": ends.isoformat()})["key"]
    found["configured"] = ADMIN_KEY
    found["session"] = requests.post(f"{gateway.url}/admin/v1/login", json={"name": "root", "password": "correct horse"}, timeout=10).json()["token"]
    time.sleep(1.0)  # every worker knows them by then
    return found


def path_of(route: Route) -> str:
    return re.sub(r"<(?:\w+:)?(\w+)>", "nothing", route.path)


ADDRESSES = itertools.count(1)


def elsewhere() -> dict[str, str]:
    """Each request comes from an address of its own, as a proxy that is trusted says: an address that fails is soon locked out."""
    return {"x-forwarded-for": str(ipaddress.ip_address("10.0.0.0") + next(ADDRESSES))}


def ask(gateway: GatewayHandle, route: Route, method: str, authorization: str | None, **headers: str) -> requests.Response:
    headers = {**elsewhere(), **headers}
    if authorization is not None:
        headers["authorization"] = authorization
    with requests.request(method, gateway.url + path_of(route), headers=headers, timeout=30, stream=True) as reply:
        if reply.status_code != 200:
            assert reply.content is not None
        return reply


def code_of(reply: requests.Response) -> Any:
    error = reply.json().get("error", {})
    return error.get("code") or error.get("type")


def ids(item: Any) -> str:
    return item.name if isinstance(item, Route) else str(item)


@pytest.mark.parametrize(("route", "method"), ALL, ids=ids)
def test_the_matrix(gateway: GatewayHandle, keys: dict[str, str], route: Route, method: str) -> None:
    assert isinstance(route.access, Access)
    if route.access is Access.PUBLIC:
        assert ask(gateway, route, method, None).status_code not in (401, 403, 500)
        return
    for name, (sent, _) in NOBODY.items():
        reply = ask(gateway, route, method, sent)
        assert reply.status_code == 401, name
    assert ask(gateway, route, method, None, host="127.0.0.1").status_code == 401
    assert ask(gateway, route, method, None, host="localhost:2906", **{"x-forwarded-for": "127.0.0.1", "x-forwarded-host": "localhost"}).status_code == 401
    assert ask(gateway, route, method, None, **{"x-coollm-actor": "root"}).status_code == 401, "what the local socket is told by is told by it alone"
    for name in ("revoked", "expired", "revoked admin"):
        assert ask(gateway, route, method, f"Bearer {keys[name]}").status_code == 401, name
    if route.access is Access.CLIENT:
        for name in (*ADMIN_ROLES, "configured", "session"):
            assert ask(gateway, route, method, f"Bearer {keys[name]}").status_code == 401, "an administrator is no client"
        assert ask(gateway, route, method, f"Bearer {keys['client']}", host="evil.example").status_code not in (401, 403, 500)
        return
    assert ask(gateway, route, method, f"Bearer {keys['client']}").status_code == 403
    needed = ADMIN_ROLES.index(NEEDED[route.access])  # type: ignore[arg-type]
    for place, role in enumerate(ADMIN_ROLES):
        reply = ask(gateway, route, method, f"Bearer {keys[role]}", host="evil.example")
        if place < needed:
            assert reply.status_code == 403, role
        else:
            assert reply.status_code not in (401, 403, 500), role
    for name in ("configured", "session"):
        assert ask(gateway, route, method, f"Bearer {keys[name]}").status_code not in (401, 403, 500), name


def test_what_changes_something_needs_more_than_to_look() -> None:
    for route, method in ALL:
        if route.path.startswith("/admin/") and route.access is Access.VIEWER:
            assert not route.changes
            assert method == "GET" or route.name in ("admin_route_explain", "admin_config_validate")
        if route.changes:
            assert route.access in (Access.OPERATOR, Access.ADMIN)


def test_what_there_is_not_is_not_open(gateway: GatewayHandle) -> None:
    for path in ("/admin/v1/nothing", "/admin", "/admin/v1/clients/../config", "/v1/../admin/v1/config", "//admin/v1/config", "/admin/v1/config/"):
        with socket.create_connection(("127.0.0.1", gateway.port), 10) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode())
            status = int(connection.makefile("rb").readline().split()[1])
        assert status in (308, 400, 401, 404), path


def test_refusals_say_why(gateway: GatewayHandle, keys: dict[str, str]) -> None:
    chat, admin = f"{gateway.url}/v1/models", f"{gateway.url}/admin/v1/status"
    for name, (sent, codes) in NOBODY.items():
        for url in (chat, admin):
            reply = requests.get(url, headers={**elsewhere(), **({"authorization": sent} if sent else {})}, timeout=10)
            assert (reply.status_code, code_of(reply) in codes) == (401, True), (name, url, reply.text)
    for name, code in (("revoked", "revoked_api_key"), ("expired", "expired_api_key")):
        assert code_of(requests.get(chat, headers={"authorization": f"Bearer {keys[name]}"}, timeout=10)) == code


def test_who_was_refused_is_in_the_audit_log_and_no_key_is(gateway: GatewayHandle, keys: dict[str, str]) -> None:
    requests.get(f"{gateway.url}/admin/v1/config", headers={"authorization": f"Bearer {keys['client']}", **elsewhere()}, timeout=10)
    text = (gateway.home / "state" / "logs" / "audit.log").read_text()
    assert '"action": "denied"' in text
    assert '"reason": "role"' in text
    assert '"action": "admin_clients_create"' in text
    assert not any(key in text for key in keys.values())
    assert gateway.coollm("audit", "verify").returncode == 0


def test_an_address_that_fails_again_and_again_has_to_wait(simulator: SimulatorHandle, tmp_path: Any) -> None:
    server = {"admin_api_key": ADMIN_KEY, "admin_requests_per_minute": 30, "webui": {"admin_password": "correct horse"}}
    with serve(tmp_path, {"llm_providers": simulated(simulator.url)[:1], "server": server}) as gateway:
        status = f"{gateway.url}/admin/v1/status"

        def attempt(key: str) -> requests.Response:
            return requests.get(status, headers={"authorization": f"Bearer {key}"}, timeout=10)

        assert [attempt("wrong").status_code for _ in range(5)] == [401] * 5
        locked = attempt(ADMIN_KEY)
        assert locked.status_code == 429
        assert code_of(locked) == "locked_out"
        assert int(locked.headers["retry-after"]) >= 1
        assert gateway.coollm("status").returncode == 0, "the host's own administrator gets in"
        assert wait_for(lambda: attempt(ADMIN_KEY).status_code == 200, 10)
        assert attempt("wrong").status_code == 401
        assert float(attempt(ADMIN_KEY).headers["retry-after"]) >= 2
        wait_for(lambda: attempt(ADMIN_KEY).status_code == 200, 10)
        wait_for(lambda: code_of(attempt(ADMIN_KEY)) == "admin_rate_limit" if attempt(ADMIN_KEY).status_code == 429 else None, 10)
        text = requests.get(f"{gateway.url}/metrics", timeout=10).text
        assert re.search(r'coo_llm_admin_requests_total\{endpoint="admin_status",status="429"\} [1-9]', text)
        assert re.search(r"coo_llm_admin_rate_limits_total [1-9]", text)


def test_pages_of_other_origins(simulator: SimulatorHandle, tmp_path: Any) -> None:
    cors = {"origins": ["https://chat.company.com"], "credentials": True}
    with serve(tmp_path, {"llm_providers": simulated(simulator.url)[:1], "server": {"cors": cors}}) as gateway:
        asked = {"origin": "https://chat.company.com", "access-control-request-method": "POST"}
        reply = requests.options(f"{gateway.url}/v1/chat/completions", headers=asked, timeout=10)
        assert reply.status_code == 204
        assert reply.headers["access-control-allow-origin"] == "https://chat.company.com"
        assert reply.headers["access-control-allow-credentials"] == "true"
        assert requests.options(f"{gateway.url}/v1/chat/completions", headers={**asked, "origin": "https://evil.example"}, timeout=10).status_code == 403
        for path, method in (("/v1/chat/completions", "POST"), ("/v1/models", "GET")):
            reply = requests.request(method, gateway.url + path, headers={"origin": "https://chat.company.com"}, timeout=10)
            assert reply.headers["access-control-allow-origin"] == "https://chat.company.com"
        assert "access-control-allow-origin" not in requests.get(f"{gateway.url}/v1/models", headers={"origin": "null"}, timeout=10).headers
