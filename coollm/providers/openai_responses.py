"""OpenAI's Responses API as vendors speak it. Its answers go to the client as they are; here they are read beside, for usage, content and failure.

Source: https://platform.openai.com/docs/api-reference/responses, /responses-streaming and the types of the `openai` package.
"""

from __future__ import annotations

from typing import Any

from coollm.core.types import (
    Choice,
    Completion,
    FinishDelta,
    FinishReason,
    Json,
    ModelRequest,
    ReasoningDelta,
    ReasoningPart,
    RefusalDelta,
    ServiceTier,
    StreamEnd,
    StreamEvent,
    TextDelta,
    TextPart,
    ToolCall,
    ToolCallDelta,
    Usage,
    UsageUpdate,
)
from coollm.providers.base import WireFormat, bad_answer, count, parse_object
from coollm.providers.openai_chat import service_tier
from coollm.providers.openai_errors import judge
from coollm.providers.sse import SseEvent
from coollm.providers.verdict import VendorError

_INCOMPLETE: dict[str, FinishReason] = {"max_output_tokens": "length", "content_filter": "content_filter"}
_TEXTS = {"response.output_text.delta": TextDelta, "response.refusal.delta": RefusalDelta}
_REASONINGS = ("response.reasoning_text.delta", "response.reasoning_summary_text.delta")
_ENDS = ("response.completed", "response.incomplete")


def decode_usage(usage: Any, tier: ServiceTier | None = None) -> Usage | None:
    """Usage whose details are parts of their sums, in disjoint buckets."""
    if not isinstance(usage, dict):
        return None
    given, made = count(usage, "input_tokens"), count(usage, "output_tokens")
    details = usage.get("input_tokens_details")
    cached = min(given, count(details, "cached_tokens"))
    written = min(given - cached, count(details, "cache_write_tokens"))
    reasoning = min(made, count(usage.get("output_tokens_details"), "reasoning_tokens"))
    return Usage(
        input_tokens=given - cached - written,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=made - reasoning,
        reasoning_tokens=reasoning,
        service_tier=tier,
    )


def _finish(response: Json, *, has_calls: bool) -> FinishReason:
    if response.get("status") == "incomplete":
        reason = response.get("incomplete_details")
        return _INCOMPLETE.get(str(reason.get("reason")) if isinstance(reason, dict) else "", "length")
    return "tool_calls" if has_calls else "stop"


def _decode(request: ModelRequest, body: bytes) -> Completion:  # noqa: ARG001  the answer says all
    response = parse_object(body, "the answer")
    if response.get("error"):
        raise VendorError(judge(200, {}, response))
    if not isinstance(response.get("output"), list):
        raise bad_answer("the answer has no output")
    parts: list[TextPart | ToolCall | ReasoningPart] = []
    for item in response["output"]:
        parts += _parts(item) if isinstance(item, dict) else []
    finish = _finish(response, has_calls=any(isinstance(part, ToolCall) for part in parts))
    return Completion(
        id=str(response.get("id") or ""),
        model=str(response.get("model") or ""),
        choices=(Choice(parts=tuple(parts), finish_reason=finish),),
        usage=decode_usage(response.get("usage"), service_tier(response)),
        service_tier=service_tier(response),
    )


def _parts(item: Json) -> list[TextPart | ToolCall | ReasoningPart]:
    kind = item.get("type")
    if kind == "message":
        return [TextPart(text=str(part.get("text") or "")) for part in item.get("content") or () if isinstance(part, dict)]
    if kind == "function_call":
        return [ToolCall(id=str(item.get("call_id") or ""), name=str(item.get("name") or ""), arguments=str(item.get("arguments") or "{}"))]
    if kind == "reasoning":
        return [ReasoningPart(text=str(part.get("text") or "")) for part in item.get("summary") or () if isinstance(part, dict)]
    return []


class _Decoder:
    """Decodes the events of a stream. Tool calls are numbered in the order in which they begin."""

    def __init__(self) -> None:
        self._calls: dict[int, int] = {}
        self._whole = False

    @property
    def is_whole(self) -> bool:
        return self._whole

    def decode_event(self, event: SseEvent) -> tuple[StreamEvent, ...]:
        if not event.data or event.data == b"[DONE]":
            return ()
        payload = parse_object(event.data, "an event of the stream")
        kind = str(payload.get("type"))
        if kind in _TEXTS:
            return (_TEXTS[kind](text=str(payload.get("delta") or "")),)
        if kind in _REASONINGS:
            return (ReasoningDelta(text=str(payload.get("delta") or "")),)
        if kind == "response.output_item.added":
            return self._added(payload)
        if kind == "response.function_call_arguments.delta":
            number = self._calls.setdefault(count(payload, "output_index"), len(self._calls))
            return (ToolCallDelta(index=number, arguments=str(payload.get("delta") or "")),)
        if kind == "error":
            raise VendorError(judge(200, {}, {"error": payload.get("error") or payload}))
        return self._end(kind, payload)

    def _added(self, payload: Json) -> tuple[StreamEvent, ...]:
        item = payload.get("item")
        if not isinstance(item, dict) or item.get("type") != "function_call":
            return ()
        number = self._calls.setdefault(count(payload, "output_index"), len(self._calls))
        return (ToolCallDelta(index=number, id=str(item.get("call_id") or ""), name=str(item.get("name") or "")),)

    def _end(self, kind: str, payload: Json) -> tuple[StreamEvent, ...]:
        response = payload.get("response")
        if not isinstance(response, dict):
            return ()
        if kind == "response.failed":
            raise VendorError(judge(200, {}, {"error": response.get("error") or "the response failed"}))
        if kind not in _ENDS:
            return ()
        self._whole = True
        usage = decode_usage(response.get("usage"), service_tier(response))
        counted = (UsageUpdate(usage=usage),) if usage else ()
        return (FinishDelta(reason=_finish(response, has_calls=bool(self._calls))), *counted, StreamEnd())


RESPONSES = WireFormat(wire="responses", read=_decode, decoder=_Decoder)
