"""gunicorn's gevent worker, which does not wait for clients that have nothing to say.

gunicorn keeps a stopping worker alive until its last connection has closed, and an idle keep-alive connection does not close by itself (gunicorn#3227): a stop
would take the whole graceful time-out. So on stop the idle connections are ended, and a request that still arrives is answered with `Connection: close`.
"""

from __future__ import annotations

import _socket
import os
from types import FrameType
from typing import Any

import gevent
from gunicorn.workers.ggevent import GeventWorker


class GatewayWorker(GeventWorker):  # type: ignore[misc]
    """Knows which of its connections are idle."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._idle: set[Any] = set()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serves one connection."""
        self._idle.add(client)
        try:
            super().handle(listener, client, addr)
        finally:
            self._idle.discard(client)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        """Serves one request of a connection."""
        self._idle.discard(sock)
        if not self.alive:
            req.force_close()
        try:
            return super().handle_request(listener_name, req, sock, addr)
        finally:
            self._idle.add(sock)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """TERM: finishes what is in flight and goes."""
        super().handle_exit(sig, frame)
        gevent.spawn(self._end_idle_connections)

    def _end_idle_connections(self) -> None:
        """Until the worker is gone: a request that is answered now leaves an idle connection behind."""
        while True:
            for connection in list(self._idle):
                try:
                    _end_reading(connection.fileno())
                except OSError:
                    self._idle.discard(connection)
            gevent.sleep(0.2)


def _end_reading(descriptor: int) -> None:
    """Puts a connection at its end: what has arrived can still be read, and then it is over.

    Not by gevent's own `shutdown`, which breaks the reader off with an exception and loses a request that has just arrived.
    """
    twin = _socket.socket(fileno=os.dup(descriptor))
    try:
        twin.shutdown(_socket.SHUT_RD)
    finally:
        twin.close()
