"""The body of a request, within its limit, and its JSON."""

from __future__ import annotations

import orjson
from flask import Request

from coollm.core.errors import BodyTooLarge, InvalidRequest
from coollm.core.types import Json
from coollm.services import Services

MEBIBYTE = 1024 * 1024


def read_body(services: Services, request: Request) -> bytes:
    """The whole body. Raises BodyTooLarge, for a length that is announced before a byte is read.

    Werkzeug's own limit truncates a chunked body that has no length instead of refusing it, so it is read here.
    """
    largest = services.settings.server.max_body_mb * MEBIBYTE
    announced = request.content_length
    data: bytes = b"" if announced is not None and announced > largest else request.environ["wsgi.input"].read(largest + 1)
    if len(data) > largest or (announced or 0) > largest:
        raise BodyTooLarge(f"the body is larger than {services.settings.server.max_body_mb} MB (server.max_body_mb)")
    return data


def parse_body(data: bytes) -> Json:
    """The JSON object of a request's body. Raises InvalidRequest that says where the JSON is broken."""
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise InvalidRequest("the body is not valid JSON: it is nested too deep") from None
    if not isinstance(body, dict):
        raise InvalidRequest("the body must be a JSON object")
    return body
