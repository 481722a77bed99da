"""Streams at a fixed rate: a vendor that writes chunks, each with the time at which it was written, and a client that reads many streams at once.

    python -m benchmark.streams vendor PORT
    python -m benchmark.streams client HOST PORT STREAMS SECONDS FILE   (FILE holds the bytes of a request)

The client prints a JSON object: {"streams", "failed", "chunks", "p50_ms", "p99_ms"}: how long a chunk took from the vendor's write to the client's read.
"""

from __future__ import annotations

import json
import re
import select
import socket
import sys
import time
from collections import deque
from pathlib import Path

CHUNKS_A_SECOND = 50
TICK_SECONDS = 0.001
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

# As a vendor's: the chunks of a stream differ in their texts, and the text tells when it was written.
CHUNK = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"bench",'
    b'"choices":[{"index":0,"delta":{"content":"word %015d "},"logprobs":null,"finish_reason":null}]}\n\n'
)
_TIMES = re.compile(rb'"word (\d{15}) ')


def vendor(port: int) -> None:
    """Answers each request with a stream that goes on until the other side ends. Streams are spread evenly over the time between two chunks."""
    listener = socket.create_server(("127.0.0.1", port), backlog=2048)
    listener.setblocking(False)
    poll = select.epoll()
    poll.register(listener.fileno(), select.EPOLLIN)
    waiting: dict[int, socket.socket] = {}
    due: deque[tuple[float, socket.socket]] = deque()
    while True:
        now = time.monotonic()
        wait = min(0.05, max(0.0, due[0][0] - now)) if due else 0.05
        for descriptor, _ in poll.poll(wait):
            if descriptor == listener.fileno():
                one, _ = listener.accept()
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                one.setblocking(False)
                waiting[one.fileno()] = one
                poll.register(one.fileno(), select.EPOLLIN)
                continue
            one = waiting.get(descriptor)
            if one is None:
                continue
            try:
                data = one.recv(65536)
            except OSError:
                data = b""
            if not data:
                poll.unregister(descriptor)
                del waiting[descriptor]
                one.close()
            elif b"POST " in data:
                one.send(HEAD)
                _insert(due, time.monotonic(), one)
        now = time.monotonic()
        while due and due[0][0] <= now:
            at, one = due.popleft()
            chunk = CHUNK % int(time.monotonic() * 1e6)
            try:
                one.send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            except BlockingIOError:
                pass
            except OSError:
                continue
            _insert(due, max(at + 1 / CHUNKS_A_SECOND, now - 0.1), one)


def _insert(due: deque[tuple[float, socket.socket]], at: float, one: socket.socket) -> None:
    if not due or due[-1][0] <= at:
        due.append((at, one))
        return
    place = len(due)
    while place and due[place - 1][0] > at:
        place -= 1
    due.insert(place, (at, one))


def client(host: str, port: int, streams: int, seconds: float, request: bytes) -> dict[str, float]:
    """Opens streams, one after the other, and counts chunks once all are open."""
    poll = select.epoll()
    connections: dict[int, socket.socket] = {}
    for number in range(streams):
        one = socket.create_connection((host, port))
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.sendall(request)
        one.setblocking(False)
        connections[one.fileno()] = one
        poll.register(one.fileno(), select.EPOLLIN)
        if number % 10 == 9:
            _read(poll, connections, 0.02)
    failed = _read(poll, connections, 2.0)[1]
    print("READY", flush=True)
    delays, more = _read(poll, connections, seconds)
    delays.sort()
    if not delays:
        return {"streams": len(connections), "failed": failed + more, "chunks": 0, "p50_ms": 0.0, "p99_ms": 0.0}
    p50, p99 = (delays[min(len(delays) - 1, int(len(delays) * share))] / 1000 for share in (0.5, 0.99))
    return {"streams": len(connections), "failed": failed + more, "chunks": len(delays), "p50_ms": round(p50, 2), "p99_ms": round(p99, 2)}


def _read(poll: select.epoll, connections: dict[int, socket.socket], seconds: float) -> tuple[list[int], int]:
    """The delays of all chunks that come, in millionths of a second, and how many streams ended."""
    until = time.monotonic() + seconds
    delays: list[int] = []
    failed = 0
    while (left := until - time.monotonic()) > 0:
        for descriptor, _ in poll.poll(left):
            try:
                data = connections[descriptor].recv(65536)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                failed += 1
                poll.unregister(descriptor)
                connections.pop(descriptor).close()
                continue
            now = int(time.monotonic() * 1e6)
            delays += [now - int(told) for told in _TIMES.findall(data)]
    return delays, failed


if __name__ == "__main__":
    if sys.argv[1] == "vendor":
        vendor(int(sys.argv[2]))
    else:
        host, port, streams, seconds, file = sys.argv[2:]
        print(json.dumps(client(host, int(port), int(streams), float(seconds), Path(file).read_bytes())), flush=True)
