"""Notices that a client has left while its request is served, so that the vendor's call can be cancelled."""

from __future__ import annotations

import os
import socket as _socket
from typing import Any

import gevent

from coollm.cancellation import Cancellation

# A TLS record of this type is an alert: close_notify, when a client leaves (RFC 8446 5.1).
TLS_ALERT = b"\x15"


class ClientWatch:
    """Watches a client's socket from now until `stop`. What arrives is only peeked at: the next request of the connection stays where it is."""

    def __init__(self, connection: Any, cancellation: Cancellation) -> None:
        self._cancellation = cancellation
        self._watcher: Any = None
        self._peeking: _socket.socket | None = None
        if connection is None:
            return
        # A descriptor of our own: libev watches must not outlive the number they were made for.
        self._peeking = _socket.socket(fileno=os.dup(connection.fileno()))
        self._peeking.setblocking(False)
        self._is_tls = hasattr(connection, "pending")
        self._watcher = gevent.get_hub().loop.io(self._peeking.fileno(), 1)
        self._watcher.start(self._readable)

    def stop(self) -> None:
        """Ends the watch."""
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.stop()
            watcher.close()
        if self._peeking is not None:
            self._peeking.close()
            self._peeking = None

    def _readable(self) -> None:
        if self._peeking is None:
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
            gevent.spawn(self._cancellation.cancel)
