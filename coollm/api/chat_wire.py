"""OpenAI's chat completions as clients speak them: body → ChatRequest, and answers back.

Source: the reference of POST /chat/completions, https://platform.openai.com/docs/api-reference/chat, and the types of the `openai` package.
"""

from __future__ import annotations

import re
import time
from typing import Any

import orjson

from coollm.api.fields import an_object, number, required_text, typed, whole
from coollm.core.errors import InvalidRequest, RequestError
from coollm.core.types import (
    ChatRequest,
    Choice,
    Completion,
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

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,(.*)", re.DOTALL)
_MAX_CHOICES = 128

DONE = b"data: [DONE]\n\n"


def parse_request(body: Json) -> ChatRequest:
    """A chat request from its parsed body. Raises InvalidRequest naming the first field at fault."""
    inexpressible: list[str] = []
    stream_options = typed(body, "stream_options", dict, "an object") or {}
    return ChatRequest(
        model=required_text(body, "model"),
        messages=_messages(body, inexpressible),
        tools=_tools(body, inexpressible),
        tool_choice=_tool_choice(body, inexpressible),
        parallel_tool_calls=typed(body, "parallel_tool_calls", bool, "true or false"),
        max_output_tokens=whole(body, "max_completion_tokens") or whole(body, "max_tokens"),
        temperature=number(body, "temperature", 0, 2),
        top_p=number(body, "top_p", 0, 1),
        stop=_stop(body),
        seed=typed(body, "seed", int, "a whole number"),
        choices=whole(body, "n", largest=_MAX_CHOICES) or 1,
        output_schema=_output_schema(body, inexpressible),
        reasoning_effort=typed(body, "reasoning_effort", str, "text"),
        stream=typed(body, "stream", bool, "true or false") or False,
        include_usage=bool(stream_options.get("include_usage")),
        user=typed(body, "user", str, "text"),
        source=body,
        inexpressible=tuple(inexpressible),
    )


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
    if not messages:
        raise InvalidRequest("'messages' is missing or empty", param="messages", code="missing_required_parameter")
    names: dict[str, str] = {}
    return tuple(_message(message, f"messages[{index}]", names, inexpressible) for index, message in enumerate(messages))


def _message(message: Any, path: str, names: dict[str, str], inexpressible: list[str]) -> Message:
    role = _ROLES.get(required_text(an_object(message, path), "role", path + "."))
    if role is None:
        raise InvalidRequest(f"'{path}.role' must be one of {', '.join(_ROLES)}, not '{message['role']}'", param=f"{path}.role")
    content = _content(message.get("content"), f"{path}.content", inexpressible)
    if role == "tool":
        call_id = required_text(message, "tool_call_id", path + ".")
        shown = tuple(part for part in content if isinstance(part, TextPart | ImagePart))
        return Message(role="tool", parts=(ToolResult(call_id=call_id, content=shown, name=names.get(call_id)),))
    if role != "assistant":
        if not content and message.get("content") is None:
            raise InvalidRequest(f"'{path}.content' is missing", param=f"{path}.content", code="missing_required_parameter")
        return Message(role=role, parts=content)
    calls = _tool_calls(message, path, inexpressible)
    names.update({call.id: call.name for call in calls})
    for name in ("audio", "function_call"):
        if message.get(name) is not None:
            inexpressible.append(f"{path}.{name}")
    return Message(role="assistant", parts=(*content, *calls))


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
            parts.append(TextPart(text=typed(part, "text", str, "text", here + ".") or ""))
        elif kind == "refusal":
            parts.append(TextPart(text=typed(part, "refusal", str, "text", here + ".") or ""))
        elif kind == "image_url":
            parts.append(_image(part, here))
        else:
            inexpressible.append(here)
    return tuple(parts)


def _image(part: Json, path: str) -> ImagePart:
    image = typed(part, "image_url", dict, "an object", path + ".") or {}
    url = required_text(image, "url", f"{path}.image_url.")
    detail = typed(image, "detail", str, "text", f"{path}.image_url.")
    inline = _DATA_URL.fullmatch(url)
    if inline:
        return ImagePart(data=inline[2], media_type=inline[1], detail=detail)
    if not url.startswith(("https://", "http://")):
        raise InvalidRequest(f"'{path}.image_url.url' must be an http(s) or a base64 data: URL", param=f"{path}.image_url.url")
    return ImagePart(url=url, detail=detail)


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
            )
        )
    if body.get("functions"):
        inexpressible.append("functions")
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


def render_usage(usage: Usage) -> Json:
    """Usage in OpenAI's shape, where the details are part of their sums."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens, "cache_write_tokens": usage.cache_write_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def render_completion(completion: Completion, usage: Usage) -> Json:
    """A whole answer as a `chat.completion` object."""
    return {
        "id": completion.id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": completion.model,
        "choices": [_render_choice(index, choice) for index, choice in enumerate(completion.choices)],
        "usage": render_usage(usage),
    }


def _render_choice(index: int, choice: Choice) -> Json:
    texts = [part.text for part in choice.parts if isinstance(part, TextPart)]
    reasoning = "".join(part.text for part in choice.parts if isinstance(part, ReasoningPart))
    calls = [_render_call(part) for part in choice.parts if isinstance(part, ToolCall)]
    message: Json = {"role": "assistant", "content": "".join(texts) if texts else None, "refusal": choice.refusal}
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls
    return {"index": index, "message": message, "logprobs": None, "finish_reason": choice.finish_reason}


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
        return frames + self._frame(event.choice, _delta(event))

    def finish(self, usage: Usage) -> bytes:
        """The frames that end a whole stream: usage if it was asked for, then `[DONE]`."""
        if not self._include_usage:
            return DONE
        return sse_frame({**self._head, "choices": [], "usage": render_usage(usage)}) + DONE

    def _frame(self, choice: int, delta: Json, finish_reason: str | None = None) -> bytes:
        chunk: Json = {**self._head, "choices": [{"index": choice, "delta": delta, "logprobs": None, "finish_reason": finish_reason}]}
        if self._include_usage:
            chunk["usage"] = None
        return sse_frame(chunk)


def _delta(event: TextDelta | ReasoningDelta | RefusalDelta | ToolCallDelta) -> Json:
    if isinstance(event, TextDelta):
        return {"content": event.text}
    if isinstance(event, ReasoningDelta):
        return {"reasoning_content": event.text}
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
