"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API in front of every vendor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import orjson
from flask import Response, g, request

from coollm.api.body import parse_body, read_body
from coollm.api.client_watch import WIRE_KEY, ClientWatch
from coollm.api.completion import complete
from coollm.api.http import Exchange
from coollm.api.messages_wire import END_OF_STREAM, WIRE, MessageRenderer, frame, parse_request, render_error, render_message
from coollm.api.routes import Access, Route
from coollm.cancellation import Cancellation
from coollm.core.errors import RequestError
from coollm.core.registry import PROVIDERS
from coollm.core.types import ChatRequest, Completion, Content, CountRequest, Json, ModelRequest, Target, TokenCount, Usage
from coollm.limits.estimate import input_tokens
from coollm.providers.verdict import VendorError
from coollm.services import Services


class MessagesFace:
    """Anthropic's dialect, as clients speak it."""

    wire = WIRE
    end_of_stream = END_OF_STREAM

    def parse(self, body: Json, exchange: Exchange) -> ChatRequest:
        """A messages request."""
        return parse_request(body, exchange.headers)

    def render(self, request: ModelRequest, content: Content, usage: Usage) -> Json:  # noqa: ARG002
        """A `message`."""
        return render_message(cast("Completion", content), usage)

    def renderer(self, request: ModelRequest, target: Target, request_id: str) -> MessageRenderer:
        """Writes message_start … message_stop."""
        return MessageRenderer(f"msg_{request_id}", target.model, input_tokens(request))

    def forwarder(self, target: Target) -> Callable[[bytes], bytes] | None:  # noqa: ARG002
        """Bytes of Anthropic's go to the client as they come."""
        return None

    def error_body(self, error: RequestError, message: str, request_id: str) -> Json:
        """An error in Anthropic's shape."""
        return render_error(error, message, request_id)

    def error_frame(self, error: RequestError) -> bytes:
        """An error event. No `message_stop` follows: the stream is not whole."""
        return frame("error", {"error": render_error(error, str(error), "")["error"]})


FACE = MessagesFace()


def count_tokens(services: Services) -> Response:
    """The input tokens of a request, as a vendor that would serve it counts them, else as the gateway estimates them. Nothing is charged."""
    chat = parse_request({"max_tokens": 1, **parse_body(read_body(services, g.exchange))}, request.headers)
    targets = services.gateway.catalog.resolve(chat.model, g.exchange.client)
    tokens = _counted_by_vendor(services, chat, targets)
    return Response(orjson.dumps({"input_tokens": input_tokens(chat) if tokens is None else tokens}), mimetype="application/json")


def _counted_by_vendor(services: Services, chat: ChatRequest, targets: Sequence[Target]) -> int | None:
    cancellation = Cancellation()
    watch = ClientWatch(request.environ.get(WIRE_KEY), cancellation)
    asked = CountRequest(model=chat.model, chat=chat, forwarded_headers=chat.forwarded_headers)
    try:
        for target in services.gateway.router.order(targets):
            if PROVIDERS[target.type].counts_tokens:
                return cast("TokenCount", services.gateway.ask(asked, target, cancellation)).input_tokens
    except VendorError:
        return None  # an estimate now is worth more than an error
    finally:
        watch.stop()
    return None


ROUTES = (
    Route("/v1/messages", ("POST",), Access.CLIENT, None, "messages", is_completion=True, hot=complete(FACE), summary="A message, whole or streamed."),
    Route("/v1/messages/count_tokens", ("POST",), Access.CLIENT, count_tokens, "messages_count_tokens"),
)
