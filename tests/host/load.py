"""Clients of a gateway, until they are told to stop: requests on keep-alive connections at a steady rate, and streams that follow each other.

    python load.py URL KEY REQUESTS_PER_SECOND CONNECTIONS STREAMS STREAM_SECONDS MODEL

It ends at the end of its standard input, lets streams end, and prints what came of it as JSON.
"""

from __future__ import annotations

import gevent.monkey

gevent.monkey.patch_all()

import http.client  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from typing import Any  # noqa: E402
from urllib.parse import urlsplit  # noqa: E402

import gevent  # noqa: E402
from gevent.event import Event  # noqa: E402
from gevent.fileobject import FileObjectThread  # noqa: E402

TOKENS_PER_SECOND = 10
# A request that takes so long was stalled, on however slow a machine.
SLOW_SECONDS = 5.0


class Load:
    def __init__(self, url: str, key: str, model: str) -> None:
        parts = urlsplit(url)
        self.address = (parts.hostname or "", parts.port or 80)
        self.headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        self.model = model
        self.stopped = Event()
        self.requests = 0
        self.failed: list[str] = []
        self.streams_finished = 0
        self.streams_cut: list[str] = []
        self.reopened = 0
        self.longest = 0.0
        self.slow: list[str] = []

    def body(self, model: str, **more: Any) -> str:
        return json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}], **more})

    def plain(self, every: float) -> None:
        """One keep-alive connection, as a pool of a client has it: one that has been closed while it was idle is opened again, and nothing is sent twice."""
        connection: http.client.HTTPConnection | None = None
        while not self.stopped.is_set():
            began = time.monotonic()
            try:
                if connection is None or connection.sock is None:
                    connection = http.client.HTTPConnection(*self.address, timeout=30)
                    connection.connect()
                    self.reopened += 1
                elif _has_been_closed(connection):
                    connection.close()
                    continue
                connection.request("POST", "/v1/chat/completions", self.body(self.model), self.headers)
                answer = connection.getresponse()
                data = answer.read()
                self.requests += 1
                if answer.status != 200:
                    self.failed.append(f"{time.time():.2f} {answer.status} {data[:200]!r}")
                if answer.will_close:
                    connection.close()
            except (OSError, http.client.HTTPException) as error:
                self.requests += 1
                self.failed.append(f"{time.time():.2f} {type(error).__name__} {error}")
                if connection is not None:
                    connection.close()
                connection = None
            took = time.monotonic() - began
            self.longest = max(self.longest, took)
            if took > SLOW_SECONDS:
                self.slow.append(f"{time.time() - took:.2f} {took:.2f} s")
            self.stopped.wait(max(0.0, every - took))
        if connection is not None:
            connection.close()

    def stream(self, seconds: float) -> None:
        while not self.stopped.is_set():
            model = f"openai:gpt-sim~tokens={int(seconds * TOKENS_PER_SECOND)}~rate={TOKENS_PER_SECOND}"
            connection = http.client.HTTPConnection(*self.address, timeout=60)
            data = b""
            try:
                connection.request("POST", "/v1/chat/completions", self.body(model, stream=True), self.headers)
                answer = connection.getresponse()
                while piece := answer.read1(65536):
                    data += piece
                if answer.status == 200 and data.endswith(b"data: [DONE]\n\n"):
                    self.streams_finished += 1
                else:
                    self.streams_cut.append(f"{time.time():.2f} {answer.status} {data[-200:]!r}")
            except (OSError, http.client.HTTPException) as error:
                self.streams_cut.append(f"{time.time():.2f} {type(error).__name__} {error} {data[-100:]!r}")
            finally:
                connection.close()
            gevent.sleep(0)


def _has_been_closed(connection: http.client.HTTPConnection) -> bool:
    """Whether the server has ended an idle connection: what a pool looks at before it uses one."""
    import select

    return bool(select.select([connection.sock], [], [], 0)[0])


def main() -> None:
    url, key, rate, connections, streams, stream_seconds, model = sys.argv[1:]
    load = Load(url, key, model)
    work = [gevent.spawn(load.stream, float(stream_seconds)) for _ in range(int(streams))]
    for number in range(int(connections)):
        every = int(connections) / float(rate)
        work.append(gevent.spawn_later(every * number / int(connections), load.plain, every))
    print("ready", flush=True)
    FileObjectThread(sys.stdin.buffer).read()
    load.stopped.set()
    gevent.joinall(work)
    told = {name: getattr(load, name) for name in ("requests", "failed", "streams_finished", "streams_cut", "reopened", "longest", "slow")}
    print(json.dumps(told), flush=True)


main()
