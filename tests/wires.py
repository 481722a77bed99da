"""Wires of sockets that tests have made."""

from __future__ import annotations

import _socket
from typing import Any

from coollm.wire import Wire


def plain_wire(connection: Any) -> Wire:
    """A wire that takes a gevent socket over."""
    return Wire(_socket.socket(connection.family, _socket.SOCK_STREAM, 0, fileno=connection.detach()))
