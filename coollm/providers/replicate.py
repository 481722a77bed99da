"""Replicate's API: a prediction is created, and then streamed or asked for until it is there.

Sources: https://replicate.com/docs/reference/http (predictions, `Prefer: wait`, `Cancel-After`), https://replicate.com/docs/topics/predictions/streaming and
the `replicate` package. Inputs are those of Replicate's official language models: `prompt`, `system_prompt`, `max_tokens`, `temperature`, `top_p`, `top_k`,
`seed`, `stop_sequences`, `frequency_penalty`, `presence_penalty`, `image`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import orjson

from coollm.core.types import (
    ChatRequest,
    Choice,
    Completion,
    FinishDelta,
    ImagePart,
    Json,
    Message,
    ModelRequest,
    StreamEnd,
    StreamEvent,
    Target,
    TextDelta,
    TextPart,
    Usage,
    Value,
)
from coollm.providers.base import FollowUp, Losses, VendorRequest, WireFormat, bad_answer, count, error_body, lose_inexpressible, no_such_kind, parse_object
from coollm.providers.openai_chat import data_url
from coollm.providers.payload import write_json
from coollm.providers.rate_limits import wait_seconds
from coollm.providers.sse import SseEvent
from coollm.providers.verdict import Cause, VendorError, Verdict, cause_of_status

_SAYS = frozenset({"temperature", "top_p", "top_k", "stop", "seed", "frequency_penalty", "presence_penalty"})
_UNFINISHED = ("starting", "processing", "queued")
POLL_SECONDS = 0.5

# How long creating a prediction may wait for its end, 1 to 60. Until it returns there is no id to cancel if the client leaves.
WAIT_SECONDS = 1


class ReplicateDialect(Value, frozen=True):
    """Replicate's dialect."""

    wire: str = "replicate"
    has_chat: bool = True
    counts_tokens: bool = False
    operations: frozenset[str] = frozenset()
    base_url: str | None = "https://api.replicate.com/v1"
    families: tuple[str, ...] = ()

    def encode(self, request: ModelRequest, target: Target, base_url: str, key: str, losses: Losses) -> VendorRequest:
        """A `POST /models/OWNER/NAME/predictions`, or `/predictions` for `OWNER/NAME:VERSION`, and what follows it."""
        if not isinstance(request, ChatRequest):
            raise no_such_kind(request, "Replicate")
        credentials = (("authorization", f"Bearer {key}"),)
        prefer = () if request.stream else (("prefer", f"wait={WAIT_SECONDS}"),)
        body: Json = {"input": _input(request, target, losses), **({"stream": True} if request.stream else {})}
        name, _, version = target.model.partition(":")
        if version:
            body["version"] = version
        return VendorRequest(
            method="POST",
            url=f"{base_url}/predictions" if version else f"{base_url}/models/{name}/predictions",
            headers=(("content-type", "application/json"), *prefer, *credentials),
            body=write_json(body),
            answer=PREDICTION,
            follow=_follow(credentials, _origin(base_url), wants_stream=request.stream),
        )

    def verdict(self, status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
        """The judgement on `{"title", "detail", "status"}`, by status."""
        answer = error_body(body)
        message = str(answer.get("detail") or answer.get("title") or f"HTTP status {status}")
        return Verdict(cause=cause_of_status(status), message=message, status=status, retry_after_seconds=wait_seconds(headers))


DIALECT = ReplicateDialect()


def _input(request: ChatRequest, target: Target, losses: Losses) -> Json:
    lose_inexpressible(request, losses, "Replicate", _SAYS)
    given: Json = {
        "prompt": _prompt(request.messages, losses),
        "system_prompt": "\n\n".join(_text(message) for message in request.messages if message.role == "system") or None,
        "max_tokens": request.max_output_tokens or target.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "seed": request.seed,
        "stop_sequences": ",".join(request.stop) or None,
        "frequency_penalty": request.frequency_penalty,
        "presence_penalty": request.presence_penalty,
        "image": _image(request.messages, losses),
    }
    return {name: value for name, value in given.items() if value is not None}


def _prompt(messages: tuple[Message, ...], losses: Losses) -> str:
    """The conversation as one prompt: a single turn as it is, more with who said what."""
    turns = [message for message in messages if message.role != "system"]
    for message in turns:
        for part in message.parts:
            if not isinstance(part, TextPart | ImagePart) and message.role != "assistant":
                losses.lose("messages", "Replicate", "its models take text and one image")
    if len(turns) == 1:
        return _text(turns[0])
    said = [f"{'Assistant' if message.role == 'assistant' else 'User'}: {_text(message)}" for message in turns]
    return "\n\n".join([*said, "Assistant:"])


def _text(message: Message) -> str:
    return "".join(part.text for part in message.parts if isinstance(part, TextPart))


def _image(messages: tuple[Message, ...], losses: Losses) -> Any:
    images = [part for message in messages for part in message.parts if isinstance(part, ImagePart)]
    if len(images) > 1:
        losses.lose("messages", "Replicate", "its models take one image")
    if not images:
        return None
    return images[0].url if images[0].data is None else data_url(images[0].data, images[0].media_type or "image/png")


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").rpartition(".replicate.")[2]


def _follow(credentials: tuple[tuple[str, str], ...], origin: tuple[str, str], *, wants_stream: bool) -> Callable[[bytes], FollowUp | None]:
    """What comes after a prediction's state: its stream, its state some time later, or nothing."""

    def follow(body: bytes) -> FollowUp | None:
        prediction = parse_object(body, "the prediction")
        status = str(prediction.get("status"))
        urls = prediction.get("urls")
        urls = urls if isinstance(urls, dict) else {}
        if status in ("failed", "canceled", "aborted"):
            raise VendorError(Verdict(cause=Cause.VENDOR_ERROR, message=f"the prediction {status}: {prediction.get('error')}", status=200))
        if status not in _UNFINISHED and not (wants_stream and urls.get("stream")):
            return None
        cancel = VendorRequest(method="POST", url=_checked(urls.get("cancel"), origin), headers=credentials, body=b"", answer=PREDICTION)
        if wants_stream and urls.get("stream"):
            headers = (("accept", "text/event-stream"), ("cache-control", "no-store"), *credentials)
            url = _checked(urls["stream"], origin)
            return FollowUp(request=VendorRequest(method="GET", url=url, headers=headers, body=b"", answer=PREDICTION, abandon=cancel))
        again = VendorRequest(
            method="GET", url=_checked(urls.get("get"), origin), headers=credentials, body=b"", answer=PREDICTION, follow=follow, abandon=cancel
        )
        return FollowUp(request=again, wait_seconds=POLL_SECONDS)

    return follow


def _checked(url: Any, origin: tuple[str, str]) -> str:
    """An address that an answer names. The key goes nowhere but to the vendor's own hosts: api.replicate.com and stream.replicate.com, say."""
    if not isinstance(url, str) or _origin(url) != origin:
        raise bad_answer("the prediction names an address that is not the vendor's")
    return url


def _output(prediction: Json) -> str:
    """The text of an output: one text, or a list of its pieces. Anything else (an object, a file) is JSON."""
    output = prediction.get("output")
    if isinstance(output, list) and all(isinstance(piece, str) for piece in output):
        return "".join(output)
    return output if isinstance(output, str) else orjson.dumps(output).decode()


def _decode(request: ModelRequest, body: bytes) -> Completion:
    prediction = parse_object(body, "the prediction")
    if prediction.get("status") not in ("succeeded", *_UNFINISHED):
        raise bad_answer(f"the prediction is {prediction.get('status')}")
    metrics = prediction.get("metrics")
    usage = None
    if isinstance(metrics, dict) and ("input_token_count" in metrics or "output_token_count" in metrics):
        usage = Usage(input_tokens=count(metrics, "input_token_count"), output_tokens=count(metrics, "output_token_count"))
    choice = Choice(parts=(TextPart(text=_output(prediction)),), finish_reason="stop")
    return Completion(id=str(prediction.get("id") or ""), model=request.model, choices=(choice,), usage=usage)


class _Stream:
    """Decodes events `output`, `error` and `done`."""

    def __init__(self) -> None:
        self._whole = False

    @property
    def is_whole(self) -> bool:
        return self._whole

    def decode_event(self, event: SseEvent) -> tuple[StreamEvent, ...]:
        if event.name == "output":
            return (TextDelta(text=event.data.decode("utf-8", "replace")),)
        if event.name == "error":
            message = event.data.decode("utf-8", "replace")[:500]
            raise VendorError(Verdict(cause=Cause.VENDOR_ERROR, message=f"the prediction failed: {message}", status=200))
        if event.name != "done":
            return ()
        reason = error_body(event.data).get("reason")
        if reason in ("error", "canceled"):
            raise VendorError(Verdict(cause=Cause.VENDOR_ERROR, message=f"the prediction ended: {reason}", status=200))
        self._whole = True
        return (FinishDelta(reason="stop"), StreamEnd())


PREDICTION = WireFormat(wire=DIALECT.wire, read=_decode, decoder=_Stream)
