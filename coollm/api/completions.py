"""POST /v1/completions: OpenAI's old completions, as they are where the vendor has them, as a chat of one message elsewhere.

Source: https://platform.openai.com/docs/api-reference/completions and the types of the `openai` package.
"""

from __future__ import annotations

import time
from typing import Any, cast

from coollm.api.chat import ChatFace
from coollm.api.chat_wire import DONE, render_usage, sse_frame
from coollm.api.completion import complete
from coollm.api.fields import number, required_text, typed, whole
from coollm.api.http import Exchange
from coollm.api.routes import Access, Route
from coollm.core.errors import InvalidRequest
from coollm.core.types import (
    ChatRequest,
    Choice,
    Completion,
    Content,
    FinishDelta,
    FinishReason,
    Json,
    Message,
    ModelRequest,
    StreamEvent,
    Target,
    TextDelta,
    TextPart,
    Usage,
)

WIRE = "completions"

_FINISH: dict[FinishReason, str] = {"tool_calls": "stop"}

# What a chat of one message can say too, or may be without.
_SAYABLE = frozenset(
    {
        "model",
        "prompt",
        "max_tokens",
        "temperature",
        "top_p",
        "stop",
        "seed",
        "n",
        "frequency_penalty",
        "presence_penalty",
        "stream",
        "stream_options",
        "user",
    }
)
_NEUTRAL: dict[str, tuple[Any, ...]] = {"best_of": (1,), "echo": (False,), "logit_bias": ({},), "suffix": ("",)}


def parse_request(body: Json) -> ChatRequest:
    """A completion request from its parsed body. Raises InvalidRequest naming the first field at fault."""
    prompts, tokens = _prompts(body.get("prompt"))
    lost = [name for name, value in body.items() if name not in _SAYABLE and value is not None and value not in _NEUTRAL.get(name, ())]
    stop = body.get("stop") or ()
    stream_options = typed(body, "stream_options", dict, "an object") or {}
    return ChatRequest(
        model=required_text(body, "model"),
        messages=tuple(Message(role="user", parts=(TextPart(text=prompt),)) for prompt in prompts),
        prompt_tokens=tokens,
        max_output_tokens=whole(body, "max_tokens"),
        temperature=number(body, "temperature", 0, 2),
        top_p=number(body, "top_p", 0, 1),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        seed=typed(body, "seed", int, "a whole number"),
        choices=(whole(body, "n", largest=128) or 1) * max(1, len(prompts)),
        frequency_penalty=number(body, "frequency_penalty", -2, 2) or None,
        presence_penalty=number(body, "presence_penalty", -2, 2) or None,
        stream=typed(body, "stream", bool, "true or false") or False,
        include_usage=bool(stream_options.get("include_usage")),
        user=typed(body, "user", str, "text"),
        dialect=WIRE,
        source=body,
        inexpressible=(*lost, *(("prompt",) if tokens or len(prompts) != 1 else ())),
    )


def _prompts(value: Any) -> tuple[list[str], int]:
    """The prompts that are texts, and how many tokens those have that are numbers."""
    if value is None or value == []:
        raise InvalidRequest("'prompt' is missing", param="prompt", code="missing_required_parameter")
    listed = [value] if isinstance(value, str) else value
    if isinstance(listed, list):
        if all(isinstance(prompt, str) for prompt in listed):
            return listed, 0
        if all(_is_token(token) for token in listed):
            return [], len(listed)
        if all(isinstance(prompt, list) and prompt and all(_is_token(token) for token in prompt) for prompt in listed):
            return [], sum(len(prompt) for prompt in listed)
    raise InvalidRequest("'prompt' must be a text, a list of texts, or one or more lists of tokens", param="prompt")


def _is_token(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


class _Renderer:
    """Stream events as chunks of a completion."""

    def __init__(self, completion_id: str, model: str, *, include_usage: bool) -> None:
        self._head = {"id": completion_id, "object": "text_completion", "created": int(time.time()), "model": model}
        self._include_usage = include_usage

    def render(self, event: StreamEvent) -> bytes:
        """The frame for one event; empty if the client does not see it."""
        if isinstance(event, TextDelta):
            return self._frame(event.choice, event.text, None)
        if isinstance(event, FinishDelta):
            return self._frame(event.choice, "", _FINISH.get(event.reason, event.reason))
        return b""

    def finish(self, usage: Usage) -> bytes:
        """The frames that end a whole stream."""
        return (sse_frame({**self._head, "choices": [], "usage": render_usage(usage)}) if self._include_usage else b"") + DONE

    def _frame(self, choice: int, text: str, finish_reason: str | None) -> bytes:
        return sse_frame({**self._head, "choices": [{"index": choice, "text": text, "logprobs": None, "finish_reason": finish_reason}]})


class CompletionsFace(ChatFace):
    """OpenAI's old dialect; its errors are those of chats."""

    wire = WIRE

    def parse(self, body: Json, exchange: Exchange) -> ChatRequest:  # noqa: ARG002
        """A completion request."""
        return parse_request(body)

    def render(self, request: ModelRequest, content: Content, usage: Usage) -> Json:  # noqa: ARG002
        """A `text_completion`."""
        completion = cast("Completion", content)
        return {
            "id": completion.id if completion.id.startswith("cmpl-") else f"cmpl-{completion.id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": completion.model,
            "choices": [_choice(index, choice) for index, choice in enumerate(completion.choices)],
            "usage": render_usage(usage),
        }

    def renderer(self, request: ModelRequest, target: Target, request_id: str) -> _Renderer:  # type: ignore[override]
        """Writes the chunks of a completion."""
        return _Renderer(f"cmpl-{request_id}", target.model, include_usage=request.include_usage)


def _choice(index: int, choice: Choice) -> Json:
    text = "".join(part.text for part in choice.parts if isinstance(part, TextPart))
    return {"index": index, "text": text, "logprobs": None, "finish_reason": _FINISH.get(choice.finish_reason, choice.finish_reason)}


FACE = CompletionsFace()


ROUTES = (
    Route(
        "/v1/completions",
        ("POST",),
        Access.CLIENT,
        None,
        "completions",
        is_completion=True,
        hot=complete(FACE),
        summary="A completion in OpenAI's old format, whole or streamed.",
    ),
)
