"""OpenAI's wire format for chat completions, and its compatible vendors, which differ in what a row of `compatible.py` says.

Sources: https://platform.openai.com/docs/api-reference/chat, https://platform.openai.com/docs/guides/error-codes, and the types of the `openai` package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import orjson

from coollm.core.types import (
    ChatRequest,
    Choice,
    Completion,
    EmbeddingRequest,
    Embeddings,
    FinishDelta,
    FinishReason,
    ImagePart,
    Json,
    Message,
    ModelRequest,
    OutputSchema,
    ReasoningDelta,
    ReasoningPart,
    RefusalDelta,
    StreamEnd,
    StreamEvent,
    Target,
    TextDelta,
    TextPart,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolChoice,
    ToolResult,
    Usage,
    UsageUpdate,
    Value,
)
from coollm.providers.base import StreamDecoder, VendorRequest, bad_answer, count, error_body, parse_object, unsupported
from coollm.providers.sse import SseEvent
from coollm.providers.verdict import Cause, VendorError, Verdict, cause_of_status, retry_after_seconds

_FINISH: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    # What compatible vendors write for the same.
    "eos": "stop",
    "end_turn": "stop",
    "model_length": "length",
    "max_tokens": "length",
    "eos_token": "stop",
    "stop_sequence": "stop",
}

_CAUSES: dict[str, Cause] = {
    "insufficient_quota": Cause.QUOTA_EXHAUSTED,
    "billing_hard_limit_reached": Cause.QUOTA_EXHAUSTED,
    "billing_not_active": Cause.QUOTA_EXHAUSTED,
    "invalid_api_key": Cause.KEY_REJECTED,
    "account_deactivated": Cause.KEY_REJECTED,
    "model_not_found": Cause.UNKNOWN_MODEL,
    "rate_limit_exceeded": Cause.RATE_LIMITED,
    "overloaded_error": Cause.OVERLOADED,
}


class OpenAIDialect(Value, frozen=True):
    """OpenAI's dialect, or that of a compatible vendor.

    `key_header` carries the key, after `key_prefix`; `max_tokens_field` is the name of the output limit; `has_usage_option` says whether the vendor takes
    `stream_options` (without it, usage comes in the last chunk of itself).
    """

    vendor: str
    base_url: str | None
    families: tuple[str, ...] = ()
    key_header: str = "authorization"
    key_prefix: str = "Bearer "
    max_tokens_field: str = "max_completion_tokens"
    has_usage_option: bool = True
    wire: str = "openai"

    def encode(self, request: ModelRequest, target: Target, base_url: str, key: str) -> VendorRequest:
        """The client's own body with the vendor's model name, a limit of output tokens where the key has one, and usage asked for."""
        if isinstance(request, EmbeddingRequest):
            body = orjson.dumps({**request.source, "model": target.model})
            return VendorRequest(method="POST", url=f"{base_url}/embeddings", headers=self._headers(key, "application/json"), body=body)
        assert isinstance(request, ChatRequest)  # noqa: S101  there are two kinds of request
        return VendorRequest(
            method="POST",
            url=f"{base_url}/chat/completions",
            headers=self._headers(key, "text/event-stream" if request.stream else "application/json"),
            body=orjson.dumps(self._chat_body(request, target)),
        )

    def _headers(self, key: str, accept: str) -> tuple[tuple[str, str], ...]:
        shared = (("content-type", "application/json"), ("accept", accept))
        return (*shared, (self.key_header, self.key_prefix + key)) if key else shared

    def _chat_body(self, request: ChatRequest, target: Target) -> Json:
        source = request.source if request.dialect == self.wire else neutral_body(request, self.max_tokens_field)
        body: Json = {**source, "model": target.model}
        if request.max_output_tokens is None and target.max_tokens is not None:
            body[self.max_tokens_field] = target.max_tokens
        if self.max_tokens_field == "max_tokens" and "max_completion_tokens" in body:
            body["max_tokens"] = body.pop("max_completion_tokens")
        if request.stream and self.has_usage_option:
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        elif not self.has_usage_option:
            body.pop("stream_options", None)
        return body

    def decode(self, request: ModelRequest, body: bytes) -> Completion | Embeddings:
        """A `chat.completion` object, or a list of embeddings. Their vectors are not read: every client that may ask for them speaks this dialect."""
        answer = parse_object(body, "the answer")
        if answer.get("error"):
            raise VendorError(self._verdict(200, {}, answer))
        if isinstance(request, EmbeddingRequest):
            if not isinstance(answer.get("data"), list):
                raise bad_answer("the answer has no embeddings")
            return Embeddings(model=str(answer.get("model") or ""), vectors=(), usage=decode_usage(answer.get("usage")))
        choices = answer.get("choices")
        if not isinstance(choices, list) or not choices or not all(isinstance(choice, dict) for choice in choices):
            raise bad_answer("the answer has no choices")
        return Completion(
            id=str(answer.get("id") or ""),
            model=str(answer.get("model") or ""),
            choices=tuple(_choice(choice) for choice in choices),
            usage=decode_usage(answer.get("usage")),
        )

    def stream_decoder(self) -> StreamDecoder:
        """A decoder for `chat.completion.chunk` frames."""
        return _ChunkDecoder(self)

    def verdict(self, status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
        """The judgement on `{"error": {…}}`, by status and code."""
        return self._verdict(status, headers, error_body(body))

    def _verdict(self, status: int, headers: Mapping[str, str], answer: Json) -> Verdict:
        error = answer.get("error")
        if not isinstance(error, dict):
            error = {"message": error if isinstance(error, str) else answer.get("message")}
        code, kind = error.get("code"), error.get("type")
        cause = _CAUSES.get(str(code)) or _CAUSES.get(str(kind))
        if cause is None:
            numeric = code if isinstance(code, int) and 400 <= code <= 599 else status
            cause = Cause.VENDOR_ERROR if numeric == 200 else cause_of_status(numeric)
        return Verdict(
            cause=cause,
            message=str(error.get("message") or f"HTTP status {status}"),
            status=status,
            code=str(code) if code is not None else None,
            type=str(kind) if kind is not None else None,
            param=str(error["param"]) if error.get("param") else None,
            retry_after_seconds=retry_after_seconds(headers),
        )


def neutral_body(request: ChatRequest, max_tokens_field: str) -> Json:
    """OpenAI's body for a request that came in another dialect. Raises VendorError for what it cannot say."""
    if request.inexpressible:
        raise unsupported(request.inexpressible[0], "this provider")
    body: Json = {
        "messages": [written for message in request.messages for written in _message(message)],
        max_tokens_field: request.max_output_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop": list(request.stop) or None,
        "seed": request.seed,
        "user": request.user,
        "reasoning_effort": request.reasoning_effort,
        "parallel_tool_calls": request.parallel_tool_calls if request.tools else None,
        "tools": [_tool(tool) for tool in request.tools] or None,
        "tool_choice": _tool_choice(request.tool_choice) if request.tools and request.tool_choice else None,
        "response_format": _response_format(request.output_schema) if request.output_schema else None,
        "stream": request.stream or None,
    }
    return {name: value for name, value in body.items() if value is not None}


def _message(message: Message) -> list[Json]:
    if message.role == "tool":
        return _tool_results([part for part in message.parts if isinstance(part, ToolResult)])
    content = [_content_part(part) for part in message.parts if isinstance(part, TextPart | ImagePart)]
    only_text = all(part["type"] == "text" for part in content)
    written: Json = {"role": message.role, "content": "".join(part["text"] for part in content) if only_text else content}
    calls = [part for part in message.parts if isinstance(part, ToolCall)]
    if calls:
        written["content"] = written["content"] or None
        written["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
                **({"extra_content": call.extra} if call.extra else {}),
            }
            for call in calls
        ]
    return [written]


def _tool_results(results: list[ToolResult]) -> list[Json]:
    """A tool's message holds text alone, and nothing may stand between those of one turn: their images follow, as the user's."""
    written: list[Json] = [
        {"role": "tool", "tool_call_id": result.call_id, "content": "".join(part.text for part in result.content if isinstance(part, TextPart))}
        for result in results
    ]
    images = [_content_part(part) for result in results for part in result.content if isinstance(part, ImagePart)]
    return [*written, {"role": "user", "content": images}] if images else written


def _content_part(part: TextPart | ImagePart) -> Json:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    url = part.url if part.url is not None else f"data:{part.media_type};base64,{part.data}"
    return {"type": "image_url", "image_url": {"url": url, **({"detail": part.detail} if part.detail else {})}}


def _tool(tool: Tool) -> Json:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters, "strict": tool.strict}
    return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}


def _tool_choice(choice: ToolChoice) -> Any:
    return {"type": "function", "function": {"name": choice.name}} if choice.mode == "named" else choice.mode


def _response_format(schema: OutputSchema) -> Json:
    if schema.schema is None:
        return {"type": "json_object"}
    given = {"name": schema.name, "schema": schema.schema, "strict": schema.strict}
    return {"type": "json_schema", "json_schema": {name: value for name, value in given.items() if value is not None}}


def decode_usage(usage: Any) -> Usage | None:
    """OpenAI's usage, whose details are parts of their sums, in disjoint buckets.

    DeepSeek names its cache `prompt_cache_hit_tokens`. xAI counts reasoning beside completion tokens: then the total tells.
    """
    if not isinstance(usage, dict):
        return None
    prompt, completion = count(usage, "prompt_tokens"), count(usage, "completion_tokens")
    details = usage.get("prompt_tokens_details")
    cached = min(prompt, count(details, "cached_tokens") or count(usage, "prompt_cache_hit_tokens"))
    written = min(prompt - cached, count(details, "cache_write_tokens"))
    reasoning = count(usage.get("completion_tokens_details"), "reasoning_tokens")
    is_beside = reasoning > 0 and count(usage, "total_tokens") == prompt + completion + reasoning
    return Usage(
        input_tokens=prompt - cached - written,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=completion if is_beside else max(0, completion - reasoning),
        reasoning_tokens=reasoning if is_beside else min(reasoning, completion),
    )


def _finish(reason: Any) -> FinishReason:
    return _FINISH.get(str(reason), "stop")


def _choice(choice: Json) -> Choice:
    message = choice.get("message")
    if not isinstance(message, dict):
        raise bad_answer("a choice has no message")
    parts: list[TextPart | ToolCall | ReasoningPart] = []
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(reasoning, str):
        parts.append(ReasoningPart(text=reasoning))
    if isinstance(message.get("content"), str):
        parts.append(TextPart(text=message["content"]))
    for call in message.get("tool_calls") or ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            parts.append(
                ToolCall(
                    id=str(call.get("id") or ""),
                    name=str(function.get("name") or ""),
                    arguments=str(function.get("arguments") or "{}"),
                    extra=call.get("extra_content"),
                )
            )
    return Choice(parts=tuple(parts), finish_reason=_finish(choice.get("finish_reason")), refusal=message.get("refusal"))


class _ChunkDecoder:
    """Decodes `chat.completion.chunk` frames. Usage counts in whatever chunk it comes."""

    def __init__(self, dialect: OpenAIDialect) -> None:
        self._dialect = dialect
        self._open: set[int] = set()
        self._finished: set[int] = set()
        self._done = False

    @property
    def is_whole(self) -> bool:
        return self._done or (bool(self._finished) and self._open <= self._finished)

    def decode_event(self, event: SseEvent) -> tuple[StreamEvent, ...]:
        if not event.data:
            return ()
        if event.data == b"[DONE]":
            self._done = True
            return (StreamEnd(),)
        chunk = parse_object(event.data, "a chunk of the stream")
        if chunk.get("error"):
            raise VendorError(self._dialect._verdict(200, {}, chunk))  # noqa: SLF001  its own dialect
        found: list[StreamEvent] = []
        for choice in chunk.get("choices") or ():
            if isinstance(choice, dict):
                self._decode_choice(choice, found)
        usage = decode_usage(chunk.get("usage"))
        if usage is not None:
            found.append(UsageUpdate(usage=usage))
        return tuple(found)

    def _decode_choice(self, choice: Json, found: list[StreamEvent]) -> None:
        index = count(choice, "index")
        self._open.add(index)
        delta = cast("Json", choice.get("delta") if isinstance(choice.get("delta"), dict) else {})
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        if isinstance(reasoning, str):
            found.append(ReasoningDelta(text=reasoning, choice=index))
        if isinstance(delta.get("content"), str) and delta["content"]:
            found.append(TextDelta(text=delta["content"], choice=index))
        if isinstance(delta.get("refusal"), str) and delta["refusal"]:
            found.append(RefusalDelta(text=delta["refusal"], choice=index))
        for call in delta.get("tool_calls") or ():
            if isinstance(call, dict):
                found.append(_call_delta(call, index))
        if choice.get("finish_reason"):
            self._finished.add(index)
            found.append(FinishDelta(reason=_finish(choice["finish_reason"]), choice=index))


def _call_delta(call: Json, choice: int) -> ToolCallDelta:
    function = cast("Json", call.get("function") if isinstance(call.get("function"), dict) else {})
    return ToolCallDelta(
        index=count(call, "index"),
        id=call.get("id") or None,
        name=function.get("name") or None,
        arguments=str(function.get("arguments") or ""),
        extra=call.get("extra_content"),
        choice=choice,
    )
