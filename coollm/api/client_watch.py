"""Notices that a client has left while its request is served, so that the vendor's call can be cancelled."""

from __future__ import annotations

import os
import socket as _socket
from typing import Any

import gevent

from coollm.cancellation import Cancellation

# A TLS record of this type is an alert: close_notify, when a client leaves (RFC 8446 5.1).
TLS_ALERT = b"\x15"

# Where the server puts the watch of a request's connection.
ENVIRON_KEY = "coollm.client_watch"


class ClientWatch:
    """Watches a client's socket while a request of it is served. What arrives is only peeked at: the next request of the connection stays where it is.

    One for each connection, for making one costs more than starting it; whoever made it closes it.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._cancellation: Cancellation | None = None
        self._watcher: Any = None
        self._peeking: _socket.socket | None = None
        self._is_tls = hasattr(connection, "pending")

    def start(self, cancellation: Cancellation) -> None:
        """Watches on behalf of one request."""
        self._cancellation = cancellation
        if self._connection is None:
            return
        if self._watcher is None:
            # A descriptor of our own: libev watches must not outlive the number they were made for.
            self._peeking = _socket.socket(fileno=os.dup(self._connection.fileno()))
            self._peeking.setblocking(False)
            self._watcher = gevent.get_hub().loop.io(self._peeking.fileno(), 1)
        self._watcher.start(self._readable)

    def stop(self) -> None:
        """The request is served."""
        self._cancellation = None
        if self._watcher is not None:
            self._watcher.stop()

    def close(self) -> None:
        """Lets go of the connection."""
        self.stop()
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.close()
        if self._peeking is not None:
            self._peeking.close()
            self._peeking = None

    def _readable(self) -> None:
        cancellation = self._cancellation
        if self._peeking is None or cancellation is None:
            return
        try:
            first = _socket.socket.recv(self._peeking, 1, _socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            first = b""
        self.stop()  # level-triggered: data that stays unread would call again and again
        if not first or (self._is_tls and first == TLS_ALERT):
            # In a greenlet of its own: the callbacks close sockets, which the event loop's own callback must not wait for.
            gevent.spawn(cancellation.cancel)


def watch_of(environ: dict[str, Any]) -> ClientWatch:
    """The watch of a request's connection; one that sees nothing where the server gives none."""
    found: ClientWatch | None = environ.get(ENVIRON_KEY)
    return found or ClientWatch(None)
