"""One HTTP request and its reply, as the routes that go to vendors see them: thin, for they are on the hot path. Every other route is Flask's."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import orjson
from werkzeug.datastructures import EnvironHeaders, Headers

from coollm.core.config.schema import Client
from coollm.identity.principal import Principal
from coollm.telemetry.record import RequestRecord

JSON = "application/json"

REASONS = {
    200: "OK",
    201: "Created",
    204: "No Content",
    206: "Partial Content",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    409: "Conflict",
    413: "Content Too Large",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}

_STATUS_LINES = {status: f"{status} {reason}" for status, reason in REASONS.items()}


class Exchange:
    """A request under way: its environment, its id, and who asks once that is known. A client of None is the administrator."""

    __slots__ = ("client", "environ", "principal", "record", "request_id")

    def __init__(self, environ: dict[str, Any], request_id: str | None = None) -> None:
        self.environ = environ
        self.request_id = request_id or new_request_id()
        self.client: Client | None = None
        self.principal: Principal | None = None
        self.record: RequestRecord | None = None

    @property
    def headers(self) -> Headers:
        """Its headers. Most requests are served without a look at them."""
        return EnvironHeaders(self.environ)

    @property
    def content_length(self) -> int | None:
        """The announced size of the body; None if there is none, as with one that is chunked."""
        announced = self.environ.get("CONTENT_LENGTH")
        return int(announced) if announced and announced.isdigit() else None


# What of an id is random, which nobody can guess.
ID_BYTES = 12

# The kernel is asked for so many ids at once: each call of it takes longer than all else that is done for an id.
IDS_AT_ONCE = 256

_drawn: list[str] = []


def new_request_id() -> str:
    """An id. It begins with the second in which it was drawn, so that what is written at one time lies together in the ledger's index: at random places of it
    each request would touch a page of its own.
    """
    if not _drawn:
        beginning, drawn = f"req_{int(time.time()):08x}", os.urandom(IDS_AT_ONCE * ID_BYTES).hex()
        _drawn.extend(beginning + drawn[place : place + 2 * ID_BYTES] for place in range(0, len(drawn), 2 * ID_BYTES))
    return _drawn.pop()


# Two processes must not draw from the same list.
os.register_at_fork(after_in_child=_drawn.clear)


class Reply:
    """A reply: its body is bytes, or pieces that come one by one and are closed when they have gone, or nobody wants them."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, body: bytes | Iterable[bytes], status: int = 200, content_type: str = JSON, headers: Mapping[str, str] | None = None) -> None:
        self.body = body
        self.status = status
        self.headers: dict[str, str] = {"content-type": content_type, **headers} if headers else {"content-type": content_type}

    def start(self, start_response: Callable[..., Any], request_id: str) -> Iterable[bytes]:
        """Answers as WSGI wants it."""
        headers, body = self.headers, self.body
        headers["x-request-id"] = request_id
        headers["x-content-type-options"] = "nosniff"
        if isinstance(body, bytes):
            headers["content-length"] = str(len(body))
            body = (body,)
        start_response(_STATUS_LINES.get(self.status) or f"{self.status} Unknown", list(headers.items()))
        return body


class Pieces:
    """Pieces of a body, and what is done when they are closed."""

    def __init__(self, pieces: Any, ended: Callable[[], None]) -> None:
        self._pieces = pieces
        self._ended = ended
        # Where there is one, the server may let the loop move pieces.
        self.relay = getattr(pieces, "relay", None)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._pieces)

    def close(self) -> None:
        """Closes the pieces, then the rest."""
        try:
            self._pieces.close()
        finally:
            self._ended()


def json_reply(value: Any, status: int = 200) -> Reply:
    """A JSON document."""
    return Reply(orjson.dumps(value), status)
