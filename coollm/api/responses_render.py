"""Answers of other vendors as responses of OpenAI's, whole and as events.

Source: https://platform.openai.com/docs/api-reference/responses, /responses-streaming and the types of the `openai` package.
"""

from __future__ import annotations

import time
import uuid

import orjson

from coollm.api.call_ids import pack
from coollm.api.call_order import CallOrder
from coollm.api.responses_wire import WIRE
from coollm.core.types import (
    ChatRequest,
    Completion,
    FinishDelta,
    FinishReason,
    Json,
    ReasoningDelta,
    RefusalDelta,
    ServiceTier,
    StreamEnd,
    StreamEvent,
    TextDelta,
    TextPart,
    ToolCall,
    ToolCallDelta,
    Usage,
    UsageUpdate,
)
from coollm.providers.reasoning import mint

_INCOMPLETE: dict[FinishReason, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}

# What of a request its response repeats, and what stands there if the client gave nothing.
_REPEATED: Json = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


def _new_id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"


def render_usage(usage: Usage) -> Json:
    """Usage, whose details are part of their sums."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_input_tokens, "cache_write_tokens": usage.all_cache_write_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


class ResponseFrame:
    """A response of one request, without its output. Nothing of it is kept for a later request, and it says so."""

    def __init__(self, request: ChatRequest, response_id: str, model: str) -> None:
        repeated = {name: default if request.source.get(name) is None else request.source[name] for name, default in _REPEATED.items()}
        self._head: Json = {"id": response_id, "object": "response", "created_at": int(time.time()), "model": model, "store": False, "background": False}
        self._head |= repeated

    def open(self) -> Json:
        """The response before its answer."""
        return {**self._head, "status": "in_progress", "error": None, "incomplete_details": None, "output": [], "usage": None, "service_tier": "auto"}

    def whole(self, output: list[Json], finish: FinishReason, usage: Usage, tier: ServiceTier | None = None) -> Json:
        """The response with its answer."""
        reason = _INCOMPLETE.get(finish)
        return {
            **self._head,
            "status": "incomplete" if reason else "completed",
            "error": None,
            "incomplete_details": {"reason": reason} if reason else None,
            "output": output,
            "usage": render_usage(usage),
            "service_tier": tier or "default",
        }


def render_response(request: ChatRequest, completion: Completion, usage: Usage) -> Json:
    """A whole answer."""
    choice = completion.choices[0]
    output: list[Json] = []
    content: list[Json] = []
    for part in choice.parts:
        if isinstance(part, TextPart):
            content.append(_text(part.text, list(choice.logprobs)))
        elif isinstance(part, ToolCall):
            output.append(_call(_new_id("fc"), pack(part.id, part.extra), part.name, part.arguments))
        else:
            output.append(_reasoning(_new_id("rs"), part.text, mint(part, WIRE)))
    if choice.refusal:
        content.append({"type": "refusal", "refusal": choice.refusal})
    if content:
        place = next((index for index, item in enumerate(output) if item["type"] == "function_call"), len(output))
        output.insert(place, _message(_new_id("msg"), content))
    frame = ResponseFrame(request, _new_id("resp"), completion.model)
    return frame.whole(output, choice.finish_reason, usage, completion.service_tier)


def _text(text: str, logprobs: list[Json]) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def _message(item_id: str, content: list[Json], status: str = "completed") -> Json:
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": content}


def _call(item_id: str, call_id: str, name: str, arguments: str, status: str = "completed") -> Json:
    return {"id": item_id, "type": "function_call", "call_id": call_id, "name": name, "arguments": arguments, "status": status}


def _reasoning(item_id: str, text: str, signature: str) -> Json:
    summary = [{"type": "summary_text", "text": text}] if text else []
    return {"id": item_id, "type": "reasoning", "summary": summary, "encrypted_content": signature or None}


class _Item:
    """The item that is open in a stream, and what has come of it."""

    def __init__(self, kind: str, number: int = 0) -> None:
        self.kind = kind
        self.number = number
        self.id = _new_id({"text": "msg", "refusal": "msg", "call": "fc", "reasoning": "rs"}[kind])
        self.call_id = ""
        self.name = ""
        self.pieces: list[str] = []
        self.logprobs: list[Json] = []
        self.signature = ""

    def part(self) -> Json:
        """The content of a message."""
        text = "".join(self.pieces)
        return _text(text, self.logprobs) if self.kind == "text" else {"type": "refusal", "refusal": text}

    def whole(self) -> Json:
        """The item when it is complete."""
        if self.kind == "call":
            return _call(self.id, self.call_id, self.name, "".join(self.pieces) or "{}")
        if self.kind == "reasoning":
            return _reasoning(self.id, "".join(self.pieces), self.signature)
        return _message(self.id, [self.part()])


class ResponseRenderer:
    """Stream events as those of a response: one item after the other, each added and done."""

    def __init__(self, request: ChatRequest, response_id: str, model: str) -> None:
        self._frame = ResponseFrame(request, response_id, model)
        self._sequence = -1
        self._is_started = False
        self._item: _Item | None = None
        self._output: list[Json] = []
        self._finish: FinishReason = "stop"
        self._calls = CallOrder()

    def render(self, event: StreamEvent) -> bytes:
        """The frames for one event."""
        if isinstance(event, UsageUpdate | StreamEnd):
            return b""
        if isinstance(event, FinishDelta):
            self._finish = event.reason
            return self._start()
        if isinstance(event, ToolCallDelta):
            return self._start() + b"".join(self._call_delta(one) for one in self._calls.take(event))
        if isinstance(event, ReasoningDelta):
            return self._start() + self._reasoning_delta(event)
        return self._start() + self._text_delta(event)

    def finish(self, usage: Usage) -> bytes:
        """The frames that end a whole stream."""
        waiting = b"".join(self._call_delta(one) for one in self._calls.rest())
        done = self._start() + waiting + self._close()
        response = self._frame.whole(self._output, self._finish, usage)
        return done + self._event(f"response.{response['status']}", {"response": response})

    def _start(self) -> bytes:
        if self._is_started:
            return b""
        self._is_started = True
        return self._event("response.created", {"response": self._frame.open()}) + self._event("response.in_progress", {"response": self._frame.open()})

    def _switch(self, kind: str, number: int = 0) -> tuple[bytes, _Item, bool]:
        """What closes the open item if another is wanted, the wanted item, and whether it is new."""
        if self._item is not None and (self._item.kind, self._item.number) == (kind, number):
            return b"", self._item, False
        closed = self._close()
        self._item = _Item(kind, number)
        return closed, self._item, True

    def _added(self, item: Json) -> bytes:
        return self._event("response.output_item.added", {"output_index": len(self._output), "item": item})

    def _text_delta(self, event: TextDelta | RefusalDelta) -> bytes:
        kind = "text" if isinstance(event, TextDelta) else "refusal"
        frames, item, is_new = self._switch(kind)
        if is_new:
            frames += self._added(_message(item.id, [], "in_progress")) + self._of_part("response.content_part.added", item, {"part": item.part()})
        item.pieces.append(event.text)
        if isinstance(event, RefusalDelta):
            return frames + self._of_part("response.refusal.delta", item, {"delta": event.text})
        item.logprobs += event.logprobs
        return frames + self._of_part("response.output_text.delta", item, {"delta": event.text, "logprobs": list(event.logprobs)})

    def _reasoning_delta(self, event: ReasoningDelta) -> bytes:
        frames, item, is_new = self._switch("reasoning")
        if is_new:
            frames += self._added(_reasoning(item.id, "", ""))
        if event.text:
            if not item.pieces:
                frames += self._of_summary("response.reasoning_summary_part.added", item, {"part": {"type": "summary_text", "text": ""}})
            item.pieces.append(event.text)
            frames += self._of_summary("response.reasoning_summary_text.delta", item, {"delta": event.text})
        if event.signature:
            # A signature ends its thought: the next one is an item of its own.
            item.signature = mint(event, WIRE)
            return frames + self._close()
        return frames

    def _call_delta(self, event: ToolCallDelta) -> bytes:
        frames, item, is_new = self._switch("call", event.index)
        if is_new:
            item.call_id, item.name = pack(event.id or "", event.extra), event.name or ""
            frames += self._added(_call(item.id, item.call_id, item.name, "", "in_progress"))
        if not event.arguments:
            return frames
        item.pieces.append(event.arguments)
        where = {"item_id": item.id, "output_index": len(self._output)}
        return frames + self._event("response.function_call_arguments.delta", {**where, "delta": event.arguments})

    def _close(self) -> bytes:
        item, self._item = self._item, None
        if item is None:
            return b""
        text, frames, whole = "".join(item.pieces), b"", item.whole()
        if item.kind == "call":
            where = {"item_id": item.id, "output_index": len(self._output)}
            frames = self._event("response.function_call_arguments.done", {**where, "name": item.name, "arguments": whole["arguments"]})
        elif item.kind == "reasoning" and text:
            frames = self._of_summary("response.reasoning_summary_text.done", item, {"text": text})
            frames += self._of_summary("response.reasoning_summary_part.done", item, {"part": {"type": "summary_text", "text": text}})
        elif item.kind == "text":
            frames = self._of_part("response.output_text.done", item, {"text": text, "logprobs": item.logprobs})
        elif item.kind == "refusal":
            frames = self._of_part("response.refusal.done", item, {"refusal": text})
        if item.kind in ("text", "refusal"):
            frames += self._of_part("response.content_part.done", item, {"part": item.part()})
        frames += self._event("response.output_item.done", {"output_index": len(self._output), "item": whole})
        self._output.append(whole)
        return frames

    def _of_part(self, name: str, item: _Item, payload: Json) -> bytes:
        return self._event(name, {"item_id": item.id, "output_index": len(self._output), "content_index": 0, **payload})

    def _of_summary(self, name: str, item: _Item, payload: Json) -> bytes:
        return self._event(name, {"item_id": item.id, "output_index": len(self._output), "summary_index": 0, **payload})

    def _event(self, name: str, payload: Json) -> bytes:
        self._sequence += 1
        return event_frame(name, {**payload, "sequence_number": self._sequence})


def event_frame(name: str, payload: Json) -> bytes:
    """One event."""
    return b"event: %s\ndata: %s\n\n" % (name.encode(), orjson.dumps({"type": name, **payload}))
