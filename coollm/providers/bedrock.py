"""Amazon Bedrock's Converse API, for every model that it hosts; embeddings and rerank are beside it, in files of their own.

Sources: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_Converse.html, _ConverseStream.html, the service model of `botocore`
(bedrock-runtime), whose decoder of event streams is used.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

import orjson
from botocore.eventstream import EventStreamBuffer, ParserError

from coollm.core.types import (
    AudioPart,
    Base64,
    ChatRequest,
    Choice,
    Completion,
    DocumentPart,
    EmbeddingRequest,
    FinishDelta,
    FinishReason,
    ImagePart,
    Json,
    ModelRequest,
    OutputSchema,
    Part,
    ReasoningDelta,
    ReasoningPart,
    RerankRequest,
    ServiceTier,
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
    arguments_object,
    bad_answer,
    count,
    error_body,
    lose_inexpressible,
    no_such_kind,
    parse_object,
    turns,
    unsupported,
)
from coollm.providers.bedrock_embeddings import embedding_calls
from coollm.providers.bedrock_rerank import rerank_call
from coollm.providers.bedrock_signing import signed_post
from coollm.providers.rate_limits import wait_seconds
from coollm.providers.sse import SseEvent
from coollm.providers.verdict import Cause, VendorError, Verdict, cause_of_status

_SAYS = frozenset({"temperature", "top_p", "top_k", "stop", "tools", "tool_choice", "output_schema", "reasoning_effort"})

_FINISH: dict[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "guardrail_intervened": "content_filter",
    "content_filtered": "content_filter",
}

_CAUSES: dict[str, Cause] = {
    "AccessDeniedException": Cause.KEY_REJECTED,
    "UnrecognizedClientException": Cause.KEY_REJECTED,
    "ExpiredTokenException": Cause.KEY_REJECTED,
    "InvalidSignatureException": Cause.KEY_REJECTED,
    "ValidationException": Cause.CLIENT_FAULT,
    "ResourceNotFoundException": Cause.UNKNOWN_MODEL,
    "ThrottlingException": Cause.RATE_LIMITED,
    "ServiceQuotaExceededException": Cause.QUOTA_EXHAUSTED,
    "ModelTimeoutException": Cause.TIMEOUT,
    "ModelNotReadyException": Cause.OVERLOADED,
    "ServiceUnavailableException": Cause.OVERLOADED,
    "ModelErrorException": Cause.VENDOR_ERROR,
    "ModelStreamErrorException": Cause.VENDOR_ERROR,
    "InternalServerException": Cause.VENDOR_ERROR,
}

# Claude thinks in a budget here, and its least is 1024.
_THINKING_BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 24576}

# Both ways. What the batch tier or a reservation serves is no tier of OpenAI's.
_TIERS: dict[str, ServiceTier] = {"default": "default", "flex": "flex", "priority": "priority"}

# The signature of a thought is Anthropic's own: Claude reads it wherever it is hosted.
_REASONING_ORIGIN = "claude"


class BedrockDialect(Value, frozen=True):
    """Bedrock's dialect."""

    wire: str = "bedrock"
    has_chat: bool = True
    counts_tokens: bool = False
    operations: frozenset[str] = frozenset()
    base_url: str | None = None
    families: tuple[str, ...] = ()

    def encode(self, request: ModelRequest, target: Target, base_url: str, key: str, losses: Losses) -> VendorRequest:
        """A `POST /model/ID/converse`, `converse-stream` or `invoke`, or a `POST /rerank`, signed."""
        if isinstance(request, EmbeddingRequest):
            return embedding_calls(request, target, base_url, key)
        if isinstance(request, RerankRequest):
            return rerank_call(request, target, base_url, key, losses)
        if not isinstance(request, ChatRequest):
            raise no_such_kind(request, "Bedrock")
        method = "converse-stream" if request.stream else "converse"
        url = f"{base_url}/model/{quote(target.model, safe='')}/{method}"
        return signed_post(url, _body(request, target, losses), key, CONVERSE)

    def verdict(self, status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
        """The judgement on an exception, whose name is in `x-amzn-errortype` or in the body."""
        answer = error_body(body)
        name = (headers.get("x-amzn-errortype") or str(answer.get("__type") or "")).partition(":")[0].rpartition("#")[2]
        return Verdict(
            cause=_CAUSES.get(name) or cause_of_status(status),
            message=str(answer.get("message") or answer.get("Message") or name or f"HTTP status {status}"),
            status=status,
            type=name or None,
            retry_after_seconds=wait_seconds(headers),
        )


DIALECT = BedrockDialect()


def _body(request: ChatRequest, target: Target, losses: Losses) -> Json:
    says = _SAYS if _is_claude(target) else _SAYS - {"reasoning_effort", "top_k"}
    lose_inexpressible(request, losses, "Bedrock", says)
    if request.parallel_tool_calls is False and request.tools:
        losses.lose("parallel_tool_calls", "Bedrock")
    config = {
        "maxTokens": request.max_output_tokens or target.max_tokens,
        "temperature": request.temperature,
        "topP": request.top_p,
        "stopSequences": list(request.stop) or None,
    }
    body: Json = {"messages": turns(request.messages, "assistant", "content", _blocks, "Bedrock")}
    system = [block for message in request.messages if message.role == "system" for part in message.parts for block in _blocks(part)]
    if system:
        body["system"] = system
    config = {name: value for name, value in config.items() if value is not None}
    if config:
        body["inferenceConfig"] = config
    if request.tools and not (_forbids_tools(request) and not _has_calls(request)):
        body["toolConfig"] = _tool_config(request)
    if request.output_schema is not None:
        _add_schema(request.output_schema, body, losses)
    if request.service_tier in _TIERS:
        body["serviceTier"] = {"type": request.service_tier}
    extra = _claudes_own(request, losses) if _is_claude(target) else {}
    if extra:
        body["additionalModelRequestFields"] = extra
    return body


def _add_schema(wanted: OutputSchema, body: Json, losses: Losses) -> None:
    """The schema travels as a text."""
    if wanted.schema is None:
        losses.lose("response_format.type", "Bedrock", "give a json_schema instead of json_object")
        return
    schema = {"schema": orjson.dumps(wanted.schema).decode(), "name": wanted.name}
    body["outputConfig"] = {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": schema}}}


def _is_claude(target: Target) -> bool:
    return "anthropic.claude" in target.model


def _claudes_own(request: ChatRequest, losses: Losses) -> Json:
    extra: Json = {} if request.top_k is None else {"top_k": request.top_k}
    if request.reasoning_effort not in (None, "none"):
        budget = _THINKING_BUDGETS.get(str(request.reasoning_effort))
        if budget is None:
            losses.lose("reasoning_effort", "Bedrock", f"it knows {', '.join(_THINKING_BUDGETS)}")
        else:
            extra["thinking"] = {"type": "enabled", "budget_tokens": budget}
    return extra


def _forbids_tools(request: ChatRequest) -> bool:
    return request.tool_choice is not None and request.tool_choice.mode == "none"


def _has_calls(request: ChatRequest) -> bool:
    """Whether the conversation holds calls of tools, without whose description Bedrock refuses it."""
    return any(isinstance(part, ToolCall) for message in request.messages for part in message.parts)


def _tool_config(request: ChatRequest) -> Json:
    config: Json = {"tools": [block for tool in request.tools for block in _tool(tool)]}
    choice = request.tool_choice
    if choice and choice.mode == "named":
        config["toolChoice"] = {"tool": {"name": choice.name}}
    elif choice and choice.mode == "required":
        config["toolChoice"] = {"any": {}}
    elif choice and choice.mode == "auto":
        config["toolChoice"] = {"auto": {}}
    elif choice:
        raise unsupported("tool_choice", "Bedrock", "it has no 'none', and the conversation holds calls of these tools")
    return config


def _tool(tool: Tool) -> list[Json]:
    spec: Json = {"name": tool.name, "inputSchema": {"json": tool.parameters or {"type": "object", "properties": {}}}}
    if tool.description:
        spec["description"] = tool.description
    if tool.strict:
        spec["strict"] = True
    return [{"toolSpec": spec}, *_cache_point(tool)]


def _cache_point(marked: Any) -> list[Json]:
    return [{"cachePoint": {"type": "default"}}] if marked.cache_control else []


def _blocks(part: Part) -> list[Json]:
    if isinstance(part, TextPart):
        return [{"text": part.text}, *_cache_point(part)] if part.text else []
    if isinstance(part, ImagePart):
        kind = (part.media_type or "").removeprefix("image/")
        return [{"image": {"format": "jpeg" if kind == "jpg" else kind, "source": {"bytes": _inline(part.data)}}}, *_cache_point(part)]
    if isinstance(part, DocumentPart):
        return [_document(part), *_cache_point(part)]
    if isinstance(part, ToolCall):
        return [{"toolUse": {"toolUseId": part.id, "name": part.name, "input": arguments_object(part, "Bedrock")}}]
    if isinstance(part, ToolResult):
        content = [block for inner in part.content for block in _blocks(inner)]
        return [{"toolResult": {"toolUseId": part.call_id, "content": content, **({"status": "error"} if part.is_error else {})}}, *_cache_point(part)]
    if isinstance(part, AudioPart):
        raise unsupported("messages", "Bedrock", "it does not listen to audio")
    return _thought(part)


def _thought(part: ReasoningPart) -> list[Json]:
    if part.origin != _REASONING_ORIGIN or not part.signature:
        return []
    if part.is_redacted:
        return [{"reasoningContent": {"redactedContent": part.signature}}]
    return [{"reasoningContent": {"reasoningText": {"text": part.text, "signature": part.signature}}}]


def _inline(data: Base64 | None) -> Base64:
    if data is None:
        raise unsupported("messages", "Bedrock", "an image or document must be inline, as base64")
    return data


_UNNAMED = re.compile(r"[^A-Za-z0-9 ()\[\]-]+")
_DOCUMENT_FORMATS = {
    "application/pdf": "pdf",
    "text/csv": "csv",
    "text/html": "html",
    "text/markdown": "md",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
}


def _document(part: DocumentPart) -> Json:
    """A document. Its name may hold letters, digits, spaces, hyphens and brackets alone."""
    name = _UNNAMED.sub(" ", part.name or "document").strip() or "document"
    if part.text is not None:
        return {"document": {"format": "txt", "name": name, "source": {"text": part.text}}}
    kind = _DOCUMENT_FORMATS.get(part.media_type, "txt" if part.media_type.startswith("text/") else None)
    if kind is None:
        raise unsupported("messages", "Bedrock", f"it does not read documents of type {part.media_type}")
    return {"document": {"format": kind, "name": name, "source": {"bytes": _inline(part.data)}}}


def decode_usage(answer: Json) -> Usage | None:
    """The usage of an answer, or of the last event of a stream: input that was read from or written to the cache is beside `inputTokens`."""
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return None
    written = count(usage, "cacheWriteInputTokens")
    details = [one for one in usage.get("cacheDetails") or () if isinstance(one, dict) and one.get("ttl") == "1h"]
    for_an_hour = min(written, sum(count(one, "inputTokens") for one in details))
    return Usage(
        input_tokens=count(usage, "inputTokens"),
        cached_input_tokens=count(usage, "cacheReadInputTokens"),
        cache_write_tokens=written - for_an_hour,
        cache_write_1h_tokens=for_an_hour,
        output_tokens=count(usage, "outputTokens"),
        service_tier=_tier(answer),
    )


def _tier(answer: Json) -> ServiceTier | None:
    return _TIERS.get(str((answer.get("serviceTier") or {}).get("type")))


def _decode(request: ModelRequest, body: bytes) -> Completion:
    answer = parse_object(body, "the answer")
    message = (answer.get("output") or {}).get("message")
    if not isinstance(message, dict) or not answer.get("stopReason"):
        raise bad_answer("the answer has no message")
    parts: list[TextPart | ToolCall | ReasoningPart] = []
    for block in message.get("content") or ():
        parts += _read_block(block)
    choice = Choice(parts=tuple(parts), finish_reason=_FINISH.get(str(answer["stopReason"]), "stop"))
    return Completion(
        id=uuid.uuid4().hex,
        model=request.model,
        choices=(choice,),
        usage=decode_usage(answer),
        service_tier=_tier(answer),
    )


def _read_block(block: Any) -> list[TextPart | ToolCall | ReasoningPart]:
    if not isinstance(block, dict):
        return []
    if "text" in block:
        return [TextPart(text=str(block["text"]))]
    if "toolUse" in block:
        call = block["toolUse"]
        return [ToolCall(id=str(call.get("toolUseId")), name=str(call.get("name")), arguments=orjson.dumps(call.get("input") or {}).decode())]
    if "reasoningContent" in block:
        return [_read_thought(block["reasoningContent"])]
    return []


def _read_thought(content: Json) -> ReasoningPart:
    if "redactedContent" in content:
        return ReasoningPart(text="", signature=str(content["redactedContent"]), origin=_REASONING_ORIGIN, is_redacted=True)
    told = content.get("reasoningText") or {}
    return ReasoningPart(text=str(told.get("text") or ""), signature=told.get("signature"), origin=_REASONING_ORIGIN)


class EventStreamFraming:
    """Cuts an Amazon event stream (binary, with checksums) into frames: `name` is the type of the event or exception, `data` its payload."""

    def __init__(self) -> None:
        self._buffer = EventStreamBuffer()

    @property
    def is_between(self) -> bool:
        """Not known: its frames are always read."""
        return False

    def feed(self, data: bytes) -> Iterable[SseEvent]:
        """The frames that `data` completes. Raises VendorError for bytes that are no frames."""
        self._buffer.add_data(data)
        try:
            for message in self._buffer:
                headers = message.headers
                name = headers.get(":event-type") or headers.get(":exception-type") or headers.get(":error-code") or ""
                yield SseEvent(b"", str(name), message.payload)
        except ParserError as error:
            raise bad_answer(f"the event stream is broken: {error}") from error


class _Stream:
    """Decodes messageStart … messageStop, metadata. Tool calls are numbered in the order in which their blocks start."""

    def __init__(self) -> None:
        self._calls: dict[int, int] = {}
        self._stopped = False

    @property
    def is_whole(self) -> bool:
        return self._stopped

    def decode_event(self, event: SseEvent) -> tuple[StreamEvent, ...]:
        payload = parse_object(event.data, "an event of the stream")
        match event.name:
            case "contentBlockStart":
                return self._start(payload)
            case "contentBlockDelta":
                return self._delta(payload)
            case "messageStop":
                self._stopped = True
                return (FinishDelta(reason=_FINISH.get(str(payload.get("stopReason")), "stop")),)
            case "metadata":
                usage = decode_usage(payload)
                return (*((UsageUpdate(usage=usage),) if usage else ()), *((StreamEnd(),) if self._stopped else ()))
            case "messageStart" | "contentBlockStop":
                return ()
        name = event.name[:1].upper() + event.name[1:]
        if name.endswith("Exception"):
            cause = _CAUSES.get(name, Cause.VENDOR_ERROR)
            raise VendorError(Verdict(cause=cause, message=str(payload.get("message") or name), status=200, type=name))
        return ()

    def _start(self, payload: Json) -> tuple[StreamEvent, ...]:
        call = (payload.get("start") or {}).get("toolUse")
        if not isinstance(call, dict):
            return ()
        number = self._calls.setdefault(count(payload, "contentBlockIndex"), len(self._calls))
        return (ToolCallDelta(index=number, id=str(call.get("toolUseId")), name=str(call.get("name"))),)

    def _delta(self, payload: Json) -> tuple[StreamEvent, ...]:
        delta = payload.get("delta") or {}
        if "text" in delta:
            return (TextDelta(text=str(delta["text"])),)
        if "toolUse" in delta:
            number = self._calls.setdefault(count(payload, "contentBlockIndex"), len(self._calls))
            return (ToolCallDelta(index=number, arguments=str(delta["toolUse"].get("input") or "")),)
        content = delta.get("reasoningContent") or {}
        if "redactedContent" in content:
            return (ReasoningDelta(signature=str(content["redactedContent"]), origin=_REASONING_ORIGIN, is_redacted=True),)
        if "signature" in content:
            return (ReasoningDelta(signature=str(content["signature"]), origin=_REASONING_ORIGIN),)
        return (ReasoningDelta(text=str(content["text"]), origin=_REASONING_ORIGIN),) if content.get("text") else ()


CONVERSE = WireFormat(wire=DIALECT.wire, read=_decode, decoder=_Stream, framer=EventStreamFraming)
