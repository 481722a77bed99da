"""The cache before real workers: what it may answer, whose answers, streams, one fetch for many, and what it saves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import openai
import pytest
import requests

from tests.conftest import GatewayHandle, SimulatorHandle, every_dialect, serve, wait_for

KEYS = [{"id": "app", "key": "client-key-of-the-tests"}, {"id": "other", "key": "other-key-0001"}]


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def gateway(request: pytest.FixtureRequest, simulator: SimulatorHandle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHandle]:
    runtime = {"type": "redis", "addr": request.getfixturevalue("redis_url")} if request.param == "redis" else {"type": "sqlite"}
    settings = {
        "llm_providers": every_dialect(simulator.url),
        "api_keys": KEYS,
        "policy": {"cache": {"enabled": True, "ttl_seconds": 60}},
        "storage": {"runtime": runtime},
    }
    with serve(tmp_path_factory.mktemp("cache"), settings, workers=3) as handle:
        yield handle


def ask(gateway: GatewayHandle, content: str, model: str = "gpt-sim", key: str = "client-key-of-the-tests", **more: Any) -> requests.Response:
    headers = {"authorization": f"Bearer {key}", **more.pop("headers", {})}
    body = {"model": model, "messages": [{"role": "user", "content": content}], "temperature": 0, **more}
    return requests.post(f"{gateway.url}/v1/chat/completions", json=body, headers=headers, timeout=30)


def said(answer: requests.Response) -> str | None:
    return answer.headers.get("x-coollm-cache")


def vendors_requests(simulator: SimulatorHandle, model: str) -> int:
    return sum(row.get("model") == model for row in simulator.seen())


def test_an_identical_request_is_answered_without_a_vendor(gateway: GatewayHandle, simulator: SimulatorHandle) -> None:
    model = f"gpt-sim~tokens=5~latency_ms=1.{len(str(gateway.home))}"
    first = ask(gateway, "same", model)
    before = vendors_requests(simulator, model)
    answers = [ask(gateway, "same", model) for _ in range(6)]
    assert said(first) == "miss"
    assert {said(answer) for answer in answers} == {"hit"}
    assert {answer.content for answer in answers} == {first.content}, "the vendor's own bytes"
    assert vendors_requests(simulator, model) == before
    assert answers[0].headers["x-coollm-cost-usd"] == "0.00000000"
    line = gateway.logged(answers[0].headers["x-request-id"])
    assert (line["cache"], line["ending"], line["cost_usd"], line["input_tokens"]) == ("hit", "cached", 0, 0)
    assert line["saved_usd"] == pytest.approx(float(first.headers["x-coollm-cost-usd"]))


def test_whatever_changes_the_answer_changes_the_key(gateway: GatewayHandle) -> None:
    assert said(ask(gateway, "keyed", max_tokens=50)) == "miss"
    for more in ({"max_tokens": 51}, {"seed": 1}, {"stop": ["x"]}, {"an_unknown_parameter": 1}, {"top_p": 0.5}):
        assert said(ask(gateway, "keyed", **{"max_tokens": 50, **more})) == "miss", more
    assert said(ask(gateway, "keyed", max_tokens=50, user="somebody else", metadata={"a": "b"})) == "hit", "who asks changes no answer"
    assert said(ask(gateway, "keyed", max_tokens=50, key="other-key-0001")) == "miss", "a client is not told what another asked"


def test_what_may_not_be_kept(gateway: GatewayHandle) -> None:
    for more in ({"temperature": 0.1}, {"temperature": None}):
        assert [said(ask(gateway, "warm", **more)) for _ in range(2)] == [None, None], more
    assert said(ask(gateway, "wishes", headers={"cache-control": "no-store"})) is None
    assert said(ask(gateway, "wishes")) == "miss"
    assert said(ask(gateway, "wishes", headers={"cache-control": "no-cache"})) == "miss"
    assert said(ask(gateway, "wishes")) == "hit"
    assert said(ask(gateway, "searching", web_search_options={})) is None
    assert ask(gateway, "failing", "gpt-sim~status=400").status_code == 400
    assert said(ask(gateway, "failing", "gpt-sim~status=400")) is None, "an error is not kept"


@pytest.mark.parametrize("model", ["gpt-sim~calls=2", "claude-sim~reasoning=3", "gemini-sim"])
def test_streams_are_replayed_as_streams(gateway: GatewayHandle, model: str) -> None:
    client = openai.OpenAI(api_key=gateway.client_key, base_url=f"{gateway.url}/v1", max_retries=0)
    tool: Any = {"type": "function", "function": {"name": "trip", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}
    asked: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "stream"}], "temperature": 0, "max_tokens": 4000}
    if "calls" in model:
        asked["tools"] = [tool]

    def streamed() -> Any:
        with client.chat.completions.stream(**asked, stream_options={"include_usage": True}) as stream:
            return stream.get_final_completion()

    first, second = streamed(), streamed()
    whole = client.chat.completions.with_raw_response.create(**asked)
    assert whole.headers["x-coollm-cache"] == "hit"
    for other in (second, whole.parse()):
        assert (other.choices[0].message.content or "") == (first.choices[0].message.content or "")
        assert other.choices[0].finish_reason == first.choices[0].finish_reason
        assert [call.function.arguments for call in other.choices[0].message.tool_calls or ()] == [
            call.function.arguments for call in first.choices[0].message.tool_calls or ()
        ]
        assert other.usage.total_tokens == first.usage.total_tokens


def test_a_stream_that_was_cut_is_not_kept(gateway: GatewayHandle) -> None:
    for _ in range(2):
        cut = ask(gateway, "cut", "gpt-sim~tokens=9~cut_after=4", stream=True)
        assert said(cut) == "miss"
        assert "broke off" in cut.text


def test_other_dialects_and_vectors(gateway: GatewayHandle) -> None:
    client = anthropic.Anthropic(api_key=gateway.client_key, base_url=gateway.url, max_retries=0)
    asked: dict[str, Any] = {"model": "gemini-sim", "max_tokens": 50, "messages": [{"role": "user", "content": "hello"}], "extra_body": {"temperature": 0}}
    first, second = client.messages.with_raw_response.create(**asked), client.messages.with_raw_response.create(**asked)
    assert (first.headers["x-coollm-cache"], second.headers["x-coollm-cache"]) == ("miss", "hit")
    assert first.parse().content == second.parse().content
    vectors = [
        requests.post(f"{gateway.url}/v1/embeddings", json={"model": "openai:embed-sim", "input": "a"}, headers=gateway.headers, timeout=9) for _ in range(2)
    ]
    assert [said(answer) for answer in vectors] == ["miss", "hit"]
    assert vectors[0].json()["data"] == vectors[1].json()["data"]


@pytest.mark.parametrize("stream", [False, True])
def test_of_many_at_the_same_time_one_asks_the_vendor(gateway: GatewayHandle, simulator: SimulatorHandle, stream: bool) -> None:
    model = f"gpt-sim~latency_ms=800~tokens={7 + stream}"
    before = vendors_requests(simulator, model)
    content = f"together {gateway.home}"
    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda _: ask(gateway, content, model, stream=stream), range(24)))
    assert {answer.status_code for answer in answers} == {200}
    assert sorted(map(str, map(said, answers))) == ["hit"] * 23 + ["miss"]
    assert vendors_requests(simulator, model) - before == 1


def test_when_the_one_that_fetches_fails_another_fetches(gateway: GatewayHandle, simulator: SimulatorHandle) -> None:
    model = "gpt-sim~latency_ms=400~status=400"
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: ask(gateway, f"broken {gateway.home}", model), range(4)))
    assert [answer.status_code for answer in answers] == [400] * 4, "each has asked for itself, one after the other"


def test_what_is_saved_is_counted(gateway: GatewayHandle) -> None:
    ask(gateway, "save")
    ask(gateway, "save")

    def total() -> Any:
        told = json.loads(gateway.coollm("usage", "report", "--json").stdout)["total"]
        return told if told["cached"] else None

    told = wait_for(total, 10, "the ledger")
    assert told["saved_usd"] > 0
    metrics = requests.get(f"{gateway.url}/metrics", timeout=9).text
    assert 'coo_llm_cache_requests_total{result="hit"}' in metrics
    assert "coo_llm_cache_saved_cost_total" in metrics
    assert json.loads(gateway.coollm("usage", "verify", "--json").stdout)["ok"]
