"""Cohere's API, version 2: chat, embed and rerank.

Sources: https://docs.cohere.com/reference/chat, /reference/embed, /reference/rerank, /docs/streaming and the types of the `cohere` package.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, cast

from coollm.core.types import (
    ChatRequest,
    Choice,
    Completion,
    DocumentPart,
    EmbeddingRequest,
    Embeddings,
    FinishDelta,
    FinishReason,
    ImagePart,
    Json,
    Message,
    ModelRequest,
    Part,
    ReasoningDelta,
    ReasoningPart,
    RerankRequest,
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
    Losses,
    VendorRequest,
    WireFormat,
    bad_answer,
    error_body,
    lose_inexpressible,
    no_stream,
    no_such_kind,
    parse_object,
    unsupported,
)
from coollm.providers.openai import RANKING
from coollm.providers.openai_chat import data_url
from coollm.providers.payload import write_json
from coollm.providers.rate_limits import wait_seconds
from coollm.providers.sse import SseEvent
from coollm.providers.verdict import Cause, VendorError, Verdict, cause_of_status

_SAYS = frozenset(
    {"temperature", "top_p", "top_k", "stop", "seed", "frequency_penalty", "presence_penalty", "tools", "tool_choice", "output_schema", "reasoning_effort"}
)

_FINISH: dict[str, FinishReason] = {"COMPLETE": "stop", "STOP_SEQUENCE": "stop", "MAX_TOKENS": "length", "TOOL_CALL": "tool_calls"}
"""ERROR and TIMEOUT are failures of the vendor and no finish."""

# Cohere counts thinking in tokens and knows no efforts.
_THINKING_BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 24576}

# Searching with a query is not told apart by OpenAI's embeddings; a client that knows says so in `input_type`.
_DEFAULT_INPUT_TYPE = "search_document"


class CohereDialect(Value, frozen=True):
    """Cohere's dialect."""

    wire: str = "cohere"
    has_chat: bool = True
    counts_tokens: bool = False
    operations: frozenset[str] = frozenset()
    base_url: str | None = "https://api.cohere.com"
    families: tuple[str, ...] = ("command-*", "embed-*", "rerank-*")

    def encode(self, request: ModelRequest, target: Target, base_url: str, key: str, losses: Losses) -> VendorRequest:
        """A `POST /v2/chat`, `/v2/embed` or `/v2/rerank`."""
        if isinstance(request, ChatRequest):
            path, body, answer = "chat", _chat_body(request, target, losses), CHAT
        elif isinstance(request, EmbeddingRequest):
            path, body, answer = "embed", _embed_body(request, target), EMBEDDINGS
        elif isinstance(request, RerankRequest):
            path, answer = "rerank", RANKING
            body = {**request.source, "model": target.model, "documents": list(request.documents)}
            body.pop("return_documents", None)
        else:
            raise no_such_kind(request, "Cohere")
        headers = (("content-type", "application/json"), ("authorization", f"Bearer {key}"))
        return VendorRequest(method="POST", url=f"{base_url}/v2/{path}", headers=headers, body=write_json(body), answer=answer)

    def verdict(self, status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
        """The judgement on `{"message": …}`, by status. 498 is a token that was blocked, 499 a request that was cancelled."""
        cause = {498: Cause.KEY_REJECTED, 499: Cause.VENDOR_ERROR}.get(status) or cause_of_status(status)
        message = error_body(body).get("message")
        return Verdict(cause=cause, message=str(message or f"HTTP status {status}"), status=status, retry_after_seconds=wait_seconds(headers))


DIALECT = CohereDialect()


def _chat_body(request: ChatRequest, target: Target, losses: Losses) -> Json:
    lose_inexpressible(request, losses, "Cohere", _SAYS)
    body: Json = {
        "model": target.model,
        "messages": [written for message in request.messages for written in _message(message)],
        "stream": request.stream,
        "max_tokens": request.max_output_tokens or target.max_tokens,
        "temperature": request.temperature,
        "p": request.top_p,
        "k": request.top_k,
        "stop_sequences": list(request.stop) or None,
        "seed": request.seed,
        "frequency_penalty": request.frequency_penalty,
        "presence_penalty": request.presence_penalty,
        "tools": [_tool(tool) for tool in request.tools] or None,
        "thinking": _thinking(request, losses),
    }
    if request.output_schema is not None:
        schema = request.output_schema.schema
        body["response_format"] = {"type": "json_object", **({"json_schema": schema} if schema is not None else {})}
    if request.tools and request.tool_choice is not None:
        body["tool_choice"] = _tool_choice(request, body, losses)
    if request.parallel_tool_calls is False and request.tools:
        losses.lose("parallel_tool_calls", "Cohere")
    return {name: value for name, value in body.items() if value is not None}


def _thinking(request: ChatRequest, losses: Losses) -> Json | None:
    effort = request.reasoning_effort
    if effort is None:
        return None
    if effort == "none":
        return {"type": "disabled"}
    if effort not in _THINKING_BUDGETS:
        losses.lose("reasoning_effort", "Cohere", f"it knows {', '.join(_THINKING_BUDGETS)}")
        return None
    return {"type": "enabled", "token_budget": _THINKING_BUDGETS[effort]}


def _tool(tool: Tool) -> Json:
    function: Json = {"name": tool.name, "parameters": tool.parameters or {"type": "object", "properties": {}}}
    return {"type": "function", "function": {**function, **({"description": tool.description} if tool.description else {})}}


def _tool_choice(request: ChatRequest, body: Json, losses: Losses) -> str | None:
    """Cohere can be told to call some tool or none; a named one is the only one it is offered."""
    choice = request.tool_choice
    mode = choice.mode if choice else "auto"
    if choice and mode == "named":
        named = [tool for tool in request.tools if tool.name == choice.name]
        if not named:
            losses.lose("tool_choice", "Cohere", f"there is no tool '{choice.name}'")
            return None
        body["tools"] = [_tool(tool) for tool in named]
    return {"auto": None, "none": "NONE", "required": "REQUIRED", "named": "REQUIRED"}[mode]


def _message(message: Message) -> list[Json]:
    if message.role == "tool":
        return [_tool_result(part) for part in message.parts if isinstance(part, ToolResult)]
    written: Json = {"role": message.role}
    content = [_content_part(part) for part in message.parts if not isinstance(part, ToolCall | ReasoningPart)]
    thoughts = [{"type": "thinking", "thinking": part.text} for part in message.parts if isinstance(part, ReasoningPart) and part.origin == DIALECT.wire]
    calls = [part for part in message.parts if isinstance(part, ToolCall)]
    if content or thoughts:
        only_text = not thoughts and all(part["type"] == "text" for part in content)
        written["content"] = "".join(part["text"] for part in content) if only_text else [*thoughts, *content]
    elif not calls:
        written["content"] = ""
    if calls:
        written["tool_calls"] = [{"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}} for call in calls]
    return [written]


def _tool_result(result: ToolResult) -> Json:
    content = []
    for part in result.content:
        if not isinstance(part, TextPart):
            raise unsupported("messages", "Cohere", "the result of a tool must be text")
        content.append(part.text)
    return {"role": "tool", "tool_call_id": result.call_id, "content": "".join(content)}


def _content_part(part: Part) -> Json:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if isinstance(part, ImagePart):
        url = part.url if part.data is None else data_url(part.data, part.media_type or "image/png")
        return {"type": "image_url", "image_url": {"url": url, **({"detail": part.detail} if part.detail else {})}}
    if isinstance(part, DocumentPart) and part.text is not None:
        return {"type": "text", "text": part.text}
    raise unsupported("messages", "Cohere", "it reads texts and images")


def _embed_body(request: EmbeddingRequest, target: Target) -> Json:
    if not all(isinstance(one, str) for one in request.inputs):
        raise unsupported("input", "Cohere", "it takes texts, not the numbers of tokens")
    body: Json = {
        "model": target.model,
        "texts": list(request.inputs),
        "input_type": request.source.get("input_type") or _DEFAULT_INPUT_TYPE,
        "embedding_types": ["float"],
    }
    return {**body, **({"output_dimension": request.dimensions} if request.dimensions else {})}


def decode_usage(usage: Any) -> Usage | None:
    """Cohere's usage: `tokens` is what was processed, `cached_tokens` the part of the input that was in its cache. Its counts are floats."""
    tokens = usage.get("tokens") or usage.get("billed_units") if isinstance(usage, dict) else None
    if not isinstance(tokens, dict):
        return None
    given, cached = _whole(tokens.get("input_tokens")), _whole(usage.get("cached_tokens"))
    return Usage(
        input_tokens=max(0, given - cached),
        cached_input_tokens=min(given, cached),
        output_tokens=_whole(tokens.get("output_tokens")),
    )


def _whole(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and value > 0 else 0


def _finish(reason: Any) -> FinishReason:
    finish = _FINISH.get(str(reason))
    if finish is None:
        raise bad_answer(f"the model failed: finish_reason {reason}")
    return finish


def _decode_chat(request: ModelRequest, body: bytes) -> Completion:
    answer = parse_object(body, "the answer")
    message = answer.get("message")
    if not isinstance(message, dict):
        raise bad_answer("the answer has no message")
    parts: list[TextPart | ToolCall | ReasoningPart] = []
    if message.get("tool_plan"):
        parts.append(ReasoningPart(text=str(message["tool_plan"]), origin=DIALECT.wire))
    for item in message.get("content") or ():
        if item.get("type") == "text":
            parts.append(TextPart(text=str(item.get("text") or "")))
        elif item.get("type") == "thinking":
            parts.append(ReasoningPart(text=str(item.get("thinking") or ""), origin=DIALECT.wire))
    parts += [_call(call) for call in message.get("tool_calls") or () if isinstance(call, dict)]
    return Completion(
        id=str(answer.get("id") or uuid.uuid4()),
        model=request.model,
        choices=(Choice(parts=tuple(parts), finish_reason=_finish(answer.get("finish_reason"))),),
        usage=decode_usage(answer.get("usage")),
    )


def _call(call: Json) -> ToolCall:
    function = call.get("function") or {}
    return ToolCall(id=str(call.get("id") or ""), name=str(function.get("name") or ""), arguments=str(function.get("arguments") or "{}"))


def _decode_embeddings(request: ModelRequest, body: bytes) -> Embeddings:
    answer = parse_object(body, "the answer")
    vectors = (answer.get("embeddings") or {}).get("float")
    if not isinstance(vectors, list) or len(vectors) != len(cast("EmbeddingRequest", request).inputs):
        raise bad_answer("the answer has not a vector for each input")
    billed = (answer.get("meta") or {}).get("billed_units")
    return Embeddings(model=request.model, vectors=tuple(tuple(one) for one in vectors), usage=decode_usage({"billed_units": billed}))


class _Stream:
    """Decodes message-start … message-end. Tool calls are numbered in the order in which they start."""

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
        delta = payload.get("delta") if isinstance(payload.get("delta"), dict) else {}
        message = delta.get("message") if isinstance(delta, dict) else None
        message = message if isinstance(message, dict) else {}
        match payload.get("type"):
            case "content-delta" | "content-start":
                return _texts(message.get("content"))
            case "tool-plan-delta":
                return (ReasoningDelta(text=str(message.get("tool_plan") or ""), origin=DIALECT.wire),)
            case "tool-call-start" | "tool-call-delta":
                return self._call(payload, message)
            case "message-end":
                return self._end(cast("Json", delta))
        return ()

    def _call(self, payload: Json, message: Json) -> tuple[StreamEvent, ...]:
        number = self._calls.setdefault(_whole(payload.get("index")), len(self._calls))
        call = message.get("tool_calls")
        call = call if isinstance(call, dict) else {}
        function = call.get("function") or {}
        return (ToolCallDelta(index=number, id=call.get("id"), name=function.get("name"), arguments=str(function.get("arguments") or "")),)

    def _end(self, delta: Json) -> tuple[StreamEvent, ...]:
        if delta.get("error"):
            raise VendorError(Verdict(cause=Cause.VENDOR_ERROR, message=str(delta["error"]), status=200))
        self._whole = True
        usage = decode_usage(delta.get("usage"))
        counted = (UsageUpdate(usage=usage),) if usage else ()
        return (FinishDelta(reason=_finish(delta.get("finish_reason"))), *counted, StreamEnd())


def _texts(content: Any) -> tuple[StreamEvent, ...]:
    content = content if isinstance(content, dict) else {}
    if content.get("thinking"):
        return (ReasoningDelta(text=str(content["thinking"]), origin=DIALECT.wire),)
    return (TextDelta(text=str(content["text"])),) if content.get("text") else ()


CHAT = WireFormat(wire=DIALECT.wire, read=_decode_chat, decoder=_Stream)
EMBEDDINGS = WireFormat(wire="cohere embeddings", read=_decode_embeddings, decoder=no_stream)
