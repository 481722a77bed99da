"""OpenAI's Responses API on the wire. Source: https://platform.openai.com/docs/api-reference/responses-streaming and the types of the `openai` package."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import orjson

from coollm.core.types import Json
from coollm.simulator.answer import Asked, Heard, Said
from coollm.simulator.openai import BROKEN, STREAM_TYPE, error, key

__all__ = ["BROKEN", "STREAM_TYPE", "error", "error_frame", "frames", "key", "read", "whole"]


def read(heard: Heard) -> Asked:
    """A request for a response. A response is known to the key that it was made with, and to no other. Raises ValueError for what the API refuses."""
    body = heard.body
    previous = body.get("previous_response_id")
    if previous is not None and heard.memory.responses.get(previous) != heard.key:
        raise ValueError(f"Previous response with id '{previous}' not found.")
    given = body.get("input")
    if not given and not previous:
        raise ValueError("Missing required parameter: 'input'.")
    choice = body.get("tool_choice")
    wanted = (body.get("text") or {}).get("format") or {}
    last = given[-1] if isinstance(given, list) else {}
    return Asked(
        model=body["model"],
        key=heard.key,
        stream=bool(body.get("stream")),
        body=body,
        kept=heard.memory.responses,
        text=orjson.dumps([body.get("instructions"), given]).decode(),
        tools=tuple((tool["name"], tool.get("parameters")) for tool in body.get("tools") or () if tool.get("type") == "function"),
        may_call=choice != "none" and last.get("type") != "function_call_output",
        forced_tool=choice.get("name") if isinstance(choice, dict) else None,
        schema=wanted.get("schema"),
        wants_json=wanted.get("type") in ("json_object", "json_schema"),
        max_tokens=body.get("max_output_tokens"),
    )


def _items(said: Said, request_id: str) -> list[Json]:
    items: list[Json] = []
    if said.reasoning:
        summary = [{"type": "summary_text", "text": "".join(said.reasoning)}]
        items.append({"id": f"rs_{request_id}", "type": "reasoning", "summary": summary, "encrypted_content": "c2ltdWxhdGVk"})
    if said.tokens:
        content = [{"type": "output_text", "text": "".join(said.tokens), "annotations": [], "logprobs": []}]
        items.append({"id": f"msg_{request_id}", "type": "message", "role": "assistant", "status": "completed", "content": content})
    for number, call in enumerate(said.calls):
        arguments = orjson.dumps(call.arguments).decode()
        item = {"id": f"fc_{request_id}{number}", "type": "function_call", "call_id": call.id, "name": call.name, "arguments": arguments}
        items.append({**item, "status": "completed"})
    return items


def _response(asked: Asked, request_id: str, status: str, output: list[Json], usage: Json | None) -> Json:
    body = asked.body
    return {
        "id": f"resp_{request_id}",
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "instructions": body.get("instructions"),
        "max_output_tokens": body.get("max_output_tokens"),
        "model": asked.model,
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": body.get("previous_response_id"),
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": body.get("store", True),
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": usage,
        "metadata": {},
    }


def _usage(said: Said) -> Json:
    output = said.output_tokens + len(said.reasoning)
    return {
        "input_tokens": said.input_tokens,
        "input_tokens_details": {"cached_tokens": said.cached_tokens},
        "output_tokens": output,
        "output_tokens_details": {"reasoning_tokens": len(said.reasoning)},
        "total_tokens": said.input_tokens + output,
    }


def whole(asked: Asked, said: Said, request_id: str, *, usage: bool) -> Json:
    """A `response`."""
    _keep(asked, request_id)
    status = "incomplete" if said.is_truncated else "completed"
    return _response(asked, request_id, status, _items(said, request_id), _usage(said) if usage else None)


def _keep(asked: Asked, request_id: str) -> None:
    if asked.body.get("store", True):
        asked.kept[f"resp_{request_id}"] = asked.key


class _Events:
    """Writes events, numbered."""

    def __init__(self) -> None:
        self._sequence = -1

    def __call__(self, name: str, payload: Json) -> bytes:
        self._sequence += 1
        body = orjson.dumps({"type": f"response.{name}", **payload, "sequence_number": self._sequence})
        return b"event: response.%s\ndata: %s\n\n" % (name.encode(), body)


def frames(asked: Asked, said: Said, request_id: str, *, usage: bool) -> Iterator[tuple[bytes, bool]]:
    """The events of a stream, each with whether it holds content."""
    event = _Events()
    opened = _response(asked, request_id, "in_progress", [], None)
    yield event("created", {"response": opened}), False
    yield event("in_progress", {"response": opened}), False
    items = _items(said, request_id)
    for index, item in enumerate(items):
        yield from _item_frames(event, index, item, said)
    _keep(asked, request_id)
    status = "incomplete" if said.is_truncated else "completed"
    yield event(status, {"response": _response(asked, request_id, status, items, _usage(said) if usage else None)}), False


def _item_frames(event: _Events, index: int, item: Json, said: Said) -> Iterator[tuple[bytes, bool]]:
    where: Json = {"item_id": item["id"], "output_index": index}
    kind = item["type"]
    empty: dict[str, Json] = {
        "message": {"content": [], "status": "in_progress"},
        "function_call": {"arguments": "", "status": "in_progress"},
        "reasoning": {"summary": []},
    }
    yield event("output_item.added", {"output_index": index, "item": {**item, **empty[kind]}}), False
    if kind == "message":
        part = item["content"][0]
        yield event("content_part.added", {**where, "content_index": 0, "part": {**part, "text": ""}}), False
        for token in said.tokens:
            yield event("output_text.delta", {**where, "content_index": 0, "delta": token, "logprobs": []}), True
        yield event("output_text.done", {**where, "content_index": 0, "text": part["text"], "logprobs": []}), False
        yield event("content_part.done", {**where, "content_index": 0, "part": part}), False
    elif kind == "function_call":
        for place in range(0, len(item["arguments"]), 8):
            yield event("function_call_arguments.delta", {**where, "delta": item["arguments"][place : place + 8]}), True
        yield event("function_call_arguments.done", {**where, "name": item["name"], "arguments": item["arguments"]}), False
    else:
        part = item["summary"][0]
        yield event("reasoning_summary_part.added", {**where, "summary_index": 0, "part": {"type": "summary_text", "text": ""}}), False
        for thought in said.reasoning:
            yield event("reasoning_summary_text.delta", {**where, "summary_index": 0, "delta": thought}), True
        yield event("reasoning_summary_text.done", {**where, "summary_index": 0, "text": part["text"]}), False
        yield event("reasoning_summary_part.done", {**where, "summary_index": 0, "part": part}), False
    yield event("output_item.done", {"output_index": index, "item": item}), False


def error_frame(message: str) -> bytes:
    """An error inside a stream."""
    payload: dict[str, Any] = {"type": "error", "code": "server_error", "message": message, "param": None, "sequence_number": 0}
    return b"event: error\ndata: %s\n\n" % orjson.dumps(payload)
