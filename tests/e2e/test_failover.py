"""Keys and providers that fail, and workers that die: requests do not."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import GatewayHandle, SimulatorHandle, serve, wait_for


def openai_provider(simulator: SimulatorHandle, name: str, *keys: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "type": "openai", "base_url": f"{simulator.url}/v1", "api_keys": list(keys), "models": ["gpt-*"], "model": "gpt-sim", **more}


@pytest.mark.parametrize("algorithm", ["hybrid", "round_robin"])
def test_a_thousand_requests_over_a_limited_a_failing_and_a_good_key(simulator: SimulatorHandle, tmp_path: Path, algorithm: str) -> None:
    keys = ("sk-limited-0001~status=429~retry_after=2", "sk-failing-0001~status=500", "sk-good-0001")
    configuration = {"llm_providers": [openai_provider(simulator, "openai", *keys)], "policy": {"algorithm": algorithm}}
    with serve(tmp_path, configuration) as gateway, ThreadPoolExecutor(20) as pool:
        replies = list(pool.map(lambda number: gateway.chat("gpt-sim", f"request {number}", stream=number % 2 == 0), range(1000)))
        assert Counter(reply.status_code for reply in replies) == {200: 1000}
        assert all(reply.text.endswith("[DONE]\n\n") for number, reply in enumerate(replies) if number % 2 == 0)
        lines = wait_for(lambda: (found := gateway.requests_logged()) and len(found) >= 1000 and found, 10, "the log")
        reasons = Counter((attempt["outcome"], attempt["status"]) for line in lines for attempt in line["attempts"])
        assert reasons["answered", 0] == 1000
        assert reasons["rate_limited", 429] >= 1
        assert reasons["vendor_error", 500] >= 1
        moved_on = [line for line in lines if len(line["attempts"]) > 1]
        assert all(attempt["reason"] for line in moved_on for attempt in line["attempts"][:-1]), "each attempt says why it moved on"
        assert all(line["attempts"][-1]["outcome"] == "answered" for line in lines)


def test_another_provider_serves_when_one_is_down(simulator: SimulatorHandle, tmp_path: Path) -> None:
    configuration = {
        "llm_providers": [
            {"id": "dead", "type": "custom", "base_url": "http://127.0.0.1:9/v1", "models": ["gpt-*"]},
            openai_provider(simulator, "alive", "sk-good-0002"),
        ],
        "policy": {"algorithm": "round_robin", "retry": {"interval": "10ms"}},
    }
    with serve(tmp_path, configuration) as gateway:
        replies = [gateway.chat("gpt-sim", stream=number % 2 == 0) for number in range(12)]
        assert {(reply.status_code, reply.headers["x-coollm-provider"]) for reply in replies} == {(200, "alive")}


def test_a_stand_in_serves_with_its_own_model(simulator: SimulatorHandle, tmp_path: Path) -> None:
    claude = {"id": "claude", "type": "claude", "base_url": simulator.url, "api_keys": ["sk-ant-stand-in"], "model": "claude-sim"}
    failing = openai_provider(simulator, "openai", "sk-failing-0003~status=500", limits={"max_tokens": 50})
    policy: dict[str, Any] = {"fallback": {"providers": ["claude"]}, "retry": {"interval": "10ms", "timeout": "2s"}}
    with serve(tmp_path, {"llm_providers": [failing, claude], "policy": policy}) as gateway:
        reply = gateway.chat("gpt-sim")
        assert (reply.status_code, reply.headers["x-coollm-provider"], reply.json()["model"]) == (200, "claude", "claude-sim")
        outcomes = [attempt["outcome"] for attempt in gateway.logged(reply.headers["x-request-id"])["attempts"]]
        assert outcomes[-1] == "answered"
        assert "vendor_error" in outcomes
        assert gateway.chat("openai:gpt-sim", max_tokens=60).headers["x-coollm-provider"] == "claude", "a key that allows too few tokens is not asked"


def test_fallback_can_be_switched_off(simulator: SimulatorHandle, tmp_path: Path) -> None:
    providers = [openai_provider(simulator, "one", "sk-failing-0004~status=500"), openai_provider(simulator, "two", "sk-failing-0005~status=500")]
    policy: dict[str, Any] = {"fallback": {"enabled": False}, "retry": {"max_attempts": 2, "interval": "10ms", "timeout": "1s"}}
    with serve(tmp_path, {"llm_providers": providers, "policy": policy}, workers=1) as gateway:
        attempts = gateway.logged(gateway.chat("gpt-sim").headers["x-request-id"])["attempts"]
        assert len({attempt["provider"] for attempt in attempts}) == 1
        assert len(attempts) == 2


def test_retry_after_is_honoured(simulator: SimulatorHandle, tmp_path: Path) -> None:
    provider = openai_provider(simulator, "openai", "sk-limited-0006~status=429~retry_after=1")
    with serve(tmp_path, {"llm_providers": [provider], "policy": {"retry": {"max_attempts": 3, "timeout": "10s"}}}, workers=1) as gateway:
        started = time.monotonic()
        reply = gateway.chat("gpt-sim")
        took = time.monotonic() - started
        assert reply.status_code == 429
        assert 1.9 < took < 6, "three attempts, a second apart, as the vendor asked"
        outcomes = [attempt["outcome"] for attempt in gateway.logged(reply.headers["x-request-id"])["attempts"] if attempt["outcome"] != "skipped"]
        assert outcomes == ["rate_limited"] * 3


def test_a_long_retry_after_is_told_and_not_waited_for(simulator: SimulatorHandle, tmp_path: Path) -> None:
    provider = openai_provider(simulator, "openai", "sk-limited-0007~status=429~retry_after=500")
    with serve(tmp_path, {"llm_providers": [provider]}, workers=1) as gateway:
        started = time.monotonic()
        first, second = gateway.chat("gpt-sim"), gateway.chat("gpt-sim")
        assert time.monotonic() - started < 5
        assert (first.status_code, second.status_code) == (429, 429)
        assert 490 <= int(second.headers["retry-after"]) <= 500
        seen = [row for row in simulator.seen() if row.get("key", "").endswith("after=500")]
        assert len(seen) == 1, "a key that cools is not asked"


def test_an_open_breaker_refuses_at_once(simulator: SimulatorHandle, tmp_path: Path) -> None:
    provider = openai_provider(simulator, "openai", "sk-failing-0014~status=500")
    with serve(tmp_path, {"llm_providers": [provider], "policy": {"retry": {"interval": "10ms"}}}, workers=1) as gateway:
        assert gateway.chat("gpt-sim").status_code == 502
        started = time.monotonic()
        second = gateway.chat("gpt-sim")
        assert (second.status_code, second.json()["error"]["code"]) == (503, "no_usable_key")
        assert 1 <= int(second.headers["retry-after"]) <= 6
        assert time.monotonic() - started < 4
        wait_for(lambda: gateway.chat("gpt-sim").status_code == 502, 30, "the key to be tried again after its time")

        # A command may take longer than the key cools: then it is asked once more, and fails and cools again.
        def told(*command: str) -> Any:
            gateway.chat("gpt-sim")
            return gateway.coollm(*command)

        wait_for(lambda: told("health").returncode == 4, 30, "health to tell of it")
        wait_for(lambda: "cooling: vendor_error" in told("providers").stdout, 30, "the cooling key to be shown")


def test_limits_of_keys_are_shared_by_all_workers(simulator: SimulatorHandle, tmp_path: Path) -> None:
    provider = openai_provider(simulator, "openai", "sk-good-0008", "sk-good-0009", limits={"req_per_min": 20})
    with serve(tmp_path, {"llm_providers": [provider]}, workers=2) as gateway, ThreadPoolExecutor(10) as pool:
        statuses = Counter(reply.status_code for reply in pool.map(lambda _: gateway.chat("gpt-sim"), range(60)))
        assert statuses == {200: 40, 429: 20}


def test_limits_in_redis_are_shared_by_gateways(simulator: SimulatorHandle, tmp_path: Path, redis_url: str) -> None:
    storage = {"runtime": {"type": "redis", "addr": redis_url}}
    client = [{"id": "shared", "key": "client-key-shared-1", "limits": {"req_per_min": 30}}]
    configuration: dict[str, Any] = {"llm_providers": [openai_provider(simulator, "openai", "sk-good-0010")], "storage": storage, "api_keys": client}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with serve(tmp_path / "a", dict(configuration)) as first, serve(tmp_path / "b", dict(configuration)) as second, ThreadPoolExecutor(10) as pool:
        replies = list(pool.map(lambda number: (first if number % 2 else second).chat("gpt-sim"), range(60)))
        assert Counter(reply.status_code for reply in replies) == {200: 30, 429: 30}
        refused = next(reply for reply in replies if reply.status_code == 429)
        assert 1 <= int(refused.headers["retry-after"]) <= 61


def test_without_its_store_the_gateway_admits_nothing_and_says_so(simulator: SimulatorHandle, tmp_path: Path) -> None:
    configuration: dict[str, Any] = {
        "llm_providers": [openai_provider(simulator, "openai", "sk-good-0011")],
        "storage": {"runtime": {"type": "redis", "addr": "127.0.0.1:1"}},
    }
    with serve(tmp_path, configuration) as gateway:
        reply = gateway.chat("gpt-sim")
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "store_unavailable")
        assert requests.get(f"{gateway.url}/ready", timeout=5).status_code == 503
        assert gateway.coollm("health").returncode == 4


def test_a_killed_worker_takes_no_other_request_with_it(simulator: SimulatorHandle, tmp_path: Path) -> None:
    """Connections are made anew for each request, so that a request either reached the killed worker or did not."""
    configuration = {"llm_providers": [openai_provider(simulator, "openai", "sk-good-0012")]}
    with serve(tmp_path, configuration, workers=3) as gateway:
        results: list[tuple[float, int]] = []
        stop = threading.Event()

        def load() -> None:
            while not stop.is_set():
                started = time.time()
                try:
                    results.append((started, one_request(gateway)))
                except requests.RequestException:
                    results.append((started, 0))

        threads = [threading.Thread(target=load) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        victims = []
        for _ in range(3):
            victim = gateway.workers()[0]
            os.kill(victim, signal.SIGKILL)
            victims.append(time.time())
            time.sleep(1.5)
        stop.set()
        for thread in threads:
            thread.join()
        failed = [started for started, status in results if status != 200]
        assert len(results) > 200
        assert all(any(killed - 1 < started < killed + 0.05 for killed in victims) for started in failed), "only requests the killed worker had"
        assert len(failed) <= 3 * len(threads)
        wait_for(lambda: len(gateway.workers()) == 3, what="three workers again")
        assert gateway.chat("gpt-sim").status_code == 200


def one_request(gateway: GatewayHandle) -> int:
    body = {"model": "gpt-sim~latency_ms=20", "messages": [{"role": "user", "content": "hello"}]}
    return requests.post(f"{gateway.url}/v1/chat/completions", json=body, headers={**gateway.headers, "connection": "close"}, timeout=10).status_code


def test_a_stop_waits_for_what_is_in_flight_and_not_for_idle_connections(simulator: SimulatorHandle, tmp_path: Path) -> None:
    configuration = {"llm_providers": [openai_provider(simulator, "openai", "sk-good-0013")]}
    with serve(tmp_path, configuration) as gateway, requests.Session() as idle, ThreadPoolExecutor(4) as pool:
        idle.get(f"{gateway.url}/health", timeout=5)
        stream = pool.submit(lambda: gateway.chat("gpt-sim~tokens=40~rate=20", stream=True).text)
        whole = pool.submit(lambda: gateway.chat("gpt-sim~latency_ms=1500"))
        time.sleep(0.5)
        started = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        assert stream.result().endswith("[DONE]\n\n")
        assert whole.result().status_code == 200
        assert gateway.process.wait(10) == 0
        assert 1 < time.monotonic() - started < 8
        assert "Traceback" not in gateway.words()


def test_a_stop_under_load_answers_what_it_took(simulator: SimulatorHandle, tmp_path: Path) -> None:
    configuration = {"llm_providers": [openai_provider(simulator, "openai", "sk-good-0015")]}
    with serve(tmp_path, configuration) as gateway, ThreadPoolExecutor(8) as pool:
        outcomes: Counter[str] = Counter()

        def load() -> None:
            while True:
                try:
                    outcomes[str(one_request(gateway))] += 1
                except requests.ConnectionError as error:
                    outcomes["refused" if "refused" in str(error) else str(error)] += 1
                    return

        done = [pool.submit(load) for _ in range(8)]
        time.sleep(1)
        gateway.process.send_signal(signal.SIGTERM)
        for one in done:
            one.result(20)
        assert gateway.process.wait(10) == 0
        assert outcomes["200"] > 50
        assert "Traceback" not in gateway.words()
        # Connections that no worker had taken yet are reset when the listener closes; whoever got an answer got the right one, and none was broken off.
        assert {outcome for outcome in outcomes if outcome.isdigit()} == {"200"}, outcomes
        assert not any("timed out" in outcome or "IncompleteRead" in outcome for outcome in outcomes), outcomes
