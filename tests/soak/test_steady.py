"""Mixed traffic for a long time: memory, greenlets and descriptors of the workers stay as they are.

Half a minute of it in `scripts/test`, which finds what leaks with each request; `scripts/soak` runs it for half an hour, which finds what leaks slowly.
"""

from __future__ import annotations

import json
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import GatewayHandle, SimulatorHandle, serve, simulated, wait_for

SHORT, LONG = 20, 1800
CLIENTS = 6
SAMPLE_SECONDS = 1.0
WARM_UP_SHARE = 0.25

# In a short run the memory that is freed and used again still finds its size.
MOST_MB_PER_HOUR = {LONG: 1.0}
MOST_MB_IN_A_SHORT_RUN = 6.0
MOST_LEFT_GREENLETS = 12
MOST_LEFT_DESCRIPTORS = 12

DURATIONS = [pytest.param(SHORT, id="short"), pytest.param(LONG, id="long", marks=[pytest.mark.soak, pytest.mark.timeout(2400)])]
SAY = [{"role": "user", "content": "Say something long. " * 20}]


# What a client of each kind is answered. A vendor's failure cools its key down, so that the next are told that none is usable.
STATUSES = {
    "whole": (200,),
    "claude": (200,),
    "fresh": (200,),
    "stream": (200,),
    "cut": (200,),
    "failing": (502, 503),
    "limited": (429,),
    "broken": (400,),
    "nonsense": (400,),
    "unknown": (404,),
}
LIKELIEST = ("whole", "stream", "stream")


def talk(gateway: GatewayHandle, until: float, seed: int, counts: dict[str, int], rest_seconds: float) -> None:
    """One client: whole answers, streams to their end and cut off, failing vendors, nonsense. What is not answered as it should be is counted by its status."""
    choose = random.Random(seed)
    with requests.Session() as session:
        session.headers.update(gateway.headers)
        while time.monotonic() < until:
            kind = choose.choice((*STATUSES, *LIKELIEST))
            counts[kind] = counts.get(kind, 0) + 1
            time.sleep(choose.random() * rest_seconds)
            try:
                status = ask(session, gateway, kind, choose)
            except requests.RequestException as error:
                told = f"error: {kind}, {type(error).__name__}"
                counts[told] = counts.get(told, 0) + 1
                continue
            if status not in STATUSES[kind]:
                counts[f"error: {kind}, {status}"] = counts.get(f"error: {kind}, {status}", 0) + 1


def ask(session: requests.Session, gateway: GatewayHandle, kind: str, choose: random.Random) -> int:
    """The status; 0 for a stream that did not end as it should."""
    url = f"{gateway.url}/v1/chat/completions"
    if kind == "broken":
        return session.post(url, data=b'{"model": "gpt-sim", "messages": [', headers={"content-type": "application/json"}, timeout=30).status_code
    if kind == "nonsense":
        return session.post(url, json={"model": "gpt-sim", "messages": [{"role": "nobody", "content": 7}]}, timeout=30).status_code
    if kind == "fresh":
        return requests.post(url, json={"model": "gpt-sim", "messages": SAY}, headers=gateway.headers, timeout=30).status_code
    if kind not in ("stream", "cut"):
        models = {"failing": "failing-sim", "limited": "limited-sim", "unknown": f"no-model-{choose.randrange(10**6)}", "claude": "claude-sim"}
        return session.post(url, json={"model": models.get(kind, "gpt-sim"), "messages": SAY}, timeout=30).status_code
    model = choose.choice(("gpt-sim~tokens=40~rate=500", "claude-sim~tokens=40~rate=500"))
    with session.post(url, json={"model": model, "messages": SAY, "stream": True}, stream=True, timeout=30) as answer:
        last = b""
        for number, piece in enumerate(answer.iter_content(64)):
            last = (last + piece)[-64:]
            if kind == "cut" and number > 3:
                return answer.status_code
        return answer.status_code if kind == "stream" and b"[DONE]" in last else 0


def out_of_order(simulator_url: str, name: str, status: int) -> dict[str, Any]:
    """A vendor that refuses all that it is asked."""
    return {"id": name, "type": "openai", "base_url": f"{simulator_url}/v1", "api_keys": [f"sk-{name}~status={status}"], "models": [f"{name}-sim"]}


def memory_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"{pid} has no memory")


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def greenlets(gateway: GatewayHandle) -> int:
    """Of the one worker that there is."""
    return int(json.loads(gateway.coollm("status", "--json").stdout)["instances"][0]["greenlets"])


def slope(samples: list[tuple[float, float]]) -> float:
    """Of the line of least squares through (seconds, figure), per second."""
    mean_x, mean_y = (sum(column) / len(samples) for column in zip(*samples, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in samples) / sum((x - mean_x) ** 2 for x, _ in samples)


@pytest.mark.parametrize("seconds", DURATIONS)
def test_nothing_grows(seconds: int, simulator: SimulatorHandle, tmp_path: Path) -> None:
    configuration: dict[str, Any] = {
        "llm_providers": [*simulated(simulator.url), *(out_of_order(simulator.url, name, status) for name, status in (("failing", 500), ("limited", 429)))],
        "api_keys": [{"id": "app", "key": "client-key-of-the-tests", "limits": {"req_per_min": 10_000_000, "tokens_per_min": 10_000_000_000}}],
        "policy": {"retry": {"max_attempts": 1, "timeout": "1s"}, "fallback": {"enabled": False}},
    }
    with serve(tmp_path, configuration, workers=1) as gateway:
        (worker,) = gateway.workers()
        counts: dict[str, int] = {}

        def run(for_seconds: float) -> list[tuple[float, float]]:
            until, samples = time.monotonic() + for_seconds, []
            rest = 0.1 if seconds == LONG else 0.0
            clients = [threading.Thread(target=talk, args=(gateway, until, seed, counts, rest)) for seed in range(CLIENTS)]
            for client in clients:
                client.start()
            while time.monotonic() < until:
                samples.append((time.monotonic(), memory_mb(worker)))
                time.sleep(SAMPLE_SECONDS)
            for client in clients:
                client.join()
            return samples

        run(seconds * WARM_UP_SHARE)
        time.sleep(3)
        before = greenlets(gateway), descriptors(worker)
        samples = run(seconds * (1 - WARM_UP_SHARE))
        per_hour = slope(samples) * 3600
        print(f"\n{sum(counts.values())} requests in {seconds} s: {counts}")
        print(f"memory from {samples[0][1]:.1f} to {samples[-1][1]:.1f} MB, {per_hour:+.2f} MB per hour by the line of least squares")
        assert gateway.workers() == [worker], "it is the worker that there was"
        assert not any(kind.startswith("error") for kind in counts), counts
        wait_for(lambda: greenlets(gateway) <= before[0] + MOST_LEFT_GREENLETS, 10, f"no more than the {before[0]} greenlets of before")
        wait_for(lambda: descriptors(worker) <= before[1] + MOST_LEFT_DESCRIPTORS, 10, f"no more than the {before[1]} descriptors of before")
        if seconds in MOST_MB_PER_HOUR:
            assert per_hour < MOST_MB_PER_HOUR[seconds]
        else:
            assert samples[-1][1] - samples[0][1] < MOST_MB_IN_A_SHORT_RUN
