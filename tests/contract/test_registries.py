"""Every row of every registry loads and keeps its contract."""

from __future__ import annotations

import json

import pytest

from coollm.api.chat_wire import parse_request
from coollm.api.routes import Access
from coollm.core.config.schema import Policy
from coollm.core.pricing import Rates, flat
from coollm.core.registry import ALGORITHMS, ENDPOINTS, PROVIDERS
from coollm.core.types import EmbeddingRequest, ModelRequest, Target
from coollm.providers.base import Losses
from coollm.providers.payload import joined
from coollm.providers.verdict import Cause, Verdict
from coollm.routing.base import Reading
from coollm.routing.reaction import react

TARGETS = [
    Target(provider=f"p{number}", type="t", key_id="k", model="m", weight=1.0, price=flat(Rates(input=float(number + 1), output=1.0))) for number in range(4)
]
READINGS = {target.key: Reading(latency_seconds=0.1 * (number + 1), in_flight=number) for number, target in enumerate(TARGETS)}


@pytest.mark.parametrize("name", PROVIDERS.names())
def test_every_provider_encodes_a_request_and_judges_answers(name: str) -> None:
    dialect = PROVIDERS[name]
    asked: ModelRequest = parse_request({"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True})
    if not dialect.has_chat:
        asked = EmbeddingRequest(model="m", inputs=("hello",), source={"model": "m", "input": "hello"})
    made = dialect.encode(asked, TARGETS[0], dialect.base_url or "http://vendor", "the-key", Losses())
    assert made.method == "POST"
    assert made.url.startswith("http")
    assert "the-key" not in made.url
    assert any("the-key" in value for _, value in made.headers)
    assert json.loads(joined(made.body))
    assert dialect.verdict(429, {"retry-after": "3"}, b"").cause is Cause.RATE_LIMITED
    assert dialect.verdict(500, {}, b"<html>").cause is Cause.VENDOR_ERROR
    assert dialect.verdict(401, {}, b"{}").cause is Cause.KEY_REJECTED
    assert not dialect.has_chat or not made.answer.stream_decoder().is_whole
    assert dialect.wire
    assert dialect.base_url is None or dialect.base_url.startswith("https://") or name == "ollama"


@pytest.mark.parametrize("name", ALGORITHMS.names())
def test_every_algorithm_orders_all_targets_without_losing_one(name: str) -> None:
    for turn in range(8):
        ranked = ALGORITHMS[name].rank(TARGETS, READINGS, turn, Policy())
        assert sorted(one.target.provider for one in ranked) == ["p0", "p1", "p2", "p3"]
        assert [one.score for one in ranked] == sorted((one.score for one in ranked), reverse=True)
        assert all(0 <= value <= 1 for one in ranked for value in one.components.values())


@pytest.mark.parametrize("name", ENDPOINTS.names())
def test_every_family_of_routes_has_rules(name: str) -> None:
    for route in ENDPOINTS[name]:
        assert route.access in tuple(Access)
        assert route.path.startswith("/")
        assert route.methods


@pytest.mark.parametrize("cause", list(Cause))
def test_every_cause_has_a_reaction(cause: Cause) -> None:
    assert react(Verdict(cause=cause, message=""), 0).next


def test_an_unknown_name_is_not_there() -> None:
    assert "nonsense" not in PROVIDERS
