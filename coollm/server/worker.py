"""gunicorn's gevent worker, which does not wait for clients that have nothing to say.

gunicorn keeps a stopping worker alive until its last connection has closed, and an idle keep-alive connection does not close by itself (gunicorn#3227): a stop
would take the whole graceful time-out. So on stop the idle connections are ended, and a request that still arrives is answered with `Connection: close`.
"""

from __future__ import annotations

from types import FrameType
from typing import Any

import gevent
from gevent import socket
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
                    # What has arrived can still be read; after it the connection is at its end.
                    connection.shutdown(socket.SHUT_RD)
                except OSError:
                    self._idle.discard(connection)
            gevent.sleep(0.2)
