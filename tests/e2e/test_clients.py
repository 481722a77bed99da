"""Clients and administrators that are made while the gateway runs: shown once, changed, rotated with evidence, revoked within a second; killed in between."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import GatewayHandle, SimulatorHandle, serve, simulated, wait_for

KILL = Path(__file__).parent.parent / "host" / "kill"
ADMIN_KEY = "the-admin-key-of-the-tests-0123456789"


@pytest.fixture(scope="module")
def gateway(simulator: SimulatorHandle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHandle]:
    configuration = {
        "llm_providers": simulated(simulator.url)[:2],
        "server": {"admin_api_key": ADMIN_KEY, "admin_requests_per_minute": 10_000},
        "teams": [{"id": "search"}],
    }
    with serve(tmp_path_factory.mktemp("clients"), configuration) as handle:
        yield handle


def chat(gateway: GatewayHandle, key: str, model: str = "gpt-sim") -> requests.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "x"}]}
    return requests.post(f"{gateway.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}, timeout=30)


def statuses(gateway: GatewayHandle, key: str, times: int = 12) -> set[int]:
    """Each request is on a connection of its own, so that both workers are asked."""
    return {chat(gateway, key).status_code for _ in range(times)}


def done(gateway: GatewayHandle, *arguments: str) -> Any:
    result = gateway.coollm(*arguments, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_client_from_its_making_to_its_end(gateway: GatewayHandle) -> None:
    made = done(gateway, "clients", "create", "web", "--model", "gpt-*", "--req-per-min", "1000", "--team", "search", "--yes")
    key = made["key"]
    assert made["id"] == "web"
    assert key.startswith(made["prefix"])
    time.sleep(1)
    assert statuses(gateway, key) == {200}
    assert chat(gateway, key, "claude-sim").status_code == 403
    for file in gateway.home.rglob("*"):
        if file.is_file():
            assert key.encode() not in file.read_bytes(), file

    listed = {row["id"]: row for row in done(gateway, "clients", "list")["clients"]}
    assert listed["app"]["source"] == "configuration"
    assert listed["web"]["limits"]["req_per_min"] == 1000
    assert gateway.coollm("clients", "create", "web").returncode == 1
    assert "is of the configuration" in gateway.coollm("clients", "revoke", "app").stderr

    done(gateway, "clients", "update", "web", "--model", "claude-*", "--yes")
    assert wait_for(lambda: chat(gateway, key, "claude-sim").status_code == 200, 2)
    wait_for(lambda: statuses(gateway, key, 4) == {403}, 2)
    done(gateway, "undo", "--yes")
    wait_for(lambda: statuses(gateway, key, 4) == {200}, 2)

    done(gateway, "clients", "revoke", "web", "--yes")
    time.sleep(1.0)
    assert statuses(gateway, key) == {401}
    done(gateway, "clients", "revoke", "web", "--undo", "--yes")
    time.sleep(1.0)
    assert statuses(gateway, key) == {200}
    assert gateway.coollm("clients", "delete", "web").returncode == 1, "nobody can be asked"
    done(gateway, "clients", "delete", "web", "--yes")
    time.sleep(1.0)
    assert statuses(gateway, key) == {401}


def test_both_keys_work_while_they_overlap_and_who_uses_the_old_one_is_known(gateway: GatewayHandle) -> None:
    failed: list[int] = []
    first = done(gateway, "clients", "create", "mobile", "--yes")
    keys = [first["key"]]
    time.sleep(1.0)
    stopped = threading.Event()

    def load() -> None:
        with requests.Session() as session:
            while not stopped.wait(0.02):
                body = {"model": "gpt-sim", "messages": [{"role": "user", "content": "x"}]}
                reply = session.post(f"{gateway.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {keys[-1]}"}, timeout=30)
                if reply.status_code != 200:
                    failed.append(reply.status_code)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        second = done(gateway, "clients", "rotate", "mobile", "--overlap", "1h", "--yes")
        time.sleep(1.0)
        keys.append(second["key"])
        assert statuses(gateway, first["key"]) == {200}
    finally:
        time.sleep(0.3)
        stopped.set()
        for thread in threads:
            thread.join()
    assert failed == []

    def used() -> Any:
        rows = done(gateway, "clients", "show", "mobile")["keys"]
        return rows if all(row["requests"] for row in rows) else None

    old, new = wait_for(used, 10)
    assert (old["prefix"], new["prefix"]) == (first["prefix"], second["prefix"])
    assert old["expires_ms"] > time.time() * 1000 + 3_000_000
    assert new["expires_ms"] is None
    done(gateway, "clients", "rotate", "mobile", "--overlap", "0", "--yes")
    time.sleep(1.0)
    assert statuses(gateway, first["key"], 4) == statuses(gateway, second["key"], 4) == {401}


def test_an_address_and_a_time(gateway: GatewayHandle) -> None:
    made = done(gateway, "clients", "create", "far", "--from", "192.0.2.0/24", "--yes")
    time.sleep(1.0)
    reply = chat(gateway, made["key"])
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "address_not_allowed")
    done(gateway, "clients", "update", "far", "--from", "127.0.0.0/8", "--yes")
    wait_for(lambda: statuses(gateway, made["key"], 4) == {200}, 3)
    done(gateway, "clients", "update", "far", "--expires", "2020-01-01", "--yes")
    wait_for(lambda: statuses(gateway, made["key"], 4) == {401}, 3)


def test_a_command_that_was_killed_is_finished_and_leaves_one_key(gateway: GatewayHandle) -> None:
    for action, arguments in (("create", ["clients", "create", "killed"]), ("rotate", ["clients", "rotate", "killed", "--overlap", "0"])):
        for write in range(1, 20):
            if action == "create":
                gateway.coollm("clients", "delete", "killed", "--yes")
            environment = {**gateway.environment, "PYTHONPATH": str(KILL), "KILL_AT": str(write)}
            command = [sys.executable, "-m", "coollm_cli.main", *arguments, "--yes"]
            result = subprocess.run(command, cwd=gateway.home, env=environment, capture_output=True, text=True, check=False, timeout=60)
            if result.returncode == 0:
                break
            assert result.returncode == -signal.SIGKILL, result.stderr
            again = gateway.coollm(*arguments, "--yes", "--json")
            assert again.returncode == 0, again.stderr
            key = json.loads(again.stdout)["key"]
            wait_for(lambda key=key: statuses(gateway, key, 3) == {200}, 3)
            assert len(done(gateway, "clients", "show", "killed")["keys"]) == 1
        assert 2 < write < 19


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "id"),
        ({"id": "../etc"}, "id"),
        ({"id": "x", "allowed_providers": ["opnai"]}, "allowed_providers"),
        ({"id": "x", "team": "nobody"}, "team"),
        ({"id": "x", "allowed_addresses": ["300.1.1.1"]}, "allowed_addresses"),
        ({"id": "x", "limits": {"req_per_min": -1}}, None),
        ({"id": "x", "colour": "red"}, None),
        ({"id": "x", "expires_at": "soon"}, None),
        ({"id": "x", "expires_at": "2027-01-01T00:00:00"}, "expires_at"),
        ({"id": "app"}, "id"),
    ],
)
def test_what_is_wrong_with_a_client_is_said(gateway: GatewayHandle, body: dict[str, Any], param: str | None) -> None:
    reply = requests.post(f"{gateway.url}/admin/v1/clients", json=body, headers={"authorization": f"Bearer {ADMIN_KEY}"}, timeout=10)
    assert reply.status_code in (400, 409), reply.text
    if param:
        assert reply.json()["error"]["param"] == param


def test_what_is_read_of_a_client_can_be_given_back(gateway: GatewayHandle) -> None:
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}
    assert requests.post(f"{gateway.url}/admin/v1/clients", json={"id": "round"}, headers=headers, timeout=10).status_code == 201
    url = f"{gateway.url}/admin/v1/clients/round"
    read = requests.get(url, headers=headers, timeout=10).json()
    again = requests.put(url, json={**read, "description": "given back"}, headers=headers, timeout=10)
    assert (again.status_code, again.json()) == (200, {**read, "description": "given back"})


def test_of_many_who_make_the_same_client_one_does(gateway: GatewayHandle) -> None:
    def make(_: int) -> int:
        return requests.post(f"{gateway.url}/admin/v1/clients", json={"id": "same"}, headers={"authorization": f"Bearer {ADMIN_KEY}"}, timeout=30).status_code

    with ThreadPoolExecutor(12) as pool:
        assert sorted(pool.map(make, range(12))) == [201] + [409] * 11
    assert len(done(gateway, "clients", "show", "same")["keys"]) == 1


def test_administrators(gateway: GatewayHandle) -> None:
    made = done(gateway, "admins", "create", "ann", "--role", "operator", "--yes")

    def status(key: str) -> int:
        return requests.get(f"{gateway.url}/admin/v1/whoami", headers={"authorization": f"Bearer {key}"}, timeout=10).status_code

    time.sleep(1.0)
    assert status(made["key"]) == 200
    second = done(gateway, "admins", "rotate", "ann", "--overlap", "1h", "--yes")
    time.sleep(1.0)
    assert status(made["key"]) == status(second["key"]) == 200
    done(gateway, "admins", "revoke", "ann", "--yes")
    time.sleep(1.0)
    assert status(made["key"]) == status(second["key"]) == 401
    assert next(row for row in done(gateway, "admins", "list")["admins"] if row["id"] == "ann")["revoked"]


def test_the_configuration_comes_and_goes_as_it_is(gateway: GatewayHandle) -> None:
    url, headers = f"{gateway.url}/admin/v1/config", {"authorization": f"Bearer {ADMIN_KEY}"}
    before = requests.get(url, headers=headers, timeout=10)
    assert before.headers["content-type"].startswith("application/yaml")
    for secret in ("sk-vendor-openai-0001", ADMIN_KEY, "client-key-of-the-tests"):
        assert secret not in before.text
    again = requests.post(url, data=before.text, headers=headers, timeout=10)
    assert again.json()["changed"] is False, again.text
    as_json = requests.get(url, headers={**headers, "accept": "application/json"}, timeout=10).json()
    as_json["policy"] = {"algorithm": "cost"}
    changed = requests.put(url, json=as_json, headers=headers, timeout=10)
    assert changed.json()["changed"] is True, changed.text
    assert wait_for(lambda: requests.get(f"{url}/policy", headers=headers, timeout=10).json()["algorithm"] == "cost", 3)
    time.sleep(1.0)
    assert statuses(gateway, gateway.client_key) == {200}
    bad = requests.post(url, data="llm_providers: [{id: x, type: opnai}]", headers=headers, timeout=10)
    assert bad.status_code == 400
    assert bad.json()["errors"][0]["line"] == 1
    assert requests.post(url, data=b"\xff\xfe", headers=headers, timeout=10).status_code == 400
    policy = requests.put(f"{url}/policy", json={"algorithm": "latency"}, headers=headers, timeout=10)
    assert policy.json()["changed"] is True, policy.text
    assert requests.put(f"{url}/policy", json={"algoritm": "latency"}, headers=headers, timeout=10).status_code == 400
    assert requests.post(f"{gateway.url}/admin/v1/reload", headers=headers, timeout=10).json()["changed"] is True
    wait_for(lambda: requests.get(f"{url}/policy", headers=headers, timeout=10).json()["algorithm"] == "hybrid", 3)


def test_figures_keys_and_logs(gateway: GatewayHandle) -> None:
    headers = {"authorization": f"Bearer {ADMIN_KEY}"}

    def get(path: str) -> Any:
        reply = requests.get(f"{gateway.url}/admin/v1{path}", headers=headers, timeout=10)
        assert reply.status_code == 200, reply.text
        return reply.json()

    assert statuses(gateway, gateway.client_key) == {200}
    wait_for(lambda: get("/metrics/clients/app")["total"]["requests"] >= 12, 10)
    assert get("/metrics?name=latency")["total"]["latency_ms"] >= 0
    assert get("/metrics?name=tokens&by=client")["total"]["output_tokens"] > 0
    assert get("/metrics?name=cost&by=provider")["total"]["cost_usd"] > 0
    assert get("/metrics/providers/openai")["total"]["requests"] >= get("/metrics/clients/app")["total"]["requests"]
    key = get("/keys")["keys"][0]
    assert key["state"] == "usable"
    wait_for(lambda: get(f"/keys/openai/{key['key']}/users?seconds=100")["users"], 5)
    assert get("/logs?limit=5")["lines"]
    assert get("/audit?limit=5")["entries"]
    assert requests.get(f"{gateway.url}/admin/v1/metrics?name=colour", headers=headers, timeout=10).status_code == 400


def test_the_audit_log_tells_it_all_and_fails_closed(gateway: GatewayHandle) -> None:
    assert gateway.coollm("audit", "verify").returncode == 0
    found = done(gateway, "audit", "search", "--action", "admin_client_change")["entries"]
    assert any(entry.get("changed", {}).get("client") == "web" for entry in found)
    assert {"begins", "done"} <= {entry["state"] for entry in found}
    log = gateway.home / "state" / "logs" / "audit.log"
    kept = log.with_name("kept")
    log.rename(kept)
    log.mkdir()  # nobody can write it now
    try:
        headers = {"authorization": f"Bearer {ADMIN_KEY}"}
        reply = requests.post(f"{gateway.url}/admin/v1/clients", json={"id": "unseen"}, headers=headers, timeout=10)
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "audit_unavailable")
        assert statuses(gateway, gateway.client_key) == {200}
        health = wait_for(lambda: next((one for one in health_of(gateway) if one["name"] == "audit" and one["status"] == "degraded"), None), 5)
        assert "no administrator can change anything" in health["detail"]
    finally:
        log.rmdir()
        kept.rename(log)
    assert "unseen" not in {row["id"] for row in done(gateway, "clients", "list")["clients"]}
    assert gateway.coollm("audit", "verify").returncode == 0


def health_of(gateway: GatewayHandle) -> Any:
    return requests.get(f"{gateway.url}/health", timeout=5).json()["checks"]
