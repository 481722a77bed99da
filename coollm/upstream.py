"""The only file that opens sockets to vendors: a keep-alive pool on gevent, with llhttp (httptools) to parse answers.

Tokens are fetched by google-auth and botocore themselves (`coollm/providers/vertex_key.py`, `bedrock_key.py`).

Not the `requests` package: a read of it that blocks cannot be cancelled when the client leaves, and the vendor would go on working for nobody.
Redirects are not followed: a vendor's API does not send them, and following one would let an answer choose a host.
"""

from __future__ import annotations

import select as _select
import time
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

import httptools
from gevent import monkey, socket, ssl

from coollm.cancellation import Cancellation
from coollm.core.config.schema import Timeouts
from coollm.core.errors import ClientGone
from coollm.providers.base import VendorRequest
from coollm.providers.payload import Body
from coollm.providers.verdict import Cause, VendorError, Verdict

RECEIVE_BYTES = 65536
SMALL_BODY_BYTES = 65536
LARGEST_ANSWER_BYTES = 256 * 1024 * 1024
LARGEST_HEADER_BYTES = 256 * 1024
MOST_IDLE_CONNECTIONS = 128
DRAIN_SECONDS = 0.05
LONGEST_IDLE_SECONDS = 55.0  # the usual keep-alive time of servers is 60 s and more

_poll = monkey.get_original("select", "poll") if monkey.is_module_patched("select") else _select.poll


class _Origin(NamedTuple):
    is_tls: bool
    host: str
    port: int


class _Idle(NamedTuple):
    socket: socket.socket
    since: float


class Upstream:
    """Sends requests to vendors. One for each worker; it keeps connections open between requests."""

    def __init__(self, timeouts: Timeouts, tls_context: ssl.SSLContext | None = None) -> None:
        self._timeouts = timeouts
        self._tls = tls_context or _tls_context()
        self._idle: dict[_Origin, deque[_Idle]] = {}

    def send(self, request: VendorRequest, cancellation: Cancellation) -> Exchange:
        """Sends `request` and waits for the head of the answer.

        Raises VendorError (CONNECT_FAILED, TIMEOUT, CUT, BAD_ANSWER), or ClientGone as soon as the client leaves. The caller closes the exchange.
        """
        origin, target, authority = _address(request.url)
        head = _head(request, target, authority)
        deadline = time.monotonic() + self._timeouts.total
        cancellation.check()
        pooled = self._take(origin)
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
                waiting.pop().socket.close()

    def _take(self, origin: _Origin) -> socket.socket | None:
        waiting = self._idle.get(origin)
        while waiting:
            idle = waiting.pop()
            if time.monotonic() - idle.since < LONGEST_IDLE_SECONDS and _is_quiet(idle.socket):
                return idle.socket
            idle.socket.close()
        return None

    def give_back(self, origin: _Origin, connection: socket.socket) -> None:
        """Keeps a connection whose answer was read to its end."""
        waiting = self._idle.setdefault(origin, deque())
        waiting.append(_Idle(connection, time.monotonic()))
        if len(waiting) > MOST_IDLE_CONNECTIONS:
            waiting.popleft().socket.close()

    def _connect(self, origin: _Origin, cancellation: Cancellation) -> socket.socket:
        try:
            connection = socket.create_connection((origin.host, origin.port), timeout=self._timeouts.connect)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if origin.is_tls:
                connection = self._tls.wrap_socket(connection, server_hostname=origin.host)
        except TimeoutError as error:
            raise _failed(Cause.TIMEOUT, f"no connection to {origin.host}:{origin.port} within {self._timeouts.connect}") from error
        except (OSError, ValueError) as error:
            raise _failed(Cause.CONNECT_FAILED, f"no connection to {origin.host}:{origin.port}: {_reason(error)}") from error
        if cancellation.is_cancelled:
            connection.close()
            cancellation.check()
        return connection


class Exchange:
    """One request and its answer. `status` and `headers` (lower-case names) are there after `start`."""

    def __init__(self, owner: Upstream, origin: _Origin, connection: socket.socket, timeouts: Timeouts, deadline: float, cancellation: Cancellation) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.has_received = False
        self._owner = owner
        self._origin = origin
        self._connection: socket.socket | None = connection
        self._timeouts = timeouts
        self._deadline = deadline
        self._cancellation = cancellation
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._header_bytes = 0
        self._has_head = False
        self._is_complete = False
        self._is_framed = False
        self._can_be_kept = False
        cancellation.add(self._abort)

    def start(self, head: bytes, body: bytes | Body) -> Exchange:
        """Sends the request and reads the head of the answer. Closes itself if it fails."""
        try:
            connection = self._open_connection()
            connection.settimeout(max(0.001, min(self._timeouts.first_byte, self._deadline - time.monotonic())))
            if isinstance(body, bytes) and len(body) < SMALL_BODY_BYTES:
                connection.sendall(head + body)
            else:
                self._send_pieces(connection, head, body)
            waits_until = time.monotonic() + self._timeouts.first_byte
            while not self._has_head:
                self._receive(waits_until - time.monotonic())
        except BaseException as error:
            self.close()
            if isinstance(error, TimeoutError | OSError):
                raise self._translate(error) from error
            raise
        return self

    def _send_pieces(self, connection: socket.socket, head: bytes, body: bytes | Body) -> None:
        """Sends a large body without a copy of it. The time-out is that of one piece: a slow network may take its time."""
        connection.sendall(head)
        for piece in (body,) if isinstance(body, bytes) else body.pieces():
            self._cancellation.check()
            connection.settimeout(max(0.001, min(self._timeouts.first_byte, self._deadline - time.monotonic())))
            connection.sendall(piece)

    def read(self) -> bytes:
        """The whole body. Raises as `Upstream.send`."""
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
            if self._body:
                piece = b"".join(self._body) if len(self._body) > 1 else self._body[0]
                self._body.clear()
                yield piece
            if self._is_complete:
                return
            try:
                self._receive(self._timeouts.idle)
            except OSError as error:
                raise self._translate(error) from error

    def drain(self) -> None:
        """Gives the end of an answer, whose content has all come, a moment to arrive, so that the connection can be used again."""
        try:
            while not self._is_complete and self._connection is not None:
                self._receive(DRAIN_SECONDS)
        except (OSError, VendorError, ClientGone):
            return

    def close(self) -> None:
        """Lets go of the connection: back to the pool if the answer was read to its end, else closed, so that the vendor stops."""
        connection, self._connection = self._connection, None
        self._cancellation.discard(self._abort)
        if connection is None:
            return
        if self._is_complete and self._can_be_kept:
            self._owner.give_back(self._origin, connection)
        else:
            connection.close()

    def _abort(self) -> None:
        """The client left: closing the socket wakes the greenlet that reads from it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _open_connection(self) -> socket.socket:
        if self._connection is None:
            self._cancellation.check()
            raise _failed(Cause.CUT, "the connection was closed")
        return self._connection

    def _receive(self, seconds: float) -> None:
        connection = self._open_connection()
        connection.settimeout(max(0.001, min(seconds, self._deadline - time.monotonic())))
        data = connection.recv(RECEIVE_BYTES)
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
            raise _failed(Cause.BAD_ANSWER, f"the answer is not valid HTTP: {error}") from error

    def _end_of_file(self) -> None:
        if self._has_head and not self._is_framed:
            self._is_complete = True  # a body without a length ends with the connection (RFC 9112 6.3)
            return
        where = "in the middle of the answer" if self.has_received else "before an answer"
        raise _failed(Cause.CUT, f"{self._origin.host} closed the connection {where}")

    def _translate(self, error: OSError) -> Exception:
        if self._cancellation.is_cancelled:
            return ClientGone("the client closed its connection")
        if isinstance(error, TimeoutError):
            what = "no further piece of the answer" if self._has_head else "no answer"
            limit = self._timeouts.idle if self._has_head else self._timeouts.first_byte
            if time.monotonic() >= self._deadline:
                what, limit = "the answer was not complete", self._timeouts.total
            return _failed(Cause.TIMEOUT, f"{self._origin.host}: {what} within {limit}")
        return _failed(Cause.CUT, f"the connection to {self._origin.host} broke: {_reason(error)}")

    # Callbacks of httptools.

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status < 200:
            self.headers.clear()
            return
        self._is_framed = "content-length" in self.headers or "chunked" in self.headers.get("transfer-encoding", "").lower() or self.status in (204, 304)
        self._has_head = True

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        if self._has_head:
            self._is_complete = True
            # Asked now: the parser forgets it when the message is over.
            self._can_be_kept = self._is_framed and self._parser.should_keep_alive()


def _tls_context() -> ssl.SSLContext:
    """A context of gevent's own class: one of the standard library would block the whole worker in its handshake. It verifies, as PROTOCOL_TLS_CLIENT does."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    return context


def _address(url: str) -> tuple[_Origin, str, str]:
    parts = urlsplit(url)
    is_tls = parts.scheme == "https"
    origin = _Origin(is_tls, parts.hostname or "", parts.port or (443 if is_tls else 80))
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return origin, target, parts.netloc


def _head(request: VendorRequest, target: str, authority: str) -> bytes:
    size = len(request.body) if isinstance(request.body, bytes) else request.body.size
    lines = [f"{request.method} {target} HTTP/1.1", f"host: {authority}", "accept-encoding: identity"]
    if size or request.method not in ("GET", "DELETE"):
        lines.append(f"content-length: {size}")
    lines += [f"{name}: {value}" for name, value in request.headers]
    text = "\r\n".join(lines)
    if text.count("\r") != len(lines) - 1 or text.count("\n") != len(lines) - 1:
        raise _failed(Cause.CLIENT_FAULT, "a header of the request holds a line break")
    return text.encode("latin-1", "replace") + b"\r\n\r\n"


def _is_quiet(connection: socket.socket) -> bool:
    """Whether an idle connection has neither ended nor sent anything."""
    poll = _poll()
    poll.register(connection.fileno(), _select.POLLIN | _select.POLLHUP | _select.POLLERR)
    return not poll.poll(0)


def _failed(cause: Cause, message: str) -> VendorError:
    return VendorError(Verdict(cause=cause, message=message))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
