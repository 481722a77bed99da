"""POST /v1/responses: OpenAI's Responses API, as it is where the vendor has it, as a chat elsewhere.

A response that a vendor keeps is kept under one of its keys: its id, as the client gets it, says which, so that `previous_response_id` finds the way back.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import cast

import msgspec

from coollm.api.chat import ChatFace
from coollm.api.completion import complete
from coollm.api.fields import typed
from coollm.api.http import Exchange
from coollm.api.responses_render import ResponseRenderer, event_frame, render_response
from coollm.api.responses_wire import WIRE, parse_request
from coollm.api.routes import Access, Route
from coollm.core.errors import InvalidRequest, RequestError
from coollm.core.types import ChatRequest, Completion, Content, Json, ModelRequest, Target, Usage

_PREFIX = "resp_at_"
_RESPONSE_ID = re.compile(rb'"id"\s*:\s*"(resp_[^"\\]+)"')


def mark(response_id: str, target: Target) -> str:
    """The id of a response with the key that keeps it."""
    return f"{_PREFIX}{base64.urlsafe_b64encode(target.key.encode()).decode().rstrip('=')}.{response_id}"


def unmark(marked: str) -> tuple[str, str | None]:
    """The vendor's id of a response, and the key that keeps it; None for an id that does not come from here."""
    encoded, dot, response_id = marked.removeprefix(_PREFIX).partition(".")
    if not marked.startswith(_PREFIX) or not dot:
        return marked, None
    try:
        return response_id, base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()
    except (binascii.Error, ValueError):
        return marked, None


class _Marker:
    """Marks the id of a response in the vendor's bytes, wherever it stands in them."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._change: tuple[bytes, bytes] | None = None

    def __call__(self, data: bytes) -> bytes:
        if self._change is None:
            match = _RESPONSE_ID.search(data)
            if match is None:
                return data
            self._change = (b'"%s"' % match[1], b'"%s"' % mark(match[1].decode(), self._target).encode())
        return data.replace(*self._change)


class ResponsesFace(ChatFace):
    """OpenAI's Responses dialect; its errors are those of chats."""

    wire = WIRE
    end_of_stream = b""

    def parse(self, body: Json, exchange: Exchange) -> ChatRequest:  # noqa: ARG002
        """A request for a response. An id from before the gateway's time goes to whichever key serves."""
        if body.get("background"):
            raise InvalidRequest("'background' is not supported here: a response is given in the answer to its request", param="background")
        previous = typed(body, "previous_response_id", str, "text")
        if previous is None:
            return parse_request(body)
        response_id, key = unmark(previous)
        body["previous_response_id"] = response_id
        return msgspec.structs.replace(parse_request(body), pinned_key=key)

    def render(self, request: ModelRequest, content: Content, usage: Usage) -> Json:
        """A `response`."""
        return render_response(cast("ChatRequest", request), cast("Completion", content), usage)

    def renderer(self, request: ModelRequest, target: Target, request_id: str) -> ResponseRenderer:  # type: ignore[override]
        """Writes response.created … response.completed."""
        return ResponseRenderer(cast("ChatRequest", request), f"resp_{request_id}", target.model)

    def forwarder(self, target: Target) -> Callable[[bytes], bytes] | None:
        """The vendor's bytes, in which the id of the response says who keeps it."""
        return _Marker(target)

    def error_frame(self, error: RequestError) -> bytes:
        """An error event. No `response.completed` follows: the response is not whole."""
        return event_frame("error", {"code": error.code or error.type, "message": str(error), "param": error.param, "sequence_number": 0})


FACE = ResponsesFace()


ROUTES = (
    Route("/v1/responses", ("POST",), Access.CLIENT, None, "responses", is_completion=True, hot=complete(FACE), summary="A response, whole or streamed."),
)
