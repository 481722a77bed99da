"""gunicorn's gevent worker, which on stop does not wait for clients that have nothing to say, and does not hang up on those that have.

gunicorn keeps a stopping worker alive until its last connection has closed, and an idle keep-alive connection does not close by itself (gunicorn#3227): a stop
would take the whole graceful time-out. So a connection that stays idle for a moment after the stop is ended. A request that arrives within that moment is
answered, with `Connection: close`.
"""

from __future__ import annotations

import _socket
import os
import time
from types import FrameType
from typing import Any

import gevent
from gunicorn.workers.ggevent import GeventWorker

# Time for a request that is on its way, and for a client to notice `Connection: close` and open another connection elsewhere.
LINGER_SECONDS = 2.0


class GatewayWorker(GeventWorker):  # type: ignore[misc]
    """Knows which of its connections are idle, and since when."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._idle_since: dict[Any, float] = {}

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serves one connection."""
        self._idle_since[client] = time.monotonic()
        try:
            super().handle(listener, client, addr)
        finally:
            self._idle_since.pop(client, None)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        """Serves one request of a connection."""
        self._idle_since.pop(sock, None)
        if not self.alive:
            req.force_close()
        try:
            return super().handle_request(listener_name, req, sock, addr)
        finally:
            self._idle_since[sock] = time.monotonic()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """TERM: finishes what is in flight and goes."""
        super().handle_exit(sig, frame)
        gevent.spawn(self._end_idle_connections, time.monotonic())

    def _end_idle_connections(self, stopped: float) -> None:
        """Until the worker is gone: a request that is answered now leaves an idle connection behind."""
        while True:
            gevent.sleep(0.1)
            now = time.monotonic()
            for connection, since in list(self._idle_since.items()):
                if now - max(since, stopped) < LINGER_SECONDS:
                    continue
                try:
                    _end_if_quiet(connection.fileno())
                except OSError:
                    self._idle_since.pop(connection, None)


def _end_if_quiet(descriptor: int) -> None:
    """Puts a connection at its end, unless a request has just arrived on it: that is answered first.

    Not by gevent's own `shutdown`, which breaks off whoever reads with an exception.
    """
    twin = _socket.socket(fileno=os.dup(descriptor))
    try:
        try:
            if twin.recv(1, _socket.MSG_PEEK | _socket.MSG_DONTWAIT):
                return
        except BlockingIOError:
            twin.shutdown(_socket.SHUT_RD)
    finally:
        twin.close()
