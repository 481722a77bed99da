"""Google's Gemini API, `generateContent` and `streamGenerateContent`.

Sources: https://ai.google.dev/api/generate-content, https://ai.google.dev/gemini-api/docs/function-calling, /docs/thought-signatures,
https://cloud.google.com/apis/design/errors for error details, and the types of the `google-genai` package.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, cast
from urllib.parse import quote

import orjson

from coollm.core.types import (
    AudioPart,
    ChatRequest,
    Choice,
    Completion,
    Content,
    CountRequest,
    DocumentPart,
    EmbeddingRequest,
    Embeddings,
    FinishDelta,
    FinishReason,
    ImagePart,
    Json,
    ModelRequest,
    Part,
    ReasoningDelta,
    ReasoningPart,
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
    OPTIONS,
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
from coollm.providers.sse import SseEvent
from coollm.providers.verdict import Cause, VendorError, Verdict, cause_of_status

_SAYS = frozenset(OPTIONS)

_AUDIO_TYPES = {"wav": "audio/wav", "mp3": "audio/mp3"}

_THINKING_LEVELS = {"minimal": "MINIMAL", "low": "LOW", "medium": "MEDIUM", "high": "HIGH"}

_FINISH: dict[str, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "LANGUAGE": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
    "ESCALATION": "content_filter",
}
"""Every other reason (MALFORMED_FUNCTION_CALL, OTHER, …) is a failure of the model and no finish."""

_CAUSES: dict[str, Cause] = {
    "INVALID_ARGUMENT": Cause.CLIENT_FAULT,
    "FAILED_PRECONDITION": Cause.KEY_REJECTED,
    "OUT_OF_RANGE": Cause.CLIENT_FAULT,
    "UNAUTHENTICATED": Cause.KEY_REJECTED,
    "PERMISSION_DENIED": Cause.KEY_REJECTED,
    "NOT_FOUND": Cause.UNKNOWN_MODEL,
    "RESOURCE_EXHAUSTED": Cause.RATE_LIMITED,
    "INTERNAL": Cause.VENDOR_ERROR,
    "UNAVAILABLE": Cause.OVERLOADED,
    "DEADLINE_EXCEEDED": Cause.TIMEOUT,
}


class GeminiDialect(Value, frozen=True):
    """Gemini's dialect."""

    wire: str = "gemini"
    has_chat: bool = True
    counts_tokens: bool = True
    operations: frozenset[str] = frozenset()
    base_url: str | None = "https://generativelanguage.googleapis.com/v1beta"
    families: tuple[str, ...] = ("gemini-*", "gemma-*")

    def encode(self, request: ModelRequest, target: Target, base_url: str, key: str, losses: Losses) -> VendorRequest:
        """A `generateContent`, `streamGenerateContent` with SSE, `batchEmbedContents` or `countTokens`. The key travels in a header, never in the address."""
        model = f"{base_url}/models/{quote(target.model, safe='')}"
        return content_request(model, (("x-goog-api-key", key),), request, target, losses)

    def verdict(self, status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
        """The judgement on `{"error": {"code", "message", "status", "details"}}`, alone or in a list of one."""
        return _verdict(status, headers, error_body(body))


DIALECT = GeminiDialect()


def content_request(model: str, credentials: tuple[tuple[str, str], ...], request: ModelRequest, target: Target, losses: Losses) -> VendorRequest:
    """The request to the model at the address `model`."""
    if isinstance(request, EmbeddingRequest):
        method, body, answer = "batchEmbedContents", _embedding_body(request, target), EMBEDDINGS
    elif isinstance(request, CountRequest):
        method, body, answer = "countTokens", {"contents": content_body(request.chat, target, losses)["contents"]}, COUNT
    elif isinstance(request, ChatRequest):
        method = "streamGenerateContent?alt=sse" if request.stream else "generateContent"
        body, answer = content_body(request, target, losses), CONTENT
    else:
        raise no_such_kind(request, "Gemini")
    headers = (("content-type", "application/json"), *credentials)
    return VendorRequest(method="POST", url=f"{model}:{method}", headers=headers, body=write_json(body), answer=answer)


def _decode(request: ModelRequest, body: bytes) -> Content:
    """A `GenerateContentResponse`, a `BatchEmbedContentsResponse` or a `CountTokensResponse`."""
    answer = parse_object(body, "the answer")
    if answer.get("error"):
        raise VendorError(_verdict(200, {}, answer))
    if isinstance(request, CountRequest):
        return TokenCount(input_tokens=count(answer, "totalTokens"))
    return _embeddings(request, answer) if isinstance(request, EmbeddingRequest) else _completion(answer)


def content_body(request: ChatRequest, target: Target, losses: Losses) -> Json:
    """The body of a `generateContent`."""
    lose_inexpressible(request, losses, "Gemini", _SAYS)
    if request.parallel_tool_calls is False and request.tools:
        losses.lose("parallel_tool_calls", "Gemini")
    body: Json = {"contents": turns(request.messages, "model", "parts", _parts, "Gemini")}
    system = [{"text": part.text} for message in request.messages if message.role == "system" for part in message.parts if isinstance(part, TextPart)]
    if system:
        body["systemInstruction"] = {"parts": system}
    config = _generation_config(request, target, losses)
    if config:
        body["generationConfig"] = config
    if request.tools:
        body["tools"] = [{"functionDeclarations": [_declaration(tool) for tool in request.tools]}]
        if request.tool_choice:
            body["toolConfig"] = {"functionCallingConfig": _calling_config(request)}
    return body


def _completion(answer: Json) -> Completion:
    candidates = answer.get("candidates") or ()
    choices = [_choice(candidate) for candidate in candidates if isinstance(candidate, dict)]
    if not choices:
        if not (answer.get("promptFeedback") or {}).get("blockReason"):
            raise bad_answer("the answer has no candidates")
        choices = [Choice(parts=(), finish_reason="content_filter", refusal="the prompt was blocked")]
    return Completion(
        id=str(answer.get("responseId") or f"gemini-{uuid.uuid4().hex}"),
        model=str(answer.get("modelVersion") or ""),
        choices=tuple(choices),
        usage=decode_usage(answer.get("usageMetadata")),
    )


def _embedding_body(request: EmbeddingRequest, target: Target) -> Json:
    made = []
    for one in request.inputs:
        if not isinstance(one, str):
            raise unsupported("input", "Gemini", "it takes texts, not the numbers of tokens")
        asked: Json = {"model": f"models/{target.model}", "content": {"parts": [{"text": one}]}}
        if request.dimensions is not None:
            asked["outputDimensionality"] = request.dimensions
        made.append(asked)
    return {"requests": made}


def _embeddings(request: EmbeddingRequest, answer: Json) -> Embeddings:
    found = [one["values"] for one in answer.get("embeddings") or () if isinstance(one, dict) and isinstance(one.get("values"), list)]
    if len(found) != len(request.inputs):
        raise bad_answer("the answer has not a vector for each input")
    return Embeddings(model=request.model, vectors=tuple(tuple(values) for values in found), usage=decode_usage(answer.get("usageMetadata")))


def _verdict(status: int, headers: Mapping[str, str], answer: Json) -> Verdict:
    error = answer.get("error")
    error = error if isinstance(error, dict) else {}
    name = str(error.get("status") or "")
    cause = _CAUSES.get(name) or (Cause.VENDOR_ERROR if status == 200 else cause_of_status(status))
    wait = wait_seconds(headers)
    for detail in error.get("details") or ():
        if not isinstance(detail, dict):
            continue
        if detail.get("reason") in ("API_KEY_INVALID", "API_KEY_EXPIRED", "SERVICE_DISABLED", "BILLING_DISABLED"):
            cause = Cause.KEY_REJECTED
        if str(detail.get("@type", "")).endswith("RetryInfo"):
            wait = wait or _seconds(detail.get("retryDelay"))
    return Verdict(
        cause=cause,
        message=str(error.get("message") or f"HTTP status {status}"),
        status=status,
        type=name or None,
        retry_after_seconds=wait,
    )


def _seconds(text: Any) -> float | None:
    """A protobuf Duration such as "13s" or "0.5s"."""
    try:
        return float(str(text).removesuffix("s"))
    except ValueError:
        return None


def decode_usage(usage: Any) -> Usage | None:
    """Gemini's usage: thoughts are beside candidates, cached input is part of the prompt, tool-use input is beside it."""
    if not isinstance(usage, dict):
        return None
    prompt, cached = count(usage, "promptTokenCount"), count(usage, "cachedContentTokenCount")
    return Usage(
        input_tokens=max(0, prompt - cached) + count(usage, "toolUsePromptTokenCount"),
        cached_input_tokens=min(cached, prompt),
        output_tokens=count(usage, "candidatesTokenCount"),
        reasoning_tokens=count(usage, "thoughtsTokenCount"),
    )


def _generation_config(request: ChatRequest, target: Target, losses: Losses) -> Json:
    config: Json = {
        "maxOutputTokens": request.max_output_tokens or target.max_tokens,
        "temperature": request.temperature,
        "topP": request.top_p,
        "stopSequences": list(request.stop) or None,
        "seed": request.seed,
        "candidateCount": request.choices if request.choices > 1 else None,
        "topK": request.top_k,
        "frequencyPenalty": request.frequency_penalty,
        "presencePenalty": request.presence_penalty,
        "responseLogprobs": True if request.logprobs is not None else None,
        "logprobs": request.logprobs or None,
    }
    if request.output_schema is not None:
        config["responseMimeType"] = "application/json"
        config["responseJsonSchema"] = request.output_schema.schema
    if request.reasoning_effort is not None:
        if request.reasoning_effort == "none":
            config["thinkingConfig"] = {"thinkingBudget": 0}
        elif request.reasoning_effort in _THINKING_LEVELS:
            config["thinkingConfig"] = {"thinkingLevel": _THINKING_LEVELS[request.reasoning_effort], "includeThoughts": True}
        else:
            losses.lose("reasoning_effort", "Gemini", f"it knows {', '.join(_THINKING_LEVELS)}")
    return {name: value for name, value in config.items() if value is not None}


def _declaration(tool: Tool) -> Json:
    written: Json = {"name": tool.name, "description": tool.description or ""}
    if tool.parameters:
        written["parametersJsonSchema"] = tool.parameters
    return written


def _calling_config(request: ChatRequest) -> Json:
    choice = request.tool_choice
    mode = {"auto": "AUTO", "none": "NONE", "required": "ANY", "named": "ANY"}[choice.mode if choice else "auto"]
    return {"mode": mode, **({"allowedFunctionNames": [choice.name]} if choice and choice.name else {})}


def _parts(part: Part) -> list[Json]:
    if isinstance(part, TextPart):
        return [{"text": part.text}]
    if isinstance(part, ImagePart | DocumentPart) and part.url is not None:
        raise unsupported("messages", "Gemini", "an image or document must be inline, as base64")
    if isinstance(part, DocumentPart) and part.text is not None:
        return [{"text": part.text}]
    if isinstance(part, ImagePart | DocumentPart):
        return [{"inlineData": {"mimeType": part.media_type, "data": part.data}}]
    if isinstance(part, AudioPart):
        return [{"inlineData": {"mimeType": _AUDIO_TYPES.get(part.format, f"audio/{part.format}"), "data": part.data}}]
    if isinstance(part, ToolCall):
        return [_function_call(part)]
    if isinstance(part, ToolResult):
        return _function_response(part)
    return _thought(part)


def _thought(part: ReasoningPart) -> list[Json]:
    """A thought of Gemini's own. A signature without text belongs to the text beside it, and may come back in a part of its own."""
    if part.origin not in (None, DIALECT.wire):
        return []
    if part.signature and not part.text:
        return [{"text": "", "thoughtSignature": part.signature}]
    return [{"text": part.text, "thought": True}]


def _function_call(call: ToolCall) -> Json:
    written: Json = {"functionCall": {"id": call.id, "name": call.name, "args": arguments_object(call, "Gemini")}}
    signature = ((call.extra or {}).get("google") or {}).get("thought_signature")
    if signature:
        written["thoughtSignature"] = signature
    return written


def _function_response(result: ToolResult) -> list[Json]:
    if result.name is None:
        raise unsupported("messages", "Gemini", f"the tool result for '{result.call_id}' has no tool call before it")
    text = "".join(part.text for part in result.content if isinstance(part, TextPart))
    try:
        parsed = orjson.loads(text)
    except ValueError:
        parsed = None
    response = parsed if isinstance(parsed, dict) else {"error" if result.is_error else "output": text}
    written: list[Json] = [{"functionResponse": {"id": result.call_id, "name": result.name, "response": response}}]
    return written + [inner for part in result.content if not isinstance(part, TextPart) for inner in _parts(part)]


def _read_call(part: Json) -> ToolCall | None:
    call = part.get("functionCall")
    if not isinstance(call, dict):
        return None
    signature = part.get("thoughtSignature")
    return ToolCall(
        id=str(call.get("id") or f"call_{uuid.uuid4().hex[:24]}"),
        name=str(call.get("name") or ""),
        arguments=orjson.dumps(call.get("args") or {}).decode(),
        extra={"google": {"thought_signature": signature}} if signature else None,
    )


def _finish(reason: Any, *, has_calls: bool) -> FinishReason:
    finish = _FINISH.get(str(reason))
    if finish is None:
        raise bad_answer(f"the model failed: finishReason {reason}")
    return "tool_calls" if has_calls and finish == "stop" else finish


def _candidate_parts(candidate: Json) -> list[Json]:
    content = candidate.get("content")
    parts = content.get("parts") if isinstance(content, dict) else None
    return [part for part in parts or () if isinstance(part, dict)]


def _choice(candidate: Json) -> Choice:
    parts: list[TextPart | ToolCall | ReasoningPart] = []
    for part in _candidate_parts(candidate):
        call = _read_call(part)
        if call is not None:
            parts.append(call)
        elif isinstance(part.get("text"), str):
            if part["text"] or not part.get("thoughtSignature"):
                parts.append(ReasoningPart(text=part["text"], origin=DIALECT.wire) if part.get("thought") else TextPart(text=part["text"]))
            if part.get("thoughtSignature"):
                parts.append(ReasoningPart(text="", signature=part["thoughtSignature"], origin=DIALECT.wire))
    has_calls = any(isinstance(part, ToolCall) for part in parts)
    finish = _finish(candidate.get("finishReason"), has_calls=has_calls)
    return Choice(parts=tuple(parts), finish_reason=finish, logprobs=_logprobs(candidate))


def _logprobs(candidate: Json) -> tuple[Json, ...]:
    """OpenAI's objects of a token, from `logprobsResult`, whose two lists run side by side."""
    result = candidate.get("logprobsResult")
    if not isinstance(result, dict):
        return ()
    likeliest = result.get("topCandidates") or ()
    return tuple(
        {**_token(chosen), "top_logprobs": [_token(one) for one in (likeliest[place].get("candidates") or () if place < len(likeliest) else ())]}
        for place, chosen in enumerate(result.get("chosenCandidates") or ())
    )


def _token(candidate: Json) -> Json:
    text = str(candidate.get("token") or "")
    return {"token": text, "logprob": candidate.get("logProbability"), "bytes": list(text.encode())}


class _ContentStream:
    """Decodes a stream that has no terminal event: it is whole when every candidate that began has a finish reason."""

    def __init__(self) -> None:
        self._calls: dict[int, int] = {}
        self._open: set[int] = set()
        self._finished: set[int] = set()

    @property
    def is_whole(self) -> bool:
        return bool(self._finished) and self._open <= self._finished

    def decode_event(self, event: SseEvent) -> tuple[StreamEvent, ...]:
        if not event.data:
            return ()
        payload = parse_object(event.data, "a chunk of the stream")
        if payload.get("error"):
            raise VendorError(_verdict(200, {}, payload))
        found: list[StreamEvent] = []
        for candidate in payload.get("candidates") or ():
            if isinstance(candidate, dict):
                self._candidate(candidate, found)
        if (payload.get("promptFeedback") or {}).get("blockReason"):
            self._finished.add(0)
            found.append(FinishDelta(reason="content_filter"))
        usage = decode_usage(payload.get("usageMetadata"))
        if usage is not None:
            found.append(UsageUpdate(usage=usage))
        return tuple(found)

    def _candidate(self, candidate: Json, found: list[StreamEvent]) -> None:
        index = count(candidate, "index")
        self._open.add(index)
        logprobs = _logprobs(candidate)
        for part in _candidate_parts(candidate):
            call = _read_call(part)
            if call is not None:
                number = self._calls.get(index, 0)
                self._calls[index] = number + 1
                found.append(ToolCallDelta(index=number, id=call.id, name=call.name, arguments=call.arguments, extra=call.extra, choice=index))
            else:
                found += _text_deltas(part, index, logprobs)
                logprobs = ()
        if candidate.get("finishReason"):
            self._finished.add(index)
            reason = _finish(candidate["finishReason"], has_calls=bool(self._calls.get(index)))
            found.append(cast("StreamEvent", FinishDelta(reason=reason, choice=index)))


def _text_deltas(part: Json, index: int, logprobs: tuple[Json, ...]) -> list[StreamEvent]:
    found: list[StreamEvent] = []
    text = part.get("text")
    if isinstance(text, str) and text:
        is_thought = bool(part.get("thought"))
        found.append(ReasoningDelta(text=text, origin=DIALECT.wire, choice=index) if is_thought else TextDelta(text=text, choice=index, logprobs=logprobs))
    if part.get("thoughtSignature"):
        found.append(ReasoningDelta(signature=str(part["thoughtSignature"]), origin=DIALECT.wire, choice=index))
    return found


CONTENT = WireFormat(wire=DIALECT.wire, read=_decode, decoder=_ContentStream)
EMBEDDINGS = WireFormat(wire="gemini embeddings", read=_decode, decoder=no_stream)
COUNT = WireFormat(wire="count", read=_decode, decoder=no_stream)
