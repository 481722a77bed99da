"""Anthropic's Messages API.

Sources: https://docs.anthropic.com/en/api/messages, /en/api/messages-streaming, /en/api/errors, and the types of the `anthropic` package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import orjson

from coollm.core.types import (
    ChatRequest,
    Choice,
    Completion,
    FinishDelta,
    FinishReason,
    ImagePart,
    Json,
    Message,
    ModelRequest,
    ReasoningDelta,
    ReasoningPart,
    StreamEnd,
    StreamEvent,
    Target,
    TextDelta,
    TextPart,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolResult,
    Usage,
    UsageUpdate,
    Value,
)
from coollm.providers.base import (
    HARMLESS,
    NEUTRAL,
    StreamDecoder,
    VendorRequest,
    arguments_object,
    bad_answer,
    count,
    error_body,
    parse_object,
    refuse_inexpressible,
    unsupported,
)
from coollm.providers.sse import SseEvent
from coollm.providers.verdict import Cause, VendorError, Verdict, cause_of_status, retry_after_seconds

API_VERSION = "2023-06-01"

# The API requires a limit; OpenAI's clients need not give one.
DEFAULT_MAX_TOKENS = 4096

_SUPPORTED = HARMLESS | {
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "stop",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "reasoning_effort",
}

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
    base_url: str | None = "https://api.anthropic.com"
    families: tuple[str, ...] = ("claude-*",)

    def encode(self, request: ModelRequest, target: Target, base_url: str, key: str) -> VendorRequest:
        """A `POST /v1/messages`."""
        if not isinstance(request, ChatRequest):
            raise unsupported("model", "Claude", "it has no embeddings")
        url = f"{base_url}/v1/messages"
        headers = {"content-type": "application/json", "x-api-key": key, "anthropic-version": API_VERSION}
        if request.dialect == self.wire:
            headers.update(request.forwarded_headers)
            source = {**request.source, "model": target.model}
            return VendorRequest(method="POST", url=url, headers=tuple(headers.items()), body=orjson.dumps(source))
        refuse_inexpressible(request, _SUPPORTED, NEUTRAL, "Claude")
        body: Json = {
            "model": target.model,
            "max_tokens": request.max_output_tokens or target.max_tokens or DEFAULT_MAX_TOKENS,
            "messages": _messages(request.messages),
        }
        system = [part.text for message in request.messages if message.role == "system" for part in message.parts if isinstance(part, TextPart)]
        if system:
            body["system"] = "\n\n".join(system)
        if request.temperature is not None:
            if request.temperature > 1:
                raise unsupported("temperature", "Claude", "its range is 0 to 1")
            body["temperature"] = request.temperature
        _add_options(request, body)
        _add_tools(request, body)
        return VendorRequest(method="POST", url=url, headers=tuple(headers.items()), body=orjson.dumps(body))

    def decode(self, request: ModelRequest, body: bytes) -> Completion:  # noqa: ARG002  it answers chats alone
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
        choice = Choice(parts=tuple(parts), finish_reason=_STOP_REASONS.get(str(answer["stop_reason"]), "stop"))
        return Completion(
            id=str(answer.get("id") or ""),
            model=str(answer.get("model") or ""),
            choices=(choice,),
            usage=decode_usage(answer.get("usage") or {}),
        )

    def stream_decoder(self) -> StreamDecoder:
        """A decoder for the events of a message stream."""
        return _MessageStream()

    def verdict(self, status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
        """The judgement on `{"type": "error", "error": {"type", "message"}}`."""
        return _verdict(status, headers, error_body(body))


DIALECT = ClaudeDialect()


def _verdict(status: int, headers: Mapping[str, str], answer: Json) -> Verdict:
    error = answer.get("error")
    error = error if isinstance(error, dict) else {}
    kind = str(error.get("type") or "")
    return Verdict(
        cause=_CAUSES.get(kind) or (Cause.VENDOR_ERROR if status == 200 else cause_of_status(status)),
        message=str(error.get("message") or f"HTTP status {status}"),
        status=status,
        type=kind or None,
        retry_after_seconds=retry_after_seconds(headers),
    )


def decode_usage(usage: Json, before: Usage | None = None) -> Usage:
    """Anthropic's usage. Its input, cache-read and cache-write counts are disjoint already; later events of a stream overwrite what they repeat."""
    before = before or Usage()
    thinking = count(usage.get("output_tokens_details"), "thinking_tokens")
    output = count(usage, "output_tokens")
    return Usage(
        input_tokens=count(usage, "input_tokens") or before.input_tokens,
        cached_input_tokens=count(usage, "cache_read_input_tokens") or before.cached_input_tokens,
        cache_write_tokens=count(usage, "cache_creation_input_tokens") or before.cache_write_tokens,
        output_tokens=max(0, output - thinking) or before.output_tokens,
        reasoning_tokens=thinking or before.reasoning_tokens,
    )


def _add_options(request: ChatRequest, body: Json) -> None:
    if request.top_p is not None:
        body["top_p"] = request.top_p
    if request.stop:
        body["stop_sequences"] = list(request.stop)
    if request.user:
        body["metadata"] = {"user_id": request.user}
    if request.stream:
        body["stream"] = True
    output: Json = {}
    if request.output_schema is not None:
        if request.output_schema.schema is None:
            raise unsupported("response_format.type", "Claude", "give a json_schema instead of json_object")
        output["format"] = {"type": "json_schema", "schema": request.output_schema.schema}
    if request.reasoning_effort not in (None, "none"):
        if request.reasoning_effort not in _EFFORTS:
            raise unsupported("reasoning_effort", "Claude", f"it knows {', '.join(_EFFORTS)}")
        output["effort"] = _EFFORTS[request.reasoning_effort]
        body["thinking"] = {"type": "adaptive"}
    if output:
        body["output_config"] = output


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
    return written


def _messages(messages: tuple[Message, ...]) -> list[Json]:
    """Turns of user and assistant, as the API wants them: neighbours of one role are one turn, and tool results are the user's."""
    turns: list[Json] = []
    for message in messages:
        if message.role == "system":
            continue
        role = "assistant" if message.role == "assistant" else "user"
        blocks = [_content_block(part) for part in message.parts if not (isinstance(part, TextPart) and not part.text)]
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"].extend(blocks)
        elif blocks:
            turns.append({"role": role, "content": blocks})
    if not turns:
        raise unsupported("messages", "Claude", "it needs at least one message of a user")
    return turns


def _content_block(part: Any) -> Json:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if isinstance(part, ImagePart):
        if part.url is not None:
            return {"type": "image", "source": {"type": "url", "url": part.url}}
        return {"type": "image", "source": {"type": "base64", "media_type": part.media_type, "data": part.data}}
    if isinstance(part, ToolCall):
        return {"type": "tool_use", "id": part.id, "name": part.name, "input": arguments_object(part, "Claude")}
    if isinstance(part, ToolResult):
        content = [_content_block(inner) for inner in part.content]
        return {"type": "tool_result", "tool_use_id": part.call_id, "content": content, **({"is_error": True} if part.is_error else {})}
    return {"type": "thinking", "thinking": part.text, "signature": part.signature or ""}


def _block(block: Any) -> list[TextPart | ToolCall | ReasoningPart]:
    kind = block.get("type") if isinstance(block, dict) else None
    if kind == "text":
        return [TextPart(text=str(block.get("text") or ""))]
    if kind == "thinking":
        return [ReasoningPart(text=str(block.get("thinking") or ""), signature=block.get("signature"))]
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
            return (ReasoningDelta(text=str(delta.get("thinking") or "")),)
        if kind == "signature_delta":
            return (ReasoningDelta(signature=str(delta.get("signature") or "")),)
        return ()
