"""Vendor keys under load: added, rotated, retired; one that does not work, or does not hold what its probe promised; killed at every step. No request fails."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from coollm.core.secrets import Secret
from tests.conftest import GatewayHandle, SimulatorHandle, serve, simulated, wait_for

KILL = Path(__file__).parent.parent / "host" / "kill"
OLD = "sk-vendor-openai-0001"


@pytest.fixture
def gateway(simulator: SimulatorHandle, tmp_path: Path) -> Iterator[GatewayHandle]:
    provider = {**simulated(simulator.url)[0], "api_keys": [OLD, "sk-vendor-openai-0009"]}
    with serve(tmp_path, {"llm_providers": [provider]}) as handle:
        yield handle


@contextmanager
def load(gateway: GatewayHandle) -> Iterator[list[int]]:
    """Clients that go on while the block runs: no answer but 200 is right."""
    statuses: list[int] = []
    stopped = threading.Event()

    def ask() -> None:
        with requests.Session() as session:
            while not stopped.wait(0.02):
                body = {"model": "gpt-sim", "messages": [{"role": "user", "content": "x"}]}
                statuses.append(session.post(f"{gateway.url}/v1/chat/completions", json=body, headers=gateway.headers, timeout=30).status_code)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}


def served(simulator: SimulatorHandle, key: str) -> int:
    return sum(row.get("key") == key[-12:] for row in simulator.seen())


def state(gateway: GatewayHandle) -> Any:
    path = gateway.home / "state" / "vendor-keys.json"
    return json.loads(path.read_text()) if path.exists() else {"keys": [], "retired": [], "held": []}


def test_a_rotation_under_load(gateway: GatewayHandle, simulator: SimulatorHandle) -> None:
    with load(gateway) as statuses:
        wait_for(lambda: len(statuses) > 50)
        command = ["keys", "rotate", "openai", Secret(OLD).fingerprint(), "--share", "20%", "--soak", "2s", "--quiet-for", "1s", "--yes", "--json"]
        done = gateway.coollm(*command, stdin="sk-vendor-openai-0002\n")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["retired"] == Secret(OLD).fingerprint()
        assert told["canary"]["new"]["attempts"] > 5
        assert told["canary"]["new"]["failures"] == 0
        part = told["canary"]["new"]["attempts"] / (told["canary"]["new"]["attempts"] + told["canary"]["others"]["attempts"])
        assert 0.05 < part < 0.45, part
        assert [row["client"] for row in told["last_used_by"]] == ["app"]
        retired, count = time.time(), len(statuses)
        wait_for(lambda: len(statuses) > count + 100)
        assert not [row for row in simulator.seen() if row.get("key") == OLD[-12:] and row.get("ended", 0) > retired], "a key that is retired is not used"
    listed = json.loads(gateway.coollm("keys", "list", "--json").stdout)
    assert {row["key"] for row in listed["keys"]} == {Secret("sk-vendor-openai-0002").fingerprint(), Secret("sk-vendor-openai-0009").fingerprint()}
    for file in gateway.home.rglob("*"):
        if file.is_file():
            assert b"sk-vendor-openai-0002" not in file.read_bytes(), file
    again = gateway.coollm("keys", "rotate", "openai", Secret("sk-vendor-openai-0009").fingerprint(), "--yes", stdin="sk-vendor-openai-0002\n")
    assert (again.returncode, "has the new key" in again.stderr) == (2, True)
    used = json.loads(gateway.coollm("keys", "list", "--json").stdout)["keys"]
    lines = [json.loads(line) for line in (gateway.home / "state" / "logs" / "usage.log").read_text().splitlines()]
    logged = Counter(line["key_id"] for line in lines)
    assert {row["key"]: row["requests_24h"] for row in used} == {row["key"]: logged[row["key"]] for row in used}
    assert all(row["requests_24h"] > 0 for row in used)
    refused = gateway.coollm("keys", "retire", "openai", Secret("sk-vendor-openai-0002").fingerprint(), "--quiet-for", "10m", "--yes")
    assert refused.returncode == 1
    assert "was used within the last 10m, by app (" in refused.stderr


def test_a_key_that_does_not_work_gets_its_probe_alone(gateway: GatewayHandle, simulator: SimulatorHandle) -> None:
    bad = "sk-revoked~status=401"
    with load(gateway):
        before = served(simulator, bad)
        done = gateway.coollm("keys", "add", "openai", "--soak", "1s", "--yes", stdin=bad)
        assert done.returncode == 7, done.stderr
        assert "does not work: key_rejected" in done.stderr
        assert served(simulator, bad) == before + 1
    assert state(gateway)["keys"] == []
    assert bad not in done.stdout + done.stderr


def test_a_key_that_fails_as_a_canary_is_taken_out(gateway: GatewayHandle) -> None:
    done: list[Any] = []
    with load(gateway) as statuses:
        # It answers its probe, and fails later: the vendor's quota is small.
        command = ["keys", "add", "openai", "--share", "50%", "--soak", "20s", "--yes"]
        done.append(gateway.coollm(*command, stdin="sk-small~status=500~good=3"))
        assert len(statuses) > 20
    assert done[0].returncode == 7, done[0].stderr
    assert "fails as a canary" in done[0].stderr
    assert state(gateway)["keys"] == []


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.soak)])
def test_it_is_gone_on_with_or_taken_back_wherever_it_was_killed(gateway: GatewayHandle, every: int) -> None:
    old = Secret(OLD).fingerprint()
    arguments = ["keys", "rotate", "openai", old, "--soak", "0", "--quiet-for", "0", "--yes"]
    aborted = finished = 0
    for turn, write in enumerate(range(2, 60, every)):
        environment = {**gateway.environment, "PYTHONPATH": str(KILL), "KILL_AT": str(write)}
        command = [sys.executable, "-m", "coollm_cli.main", *arguments]
        new = f"sk-vendor-openai-{write:04}x"
        done = subprocess.run(command, cwd=gateway.home, env=environment, input=new, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        if turn % 2:
            result = gateway.coollm("keys", "rotate", "--abort", "--yes")
            aborted += 1
            assert result.returncode == 0, result.stderr
            assert state(gateway) == {"keys": [], "retired": [], "held": []}
            assert gateway.chat("gpt-sim").status_code == 200
        else:
            result = gateway.coollm("keys", "rotate", "--resume", "--yes")
            finished += 1
            assert result.returncode == 0, result.stderr
            kept = state(gateway)
            assert [row["id"] for row in kept["retired"]] == [old]
            assert [row["state"] for row in kept["keys"]] == ["active"]
            assert gateway.chat("gpt-sim").status_code == 200
            (gateway.home / "state" / "vendor-keys.json").write_text("{}")
            wait_for(lambda: len(json.loads(gateway.coollm("keys", "list", "--json").stdout)["keys"]) == 2, 5)
    assert aborted >= 12 // every - 1
    assert finished >= 12 // every - 1
    assert gateway.coollm("keys", "rotate", "--resume").returncode == 1
