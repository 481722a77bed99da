"""The body of a request, within its limit, and its JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gevent
import msgspec
import orjson

from coollm.api.http import Exchange
from coollm.core.errors import BodyTooLarge, ClientGone, InvalidRequest
from coollm.core.types import Json
from coollm.services import Services

MEBIBYTE = 1024 * 1024
PIECE_BYTES = 256 * 1024

# From this size on memory counts for more than time. Below it, to write a body anew takes less time (0.1 ms for a megabyte) than to look for the place in it
# where the model's name stands (0.3 ms).
LARGE_BODY_BYTES = 4 * MEBIBYTE

# From this size on it is parsed where it lies: 0.29 ms for a megabyte, and 0.35 ms with a copy.
COPIED_BYTES = 64 * 1024


def pieces_of_body(services: Services, exchange: Exchange) -> Iterator[bytes]:
    """The body as it arrives. Raises BodyTooLarge, for a length that is announced before a byte is read, and ClientGone if the end never comes.

    Werkzeug's own limit truncates a chunked body that has no length instead of refusing it, so it is read here. Between two pieces of a long body
    other requests run, also when a fast client always has more.
    """
    announced = exchange.content_length
    _check_size(services, announced or 0)
    size = rested = 0
    while piece := exchange.environ["wsgi.input"].read(PIECE_BYTES):
        size += len(piece)
        _check_size(services, size)
        yield piece
        if size - rested >= PIECE_BYTES:
            rested = size
            gevent.sleep(0)
    if announced is not None and size < announced:
        raise ClientGone("the client closed its connection before its request was complete")


def read_body(services: Services, exchange: Exchange) -> bytes:
    """The whole body. Raises BodyTooLarge and ClientGone."""
    take_whole = getattr(exchange.environ["wsgi.input"], "take_whole", None)
    whole: bytes | None = None if take_whole is None else take_whole()
    if whole is None:
        # Joined once: a buffer that grows is moved again and again.
        return b"".join(pieces_of_body(services, exchange))
    _check_size(services, len(whole))
    return whole


def _check_size(services: Services, size: int) -> None:
    """Raises BodyTooLarge."""
    largest = services.settings.server.max_body_mb
    if size > largest * MEBIBYTE:
        raise BodyTooLarge(f"the body is larger than {largest} MB (server.max_body_mb)")


def _decode_long(data: bytes) -> Any:
    """JSON. Orjson copies its input before it reads it; msgspec does not, but cannot say where JSON is broken."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return orjson.loads(data)


def parse_body(data: bytes) -> Json:
    """The JSON object of a request's body. Raises InvalidRequest that says where the JSON is broken."""
    try:
        body = orjson.loads(data) if len(data) < COPIED_BYTES else _decode_long(data)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise InvalidRequest("the body is not valid JSON: it is nested too deep") from None
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a JSON object")
    return body
