"""What holds for every dialect, whatever the text, the arguments and the places at which a stream is cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.datastructures import Headers

from coollm.api.chat_wire import ChunkRenderer, render_completion
from coollm.api.chat_wire import parse_request as parse_chat
from coollm.api.messages_wire import MessageRenderer, render_message
from coollm.api.messages_wire import parse_request as parse_messages
from coollm.api.responses_render import ResponseRenderer, render_response
from coollm.api.responses_wire import parse_request as parse_responses
from coollm.core.registry import PROVIDERS
from coollm.core.types import (
    ChatRequest,
    Choice,
    Completion,
    FinishDelta,
    Message,
    ReasoningDelta,
    StreamEvent,
    Target,
    TextDelta,
    TextPart,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolResult,
    Usage,
    UsageUpdate,
)
from coollm.providers.base import AnswerFormat, Losses, WireFormat
from coollm.providers.claude import MESSAGES
from coollm.providers.openai_chat import CHAT
from coollm.providers.openai_completions import COMPLETIONS
from coollm.providers.openai_responses import RESPONSES
from coollm.providers.payload import joined
from coollm.simulator import anthropic, bedrock, cohere, completions, gemini, openai, replicate, responses
from coollm.simulator.answer import Asked, Call, Said

TARGET = Target(provider="p", type="t", key_id="k", model="m")
SAY = ChatRequest(model="m", messages=(Message(role="user", parts=(TextPart(text="x"),)),), dialect="neutral")

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), min_size=1, max_size=30)
VALUES = st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT, lambda inner: st.lists(inner, max_size=3), max_leaves=5)
ARGUMENTS = st.dictionaries(TEXT, VALUES, max_size=4)


def form(provider: str) -> AnswerFormat:
    return PROVIDERS[provider].encode(SAY, TARGET, "http://v", "a:b", Losses()).answer


FORMATS: dict[str, tuple[Any, Any]] = {
    "openai": (openai, CHAT),
    "completions": (completions, COMPLETIONS),
    "responses": (responses, RESPONSES),
    "claude": (anthropic, MESSAGES),
    "gemini": (gemini, form("gemini")),
    "cohere": (cohere, form("cohere")),
    "replicate": (replicate, form("replicate")),
    "bedrock": (bedrock, form("bedrock")),
}
WITH_TOOLS = ("openai", "responses", "claude", "gemini", "cohere", "bedrock")
WITH_REASONING = ("openai", "responses", "claude", "gemini", "cohere", "bedrock")


def said(tokens: list[str], calls: list[dict[str, Any]], reasoning: list[str]) -> Said:
    made = tuple(Call(id=f"call_{number}", name="tool", arguments=one) for number, one in enumerate(calls))
    return Said(reasoning=tuple(reasoning), tokens=tuple(tokens), calls=made, is_truncated=False, input_tokens=9, cached_tokens=2, output_tokens=5)


def stream_of(name: str, what: Said) -> bytes:
    asked = Asked(model="m", key="k", stream=True, body={"input": "x"}, text="x")
    return b"".join(frame for frame, _ in FORMATS[name][0].frames(asked, what, "1", usage=True))


def events_of(answer: WireFormat, pieces: list[bytes]) -> list[StreamEvent]:
    framing, decoder = answer.framing(), answer.stream_decoder()
    found = [event for piece in pieces for frame in framing.feed(piece) for event in decoder.decode_event(frame)]
    assert decoder.is_whole
    return found


def gathered(events: list[StreamEvent]) -> dict[str, Any]:
    """What a stream says, whatever its pieces were."""
    calls: dict[int, dict[str, Any]] = {}
    for event in events:
        if isinstance(event, ToolCallDelta):
            call = calls.setdefault(event.index, {"id": "", "name": "", "arguments": ""})
            call["id"] += event.id or ""
            call["name"] += event.name or ""
            call["arguments"] += event.arguments
    return {
        "text": "".join(event.text for event in events if isinstance(event, TextDelta)),
        "reasoning": "".join(event.text for event in events if isinstance(event, ReasoningDelta)),
        "signatures": [event.signature for event in events if isinstance(event, ReasoningDelta) and event.signature],
        "calls": [(calls[index]["name"], json.loads(calls[index]["arguments"] or "{}")) for index in sorted(calls)],
        "finish": [event.reason for event in events if isinstance(event, FinishDelta)],
        "usage": [event.usage for event in events if isinstance(event, UsageUpdate)][-1:],
    }


RICH = said(["Hé", "llo 🐎", "\nline\r\n two"], [], ["Hm", "m."])


@pytest.mark.parametrize("name", FORMATS)
def test_a_stream_cut_at_every_byte_is_the_same_stream(name: str) -> None:
    what = RICH if name in WITH_REASONING else said(["Hé", "llo 🐎", "\nline\n two"], [], [])
    data, answer = stream_of(name, what), FORMATS[name][1]
    whole = events_of(answer, [data])
    assert gathered(whole)["text"] == "".join(what.tokens)
    for cut in range(1, len(data)):
        assert events_of(answer, [data[:cut], data[cut:]]) == whole or name == "gemini", cut
        if name == "gemini":
            assert gathered(events_of(answer, [data[:cut], data[cut:]])) == gathered(whole)
    assert gathered(events_of(answer, [bytes([byte]) for byte in data])) == gathered(whole)


@given(data=st.data(), tokens=st.lists(TEXT, min_size=1, max_size=6), reasoning=st.lists(TEXT, max_size=3))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.parametrize("name", FORMATS)
def test_any_text_in_any_pieces(name: str, data: st.DataObject, tokens: list[str], reasoning: list[str]) -> None:
    if name == "replicate":
        tokens = [token.replace("\r", "") or "x" for token in tokens]  # a carriage return ends a line of an event: it cannot be said
    what = said(tokens, [], reasoning if name in WITH_REASONING else [])
    sent = stream_of(name, what)
    places = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=12)))
    pieces = [sent[start:end] for start, end in zip([0, *places], [*places, len(sent)], strict=True)]
    found = gathered(events_of(FORMATS[name][1], pieces))
    assert found["text"] == "".join(tokens)
    assert found["reasoning"] == "".join(what.reasoning)


RENDERERS: dict[str, tuple[Callable[[], Any], Any]] = {
    "chat": (lambda: ChunkRenderer("id", "m", include_usage=True), CHAT),
    "messages": (lambda: MessageRenderer("msg_1", "m", 5), MESSAGES),
    "responses": (lambda: ResponseRenderer(SAY, "resp_1", "m"), RESPONSES),
}


@given(calls=st.lists(ARGUMENTS, min_size=1, max_size=3), reasoning=st.lists(TEXT, max_size=2))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.parametrize("client", RENDERERS)
@pytest.mark.parametrize("name", WITH_TOOLS)
def test_a_stream_rendered_for_a_client_says_the_same(name: str, client: str, calls: list[dict[str, Any]], reasoning: list[str]) -> None:
    """Every vendor's stream, in every client's dialect, read again by that dialect's own decoder: nothing is lost, and there is one end."""
    events = events_of(FORMATS[name][1], [stream_of(name, said([], calls, reasoning))])
    make, answer = RENDERERS[client]
    renderer = make()
    usage = Usage(input_tokens=7, cached_input_tokens=2, output_tokens=5 - len(reasoning), reasoning_tokens=len(reasoning))
    frames = b"".join(renderer.render(event) for event in events) + renderer.finish(usage)
    found = gathered(events_of(answer, [frames]))
    assert [arguments for _, arguments in found["calls"]] == calls
    assert found["finish"] == ["tool_calls"]
    assert found["reasoning"] == "".join(reasoning)
    assert [msgspec.structs.replace(one, service_tier=None) for one in found["usage"]] == [usage]


@given(st.permutations([0, 0, 0, 1, 1, 1, 2, 2, 2]))
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("client", RENDERERS)
def test_calls_whose_pieces_come_mixed(client: str, order: list[int]) -> None:
    pieces = {index: [f'{{"n":{index}', ',"more":', "[1,2]}"] for index in range(3)}
    make, answer = RENDERERS[client]
    renderer, begun, frames = make(), set(), b""
    for index in order:
        first = index not in begun
        begun.add(index)
        delta = ToolCallDelta(index=index, id=f"c{index}" if first else None, name=f"tool{index}" if first else None, arguments=pieces[index].pop(0))
        frames += renderer.render(delta)
    frames += renderer.render(FinishDelta(reason="tool_calls")) + renderer.finish(Usage())
    found = gathered(events_of(answer, [frames]))["calls"]
    assert sorted(found) == [(f"tool{index}", {"n": index, "more": [1, 2]}) for index in range(3)]


@given(texts=st.lists(TEXT, min_size=2, max_size=2), arguments=st.lists(ARGUMENTS, min_size=1, max_size=3), result=TEXT)
@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("way", ["messages", "responses"])
def test_a_conversation_in_another_dialect_is_the_same_conversation(way: str, texts: list[str], arguments: list[dict[str, Any]], result: str) -> None:
    """Neutral words → a dialect's body → neutral words: what the dialect can say comes back."""
    calls = tuple(ToolCall(id=f"c{index}", name="tool", arguments=json.dumps(one)) for index, one in enumerate(arguments))
    results = tuple(ToolResult(call_id=call.id, content=(TextPart(text=result),), name="tool") for call in calls)
    messages = (
        Message(role="user", parts=(TextPart(text=texts[0]),)),
        Message(role="assistant", parts=(TextPart(text=texts[1]), *calls)),
        Message(role="tool", parts=results),
    )
    asked = ChatRequest(model="m", messages=messages, tools=(Tool(name="tool", parameters={"type": "object"}),), max_output_tokens=5, dialect="neutral")
    if way == "messages":
        body = json.loads(joined(PROVIDERS["claude"].encode(asked, TARGET, "http://v", "k", Losses()).body))
        back = parse_messages(body, Headers())
    else:
        body = as_responses(asked)
        back = parse_responses(body)
    assert plain(back.messages) == plain(messages)
    assert [(tool.name, tool.parameters) for tool in back.tools] == [("tool", {"type": "object"})]
    chat = json.loads(joined(PROVIDERS["openai"].encode(asked, TARGET, "http://v", "k", Losses()).body))
    assert plain(parse_chat(chat).messages) == split(plain(messages))


def as_responses(asked: ChatRequest) -> dict[str, Any]:
    items: list[dict[str, Any]] = []
    for message in asked.messages:
        for part in message.parts:
            if isinstance(part, TextPart):
                items.append({"role": message.role, "content": part.text})
            elif isinstance(part, ToolCall):
                items.append({"type": "function_call", "call_id": part.id, "name": part.name, "arguments": part.arguments})
            elif isinstance(part, ToolResult):
                items.append({"type": "function_call_output", "call_id": part.call_id, "output": [{"type": "input_text", "text": part.content[0].text}]})  # type: ignore[union-attr]
    tools = [{"type": "function", "name": tool.name, "parameters": tool.parameters} for tool in asked.tools]
    return {"model": "m", "input": items, "tools": tools}


def plain(messages: tuple[Message, ...]) -> list[Any]:
    """Messages as what they say; arguments as what they mean."""
    found: list[Any] = []
    for message in messages:
        parts: list[Any] = []
        for part in message.parts:
            if isinstance(part, TextPart):
                parts.append(part.text)
            elif isinstance(part, ToolCall):
                parts.append((part.id, part.name, json.loads(part.arguments)))
            elif isinstance(part, ToolResult):
                parts.append((part.call_id, [inner.text for inner in part.content if isinstance(inner, TextPart)]))
        found.append((message.role, parts))
    return found


def split(turns: list[Any]) -> list[Any]:
    """OpenAI has a message for each result of a tool."""
    return [turn for role, parts in turns for turn in ([(role, [part]) for part in parts] if role == "tool" else [(role, parts)])]


WHOLE: dict[str, Callable[[Completion], dict[str, Any]]] = {
    "chat": lambda one: render_completion(one, Usage()),
    "messages": lambda one: render_message(one, Usage()),
    "responses": lambda one: render_response(SAY, one, Usage()),
}


@given(text=TEXT, arguments=st.lists(ARGUMENTS, max_size=3))
@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("client", WHOLE)
def test_a_whole_answer_rendered_for_a_client_says_the_same(client: str, text: str, arguments: list[dict[str, Any]]) -> None:
    calls = tuple(ToolCall(id=f"c{index}", name="tool", arguments=json.dumps(one)) for index, one in enumerate(arguments))
    choice = Choice(parts=(TextPart(text=text), *calls), finish_reason="tool_calls" if calls else "stop")
    body = orjson.dumps(WHOLE[client](Completion(id="1", model="m", choices=(choice,), usage=None)))
    found = RENDERERS[client][1].decode(SAY, body).choices[0]
    assert [part.text for part in found.parts if isinstance(part, TextPart)] == [text]
    assert [json.loads(part.arguments) for part in found.parts if isinstance(part, ToolCall)] == arguments
    assert found.finish_reason == choice.finish_reason


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.builds(lambda text: {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}, TEXT),
            st.builds(lambda text: {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "stop"}]}, TEXT),
            st.builds(lambda text: {"choices": [{"index": 0, "delta": {"content": text, "refusal": text}}], "usage": None}, TEXT),
            st.builds(lambda count: {"choices": [], "usage": {"prompt_tokens": count, "completion_tokens": 1}}, st.integers(0, 9)),
            st.builds(lambda text: {"choices": [{"index": 0, "delta": {"content": text}}], "usage": {"prompt_tokens": 1}}, TEXT),
            st.builds(lambda text: {"choices": [{"delta": {"content": text, "tool_calls": [{"index": 0, "function": {"arguments": text}}]}}]}, TEXT),
            st.builds(lambda text: {"error": {"message": text}, "choices": [{"delta": {"content": text}}]}, TEXT),
        ),
        max_size=4,
    ),
    st.booleans(),
    st.booleans(),
)
def test_what_goes_through_unread_adds_to_texts_and_says_nothing_else(chunks: list[Any], ends: bool, is_spaced: bool) -> None:
    written = [json.dumps(chunk) if is_spaced else orjson.dumps(chunk).decode() for chunk in chunks] + (["[DONE]"] if ends else [])
    piece = "".join(f"data: {one}\n\n" for one in written).encode()
    if CHAT.is_plain(piece):
        assert not ends
        for chunk in chunks:
            (choice,) = chunk["choices"]
            assert set(choice["delta"]) <= {"content", "refusal"}
            assert not choice.get("finish_reason")
            assert not chunk.get("usage")
            assert "error" not in chunk


def test_plain_text_goes_through_unread() -> None:
    chunk = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}],"usage":null}\n\n'
    assert CHAT.is_plain(chunk)
    assert CHAT.is_plain(chunk * 3)
    for other in (chunk[:-1], chunk + b"data: [DONE]\n\n", b": a comment\n\n", chunk + b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n'):
        assert not CHAT.is_plain(other)
