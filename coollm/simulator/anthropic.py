"""Anthropic on the wire. Source: https://docs.anthropic.com/en/api/messages, /messages-streaming and the types of the `anthropic` package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from coollm.core.types import Json
from coollm.simulator.answer import Asked, Heard, Reply, Said

STREAM_TYPE = "text/event-stream"
BROKEN = b"data: {broken\n\n"

_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def key(headers: dict[str, str]) -> str:
    """The key of a request."""
    return headers.get("x-api-key", "") or headers.get("authorization", "").removeprefix("Bearer ").strip()


def read(heard: Heard) -> Asked:
    """A messages request. On Vertex, the model is in the address. Raises ValueError for what the API refuses."""
    body = heard.body
    on_vertex = bool(heard.groups)
    if on_vertex and (not str(body.get("anthropic_version")).startswith(("vertex-", "20")) or "model" in body):
        raise ValueError("anthropic_version: Field required, and model: not permitted")
    messages = body.get("messages")
    if not messages or messages[0].get("role") != "user":
        raise ValueError('messages: first message must use the "user" role')
    if not isinstance(body.get("max_tokens"), int):
        raise ValueError("max_tokens: Field required")
    content = messages[-1].get("content")
    answers_tool = isinstance(content, list) and any(block.get("type") == "tool_result" for block in content)
    choice = body.get("tool_choice") or {}
    wanted = (body.get("output_config") or {}).get("format") or {}
    return Asked(
        model=heard.groups[0] if on_vertex else body["model"],
        key=heard.key,
        stream=bool(body.get("stream")),
        body=body,
        text=orjson.dumps([body.get("system"), messages]).decode(),
        tools=tuple((tool["name"], tool.get("input_schema")) for tool in body.get("tools") or ()),
        may_call=choice.get("type") != "none" and not answers_tool,
        forced_tool=choice.get("name"),
        schema=wanted.get("schema"),
        max_tokens=body["max_tokens"],
    )


def read_count(heard: Heard) -> Asked:
    """A request to count tokens. Raises ValueError for what the API refuses."""
    body = heard.body
    if "max_tokens" in body:
        raise ValueError("max_tokens: Extra inputs are not permitted")
    text = orjson.dumps([body.get("system"), body["messages"], body.get("tools")]).decode()
    return Asked(
        model=body["model"],
        key=heard.key,
        stream=False,
        body=body,
        text=text,
        reply=lambda how, _: Reply(body={"input_tokens": max(1, len(text) // 4)}),  # noqa: ARG005
    )


def _stop_reason(said: Said) -> str:
    return "tool_use" if said.calls else "max_tokens" if said.is_truncated else "end_turn"


def _input_usage(said: Said) -> Json:
    return {
        "input_tokens": said.input_tokens - said.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": said.cached_tokens,
        "service_tier": "standard",
    }


def _output_usage(said: Said) -> Json:
    usage: Json = {"output_tokens": said.output_tokens + len(said.reasoning)}
    if said.reasoning:
        usage["output_tokens_details"] = {"thinking_tokens": len(said.reasoning)}
    return usage


def _blocks(said: Said) -> list[Json]:
    blocks: list[Json] = []
    if said.reasoning:
        blocks.append({"type": "thinking", "thinking": "".join(said.reasoning), "signature": "simulated-signature"})
    if said.tokens:
        blocks.append({"type": "text", "text": "".join(said.tokens)})
    blocks += [{"type": "tool_use", "id": call.id.replace("call_", "toolu_"), "name": call.name, "input": call.arguments} for call in said.calls]
    return blocks


def whole(asked: Asked, said: Said, request_id: str, *, usage: bool) -> Json:
    """A `message`."""
    return {
        "id": f"msg_{request_id}",
        "type": "message",
        "role": "assistant",
        "model": asked.model,
        "content": _blocks(said),
        "stop_reason": _stop_reason(said),
        "stop_sequence": None,
        "usage": {**_input_usage(said), **_output_usage(said)} if usage else {"input_tokens": 0, "output_tokens": 0},
    }


def frames(asked: Asked, said: Said, request_id: str, *, usage: bool) -> Iterator[tuple[bytes, bool]]:
    """The events of a stream, each with whether it holds content."""
    counted = {**_input_usage(said), "output_tokens": 1} if usage else {"input_tokens": 0, "output_tokens": 0}
    message: Json = {
        "id": f"msg_{request_id}",
        "type": "message",
        "role": "assistant",
        "model": asked.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": counted,
    }
    yield event("message_start", {"message": message}), False
    yield event("ping", {}), False
    for index, block in enumerate(_blocks(said)):
        yield from _block_frames(index, block, said)
    final = _output_usage(said) if usage else {"output_tokens": 0}
    yield event("message_delta", {"delta": {"stop_reason": _stop_reason(said), "stop_sequence": None}, "usage": final}), False
    yield event("message_stop", {}), False


def _block_frames(index: int, block: Json, said: Said) -> Iterator[tuple[bytes, bool]]:
    kind = block["type"]
    empty = {"thinking": {"type": "thinking", "thinking": "", "signature": ""}, "text": {"type": "text", "text": ""}}
    start = empty.get(kind, {**block, "input": {}})
    yield event("content_block_start", {"index": index, "content_block": start}), False

    def delta(payload: Json) -> bytes:
        return event("content_block_delta", {"index": index, "delta": payload})

    if kind == "thinking":
        for token in said.reasoning:
            yield delta({"type": "thinking_delta", "thinking": token}), True
        yield delta({"type": "signature_delta", "signature": block["signature"]}), False
    elif kind == "text":
        for token in said.tokens:
            yield delta({"type": "text_delta", "text": token}), True
    else:
        text = orjson.dumps(block["input"]).decode()
        yield delta({"type": "input_json_delta", "partial_json": ""}), False
        for place in range(0, len(text), 8):
            yield delta({"type": "input_json_delta", "partial_json": text[place : place + 8]}), True
    yield event("content_block_stop", {"index": index}), False


def event(name: str, payload: Any) -> bytes:
    """One event."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps({"type": name, **payload}))


def error(status: int, message: str, retry_after: float = 0) -> Json:  # noqa: ARG001  Anthropic tells it in a header alone
    """An error body."""
    return {"type": "error", "error": {"type": _ERRORS.get(status, "api_error"), "message": message}}


def error_frame(message: str) -> bytes:
    """An error inside a stream."""
    return event("error", {"error": {"type": "overloaded_error", "message": message}})
