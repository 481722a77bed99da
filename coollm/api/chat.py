"""POST /v1/chat/completions: OpenAI's chat dialect."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from coollm.api.chat_wire import DONE, ChunkRenderer, parse_request, render_completion, render_error, sse_frame
from coollm.api.completion import complete
from coollm.api.http import Exchange
from coollm.api.routes import Access, Route
from coollm.core.errors import RequestError
from coollm.core.types import ChatRequest, Completion, Content, Json, ModelRequest, Target, Usage


class ChatFace:
    """OpenAI's dialect, as clients speak it."""

    wire = "openai"
    end_of_stream = DONE

    def parse(self, body: Json, exchange: Exchange) -> ChatRequest:  # noqa: ARG002  no header of OpenAI's changes a completion
        """A chat completion request."""
        return parse_request(body)

    def render(self, request: ModelRequest, content: Content, usage: Usage) -> Json:  # noqa: ARG002
        """A `chat.completion`."""
        return render_completion(cast("Completion", content), usage)

    def renderer(self, request: ModelRequest, target: Target, request_id: str) -> ChunkRenderer:
        """Writes `chat.completion.chunk` frames."""
        return ChunkRenderer(f"chatcmpl-{request_id}", target.model, include_usage=request.include_usage)

    def forwarder(self, target: Target) -> Callable[[bytes], bytes] | None:  # noqa: ARG002
        """Bytes of OpenAI's go to the client as they come."""
        return None

    def error_body(self, error: RequestError, message: str, request_id: str) -> Json:  # noqa: ARG002  OpenAI has it in a header alone
        """An error in OpenAI's shape."""
        return render_error(error, message)

    def error_frame(self, error: RequestError) -> bytes:
        """An error frame as OpenAI sends it. No `[DONE]` follows: the stream is not whole."""
        return sse_frame(render_error(error, str(error)))


FACE = ChatFace()


ROUTES = (
    Route(
        "/v1/chat/completions", ("POST",), Access.CLIENT, None, "chat", is_completion=True, hot=complete(FACE), summary="A chat completion, whole or streamed."
    ),
)
