"""The official `openai` client against the gateway, in front of every dialect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests import firewall
from tests.conftest import GatewayHandle, SimulatorHandle, serve, simulated

MODELS = ["gpt-sim", "claude-sim", "gemini-sim"]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS: Any = [{"type": "function", "function": {"name": "trip", "description": "plan", "parameters": SCHEMA}}]


@pytest.fixture(scope="module", params=firewall.PARAMETERS)
def gateway(request: pytest.FixtureRequest, simulator: SimulatorHandle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHandle]:
    clients = [
        {"id": "app", "key": "client-key-of-the-tests"},
        {"id": "narrow", "key": "narrow-key-0001", "allowed_providers": ["gemini"]},
        {"id": "old", "key": "expired-key-0001", "expires_at": "2020-01-01"},
        {"id": "slow", "key": "slow-key-0001", "limits": {"req_per_min": 1}},
    ]
    home = tmp_path_factory.mktemp("sdk")
    with serve(home, {"llm_providers": simulated(simulator.url), "api_keys": clients}) as handle, firewall.reached(request.param, home, handle) as found:
        yield found


@pytest.fixture
def client(gateway: GatewayHandle) -> openai.OpenAI:
    return sdk(gateway, gateway.client_key)


def sdk(gateway: GatewayHandle, key: str) -> openai.OpenAI:
    return openai.OpenAI(api_key=key, base_url=f"{gateway.url}/v1", max_retries=0)


def say(text: str = "hello") -> Any:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]


@pytest.mark.parametrize("model", MODELS)
def test_completes(client: openai.OpenAI, gateway: GatewayHandle, model: str) -> None:
    raw = client.chat.completions.with_raw_response.create(model=f"{model}~tokens=9~cached=3", messages=say())
    answer = raw.parse()
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.role == "assistant"
    assert len((answer.choices[0].message.content or "").split()) == 9
    assert answer.choices[0].finish_reason == "stop"
    usage = answer.usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert (usage.completion_tokens, usage.prompt_tokens_details.cached_tokens) == (9, 3)
    assert usage.total_tokens == usage.prompt_tokens + 9
    line = gateway.logged(raw.headers["x-request-id"])
    assert (line["client"], line["status"], line["output_tokens"], line["cached_input_tokens"]) == ("app", 200, 9, 3)
    cost = ((usage.prompt_tokens - 3) * 2 + 3 * 1 + 9 * 8) / 1e6
    assert float(raw.headers["x-coollm-cost-usd"]) == pytest.approx(cost)
    assert line["cost_usd"] == pytest.approx(cost)
    assert raw.headers["x-coollm-key"] == line["key_id"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("usage", [True, False])
def test_streams(client: openai.OpenAI, gateway: GatewayHandle, model: str, usage: bool) -> None:
    options: Any = {"stream_options": {"include_usage": True}} if usage else {}
    raw = client.chat.completions.with_raw_response.create(model=f"{model}~tokens=9~cached=3", messages=say(), stream=True, **options)
    chunks = list(raw.parse())
    assert len("".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices).split()) == 9
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason] == ["stop"]
    told = [chunk.usage for chunk in chunks if chunk.usage]
    assert [(one.completion_tokens, one.prompt_tokens_details.cached_tokens) for one in told] == ([(9, 3)] if usage else [])
    assert all(chunk.choices for chunk in chunks) is not usage, "the usage chunk is hidden from who did not ask"
    line = gateway.logged(raw.headers["x-request-id"])
    assert (line["output_tokens"], line["cached_input_tokens"], line["estimated"], line["ending"]) == (9, 3, False, "answered")
    assert line["time_to_first_token_ms"] is not None


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stream", [False, True])
def test_calls_tools_and_goes_on_with_their_results(client: openai.OpenAI, model: str, stream: bool) -> None:
    with_calls = f"{model}~calls=2"
    if stream:
        calls: dict[int, dict[str, str]] = {}
        finish = None
        for chunk in client.chat.completions.create(model=with_calls, messages=say(), tools=TOOLS, stream=True):
            finish = chunk.choices[0].finish_reason or finish
            for delta in chunk.choices[0].delta.tool_calls or ():
                call = calls.setdefault(delta.index, {"id": "", "name": "", "arguments": ""})
                assert delta.function is not None
                call["id"] += delta.id or ""
                call["name"] += delta.function.name or ""
                call["arguments"] += delta.function.arguments or ""
        found = [calls[index] for index in sorted(calls)]
    else:
        choice = client.chat.completions.create(model=with_calls, messages=say(), tools=TOOLS).choices[0]
        finish = choice.finish_reason
        found = [{"id": call.id, "name": call.function.name, "arguments": call.function.arguments} for call in choice.message.tool_calls or ()]
    assert finish == "tool_calls"
    assert len({call["id"] for call in found}) == 2
    assert [(call["name"], json.loads(call["arguments"])) for call in found] == [("trip", {"city": "simulated", "days": 1})] * 2
    history = [
        *say(),
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}} for call in found],
        },
        *({"role": "tool", "tool_call_id": call["id"], "content": "done"} for call in found),
    ]
    last = client.chat.completions.create(model=model, messages=history, tools=TOOLS)
    assert last.choices[0].finish_reason == "stop"
    assert last.choices[0].message.content


@pytest.mark.parametrize("model", MODELS)
def test_json_schema(client: openai.OpenAI, model: str) -> None:
    wanted: Any = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA, "strict": True}}
    answer = client.chat.completions.create(model=model, messages=say(), response_format=wanted)
    assert json.loads(answer.choices[0].message.content or "") == {"city": "simulated", "days": 1}


@pytest.mark.parametrize("model", MODELS)
def test_images_and_system_prompts_reach_the_vendor(client: openai.OpenAI, model: str) -> None:
    content = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,QUJDREVG"}}]
    messages: Any = [{"role": "system", "content": "SYSTEM-MARK"}, {"role": "user", "content": content}]
    echoed = client.chat.completions.create(model=f"{model}~echo=1", messages=messages).choices[0].message.content or ""
    assert "QUJDREVG" in echoed
    assert "SYSTEM-MARK" in echoed


@pytest.mark.parametrize("model", ["claude-sim", "gemini-sim"])
def test_reasoning_is_shown_and_counted(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=f"{model}~reasoning=4~tokens=5", messages=say())
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    assert (answer.usage.completion_tokens, answer.usage.completion_tokens_details.reasoning_tokens) == (9, 4)
    assert "step3" in answer.choices[0].message.reasoning_content  # type: ignore[attr-defined]


@pytest.mark.parametrize("model", MODELS)
def test_length_is_told(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=f"{model}~tokens=20", messages=say(), max_tokens=5)
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("model", ["gpt-sim", "gemini-sim"])  # Anthropic always tells usage
def test_usage_is_estimated_and_flagged_where_the_vendor_is_silent(client: openai.OpenAI, gateway: GatewayHandle, model: str) -> None:
    raw = client.chat.completions.with_raw_response.create(model=f"{model}~usage=0~tokens=40", messages=say())
    line = gateway.logged(raw.headers["x-request-id"])
    assert line["estimated"] is True
    assert 20 < line["output_tokens"] < 120


@pytest.mark.parametrize("model", ["gpt-sim", "gemini-sim"])
@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings(client: openai.OpenAI, gateway: GatewayHandle, model: str, encoding: Any) -> None:
    raw = client.embeddings.with_raw_response.create(model=model, input=["one", "two " * 20], dimensions=5, encoding_format=encoding)
    found = raw.parse()
    assert [row.index for row in found.data] == [0, 1]
    assert found.usage.prompt_tokens == 21
    line = gateway.logged(raw.headers["x-request-id"])
    assert (line["route"], line["input_tokens"], line["output_tokens"], line["estimated"]) == ("embeddings", 21, 0, False)
    assert line["cost_usd"] == pytest.approx(21 * 2 / 1e6)
    parsed = client.embeddings.create(model=model, input="one", dimensions=5)
    assert len(parsed.data[0].embedding) == 5
    assert all(isinstance(value, float) for value in parsed.data[0].embedding)


def test_embeddings_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="embeddings"):
        client.embeddings.create(model="claude-sim", input="x")
    for bad in ([], [""], [1.5], {"a": 1}):
        with pytest.raises(openai.BadRequestError) as raised:
            client.embeddings.create(model="gpt-sim", input=bad)  # type: ignore[arg-type]
        assert (raised.value.param or "").startswith("input")


def test_models(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names == ["openai:gpt-sim", "claude:claude-sim", "gemini:gemini-sim"]
    assert client.models.retrieve("claude-sim").owned_by == "claude"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nothing-like-it")


def test_its_own_errors(gateway: GatewayHandle) -> None:
    ask: dict[str, Any] = {"model": "gpt-sim", "messages": say()}
    for key in ("wrong-key-0001", "expired-key-0001"):
        with pytest.raises(openai.AuthenticationError):
            sdk(gateway, key).chat.completions.create(**ask)
    with pytest.raises(openai.PermissionDeniedError) as denied:
        sdk(gateway, "narrow-key-0001").chat.completions.create(**ask)
    assert denied.value.code == "provider_not_allowed"
    good = sdk(gateway, gateway.client_key)
    with pytest.raises(openai.NotFoundError, match="gpt-sim"):
        good.chat.completions.create(model="gpt-smi", messages=say())
    with pytest.raises(openai.BadRequestError) as bad:
        good.chat.completions.create(model="gpt-sim", messages=[{"role": "nobody", "content": "x"}])  # type: ignore[list-item]
    assert bad.value.param == "messages[0].role"
    with pytest.raises(openai.BadRequestError) as unsupported:
        good.chat.completions.create(model="claude-sim", messages=say(), n=2)
    assert unsupported.value.param == "n"
    slow = sdk(gateway, "slow-key-0001")
    slow.chat.completions.create(**ask)
    with pytest.raises(openai.RateLimitError) as limited:
        slow.chat.completions.create(**ask)
    assert 50 <= int(limited.value.response.headers["retry-after"]) <= 61


def test_a_vendors_rate_limit_reaches_the_client(client: openai.OpenAI) -> None:
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model="gemini-sim~status=429~retry_after=120", messages=say())


def test_the_client_retries_by_itself(gateway: GatewayHandle) -> None:
    assert sdk(gateway, gateway.client_key).chat.completions.create(model="gpt-sim", messages=say(), extra_headers={"x-future": "1"}).choices
