"""Cohere's version 2 on the wire. Source: https://docs.cohere.com/reference/chat, /embed, /rerank and the types of the `cohere` package."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from coollm.core.types import Json
from coollm.simulator.answer import Asked, Heard, Reply, Said, vector
from coollm.simulator.openai import BROKEN, STREAM_TYPE, key

__all__ = ["BROKEN", "STREAM_TYPE", "error", "error_frame", "frames", "key", "read", "read_embeddings", "read_rerank", "whole"]


def read(heard: Heard) -> Asked:
    """A chat request. Raises ValueError for what the API refuses."""
    body = heard.body
    messages = body.get("messages")
    if not messages:
        raise ValueError("invalid request: messages must not be empty")
    unknown = set(body) & {"top_p", "stop", "n", "parallel_tool_calls", "max_completion_tokens"}
    if unknown:
        raise ValueError(f"invalid request: unknown field: {', '.join(sorted(unknown))}")
    wanted = body.get("response_format") or {}
    return Asked(
        model=body["model"],
        key=heard.key,
        stream=bool(body.get("stream")),
        body=body,
        text=orjson.dumps(messages).decode(),
        tools=tuple((tool["function"]["name"], tool["function"].get("parameters")) for tool in body.get("tools") or ()),
        may_call=body.get("tool_choice") != "NONE" and messages[-1].get("role") != "tool",
        schema=wanted.get("json_schema") or wanted.get("schema"),
        wants_json=wanted.get("type") == "json_object",
        max_tokens=body.get("max_tokens"),
    )


def read_embeddings(heard: Heard) -> Asked:
    """A request for embeddings. Raises ValueError for what the API refuses."""
    body = heard.body
    texts = body.get("texts")
    if not texts or not body.get("input_type"):
        raise ValueError("invalid request: texts and input_type are required")
    made: Json = {
        "id": "embed-simulated",
        "response_type": "embeddings_by_type",
        "embeddings": {"float": [vector(text, body.get("output_dimension") or 8) for text in texts]},
        "texts": texts,
        "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": max(1, sum(map(len, texts)) // 4)}},
    }
    return _plain(heard, " ".join(texts), made)


def read_rerank(heard: Heard) -> Asked:
    """A request for a ranking. Raises ValueError for what the API refuses."""
    body = heard.body
    if not body.get("query") or not body.get("documents"):
        raise ValueError("invalid request: query and documents are required")
    ranked = ranking(body["query"], body["documents"], body.get("top_n"))
    made: Json = {
        "id": "rerank-simulated",
        "results": [{"index": index, "relevance_score": score} for index, score in ranked],
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
    }
    return _plain(heard, body["query"], made)


def ranking(query: str, documents: list[str], most: int | None) -> list[tuple[int, float]]:
    """Documents by the share of the query's words that they hold, the best first."""
    words = set(query.lower().split())
    scored = [(index, round(len(words & set(document.lower().split())) / len(words), 4)) for index, document in enumerate(documents)]
    return sorted(scored, key=lambda one: -one[1])[:most]


def _plain(heard: Heard, text: str, made: Json) -> Asked:
    return Asked(
        model=heard.body["model"],
        key=heard.key,
        stream=False,
        body=heard.body,
        text=text,
        reply=lambda how, _: Reply(body=made),  # noqa: ARG005
    )


def _finish(said: Said) -> str:
    return "TOOL_CALL" if said.calls else "MAX_TOKENS" if said.is_truncated else "COMPLETE"


def _usage(said: Said) -> Json:
    counted = {"input_tokens": float(said.input_tokens), "output_tokens": float(said.output_tokens + len(said.reasoning))}
    return {"billed_units": counted, "tokens": counted, "cached_tokens": float(said.cached_tokens)}


def whole(asked: Asked, said: Said, request_id: str, *, usage: bool) -> Json:
    """An answer."""
    content: list[Json] = [{"type": "thinking", "thinking": "".join(said.reasoning)}] if said.reasoning else []
    if said.tokens:
        content.append({"type": "text", "text": "".join(said.tokens)})
    message: Json = {"role": "assistant"}
    if content:
        message["content"] = content
    if said.calls:
        message["tool_plan"] = "I will use a tool."
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": orjson.dumps(call.arguments).decode()}} for call in said.calls
        ]
    made: Json = {"id": request_id, "finish_reason": _finish(said), "message": message}
    return {**made, "usage": _usage(said)} if usage and asked else made


def frames(asked: Asked, said: Said, request_id: str, *, usage: bool) -> Iterator[tuple[bytes, bool]]:  # noqa: ARG001
    """The events of a stream, each with whether it holds content."""
    yield _event("message-start", {"id": request_id, "delta": {"message": {"role": "assistant"}}}), False
    blocks = [("thinking", said.reasoning), ("text", said.tokens)]
    for index, (kind, tokens) in enumerate([block for block in blocks if block[1]]):
        yield _event("content-start", {"index": index, "delta": {"message": {"content": {"type": kind, kind: ""}}}}), False
        for token in tokens:
            yield _event("content-delta", {"index": index, "delta": {"message": {"content": {kind: token}}}}), True
        yield _event("content-end", {"index": index}), False
    for index, call in enumerate(said.calls):
        start = {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": ""}}
        yield _event("tool-call-start", {"index": index, "delta": {"message": {"tool_calls": start}}}), True
        text = orjson.dumps(call.arguments).decode()
        for place in range(0, len(text), 8):
            piece = {"function": {"arguments": text[place : place + 8]}}
            yield _event("tool-call-delta", {"index": index, "delta": {"message": {"tool_calls": piece}}}), True
        yield _event("tool-call-end", {"index": index}), False
    end: Json = {"finish_reason": _finish(said)}
    yield _event("message-end", {"delta": {**end, "usage": _usage(said)} if usage else end}), False


def _event(name: str, payload: Json) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps({"type": name, **payload}))


def error(status: int, message: str, retry_after: float = 0) -> Json:  # noqa: ARG001
    """An error body."""
    return {"id": "simulated", "message": message}


def error_frame(message: str) -> bytes:
    """An error inside a stream."""
    return _event("message-end", {"delta": {"finish_reason": "ERROR", "error": message}})
