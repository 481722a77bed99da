"""Anthropic's Messages API.

Sources: https://docs.anthropic.com/en/api/messages, /en/api/messages-streaming, /en/api/errors, and the types of the `anthropic` package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import orjson

from coollm.core.types import (
    AudioPart,
    Base64,
    ChatRequest,
    Choice,
    Completion,
    CountRequest,
    DocumentPart,
    FinishDelta,
    FinishReason,
    ImagePart,
    Json,
    ModelRequest,
    Part,
    ReasoningDelta,
    ReasoningPart,
    ServiceTier,
    StreamEnd,
    StreamEvent,
    Target,
    TextDelta,
    TextPart,
    TokenCount,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolResult,
    Usage,
    UsageUpdate,
    Value,
)
from coollm.providers.base import (
    Losses,
    VendorRequest,
    WireFormat,
    arguments_object,
    bad_answer,
    count,
    error_body,
    lose_inexpressible,
    no_stream,
    no_such_kind,
    parse_object,
    turns,
    unsupported,
)
from coollm.providers.payload import write_json
from coollm.providers.rate_limits import wait_seconds
from coollm.providers.reasoning import MINTED
from coollm.providers.sse import SseEvent
from coollm.providers.verdict import Cause, VendorError, Verdict, cause_of_status

API_VERSION = "2023-06-01"

# The API requires a limit; OpenAI's clients need not give one.
DEFAULT_MAX_TOKENS = 4096

_SAYS = frozenset({"temperature", "top_p", "top_k", "stop", "tools", "tool_choice", "output_schema", "reasoning_effort"})

# Both ways: what a client may ask for, and what served it.
_ASKED_TIERS = {"auto": "auto", "priority": "auto", "default": "standard_only", "flex": "standard_only"}
_SERVED_TIERS: dict[str, ServiceTier] = {"standard": "default", "priority": "priority", "batch": "batch"}

_EFFORTS = {"minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "xhigh", "max": "max"}

_STOP_REASONS: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}

_CAUSES: dict[str, Cause] = {
    "invalid_request_error": Cause.CLIENT_FAULT,
    "request_too_large": Cause.CLIENT_FAULT,
    "authentication_error": Cause.KEY_REJECTED,
    "permission_error": Cause.KEY_REJECTED,
    "billing_error": Cause.QUOTA_EXHAUSTED,
    "not_found_error": Cause.UNKNOWN_MODEL,
    "rate_limit_error": Cause.RATE_LIMITED,
    "api_error": Cause.VENDOR_ERROR,
    "timeout_error": Cause.TIMEOUT,
    "overloaded_error": Cause.OVERLOADED,
}


class ClaudeDialect(Value, frozen=True):
    """Anthropic's dialect."""

    wire: str = "claude"
    has_chat: bool = True
    counts_tokens: bool = True
    operations: frozenset[str] = frozenset()
    base_url: str | None = "https://api.anthropic.com"
    families: tuple[str, ...] = ("claude-*",)

    def encode(self, request: ModelRequest, target: Target, base_url: str, key: str, losses: Losses) -> VendorRequest:
        """A `POST /v1/messages`, or `/v1/messages/count_tokens`."""
        headers = {"content-type": "application/json", "x-api-key": key, "anthropic-version": API_VERSION, **dict(request.forwarded_headers)}
        if isinstance(request, CountRequest):
            path, answer = "/v1/messages/count_tokens", COUNT
            body = {name: value for name, value in message_body(request.chat, target, losses).items() if name not in _NOT_COUNTED}
        elif isinstance(request, ChatRequest):
            path, answer, body = "/v1/messages", MESSAGES, message_body(request, target, losses)
        else:
            raise no_such_kind(request, "Claude")
        return VendorRequest(method="POST", url=base_url + path, headers=tuple(headers.items()), body=write_json(body), answer=answer)

    def verdict(self, status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
        """The judgement on `{"type": "error", "error": {"type", "message"}}`."""
        return _verdict(status, headers, error_body(body))


DIALECT = ClaudeDialect()


def message_body(request: ChatRequest, target: Target, losses: Losses) -> Json:
    """The body of a messages request: the client's own where it speaks this dialect."""
    if request.dialect == DIALECT.wire:
        return {**request.source, "model": target.model, "messages": _without_minted(request.source["messages"])}
    lose_inexpressible(request, losses, "Claude", _SAYS)
    body: Json = {
        "model": target.model,
        "max_tokens": request.max_output_tokens or target.max_tokens or DEFAULT_MAX_TOKENS,
        "messages": turns(request.messages, "assistant", "content", _blocks_of, "Claude"),
    }
    system = [part for message in request.messages if message.role == "system" for part in message.parts if isinstance(part, TextPart)]
    if any(part.cache_control for part in system):
        body["system"] = [_content_block(part) for part in system]
    elif system:
        body["system"] = "\n\n".join(part.text for part in system)
    _add_options(request, body, losses)
    _add_tools(request, body)
    return body


def _without_minted(messages: Any) -> Any:
    """The messages without thinking that Claude has not signed: it refuses what another vendor thought in an earlier turn."""
    return [
        {**message, "content": [block for block in message["content"] if not _is_minted(block)]}
        if message.get("role") == "assistant" and isinstance(message.get("content"), list) and any(_is_minted(block) for block in message["content"])
        else message
        for message in messages
    ]


def _is_minted(block: Json) -> bool:
    kind = block.get("type")
    return (kind == "thinking" and str(block.get("signature") or MINTED).startswith(MINTED)) or (
        kind == "redacted_thinking" and str(block.get("data")).startswith(MINTED)
    )


def _count(request: ModelRequest, body: bytes) -> TokenCount:  # noqa: ARG001
    return TokenCount(input_tokens=count(parse_object(body, "the answer"), "input_tokens"))


def _decode(request: ModelRequest, body: bytes) -> Completion:  # noqa: ARG001  the answer says all
    """A `message` object."""
    answer = parse_object(body, "the answer")
    if answer.get("type") == "error":
        raise VendorError(_verdict(200, {}, answer))
    content = answer.get("content")
    if not isinstance(content, list) or not answer.get("stop_reason"):
        raise bad_answer("the answer is not a whole message")
    parts: list[TextPart | ToolCall | ReasoningPart] = []
    for block in content:
        parts.extend(_block(block))
    usage = answer.get("usage") or {}
    return Completion(
        id=str(answer.get("id") or ""),
        model=str(answer.get("model") or ""),
        choices=(Choice(parts=tuple(parts), finish_reason=_STOP_REASONS.get(str(answer["stop_reason"]), "stop")),),
        usage=decode_usage(usage),
        service_tier=_SERVED_TIERS.get(str(usage.get("service_tier"))),
    )


def _verdict(status: int, headers: Mapping[str, str], answer: Json) -> Verdict:
    error = answer.get("error")
    error = error if isinstance(error, dict) else {}
    kind = str(error.get("type") or "")
    return Verdict(
        cause=_CAUSES.get(kind) or (Cause.VENDOR_ERROR if status == 200 else cause_of_status(status)),
        message=str(error.get("message") or f"HTTP status {status}"),
        status=status,
        type=kind or None,
        retry_after_seconds=wait_seconds(headers),
    )


def decode_usage(usage: Json, before: Usage | None = None) -> Usage:
    """Anthropic's usage. Its input, cache-read and cache-write counts are disjoint already; later events of a stream overwrite what they repeat."""
    before = before or Usage()
    thinking = count(usage.get("output_tokens_details"), "thinking_tokens")
    output = count(usage, "output_tokens")
    written = count(usage, "cache_creation_input_tokens")
    for_an_hour = min(written, count(usage.get("cache_creation"), "ephemeral_1h_input_tokens"))
    return Usage(
        input_tokens=count(usage, "input_tokens") or before.input_tokens,
        cached_input_tokens=count(usage, "cache_read_input_tokens") or before.cached_input_tokens,
        cache_write_tokens=written - for_an_hour if written else before.cache_write_tokens,
        cache_write_1h_tokens=for_an_hour if written else before.cache_write_1h_tokens,
        output_tokens=max(0, output - thinking) or before.output_tokens,
        reasoning_tokens=thinking or before.reasoning_tokens,
        service_tier=_SERVED_TIERS.get(str(usage.get("service_tier"))) or before.service_tier,
    )


def _add_options(request: ChatRequest, body: Json, losses: Losses) -> None:
    if request.temperature is not None and request.temperature > 1:
        losses.lose("temperature", "Claude", "its range is 0 to 1")
    elif request.temperature is not None:
        body["temperature"] = request.temperature
    if request.top_k is not None:
        body["top_k"] = request.top_k
    if request.service_tier in _ASKED_TIERS:
        body["service_tier"] = _ASKED_TIERS[request.service_tier]
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if request.stop:
        body["stop_sequences"] = list(request.stop)
    if request.user:
        body["metadata"] = {"user_id": request.user}
    if request.stream:
        body["stream"] = True
    output = _output_config(request, losses)
    if output:
        body["output_config"] = output
    if "effort" in output:
        body["thinking"] = {"type": "adaptive"}


def _output_config(request: ChatRequest, losses: Losses) -> Json:
    output: Json = {}
    if request.output_schema is not None:
        if request.output_schema.schema is None:
            losses.lose("response_format.type", "Claude", "give a json_schema instead of json_object")
        else:
            output["format"] = {"type": "json_schema", "schema": request.output_schema.schema}
    if request.reasoning_effort not in (None, "none"):
        if request.reasoning_effort not in _EFFORTS:
            losses.lose("reasoning_effort", "Claude", f"it knows {', '.join(_EFFORTS)}")
        else:
            output["effort"] = _EFFORTS[request.reasoning_effort]
    return output


def _add_tools(request: ChatRequest, body: Json) -> None:
    if not request.tools:
        return
    body["tools"] = [_tool(tool) for tool in request.tools]
    choice = request.tool_choice
    mode = choice.mode if choice else "auto"
    written: Json = {"type": {"auto": "auto", "none": "none", "required": "any", "named": "tool"}[mode]}
    if choice and choice.name:
        written["name"] = choice.name
    if request.parallel_tool_calls is not None and mode != "none":
        written["disable_parallel_tool_use"] = not request.parallel_tool_calls
    if choice or request.parallel_tool_calls is not None:
        body["tool_choice"] = written


def _tool(tool: Tool) -> Json:
    written: Json = {"name": tool.name, "input_schema": tool.parameters or {"type": "object", "properties": {}}}
    if tool.description:
        written["description"] = tool.description
    if tool.strict is not None:
        written["strict"] = tool.strict
    return written | _cache(tool)


def _is_sayable(part: Part) -> bool:
    """Claude takes neither empty texts nor thoughts that it has not signed."""
    if isinstance(part, ReasoningPart):
        return bool(part.signature) and part.origin == DIALECT.wire
    return not (isinstance(part, TextPart) and not part.text)


def _blocks_of(part: Part) -> list[Json]:
    return [_content_block(part)] if _is_sayable(part) else []


def _cache(part: Any) -> Json:
    return {"cache_control": part.cache_control} if part.cache_control else {}


def _content_block(part: Part) -> Json:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text, **_cache(part)}
    if isinstance(part, ImagePart):
        return {"type": "image", "source": _source(part.url, part.data, part.media_type), **_cache(part)}
    if isinstance(part, DocumentPart):
        title = {"title": part.name} if part.name else {}
        if part.text is not None:
            return {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": part.text}, **title, **_cache(part)}
        return {"type": "document", "source": _source(part.url, part.data, part.media_type), **title, **_cache(part)}
    if isinstance(part, ToolCall):
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": arguments_object(part, "Claude")}
    if isinstance(part, ToolResult):
        content = [_content_block(inner) for inner in part.content]
        error = {"is_error": True} if part.is_error else {}
        return {"type": "tool_result", "tool_use_id": part.call_id, "content": content, **error, **_cache(part)}
    if isinstance(part, AudioPart):
        raise unsupported("messages", "Claude", "it does not listen to audio")
    if part.is_redacted:
        return {"type": "redacted_thinking", "data": part.signature}
    return {"type": "thinking", "thinking": part.text, "signature": part.signature}


def _source(url: str | None, data: Base64 | None, media_type: str | None) -> Json:
    return {"type": "url", "url": url} if data is None else {"type": "base64", "media_type": media_type, "data": data}


def _block(block: Any) -> list[TextPart | ToolCall | ReasoningPart]:
    kind = block.get("type") if isinstance(block, dict) else None
    if kind == "text":
        return [TextPart(text=str(block.get("text") or ""))]
    if kind == "thinking":
        return [ReasoningPart(text=str(block.get("thinking") or ""), signature=block.get("signature"), origin=DIALECT.wire)]
    if kind == "redacted_thinking":
        return [ReasoningPart(text="", signature=str(block.get("data") or ""), origin=DIALECT.wire, is_redacted=True)]
    if kind == "tool_use":
        arguments = orjson.dumps(block.get("input") or {}).decode()
        return [ToolCall(id=str(block.get("id") or ""), name=str(block.get("name") or ""), arguments=arguments)]
    return []


class _MessageStream:
    """Decodes message_start … message_stop. Tool calls are numbered in the order in which their blocks start."""

    def __init__(self) -> None:
        self._usage: Usage | None = None
        self._calls: dict[int, int] = {}
        self._whole = False

    @property
    def is_whole(self) -> bool:
        return self._whole

    def decode_event(self, event: SseEvent) -> tuple[StreamEvent, ...]:
        if not event.data:
            return ()
        payload = parse_object(event.data, "an event of the stream")
        kind = payload.get("type")
        if kind == "error":
            raise VendorError(_verdict(200, {}, payload))
        if kind == "message_start":
            return self._count(payload.get("message"))
        if kind == "content_block_start":
            return self._start(payload)
        if kind == "content_block_delta":
            return self._delta(payload)
        if kind == "message_delta":
            delta = payload.get("delta") or {}
            reason = delta.get("stop_reason")
            finish = (FinishDelta(reason=_STOP_REASONS.get(str(reason), "stop")),) if reason else ()
            return (*finish, *self._count(payload))
        if kind == "message_stop":
            self._whole = True
            return (StreamEnd(),)
        return ()

    def _count(self, holder: Any) -> tuple[StreamEvent, ...]:
        usage = holder.get("usage") if isinstance(holder, dict) else None
        if not isinstance(usage, dict):
            return ()
        self._usage = decode_usage(usage, self._usage)
        return (UsageUpdate(usage=self._usage),)

    def _start(self, payload: Json) -> tuple[StreamEvent, ...]:
        block = payload.get("content_block") or {}
        if block.get("type") == "tool_use":
            number = self._calls.setdefault(count(payload, "index"), len(self._calls))
            return (ToolCallDelta(index=number, id=str(block.get("id") or ""), name=str(block.get("name") or "")),)
        if block.get("type") == "redacted_thinking":
            return (ReasoningDelta(signature=str(block.get("data") or ""), origin=DIALECT.wire, is_redacted=True),)
        if block.get("type") == "text" and block.get("text"):
            return (TextDelta(text=str(block["text"])),)
        return ()

    def _delta(self, payload: Json) -> tuple[StreamEvent, ...]:
        delta = cast("Json", payload.get("delta") or {})
        kind = delta.get("type")
        if kind == "text_delta":
            return (TextDelta(text=str(delta.get("text") or "")),)
        if kind == "input_json_delta":
            number = self._calls.setdefault(count(payload, "index"), len(self._calls))
            return (ToolCallDelta(index=number, arguments=str(delta.get("partial_json") or "")),)
        if kind == "thinking_delta":
            return (ReasoningDelta(text=str(delta.get("thinking") or ""), origin=DIALECT.wire),)
        if kind == "signature_delta":
            return (ReasoningDelta(signature=str(delta.get("signature") or ""), origin=DIALECT.wire),)
        return ()


# What a count of tokens does not take.
_NOT_COUNTED = frozenset({"max_tokens", "stream", "temperature", "top_p", "top_k", "stop_sequences", "metadata", "service_tier", "container"})

MESSAGES = WireFormat(wire=DIALECT.wire, read=_decode, decoder=_MessageStream)
COUNT = WireFormat(wire="count", read=_count, decoder=no_stream)
