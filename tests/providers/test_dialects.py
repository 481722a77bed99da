"""Encoding, decoding and verdicts of the three dialects, on recorded payloads."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coollm.api.chat_wire import ChunkRenderer, parse_request, render_completion, render_usage
from coollm.core.registry import PROVIDERS
from coollm.core.types import (
    ChatRequest,
    FinishDelta,
    ReasoningDelta,
    ReasoningPart,
    StreamEnd,
    Target,
    TextDelta,
    TextPart,
    ToolCall,
    ToolCallDelta,
    Usage,
    UsageUpdate,
)
from coollm.providers.base import AnswerFormat, Dialect, Losses
from coollm.providers.payload import joined
from coollm.providers.sse import EventStream
from coollm.providers.verdict import Cause, VendorError
from tests.providers import payloads

OPENAI, CLAUDE, GEMINI = PROVIDERS["openai"], PROVIDERS["claude"], PROVIDERS["gemini"]
CHAT = parse_request({"model": "m", "messages": [{"role": "user", "content": "x"}]})
TARGET = Target(provider="p", type="t", key_id="k", model="real-model")


def request(**changes: Any) -> ChatRequest:
    return parse_request({**copy.deepcopy(payloads.CONVERSATION), **changes})


def encode(dialect: Dialect, chat: ChatRequest, target: Target = TARGET) -> tuple[str, dict[str, str], Any]:
    made = dialect.encode(chat, target, "http://vendor", "secret", Losses())
    return made.url, dict(made.headers), json.loads(joined(made.body))


def answer_format(dialect: Dialect, asked: Any = CHAT) -> AnswerFormat:
    return dialect.encode(asked, TARGET, "http://vendor", "secret", Losses()).answer


def decode(dialect: Dialect, asked: Any, body: bytes) -> Any:
    return answer_format(dialect, asked).decode(asked, body)


def stream(dialect: Dialect, data: bytes, step: int | None = None) -> list[Any]:
    events, decoder, found = EventStream(), answer_format(dialect).stream_decoder(), []
    pieces = [data] if step is None else [data[start : start + step] for start in range(0, len(data), step)]
    for piece in pieces:
        for event in events.feed(piece):
            found += decoder.decode_event(event)
    assert decoder.is_whole
    return found


def test_openai_gets_the_clients_own_body() -> None:
    url, headers, body = encode(OPENAI, request(stream=True, future_parameter={"x": 1}))
    assert url == "http://vendor/chat/completions"
    assert headers["authorization"] == "Bearer secret"
    expected = {**payloads.CONVERSATION, "model": "real-model", "stream": True, "future_parameter": {"x": 1}, "stream_options": {"include_usage": True}}
    assert body == expected


def test_a_keys_limit_of_output_is_set_where_the_client_gives_none() -> None:
    limited = Target(provider="p", type="t", key_id="k", model="m", max_tokens=77)
    without = {name: value for name, value in payloads.CONVERSATION.items() if name != "max_tokens"}
    chat = parse_request(copy.deepcopy(without))
    assert encode(OPENAI, chat, limited)[2]["max_completion_tokens"] == 77
    assert encode(PROVIDERS["custom"], chat, limited)[2]["max_tokens"] == 77
    assert encode(CLAUDE, chat, limited)[2]["max_tokens"] == 77
    assert encode(GEMINI, chat, limited)[2]["generationConfig"]["maxOutputTokens"] == 77


def test_rows_carry_the_quirks_of_compatible_vendors() -> None:
    chat = request(stream=True, max_completion_tokens=5)
    _, headers, body = encode(PROVIDERS["mistral"], chat)
    assert "stream_options" not in body
    assert body["max_tokens"] == 5
    assert "max_completion_tokens" not in body
    assert encode(PROVIDERS["azure"], chat)[1]["api-key"] == "secret"
    assert "authorization" not in encode(PROVIDERS["azure"], chat)[1]


def test_claude_request() -> None:
    url, headers, body = encode(CLAUDE, request(parallel_tool_calls=False))
    assert url == "http://vendor/v1/messages"
    assert (headers["x-api-key"], headers["anthropic-version"]) == ("secret", "2023-06-01")
    assert body == {
        "model": "real-model",
        "max_tokens": 100,
        "system": "Be brief.",
        "temperature": 0.5,
        "top_p": 0.9,
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u-1"},
        "tools": [
            {"name": "weather", "description": "Weather of a city", "input_schema": payloads.WEATHER["function"]["parameters"], "strict": True},
        ],
        "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "Let me see."},
                    {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Paris"}},
                    {"type": "tool_use", "id": "c2", "name": "weather", "input": {"city": "Rome"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": '{"degrees": 20}'}]},
                    {"type": "tool_result", "tool_use_id": "c2", "content": [{"type": "text", "text": "sunny"}]},
                    {"type": "text", "text": "And now?"},
                ],
            },
        ],
    }


def test_gemini_request() -> None:
    url, headers, body = encode(GEMINI, request(stream=True))
    assert url == "http://vendor/models/real-model:streamGenerateContent?alt=sse"
    assert headers["x-goog-api-key"] == "secret"
    assert "secret" not in url
    call = {"id": "c1", "name": "weather", "args": {"city": "Paris"}}
    assert body == {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "generationConfig": {"maxOutputTokens": 100, "temperature": 0.5, "topP": 0.9, "stopSequences": ["END"]},
        "tools": [
            {
                "functionDeclarations": [
                    {"name": "weather", "description": "Weather of a city", "parametersJsonSchema": payloads.WEATHER["function"]["parameters"]}
                ]
            }
        ],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["weather"]}},
        "contents": [
            {"role": "user", "parts": [{"text": "What is this?"}, {"inlineData": {"mimeType": "image/png", "data": "QUJD"}}]},
            {"role": "model", "parts": [{"text": "Let me see."}, {"functionCall": call}, {"functionCall": {**call, "id": "c2", "args": {"city": "Rome"}}}]},
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"id": "c1", "name": "weather", "response": {"degrees": 20}}},
                    {"functionResponse": {"id": "c2", "name": "weather", "response": {"output": "sunny"}}},
                    {"text": "And now?"},
                ],
            },
        ],
    }


def test_structured_output() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    chat = request(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}})
    assert encode(CLAUDE, chat)[2]["output_config"] == {"format": {"type": "json_schema", "schema": schema}}
    config = encode(GEMINI, chat)[2]["generationConfig"]
    assert (config["responseMimeType"], config["responseJsonSchema"]) == ("application/json", schema)


def test_reasoning_effort() -> None:
    assert encode(CLAUDE, request(reasoning_effort="high"))[2]["output_config"] == {"effort": "high"}
    thinking = encode(GEMINI, request(reasoning_effort="low"))[2]["generationConfig"]["thinkingConfig"]
    assert thinking == {"thinkingLevel": "LOW", "includeThoughts": True}
    assert encode(GEMINI, request(reasoning_effort="none"))[2]["generationConfig"]["thinkingConfig"] == {"thinkingBudget": 0}


@pytest.mark.parametrize(
    ("dialect", "changes", "param"),
    [
        (CLAUDE, {"n": 2}, "n"),
        (CLAUDE, {"logprobs": True}, "logprobs"),
        (CLAUDE, {"seed": 1}, "seed"),
        (CLAUDE, {"temperature": 1.5}, "temperature"),
        (CLAUDE, {"response_format": {"type": "json_object"}}, "response_format.type"),
        (CLAUDE, {"unknown_parameter": 1}, "unknown_parameter"),
        (CLAUDE, {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "QQ==", "format": "wav"}}]}]}, "messages"),
        (CLAUDE, {"messages": [{"role": "user", "content": [{"type": "video", "video": {}}]}]}, "messages[0].content[0]"),
        (CLAUDE, {"tools": [{"type": "web_search"}]}, "tools[0]"),
        (GEMINI, {"logit_bias": {"1": 1}}, "logit_bias"),
        (GEMINI, {"parallel_tool_calls": False}, "parallel_tool_calls"),
        (GEMINI, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]}]}, "messages"),
    ],
)
def test_what_a_vendor_cannot_do_is_named(dialect: Dialect, changes: dict[str, Any], param: str) -> None:
    with pytest.raises(VendorError) as raised:
        encode(dialect, request(**changes))
    assert (raised.value.verdict.cause, raised.value.verdict.param) == (Cause.UNSUPPORTED, param)


def test_neutral_values_are_not_refused() -> None:
    encode(CLAUDE, request(n=1, frequency_penalty=0, presence_penalty=0.0, logprobs=False, seed=None, store=False))


def test_openai_answer() -> None:
    completion = decode(OPENAI, CHAT, payloads.OPENAI_ANSWER)
    assert completion.choices[0].parts == (TextPart(text="Hi."),)
    assert completion.usage == Usage(input_tokens=12, cached_input_tokens=8, output_tokens=5, reasoning_tokens=10)


def test_claude_answer() -> None:
    completion = decode(CLAUDE, CHAT, payloads.CLAUDE_ANSWER)
    assert completion.choices[0].parts == (
        ReasoningPart(text="Hm.", signature="sig", origin="claude"),
        TextPart(text="Hi."),
        ToolCall(id="toolu_1", name="weather", arguments='{"city":"Paris"}'),
    )
    assert completion.choices[0].finish_reason == "tool_calls"
    assert completion.usage == Usage(input_tokens=10, cached_input_tokens=7, cache_write_tokens=3, output_tokens=7, reasoning_tokens=5)


def test_gemini_answer() -> None:
    completion = decode(GEMINI, CHAT, payloads.GEMINI_ANSWER)
    call = ToolCall(id="f1", name="weather", arguments='{"city":"Paris"}', extra={"google": {"thought_signature": "c2ln"}})
    assert completion.choices[0].parts == (ReasoningPart(text="Hm.", origin="gemini"), TextPart(text="Hi."), call)
    assert completion.choices[0].finish_reason == "tool_calls"
    assert completion.usage == Usage(input_tokens=10, cached_input_tokens=7, output_tokens=8, reasoning_tokens=4)


def test_a_thought_signature_comes_back_to_gemini() -> None:
    rendered = render_completion(decode(GEMINI, CHAT, payloads.GEMINI_ANSWER), Usage())["choices"][0]["message"]
    chat = request(messages=[{"role": "user", "content": "?"}, rendered, {"role": "tool", "tool_call_id": "f1", "content": "x"}], tool_choice="auto")
    parts = encode(GEMINI, chat)[2]["contents"][1]["parts"]
    assert parts[-1]["thoughtSignature"] == "c2ln"


def test_usage_as_openai_renders_it() -> None:
    rendered = render_usage(Usage(input_tokens=10, cached_input_tokens=7, cache_write_tokens=3, output_tokens=7, reasoning_tokens=5))
    assert (rendered["prompt_tokens"], rendered["completion_tokens"], rendered["total_tokens"]) == (20, 12, 32)
    assert rendered["prompt_tokens_details"]["cached_tokens"] == 7
    assert rendered["completion_tokens_details"]["reasoning_tokens"] == 5


def test_reasoning_that_a_vendor_counts_beside_the_completion() -> None:
    answer = json.loads(payloads.OPENAI_ANSWER)
    answer["usage"] = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 18, "completion_tokens_details": {"reasoning_tokens": 10}}
    assert decode(OPENAI, CHAT, json.dumps(answer).encode()).usage == Usage(input_tokens=5, output_tokens=3, reasoning_tokens=10)


STREAMS = [
    (OPENAI, payloads.OPENAI_STREAM, "call_1", Usage(input_tokens=7, output_tokens=5)),
    (CLAUDE, payloads.CLAUDE_STREAM, "toolu_1", Usage(input_tokens=10, cached_input_tokens=7, output_tokens=11, reasoning_tokens=4)),
    (GEMINI, payloads.GEMINI_STREAM, "f1", Usage(input_tokens=10, cached_input_tokens=7, output_tokens=8, reasoning_tokens=4)),
]


@pytest.mark.parametrize(("dialect", "data", "call_id", "usage"), STREAMS, ids=["openai", "claude", "gemini"])
@pytest.mark.parametrize("step", [None, 1, 7, 100])
def test_streams(dialect: Dialect, data: bytes, call_id: str, usage: Usage, step: int | None) -> None:
    found = stream(dialect, data, step)
    assert "".join(event.text for event in found if isinstance(event, TextDelta)) == "Hé"
    calls = [event for event in found if isinstance(event, ToolCallDelta)]
    assert [call.id for call in calls if call.id] == [call_id]
    assert json.loads("".join(call.arguments for call in calls)) == {"city": 1}
    assert [event.reason for event in found if isinstance(event, FinishDelta)] == ["tool_calls"]
    assert [event for event in found if isinstance(event, UsageUpdate)][-1].usage == usage
    assert sum(isinstance(event, StreamEnd) for event in found) == (0 if dialect is GEMINI else 1)
    if dialect is not OPENAI:
        assert "".join(event.text for event in found if isinstance(event, ReasoningDelta)) == "Hm."


@pytest.mark.parametrize(("dialect", "data"), [(row[0], row[1]) for row in STREAMS], ids=["openai", "claude", "gemini"])
def test_a_stream_without_its_end_is_not_whole(dialect: Dialect, data: bytes) -> None:
    events, decoder = EventStream(), answer_format(dialect).stream_decoder()
    frames = data.replace(b"\r\n", b"\n").split(b"\n\n")
    last = -4 if dialect is OPENAI else -3 if dialect is CLAUDE else -2
    for event in events.feed(b"\n\n".join(frames[:last]) + b"\n\n"):
        decoder.decode_event(event)
    assert not decoder.is_whole


@pytest.mark.parametrize(
    ("dialect", "status", "body", "cause"),
    [
        (OPENAI, 429, {"error": {"code": "rate_limit_exceeded", "message": "slow"}}, Cause.RATE_LIMITED),
        (OPENAI, 429, {"error": {"code": "insufficient_quota", "message": "pay"}}, Cause.QUOTA_EXHAUSTED),
        (OPENAI, 401, {"error": {"code": "invalid_api_key", "message": "no"}}, Cause.KEY_REJECTED),
        (OPENAI, 404, {"error": {"code": "model_not_found", "message": "no"}}, Cause.UNKNOWN_MODEL),
        (OPENAI, 400, {"error": {"message": "bad", "param": "messages"}}, Cause.CLIENT_FAULT),
        (OPENAI, 500, "not json", Cause.VENDOR_ERROR),
        (OPENAI, 503, {}, Cause.OVERLOADED),
        (OPENAI, 504, [], Cause.TIMEOUT),
        (OPENAI, 302, {}, Cause.VENDOR_ERROR),
        (CLAUDE, 529, {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, Cause.OVERLOADED),
        (CLAUDE, 400, {"type": "error", "error": {"type": "invalid_request_error", "message": "bad"}}, Cause.CLIENT_FAULT),
        (CLAUDE, 402, {"type": "error", "error": {"type": "billing_error", "message": "pay"}}, Cause.QUOTA_EXHAUSTED),
        (CLAUDE, 404, {"type": "error", "error": {"type": "not_found_error", "message": "model"}}, Cause.UNKNOWN_MODEL),
        (GEMINI, 400, {"error": {"status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}}, Cause.KEY_REJECTED),
        (GEMINI, 400, {"error": {"status": "INVALID_ARGUMENT", "message": "bad"}}, Cause.CLIENT_FAULT),
        (GEMINI, 429, [{"error": {"status": "RESOURCE_EXHAUSTED"}}], Cause.RATE_LIMITED),
        (GEMINI, 503, {"error": {"status": "UNAVAILABLE"}}, Cause.OVERLOADED),
    ],
)
def test_verdicts(dialect: Dialect, status: int, body: Any, cause: Cause) -> None:
    assert dialect.verdict(status, {}, json.dumps(body).encode()).cause is cause


def test_waits() -> None:
    assert OPENAI.verdict(429, {"retry-after": "7"}, b"{}").retry_after_seconds == 7
    assert OPENAI.verdict(429, {"retry-after-ms": "250", "retry-after": "1"}, b"{}").retry_after_seconds == 0.25
    assert OPENAI.verdict(429, {"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"}, b"{}").retry_after_seconds == 0
    assert OPENAI.verdict(429, {"retry-after": "tomorrow"}, b"{}").retry_after_seconds is None
    body = {"error": {"status": "RESOURCE_EXHAUSTED", "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "13s"}]}}
    assert GEMINI.verdict(429, {}, json.dumps(body).encode()).retry_after_seconds == 13


ERRORS_INSIDE_200 = [
    (OPENAI, b'{"error":{"message":"boom","type":"server_error"}}', Cause.VENDOR_ERROR),
    (CLAUDE, b'{"type":"error","error":{"type":"overloaded_error","message":"busy"}}', Cause.OVERLOADED),
    (GEMINI, b'{"error":{"code":503,"status":"UNAVAILABLE","message":"busy"}}', Cause.OVERLOADED),
]


@pytest.mark.parametrize(("dialect", "body", "cause"), ERRORS_INSIDE_200)
def test_an_error_inside_a_200_is_an_error(dialect: Dialect, body: bytes, cause: Cause) -> None:
    with pytest.raises(VendorError) as raised:
        decode(dialect, CHAT, body)
    assert raised.value.verdict.cause is cause
    with pytest.raises(VendorError) as raised:
        stream(dialect, b"data: " + body + b"\n\n")
    assert raised.value.verdict.cause is cause


@pytest.mark.parametrize("dialect", [OPENAI, CLAUDE, GEMINI])
@pytest.mark.parametrize("body", [b"", b"{broken", b"[]", b"{}", b"null"])
def test_nonsense_is_a_bad_answer(dialect: Dialect, body: bytes) -> None:
    with pytest.raises(VendorError) as raised:
        decode(dialect, CHAT, body)
    assert raised.value.verdict.cause is Cause.BAD_ANSWER


def test_a_model_that_failed_is_no_finish() -> None:
    body = payloads.GEMINI_ANSWER.replace(b'"STOP"', b'"MALFORMED_FUNCTION_CALL"')
    with pytest.raises(VendorError, match="MALFORMED_FUNCTION_CALL"):
        decode(GEMINI, CHAT, body)


@given(st.dictionaries(st.text(min_size=1), st.text() | st.integers() | st.none(), max_size=5), st.text())
@settings(max_examples=60)
def test_any_arguments_and_text_survive_the_way_to_a_vendor(arguments: dict[str, Any], text: str) -> None:
    messages = [
        {"role": "user", "content": text + "x"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": json.dumps(arguments)}}]},
        {"role": "tool", "tool_call_id": "c", "content": text},
    ]
    chat = parse_request({"model": "m", "messages": messages})
    claude, gemini = encode(CLAUDE, chat)[2], encode(GEMINI, chat)[2]
    assert claude["messages"][1]["content"][0]["input"] == arguments
    assert gemini["contents"][1]["parts"][0]["functionCall"]["args"] == arguments
    assert claude["messages"][0]["content"][0]["text"] == gemini["contents"][0]["parts"][0]["text"] == text + "x"


def test_chunks_for_the_client() -> None:
    renderer = ChunkRenderer("id-1", "m", include_usage=True)
    frames = b"".join(renderer.render(event) for event in stream(CLAUDE, payloads.CLAUDE_STREAM)) + renderer.finish(Usage(input_tokens=1, output_tokens=2))
    assert frames.endswith(b"data: [DONE]\n\n")
    found = stream(OPENAI, frames)
    assert "".join(event.text for event in found if isinstance(event, TextDelta)) == "Hé"
    assert [event.usage for event in found if isinstance(event, UsageUpdate)] == [Usage(input_tokens=1, output_tokens=2)]
    assert frames.count(b'"role":"assistant"') == 1


def messages_request(**changes: Any) -> ChatRequest:
    from werkzeug.datastructures import Headers

    from coollm.api.messages_wire import parse_request as parse_messages

    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}}
    body = {
        "model": "any",
        "max_tokens": 100,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "sig"},
                    {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Paris"}},
                    {"type": "tool_use", "id": "c2", "name": "weather", "input": {"city": "Rome"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "one"}, image]},
                    {"type": "tool_result", "tool_use_id": "c2", "content": "two", "is_error": True},
                    {"type": "text", "text": "And now?"},
                ],
            },
        ],
        "tools": [{"name": "weather", "description": "Weather of a city", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "stop_sequences": ["END"],
        "thinking": {"type": "enabled", "budget_tokens": 9000},
        "metadata": {"user_id": "u-1"},
        **changes,
    }
    return parse_messages(body, Headers({"Anthropic-Beta": "b1"}))


def test_a_messages_request_reaches_openai_in_its_words() -> None:
    assert encode(OPENAI, messages_request(stream=True))[2] == {
        "model": "real-model",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 100,
        "stop": ["END"],
        "user": "u-1",
        "reasoning_effort": "medium",
        "parallel_tool_calls": False,
        "tool_choice": "required",
        "tools": [{"type": "function", "function": {"name": "weather", "description": "Weather of a city", "parameters": {"type": "object"}}}],
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Paris"}'}},
                    {"id": "c2", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "one"},
            {"role": "tool", "tool_call_id": "c2", "content": "two"},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJD"}}]},
            {"role": "user", "content": "And now?"},
        ],
    }


def test_a_messages_request_reaches_claude_as_it_is() -> None:
    chat = messages_request(top_k=5, context_management={"x": 1}, mcp_servers=[{"url": "x"}])
    _, headers, body = encode(CLAUDE, chat)
    assert body == {**chat.source, "model": "real-model"}
    assert headers["anthropic-beta"] == "b1"
    with pytest.raises(VendorError, match="mcp_servers"):
        encode(GEMINI, chat)
    with pytest.raises(VendorError, match="top_k"):
        encode(OPENAI, messages_request(top_k=5))
    assert encode(GEMINI, messages_request(top_k=5, tool_choice=None))[2]["generationConfig"]["topK"] == 5


def test_a_tools_error_is_told_as_one() -> None:
    responses = encode(GEMINI, messages_request(tool_choice=None))[2]["contents"][2]["parts"]
    assert responses[-2]["functionResponse"]["response"] == {"error": "two"}


@pytest.mark.parametrize(("dialect", "data", "call_id", "usage"), STREAMS, ids=["openai", "claude", "gemini"])
def test_streams_as_anthropics_events(dialect: Dialect, data: bytes, call_id: str, usage: Usage) -> None:
    """What is rendered for a client decodes again to the same, by the vendor's own decoder."""
    from coollm.api.messages_wire import MessageRenderer

    renderer = MessageRenderer("msg_1", "m", 5)
    frames = b"".join(renderer.render(event) for event in stream(dialect, data)) + renderer.finish(usage)
    found = stream(CLAUDE, frames)
    assert "".join(event.text for event in found if isinstance(event, TextDelta)) == "Hé"
    calls = [event for event in found if isinstance(event, ToolCallDelta)]
    assert [call.id for call in calls if call.id] == [call_id]
    assert json.loads("".join(call.arguments for call in calls)) == {"city": 1}
    assert [event.reason for event in found if isinstance(event, FinishDelta)] == ["tool_calls"]
    assert [event for event in found if isinstance(event, UsageUpdate)][-1].usage == usage
    assert sum(isinstance(event, StreamEnd) for event in found) == 1
    assert frames.count(b"event: content_block_start") == frames.count(b"event: content_block_stop")


def embedding_request(**changes: Any) -> Any:
    from coollm.api.embeddings import FACE
    from coollm.api.http import Exchange

    return FACE.parse({"model": "m", "input": ["one", "two"], **changes}, Exchange({}))


def test_embeddings_of_openai() -> None:
    url, _, body = encode(OPENAI, embedding_request(future=1))
    assert (url, body) == ("http://vendor/embeddings", {"model": "real-model", "input": ["one", "two"], "future": 1})
    answer = b'{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.5]}],"model":"m","usage":{"prompt_tokens":4,"total_tokens":4}}'
    assert decode(OPENAI, embedding_request(), answer).usage == Usage(input_tokens=4)
    with pytest.raises(VendorError):
        decode(OPENAI, embedding_request(), b"{}")


def test_embeddings_of_gemini() -> None:
    url, _, body = encode(GEMINI, embedding_request(dimensions=3))
    assert url == "http://vendor/models/real-model:batchEmbedContents"
    assert body["requests"][1] == {"model": "models/real-model", "content": {"parts": [{"text": "two"}]}, "outputDimensionality": 3}
    found = decode(GEMINI, embedding_request(), b'{"embeddings":[{"values":[0.5]},{"values":[0.25]}]}')
    assert found.vectors == ((0.5,), (0.25,))
    with pytest.raises(VendorError, match="a vector for each input"):
        decode(GEMINI, embedding_request(), b'{"embeddings":[{"values":[0.5]}]}')
    with pytest.raises(VendorError, match="tokens"):
        encode(GEMINI, embedding_request(input=[[1, 2]]))


def test_claude_has_no_embeddings() -> None:
    with pytest.raises(VendorError, match="embeddings"):
        encode(CLAUDE, embedding_request())
