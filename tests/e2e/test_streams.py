"""Streams under load, unbuffered, cut by the vendor, left by the client."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai
import pytest
import requests

from tests.conftest import GatewayHandle, SimulatorHandle, serve, wait_for

MODELS = ["gpt-sim", "claude-sim", "gemini-sim"]


def open_request(gateway: GatewayHandle, model: str, *, stream: bool, path: str = "/v1/chat/completions", max_tokens: int = 1000) -> socket.socket:
    body = json.dumps({"model": model, "max_tokens": max_tokens, "messages": [{"role": "user", "content": "hello"}], "stream": stream}).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.client_key}\r\ncontent-length: {len(body)}\r\n\r\n"
    connection = socket.create_connection(("127.0.0.1", gateway.port), timeout=20)
    connection.sendall(head.encode() + body)
    return connection


def test_200_concurrent_streams_through_two_workers(gateway: GatewayHandle) -> None:
    client = openai.OpenAI(api_key=gateway.client_key, base_url=f"{gateway.url}/v1", max_retries=0, timeout=60)

    def one(number: int) -> int:
        model = MODELS[number % 3] + f"~tokens=20~rate=20~latency_ms={number}"
        chunks = client.chat.completions.create(model=model, messages=[{"role": "user", "content": str(number)}], stream=True)
        return len("".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices).split())

    with ThreadPoolExecutor(200) as pool:
        assert list(pool.map(one, range(200))) == [20] * 200


@pytest.mark.parametrize("model", MODELS)
def test_its_line_is_in_the_usage_log_before_the_client_has_the_end(gateway: GatewayHandle, model: str) -> None:
    """So a worker that is killed takes no answer along whose client has all of it."""
    log = gateway.home / "state" / "logs" / "usage.log"
    for _ in range(20):
        with gateway.chat(f"{model}~tokens=3", stream=True) as answer:
            assert b"data: [DONE]" in answer.iter_lines(chunk_size=1)
            assert answer.headers["x-request-id"] in log.read_text()


class EscapingVendor(BaseHTTPRequestHandler):
    """Writes what is not ASCII as JSON's escapes, a frame at a time, and ends without a word more than `[DONE]`."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:  # the name of `http.server`
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for text in (*("é" * 5), None):
            told = "[DONE]" if text is None else json.dumps({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})
            frame = f"data: {told}\n\n".encode()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(frame), frame))
            time.sleep(0.05)
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None:
        pass


def test_the_end_is_known_where_texts_are_escaped(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), EscapingVendor)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    provider = {"id": "v", "type": "custom", "base_url": f"http://127.0.0.1:{server.server_port}/v1", "api_keys": ["sk-one"], "models": ["m"]}
    with serve(tmp_path, {"llm_providers": [provider]}, workers=1) as gateway:
        with gateway.chat("m", stream=True) as answer:
            frames = [line for line in answer.iter_lines() if line]
        assert frames[-1] == b"data: [DONE]"
        assert len(frames) == 6
        logged = gateway.logged(answer.headers["x-request-id"])
        assert (logged["ending"], logged["error"]) == ("answered", None)
    server.shutdown()


@pytest.mark.parametrize("model", MODELS)
def test_each_chunk_arrives_when_the_vendor_writes_it(gateway: GatewayHandle, model: str) -> None:
    """The vendor writes every 20 ms. A busy machine may hold chunks up in one try or the other; a buffer would in every one."""
    seen = []
    for _ in range(5):
        times = arrivals(gateway, f"{model}~tokens=40~rate=50")
        gaps = sorted(later - earlier for earlier, later in zip(times, times[1:], strict=False))
        seen.append((len(times), gaps[len(gaps) // 2] if gaps else 0))
        if len(times) >= 35 and 0.015 < seen[-1][1] < 0.025:
            return
    raise AssertionError(f"(pieces, median gap in seconds) of each try: {seen}")


def arrivals(gateway: GatewayHandle, model: str) -> list[float]:
    """The times at which pieces of content came."""
    times = []
    with open_request(gateway, model, stream=True) as connection:
        received = b""
        while b"[DONE]" not in received:
            data = connection.recv(65536)
            assert data, received
            received += data
            if b'"content":"' in data:
                times.append(time.monotonic())
    return times


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("mark", "stream", "wait_for_content"),
    [("latency_ms=20001", False, False), ("latency_ms=20002", True, False), ("first_token_ms=20003", True, False), ("rate=5~tokens=400", True, True)],
    ids=["whole", "before headers", "before the first token", "mid-stream"],
)
@pytest.mark.parametrize(("path", "content"), [("/v1/chat/completions", b'"content":"'), ("/v1/messages", b'"text":"')], ids=["chat", "messages"])
def test_a_client_that_leaves_cancels_the_vendors_call(
    gateway: GatewayHandle, simulator: SimulatorHandle, model: str, mark: str, stream: bool, wait_for_content: bool, path: str, content: bytes
) -> None:
    name = f"{model}~{mark}~retry_after={len(path)}"  # a name of its own for each case
    connection = open_request(gateway, name, stream=stream, path=path)
    wait_for(lambda: simulator.last(name), what="the vendor's request")
    if wait_for_content:
        received = b""
        while received.count(content) < 3:
            received += connection.recv(65536)
    else:
        time.sleep(0.2)
    left = time.time()
    connection.close()
    row = wait_for(lambda: (found := simulator.last(name)) and found["ended"] and found, 5, "the vendor seeing the close")
    assert row["how"] == "client_closed"
    assert row["ended"] - left < 1
    line = wait_for(lambda: next((line for line in reversed(gateway.requests_logged()) if line["requested_model"] == name), None), 5)
    assert (line["status"], line["ending"]) == (499, "client_gone")
    assert line["estimated"] or (wait_for_content and model == "gemini-sim"), "Gemini counts in every chunk; the others only at the end"
    assert line["input_tokens"] > 0, "the vendor has read the input"
    assert (line["output_tokens"] > 0) is wait_for_content
    health = gateway.coollm("providers", "--json")
    assert all(key["error_rate"] == 0 for provider in json.loads(health.stdout)["providers"] for key in provider["keys"]), "no key is blamed"
    wait_for(lambda: all(count == 0 for count in in_flight(gateway)), 5, "no call in flight, in any worker")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("fault", ["cut_after=3", "malformed_after=3", "error_after=3"])
def test_a_failure_after_content_is_an_error_event_and_never_a_finish(gateway: GatewayHandle, model: str, fault: str) -> None:
    client = openai.OpenAI(api_key=gateway.client_key, base_url=f"{gateway.url}/v1", max_retries=0)
    raw = client.chat.completions.with_raw_response.create(model=f"{model}~{fault}~tokens=9", messages=[{"role": "user", "content": "hello"}], stream=True)
    chunks: list[Any] = []
    with pytest.raises(openai.APIError) as raised:
        chunks.extend(raw.parse())
    assert isinstance(raised.value.body, dict)
    assert raised.value.body["code"] == "stream_interrupted"
    assert all(choice.finish_reason is None for chunk in chunks for choice in chunk.choices)
    line = gateway.logged(raw.headers["x-request-id"])
    assert (line["ending"], line["status"]) == ("cut", 502)
    assert line["estimated"] or model == "gemini-sim", "Gemini counts in every chunk; the others only at the end"
    assert line["output_tokens"] > 0


def test_text_is_whole_however_it_is_cut(gateway: GatewayHandle) -> None:
    client = openai.OpenAI(api_key=gateway.client_key, base_url=f"{gateway.url}/v1")
    text = "žluťoučký kůň 🐎 " * 30
    for model in MODELS:
        ask: Any = {"model": f"{model}~echo=1", "messages": [{"role": "user", "content": text}], "max_tokens": 4000}
        streamed = "".join(chunk.choices[0].delta.content or "" for chunk in client.chat.completions.create(**ask, stream=True) if chunk.choices)
        assert text in streamed
        assert json.loads(streamed)


def test_idle_connections_do_not_keep_others_waiting(gateway: GatewayHandle) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(socket.create_connection(("127.0.0.1", gateway.port), timeout=5))
        started = time.monotonic()
        assert gateway.chat("gpt-sim").status_code == 200
        assert time.monotonic() - started < 5


def test_nothing_is_left_behind(gateway: GatewayHandle) -> None:
    """After all the tests above, streams that broke and clients that left included, the workers hold no connection but idle ones to vendors."""

    def connections() -> int:
        links = [link for pid in gateway.workers() for link in Path(f"/proc/{pid}/fd").iterdir()]
        found = 0
        for link in links:
            with contextlib.suppress(FileNotFoundError):
                found += os.readlink(link).startswith("socket:")
        return found

    wait_for(lambda: connections() < 2 * (128 + 20), 5, "the connections to close")
    text = requests.get(f"{gateway.url}/metrics", timeout=5).text
    assert "\ncoo_llm_active_streams 0.0\n" in text


def in_flight(gateway: GatewayHandle) -> list[int]:
    """Calls in flight of each vendor key; what the other workers have is told each second."""
    told = json.loads(gateway.coollm("providers", "--json").stdout)
    return [key["in_flight"] for provider in told["providers"] for key in provider["keys"]]


def test_a_client_that_reads_slowly_gets_all_of_a_long_stream(gateway: GatewayHandle) -> None:
    """What is sent faster than it is read waits in bounds, first in the worker, then at the vendor, and comes in its order."""
    whole = gateway.chat("gpt-sim~tokens=15000").json()["choices"][0]["message"]["content"]
    received = bytearray()
    with open_request(gateway, "gpt-sim~tokens=15000", stream=True, max_tokens=15000) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        time.sleep(0.5)
        for _ in range(50):
            received += connection.recv(2000)
            time.sleep(0.005)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)  # the rest as fast as it comes
        while not received.endswith(b"0\r\n\r\n"):
            piece = connection.recv(65536)
            assert piece, "the stream is cut"
            received += piece
    frames, place, pieces = bytearray(), received.index(b"\r\n\r\n") + 4, []
    while place < len(received):
        begins = received.index(b"\r\n", place) + 2
        size = int(received[place : begins - 2], 16)
        frames += received[begins : begins + size]
        place = begins + size + 2
    for frame in frames.decode().split("\n\n"):
        if frame.startswith("data: {"):
            for choice in json.loads(frame[6:])["choices"]:
                pieces.append(choice["delta"].get("content") or "")
    assert "".join(pieces).rstrip(" .") == whole.rstrip(" .")
    assert frames.endswith(b"data: [DONE]\n\n")
