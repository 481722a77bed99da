"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API in front of every vendor."""

from __future__ import annotations

from typing import cast

import orjson
from flask import Response, g, request
from werkzeug.datastructures import Headers

from coollm.api.body import parse_body, read_body
from coollm.api.completion import complete
from coollm.api.messages_wire import END_OF_STREAM, WIRE, MessageRenderer, frame, parse_request, render_error, render_message
from coollm.api.routes import Access, Route
from coollm.core.errors import RequestError
from coollm.core.types import ChatRequest, Completion, Embeddings, Json, ModelRequest, Target, Usage
from coollm.limits.estimate import input_tokens
from coollm.services import Services


class MessagesFace:
    """Anthropic's dialect, as clients speak it."""

    wire = WIRE
    end_of_stream = END_OF_STREAM

    def parse(self, body: Json, headers: Headers) -> ChatRequest:
        """A messages request."""
        return parse_request(body, headers)

    def render(self, request: ModelRequest, content: Completion | Embeddings, usage: Usage) -> Json:  # noqa: ARG002
        """A `message`."""
        return render_message(cast("Completion", content), usage)

    def renderer(self, request: ModelRequest, target: Target, request_id: str) -> MessageRenderer:
        """Writes message_start … message_stop."""
        return MessageRenderer(f"msg_{request_id}", target.model, input_tokens(request))

    def error_body(self, error: RequestError, message: str, request_id: str) -> Json:
        """An error in Anthropic's shape."""
        return render_error(error, message, request_id)

    def error_frame(self, error: RequestError) -> bytes:
        """An error event. No `message_stop` follows: the stream is not whole."""
        return frame("error", {"error": render_error(error, str(error), "")["error"]})


FACE = MessagesFace()


def messages(services: Services) -> Response:
    """A message, whole or streamed."""
    return complete(services, FACE)


def count_tokens(services: Services) -> Response:
    """The input tokens of a request, as the gateway estimates them for its limits. Nothing is sent to a vendor and nothing is charged."""
    data = read_body(services, request)
    chat = parse_request({"max_tokens": 1, **parse_body(data)}, request.headers)
    services.gateway.catalog.resolve(chat.model, g.client)
    return Response(orjson.dumps({"input_tokens": input_tokens(chat)}), mimetype="application/json")


ROUTES = (
    Route("/v1/messages", ("POST",), Access.CLIENT, messages, "messages"),
    Route("/v1/messages/count_tokens", ("POST",), Access.CLIENT, count_tokens, "messages_count_tokens", is_completion=False),
)
