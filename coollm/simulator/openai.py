"""OpenAI on the wire. Source: https://platform.openai.com/docs/api-reference/chat and the types of the `openai` package."""

from __future__ import annotations

import base64
import struct
import time
from collections.abc import Iterator
from typing import Any

import orjson

from coollm.core.types import Json
from coollm.simulator.answer import Asked, Call, Heard, Reply, Said, token_logprob, vector

STREAM_TYPE = "text/event-stream"
BROKEN = b"data: {broken\n\n"

_ERRORS = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    402: ("insufficient_quota", "insufficient_quota"),
    403: ("permission_error", None),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
}


def key(headers: dict[str, str]) -> str:
    """The key of a request."""
    return headers.get("authorization", "").removeprefix("Bearer ").strip() or headers.get("api-key", "")


def read(heard: Heard) -> Asked:
    """A chat request."""
    body = heard.body
    messages = body.get("messages") or []
    # The images of a tool's result follow it as a message of the user's.
    answers_tool = any(message.get("role") == "tool" for message in messages[-2:])
    choice = body.get("tool_choice")
    wanted = body.get("response_format") or {}
    return Asked(
        model=body["model"],
        key=heard.key,
        stream=bool(body.get("stream")),
        body=body,
        text=orjson.dumps(messages).decode(),
        tools=tuple((tool["function"]["name"], tool["function"].get("parameters")) for tool in body.get("tools") or () if "function" in tool),
        may_call=choice != "none" and not answers_tool,
        forced_tool=choice["function"]["name"] if isinstance(choice, dict) and "function" in choice else None,
        schema=(wanted.get("json_schema") or {}).get("schema"),
        wants_json=wanted.get("type") in ("json_object", "json_schema"),
        max_tokens=body.get("max_completion_tokens") or body.get("max_tokens"),
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        choices=body.get("n") or 1,
        logprobs=(body.get("top_logprobs") or 0) if body.get("logprobs") else None,
    )


def read_embeddings(heard: Heard) -> Asked:
    """A request for embeddings. Raises ValueError for what the API refuses."""
    body = heard.body
    given = body.get("input")
    listed = given if isinstance(given, list) and not all(isinstance(one, int) for one in given) else [given]
    if not given:
        raise ValueError("'$.input' is invalid")
    embeds = tuple(one if isinstance(one, str) else orjson.dumps(one).decode() for one in listed)
    vectors = [vector(text, body.get("dimensions") or 8) for text in embeds]
    return Asked(
        model=body["model"],
        key=heard.key,
        stream=False,
        body=body,
        text=" ".join(embeds),
        reply=lambda how, _: Reply(body=_embeddings(body, embeds, vectors, usage=bool(how.usage))),
    )


def _embeddings(body: Json, embeds: tuple[str, ...], vectors: list[list[float]], *, usage: bool) -> Json:
    """A list of embeddings, as base64 where that was asked for."""
    written: list[Any] = [pack(one) for one in vectors] if body.get("encoding_format") == "base64" else list(vectors)
    made: Json = {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": one} for index, one in enumerate(written)],
        "model": body["model"],
    }
    if usage:
        tokens = max(1, len(" ".join(embeds)) // 4)
        made["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return made


def pack(vector: list[float]) -> str:
    """Little-endian 32-bit floats as base64."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _call(call: Call) -> Json:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": orjson.dumps(call.arguments).decode()}}


def _usage(asked: Asked, said: Said) -> Json:
    output = (said.output_tokens + len(said.reasoning)) * asked.choices
    return {
        "prompt_tokens": said.input_tokens,
        "completion_tokens": output,
        "total_tokens": said.input_tokens + output,
        "prompt_tokens_details": {"cached_tokens": said.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": len(said.reasoning) * asked.choices, "audio_tokens": 0},
    }


def _finish(said: Said) -> str:
    return "tool_calls" if said.calls else "length" if said.is_truncated else "stop"


def whole(asked: Asked, said: Said, request_id: str, *, usage: bool) -> Json:
    """A `chat.completion`."""
    message: Json = {"role": "assistant", "content": "".join(said.tokens) if not said.calls else None, "refusal": None, "annotations": []}
    if said.reasoning:
        message["reasoning_content"] = "".join(said.reasoning)
    if said.calls:
        message["tool_calls"] = [_call(call) for call in said.calls]
    logprobs = {"content": [token_logprob(token, asked.logprobs) for token in said.tokens], "refusal": None} if asked.logprobs is not None else None
    choices = [{"index": index, "message": message, "logprobs": logprobs, "finish_reason": _finish(said)} for index in range(asked.choices)]
    made: Json = {
        "id": f"chatcmpl-{request_id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": asked.model,
        "choices": choices,
    }
    if usage:
        made["usage"] = _usage(asked, said)
    return made


def frames(asked: Asked, said: Said, request_id: str, *, usage: bool) -> Iterator[tuple[bytes, bool]]:
    """The frames of a stream, each with whether it holds content."""
    head: Json = {"id": f"chatcmpl-{request_id}", "object": "chat.completion.chunk", "created": int(time.time()), "model": asked.model}
    tells = usage and asked.include_usage

    def chunk(index: int, delta: Json, finish: str | None = None, logprobs: Json | None = None) -> bytes:
        made = {**head, "choices": [{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]}
        if tells:
            made["usage"] = None
        return event(made)

    for index in range(asked.choices):
        yield chunk(index, {"role": "assistant", "content": "" if not said.calls else None, "refusal": None}), False
    for thought in said.reasoning:
        for index in range(asked.choices):
            yield chunk(index, {"reasoning_content": thought}), True
    for token in said.tokens:
        logprobs = {"content": [token_logprob(token, asked.logprobs)], "refusal": None} if asked.logprobs is not None else None
        for index in range(asked.choices):
            yield chunk(index, {"content": token}, logprobs=logprobs), True
    for index in range(asked.choices):
        for number, call in enumerate(said.calls):
            written = _call(call)
            text = written["function"].pop("arguments")
            yield chunk(index, {"tool_calls": [{"index": number, **written, "function": {**written["function"], "arguments": ""}}]}), True
            for place in range(0, len(text), 8):
                yield chunk(index, {"tool_calls": [{"index": number, "function": {"arguments": text[place : place + 8]}}]}), True
        yield chunk(index, {}, _finish(said)), False
    if tells:
        yield event({**head, "choices": [], "usage": _usage(asked, said)}), False
    yield b"data: [DONE]\n\n", False


def event(payload: Any) -> bytes:
    """One frame."""
    return b"data: " + orjson.dumps(payload) + b"\n\n"


def error(status: int, message: str, retry_after: float = 0) -> Json:  # noqa: ARG001  OpenAI tells it in a header alone
    """An error body."""
    kind, code = _ERRORS.get(status, ("server_error", None))
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def error_frame(message: str) -> bytes:
    """An error inside a stream."""
    return event(error(500, message))
