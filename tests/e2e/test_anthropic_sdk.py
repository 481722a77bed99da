"""The official `anthropic` client against the gateway, in front of every dialect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
import requests

from tests import firewall
from tests.conftest import GatewayHandle, SimulatorHandle, serve, simulated

MODELS = ["gpt-sim", "claude-sim", "gemini-sim"]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}, "required": ["city", "days"]}
TOOLS: Any = [{"name": "trip", "description": "plan", "input_schema": SCHEMA}]


@pytest.fixture(scope="module", params=firewall.PARAMETERS)
def gateway(request: pytest.FixtureRequest, simulator: SimulatorHandle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHandle]:
    clients = [
        {"id": "app", "key": "client-key-of-the-tests"},
        {"id": "narrow", "key": "narrow-key-0001", "allowed_providers": ["gemini"]},
        {"id": "slow", "key": "slow-key-0001", "limits": {"req_per_min": 1}},
    ]
    policy = {"retry": {"max_attempts": 1, "timeout": "1s"}}
    home = tmp_path_factory.mktemp("anthropic")
    with (
        serve(home, {"llm_providers": simulated(simulator.url), "api_keys": clients, "policy": policy}) as handle,
        firewall.reached(request.param, home, handle) as found,
    ):
        yield found


@pytest.fixture
def client(gateway: GatewayHandle) -> anthropic.Anthropic:
    return sdk(gateway, gateway.client_key)


def sdk(gateway: GatewayHandle, key: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(api_key=key, base_url=gateway.url, max_retries=0)


def say(text: Any = "hello") -> Any:
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize("model", MODELS)
def test_completes(client: anthropic.Anthropic, gateway: GatewayHandle, model: str) -> None:
    raw = client.messages.with_raw_response.create(model=f"{model}~tokens=9~cached=3", max_tokens=50, system="Be brief.", messages=say())
    message = raw.parse()
    assert (message.type, message.role, message.stop_reason) == ("message", "assistant", "end_turn")
    assert [block.type for block in message.content] == ["text"]
    assert len(message.content[0].text.split()) == 9
    assert (message.usage.output_tokens, message.usage.cache_read_input_tokens) == (9, 3)
    line = gateway.logged(raw.headers["x-request-id"])
    assert (line["route"], line["client"], line["output_tokens"], line["cached_input_tokens"]) == ("messages", "app", 9, 3)
    assert line["input_tokens"] == message.usage.input_tokens


@pytest.mark.parametrize("model", MODELS)
def test_streams(client: anthropic.Anthropic, gateway: GatewayHandle, model: str) -> None:
    with client.messages.stream(model=f"{model}~tokens=9~cached=3", max_tokens=50, messages=say()) as stream:
        events = [event.type for event in stream]
        final = stream.get_final_message()
        request_id = stream.response.headers["x-request-id"]
    assert events[0] == "message_start"
    assert events.count("message_stop") == 1
    assert events[-1] == "message_stop"
    assert len(final.content[0].text.split()) == 9
    assert (final.stop_reason, final.usage.output_tokens) == ("end_turn", 9)
    line = gateway.logged(request_id)
    assert (line["output_tokens"], line["ending"], line["estimated"]) == (9, "answered", False)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("stream", [False, True])
def test_calls_tools_and_goes_on_with_their_results(client: anthropic.Anthropic, model: str, stream: bool) -> None:
    ask: Any = {"model": f"{model}~calls=2", "max_tokens": 100, "messages": say(), "tools": TOOLS, "tool_choice": {"type": "any"}}
    if stream:
        with client.messages.stream(**ask) as events:
            message = events.get_final_message()
    else:
        message = client.messages.create(**ask)
    assert message.stop_reason == "tool_use"
    calls = [block for block in message.content if block.type == "tool_use"]
    assert [(call.name, call.input) for call in calls] == [("trip", {"city": "simulated", "days": 1})] * 2
    assert len({call.id for call in calls}) == 2
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJD"}}
    results = [
        {"type": "tool_result", "tool_use_id": calls[0].id, "content": [{"type": "text", "text": "RESULT-ONE"}, image]},
        {"type": "tool_result", "tool_use_id": calls[1].id, "content": "RESULT-TWO", "is_error": True},
        {"type": "text", "text": "AND-NOW"},
    ]
    history = [*say(), {"role": "assistant", "content": [block.model_dump() for block in message.content]}, *say(results)]
    last = client.messages.create(model=f"{model}~echo=1", max_tokens=3000, messages=history, tools=TOOLS, tool_choice={"type": "none"})
    echoed = last.content[0].text
    assert all(mark in echoed for mark in ("RESULT-ONE", "RESULT-TWO", "AND-NOW", "QUJD"))
    assert last.stop_reason == "end_turn"


@pytest.mark.parametrize("model", MODELS)
def test_json_schema(client: anthropic.Anthropic, model: str) -> None:
    wanted: Any = {"format": {"type": "json_schema", "schema": SCHEMA}}
    message = client.messages.create(model=model, max_tokens=100, messages=say(), output_config=wanted)
    assert json.loads(message.content[0].text) == {"city": "simulated", "days": 1}


@pytest.mark.parametrize("model", MODELS)
def test_images_and_system_blocks_reach_the_vendor(client: anthropic.Anthropic, model: str) -> None:
    content = [{"type": "text", "text": "What is it?"}, {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "QUJDREVG"}}]
    system: Any = [{"type": "text", "text": "SYSTEM-MARK", "cache_control": {"type": "ephemeral"}}]
    echoed = client.messages.create(model=f"{model}~echo=1", max_tokens=3000, system=system, messages=say(content)).content[0].text
    assert "QUJDREVG" in echoed
    assert "SYSTEM-MARK" in echoed
    assert ("ephemeral" in echoed) is (model == "claude-sim"), "Claude keeps its cache markers, the others have none"


@pytest.mark.parametrize("model", ["claude-sim", "gemini-sim"])
@pytest.mark.parametrize("stream", [False, True])
def test_thinking(client: anthropic.Anthropic, model: str, stream: bool) -> None:
    ask: Any = {"model": f"{model}~reasoning=4~tokens=5", "max_tokens": 100, "messages": say(), "thinking": {"type": "adaptive"}}
    if stream:
        with client.messages.stream(**ask) as events:
            message = events.get_final_message()
    else:
        message = client.messages.create(**ask)
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert "step3" in message.content[0].thinking
    assert message.usage.output_tokens == 9


@pytest.mark.parametrize("model", MODELS)
def test_length_is_told(client: anthropic.Anthropic, model: str) -> None:
    assert client.messages.create(model=f"{model}~tokens=20", max_tokens=5, messages=say()).stop_reason == "max_tokens"


def test_thinking_comes_back_to_claude_with_its_signature(client: anthropic.Anthropic) -> None:
    first = client.messages.create(model="claude-sim~reasoning=3", max_tokens=50, messages=say())
    history = [*say(), {"role": "assistant", "content": [block.model_dump() for block in first.content]}, *say("go on")]
    assert "simulated-signature" in client.messages.create(model="claude-sim~echo=1", max_tokens=3000, messages=history).content[0].text


def test_beta_headers_and_new_fields_reach_claude_untouched(client: anthropic.Anthropic) -> None:
    extra = {"context_management": {"edits": [{"type": "MARK-OF-A-NEW-FIELD"}]}}
    message = client.messages.create(model="claude-sim~echo=1", max_tokens=3000, messages=say(), extra_body=extra, extra_headers={"anthropic-beta": "x"})
    assert "MARK-OF-A-NEW-FIELD" in message.content[0].text


def test_its_own_errors(gateway: GatewayHandle) -> None:
    ask: dict[str, Any] = {"model": "claude-sim", "max_tokens": 10, "messages": say()}
    with pytest.raises(anthropic.AuthenticationError) as denied:
        sdk(gateway, "wrong-key-0001").messages.create(**ask)
    assert isinstance(denied.value.body, dict)
    assert denied.value.body["type"] == "error"
    assert denied.value.body["error"]["type"] == "authentication_error"
    with pytest.raises(anthropic.PermissionDeniedError):
        sdk(gateway, "narrow-key-0001").messages.create(**ask)
    good = sdk(gateway, gateway.client_key)
    with pytest.raises(anthropic.NotFoundError):
        good.messages.create(model="nothing-like-it", max_tokens=5, messages=say())
    with pytest.raises(anthropic.BadRequestError, match=r"messages\[0\].role"):
        good.messages.create(model="claude-sim", max_tokens=5, messages=[{"role": "nobody", "content": "x"}])  # type: ignore[typeddict-item]
    with pytest.raises(anthropic.BadRequestError, match="top_k"):
        good.messages.create(model="gpt-sim", max_tokens=5, messages=say(), extra_body={"top_k": 3})
    document: Any = [{"type": "search_result", "source": "x", "title": "x", "content": []}]
    with pytest.raises(anthropic.BadRequestError, match=r"messages\[0\].content\[0\]"):
        good.messages.create(model="gemini-sim", max_tokens=5, messages=say(document))
    slow = sdk(gateway, "slow-key-0001")
    slow.messages.create(**ask)
    with pytest.raises(anthropic.RateLimitError) as limited:
        slow.messages.create(**ask)
    assert int(limited.value.response.headers["retry-after"]) > 50
    wrong_method = requests.get(f"{gateway.url}/v1/messages", timeout=5)
    assert (wrong_method.status_code, wrong_method.json()["type"]) == (405, "error")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("fault", ["cut_after=3", "malformed_after=3", "error_after=3"])
def test_a_failure_after_content_is_an_error_event(client: anthropic.Anthropic, gateway: GatewayHandle, model: str, fault: str) -> None:
    events = []
    with pytest.raises(anthropic.APIError), client.messages.stream(model=f"{model}~{fault}~tokens=9", max_tokens=50, messages=say()) as stream:
        events.extend(event.type for event in stream)
    assert "message_stop" not in events
    raw = requests.post(
        f"{gateway.url}/v1/messages",
        json={"model": f"{model}~{fault}~tokens=9", "max_tokens": 50, "messages": say(), "stream": True},
        headers={"x-api-key": gateway.client_key},
        timeout=10,
    ).text
    assert raw.rstrip().splitlines()[-2] == "event: error"
    assert json.loads(raw.rstrip().splitlines()[-1].removeprefix("data: "))["error"]["type"] == "api_error"


def test_count_tokens(client: anthropic.Anthropic) -> None:
    few = client.messages.count_tokens(model="claude-sim", messages=say("hi")).input_tokens
    many = client.messages.count_tokens(model="gpt-sim", messages=say("hi " * 400), tools=TOOLS, system="x").input_tokens
    assert 0 < few < 20
    assert 250 < many < 600
