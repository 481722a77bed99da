"""Greedy clients for a minute and a half against limits that several gateways share: brute force over what was admitted."""

from __future__ import annotations

import bisect
import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import GatewayHandle, SimulatorHandle, serve, simulated

pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]

SECONDS = 90
CLIENTS = 64
REQUESTS_PER_MINUTE = 600
TOKENS_PER_MINUTE = 30_000


def settings(simulator: SimulatorHandle, runtime: dict[str, Any], limits: dict[str, int], name: str) -> dict[str, Any]:
    return {
        "llm_providers": simulated(simulator.url),
        "api_keys": [{"id": name, "key": "greedy-key-0001", "limits": limits}],
        "storage": {"runtime": runtime},
    }


def be_greedy(gateways: Sequence[GatewayHandle]) -> None:
    until = time.monotonic() + SECONDS

    def one(number: int) -> None:
        gateway = gateways[number % len(gateways)]
        body = {"model": "gpt-sim~tokens=20", "messages": [{"role": "user", "content": "x" * 80}], "max_tokens": 20}
        with requests.Session() as session:
            while time.monotonic() < until:
                answer = session.post(f"{gateway.url}/v1/chat/completions", json=body, headers=gateway.headers, timeout=30)
                if answer.status_code == 429:
                    # Greedy, and not deaf: what is told to come back is believed to a tenth.
                    time.sleep(min(0.2, float(answer.headers.get("retry-after-ms", "100")) / 1000))

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(one, range(CLIENTS)))


def admissions(gateways: Sequence[GatewayHandle]) -> list[tuple[float, int]]:
    """When each request was admitted, at the latest, and its tokens."""
    found = []
    for gateway in gateways:
        for line in gateway.requests_logged():
            if line["status"] == 200:
                ended = datetime.fromisoformat(line["time"]).timestamp()
                found.append((ended - line["latency_ms"] / 1000, line["input_tokens"] + line["output_tokens"]))
    return sorted(found)


def most_in_a_minute(found: list[tuple[float, int]], weights: list[int]) -> int:
    """The most in any 60 seconds."""
    times = [moment for moment, _ in found]
    sums = [0]
    for weight in weights:
        sums.append(sums[-1] + weight)
    return max(sums[bisect.bisect_left(times, moment + 60)] - sums[place] for place, moment in enumerate(times))


@pytest.mark.parametrize("kind", ["redis", "sqlite"])
@pytest.mark.parametrize("what", ["requests", "tokens"])
def test_greedy_clients(simulator: SimulatorHandle, tmp_path: Path, request: pytest.FixtureRequest, kind: str, what: str) -> None:
    runtime = {"type": "redis", "addr": request.getfixturevalue("redis_url")} if kind == "redis" else {"type": "sqlite"}
    limits = {"req_per_min": REQUESTS_PER_MINUTE} if what == "requests" else {"tokens_per_min": TOKENS_PER_MINUTE}
    with contextlib.ExitStack() as stack:
        gateways = []
        for number in range(2 if kind == "redis" else 1):
            home = tmp_path / str(number)
            home.mkdir()
            gateways.append(stack.enter_context(serve(home, settings(simulator, runtime, limits, f"greedy-{what}-{kind}"), workers=4)))
        be_greedy(gateways)
        found = admissions(gateways)
    limit = REQUESTS_PER_MINUTE if what == "requests" else TOKENS_PER_MINUTE
    weights = [1 if what == "requests" else tokens for _, tokens in found]
    most, total = most_in_a_minute(found, weights), sum(weights)
    # The whole limit at once, and again when the first minute is over: the most that 90 seconds can hold.
    share = total / (2 * limit)
    print(f"{kind}, {what}: at most {most} of {limit} in any 60 seconds, {share:.1%} of what could be admitted")
    assert most <= limit
    assert share >= 0.97
