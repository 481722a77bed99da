"""The HTTP face beside the SDK: errors, aliases, health, metrics, admin."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.conftest import GatewayHandle, SimulatorHandle, serve, simulated, wait_for

SAY = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def gateway(simulator: SimulatorHandle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHandle]:
    configuration: dict[str, Any] = {
        "llm_providers": simulated(simulator.url),
        "server": {"max_body_mb": 1, "admin_api_key": "admin-key-of-the-tests"},
        "model_aliases": {"fast": "claude:claude-sim"},
        "policy": {"retry": {"timeout": "1s", "interval": "10ms"}, "timeouts": {"connect": "1s", "first_byte": "1s", "idle": "500ms", "total": "5s"}},
    }
    configuration["llm_providers"].append({"id": "dead", "type": "custom", "base_url": "http://127.0.0.1:9", "models": ["dead-model"]})
    with serve(tmp_path_factory.mktemp("http"), configuration) as handle:
        yield handle


def post(gateway: GatewayHandle, body: Any, path: str = "/v1/chat/completions", **options: Any) -> requests.Response:
    data = body if isinstance(body, bytes) else json.dumps(body)
    return requests.post(gateway.url + path, data=data, headers=options.pop("headers", gateway.headers), timeout=20, **options)


@pytest.mark.parametrize(
    ("body", "status", "param", "says"),
    [
        (b"", 400, None, "not valid JSON"),
        (b'{"model": ', 400, None, "not valid JSON"),
        (b"[]", 400, None, "must be a JSON object"),
        (b"\xff\xfe", 400, None, "not valid JSON"),
        (b'{"model": "' + b"\xff" * 100_000 + b'"}', 400, None, "not valid JSON"),
        (b"[" * 100_000, 400, None, "not valid JSON"),
        ({"messages": SAY}, 400, "model", "missing"),
        ({"model": 5, "messages": SAY}, 400, "model", "text"),
        ({"model": "gpt-sim"}, 400, "messages", "missing"),
        ({"model": "gpt-sim", "messages": []}, 400, "messages", "empty"),
        ({"model": "gpt-sim", "messages": ["x"]}, 400, "messages[0]", "object"),
        ({"model": "gpt-sim", "messages": SAY, "temperature": 9}, 400, "temperature", "0 to 2"),
        ({"model": "gpt-sim", "messages": SAY, "max_tokens": -1}, 400, "max_tokens", "from 1"),
        ({"model": "gpt-sim", "messages": SAY, "stream": "yes"}, 400, "stream", "true or false"),
        ({"model": "gpt-sim", "messages": SAY, "tools": [{"type": "function"}]}, 400, "tools[0].function.name", "missing"),
        ({"model": "nothing-like-this", "messages": SAY}, 404, "model", "not served"),
        ({"model": "openai:", "messages": SAY}, 404, "model", "not served"),
        ({"model": "x" * 5000, "messages": SAY}, 404, "model", "at most"),
    ],
)
def test_bad_requests(gateway: GatewayHandle, body: Any, status: int, param: str | None, says: str) -> None:
    reply = post(gateway, body)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["param"] == param
    assert says in error["message"]
    assert reply.headers["x-request-id"].startswith("req_")


def test_a_body_that_is_too_large(gateway: GatewayHandle) -> None:
    big = {"model": "gpt-sim", "messages": [{"role": "user", "content": "x" * 1_100_000}]}
    assert post(gateway, big).status_code == 413

    def chunked() -> Iterator[bytes]:
        yield json.dumps(big).encode()

    reply = requests.post(f"{gateway.url}/v1/chat/completions", data=chunked(), headers=gateway.headers, timeout=20)
    assert reply.status_code == 413
    assert "max_body_mb" in reply.json()["error"]["message"]


def test_addresses_and_methods(gateway: GatewayHandle) -> None:
    reply = requests.get(f"{gateway.url}/v1/chat/completions", headers=gateway.headers, timeout=5)
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
    assert reply.json()["error"]["code"] == "method_not_allowed"
    assert requests.get(f"{gateway.url}/nowhere", timeout=5).json()["error"]["code"] == "unknown_url"
    assert post(gateway, {"model": "fast", "messages": SAY}, "/api/v1/chat/completions").headers["x-coollm-provider"] == "claude"
    assert requests.get(f"{gateway.url}/api/v1/models", headers=gateway.headers, timeout=5).status_code == 200


def test_keys(gateway: GatewayHandle) -> None:
    body = {"model": "gpt-sim", "messages": SAY}
    missing = post(gateway, body, headers={})
    assert (missing.status_code, missing.json()["error"]["code"], missing.headers["www-authenticate"]) == (401, "missing_api_key", "Bearer")
    for headers in ({"x-api-key": gateway.client_key}, {"api-key": gateway.client_key}, {"authorization": f"bearer {gateway.client_key}"}):
        assert post(gateway, body, headers=headers).status_code == 200
    for key in ("", "x", "' OR 1=1 --", "*)(uid=*", "ž" * 10, "k" * 7000, gateway.client_key[:-1], gateway.client_key + "x"):
        headers = {"authorization": f"Bearer {key}".encode()}
        assert post(gateway, body, headers=headers).status_code in (400, 401), key


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("gpt-sim~status=500", 502, "provider_failed"),
        ("gpt-sim~status=503", 503, "provider_failed"),
        ("claude-sim~status=529", 503, "provider_failed"),
        ("gemini-sim~status=504", 504, "provider_timeout"),
        ("claude-sim~latency_ms=3000", 504, "provider_timeout"),
        ("gpt-sim~malformed_after=0", 502, "provider_failed"),
        ("gemini-sim~cut_after=5", 502, "provider_failed"),
        ("dead-model", 503, "provider_failed"),
        ("openai:gpt-sim~status=400", 400, None),
        ("claude:claude-sim~status=404", 404, "model_not_found"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_failures_of_a_vendor(
    simulator: SimulatorHandle, tmp_path_factory: pytest.TempPathFactory, gateway: GatewayHandle, model: str, status: int, code: str | None, stream: bool
) -> None:
    for provider in ("openai", "claude", "gemini", "dead"):
        warm(gateway, provider)
    reply = gateway.chat(model, stream=stream)
    if stream and "cut" in model:
        assert (reply.status_code, "stream_interrupted" in reply.text) == (200, True), "after content it is an error inside the stream"
        return
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code)
    line = gateway.logged(reply.headers["x-request-id"])
    assert line["status"] == status
    assert line["attempts"]


def warm(gateway: GatewayHandle, provider: str) -> None:
    """Ends what an earlier test did to the provider's keys."""
    import sqlite3

    with sqlite3.connect(gateway.home / "state" / "runtime.sqlite", timeout=5) as store:
        store.execute("DELETE FROM cooldowns WHERE key LIKE ?", (f"{provider}/%",))


def test_health_and_readiness(gateway: GatewayHandle) -> None:
    warm(gateway, "%")
    health = requests.get(f"{gateway.url}/health", timeout=5)
    assert (health.status_code, health.json()["status"]) == (200, "ok")
    assert requests.get(f"{gateway.url}/ready", timeout=5).json() == {"ready": True, "reasons": []}


def test_metrics_are_those_of_all_workers(gateway: GatewayHandle) -> None:
    def served() -> float:
        text = requests.get(f"{gateway.url}/metrics", timeout=5).text
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith('coo_llm_client_requests_total{client="app"}'))

    time.sleep(1.2)  # what came before is written by then
    before = served()
    for _ in range(20):
        assert post(gateway, {"model": "gpt-sim", "messages": SAY}, headers={**gateway.headers, "connection": "close"}).status_code == 200
    wait_for(lambda: {served() for _ in range(6)} == {before + 20}, 5, "the sum of all workers")
    text = requests.get(f"{gateway.url}/metrics", timeout=5).text
    for name in ("coo_llm_requests_total", "coo_llm_tokens_total", "coo_llm_cost_total", "coo_llm_latency_seconds_bucket", "coo_llm_overhead_seconds_count"):
        assert f"\n{name}" in text
    for name in ("coo_llm_store_up", "coo_llm_key_health{", "coo_llm_build_info{", "flask_http_request"):
        assert f"\n{name}" in text
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    assert requests.get(f"{gateway.url}/metrics", headers=accept, timeout=5).text.endswith("# EOF\n")


@pytest.mark.parametrize("path", ["/admin/v1/status", "/admin/v1/health", "/admin/v1/providers"])
def test_the_admin_api_wants_the_admin_key(gateway: GatewayHandle, path: str) -> None:
    assert requests.get(gateway.url + path, timeout=5).status_code == 401
    assert requests.get(gateway.url + path, headers=gateway.headers, timeout=5).status_code == 403
    assert requests.get(gateway.url + path, headers={"authorization": "Bearer admin-key-of-the-tests"}, timeout=5).status_code == 200
    assert requests.get(f"{gateway.url}/v1/models", headers={"authorization": "Bearer admin-key-of-the-tests"}, timeout=5).status_code == 401


def test_refused_requests_are_logged_too(gateway: GatewayHandle) -> None:
    reply = post(gateway, {"model": "gpt-sim", "messages": SAY}, headers={"authorization": "Bearer nobody"})
    line = gateway.logged(reply.headers["x-request-id"])
    assert (line["client"], line["status"], line["error"], line["ending"]) == ("unknown", 401, "invalid_api_key", "refused")


def test_keep_alive_and_pipelined_requests(gateway: GatewayHandle) -> None:
    body = json.dumps({"model": "gpt-sim", "messages": SAY}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.client_key}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as connection:
        connection.sendall((head + body) * 2)
        received = b""
        while received.count(b'"object":"chat.completion"') < 2:
            received += connection.recv(65536)
    assert received.count(b"HTTP/1.1 200 OK") == 2
