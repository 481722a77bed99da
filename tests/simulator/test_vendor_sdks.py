"""The simulator is held to the vendors' own SDKs, not to our code."""

from __future__ import annotations

import time
from typing import Any

import anthropic
import openai
import pytest
from google import genai
from google.genai import errors as genai_errors
from google.genai import types as genai_types

from tests.conftest import SimulatorHandle

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city", "days"]}


@pytest.fixture
def openai_client(simulator: SimulatorHandle) -> openai.OpenAI:
    return openai.OpenAI(api_key="sk-sim", base_url=f"{simulator.url}/v1", max_retries=0)


@pytest.fixture
def anthropic_client(simulator: SimulatorHandle) -> anthropic.Anthropic:
    return anthropic.Anthropic(api_key="sk-ant-sim", base_url=simulator.url, max_retries=0)


@pytest.fixture
def gemini_client(simulator: SimulatorHandle) -> genai.Client:
    return genai.Client(api_key="AIza-sim", http_options=genai_types.HttpOptions(base_url=simulator.url))


def say(text: str = "hello") -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def test_openai_plain_and_streamed(openai_client: openai.OpenAI) -> None:
    plain = openai_client.chat.completions.create(model="gpt-sim~tokens=7", messages=say())
    assert plain.usage is not None
    assert (plain.choices[0].finish_reason, plain.usage.completion_tokens) == ("stop", 7)
    chunks = list(openai_client.chat.completions.create(model="gpt-sim~tokens=7", messages=say(), stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == plain.choices[0].message.content
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 7


def test_openai_tools_and_json(openai_client: openai.OpenAI) -> None:
    tools = [{"type": "function", "function": {"name": "trip", "parameters": SCHEMA}}]
    plain = openai_client.chat.completions.create(model="gpt-sim~calls=2", messages=say(), tools=tools)
    calls = plain.choices[0].message.tool_calls or []
    assert [call.function.arguments for call in calls] == ['{"city":"simulated","days":1}'] * 2
    wanted = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA}}
    answer = openai_client.chat.completions.create(model="gpt-sim", messages=say(), response_format=wanted)
    assert answer.choices[0].message.content == '{"city":"simulated","days":1}'


def test_openai_errors(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.RateLimitError) as raised:
        openai_client.chat.completions.create(model="gpt-sim~status=429~retry_after=3", messages=say())
    assert raised.value.response.headers["retry-after"] == "3"
    with pytest.raises(openai.InternalServerError):
        openai_client.chat.completions.create(model="gpt-sim~status=500", messages=say())
    with pytest.raises(openai.BadRequestError, match="unknown directive"):
        openai_client.chat.completions.create(model="gpt-sim~statsu=500", messages=say())
    with pytest.raises(openai.APIError):
        list(openai_client.chat.completions.create(model="gpt-sim~error_after=2", messages=say(), stream=True))


def test_anthropic_plain_and_streamed(anthropic_client: anthropic.Anthropic) -> None:
    ask: dict[str, Any] = {"model": "claude-sim~tokens=7~reasoning=3~cached=2", "max_tokens": 50, "messages": say()}
    plain = anthropic_client.messages.create(**ask)
    assert [block.type for block in plain.content] == ["thinking", "text"]
    assert (plain.stop_reason, plain.usage.output_tokens, plain.usage.cache_read_input_tokens) == ("end_turn", 10, 2)
    with anthropic_client.messages.stream(**ask) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == next(block.text for block in plain.content if block.type == "text")
    assert final.usage.output_tokens == 10
    assert final.usage.input_tokens == plain.usage.input_tokens


def test_anthropic_tools_and_errors(anthropic_client: anthropic.Anthropic) -> None:
    tools = [{"name": "trip", "input_schema": SCHEMA}]
    ask: dict[str, Any] = {"model": "claude-sim", "max_tokens": 50, "messages": say(), "tools": tools}
    plain = anthropic_client.messages.create(**ask)
    assert (plain.stop_reason, plain.content[0].input) == ("tool_use", {"city": "simulated", "days": 1})
    with anthropic_client.messages.stream(**ask) as stream:
        assert stream.get_final_message().content[0].input == {"city": "simulated", "days": 1}
    with pytest.raises(anthropic.RateLimitError):
        anthropic_client.messages.create(model="claude-sim~status=429", max_tokens=5, messages=say())
    with pytest.raises(anthropic.BadRequestError, match="first message"):
        anthropic_client.messages.create(model="claude-sim", max_tokens=5, messages=[{"role": "assistant", "content": "x"}])


def test_gemini_plain_and_streamed(gemini_client: genai.Client) -> None:
    plain = gemini_client.models.generate_content(model="gemini-sim~tokens=7~reasoning=2", contents="hello")
    assert plain.usage_metadata is not None
    assert (plain.usage_metadata.candidates_token_count, plain.usage_metadata.thoughts_token_count) == (7, 2)
    pieces = list(gemini_client.models.generate_content_stream(model="gemini-sim~tokens=7~reasoning=2", contents="hello"))
    assert "".join(piece.text or "" for piece in pieces) == plain.text
    assert pieces[-1].candidates[0].finish_reason == genai_types.FinishReason.STOP


def test_gemini_tools_json_and_errors(gemini_client: genai.Client) -> None:
    function = genai_types.FunctionDeclaration(name="trip", parameters_json_schema=SCHEMA)
    config = genai_types.GenerateContentConfig(tools=[genai_types.Tool(function_declarations=[function])])
    answer = gemini_client.models.generate_content(model="gemini-sim", contents="hello", config=config)
    assert [(call.name, call.args) for call in answer.function_calls or []] == [("trip", {"city": "simulated", "days": 1})]
    wanted = genai_types.GenerateContentConfig(response_mime_type="application/json", response_json_schema=SCHEMA)
    assert gemini_client.models.generate_content(model="gemini-sim", contents="hello", config=wanted).text == '{"city":"simulated","days":1}'
    with pytest.raises(genai_errors.ClientError) as raised:
        gemini_client.models.generate_content(model="gemini-sim~status=429~retry_after=5", contents="hello")
    assert raised.value.status == "RESOURCE_EXHAUSTED"


def test_pace_and_faults(openai_client: openai.OpenAI) -> None:
    started = time.monotonic()
    list(openai_client.chat.completions.create(model="gpt-sim~rate=50~tokens=10", messages=say(), stream=True))
    assert 0.15 < time.monotonic() - started < 10
    with pytest.raises(openai.APIError):
        openai_client.chat.completions.create(model="gpt-sim~cut_after=10", messages=say())
    unknown = openai_client.with_options(api_key="sk-x~usage=0").chat.completions.create(model="gpt-sim", messages=say())
    assert unknown.usage is None


def test_a_header_sets_the_behaviour_and_beats_the_model(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.RateLimitError):
        openai_client.chat.completions.create(model="gpt-sim~tokens=3", messages=say(), extra_headers={"x-simulate": "status=429"})
    answer = openai_client.chat.completions.create(model="gpt-sim~tokens=3", messages=say(), extra_headers={"x-simulate": "tokens=5"})
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5


def test_embeddings(openai_client: openai.OpenAI, gemini_client: genai.Client) -> None:
    found = openai_client.embeddings.create(model="embed-sim", input=["one", "two"], dimensions=4)
    assert [len(row.embedding) for row in found.data] == [4, 4]
    assert found.data[0].embedding != found.data[1].embedding
    as_numbers = openai_client.embeddings.create(model="embed-sim", input="one", dimensions=4, encoding_format="float")
    assert as_numbers.data[0].embedding == pytest.approx(found.data[0].embedding, rel=1e-6)
    vectors = gemini_client.models.embed_content(model="embed-sim", contents=["one", "two"]).embeddings or []
    assert [len(row.values or []) for row in vectors] == [8, 8]
