"""One connection of a client: requests read by llhttp, answers written with one send where they are small.

gunicorn's own parser and writer cost several times what the gateway does for a request. What a request may look like is at least as strict as there: a message
whose end is not certain (both lengths, an unknown transfer coding) is refused and its connection closed, since another server on the way may see another end.

Sources: RFC 9112 (sections 3, 6 and 9), https://github.com/MagicStack/httptools, PEP 3333.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from urllib.parse import unquote_to_bytes

import httptools
import orjson

from coollm.api.client_watch import WIRE_KEY
from coollm.core.errors import ClientGone, InvalidRequest
from coollm.server.answer import PIECE_SECONDS, Answer
from coollm.server.heads import NO_HEAD, Head, Heads, Known
from coollm.server.traffic import Traffic
from coollm.wire import RECEIVE_BYTES, Wire

LARGEST_HEAD_BYTES = 64 * 1024
LONGEST_TARGET_BYTES = 4094
LONGEST_HEADER_BYTES = 8190  # with its colon, blank and line end
MOST_HEADERS = 100

# A client may think so long between two requests, and must have told the head of one in so long.
IDLE_SECONDS = 75.0
HEAD_SECONDS = 30.0

# A body that comes more slowly than this, after its first PIECE_SECONDS, is a client that only holds its place.
LEAST_BYTES_PER_SECOND = 1024

# What a client still sends after it was refused is read for a moment, so that it sees the refusal and not a reset.
LINGER_SECONDS = 2.0
LINGER_BYTES = 1024 * 1024

# A connection ends with the first request after so long, so that clients spread over instances that have come since.
LIFE_SECONDS = (90.0, 150.0)

# Requests of clients; what an administrator or a probe asks is none of them.
COUNTED = (b"/v1/", b"/api/v1/")

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class _Refused(Exception):
    """The message is none that is served."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Request:
    """One request, as far as it has come."""

    __slots__ = ("began", "body", "come", "environ", "expects_continue", "headers", "is_complete", "keeps_alive", "method", "target", "version")

    def __init__(self, head: Head = NO_HEAD, body: bytes | None = None) -> None:
        """One that has not come yet; or, with its `head` and `body`, a whole one."""
        self.environ: dict[str, Any] | None
        self.method, self.target, self.version, self.keeps_alive, self.environ = head
        self.headers: list[tuple[bytes, bytes]] = []
        self.expects_continue = False
        self.began = time.monotonic()
        if body is None:
            self.body: list[bytes] = []
            self.is_complete = False
            self.come = 0
        else:
            self.body = [body]
            self.is_complete = True
            self.come = len(body)


class _Body:
    """The body of a request, read from its connection as it is asked for: `wsgi.input`."""

    def __init__(self, connection: Connection, request: _Request) -> None:
        self._connection = connection
        self._request = request

    def take_whole(self) -> bytes | None:
        """The whole body, if it came with its head; None if it has to be read."""
        request = self._request
        return request.body.pop() if request.is_complete and len(request.body) == 1 else None

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, all for -1; none at the end. Raises ClientGone if the end never comes."""
        if size < 0:
            return b"".join(iter(lambda: self.read(RECEIVE_BYTES), b""))
        waiting = self._request.body
        while not waiting and not self._request.is_complete:
            self._connection.receive_body(self._request)
        if not waiting:
            return b""
        piece = waiting.pop(0)
        if len(piece) > size:
            waiting.insert(0, piece[size:])
            return piece[:size]
        return piece

    def readline(self, size: int = -1) -> bytes:
        """A line, at most `size` bytes of it."""
        line = b""
        while (size < 0 or len(line) < size) and not line.endswith(b"\n"):
            piece = self.read(1)
            if not piece:
                break
            line += piece
        return line

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")


class Connection:
    """Serves requests one after the other, of a client at the address `peer`. `environ` is what all requests of the listener share, and `heads` those that it
    knows; `is_stopping` says whether this is to be the last. `is_stream`, `status` and `was_stopped` are of the request that is served.
    """

    def __init__(
        self,
        wire: Wire,
        application: Application,
        environ: dict[str, Any],
        heads: Heads,
        is_stopping: Callable[[], bool],
        traffic: Traffic,
        peer: str = "",
    ) -> None:
        self._wire = wire
        self._application = application
        self._environ = environ
        self._heads = heads
        self._peer = peer
        self._is_stopping = is_stopping
        self._traffic = traffic
        self._lives_until = time.monotonic() + random.uniform(*LIFE_SECONDS)
        self.is_stream = False
        self.status = ""
        self.was_stopped = False
        self.idle_since: float | None = time.monotonic()
        self._parser: Any = httptools.HttpRequestParser(self)
        self._requests: list[_Request] = []
        self._coming: _Request | None = None
        self._head_bytes = 0
        self._has_head = False
        self._is_carried = False
        self._is_between = True
        self._known: Known | None = None
        self._refused_after: tuple[str, str] | None = None  # status and message; the exception itself would hold this one by its traceback

    def serve(self) -> None:
        """Until the client or the gateway has enough. Raises OSError where the connection breaks."""
        try:
            while True:
                request = self._next()
                if request is None:
                    self._wire.finish(time.monotonic() + PIECE_SECONDS)
                    return
                self.idle_since = None
                keeps = self._answer(request)
                if not keeps:
                    self._wire.finish(time.monotonic() + PIECE_SECONDS)
                    if not request.is_complete:
                        self._linger()
                    return
        except _Refused as error:
            self._refuse(error)
        except TimeoutError:
            return
        finally:
            self._parser = None  # which holds this one by its callbacks

    def _next(self) -> _Request | None:
        """The next request whose head is complete; None at the end of the connection."""
        until, has_begun = time.monotonic() + IDLE_SECONDS, False
        while not self._requests:
            if self._refused_after is not None:
                raise _Refused(*self._refused_after)
            data = self._wire.receive(until)
            if not data:
                return None
            was_between = self._is_between
            taken = self._heads.take(data, self._known) if was_between else None
            if taken is not None:
                self._known = taken[0]
                return _known_request(*taken)
            self._feed_all(data)
            if self._requests:
                if was_between and self._refused_after is None:
                    self._learn(data, self._requests[0])
                break
            now = time.monotonic()
            if not has_begun:
                has_begun, until = True, now + HEAD_SECONDS
            if now > until:
                raise _Refused("408 Request Timeout", f"the head of the request has not come within {HEAD_SECONDS:.0f} s")
        return self._requests.pop(0)

    def _learn(self, data: bytes, request: _Request) -> None:
        """Remembers the head of a request that has come in one piece, if all that it says of its end is one length."""
        named = dict(request.headers)
        length = named.get(b"content-length")
        if length is None or len(named) < len(request.headers) or not named.keys().isdisjoint(_UNUSUAL) or not request.is_complete:
            return
        environ = self._environ_of(request)
        del environ["CONTENT_LENGTH"]
        self._heads.learn(data, length, Head(request.method, request.target, request.version, request.keeps_alive, environ))

    def _feed_all(self, data: bytes) -> None:
        """What is refused is refused in its turn: the whole requests before it are answered first. Raises _Refused if there are none."""
        try:
            self._feed(data)
        except _Refused as error:
            self._refuse_in_turn(error)
            if not self._requests:
                raise

    def _refuse_in_turn(self, error: _Refused) -> None:
        """What follows the last request that is whole is refused when that has been answered."""
        self._requests = [request for request in self._requests if request.is_complete]
        self._refused_after = error.status, str(error)

    def _feed(self, data: bytes) -> None:
        """Raises _Refused."""
        if not self._has_head:
            self._head_bytes += len(data)
        if self._is_between and data.startswith(b"\r\n\r\n"):
            raise _Refused("400 Bad Request", "an empty line is no request")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, _Refused):
                raise error.__context__ from None
            raise
        except httptools.HttpParserError as error:
            raise _Refused("400 Bad Request", f"this is no HTTP request: {error}") from None
        if not self._has_head and self._head_bytes > LARGEST_HEAD_BYTES:
            raise _Refused("431 Request Header Fields Too Large", f"the head of a request may have {LARGEST_HEAD_BYTES} bytes")

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """Another protocol is offered, and not taken up: the parser has stopped, and another one reads the body, from a head with the same length."""
        request = self._coming
        if request is None or request.method == "CONNECT":
            raise _Refused("400 Bad Request", "this is no proxy")
        request.is_complete = False
        named = dict(request.headers)
        told = b"transfer-encoding: chunked" if b"transfer-encoding" in named else b"content-length: " + named.get(b"content-length", b"0")
        self._parser = httptools.HttpRequestParser(self)
        self._is_carried = True
        self._feed(b"POST / HTTP/1.1\r\n" + told + b"\r\n\r\n" + rest)

    # Callbacks of httptools.

    def on_message_begin(self) -> None:
        self._is_between = False
        if not self._is_carried:
            self._coming = _Request()
            self._has_head = False
            self._head_bytes = 0

    def on_url(self, url: bytes) -> None:
        if self._is_carried:
            return
        request = self._coming
        assert request is not None  # noqa: S101  it has begun
        request.target += url
        if len(request.target) > LONGEST_TARGET_BYTES:
            raise _Refused("414 URI Too Long", f"an address may have {LONGEST_TARGET_BYTES} bytes")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_carried:
            return
        if self._has_head:
            raise _Refused("400 Bad Request", "headers after the body are not taken")
        request = self._coming
        assert request is not None  # noqa: S101  it has begun
        if len(request.headers) >= MOST_HEADERS:
            raise _Refused("431 Request Header Fields Too Large", f"a request may have {MOST_HEADERS} headers")
        if len(name) + len(value) + len(": \r\n") > LONGEST_HEADER_BYTES:
            raise _Refused("431 Request Header Fields Too Large", f"a header may have {LONGEST_HEADER_BYTES} bytes")
        if _CONTROLS.search(value):
            raise _Refused("400 Bad Request", "a header holds a control character")
        request.headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        if self._is_carried:
            self._is_carried = False
            return
        request = self._coming
        assert request is not None  # noqa: S101  it has begun
        parser = self._parser
        request.method = parser.get_method().decode("latin-1")
        request.version = parser.get_http_version()
        request.keeps_alive = parser.should_keep_alive()
        _check(request)
        self._has_head = True
        self._requests.append(request)

    def on_body(self, body: bytes) -> None:
        assert self._coming is not None  # noqa: S101  it has begun
        self._coming.body.append(body)
        self._coming.come += len(body)

    def on_message_complete(self) -> None:
        if self._coming is not None:
            self._coming.is_complete = True
            self._is_between = True

    def receive_body(self, request: _Request) -> None:
        """More of a request's body. Raises ClientGone if the client leaves, or is silent for too long, and InvalidRequest for what is no body."""
        if request.expects_continue:
            request.expects_continue = False
            self._wire.send(b"HTTP/1.1 100 Continue\r\n\r\n", time.monotonic() + PIECE_SECONDS)
        slowest = request.began + PIECE_SECONDS + request.come / LEAST_BYTES_PER_SECOND
        try:
            data = self._wire.receive(min(time.monotonic() + PIECE_SECONDS, slowest))
        except OSError as error:
            raise ClientGone("the client closed its connection before its request was complete") from error
        if not data:
            raise ClientGone("the client closed its connection before its request was complete")
        try:
            self._feed(data)
        except _Refused as error:
            if not request.is_complete:
                raise InvalidRequest(f"the body is broken: {error}") from None
            self._refuse_in_turn(error)

    def retire(self) -> None:
        """Ends with the next answer, so that its client opens another, which may go to another instance."""
        self._lives_until = 0.0

    def stop(self) -> None:
        """Ends the request that is served, which has been waited for long enough: its client is told to send it again."""
        if self.idle_since is None and not self.was_stopped and self._wire.on_stop is not None:
            self.was_stopped = True
            self._wire.on_stop()

    def _answer(self, request: _Request) -> bool:
        """Serves a request; whether the connection may serve another."""
        self.is_stream = self.was_stopped = False
        self.status = ""
        if not request.target.startswith(COUNTED):
            keeps = self._write(request)
            self.idle_since = time.monotonic()
            return keeps
        traffic = self._traffic
        traffic.begin(self, request.began)
        try:
            keeps = self._write(request)
        except BaseException as error:
            traffic.give_up(self, is_fault=not isinstance(error, OSError | TimeoutError))
            raise
        self.idle_since = now = time.monotonic()
        traffic.end(self, now)
        return keeps

    def _is_last(self, request: _Request) -> bool:
        return not request.is_complete or self._is_stopping() or request.began > self._lives_until

    def _write(self, request: _Request) -> bool:
        answer = Answer(self, self._wire, request, self._is_last)
        # Nothing here holds the environment longer than the application does: a stream may last for minutes.
        pieces = self._application(self._environment(request), answer.start)
        try:
            answer.write_all(pieces)
        finally:
            close = getattr(pieces, "close", None)
            if close is not None:
                close()
        return answer.keeps_alive

    def _environment(self, request: _Request) -> dict[str, Any]:
        environ = request.environ or self._environ_of(request)
        request.environ = None  # which holds the request itself by its body
        environ["wsgi.input"] = _Body(self, request)
        environ["REMOTE_ADDR"] = self._peer
        environ[WIRE_KEY] = self._wire
        return environ

    def _environ_of(self, request: _Request) -> dict[str, Any]:
        """What the head says."""
        target, _, query = request.target.partition(b"?")
        if not target.startswith(b"/"):
            target = _path_of(target)
        environ = self._environ.copy()
        environ["REQUEST_METHOD"] = request.method
        environ["PATH_INFO"] = (unquote_to_bytes(target) if b"%" in target else target).decode("latin-1")
        environ["QUERY_STRING"] = query.decode("latin-1")
        environ["RAW_URI"] = request.target.decode("latin-1")
        environ["SERVER_PROTOCOL"] = f"HTTP/{request.version}"
        for name, value in request.headers:
            key = _KEYS.get(name)
            if key is None:
                if b"_" in name:
                    continue  # it would be taken for the name with hyphens
                key = "HTTP_" + name.decode("latin-1").upper().replace("-", "_")
            text = value.decode("latin-1")
            environ[key] = f"{environ[key]},{text}" if key in environ else text
        return environ

    def _refuse(self, error: _Refused) -> None:
        body = orjson.dumps({"error": {"message": str(error), "type": "invalid_request_error", "param": None, "code": "bad_http_request"}})
        head = f"HTTP/1.1 {error.status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self._wire.send(head.encode() + body, time.monotonic() + PIECE_SECONDS)
        self._linger()

    def _linger(self) -> None:
        try:
            self._wire.shutdown_write()
            until, read = time.monotonic() + LINGER_SECONDS, 0
            while read < LINGER_BYTES and (data := self._wire.receive(until)):
                read += len(data)
        except OSError:
            return


def _known_request(known: Known, length: bytes, body: bytes) -> _Request:
    request = _Request(known.head, body)
    environ = request.environ = known.head.environ.copy()
    environ["CONTENT_LENGTH"] = length.decode()
    return request


def _check(request: _Request) -> None:
    """Raises _Refused for a message whose end others on the way may see elsewhere, or which names no one host."""
    names = [name for name, _ in request.headers]
    if b"transfer-encoding" in names:
        codings = [value for name, value in request.headers if name == b"transfer-encoding"]
        if b"content-length" in names:
            raise _Refused("400 Bad Request", "a request has a content-length or a transfer-encoding, not both")
        if request.version != "1.1" or len(codings) > 1 or codings[0].lower() != b"chunked":
            raise _Refused("501 Not Implemented", "the only transfer-encoding that is known is 'chunked', in HTTP/1.1")
    if len(set(names)) < len(names):
        for single in _SINGLE:
            if names.count(single) > 1:
                raise _Refused("400 Bad Request", f"a request has one '{single.decode()}'")
    if _NO_ADDRESS.search(request.target):
        raise _Refused("400 Bad Request", "an address has visible ASCII characters alone")
    if request.target == b"*" and request.method != "OPTIONS":
        raise _Refused("400 Bad Request", "'*' is an address for OPTIONS alone")
    if request.version not in ("1.0", "1.1"):
        raise _Refused("505 HTTP Version Not Supported", "this server speaks HTTP/1.1")
    if b"expect" in names:
        expected = next(value for name, value in request.headers if name == b"expect")
        if expected.lower() != b"100-continue":
            raise _Refused("417 Expectation Failed", "the only expectation that is known is '100-continue'")
        request.expects_continue = request.version == "1.1"


def _path_of(target: bytes) -> bytes:
    """The path of an address with scheme and host, or `*`. Raises _Refused for anything else."""
    if target == b"*":
        return target
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in (b"http", b"https"):
        raise _Refused("400 Bad Request", "an address begins with / or with http://")
    return b"/" + rest.partition(b"/")[2]


_CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_NO_ADDRESS = re.compile(rb"[^\x21-\x7e]")
_UNUSUAL = (b"transfer-encoding", b"expect", b"upgrade")
_SINGLE = (b"host", b"content-length", b"content-type", b"authorization", b"x-api-key")

_KEYS = {
    name.encode(): "HTTP_" + name.upper().replace("-", "_")
    for name in ("host", "authorization", "x-api-key", "user-agent", "accept", "accept-encoding", "connection", "cache-control", "x-session-id")
}
_KEYS |= {b"content-type": "CONTENT_TYPE", b"content-length": "CONTENT_LENGTH"}
