"""gunicorn's gevent worker with connections of our own, which on stop does not wait for clients that have nothing to say, nor hangs up on those that have.

gunicorn keeps a stopping worker alive until its last connection has closed, and an idle keep-alive connection does not close by itself (gunicorn#3227): a stop
would take the whole graceful time-out. So a connection that stays idle for a moment after the stop is ended. A request that arrives within that moment is
answered, with `Connection: close`.
"""

from __future__ import annotations

import _socket
import os
import ssl
import time
from types import FrameType
from typing import Any

import gevent
from gunicorn.http.wsgi import base_environ
from gunicorn.workers.ggevent import GeventWorker

from coollm.server.connection import Connection

# Time for a request that is on its way, and for a client to notice `Connection: close` and open another connection elsewhere.
LINGER_SECONDS = 2.0


class GatewayWorker(GeventWorker):  # type: ignore[misc]
    """Knows which of its connections are idle, and since when."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._idle_since: dict[Any, float] = {}
        self._environs: dict[Any, dict[str, Any]] = {}

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serves one connection."""

        def idle(is_idle: bool) -> None:
            if is_idle:
                self._idle_since[client] = time.monotonic()
            else:
                self._idle_since.pop(client, None)

        idle(True)
        environ = {**self._environ_of(listener), "REMOTE_ADDR": addr[0] if isinstance(addr, tuple) else ""}
        try:
            Connection(client, self.wsgi, environ, lambda: not self.alive, idle).serve()
        except (OSError, ssl.SSLError) as error:
            self.log.debug("a connection broke: %s", error)
        except Exception:
            self.log.exception("a connection was given up")
        finally:
            self._idle_since.pop(client, None)
            client.close()

    def _environ_of(self, listener: Any) -> dict[str, Any]:
        """What all requests of a listener have."""
        found = self._environs.get(listener)
        if found is None:
            name = listener.getsockname()
            host, port = (name[0], str(name[1])) if isinstance(name, tuple) else (str(name), "")
            scheme = "https" if self.cfg.is_ssl else "http"
            more = {"wsgi.multithread": True, "wsgi.url_scheme": scheme, "SCRIPT_NAME": "", "SERVER_NAME": host, "SERVER_PORT": port}
            found = self._environs[listener] = {**base_environ(self.cfg), **more}
        return found

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
