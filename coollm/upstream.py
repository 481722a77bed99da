"""Requests to vendors: a keep-alive pool, with llhttp (httptools) to parse answers.

Tokens are fetched by google-auth and botocore themselves (`coollm/providers/vertex_key.py`, `bedrock_key.py`).

Not the `requests` package: a read of it that blocks cannot be cancelled when the client leaves, and the vendor would go on working for nobody.
Redirects are not followed: a vendor's API does not send them, and following one would let an answer choose a host.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import gevent
import httptools

from coollm.cancellation import Cancellation
from coollm.connecting import Connector, Origin, proxy_headers
from coollm.core.config.schema import Timeouts
from coollm.core.errors import Cancelled
from coollm.providers.base import VendorRequest
from coollm.providers.payload import Body
from coollm.providers.verdict import Cause, VendorError, Verdict
from coollm.waits import Waiter
from coollm.wire import RECEIVE_BYTES, Wire

SMALL_BODY_BYTES = 65536
LARGEST_ANSWER_BYTES = 256 * 1024 * 1024
LARGEST_HEADER_BYTES = 256 * 1024
MOST_IDLE_CONNECTIONS = 128
MOST_HEADS = 2000
DRAIN_SECONDS = 0.05
LONGEST_IDLE_SECONDS = 55.0  # the usual keep-alive time of servers is 60 s and more


class _Head(NamedTuple):
    """Where a request goes, and the beginning of its bytes: all but the length of the body."""

    origin: Origin
    start: bytes


class Upstream:
    """Sends requests to vendors. One for each worker; it keeps connections open between requests."""

    def __init__(self, timeouts: Timeouts, connector: Connector | None = None) -> None:
        self._timeouts = timeouts
        self._connector = connector or Connector()
        self._idle: dict[Origin, deque[tuple[Wire, float]]] = {}  # each with the moment since when
        self._heads: dict[tuple[str, str, tuple[tuple[str, str], ...]], _Head] = {}

    def send(self, request: VendorRequest, cancellation: Cancellation) -> Exchange:
        """Sends `request` and waits for the head of the answer.

        Raises VendorError (CONNECT_FAILED, TIMEOUT, CUT, BAD_ANSWER), or Cancelled as soon as the client leaves. The caller closes the exchange.
        """
        origin, start = self._head(request)
        size = len(request.body) if isinstance(request.body, bytes) else request.body.size
        head = start + (b"content-length: %d\r\n\r\n" % size if size or request.method not in ("GET", "DELETE") else b"\r\n")
        now = time.monotonic()
        deadline = now + self._timeouts.total
        if cancellation.is_cancelled:
            cancellation.check()
        pooled = self._take(origin, now)
        if pooled is not None:
            exchange = Exchange(self, origin, pooled, self._timeouts, deadline, cancellation)
            try:
                return exchange.start(head, request.body)
            except VendorError as error:
                # The vendor may close an idle connection at the moment we use it. Without a byte of an answer the request was not served.
                if error.verdict.cause is not Cause.CUT or exchange.has_received:
                    raise
        return Exchange(self, origin, self._connect(origin, cancellation), self._timeouts, deadline, cancellation).start(head, request.body)

    def close(self) -> None:
        """Closes every idle connection."""
        for waiting in self._idle.values():
            while waiting:
                waiting.pop()[0].close()

    def _head(self, request: VendorRequest) -> _Head:
        """Made once for each vendor key, mostly."""
        name = (request.method, request.url, request.headers)
        found = self._heads.get(name)
        if found is None:
            found = self._make_head(request)
            if len(self._heads) >= MOST_HEADS:
                self._heads.clear()
            self._heads[name] = found
        return found

    def _make_head(self, request: VendorRequest) -> _Head:
        parts = urlsplit(request.url)
        is_tls = parts.scheme == "https"
        origin = Origin(is_tls, parts.hostname or "", parts.port or (443 if is_tls else 80))
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = [("host", parts.netloc.rpartition("@")[2]), ("accept-encoding", "identity"), *request.headers]
        proxy = None if is_tls else self._connector.proxy_of(origin)
        if proxy is not None:
            # Through TLS the proxy sees nothing; otherwise it is asked for the whole address (RFC 9112 3.2.2).
            target = f"http://{parts.netloc}{target}"
            headers += proxy_headers(proxy)
        lines = [f"{request.method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        text = "\r\n".join(lines)
        if text.count("\r") != len(lines) - 1 or text.count("\n") != len(lines) - 1:
            raise _failed(Cause.CLIENT_FAULT, "a header of the request holds a line break")
        return _Head(origin, text.encode("latin-1", "replace") + b"\r\n")

    def _take(self, origin: Origin, now: float) -> Wire | None:
        waiting = self._idle.get(origin)
        while waiting:
            wire, since = waiting.pop()
            if wire.is_quiet and now - since < LONGEST_IDLE_SECONDS:
                return wire
            wire.close()
        return None

    def give_back(self, origin: Origin, wire: Wire) -> None:
        """Keeps a connection whose answer was read to its end."""
        waiting = self._idle.get(origin)
        if waiting is None:
            waiting = self._idle[origin] = deque()
        waiting.append((wire, time.monotonic()))
        if len(waiting) > MOST_IDLE_CONNECTIONS:
            waiting.popleft()[0].close()

    def _connect(self, origin: Origin, cancellation: Cancellation) -> Wire:
        try:
            wire = self._connector.open(origin, time.monotonic() + self._timeouts.connect)
        except TimeoutError as error:
            raise _failed(Cause.TIMEOUT, f"no connection to {origin.host}:{origin.port} within {self._timeouts.connect}") from error
        except (OSError, ValueError) as error:
            raise _failed(Cause.CONNECT_FAILED, f"no connection to {origin.host}:{origin.port}: {_reason(error)}") from error
        if cancellation.is_cancelled:
            wire.close()
            cancellation.check()
        return wire

    def keep_session(self, origin: Origin, wire: Wire) -> None:
        """Remembers how the next connection to the origin can go on from this one."""
        self._connector.keep_session(origin, wire)


class _Relay(Waiter):
    """Waits while pieces come, until there was none for `idle` seconds. When the last one came is noted, and looked at when it may have been long ago."""

    __slots__ = ("_deadline", "_idle", "came_at")

    def __init__(self, hub: Any, idle: float, deadline: float) -> None:
        self._idle = idle
        self._deadline = deadline
        self.came_at = time.monotonic()
        super().__init__(hub, self._until())

    def expire(self) -> None:
        self.until = self._until()
        if self.until <= time.monotonic():
            super().expire()

    def _until(self) -> float:
        return min(self.came_at + self._idle, self._deadline)


class Exchange:
    """One request and its answer. `status` and `headers` are there after `start`."""

    __slots__ = (
        *("_body", "_broken", "_can_be_kept", "_cancellation", "_deadline", "_has_head", "_header_bytes", "_is_complete", "_origin", "_owner", "_parser"),
        *("_raw_headers", "_relaying", "_timeouts", "_wire", "has_received", "on_body", "on_header", "status"),
    )

    def __init__(self, owner: Upstream, origin: Origin, wire: Wire, timeouts: Timeouts, deadline: float, cancellation: Cancellation) -> None:
        self._raw_headers: dict[bytes, bytes] = {}
        # Callbacks of httptools, which are no calls of Python.
        self.on_header = self._raw_headers.__setitem__
        self._owner = owner
        self._origin = origin
        self._wire: Wire | None = wire
        self._timeouts = timeouts
        self._deadline = deadline
        self._cancellation = cancellation
        self._body: list[bytes] = []
        self.on_body = self._body.append
        self.status = self._header_bytes = 0
        self.has_received = self._has_head = self._is_complete = self._can_be_kept = False
        self._relaying: _Relay | None = None
        self._broken: VendorError | None = None
        self._parser: Any = httptools.HttpResponseParser(self)
        cancellation.add(self._abort)

    @property
    def headers(self) -> dict[str, str]:
        """By lower-case names. Made when it is asked for: few answers' are."""
        return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self._raw_headers.items()}

    @property
    def is_complete(self) -> bool:
        """Whether all of the answer has come, and what `pieces` gave was the last of it."""
        return self._is_complete and not self._body

    def start(self, head: bytes, body: bytes | Body) -> Exchange:
        """Sends the request and reads the head of the answer. Closes itself if it fails."""
        try:
            if isinstance(body, bytes) and len(body) < SMALL_BODY_BYTES:
                until = min(time.monotonic() + self._timeouts.first_byte, self._deadline)
                wire = self._wire or self._open_wire()
                wire.send_soon(head + body, until)
            else:
                self._send_pieces(head, body)
                until = min(time.monotonic() + self._timeouts.first_byte, self._deadline)
            while not self._has_head:
                self._receive(until)
        except BaseException as error:
            self.close()
            if isinstance(error, TimeoutError | OSError):
                raise self._translate(error) from error
            raise
        return self

    def _send_pieces(self, head: bytes, body: bytes | Body) -> None:
        """Sends a large body without a copy of it. The time-out is that of one piece: a slow network may take its time."""
        self._open_wire().send(head, min(time.monotonic() + self._timeouts.first_byte, self._deadline))
        for piece in (body,) if isinstance(body, bytes) else body.pieces():
            self._cancellation.check()
            self._open_wire().send(piece, min(time.monotonic() + self._timeouts.first_byte, self._deadline))

    def read(self) -> bytes:
        """The whole body. Raises as `Upstream.send`."""
        if self._is_complete and len(self._body) == 1:  # it came with its head
            return self._body.pop()
        pieces = []
        size = 0
        for piece in self.pieces():
            size += len(piece)
            if size > LARGEST_ANSWER_BYTES:
                raise _failed(Cause.BAD_ANSWER, f"an answer of more than {LARGEST_ANSWER_BYTES} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    def pieces(self) -> Iterator[bytes]:
        """The body as it arrives. Raises as `Upstream.send`."""
        while True:
            while self._body:  # `relay` may have left some
                piece = self._take_body()
                self._body.clear()
                yield piece
            if self._is_complete:
                return
            try:
                self._receive(self._idle_until())
            except OSError as error:
                raise self._translate(error) from error

    def relay(self, accept: Callable[[bytes], bool]) -> None:
        """Gives pieces of the body to `accept` as they come, called by the loop: that saves a switch to the greenlet for each. It returns when one is not
        accepted, or the answer ends or breaks off, which `pieces` then tells. Raises VendorError where nothing comes in time, and Cancelled.
        """
        wire = self._open_wire()
        if self._body or self._is_complete or not wire.is_quiet:
            return
        waiter = self._relaying = _Relay(gevent.get_hub(), self._timeouts.idle, self._deadline)
        body, feed = self._body, self._parser.feed_data

        def came(data: bytes) -> None:
            waiter.came_at = time.monotonic()
            try:
                feed(data)
            except httptools.HttpParserError as error:
                self._broken = _no_http(error)
                waiter.give(None)
                return
            if body and accept(body[0] if len(body) == 1 else b"".join(body)):
                body.clear()
            if body or self._is_complete:
                waiter.give(None)

        wire.on_data, wire.on_end = came, lambda: waiter.give(None)
        try:
            waiter.wait()
        except OSError as error:
            raise self._translate(error) from error
        finally:
            wire.on_data = wire.on_end = None
            self._relaying = None

    def drain(self) -> None:
        """Gives the end of an answer, whose content has all come, a moment to arrive, so that the connection can be used again."""
        try:
            while not self._is_complete and self._wire is not None:
                self._receive(time.monotonic() + DRAIN_SECONDS)
        except (OSError, VendorError, Cancelled):
            return

    def close(self) -> None:
        """Lets go of the connection: back to the pool if the answer was read to its end, else closed, so that the vendor stops."""
        wire, self._wire = self._wire, None
        self._cancellation.discard(self._abort)
        self._parser = self._broken = None  # which hold this one: by callbacks, by a traceback
        if wire is None:
            return
        if self._origin.is_tls and self.has_received:
            self._owner.keep_session(self._origin, wire)
        if self._is_complete and self._can_be_kept:
            self._owner.give_back(self._origin, wire)
        else:
            wire.close()

    def _take_body(self) -> bytes:
        return self._body[0] if len(self._body) == 1 else b"".join(self._body)

    def _idle_until(self) -> float:
        return min(time.monotonic() + self._timeouts.idle, self._deadline)

    def _abort(self) -> None:
        """The client left: closing the wire wakes the greenlet that reads from it."""
        wire, self._wire = self._wire, None
        if self._relaying is not None:
            self._relaying.fail(self._cancellation.error())
        if wire is not None:
            wire.close()

    def _open_wire(self) -> Wire:
        if self._wire is None:
            self._cancellation.check()
            raise _failed(Cause.CUT, "the connection was closed")
        return self._wire

    def _receive(self, until: float) -> None:
        """Takes in what comes next. Raises VendorError for what is no answer, Cancelled, TimeoutError and OSError."""
        if self._broken is not None:
            raise self._broken
        wire = self._wire or self._open_wire()
        data = wire.receive(until)
        if self._cancellation.is_cancelled:
            self._cancellation.check()
        if not data:
            self._end_of_file()
            return
        self.has_received = True
        if not self._has_head:
            self._header_bytes += len(data)
            if self._header_bytes > LARGEST_HEADER_BYTES + RECEIVE_BYTES:
                raise _failed(Cause.BAD_ANSWER, "the head of the answer is too large")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise _no_http(error) from error

    def _end_of_file(self) -> None:
        if self._has_head and not self._is_framed():
            self._is_complete = True  # a body without a length ends with the connection (RFC 9112 6.3)
            return
        where = "in the middle of the answer" if self.has_received else "before an answer"
        raise _failed(Cause.CUT, f"{self._origin.host} closed the connection {where}")

    def _is_framed(self) -> bool:
        """Whether the answer itself says where it ends."""
        headers = self.headers
        return "content-length" in headers or "chunked" in headers.get("transfer-encoding", "").lower() or self.status in (204, 304)

    def _translate(self, error: OSError) -> Exception:
        if self._cancellation.is_cancelled:
            return self._cancellation.error()
        if isinstance(error, TimeoutError):
            what = "no further piece of the answer" if self._has_head else "no answer"
            limit = self._timeouts.idle if self._has_head else self._timeouts.first_byte
            if time.monotonic() >= self._deadline:
                what, limit = "the answer was not complete", self._timeouts.total
            return _failed(Cause.TIMEOUT, f"{self._origin.host}: {what} within {limit}")
        return _failed(Cause.CUT, f"the connection to {self._origin.host} broke: {_reason(error)}")

    # Callbacks of httptools.

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status < 200:
            self._raw_headers.clear()
            return
        self._has_head = True

    def on_message_complete(self) -> None:
        if self._has_head:
            self._is_complete = True
            # Asked now: the parser forgets it when the message is over. One that ends with its connection is not to be kept, as the parser knows.
            self._can_be_kept = self._parser.should_keep_alive()


def _no_http(error: httptools.HttpParserError) -> VendorError:
    return _failed(Cause.BAD_ANSWER, f"the answer is not valid HTTP: {error}")


def _failed(cause: Cause, message: str) -> VendorError:
    return VendorError(Verdict(cause=cause, message=message))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
