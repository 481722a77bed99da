"""What chaos runs are made of: a load whose every answer is remembered, a proxy that dawdles, and an instance in a network namespace of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import requests

from tests.conftest import GatewayHandle


class Load:
    """Clients that ask one after the other, some for streams. `longest` is the longest that any of them waited."""

    def __init__(self, gateways: list[GatewayHandle], clients: int = 12, timeout: float = 20.0) -> None:
        self.answered: list[str] = []
        self.statuses: dict[int, int] = {}
        self.broken = 0
        self.hung: list[float] = []
        self.longest = 0.0
        self._gateways = gateways
        self._timeout = timeout
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        gateway = self._gateways[number % len(self._gateways)]
        with requests.Session() as session:
            while not self._stop.is_set():
                started = time.monotonic()
                try:
                    self._ask(session, gateway, stream=number % 3 == 0)
                except requests.Timeout:
                    self.hung.append(time.monotonic() - started)
                except requests.RequestException:
                    self.broken += 1
                    time.sleep(0.05)
                self.longest = max(self.longest, time.monotonic() - started)

    def _ask(self, session: requests.Session, gateway: GatewayHandle, *, stream: bool) -> None:
        body = {"model": "gpt-sim~tokens=20~latency_ms=20", "messages": [{"role": "user", "content": "x" * 40}], "max_tokens": 20, "stream": stream}
        answer = session.post(f"{gateway.url}/v1/chat/completions", json=body, headers=gateway.headers, timeout=self._timeout)
        self.statuses[answer.status_code] = self.statuses.get(answer.status_code, 0) + 1
        if answer.status_code == 200:
            self.answered.append(answer.headers["x-request-id"])
        else:
            time.sleep(0.05)


class Proxy:
    """Forwards connections to a port; each piece waits `delay` seconds."""

    def __init__(self, port: int) -> None:
        self.delay = 0.0
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._server.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target), 2)
                except OSError:
                    client.close()
                    continue
                for one, other in ((client, server), (server, client)):
                    threading.Thread(target=self._forward, args=(one, other), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self.delay:
                    time.sleep(self.delay)
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Namespace:
    """A network namespace with two cables to this one: one for clients and vendors, one for Redis, which can be cut."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.outside, self.inside = f"10.{number}.0.1", f"10.{number}.0.2"
        self.redis_outside = f"10.{number}.1.1"
        self._number = number

    def command(self, command: list[str]) -> list[str]:
        return ["ip", "netns", "exec", self.name, *command]

    def cut(self, *, is_cut: bool) -> None:
        """Cuts the cable to Redis, without a word to either end, or mends it."""
        _ip("link", "set", f"cr{self._number}o", "down" if is_cut else "up")

    def __enter__(self) -> Namespace:
        _ip("netns", "add", self.name)
        for kind, net in (("ct", 0), ("cr", 1)):
            outside, inside = f"{kind}{self._number}o", f"{kind}{self._number}i"
            _ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", self.name)
            _ip("addr", "add", f"10.{self._number}.{net}.1/24", "dev", outside)
            _ip("link", "set", outside, "up")
            _ip("-n", self.name, "addr", "add", f"10.{self._number}.{net}.2/24", "dev", inside)
            _ip("-n", self.name, "link", "set", inside, "up")
        _ip("-n", self.name, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["ip", "netns", "delete", self.name], check=False, capture_output=True)
        for kind in ("ct", "cr"):
            subprocess.run(["ip", "link", "delete", f"{kind}{self._number}o"], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def may_make_namespaces() -> bool:
    """Whether network namespaces and file systems can be made here: as root, with iproute2."""
    return os.getuid() == 0 and shutil.which("ip") is not None


@contextlib.contextmanager
def small_disk(place: Any, kilobytes: int) -> Iterator[None]:
    """A file system of its own at `place`, of a few kilobytes."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k,mode=700", "tmpfs", str(place)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True, capture_output=True)
