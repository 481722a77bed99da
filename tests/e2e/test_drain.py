"""A stop: what is in flight ends, what outlives the time is told so and settled, and idle connections get one last answer."""

from __future__ import annotations

import http.client
import json
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import SimulatorHandle, serve, simulated, wait_for

SLOW = {
    "chat": ("/v1/chat/completions", {"model": "gpt-sim~tokens=400~rate=20", "messages": [{"role": "user", "content": "hi"}], "stream": True}),
    "messages": (
        "/v1/messages",
        {"model": "claude-sim~tokens=400~rate=20", "max_tokens": 1000, "messages": [{"role": "user", "content": "hi"}], "stream": True},
    ),
    "responses": ("/v1/responses", {"model": "gpt-sim~tokens=400~rate=20", "input": "hi", "stream": True}),
    "translated": ("/v1/chat/completions", {"model": "gemini-sim~tokens=400~rate=20", "messages": [{"role": "user", "content": "hi"}], "stream": True}),
}


def test_streams_that_outlive_the_drain_are_told_so_and_settled(simulator: SimulatorHandle, tmp_path: Path) -> None:
    limits = {"concurrent": 50, "tokens_per_min": 1_000_000}
    settings = {
        "server": {"drain_seconds": "1s"},
        "llm_providers": simulated(simulator.url),
        "api_keys": [{"id": "app", "key": "client-key-of-the-tests", "limits": limits}],
    }
    answers: dict[str, tuple[int, str, dict[str, str]]] = {}
    with serve(tmp_path, settings, workers=1) as gateway:

        def ask(name: str, path: str, body: dict[str, Any]) -> None:
            with requests.post(gateway.url + path, json=body, headers=gateway.headers, timeout=30, stream=True) as reply:
                answers[name] = (
                    reply.status_code,
                    reply.raw.read().decode() if name == "whole" else "".join(reply.iter_content(None, decode_unicode=True)),
                    dict(reply.headers),
                )

        asked = {**SLOW, "whole": ("/v1/chat/completions", {"model": "gpt-sim~latency_ms=20000", "messages": [{"role": "user", "content": "hi"}]})}
        threads = [threading.Thread(target=ask, args=(name, *one)) for name, one in asked.items()]
        for thread in threads:
            thread.start()
        time.sleep(1.0)
        began = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(20)
        assert gateway.process.wait(20) == 0
        assert time.monotonic() - began < 15, "the streams would have gone on for 20 s"
        lines = {line["route"]: line for line in gateway.requests_logged()}
        usage = [json.loads(line) for line in (tmp_path / "state" / "logs" / "usage.log").read_text().splitlines()]
        report = json.loads(next((gateway.run / f"port-{gateway.port}" / "workers").glob("*")).read_text())
    for name in SLOW:
        status, text, _ = answers[name]
        assert status == 200
        last = json.loads(text.strip().split("data: ")[-1])
        error = last if name == "responses" else last["error"]
        assert "restarted" in error["message"], (name, last)
        assert error["code" if name != "messages" else "type"] == ("gateway_stopping" if name != "messages" else "overloaded_error")
        assert "[DONE]" not in text
        assert "message_stop" not in text
    status, text, headers = answers["whole"]
    assert (status, json.loads(text)["error"]["code"]) == (503, "gateway_stopping")
    assert headers["retry-after"] == "1"
    assert lines["chat"]["error"] == "gateway_stopping"
    cut = [line for line in usage if line["ending"] == "cut"]
    assert len(cut) == 5
    assert all(line["estimated"] for line in cut)
    assert (report["streams_cut"], report["has_ended"], report["streams"]) == (4, True, 0)


@pytest.mark.parametrize("idle_seconds", [0.0, 1.0])
def test_an_idle_connection_gets_one_last_answer(simulator: SimulatorHandle, tmp_path: Path, idle_seconds: float) -> None:
    with serve(tmp_path, {"llm_providers": simulated(simulator.url)}, workers=1) as gateway:
        connections = [http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10) for _ in range(20)]
        body = json.dumps({"model": "gpt-sim", "messages": [{"role": "user", "content": "hi"}]})
        for connection in connections:
            connection.request("POST", "/v1/chat/completions", body, gateway.headers)
            answer = connection.getresponse()
            answer.read()
            assert (answer.status, answer.headers.get("connection")) == (200, None)
        gateway.process.send_signal(signal.SIGTERM)
        time.sleep(0.1 + idle_seconds)
        for connection in connections:
            connection.request("POST", "/v1/chat/completions", body, gateway.headers)
            answer = connection.getresponse()
            answer.read()
            assert (answer.status, answer.headers.get("connection")) == (200, "close")
        assert gateway.process.wait(10) == 0


def test_a_drained_instance_takes_no_new_connections_and_serves_what_it_has(simulator: SimulatorHandle, tmp_path: Path) -> None:
    with serve(tmp_path, {"llm_providers": simulated(simulator.url)}, workers=2) as gateway:
        directory = gateway.run / f"port-{gateway.port}"
        kept = requests.Session()
        assert kept.get(f"{gateway.url}/ready", timeout=5).status_code == 200
        stream = gateway.chat("gpt-sim~tokens=30~rate=15", stream=True)
        (directory / "draining").touch()

        def drained() -> bool:
            status = json.loads(gateway.coollm("status", "--json").stdout)["instances"][0]["status"]
            return bool(status == "draining")

        wait_for(drained, 5, "the drain")
        assert "data: [DONE]" in "".join(stream.iter_content(None, decode_unicode=True))
        with pytest.raises(requests.RequestException):
            requests.get(f"{gateway.url}/health", timeout=0.5)
        (directory / "draining").unlink()
        assert requests.get(f"{gateway.url}/ready", timeout=5).status_code == 200
