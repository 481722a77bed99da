"""Replicate on the wire. Source: https://replicate.com/docs/reference/http and the `replicate` package."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import orjson

from coollm.core.types import Json
from coollm.simulator.answer import Asked, Heard, Reply, Said, answer
from coollm.simulator.behaviour import Behaviour
from coollm.simulator.openai import BROKEN, STREAM_TYPE, key

__all__ = ["BROKEN", "STREAM_TYPE", "error", "error_frame", "frames", "key", "read", "read_prediction"]


class _Prediction:
    """A prediction and when it will be done."""

    def __init__(self, asked: Asked, said: Said, origin: str, seconds: float) -> None:
        self.id = uuid.uuid4().hex[:26]
        self.asked = asked
        self.said = said
        self.done_at = time.monotonic() + seconds
        self.is_canceled = False
        self._origin = origin

    def told(self, *, usage: bool) -> Json:
        """Its state now."""
        is_done = time.monotonic() >= self.done_at
        status = "canceled" if self.is_canceled else "succeeded" if is_done else "processing"
        base = f"{self._origin}/v1/predictions/{self.id}"
        urls = {"get": base, "cancel": f"{base}/cancel", **({"stream": f"{base}/stream"} if self.asked.stream else {})}
        counted = {"input_token_count": self.said.input_tokens, "output_token_count": self.said.output_tokens} if usage else {}
        return {
            "id": self.id,
            "model": self.asked.model,
            "version": "simulated",
            "input": self.asked.body["input"],
            "logs": "",
            "output": list(self.said.tokens) if status == "succeeded" else None,
            "error": None,
            "status": status,
            "created_at": "2026-01-01T00:00:00Z",
            "urls": urls,
            "metrics": {"predict_time": 0.1, **counted} if status == "succeeded" else {},
        }


def read(heard: Heard) -> Asked:
    """A request for a prediction. Raises ValueError for what the API refuses."""
    body = heard.body
    given = body.get("input")
    if not isinstance(given, dict) or not given.get("prompt"):
        raise ValueError("- input: prompt is required")
    model = heard.groups[0] if heard.groups else f"version:{body['version']}"
    text = orjson.dumps(given).decode()
    heard_asked = Asked(model=model, key=heard.key, stream=bool(body.get("stream")), body=body, text=text, max_tokens=given.get("max_tokens"))
    waits = heard.headers.get("prefer", "").startswith("wait")

    def create(how: Behaviour, _: str) -> Reply:
        said = answer(heard_asked, how)
        seconds = len(said.tokens) / how.rate if how.rate else 0.0
        prediction = _Prediction(heard_asked, said, heard.origin, seconds if waits or how.rate else 0.2)
        heard.memory.predictions[prediction.id] = prediction
        return Reply(body=prediction.told(usage=bool(how.usage)), status=201)

    return Asked(model=model, key=heard.key, stream=False, body=body, text=text, reply=create)


def read_prediction(heard: Heard) -> Asked:
    """A look at a prediction, its cancellation, or its stream. Raises KeyError for one that does not exist."""
    prediction = heard.memory.predictions[heard.groups[0]]
    what = heard.groups[1] if len(heard.groups) > 1 else ""
    asked: Asked = prediction.asked
    if what == "stream":
        return asked

    def tell(how: Behaviour, _: str) -> Reply:
        if what == "cancel":
            prediction.is_canceled = True
        return Reply(body=prediction.told(usage=bool(how.usage)))

    return Asked(model=asked.model, key=heard.key, stream=False, body={}, text="", reply=tell)


def frames(asked: Asked, said: Said, request_id: str, *, usage: bool) -> Iterator[tuple[bytes, bool]]:  # noqa: ARG001
    """The events of a stream, each with whether it holds content."""
    for number, token in enumerate(said.tokens):
        yield _event("output", token, f"{number}:0"), True
    yield _event("done", "{}", f"{len(said.tokens)}:0"), False


def _event(name: str, data: str, event_id: str) -> bytes:
    lines = "".join(f"data: {line}\n" for line in data.split("\n"))
    return f"event: {name}\nid: {event_id}\n{lines}\n".encode()


def error(status: int, message: str, retry_after: float = 0) -> Json:  # noqa: ARG001
    """An error body."""
    return {"title": "Simulated", "detail": message, "status": status}


def error_frame(message: str) -> bytes:
    """An error inside a stream."""
    return _event("error", orjson.dumps({"detail": message}).decode(), "error:0")
