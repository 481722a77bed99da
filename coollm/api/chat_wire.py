"""OpenAI's chat completions as clients speak them: body → ChatRequest, and answers back.

Source: the reference of POST /chat/completions, https://platform.openai.com/docs/api-reference/chat, and the types of the `openai` package.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import orjson

from coollm.api.fields import an_object, inline, number, required_text, typed, whole
from coollm.core.errors import InvalidRequest, RequestError
from coollm.core.types import (
    AudioPart,
    Base64,
    ChatRequest,
    Choice,
    Completion,
    DocumentPart,
    FinishDelta,
    ImagePart,
    Json,
    Message,
    OutputSchema,
    Part,
    ReasoningDelta,
    ReasoningPart,
    RefusalDelta,
    Role,
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
from coollm.providers.reasoning import read_reasoning, write_detail

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_MAX_CHOICES = 128

# Parameters that are read beside the others, or say nothing about the answer's content: another vendor may be without these.
_HARMLESS = frozenset(
    {"model", "messages", "functions", "stream_options", "metadata", "store", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
)

# Values that mean the same as leaving the parameter out.
_NEUTRAL: dict[str, tuple[Any, ...]] = {"logit_bias": ({},), "modalities": (["text"],), "verbosity": ("medium",)}

SERVICE_TIERS: tuple[ServiceTier, ...] = ("auto", "default", "flex", "priority")

DONE = b"data: [DONE]\n\n"


def parse_request(body: Json) -> ChatRequest:
    """A chat request from its parsed body. Raises InvalidRequest naming a field at fault.

    Fields are read as they come: one that is not there costs nothing.
    """
    inexpressible: list[str] = []
    model, messages = required_text(body, "model"), _messages(body, inexpressible)
    words: Json = {}
    for name, value in body.items():
        if name in _HARMLESS or value is None:
            continue
        reader = _READERS.get(name)
        if reader is not None:
            words[reader[0]] = reader[1](body, inexpressible)
        elif value not in _NEUTRAL.get(name, ()):
            inexpressible.append(name)
    stream_options = body.get("stream_options")
    if stream_options is not None:
        words["include_usage"] = bool((typed(body, "stream_options", dict, "an object") or {}).get("include_usage"))
    return ChatRequest(model=model, messages=messages, source=body, inexpressible=tuple(inexpressible), **words)


def read_service_tier(body: Json) -> ServiceTier | None:
    """The tier that is asked for; one that OpenAI alone knows is its own business."""
    asked = typed(body, "service_tier", str, "text")
    return next((tier for tier in SERVICE_TIERS if tier == asked), None)


def _stop(body: Json) -> tuple[str, ...]:
    value = body.get("stop")
    if value is None:
        return ()
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
        raise InvalidRequest("'stop' must be text or a list of texts", param="stop")
    return tuple(listed)


def _messages(body: Json, inexpressible: list[str]) -> tuple[Message, ...]:
    messages = typed(body, "messages", list, "a list")
    if body.get("functions"):
        inexpressible.append("functions")
    if not messages:
        raise InvalidRequest("'messages' is missing or empty", param="messages", code="missing_required_parameter")
    names: dict[str, str] = {}
    found: list[Message] = []
    for index, message in enumerate(messages):
        if type(message) is dict:
            role, said = message.get("role"), message.get("content")
            if type(said) is str and (role == "user" or role == "system"):  # most are so
                found.append(Message(role=role, parts=(TextPart(text=said),)))
                continue
        found.append(_message(message, f"messages[{index}]", names, inexpressible))
    return tuple(found)


def _message(message: Any, path: str, names: dict[str, str], inexpressible: list[str]) -> Message:
    role = _ROLES.get(required_text(an_object(message, path), "role", path + "."))
    if role is None:
        raise InvalidRequest(f"'{path}.role' must be one of {', '.join(_ROLES)}, not '{message['role']}'", param=f"{path}.role")
    said = message.get("content")
    content = _content(said, f"{path}.content", inexpressible)
    if role == "tool":
        call_id = required_text(message, "tool_call_id", path + ".")
        shown = tuple(part for part in content if isinstance(part, TextPart | ImagePart | DocumentPart))
        return Message(role="tool", parts=(ToolResult(call_id=call_id, content=shown, name=names.get(call_id)),))
    if role != "assistant":
        if not content and said is None:
            raise InvalidRequest(f"'{path}.content' is missing", param=f"{path}.content", code="missing_required_parameter")
        return Message(role=role, parts=content)
    calls = _tool_calls(message, path, inexpressible)
    names.update({call.id: call.name for call in calls})
    for name in ("audio", "function_call"):
        if message.get(name) is not None:
            inexpressible.append(f"{path}.{name}")
    return Message(role="assistant", parts=(*_joined(read_reasoning(message)), *content, *calls))


def _joined(parts: list[ReasoningPart]) -> list[ReasoningPart]:
    """Reasoning as whole thoughts: a client may give back the pieces of a stream as they came, the signature last."""
    found: list[ReasoningPart] = []
    for part in parts:
        last = found[-1] if found else None
        if last is None or last.is_redacted or part.is_redacted or last.signature or last.origin != part.origin:
            found.append(part)
        else:
            found[-1] = ReasoningPart(text=last.text + part.text, signature=part.signature, origin=part.origin)
    return found


def _content(content: Any, path: str, inexpressible: list[str]) -> tuple[Part, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (TextPart(text=content),)
    if not isinstance(content, list):
        raise InvalidRequest(f"'{path}' must be text or a list of parts", param=path)
    parts: list[Part] = []
    for index, part in enumerate(content):
        here = f"{path}[{index}]"
        kind = required_text(an_object(part, here), "type", here + ".")
        if kind == "text":
            parts.append(TextPart(text=typed(part, "text", str, "text", here + ".") or "", cache_control=_cache_control(part, here)))
        elif kind == "refusal":
            parts.append(TextPart(text=typed(part, "refusal", str, "text", here + ".") or ""))
        elif kind == "image_url":
            parts.append(_image(part, here))
        elif kind == "file" and _file_data(part, here):
            parts.append(_document(part, here))
        elif kind == "input_audio":
            parts.append(_audio(part, here))
        else:
            inexpressible.append(here)
    return tuple(parts)


def _cache_control(part: Json, path: str) -> Json | None:
    """Anthropic's marker, which several of OpenAI's clients send along."""
    return cast("Json | None", typed(part, "cache_control", dict, "an object", path + "."))


def _file_data(part: Json, path: str) -> str | None:
    file = typed(part, "file", dict, "an object", path + ".") or {}
    return cast("str | None", typed(file, "file_data", str, "a base64 data: URL", f"{path}.file."))


def _document(part: Json, path: str) -> DocumentPart:
    given = _file_data(part, path) or ""
    media_type, data = inline(given) or ("application/pdf", Base64(text=given))
    name = typed(part["file"], "filename", str, "text", f"{path}.file.")
    return DocumentPart(data=data, media_type=media_type, name=name, cache_control=_cache_control(part, path))


def _audio(part: Json, path: str) -> AudioPart:
    audio = typed(part, "input_audio", dict, "an object", path + ".") or {}
    data = required_text(audio, "data", f"{path}.input_audio.")
    return AudioPart(data=Base64(text=data), format=required_text(audio, "format", f"{path}.input_audio."))


def _image(part: Json, path: str) -> ImagePart:
    image = typed(part, "image_url", dict, "an object", path + ".") or {}
    url = required_text(image, "url", f"{path}.image_url.")
    detail = typed(image, "detail", str, "text", f"{path}.image_url.")
    cache_control = _cache_control(part, path)
    found = inline(url)
    if found:
        return ImagePart(data=found[1], media_type=found[0], detail=detail, cache_control=cache_control)
    if not url.startswith(("https://", "http://")):
        raise InvalidRequest(f"'{path}.image_url.url' must be an http(s) or a base64 data: URL", param=f"{path}.image_url.url")
    return ImagePart(url=url, detail=detail, cache_control=cache_control)


def _tool_calls(message: Json, path: str, inexpressible: list[str]) -> list[ToolCall]:
    calls: list[ToolCall] = []
    for index, call in enumerate(typed(message, "tool_calls", list, "a list", path + ".") or ()):
        here = f"{path}.tool_calls[{index}]"
        if an_object(call, here).get("type", "function") != "function":
            inexpressible.append(here)
            continue
        function = typed(call, "function", dict, "an object", here + ".") or {}
        calls.append(
            ToolCall(
                id=required_text(call, "id", here + "."),
                name=required_text(function, "name", f"{here}.function."),
                arguments=typed(function, "arguments", str, "JSON text", f"{here}.function.") or "{}",
                extra=typed(call, "extra_content", dict, "an object", here + "."),
            )
        )
    return calls


def _tools(body: Json, inexpressible: list[str]) -> tuple[Tool, ...]:
    tools: list[Tool] = []
    for index, tool in enumerate(typed(body, "tools", list, "a list") or ()):
        here = f"tools[{index}]"
        if required_text(an_object(tool, here), "type", here + ".") != "function":
            inexpressible.append(here)
            continue
        function = typed(tool, "function", dict, "an object", here + ".") or {}
        tools.append(
            Tool(
                name=required_text(function, "name", f"{here}.function."),
                description=typed(function, "description", str, "text", f"{here}.function."),
                parameters=typed(function, "parameters", dict, "a JSON Schema", f"{here}.function."),
                strict=typed(function, "strict", bool, "true or false", f"{here}.function."),
                cache_control=_cache_control(tool, here),
            )
        )
    return tuple(tools)


def _tool_choice(body: Json, inexpressible: list[str]) -> ToolChoice | None:
    choice = body.get("tool_choice")
    if choice is None:
        return None
    if choice in ("auto", "none", "required"):
        return ToolChoice(mode=choice)
    if isinstance(choice, dict) and choice.get("type") == "function" and isinstance(choice.get("function"), dict):
        return ToolChoice(mode="named", name=required_text(choice["function"], "name", "tool_choice.function."))
    if isinstance(choice, dict):
        inexpressible.append("tool_choice")
        return None
    raise InvalidRequest("'tool_choice' must be auto, none, required or a function", param="tool_choice")


def _output_schema(body: Json, inexpressible: list[str]) -> OutputSchema | None:
    wanted = typed(body, "response_format", dict, "an object")
    kind = None if wanted is None else required_text(wanted, "type", "response_format.")
    if wanted is None or kind == "text":
        return None
    if kind == "json_object":
        return OutputSchema()
    if kind != "json_schema":
        inexpressible.append("response_format")
        return None
    given = typed(wanted, "json_schema", dict, "an object", "response_format.") or {}
    return OutputSchema(
        name=required_text(given, "name", "response_format.json_schema."),
        schema=typed(given, "schema", dict, "a JSON Schema", "response_format.json_schema."),
        strict=typed(given, "strict", bool, "true or false", "response_format.json_schema."),
    )


def _output_limit(body: Json, inexpressible: list[str]) -> int | None:  # noqa: ARG001  the signature of every reader
    limit = body.get("max_completion_tokens")
    return whole(body, "max_completion_tokens" if limit is not None else "max_tokens")


def _logprobs_wanted(body: Json, inexpressible: list[str]) -> int | None:  # noqa: ARG001
    return (typed(body, "top_logprobs", int, "a whole number") or 0) if typed(body, "logprobs", bool, "true or false") else None


_Reader = Callable[[Json, list[str]], Any]

# Name of a field → the neutral word, and what reads it.
_READERS: dict[str, tuple[str, _Reader]] = {
    "tools": ("tools", _tools),
    "tool_choice": ("tool_choice", _tool_choice),
    "response_format": ("output_schema", _output_schema),
    "parallel_tool_calls": ("parallel_tool_calls", lambda body, _: typed(body, "parallel_tool_calls", bool, "true or false")),
    "max_completion_tokens": ("max_output_tokens", _output_limit),
    "max_tokens": ("max_output_tokens", _output_limit),
    "temperature": ("temperature", lambda body, _: number(body, "temperature", 0, 2)),
    "top_p": ("top_p", lambda body, _: number(body, "top_p", 0, 1)),
    "stop": ("stop", lambda body, _: _stop(body)),
    "seed": ("seed", lambda body, _: typed(body, "seed", int, "a whole number")),
    "n": ("choices", lambda body, _: whole(body, "n", largest=_MAX_CHOICES) or 1),
    "reasoning_effort": ("reasoning_effort", lambda body, _: typed(body, "reasoning_effort", str, "text")),
    "top_k": ("top_k", lambda body, _: whole(body, "top_k")),
    "logprobs": ("logprobs", _logprobs_wanted),
    "top_logprobs": ("logprobs", _logprobs_wanted),
    "frequency_penalty": ("frequency_penalty", lambda body, _: number(body, "frequency_penalty", -2, 2) or None),
    "presence_penalty": ("presence_penalty", lambda body, _: number(body, "presence_penalty", -2, 2) or None),
    "service_tier": ("service_tier", lambda body, _: read_service_tier(body)),
    "stream": ("stream", lambda body, _: typed(body, "stream", bool, "true or false") or False),
    "user": ("user", lambda body, _: typed(body, "user", str, "text")),
}


def render_usage(usage: Usage) -> Json:
    """Usage in OpenAI's shape, where the details are part of their sums."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens, "cache_write_tokens": usage.all_cache_write_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def render_completion(completion: Completion, usage: Usage) -> Json:
    """A whole answer as a `chat.completion` object."""
    rendered: Json = {
        "id": completion.id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": completion.model,
        "choices": [_render_choice(index, choice) for index, choice in enumerate(completion.choices)],
        "usage": render_usage(usage),
    }
    if completion.service_tier:
        rendered["service_tier"] = completion.service_tier
    return rendered


def _render_choice(index: int, choice: Choice) -> Json:
    texts = [part.text for part in choice.parts if isinstance(part, TextPart)]
    thoughts = [part for part in choice.parts if isinstance(part, ReasoningPart)]
    reasoning = "".join(part.text for part in thoughts)
    calls = [_render_call(part) for part in choice.parts if isinstance(part, ToolCall)]
    message: Json = {"role": "assistant", "content": "".join(texts) if texts else None, "refusal": choice.refusal}
    if reasoning:
        message["reasoning_content"] = reasoning
    if any(part.signature for part in thoughts):
        message["reasoning_details"] = [write_detail(part, place) for place, part in enumerate(thoughts)]
    if calls:
        message["tool_calls"] = calls
    return {"index": index, "message": message, "logprobs": _logprobs(choice.logprobs), "finish_reason": choice.finish_reason}


def _logprobs(tokens: tuple[Json, ...]) -> Json | None:
    return {"content": list(tokens), "refusal": None} if tokens else None


def _render_call(call: ToolCall) -> Json:
    rendered: Json = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
    if call.extra:
        rendered["extra_content"] = call.extra
    return rendered


class ChunkRenderer:
    """Stream events as `chat.completion.chunk` frames of server-sent events."""

    def __init__(self, completion_id: str, model: str, *, include_usage: bool) -> None:
        self._head = {"id": completion_id, "object": "chat.completion.chunk", "created": int(time.time()), "model": model}
        self._include_usage = include_usage
        self._started: set[int] = set()

    def render(self, event: StreamEvent) -> bytes:
        """The frames for one event; empty if the client does not see it."""
        if isinstance(event, StreamEnd | UsageUpdate):
            return b""
        frames = b""
        if event.choice not in self._started:
            self._started.add(event.choice)
            frames = self._frame(event.choice, {"role": "assistant", "content": ""})
        if isinstance(event, FinishDelta):
            return frames + self._frame(event.choice, {}, event.reason)
        return frames + self._frame(event.choice, _delta(event), logprobs=event.logprobs if isinstance(event, TextDelta) else ())

    def finish(self, usage: Usage) -> bytes:
        """The frames that end a whole stream: usage if it was asked for, then `[DONE]`."""
        if not self._include_usage:
            return DONE
        return sse_frame({**self._head, "choices": [], "usage": render_usage(usage)}) + DONE

    def _frame(self, choice: int, delta: Json, finish_reason: str | None = None, logprobs: tuple[Json, ...] = ()) -> bytes:
        chunk: Json = {**self._head, "choices": [{"index": choice, "delta": delta, "logprobs": _logprobs(logprobs), "finish_reason": finish_reason}]}
        if self._include_usage:
            chunk["usage"] = None
        return sse_frame(chunk)


def _delta(event: TextDelta | ReasoningDelta | RefusalDelta | ToolCallDelta) -> Json:
    if isinstance(event, TextDelta):
        return {"content": event.text}
    if isinstance(event, ReasoningDelta):
        signed = {"reasoning_details": [write_detail(event, 0)]} if event.origin else {}
        return {"reasoning_content": event.text, **signed} if event.text else signed
    if isinstance(event, RefusalDelta):
        return {"refusal": event.text}
    call: Json = {"index": event.index, "function": {"arguments": event.arguments}}
    if event.id is not None:
        call = {"index": event.index, "id": event.id, "type": "function", "function": {"name": event.name, "arguments": event.arguments}}
    if event.extra:
        call["extra_content"] = event.extra
    return {"tool_calls": [call]}


def sse_frame(payload: Json) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def render_error(error: RequestError, message: str) -> Json:
    """An error in OpenAI's shape; `message` is what the client may read."""
    return {"error": {"message": message, "type": error.type, "param": error.param, "code": error.code}}
