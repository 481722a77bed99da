"""Asks the gateway's own admin API from within, on behalf of who has signed in: the same rules, checks and lines of the audit log as for everybody else.

Source: PEP 3333.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlencode

import orjson

from coollm.api.access import CONSOLE_KEY
from coollm.api.client_watch import WIRE_KEY
from coollm.api.http import JSON
from coollm.identity.principal import Principal

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_FROM_THE_WAY_IN = ("REMOTE_ADDR", "SERVER_NAME", "SERVER_PORT", "SERVER_PROTOCOL", "SCRIPT_NAME")


class Refused(Exception):
    """The admin API has refused, with a status and a message of its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class Answer(NamedTuple):
    """What was answered; `pieces` has to be closed."""

    status: int
    headers: dict[str, str]
    pieces: Iterable[bytes]


class Question(NamedTuple):
    """What is asked; the path is not quoted: what somebody wrote into it stays a part of it."""

    method: str
    path: str
    query: Mapping[str, Any] = {}
    body: bytes = b""
    accept: str = JSON


def begin(application: Application, outer: dict[str, Any], principal: Principal, asked: Question) -> Answer:
    """Asks, and returns before the body has come. Of the query what is None or empty is left out."""
    environ: dict[str, Any] = {name: value for name, value in outer.items() if name.startswith(("wsgi.", "coollm.")) or name in _FROM_THE_WAY_IN}
    # Whoever asks over the host's socket is the host's administrator there: here he is who he has signed in as.
    environ.pop(WIRE_KEY, None)
    environ.update(
        {
            "REQUEST_METHOD": asked.method,
            "PATH_INFO": asked.path.encode("utf-8", "surrogateescape").decode("latin-1"),
            "QUERY_STRING": urlencode({name: value for name, value in asked.query.items() if value not in (None, "")}),
            "CONTENT_LENGTH": str(len(asked.body)),
            "CONTENT_TYPE": JSON,
            "HTTP_ACCEPT": asked.accept,
            "wsgi.input": io.BytesIO(asked.body),
            CONSOLE_KEY: principal,
        }
    )
    told: list[Any] = []
    pieces = application(environ, lambda status, headers, *_: told.extend((status, headers)))
    return Answer(int(told[0].split(" ", 1)[0]), {name.lower(): value for name, value in told[1]}, pieces)


def whole(answer: Answer) -> bytes:
    """The body, all of it."""
    try:
        return b"".join(answer.pieces)
    finally:
        close(answer.pieces)


def close(pieces: Any) -> None:
    """Ends a body."""
    end = getattr(pieces, "close", None)
    if end is not None:
        end()


def flowing(answer: Answer) -> Iterator[bytes]:
    """The body as it comes; it ends with whoever reads it."""
    try:
        yield from answer.pieces
    finally:
        close(answer.pieces)


def decoded(answer: Answer) -> Any:
    """The JSON of an answer. Raises Refused."""
    data = whole(answer)
    try:
        told = orjson.loads(data)
    except orjson.JSONDecodeError:
        told = {}
    if answer.status >= 400:
        error = told.get("error") or {}
        raise Refused(answer.status, str(error.get("message") or f"status {answer.status}"))
    return told
