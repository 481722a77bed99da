"""POST /v1/chat/completions."""

from __future__ import annotations

import orjson
from flask import Response, g, request

from coollm.api.body import read_body
from coollm.api.chat_wire import DONE, ChunkRenderer, parse_body, parse_request, render_completion, render_error, sse_frame
from coollm.api.client_watch import ClientWatch
from coollm.api.routes import Access, Route
from coollm.cancellation import Cancellation
from coollm.core.errors import RequestError
from coollm.core.types import ChatRequest, Target
from coollm.gateway import Call
from coollm.services import Services
from coollm.streaming import StreamAnswer
from coollm.telemetry.record import RequestRecord


class ChatFace:
    """OpenAI's chat dialect, as the client's side of a stream."""

    wire = "openai"
    end_of_stream = DONE

    def renderer(self, request: ChatRequest, target: Target, request_id: str) -> ChunkRenderer:
        """Writes `chat.completion.chunk` frames."""
        return ChunkRenderer(f"chatcmpl-{request_id}", target.model, include_usage=request.include_usage)

    def error_frame(self, error: RequestError) -> bytes:
        """An error frame as OpenAI sends it. No `[DONE]` follows: the stream is not whole."""
        return sse_frame(render_error(error, str(error)))


FACE = ChatFace()


def chat(services: Services) -> Response:
    """A chat completion, whole or streamed."""
    record: RequestRecord = g.record
    data = read_body(services, request)
    cancellation = Cancellation()
    call = Call(request=parse_request(parse_body(data), len(data)), client=g.client, face=FACE, cancellation=cancellation, record=record)
    watch = ClientWatch(request.environ.get("gunicorn.socket"), cancellation)
    try:
        answer = services.gateway.complete(call)
    except BaseException:
        watch.stop()
        raise
    if isinstance(answer, StreamAnswer):
        return _streamed(services, answer, record, watch)
    watch.stop()
    body = answer.body if answer.body is not None else orjson.dumps(render_completion(answer.completion, answer.usage))
    response = Response(body, mimetype="application/json")
    _describe(response, record)
    return response


def _streamed(services: Services, answer: StreamAnswer, record: RequestRecord, watch: ClientWatch) -> Response:
    services.metrics.active_streams.inc()

    def ended() -> None:
        watch.stop()
        services.metrics.active_streams.dec()

    response = Response(answer, mimetype="text/event-stream", headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
    response.call_on_close(ended)
    _describe(response, record)
    return response


def _describe(response: Response, record: RequestRecord) -> None:
    target = record.target
    if target is None:
        return
    response.headers["x-coollm-provider"] = target.provider
    response.headers["x-coollm-key"] = target.key_id
    if record.ending is not None and record.cost_usd is not None:
        response.headers["x-coollm-cost-usd"] = f"{record.cost_usd:.8f}"


ROUTES = (Route("/v1/chat/completions", ("POST",), Access.CLIENT, chat, "chat"),)
