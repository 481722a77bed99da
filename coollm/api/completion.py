"""One request to a model over HTTP, whole or streamed, whatever the client's dialect: the body of every hot route."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from coollm.api.body import LARGE_BODY_BYTES, parse_body, read_body
from coollm.api.client_watch import WIRE_KEY, ClientWatch
from coollm.api.face import Face
from coollm.api.http import JSON, Exchange, Pieces, Reply, json_reply
from coollm.api.rate_headers import add_rates
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
from coollm.services import Services
from coollm.streaming import StreamAnswer
from coollm.telemetry.record import RequestRecord

_STREAM_TYPE = "text/event-stream; charset=utf-8"
_STREAM_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def complete(face: Face) -> Callable[[Services, Exchange], Reply]:
    """What serves requests in the dialect of `face`."""

    def served(services: Services, exchange: Exchange) -> Reply:
        data = read_body(services, exchange)
        asked = face.parse(parse_body(data), exchange)
        if len(data) >= LARGE_BODY_BYTES:
            # Neither the bytes nor a second copy of its texts stay in memory.
            set_long_texts_aside(asked.source)
        del data
        return serve(services, face, asked, exchange)

    return served


def serve(services: Services, face: Face, asked: ModelRequest, exchange: Exchange) -> Reply:
    """Serves `asked` and answers in the dialect of `face`. What `asked` holds open is closed by the caller if this raises, else with the reply."""
    record = exchange.record
    assert record is not None  # noqa: S101  what goes to a vendor has one
    if services.usage_log.is_full:
        raise GatewayFault("the usage log cannot be written, so that no request is admitted: is its disk full?", status=503, code="usage_log_full")
    cancellation = Cancellation()
    wishes = exchange.environ.get("HTTP_CACHE_CONTROL", "").lower()
    call = Call(
        request=asked,
        client=exchange.client,
        face=face,
        cancellation=cancellation,
        record=record,
        session=_session(services, exchange),
        may_read_cache="no-cache" not in wishes,
        may_keep="no-store" not in wishes,
    )
    watch = ClientWatch(exchange.environ.get(WIRE_KEY), cancellation)
    try:
        answer = services.gateway.complete(call)
    except BaseException:
        watch.stop()
        raise
    if isinstance(answer, Answer):
        watch.stop()
        reply = _replayed(face, call, answer) if asked.stream else _whole(face, call, answer)
    else:
        reply = _streamed(services, answer, watch)
    _describe(reply, record, face)
    return reply


def _session(services: Services, exchange: Exchange) -> str | None:
    sticky = services.settings.policy.sticky
    return exchange.headers.get(sticky.header) if sticky.by == "session" else None


def _whole(face: Face, call: Call, answer: Answer) -> Reply:
    if answer.body is None:
        assert answer.content is not None  # noqa: S101  it is one or the other
        return json_reply(face.render(call.request, answer.content, answer.usage))
    forward = face.forwarder(answer.target)
    return Reply(answer.body if forward is None else forward(answer.body))


def _replayed(face: Face, call: Call, answer: Answer) -> Reply:
    """A stream of an answer that the vendor could only give whole."""
    assert isinstance(answer.content, Completion)  # noqa: S101  nothing else is streamed
    renderer = face.renderer(call.request, answer.target, call.record.request_id)
    frames = [renderer.render(event) for event in _events(answer.content)]
    return Reply(b"".join((*frames, renderer.finish(answer.usage))), content_type=_STREAM_TYPE, headers=_STREAM_HEADERS)


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


def _streamed(services: Services, answer: StreamAnswer | PassedThrough, watch: ClientWatch) -> Reply:
    services.metrics.active_streams.inc()

    def ended() -> None:
        watch.stop()
        services.metrics.active_streams.dec()

    pieces = Pieces(answer, ended)
    if isinstance(answer, PassedThrough):
        return Reply(pieces, answer.status, answer.headers.get("content-type", JSON), answer.headers)
    return Reply(pieces, content_type=_STREAM_TYPE, headers=_STREAM_HEADERS)


def _describe(reply: Reply, record: RequestRecord, face: Face) -> None:
    headers = reply.headers
    if record.rates:
        add_rates(headers, face.wire, record.rates)
    if record.cache is not None:
        headers["x-coollm-cache"] = record.cache
    target = record.target
    if target is None:
        return
    headers["x-coollm-provider"] = target.provider
    headers["x-coollm-key"] = target.key_id
    if record.dropped:
        headers["x-coollm-dropped"] = ", ".join(record.dropped)
    if record.ending is not None and record.cost_usd is not None:
        headers["x-coollm-cost-usd"] = f"{record.cost_usd:.8f}"
