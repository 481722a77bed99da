"""Anthropic's Messages API as clients speak it: body → ChatRequest, and answers back.

Sources: https://docs.anthropic.com/en/api/messages, /en/api/messages-streaming, /en/api/errors, and the types of the `anthropic` package.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec
import orjson
from werkzeug.datastructures import Headers

from coollm.api.call_ids import pack, unpack
from coollm.api.call_order import CallOrder
from coollm.api.fields import an_object, number, required_text, typed, whole
from coollm.core.errors import InvalidRequest, RequestError
from coollm.core.types import (
    Base64,
    ChatRequest,
    Completion,
    DocumentPart,
    FinishDelta,
    FinishReason,
    ImagePart,
    Json,
    Message,
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
from coollm.providers.reasoning import mint, unmint

WIRE = "claude"
FORWARDED_HEADERS = ("anthropic-version", "anthropic-beta")
END_OF_STREAM = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'

# Fields that another vendor may be without and the answer stays what was asked for.
_HARMLESS = frozenset({"metadata", "cache_control", "container", "inference_geo", "diagnostics", "context_management"})
_READ = frozenset(
    {
        "model",
        "messages",
        "max_tokens",
        "system",
        "stream",
        "temperature",
        "top_p",
        "top_k",
        "service_tier",
        "stop_sequences",
        "tools",
        "tool_choice",
        "thinking",
        "output_config",
    }
)
_UNDERSTOOD = _READ | _HARMLESS

_SERVICE_TIERS: dict[str, ServiceTier] = {"auto": "auto", "standard_only": "default"}
_SERVED_TIERS: dict[ServiceTier, str] = {"default": "standard", "priority": "priority", "batch": "batch"}

_STOP_REASONS: dict[FinishReason, str] = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}

# A thinking budget as the effort that other vendors know.
_LOW_BUDGET, _MEDIUM_BUDGET = 4096, 16384

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def parse_request(body: Json, headers: Headers) -> ChatRequest:
    """A messages request. Raises InvalidRequest naming the first field at fault."""
    inexpressible = [name for name, value in body.items() if name not in _UNDERSTOOD and value is not None]
    max_tokens = whole(body, "max_tokens")
    if max_tokens is None:
        raise InvalidRequest("'max_tokens' is missing", param="max_tokens", code="missing_required_parameter")
    metadata = typed(body, "metadata", dict, "an object") or {}
    choice, parallel = _tool_choice(body)
    return ChatRequest(
        model=required_text(body, "model"),
        messages=(*_system(body, inexpressible), *_messages(body, inexpressible)),
        tools=_tools(body, inexpressible),
        tool_choice=choice,
        parallel_tool_calls=parallel,
        max_output_tokens=max_tokens,
        temperature=number(body, "temperature", 0, 1),
        top_p=number(body, "top_p", 0, 1),
        stop=tuple(typed(body, "stop_sequences", list, "a list of texts") or ()),
        output_schema=_output_schema(body),
        reasoning_effort=_effort(body),
        top_k=whole(body, "top_k"),
        service_tier=_SERVICE_TIERS.get(str(body.get("service_tier"))),
        stream=typed(body, "stream", bool, "true or false") or False,
        include_usage=True,
        user=typed(metadata, "user_id", str, "text", "metadata."),
        dialect=WIRE,
        source=body,
        inexpressible=tuple(inexpressible),
        forwarded_headers=tuple((name, headers[name]) for name in FORWARDED_HEADERS if name in headers),
    )


def _system(body: Json, inexpressible: list[str]) -> tuple[Message, ...]:
    system = body.get("system")
    if not system:
        return ()
    blocks = [{"type": "text", "text": system}] if isinstance(system, str) else system
    return (Message(role="system", parts=_blocks(blocks, "system", inexpressible)),)


def _messages(body: Json, inexpressible: list[str]) -> list[Message]:
    messages = typed(body, "messages", list, "a list")
    if not messages:
        raise InvalidRequest("'messages' is missing or empty", param="messages", code="missing_required_parameter")
    names: dict[str, str] = {}
    found: list[Message] = []
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        role = required_text(an_object(message, path), "role", path + ".")
        if role not in ("user", "assistant", "system"):
            raise InvalidRequest(f"'{path}.role' must be user or assistant, not '{role}'", param=f"{path}.role")
        content = message.get("content")
        parts = (TextPart(text=content),) if isinstance(content, str) else _blocks(content, f"{path}.content", inexpressible)
        names.update({part.id: part.name for part in parts if isinstance(part, ToolCall)})
        found += _turns(role, parts, names)
    return found


def _turns(role: str, parts: tuple[Part, ...], names: dict[str, str]) -> list[Message]:
    """A turn in neutral words: what tools returned comes before what the user says with it."""
    if role == "assistant":
        return [Message(role="assistant", parts=parts)]
    results = tuple(msgspec.structs.replace(part, name=names.get(part.call_id)) for part in parts if isinstance(part, ToolResult))
    others = tuple(part for part in parts if not isinstance(part, ToolResult))
    turns = [Message(role="tool", parts=results)] if results else []
    return [*turns, Message(role="system" if role == "system" else "user", parts=others)] if others or not results else turns


def _blocks(blocks: Any, path: str, inexpressible: list[str]) -> tuple[Part, ...]:
    if not isinstance(blocks, list):
        raise InvalidRequest(f"'{path}' must be text or a list of blocks", param=path)
    parts: list[Part] = []
    for index, block in enumerate(blocks):
        here = f"{path}[{index}]"
        part = _block(an_object(block, here), here, inexpressible)
        if part is not None:
            parts.append(part)
    return tuple(parts)


def _block(block: Json, path: str, inexpressible: list[str]) -> Part | None:
    kind = required_text(block, "type", path + ".")
    if kind == "text":
        return TextPart(text=typed(block, "text", str, "text", path + ".") or "", cache_control=_cache_control(block, path))
    if kind == "image":
        return _image(block, path, inexpressible)
    if kind == "document":
        return _document(block, path, inexpressible)
    if kind == "tool_use":
        arguments = orjson.dumps(typed(block, "input", dict, "an object", path + ".") or {}).decode()
        call_id, extra = unpack(required_text(block, "id", path + "."))
        return ToolCall(id=call_id, name=required_text(block, "name", path + "."), arguments=arguments, extra=extra)
    if kind == "tool_result":
        content = block.get("content")
        inner: tuple[Part, ...] = ()
        if content is not None:
            inner = (TextPart(text=content),) if isinstance(content, str) else _blocks(content, path + ".content", inexpressible)
        shown = tuple(part for part in inner if isinstance(part, TextPart | ImagePart | DocumentPart))
        call_id, _ = unpack(required_text(block, "tool_use_id", path + "."))
        return ToolResult(call_id=call_id, content=shown, is_error=bool(block.get("is_error")), cache_control=_cache_control(block, path))
    if kind == "thinking":
        signature, origin = unmint(str(block.get("signature") or ""), WIRE)
        return ReasoningPart(text=str(block.get("thinking") or ""), signature=signature, origin=origin)
    if kind == "redacted_thinking":
        signature, origin = unmint(str(block.get("data") or ""), WIRE)
        return ReasoningPart(text="", signature=signature, origin=origin, is_redacted=True)
    inexpressible.append(path)
    return None


def _cache_control(block: Json, path: str) -> Json | None:
    return cast("Json | None", typed(block, "cache_control", dict, "an object", path + "."))


def _document(block: Json, path: str, inexpressible: list[str]) -> DocumentPart | None:
    source = typed(block, "source", dict, "an object", path + ".") or {}
    told: Json = {"name": typed(block, "title", str, "text", path + "."), "cache_control": _cache_control(block, path)}
    kind = source.get("type")
    if kind == "base64":
        data = Base64(text=required_text(source, "data", path + ".source."))
        return DocumentPart(data=data, media_type=required_text(source, "media_type", path + ".source."), **told)
    if kind == "url":
        return DocumentPart(url=required_text(source, "url", path + ".source."), **told)
    if kind == "text":
        return DocumentPart(text=required_text(source, "data", path + ".source."), **told)
    inexpressible.append(path)
    return None


def _image(block: Json, path: str, inexpressible: list[str]) -> ImagePart | None:
    source = typed(block, "source", dict, "an object", path + ".") or {}
    if source.get("type") == "base64":
        data = Base64(text=required_text(source, "data", path + ".source."))
        return ImagePart(data=data, media_type=required_text(source, "media_type", path + ".source."), cache_control=_cache_control(block, path))
    if source.get("type") == "url":
        return ImagePart(url=required_text(source, "url", path + ".source."), cache_control=_cache_control(block, path))
    inexpressible.append(path)
    return None


def _tools(body: Json, inexpressible: list[str]) -> tuple[Tool, ...]:
    tools: list[Tool] = []
    for index, tool in enumerate(typed(body, "tools", list, "a list") or ()):
        here = f"tools[{index}]"
        if an_object(tool, here).get("type", "custom") != "custom":
            inexpressible.append(here)
            continue
        tools.append(
            Tool(
                name=required_text(tool, "name", here + "."),
                description=typed(tool, "description", str, "text", here + "."),
                parameters=typed(tool, "input_schema", dict, "a JSON Schema", here + "."),
                strict=typed(tool, "strict", bool, "true or false", here + "."),
                cache_control=_cache_control(tool, here),
            )
        )
    return tuple(tools)


def _tool_choice(body: Json) -> tuple[ToolChoice | None, bool | None]:
    choice = typed(body, "tool_choice", dict, "an object")
    if choice is None:
        return None, None
    kind = required_text(choice, "type", "tool_choice.")
    parallel = not choice["disable_parallel_tool_use"] if isinstance(choice.get("disable_parallel_tool_use"), bool) else None
    if kind == "tool":
        return ToolChoice(mode="named", name=required_text(choice, "name", "tool_choice.")), parallel
    if kind == "any":
        return ToolChoice(mode="required"), parallel
    if kind in ("auto", "none"):
        return ToolChoice(mode="auto" if kind == "auto" else "none"), parallel
    raise InvalidRequest(f"'tool_choice.type' must be auto, any, tool or none, not '{kind}'", param="tool_choice.type")


def _output_schema(body: Json) -> OutputSchema | None:
    wanted = (typed(body, "output_config", dict, "an object") or {}).get("format")
    if wanted is None:
        return None
    schema = typed(an_object(wanted, "output_config.format"), "schema", dict, "a JSON Schema", "output_config.format.")
    return OutputSchema(schema=schema, strict=True)


def _effort(body: Json) -> str | None:
    """How hard the model shall think, in the words that other vendors know."""
    effort = (typed(body, "output_config", dict, "an object") or {}).get("effort")
    thinking = typed(body, "thinking", dict, "an object") or {}
    if thinking.get("type") == "disabled":
        return None
    if isinstance(effort, str):
        return {"xhigh": "high", "max": "high"}.get(effort, effort)
    budget = thinking.get("budget_tokens")
    if isinstance(budget, int):
        return "low" if budget < _LOW_BUDGET else "medium" if budget < _MEDIUM_BUDGET else "high"
    return "medium" if thinking else None


def render_usage(usage: Usage) -> Json:
    """Usage in Anthropic's shape, whose input counts are disjoint and whose output holds the thinking."""
    rendered: Json = {
        "input_tokens": usage.input_tokens,
        "cache_creation_input_tokens": usage.all_cache_write_tokens,
        "cache_read_input_tokens": usage.cached_input_tokens,
        "output_tokens": usage.completion_tokens,
    }
    if usage.cache_write_1h_tokens:
        rendered["cache_creation"] = {"ephemeral_5m_input_tokens": usage.cache_write_tokens, "ephemeral_1h_input_tokens": usage.cache_write_1h_tokens}
    if usage.reasoning_tokens:
        rendered["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return rendered


def render_message(completion: Completion, usage: Usage) -> Json:
    """A whole answer as a `message`."""
    choice = completion.choices[0]
    content: list[Json] = []
    for part in choice.parts:
        if isinstance(part, ToolCall):
            content.append({"type": "tool_use", "id": pack(part.id, part.extra), "name": part.name, "input": _input(part.arguments)})
        elif isinstance(part, TextPart):
            content.append({"type": "text", "text": part.text})
        else:
            content.append(_thinking(part))
    if choice.refusal:
        content.append({"type": "text", "text": choice.refusal})
    told = render_usage(usage)
    if completion.service_tier in _SERVED_TIERS:
        told["service_tier"] = _SERVED_TIERS[completion.service_tier]
    return {
        "id": completion.id if completion.id.startswith("msg_") else f"msg_{completion.id}",
        "type": "message",
        "role": "assistant",
        "model": completion.model,
        "content": content,
        "stop_reason": _STOP_REASONS[choice.finish_reason],
        "stop_sequence": None,
        "usage": told,
    }


def _thinking(part: ReasoningPart | ReasoningDelta) -> Json:
    if part.is_redacted:
        return {"type": "redacted_thinking", "data": mint(part, WIRE)}
    return {"type": "thinking", "thinking": part.text, "signature": mint(part, WIRE)}


def _input(arguments: str) -> Any:
    """The arguments of a call as an object, byte for byte where the model wrote one. What a model wrote that is no object is kept beside."""
    try:
        is_object = isinstance(orjson.loads(arguments), dict)
    except ValueError:
        is_object = False
    return orjson.Fragment(arguments) if is_object else {"unparsed": arguments}


class MessageRenderer:
    """Stream events as Anthropic's: one block after the other, each opened and closed."""

    def __init__(self, message_id: str, model: str, estimated_input_tokens: int) -> None:
        self._message_id = message_id
        self._model = model
        self._input_tokens = estimated_input_tokens
        self._is_started = False
        self._block = -1
        self._open: tuple[str, int] | None = None
        self._stop_reason = "end_turn"
        self._calls = CallOrder()

    def render(self, event: StreamEvent) -> bytes:
        """The frames for one event."""
        if isinstance(event, UsageUpdate | StreamEnd):
            return b""
        if isinstance(event, FinishDelta):
            self._stop_reason = _STOP_REASONS[event.reason]
            return self._start()
        if isinstance(event, ToolCallDelta):
            return self._start() + b"".join(self._tool(one) for one in self._calls.take(event))
        if isinstance(event, ReasoningDelta):
            return self._start() + self._reasoning(event)
        return self._start() + self._text(event)

    def finish(self, usage: Usage) -> bytes:
        """The frames that end a whole stream."""
        delta = {"stop_reason": self._stop_reason, "stop_sequence": None}
        waiting = b"".join(self._tool(one) for one in self._calls.rest())
        return self._start() + waiting + self._close() + frame("message_delta", {"delta": delta, "usage": render_usage(usage)}) + END_OF_STREAM

    def _start(self) -> bytes:
        if self._is_started:
            return b""
        self._is_started = True
        message: Json = {
            "id": self._message_id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            # The vendor counts at the end: until then the client has our estimate, which message_delta replaces.
            "usage": render_usage(Usage(input_tokens=self._input_tokens)),
        }
        return frame("message_start", {"message": message})

    def _text(self, event: TextDelta | RefusalDelta) -> bytes:
        opened = self._switch(("text", 0), {"type": "text", "text": ""})
        return opened + self._delta({"type": "text_delta", "text": event.text})

    def _reasoning(self, event: ReasoningDelta) -> bytes:
        if event.is_redacted:
            return self._close() + self._switch(("redacted", 0), _thinking(event)) + self._close()
        opened = self._switch(("thinking", 0), {"type": "thinking", "thinking": "", "signature": ""})
        text = self._delta({"type": "thinking_delta", "thinking": event.text}) if event.text else b""
        if not event.signature:
            return opened + text
        # A signature ends its thought: the next one is a block of its own.
        return opened + text + self._delta({"type": "signature_delta", "signature": mint(event, WIRE)}) + self._close()

    def _tool(self, event: ToolCallDelta) -> bytes:
        opened = self._switch(("tool_use", event.index), {"type": "tool_use", "id": pack(event.id or "", event.extra), "name": event.name or "", "input": {}})
        return opened + (self._delta({"type": "input_json_delta", "partial_json": event.arguments}) if event.arguments else b"")

    def _switch(self, wanted: tuple[str, int], block: Json) -> bytes:
        if self._open == wanted:
            return b""
        closed = self._close()
        self._open = wanted
        self._block += 1
        return closed + frame("content_block_start", {"index": self._block, "content_block": block})

    def _close(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return frame("content_block_stop", {"index": self._block})

    def _delta(self, delta: Json) -> bytes:
        return frame("content_block_delta", {"index": self._block, "delta": delta})


def frame(name: str, payload: Json) -> bytes:
    """One event."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps({"type": name, **payload}))


def render_error(error: RequestError, message: str, request_id: str) -> Json:
    """An error in Anthropic's shape."""
    kind = _ERROR_TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}
