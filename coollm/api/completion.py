"""One request to a model over HTTP, whole or streamed, whatever the client's dialect: the body of every hot route."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import orjson
from flask import Response, g, request

from coollm.api.body import LARGE_BODY_BYTES, parse_body, read_body
from coollm.api.client_watch import ClientWatch
from coollm.api.face import Face
from coollm.call import Answer, Call
from coollm.cancellation import Cancellation
from coollm.core.errors import GatewayFault
from coollm.core.types import (
    Completion,
    FinishDelta,
    ModelRequest,
    ReasoningDelta,
    ReasoningPart,
    RefusalDelta,
    StreamEvent,
    TextDelta,
    TextPart,
    ToolCallDelta,
)
from coollm.passing import PassedThrough
from coollm.providers.payload import set_long_texts_aside
from coollm.providers.rate_limits import write as write_limits
from coollm.services import Services
from coollm.streaming import StreamAnswer
from coollm.telemetry.record import RequestRecord

_STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def complete(services: Services, face: Face) -> Response:
    """Serves the request of this moment in the dialect of `face`."""
    return serve(services, face, _read(services, face))


def _read(services: Services, face: Face) -> ModelRequest:
    """The request. Of a large one neither the bytes nor a second copy of its texts stay in memory."""
    data = read_body(services, request)
    asked = face.parse(parse_body(data), request.headers)
    if len(data) >= LARGE_BODY_BYTES:
        set_long_texts_aside(asked.source)
    return asked


def serve(services: Services, face: Face, asked: ModelRequest) -> Response:
    """Serves `asked` and answers in the dialect of `face`. What `asked` holds open is closed by the caller if this raises, else with the response."""
    record: RequestRecord = g.record
    if services.usage_log.is_full:
        raise GatewayFault("the usage log cannot be written, so that no request is admitted: is its disk full?", status=503, code="usage_log_full")
    cancellation = Cancellation()
    wishes = request.headers.get("cache-control", "").lower()
    call = Call(
        request=asked,
        client=g.client,
        face=face,
        cancellation=cancellation,
        record=record,
        session=request.headers.get(services.settings.policy.sticky.header),
        may_read_cache="no-cache" not in wishes,
        may_keep="no-store" not in wishes,
    )
    watch = ClientWatch(request.environ.get("gunicorn.socket"), cancellation)
    try:
        answer = services.gateway.complete(call)
    except BaseException:
        watch.stop()
        raise
    if isinstance(answer, Answer):
        watch.stop()
        response = _replayed(face, call, answer) if asked.stream else _whole(face, call, answer)
    else:
        response = _streamed(services, answer, watch)
    _describe(response, record, face)
    return response


def _whole(face: Face, call: Call, answer: Answer) -> Response:
    if answer.body is None:
        return Response(orjson.dumps(face.render(call.request, answer.content, answer.usage)), mimetype="application/json")
    forward = face.forwarder(answer.target)
    return Response(answer.body if forward is None else forward(answer.body), mimetype="application/json")


def _replayed(face: Face, call: Call, answer: Answer) -> Response:
    """A stream of an answer that the vendor could only give whole."""
    assert isinstance(answer.content, Completion)  # noqa: S101  nothing else is streamed
    renderer = face.renderer(call.request, answer.target, call.record.request_id)
    frames = [renderer.render(event) for event in _events(answer.content)]
    return Response(b"".join((*frames, renderer.finish(answer.usage))), mimetype="text/event-stream", headers=_STREAM_HEADERS)


def _events(completion: Completion) -> Iterator[StreamEvent]:
    for index, choice in enumerate(completion.choices):
        calls = 0
        for part in choice.parts:
            if isinstance(part, TextPart):
                yield TextDelta(text=part.text, choice=index, logprobs=choice.logprobs)
            elif isinstance(part, ReasoningPart):
                yield ReasoningDelta(text=part.text, signature=part.signature, origin=part.origin, is_redacted=part.is_redacted, choice=index)
            else:
                yield ToolCallDelta(index=calls, id=part.id, name=part.name, arguments=part.arguments, extra=part.extra, choice=index)
                calls += 1
        if choice.refusal:
            yield RefusalDelta(text=choice.refusal, choice=index)
        yield FinishDelta(reason=choice.finish_reason, choice=index)


def _streamed(services: Services, answer: StreamAnswer | PassedThrough, watch: ClientWatch) -> Response:
    services.metrics.active_streams.inc()

    def ended() -> None:
        watch.stop()
        services.metrics.active_streams.dec()

    pieces: Iterable[bytes] = answer
    if isinstance(answer, PassedThrough):
        response = Response(pieces, status=answer.status, headers=answer.headers)
    else:
        response = Response(pieces, mimetype="text/event-stream", headers=_STREAM_HEADERS)
    response.call_on_close(ended)
    return response


def _describe(response: Response, record: RequestRecord, face: Face) -> None:
    response.headers.update(write_limits(face.wire, record.rate_limits))
    if record.cache is not None:
        response.headers["x-coollm-cache"] = record.cache
    target = record.target
    if target is None:
        return
    response.headers["x-coollm-provider"] = target.provider
    response.headers["x-coollm-key"] = target.key_id
    if record.dropped:
        response.headers["x-coollm-dropped"] = ", ".join(record.dropped)
    if record.ending is not None and record.cost_usd is not None:
        response.headers["x-coollm-cost-usd"] = f"{record.cost_usd:.8f}"
