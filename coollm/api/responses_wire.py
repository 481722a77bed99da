"""OpenAI's Responses API as clients speak it: body → ChatRequest, for vendors without it, and answers back.

Source: https://platform.openai.com/docs/api-reference/responses, /responses-streaming and the types of the `openai` package.
"""

from __future__ import annotations

from typing import Any, cast

from coollm.api.call_ids import unpack
from coollm.api.chat_wire import read_service_tier
from coollm.api.fields import an_object, inline, number, required_text, typed, whole
from coollm.core.errors import InvalidRequest
from coollm.core.types import (
    Base64,
    ChatRequest,
    DocumentPart,
    ImagePart,
    Json,
    Message,
    OutputSchema,
    Part,
    ReasoningPart,
    Role,
    TextPart,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from coollm.providers.reasoning import unmint

WIRE = "responses"

_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

# Parameters that say nothing about the answer's content, or what another vendor does anyway.
_HARMLESS = frozenset({"store", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "stream_options", "include"})
_READ = frozenset(
    {
        "model",
        "input",
        "instructions",
        "max_output_tokens",
        "temperature",
        "top_p",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "text",
        "reasoning",
        "stream",
        "user",
        "service_tier",
        "top_logprobs",
    }
)
_UNDERSTOOD = _READ | _HARMLESS
_NEUTRAL: dict[str, tuple[Any, ...]] = {"truncation": ("disabled",), "background": (False,), "modalities": (["text"],)}
_LOGPROBS = "message.output_text.logprobs"


def parse_request(body: Json) -> ChatRequest:
    """A request for a response. Raises InvalidRequest naming the first field at fault."""
    lost = [name for name, value in body.items() if name not in _UNDERSTOOD and value is not None and value not in _NEUTRAL.get(name, ())]
    included = typed(body, "include", list, "a list") or ()
    reasoning = typed(body, "reasoning", dict, "an object") or {}
    return ChatRequest(
        model=required_text(body, "model"),
        messages=(*_instructions(body), *_messages(body, lost)),
        tools=_tools(body, lost),
        tool_choice=_tool_choice(body, lost),
        parallel_tool_calls=typed(body, "parallel_tool_calls", bool, "true or false"),
        max_output_tokens=whole(body, "max_output_tokens"),
        temperature=number(body, "temperature", 0, 2),
        top_p=number(body, "top_p", 0, 1),
        output_schema=_output_schema(body, lost),
        reasoning_effort=typed(reasoning, "effort", str, "text", "reasoning."),
        logprobs=(typed(body, "top_logprobs", int, "a whole number") or 0) if _LOGPROBS in included else None,
        service_tier=read_service_tier(body),
        stream=typed(body, "stream", bool, "true or false") or False,
        include_usage=True,
        user=typed(body, "user", str, "text"),
        dialect=WIRE,
        source=body,
        inexpressible=tuple(lost),
    )


def _instructions(body: Json) -> tuple[Message, ...]:
    text = typed(body, "instructions", str, "text")
    return (Message(role="system", parts=(TextPart(text=text),)),) if text else ()


def _messages(body: Json, lost: list[str]) -> list[Message]:
    given = body.get("input")
    if isinstance(given, str) and given:
        return [Message(role="user", parts=(TextPart(text=given),))]
    if not isinstance(given, list) or not given:
        # A conversation that is kept by the vendor may go on without a word.
        if given is None and body.get("previous_response_id"):
            return []
        raise InvalidRequest("'input' is missing, or neither a text nor a list of items", param="input", code="missing_required_parameter")
    turns: list[tuple[Role, list[Part]]] = []
    names: dict[str, str] = {}
    for index, item in enumerate(given):
        path = f"input[{index}]"
        role, parts = _item(an_object(item, path), path, names, lost)
        # Items of one turn of the assistant's, and results of one turn of calls, are one message each in other dialects.
        if turns and turns[-1][0] == role and role in ("assistant", "tool"):
            turns[-1][1].extend(parts)
        elif parts:
            turns.append((role, parts))
    return [Message(role=role, parts=tuple(parts)) for role, parts in turns]


def _item(item: Json, path: str, names: dict[str, str], lost: list[str]) -> tuple[Role, list[Part]]:
    kind = typed(item, "type", str, "text", path + ".") or ("message" if "role" in item else "")
    if kind == "message":
        role = _ROLES.get(required_text(item, "role", path + "."))
        if role is None:
            raise InvalidRequest(f"'{path}.role' must be one of {', '.join(_ROLES)}, not '{item['role']}'", param=f"{path}.role")
        return role, _content(item.get("content"), f"{path}.content", lost)
    if kind == "function_call":
        call_id, extra = unpack(required_text(item, "call_id", path + "."))
        name = required_text(item, "name", path + ".")
        names[call_id] = name
        return "assistant", [ToolCall(id=call_id, name=name, arguments=typed(item, "arguments", str, "JSON text", path + ".") or "{}", extra=extra)]
    if kind == "function_call_output":
        call_id, _ = unpack(required_text(item, "call_id", path + "."))
        shown = tuple(part for part in _content(item.get("output"), f"{path}.output", lost) if isinstance(part, TextPart | ImagePart | DocumentPart))
        return "tool", [ToolResult(call_id=call_id, content=shown, name=names.get(call_id))]
    if kind == "reasoning":
        return "assistant", [_reasoning(item, path)]
    lost.append(path)
    return "user", []


def _reasoning(item: Json, path: str) -> ReasoningPart:
    told = [*(typed(item, "summary", list, "a list", path + ".") or ()), *(typed(item, "content", list, "a list", path + ".") or ())]
    text = "".join(str(part.get("text") or "") for part in told if isinstance(part, dict))
    signature, origin = unmint(typed(item, "encrypted_content", str, "text", path + ".") or "", WIRE)
    return ReasoningPart(text=text, signature=signature, origin=origin, is_redacted=bool(signature) and not text)


def _content(content: Any, path: str, lost: list[str]) -> list[Part]:
    if isinstance(content, str):
        return [TextPart(text=content)]
    if not isinstance(content, list):
        raise InvalidRequest(f"'{path}' must be text or a list of parts", param=path)
    parts: list[Part] = []
    for index, part in enumerate(content):
        here = f"{path}[{index}]"
        kind = required_text(an_object(part, here), "type", here + ".")
        read: Part | None = None
        if kind in ("input_text", "output_text", "text"):
            read = TextPart(text=typed(part, "text", str, "text", here + ".") or "")
        elif kind == "refusal":
            read = TextPart(text=typed(part, "refusal", str, "text", here + ".") or "")
        elif kind == "input_image":
            read = _image(part, here)
        elif kind == "input_file":
            read = _file(part, here)
        if read is None:
            lost.append(here)
        else:
            parts.append(read)
    return parts


def _image(part: Json, path: str) -> ImagePart | None:
    url = typed(part, "image_url", str, "text", path + ".")
    if not url:
        return None  # a file of the vendor's own, by its id
    detail = typed(part, "detail", str, "text", path + ".")
    found = inline(url)
    if found:
        return ImagePart(data=found[1], media_type=found[0], detail=detail)
    if not url.startswith(("https://", "http://")):
        raise InvalidRequest(f"'{path}.image_url' must be an http(s) or a base64 data: URL", param=f"{path}.image_url")
    return ImagePart(url=url, detail=detail)


def _file(part: Json, path: str) -> DocumentPart | None:
    name = typed(part, "filename", str, "text", path + ".")
    data, url = typed(part, "file_data", str, "text", path + "."), typed(part, "file_url", str, "text", path + ".")
    if data:
        media_type, held = inline(data) or ("application/pdf", Base64(text=data))
        return DocumentPart(data=held, media_type=media_type, name=name)
    return DocumentPart(url=url, name=name) if url else None


def _tools(body: Json, lost: list[str]) -> tuple[Tool, ...]:
    tools: list[Tool] = []
    for index, tool in enumerate(typed(body, "tools", list, "a list") or ()):
        here = f"tools[{index}]"
        if required_text(an_object(tool, here), "type", here + ".") != "function":
            lost.append(here)
            continue
        tools.append(
            Tool(
                name=required_text(tool, "name", here + "."),
                description=typed(tool, "description", str, "text", here + "."),
                parameters=typed(tool, "parameters", dict, "a JSON Schema", here + "."),
                strict=typed(tool, "strict", bool, "true or false", here + "."),
            )
        )
    return tuple(tools)


def _tool_choice(body: Json, lost: list[str]) -> ToolChoice | None:
    choice = body.get("tool_choice")
    if choice is None:
        return None
    if choice in ("auto", "none", "required"):
        return ToolChoice(mode=choice)
    if isinstance(choice, dict) and choice.get("type") == "function":
        return ToolChoice(mode="named", name=required_text(choice, "name", "tool_choice."))
    if not isinstance(choice, dict):
        raise InvalidRequest("'tool_choice' must be auto, none, required or an object", param="tool_choice")
    lost.append("tool_choice")
    return None


def _output_schema(body: Json, lost: list[str]) -> OutputSchema | None:
    text = typed(body, "text", dict, "an object") or {}
    if text.get("verbosity") not in (None, "medium"):
        lost.append("text.verbosity")
    wanted = typed(text, "format", dict, "an object", "text.")
    kind = None if wanted is None else required_text(wanted, "type", "text.format.")
    if wanted is None or kind == "text":
        return None
    if kind == "json_object":
        return OutputSchema()
    if kind != "json_schema":
        lost.append("text.format")
        return None
    return OutputSchema(
        name=required_text(wanted, "name", "text.format."),
        schema=cast("Json | None", typed(wanted, "schema", dict, "a JSON Schema", "text.format.")),
        strict=typed(wanted, "strict", bool, "true or false", "text.format."),
    )
