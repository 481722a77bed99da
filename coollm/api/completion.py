"""One request to a model over HTTP, whole or streamed, whatever the client's dialect: the body of every hot route."""

from __future__ import annotations

import orjson
from flask import Response, g, request

from coollm.api.body import parse_body, read_body
from coollm.api.client_watch import ClientWatch
from coollm.api.face import Face
from coollm.cancellation import Cancellation
from coollm.gateway import Call
from coollm.services import Services
from coollm.streaming import StreamAnswer
from coollm.telemetry.record import RequestRecord


def complete(services: Services, face: Face) -> Response:
    """Serves the request of this moment in the dialect of `face`."""
    record: RequestRecord = g.record
    data = read_body(services, request)
    cancellation = Cancellation()
    chat = face.parse(parse_body(data), request.headers)
    call = Call(request=chat, client=g.client, face=face, cancellation=cancellation, record=record)
    watch = ClientWatch(request.environ.get("gunicorn.socket"), cancellation)
    try:
        answer = services.gateway.complete(call)
    except BaseException:
        watch.stop()
        raise
    if isinstance(answer, StreamAnswer):
        return _streamed(services, answer, record, watch)
    watch.stop()
    body = answer.body if answer.body is not None else orjson.dumps(face.render(call.request, answer.content, answer.usage))
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
