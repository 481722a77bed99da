"""Load at a fixed rate, whatever the answers take: the delay of a request counts from when it was due, so that a stall is seen by all who waited in it.

    python -m benchmark.openloop HOST PORT RATE SECONDS FILE   (FILE holds the bytes of a request)

Prints a JSON object: {"requests", "failed", "p50_ms", "p99_ms"}. One process, one thread, epoll; it pins nothing itself.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from pathlib import Path

MOST_CONNECTIONS = 256
LAST_WAIT_SECONDS = 2.0


def run(host: str, port: int, rate: float, seconds: float, request: bytes) -> dict[str, float]:
    """Sends `rate` requests a second."""
    poll = select.epoll()
    idle: list[socket.socket] = []
    busy: dict[int, tuple[socket.socket, float, bytearray]] = {}
    delays: list[float] = []
    failed = 0
    start = time.monotonic() + 0.05
    total, sent = int(rate * seconds), 0
    deadline = start + seconds + LAST_WAIT_SECONDS
    while (sent < total or busy) and time.monotonic() < deadline:
        now = time.monotonic()
        while sent < total and start + sent / rate <= now:
            due = start + sent / rate
            sent += 1
            if idle:
                one = idle.pop()
            elif len(busy) < MOST_CONNECTIONS:
                one = socket.create_connection((host, port))
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                one.setblocking(False)
                poll.register(one.fileno(), select.EPOLLIN)
            else:
                failed += 1
                continue
            one.send(request)
            busy[one.fileno()] = (one, due, bytearray())
        wait = max(0.0, start + sent / rate - time.monotonic()) if sent < total else 0.05
        # Epoll counts in milliseconds; a wait that is shorter is spun through, or every request would be late.
        for descriptor, _ in poll.poll(wait if wait > 0.002 else 0):
            if descriptor not in busy:
                continue
            one, due, data = busy[descriptor]
            piece = one.recv(65536)
            data += piece
            if piece and not _is_whole(data):
                continue
            del busy[descriptor]
            if piece and data.startswith(b"HTTP/1.1 200"):
                delays.append(time.monotonic() - due)
                idle.append(one)
            else:
                failed += 1
                poll.unregister(descriptor)
                one.close()
    delays.sort()
    failed += len(busy)
    if not delays:
        return {"requests": 0, "failed": failed, "p50_ms": 0.0, "p99_ms": 0.0}
    p50, p99 = (delays[min(len(delays) - 1, int(len(delays) * share))] * 1000 for share in (0.5, 0.99))
    return {"requests": len(delays), "failed": failed, "p50_ms": round(p50, 3), "p99_ms": round(p99, 3)}


def _is_whole(data: bytearray) -> bool:
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        return False
    lower = head.lower()
    if b"transfer-encoding: chunked" in lower:
        return body.endswith(b"0\r\n\r\n")
    place = lower.find(b"content-length:")
    return place >= 0 and len(body) >= int(lower[place + 15 :].split(b"\r\n", 1)[0])


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]), Path(sys.argv[5]).read_bytes())))
