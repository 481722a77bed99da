"""OpenAI's old completions on the wire. Source: https://platform.openai.com/docs/api-reference/completions and the types of the `openai` package."""

from __future__ import annotations

import time
from collections.abc import Iterator

import orjson

from coollm.core.types import Json
from coollm.simulator.answer import Asked, Heard, Said
from coollm.simulator.openai import BROKEN, STREAM_TYPE, error, error_frame, event, key

__all__ = ["BROKEN", "STREAM_TYPE", "error", "error_frame", "frames", "key", "read", "whole"]


def read(heard: Heard) -> Asked:
    """A completion request. Raises ValueError for what the API refuses."""
    body = heard.body
    prompt = body.get("prompt")
    if prompt is None:
        raise ValueError("you must provide a prompt")
    prompts = len(prompt) if isinstance(prompt, list) and not all(isinstance(one, int) for one in prompt) else 1
    return Asked(
        model=body["model"],
        key=heard.key,
        stream=bool(body.get("stream")),
        body=body,
        text=orjson.dumps(prompt).decode(),
        max_tokens=body.get("max_tokens") or 16,
        include_usage=bool((body.get("stream_options") or {}).get("include_usage")),
        choices=(body.get("n") or 1) * prompts,
    )


def _usage(asked: Asked, said: Said) -> Json:
    output = said.output_tokens * asked.choices
    return {"prompt_tokens": said.input_tokens, "completion_tokens": output, "total_tokens": said.input_tokens + output}


def _made(asked: Asked, request_id: str, choices: list[Json]) -> Json:
    return {"id": f"cmpl-{request_id}", "object": "text_completion", "created": int(time.time()), "model": asked.model, "choices": choices}


def _choice(index: int, text: str, finish: str | None) -> Json:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}


def whole(asked: Asked, said: Said, request_id: str, *, usage: bool) -> Json:
    """A `text_completion`."""
    finish = "length" if said.is_truncated else "stop"
    made = _made(asked, request_id, [_choice(index, "".join(said.tokens), finish) for index in range(asked.choices)])
    return {**made, "usage": _usage(asked, said)} if usage else made


def frames(asked: Asked, said: Said, request_id: str, *, usage: bool) -> Iterator[tuple[bytes, bool]]:
    """The frames of a stream, each with whether it holds content."""
    for token in said.tokens:
        for index in range(asked.choices):
            yield event(_made(asked, request_id, [_choice(index, token, None)])), True
    for index in range(asked.choices):
        yield event(_made(asked, request_id, [_choice(index, "", "length" if said.is_truncated else "stop")])), False
    if usage and asked.include_usage:
        yield event({**_made(asked, request_id, []), "usage": _usage(asked, said)}), False
    yield b"data: [DONE]\n\n", False
