"""Writes one answer to a client: with one send where it is small, piece by piece where it comes so, and no faster than the client reads.

Sources: PEP 3333, RFC 9112 (sections 6 and 7).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from coollm.wire import Wire

# Between two pieces of a body, and for a piece of an answer to be taken.
PIECE_SECONDS = 75.0

# So much waits for a client before its vendor has to.
MOST_POSTED_BYTES = 64 * 1024

EVENT_STREAM = "text/event-stream"


class Served(Protocol):
    """The connection, which is told how it is answered."""

    status: str
    is_stream: bool


class Request(Protocol):
    """What is answered."""

    method: str
    version: str
    keeps_alive: bool


class Answer:
    """Writes one answer."""

    def __init__(self, served: Served, wire: Wire, request: Request, must_close: Callable[[Any], bool]) -> None:
        self._served = served
        self._wire = wire
        self._request = request
        self._must_close = must_close
        self._head = b""
        self._is_chunked = False
        self._has_length = False
        self.keeps_alive = request.keeps_alive

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:  # noqa: ARG002  as PEP 3333 has it
        """`start_response` of WSGI. Raises ValueError for a header that would end the head."""
        served, request = self._served, self._request
        served.status = status
        lines = [f"HTTP/1.1 {status}", _date(), *map(_LINE, headers)]
        # Our own routes tell the length last, in lower case.
        if (headers and headers[-1][0] == "content-length") or any(name.lower() == "content-length" for name, _ in headers):
            self._has_length = True
        else:
            served.is_stream = any(value.startswith(EVENT_STREAM) for _, value in headers)
            if request.method != "HEAD" and not status.startswith(("204", "304")):
                self._is_chunked = request.version == "1.1"
                if self._is_chunked:
                    lines.append("transfer-encoding: chunked")
                else:
                    self.keeps_alive = False  # its end is that of the connection
        if self._must_close(request):
            self.keeps_alive = False
        if not self.keeps_alive:
            lines.append("connection: close")
        elif request.version == "1.0":
            lines.append("connection: keep-alive")
        text = "".join(lines)  # joined twice: to count the breaks of a text takes longer than to look whether there is one
        if "\n" in text or "\r" in text:
            raise ValueError("a header of the answer holds a line break")
        self._head = "\r\n".join(lines).encode("latin-1", "replace") + b"\r\n\r\n"
        return self._write

    def write_all(self, pieces: Iterable[bytes]) -> None:
        """The body, each piece as soon as it is there; the head goes out with the first. Raises OSError."""
        if self._request.method == "HEAD":
            next(iter(pieces), None)  # an application may begin with its first piece
            self._flush()
            return
        if isinstance(pieces, tuple) and len(pieces) == 1 and self._has_length:
            self._wire.send_soon(self._head + pieces[0], time.monotonic() + PIECE_SECONDS)
            self._head = b""
            return
        relay = getattr(pieces, "relay", None)
        for piece in pieces:
            self._write(piece)
            if relay is not None:
                relay(self._post)
        if self._is_chunked:
            head, self._head = self._head, b""
            self._send(head + b"0\r\n\r\n")
        else:
            self._flush()

    def _write(self, piece: bytes) -> None:
        if piece:
            head, self._head = self._head, b""
            self._send(head + b"%x\r\n%b\r\n" % (len(piece), piece) if self._is_chunked else head + piece)

    def _post(self, piece: bytes) -> bool:
        """Sends a piece without waiting; whether it did: a client that does not read is waited for by `_write`."""
        wire = self._wire
        if len(wire.backlog) > MOST_POSTED_BYTES:
            return False
        try:
            wire.post_soon(b"%x\r\n%b\r\n" % (len(piece), piece) if self._is_chunked else piece)
        except OSError:
            return False
        return True

    def _send(self, data: bytes) -> None:
        self._wire.send(data, time.monotonic() + PIECE_SECONDS)

    def _flush(self) -> None:
        if self._head:
            head, self._head = self._head, b""
            self._send(head)


# The name and the value of a header.
_LINE = ": ".join

_dated = (0, "")


def _date() -> str:
    """The header `date`, made once a second."""
    global _dated
    now = int(time.time())
    if _dated[0] != now:
        _dated = (now, time.strftime("date: %a, %d %b %Y %H:%M:%S GMT", time.gmtime(now)))
    return _dated[1]
