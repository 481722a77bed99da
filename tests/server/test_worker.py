"""The worker's own accepting: bounds, and what happens beyond them."""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event

from coollm.server import worker as module
from coollm.server.traffic import Traffic
from coollm.server.worker import GatewayWorker, _Listener


def hello(environ: dict[str, Any], start_response: Any) -> tuple[bytes, ...]:
    start_response("200 OK", [("content-length", "5")])
    return (b"hello",)


@pytest.fixture
def listening() -> Iterator[tuple[GatewayWorker, _Listener, tuple[str, int]]]:
    """A worker that takes two connections at most, without its arbiter."""
    worker: Any = GatewayWorker.__new__(GatewayWorker)
    worker.alive, worker.worker_connections, worker.log = True, 2, logging.getLogger("worker")
    worker._open, worker._served, worker._tls, worker._application, worker._stopped = set(), {}, None, hello, Event()
    worker._traffic, worker._local_traffic, worker.is_draining = Traffic(), Traffic(), False
    bound = socket.create_server(("127.0.0.1", 0))
    address = bound.getsockname()
    listener = _Listener(bound, 64, worker._accepted)
    worker._listeners = [listener]
    listener.start()
    yield worker, listener, address
    gevent.killall(list(worker._open))
    listener.close()


def ask(address: tuple[str, int]) -> Any:
    one = socket.create_connection(address, timeout=5)
    one.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    return one


def test_beyond_its_bound_connections_wait_in_the_queue(listening: tuple[GatewayWorker, _Listener, tuple[str, int]]) -> None:
    _, _, address = listening
    first, second = ask(address), ask(address)
    assert first.recv(1000).endswith(b"hello")
    assert second.recv(1000).endswith(b"hello")
    third = ask(address)
    third.settimeout(0.2)
    with pytest.raises(TimeoutError):
        third.recv(1000)
    first.close()
    third.settimeout(5)
    assert third.recv(1000).endswith(b"hello")
    second.close()
    third.close()


def test_without_a_descriptor_it_tries_again(listening: tuple[GatewayWorker, _Listener, tuple[str, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    _, listener, address = listening
    monkeypatch.setattr(module, "PAUSE_SECONDS", 0.05)

    class Full:
        tries = 0

        def _accept(self) -> Any:
            Full.tries += 1
            raise OSError(errno.EMFILE, "Too many open files")

    real, listener._socket = listener._socket, Full()  # type: ignore[assignment]
    one = ask(address)
    gevent.sleep(0.3)
    assert 2 <= Full.tries < 20, "it neither gives up nor spins"
    listener._socket = real
    assert one.recv(1000).endswith(b"hello")
    one.close()


def test_one_that_stops_takes_no_more(listening: tuple[GatewayWorker, _Listener, tuple[str, int]]) -> None:
    _, listener, address = listening
    listener.end()
    listener.start()
    one = ask(address)
    one.settimeout(0.2)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        one.recv(1000)
    assert time.monotonic() - began < 2
    one.close()
