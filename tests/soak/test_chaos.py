"""Chaos under load: killed workers, a Redis that restarts, forgets or dawdles, a full disk, an instance that is cut off.

No request may hang; afterwards the ledger has every request that was answered, once, and the counters of budgets are what it says. Some seconds of each run in
`scripts/test`; `scripts/soak` runs each for five minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import GatewayHandle, SimulatorHandle, clean_environment, free_port, redis_server, running, serve, simulated, wait_for
from tests.soak.chaos import Load, Namespace, Proxy, may_make_namespaces, small_disk

SHORT, LONG = 6, 300
PERSISTENT = ("--appendonly", "yes", "--appendfsync", "always")

# A dead worker is noticed in 16 s, looked for each 5 s.
SETTLED_SECONDS = 45

DURATIONS = [pytest.param(SHORT, id="short"), pytest.param(LONG, id="long", marks=[pytest.mark.soak, pytest.mark.timeout(900)])]


def configuration(simulator_url: str, runtime: dict[str, Any], ledger: Path) -> dict[str, Any]:
    limits = {"budget_usd": 1000, "budget_period": "total", "concurrent": 500, "req_per_min": 1_000_000}
    return {
        "llm_providers": simulated(simulator_url),
        "api_keys": [{"id": "app", "key": "client-key-of-the-tests", "limits": limits}],
        "policy": {"timeouts": {"total": "8s"}, "retry": {"timeout": "5s"}},
        "storage": {"runtime": runtime, "ledger": {"url": f"sqlite:///{ledger}"}},
    }


def prove(gateways: list[GatewayHandle], load: Load) -> None:
    """Nothing hung, nothing was lost, and the counters are what the ledger says."""
    assert not load.hung
    assert load.answered
    for gateway in gateways:
        told = wait_for(lambda gateway=gateway: verdict(gateway, "usage"), SETTLED_SECONDS, "the ledger to agree with the usage log")
        assert told["ok"]
    wait_for(lambda: verdict(gateways[0], "budget"), SETTLED_SECONDS, f"the counters to agree: {verdict(gateways[0], 'budget', whole=True)}")
    exported = [json.loads(line)["request_id"] for line in gateways[0].coollm("usage", "export").stdout.splitlines()]
    assert len(exported) == len(set(exported)), "nothing is counted twice"
    missing = set(load.answered) - set(exported)
    assert not missing, f"{len(missing)} of {len(load.answered)} answered requests are not in the ledger"


def verdict(gateway: GatewayHandle, what: str, *, whole: bool = False) -> Any:
    answer = gateway.coollm(what, "verify", "--json")
    told = json.loads(answer.stdout) if answer.stdout else {"ok": False, "said": answer.stderr}
    return told if told["ok"] or whole else None


@contextlib.contextmanager
def two_gateways(simulator_url: str, home: Path, runtime: dict[str, Any]) -> Iterator[list[GatewayHandle]]:
    with contextlib.ExitStack() as stack:
        found = []
        for number in range(2):
            (home / str(number)).mkdir()
            found.append(stack.enter_context(serve(home / str(number), configuration(simulator_url, runtime, home / "ledger.sqlite"), workers=2)))
        yield found


@pytest.mark.parametrize("seconds", DURATIONS)
@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_workers_are_killed(simulator: SimulatorHandle, tmp_path: Path, kind: str, seconds: int) -> None:
    with contextlib.ExitStack() as stack:
        runtime: dict[str, Any] = {"type": kind}
        if kind == "redis":
            port = free_port()
            stack.enter_context(redis_server(tmp_path, port))
            runtime["addr"] = f"127.0.0.1:{port}"
        gateway = stack.enter_context(serve(tmp_path, configuration(simulator.url, runtime, tmp_path / "ledger.sqlite"), workers=3))
        with Load([gateway]) as load:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                time.sleep(1.5)
                with contextlib.suppress(ProcessLookupError, IndexError):
                    os.kill(random.choice(gateway.workers()), signal.SIGKILL)
        prove([gateway], load)


@pytest.mark.parametrize("seconds", DURATIONS)
def test_redis_restarts(simulator: SimulatorHandle, tmp_path: Path, seconds: int) -> None:
    port = free_port()
    runtime = {"type": "redis", "addr": f"127.0.0.1:{port}"}
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redis_server(tmp_path, port, *PERSISTENT))
        gateways = stack.enter_context(two_gateways(simulator.url, tmp_path, runtime))
        with Load(gateways) as load:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                time.sleep(2)
                redis.send_signal(random.choice([signal.SIGKILL, signal.SIGTERM]))
                redis.wait()
                time.sleep(random.random())
                redis = stack.enter_context(redis_server(tmp_path, port, *PERSISTENT))
            wait_for(lambda: all(requests.get(f"{one.url}/ready", timeout=9).status_code == 200 for one in gateways), 15, "the store to be used again")
            before = len(load.answered)
            wait_for(lambda: len(load.answered) > before + 20, 10, "answers")
        prove(gateways, load)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_redis_forgets(simulator: SimulatorHandle, tmp_path: Path) -> None:
    """A Redis without persistence loses every counter: nothing is admitted for a minute, and budgets are counted again from the ledger."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redis_server(tmp_path, port))
        gateways = stack.enter_context(two_gateways(simulator.url, tmp_path, {"type": "redis", "addr": f"127.0.0.1:{port}"}))
        with Load(gateways) as load:
            time.sleep(10)
            redis.kill()
            redis.wait()
            stack.enter_context(redis_server(tmp_path, port))
            time.sleep(3)
            before = len(load.answered)
            time.sleep(20)
            assert len(load.answered) == before, "what was admitted in the last minute is not known"
            wait_for(lambda: len(load.answered) > before + 100, 70, "answers")
        prove(gateways, load)


@pytest.mark.parametrize("seconds", DURATIONS)
def test_redis_answers_in_half_a_second(simulator: SimulatorHandle, tmp_path: Path, seconds: int) -> None:
    port = free_port()
    with contextlib.ExitStack() as stack:
        stack.enter_context(redis_server(tmp_path, port))
        proxy = Proxy(port)
        stack.callback(proxy.close)
        gateways = stack.enter_context(two_gateways(simulator.url, tmp_path, {"type": "redis", "addr": f"127.0.0.1:{proxy.port}"}))
        with Load(gateways) as load:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                time.sleep(1)
                proxy.delay = 0.25  # each way
                wait_for(lambda: any(requests.get(f"{one.url}/ready", timeout=9).status_code == 503 for one in gateways), 10, "a breaker on latency")
                proxy.delay = 0.0
                wait_for(lambda: all(requests.get(f"{one.url}/ready", timeout=9).status_code == 200 for one in gateways), 15, "it is used again")
        prove(gateways, load)


def fill(file: Path) -> None:
    """Takes all the room that there is."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as filler:
        while True:
            filler.write(b"x" * 65536)


@pytest.mark.parametrize("seconds", DURATIONS)
def test_the_disk_of_the_usage_log_is_full(simulator: SimulatorHandle, tmp_path: Path, seconds: int) -> None:
    if not may_make_namespaces():
        pytest.skip("a small disk is made by root alone")
    logs = tmp_path / "state" / "logs"
    (tmp_path / "state").mkdir()
    with small_disk(logs, 100_000):
        settings = configuration(simulator.url, {"type": "sqlite"}, tmp_path / "ledger.sqlite")
        settings["logging"] = {"file": str(tmp_path / "app.log")}
        with serve(tmp_path, settings, workers=2) as gateway:
            with Load([gateway], clients=6) as load:
                until = time.monotonic() + seconds
                while time.monotonic() < until:
                    time.sleep(1)
                    fill(logs / "filler")
                    wait_for(lambda: requests.get(f"{gateway.url}/health", timeout=9).json()["status"] == "degraded", 10, "it to be noticed")
                    before = len(load.answered)
                    wait_for(lambda before=before: len(load.answered) > before + 20, 10, "requests to go on")
                    (logs / "filler").unlink()
                    wait_for(lambda: requests.get(f"{gateway.url}/health", timeout=9).json()["status"] == "ok", 15, "the lines to be written")
            prove([gateway], load)


@pytest.mark.parametrize("seconds", DURATIONS)
@pytest.mark.parametrize("rule", ["deny", "local"])
def test_an_instance_is_cut_off_from_redis(tmp_path: Path, rule: str, seconds: int) -> None:
    """It is in a network namespace; its cable to Redis is cut, that to clients and vendors is not."""
    if not may_make_namespaces():
        pytest.skip("network namespaces are made by root alone, with iproute2")
    number = 100 + os.getpid() % 100
    with contextlib.ExitStack() as stack:
        space = stack.enter_context(Namespace(f"coollm-chaos-{os.getpid()}", number))
        port = free_port()
        server = stack.enter_context(redis_server(tmp_path, port, "--bind", f"127.0.0.1 {space.redis_outside}", "--protected-mode", "no"))
        assert server.poll() is None
        words = tmp_path / "simulator.txt"
        command = [sys.executable, "-m", "coollm_cli.main", "simulate", "--listen", f"{space.outside}:0"]
        stack.enter_context(running(command, words, clean_environment()))
        wait_for(lambda: " on " in words.read_text(), what="the simulator")
        simulator_url = words.read_text().partition(" on ")[2].strip()
        runtime = {"type": "redis", "addr": f"{space.redis_outside}:{port}", "on_failure": rule, "local_share": 0.5}
        gateways = []
        for name, inside in (("near", False), ("far", True)):
            (tmp_path / name).mkdir()
            settings = configuration(simulator_url, runtime, tmp_path / "ledger.sqlite")
            if rule == "local":
                del settings["api_keys"][0]["limits"]["budget_usd"]  # a budget is not spent without the store
                del settings["api_keys"][0]["limits"]["budget_period"]
            made = serve(tmp_path / name, settings, workers=2, host=space.inside if inside else "127.0.0.1", wrap=space.command if inside else None)
            gateways.append(stack.enter_context(made))
        with Load(gateways) as load:
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                time.sleep(1)
                space.cut(is_cut=True)
                time.sleep(6)
                assert requests.get(f"{gateways[0].url}/ready", timeout=9).status_code == 200, "the other goes on"
                answer = gateways[1].chat("gpt-sim", max_tokens=5).status_code
                assert answer == (200 if rule == "local" else 503)
                space.cut(is_cut=False)
                wait_for(lambda: all(requests.get(f"{one.url}/ready", timeout=9).status_code == 200 for one in gateways), 20, "it to be used again")
        prove(gateways, load)


def test_nothing_of_it_is_left() -> None:
    """Namespaces are gone when their run is."""
    if not may_make_namespaces():
        pytest.skip("network namespaces are made by root alone, with iproute2")
    assert f"coollm-chaos-{os.getpid()}" not in subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout
