"""OpenAI's chat completions as vendors speak them: ChatRequest → body, and answers back.

Sources: https://platform.openai.com/docs/api-reference/chat and the types of the `openai` package; for `reasoning_details`
https://openrouter.ai/docs/use-cases/reasoning-tokens, for `reasoning_content` https://api-docs.deepseek.com/guides/reasoning_model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, cast

import msgspec

from coollm.core.types import (
    AudioPart,
    Base64,
    ChatRequest,
    Choice,
    Completion,
    DocumentPart,
    FinishDelta,
    FinishReason,
    ImagePart,
    Json,
    Message,
    ModelRequest,
    OutputSchema,
    Part,
    ReasoningDelta,
    ReasoningPart,
    RefusalDelta,
    ServiceTier,
    StreamEnd,
    StreamEvent,
    TextDelta,
    TextPart,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolChoice,
    ToolResult,
    Usage,
    UsageUpdate,
)
from coollm.providers.base import OPTIONS, Losses, WireFormat, bad_answer, count, lose_inexpressible, parse_object, unsupported
from coollm.providers.openai_errors import judge
from coollm.providers.payload import LongText
from coollm.providers.reasoning import read_reasoning
from coollm.providers.sse import SseEvent
from coollm.providers.verdict import VendorError

_SAYS = frozenset(OPTIONS) - {"top_k"}

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


def chat_body(request: ChatRequest, max_tokens_field: str, losses: Losses, vendor: str) -> Json:
    """OpenAI's body for a request that came in another dialect. Raises VendorError for what it cannot say."""
    lose_inexpressible(request, losses, vendor, _SAYS)
    body: Json = {
        "messages": [written for message in request.messages for written in _message(message)],
        max_tokens_field: request.max_output_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stop": list(request.stop) or None,
        "seed": request.seed,
        "n": request.choices if request.choices > 1 else None,
        "user": request.user,
        "reasoning_effort": request.reasoning_effort,
        "logprobs": True if request.logprobs is not None else None,
        "top_logprobs": request.logprobs or None,
        "frequency_penalty": request.frequency_penalty,
        "presence_penalty": request.presence_penalty,
        "service_tier": request.service_tier,
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
    content = [_content_part(part) for part in message.parts if isinstance(part, TextPart | ImagePart | DocumentPart | AudioPart)]
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
    """A tool's message holds text alone, and nothing may stand between those of one turn: their images and documents follow, as the user's."""
    written: list[Json] = [
        {"role": "tool", "tool_call_id": result.call_id, "content": "".join(part.text for part in result.content if isinstance(part, TextPart))}
        for result in results
    ]
    shown = [_content_part(part) for result in results for part in result.content if not isinstance(part, TextPart)]
    return [*written, {"role": "user", "content": shown}] if shown else written


def _content_part(part: Part) -> Json:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if isinstance(part, AudioPart):
        return {"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}}
    if isinstance(part, DocumentPart):
        return _document(part)
    assert isinstance(part, ImagePart)  # noqa: S101  the kinds of content are these
    url = part.url if part.data is None else data_url(part.data, part.media_type or "image/png")
    return {"type": "image_url", "image_url": {"url": url, **({"detail": part.detail} if part.detail else {})}}


def _document(part: DocumentPart) -> Json:
    if part.text is not None:
        return {"type": "text", "text": part.text}
    if part.data is None:
        raise unsupported("messages", "this provider", "a document must be inline, as base64, or plain text")
    return {"type": "file", "file": {"filename": part.name or "document", "file_data": data_url(part.data, part.media_type)}}


def data_url(data: Base64, media_type: str) -> str | LongText:
    """Inline data as a `data:` URL; what has come as one is not copied."""
    if data.start:
        return LongText(data.text)
    return LongText(data.text, prefix=f"data:{media_type};base64,")


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


Count = Annotated[int, msgspec.Meta(ge=0)] | None


class _PromptDetails(msgspec.Struct):
    cached_tokens: Count = None
    cache_write_tokens: Count = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: Count = None


class _Counts(msgspec.Struct):
    """OpenAI's usage. DeepSeek names its cache `prompt_cache_hit_tokens`."""

    prompt_tokens: Count = None
    completion_tokens: Count = None
    total_tokens: Count = None
    prompt_cache_hit_tokens: Count = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


def decode_usage(usage: Any, tier: ServiceTier | None = None) -> Usage | None:
    """OpenAI's usage; a count that is nonsense is 0."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    counts = _Counts(
        prompt_tokens=count(usage, "prompt_tokens"),
        completion_tokens=count(usage, "completion_tokens"),
        total_tokens=count(usage, "total_tokens"),
        prompt_cache_hit_tokens=count(usage, "prompt_cache_hit_tokens"),
        prompt_tokens_details=_PromptDetails(cached_tokens=count(prompt, "cached_tokens"), cache_write_tokens=count(prompt, "cache_write_tokens")),
        completion_tokens_details=_CompletionDetails(reasoning_tokens=count(completion, "reasoning_tokens")),
    )
    return _usage(counts, tier)


def _usage(counts: _Counts, tier: ServiceTier | None) -> Usage:
    """Disjoint buckets of OpenAI's sums, of which the details are parts. xAI counts reasoning beside completion tokens: then the total tells."""
    prompt, completion = counts.prompt_tokens or 0, counts.completion_tokens or 0
    details, further = counts.prompt_tokens_details, counts.completion_tokens_details
    cached = counts.prompt_cache_hit_tokens or 0
    written = 0
    if details is not None:
        cached = details.cached_tokens or cached
        written = details.cache_write_tokens or 0
    reasoning = 0 if further is None else further.reasoning_tokens or 0
    if not (cached or written or reasoning):
        return Usage(input_tokens=prompt, output_tokens=completion, service_tier=tier)
    cached = min(prompt, cached)
    written = min(prompt - cached, written)
    is_beside = reasoning > 0 and counts.total_tokens == prompt + completion + reasoning
    return Usage(
        input_tokens=prompt - cached - written,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=completion if is_beside else max(0, completion - reasoning),
        reasoning_tokens=reasoning if is_beside else min(reasoning, completion),
        service_tier=tier,
    )


def service_tier(answer: Json) -> ServiceTier | None:
    """The tier that served, where the vendor names one that is known."""
    return _tier(answer.get("service_tier"))


def _tier(name: Any) -> ServiceTier | None:
    return cast("ServiceTier", name) if name in ("auto", "default", "flex", "priority", "batch") else None


def decode_chat(request: ModelRequest, body: bytes) -> Completion:  # noqa: ARG001  the answer says all
    """A `chat.completion` object."""
    return read_completion(body, _choice)


def read_completion(body: bytes, read: Callable[[Json], Choice]) -> Completion:
    """An answer with a list of choices, each of which `read` reads. Raises VendorError."""
    answer = parse_object(body, "the answer")
    if answer.get("error"):
        raise VendorError(judge(200, {}, answer))
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, dict) for choice in choices):
        raise bad_answer("the answer has no choices")
    return Completion(
        id=str(answer.get("id") or ""),
        model=str(answer.get("model") or ""),
        choices=tuple(read(choice) for choice in choices),
        usage=decode_usage(answer.get("usage"), service_tier(answer)),
        service_tier=service_tier(answer),
    )


class _Said(msgspec.Struct):
    """A message, of which nothing is read."""


class _Chosen(msgspec.Struct):
    message: _Said


class _Glance(msgspec.Struct):
    """As much of an answer as tells that it is one, and what it has used."""

    choices: Annotated[list[_Chosen], msgspec.Meta(min_length=1)]
    usage: _Counts
    service_tier: str | None = None
    error: None = None


_glance = msgspec.json.Decoder(_Glance)


def glance_usage(body: bytes) -> Usage | None:
    """The usage of a `chat.completion`; None for what looks like anything else."""
    try:
        found = _glance.decode(body)
    except msgspec.MsgspecError:
        return None
    return _usage(found.usage, _tier(found.service_tier))


def _logprobs(choice: Json) -> tuple[Json, ...]:
    """OpenAI's objects of a token each."""
    given = choice.get("logprobs")
    tokens = given.get("content") if isinstance(given, dict) else None
    return tuple(token for token in tokens if isinstance(token, dict)) if isinstance(tokens, list) else ()


def _finish(reason: Any) -> FinishReason:
    return _FINISH.get(str(reason), "stop")


def _choice(choice: Json) -> Choice:
    message = choice.get("message")
    if not isinstance(message, dict):
        raise bad_answer("a choice has no message")
    parts: list[TextPart | ToolCall | ReasoningPart] = []
    parts += read_reasoning(message)
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
    return Choice(parts=tuple(parts), finish_reason=_finish(choice.get("finish_reason")), refusal=message.get("refusal"), logprobs=_logprobs(choice))


class ChunkDecoder:
    """Decodes chunks of a stream, whose choices `read` turns into events. Usage counts in whatever chunk it comes."""

    def __init__(self, read: Callable[[Json, int], list[StreamEvent]]) -> None:
        self._read = read
        self._open: set[int] = set()
        self._finished: set[int] = set()
        self._done = False

    @property
    def is_whole(self) -> bool:
        """Whether the end was told, or every choice that began is finished."""
        return self._done or (bool(self._finished) and self._open <= self._finished)

    def decode_event(self, event: SseEvent) -> tuple[StreamEvent, ...]:
        """The events of one chunk."""
        if not event.data:
            return ()
        if event.data == b"[DONE]":
            self._done = True
            return (StreamEnd(),)
        chunk = parse_object(event.data, "a chunk of the stream")
        if chunk.get("error"):
            raise VendorError(judge(200, {}, chunk))
        found: list[StreamEvent] = []
        for choice in chunk.get("choices") or ():
            if isinstance(choice, dict):
                index = count(choice, "index")
                self._open.add(index)
                found += self._read(choice, index)
                if choice.get("finish_reason"):
                    self._finished.add(index)
        usage = decode_usage(chunk.get("usage"), service_tier(chunk))
        if usage is not None:
            found.append(UsageUpdate(usage=usage))
        return tuple(found)


def _delta_events(choice: Json, index: int) -> list[StreamEvent]:
    found: list[StreamEvent] = []
    delta = cast("Json", choice.get("delta") if isinstance(choice.get("delta"), dict) else {})
    for part in read_reasoning(delta):
        found.append(ReasoningDelta(text=part.text, signature=part.signature, origin=part.origin, is_redacted=part.is_redacted, choice=index))
    if isinstance(delta.get("content"), str) and delta["content"]:
        found.append(TextDelta(text=delta["content"], choice=index, logprobs=_logprobs(choice)))
    if isinstance(delta.get("refusal"), str) and delta["refusal"]:
        found.append(RefusalDelta(text=delta["refusal"], choice=index))
    for call in delta.get("tool_calls") or ():
        if isinstance(call, dict):
            found.append(_call_delta(call, index))
    if choice.get("finish_reason"):
        found.append(FinishDelta(reason=_finish(choice["finish_reason"]), choice=index))
    return found


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


def is_plain_text(piece: bytes) -> bool:
    """Whether a piece of a stream is whole chunks that add to a text and say nothing else: no end, no usage, no error, no call."""
    return (
        piece.endswith(b"\n\n")
        and piece.startswith(b"data: {")
        and b'"content":"' in piece
        and b"[DONE]" not in piece
        and b'"error"' not in piece
        and b"_call" not in piece
        and (b'"usage"' not in piece or piece.count(b'"usage"') == piece.count(b'"usage":null'))
        and (b'"finish_reason"' not in piece or piece.count(b'"finish_reason"') == piece.count(b'"finish_reason":null'))
    )


CHAT = WireFormat(wire="openai", read=decode_chat, decoder=lambda: ChunkDecoder(_delta_events), glance=glance_usage, plain=is_plain_text)
