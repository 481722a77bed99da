"""A client that leaves, at every route and in every phase: the vendor's connection closes, the settlement is as written, and nothing goes on running."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import GatewayHandle, SimulatorHandle, every_dialect, serve, wait_for

SAY = [{"role": "user", "content": "hello"}]
WHOLE, BEFORE_HEADERS, BEFORE_CONTENT, MID_STREAM = "whole", "before headers", "before the first token", "mid-stream"
DIRECTIVES = {WHOLE: "latency_ms=20001", BEFORE_HEADERS: "latency_ms=20002", BEFORE_CONTENT: "first_token_ms=20003", MID_STREAM: "rate=5~tokens=400"}

STREAMED: list[tuple[str, str, dict[str, Any]]] = [
    ("chat/completions", "gpt-sim", {"messages": SAY}),
    ("chat/completions", "claude-sim", {"messages": SAY}),
    ("chat/completions", "gemini-sim", {"messages": SAY}),
    ("chat/completions", "command-sim", {"messages": SAY}),
    ("chat/completions", "anthropic.claude-sim-v1", {"messages": SAY}),
    ("messages", "gpt-sim", {"messages": SAY, "max_tokens": 1000}),
    ("messages", "claude-sim", {"messages": SAY, "max_tokens": 1000}),
    ("completions", "custom:davinci-sim", {"prompt": "hello", "max_tokens": 1000}),
    ("completions", "gemini-sim", {"prompt": "hello", "max_tokens": 1000}),
    ("responses", "gpt-sim", {"input": "hello"}),
    ("responses", "claude-sim", {"input": "hello"}),
]
UNSTREAMED: list[tuple[str, str, dict[str, Any]]] = [
    ("embeddings", "openai:embed-sim", {"input": "hello"}),
    ("embeddings", "voyage-sim", {"input": "hello"}),
    ("rerank", "custom:rerank-sim", {"query": "a", "documents": ["b"]}),
    ("rerank", "voyage:rerank-sim", {"query": "a", "documents": ["b"]}),
    ("moderations", "openai:omni-moderation-sim", {"input": "hello"}),
    ("images/generations", "openai:image-sim", {"prompt": "hello"}),
    ("chat/completions", "meta/llama-sim", {"messages": SAY}),
]
# What is passed through has a stream of bytes: it can be left in the middle too.
BYTES: list[tuple[str, str, dict[str, Any]]] = [("audio/speech", "openai:tts-sim", {"input": "hello", "voice": "alloy"})]

CASES = [
    *((path, model, body, phase, True) for path, model, body in STREAMED for phase in (BEFORE_HEADERS, BEFORE_CONTENT, MID_STREAM)),
    *((path, model, body, WHOLE, False) for path, model, body in (*STREAMED, *UNSTREAMED, *BYTES)),
    *((path, model, body, phase, False) for path, model, body in BYTES for phase in (BEFORE_CONTENT, MID_STREAM)),
]


@pytest.fixture(scope="module")
def gateway(simulator: SimulatorHandle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHandle]:
    """One worker, so that what it runs can be counted, and an account of files whose vendor is slow."""
    slow = {"id": "slow", "type": "custom", "base_url": f"{simulator.url}/v1", "api_keys": ["sk-slow~latency_ms=20004"], "models": ["none"]}
    with serve(tmp_path_factory.mktemp("gone"), {"llm_providers": [*every_dialect(simulator.url), slow]}, workers=1) as handle:
        yield handle


def greenlets(gateway: GatewayHandle) -> int:
    return int(json.loads(gateway.coollm("status", "--json").stdout)["instances"][0]["greenlets"])


def send(gateway: GatewayHandle, method: str, path: str, body: bytes, *more: str) -> socket.socket:
    lines = [f"{method} /v1/{path} HTTP/1.1", "host: x", f"authorization: Bearer {gateway.client_key}", f"content-length: {len(body)}", *more]
    connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=20)
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
    return connection


def leave(gateway: GatewayHandle, simulator: SimulatorHandle, connection: socket.socket, mark: str, *, has_content: bool) -> dict[str, Any]:
    """Leaves once the vendor is at work, and tells what the vendor saw."""
    wait_for(lambda: simulator.last(mark), what="the vendor's request")
    if has_content:
        received = b""
        while len(received) < 1200:
            received += connection.recv(65536)
    else:
        time.sleep(0.15)
    left = time.time()
    connection.close()
    row: dict[str, Any] = wait_for(lambda: (found := simulator.last(mark)) and found["ended"] and found, 5, "the vendor seeing the close")
    assert row["how"] == "client_closed"
    assert row["ended"] - left < 1
    return row


@pytest.mark.parametrize(("path", "model", "body", "phase", "stream"), CASES, ids=[f"{case[0]}-{case[1]}-{case[3]}".replace(" ", "_") for case in CASES])
def test_a_client_that_leaves(
    gateway: GatewayHandle, simulator: SimulatorHandle, path: str, model: str, body: dict[str, Any], phase: str, stream: bool
) -> None:
    name = f"{model}~{DIRECTIVES[phase]}~retry_after={abs(hash((path, model, phase))) % 10**6}"  # a name of its own for each case
    if path == "audio/speech" and phase == BEFORE_CONTENT:
        name += "~rate=5"  # so that the vendor sends its head first
    asked = json.dumps({**body, "model": name, **({"stream": True} if stream else {})}).encode()
    connection = send(gateway, "POST", path, asked, "content-type: application/json")
    mark = name.partition(":")[2] or name
    leave(gateway, simulator, connection, mark, has_content=phase == MID_STREAM)
    line = wait_for(lambda: next((line for line in reversed(gateway.requests_logged()) if line["requested_model"] == name), None), 5)
    assert (line["status"], line["ending"]) == (499, "client_gone")
    if path in ("moderations", "images/generations", "audio/speech"):
        assert line["input_tokens"] == line["output_tokens"] == 0, "nobody has counted what is passed through"
    else:
        assert line["input_tokens"] > 0, "the vendor has read the input"
        assert (line["output_tokens"] > 0) is (phase == MID_STREAM)


UPLOAD = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n' + (
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n{}\r\n--b--\r\n'
)


@pytest.mark.parametrize(
    ("method", "path", "body", "content_type"),
    [
        ("GET", "files", b"", ""),
        ("POST", "files", UPLOAD, "multipart/form-data; boundary=b"),
        ("GET", "batches", b"", ""),
    ],
)
def test_a_client_that_leaves_an_account(gateway: GatewayHandle, simulator: SimulatorHandle, method: str, path: str, body: bytes, content_type: str) -> None:
    before = len([line for line in gateway.requests_logged() if line["provider"] == "slow"])
    connection = send(gateway, method, path, body, "x-coollm-provider: slow", *([f"content-type: {content_type}"] if content_type else []))
    wait_for(lambda: (row := simulator.seen()[-1])["path"] == f"/v1/{path}" and row["how"] == "running", what="the vendor's request")
    leave(gateway, simulator, connection, "_ms=20004", has_content=False)
    told = wait_for(lambda: [line for line in gateway.requests_logged() if line["provider"] == "slow"][before:], 5, "the log line")
    assert (told[0]["ending"], told[0]["route"]) == ("client_gone", path)


def test_a_client_that_leaves_in_the_middle_of_its_upload(gateway: GatewayHandle) -> None:
    before = len(gateway.requests_logged())
    lines = ["POST /v1/audio/transcriptions HTTP/1.1", "host: x", f"authorization: Bearer {gateway.client_key}", "content-length: 9000000"]
    connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=20)
    connection.sendall("\r\n".join([*lines, "content-type: multipart/form-data; boundary=b", "", ""]).encode() + UPLOAD[:100] + b"x" * 500_000)
    time.sleep(0.2)
    connection.close()
    told = wait_for(lambda: gateway.requests_logged()[before:], 5, "the log line")
    assert told[0]["status"] == 499


def test_no_greenlet_is_left(gateway: GatewayHandle) -> None:
    """After all the tests above, the worker runs what it ran when it had done nothing yet but answer."""
    idle = 12  # gunicorn's own, the hub's, and those of the connections that ask
    wait_for(lambda: greenlets(gateway) <= idle, 5, "the greenlets to end")
