from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from coollm.core.config.schema import ConfiguredClient, Fallback, HybridWeights, Policy, Provider, Settings, Sticky
from coollm.core.errors import NotAllowed, UnknownModel
from coollm.core.pricing import Rates, flat
from coollm.core.registry import ALGORITHMS
from coollm.core.secrets import Secret
from coollm.core.types import ChatRequest, Message, Target, TextPart, Usage
from coollm.providers.verdict import Cause, Verdict
from coollm.routing.base import Reading
from coollm.routing.catalog import Catalog
from coollm.routing.reaction import LONGEST_BREAKER_SECONDS, Next, react
from coollm.routing.stats import Board
from coollm.routing.sticky import stick, stickiness


def target(name: str, **more: Any) -> Target:
    return Target(provider=name, type="t", key_id="k", model="m", **more)


def first(algorithm: str, targets: list[Target], readings: dict[str, Reading], turn: int = 0, policy: Policy | None = None) -> str:
    return ALGORITHMS[algorithm].rank(targets, {t.key: readings.get(t.provider, Reading()) for t in targets}, turn, policy or Policy())[0].target.provider


def test_round_robin_takes_turns() -> None:
    targets = [target("a"), target("b"), target("c")]
    assert [first("round_robin", targets, {}, turn) for turn in range(6)] == ["a", "b", "c", "a", "b", "c"]


def test_weighted_keeps_the_shares() -> None:
    targets = [target("a", weight=3.0), target("b", weight=1.0), target("c", weight=0.0)]
    counted = Counter(first("weighted", targets, {}, turn) for turn in range(1000))
    assert abs(counted["a"] - 750) <= 5
    assert abs(counted["b"] - 250) <= 5
    assert counted["c"] == 0


def test_least_loaded() -> None:
    assert first("least_loaded", [target("a"), target("b")], {"a": Reading(in_flight=3), "b": Reading(in_flight=1)}) == "b"
    weighted = [target("a", weight=4.0), target("b", weight=1.0)]
    assert first("least_loaded", weighted, {"a": Reading(in_flight=3), "b": Reading(in_flight=1)}) == "a"


def test_latency_prefers_the_fast_and_tries_the_unknown() -> None:
    readings = {"a": Reading(peak_seconds=0.5), "b": Reading(peak_seconds=0.2)}
    assert first("latency", [target("a"), target("b")], readings) == "b"
    assert first("latency", [target("a"), target("b")], {"a": readings["a"]}) == "b"
    assert first("latency", [target("a"), target("b")], {"a": readings["a"], "b": Reading(peak_seconds=0.2, in_flight=9)}) == "a"


def test_cost_prefers_the_cheap_and_fears_the_unknown() -> None:
    targets = [target("unknown"), target("dear", price=flat(Rates(input=5.0, output=5.0))), target("cheap", price=flat(Rates(input=1.0, output=1.0)))]
    order = [one.target.provider for one in ALGORITHMS["cost"].rank(targets, {}, 0, Policy())]
    assert order == ["cheap", "dear", "unknown"]


def test_hybrid_weighs_normalised_components() -> None:
    targets = [target("slow", price=flat(Rates(input=1.0, output=1.0))), target("dear", price=flat(Rates(input=100.0, output=100.0)))]
    readings = {"slow": Reading(latency_seconds=10), "dear": Reading(latency_seconds=0.1)}
    assert first("hybrid", targets, readings, policy=Policy(priority="cost")) == "slow"
    assert first("hybrid", targets, readings, policy=Policy(priority="latency")) == "dear"
    only_errors = Policy(hybrid_weights=HybridWeights(token_ratio=0, req_ratio=0, latency=0, cost_ratio=0, error_score=5))
    assert first("hybrid", targets, {"slow": Reading(error_rate=0.5), "dear": Reading(error_rate=0.1)}, policy=only_errors) == "dear"
    ranked = ALGORITHMS["hybrid"].rank(targets, {t.key: readings[t.provider] for t in targets}, 0, Policy())
    assert all(0 <= one.score <= 1 for one in ranked)
    assert set(ranked[0].components) == {"token_ratio", "req_ratio", "error_score", "latency", "cost_ratio"}


def test_equals_take_turns() -> None:
    targets = [target("a"), target("b")]
    for algorithm in ("hybrid", "least_loaded", "latency", "cost"):
        assert [first(algorithm, targets, {}, turn) for turn in range(4)] == ["a", "b", "a", "b"]


def test_statistics() -> None:
    now = [0.0]
    board = Board(lambda: now[0])
    board.succeeded("k", 0.1)
    board.succeeded("k", 2.0)
    assert board.all_of("k").peak_seconds == 2.0, "a peak counts at once"
    assert board.all_of("k").latency_seconds == pytest.approx(1.05), "and in a mean by half"
    now[0] += 60
    board.succeeded("k", 0.1)
    assert 0.1 < board.all_of("k").peak_seconds < 0.8, "and fades"
    for _ in range(30):
        board.failed("k")
    assert board.of("k").error_rate > 0.9
    assert board.of("k").consecutive_failures == 30
    board.succeeded("k", 0.1)
    assert board.of("k").consecutive_failures == 0
    board.begin("k")
    assert board.of("k").in_flight == 1
    board.end("k")
    board.end("k")
    assert board.of("k").in_flight == 0


def test_workers_know_what_the_others_have_seen() -> None:
    now = [0.0]
    mine, theirs = Board(lambda: now[0]), Board(lambda: now[0])
    for _ in range(4):
        theirs.failed("k")
        theirs.succeeded("k", 4.0)
    theirs.begin("k")
    mine.begin("k")
    mine.hear([theirs.news()])
    assert mine.all_of("k").in_flight == 2
    assert mine.all_of("k").latency_seconds == pytest.approx(4.0)
    assert mine.all_of("k").error_rate == pytest.approx(theirs.of("k").error_rate)
    for _ in range(8):
        mine.succeeded("k", 1.0)
    assert mine.all_of("k").latency_seconds == pytest.approx(2.5, abs=0.3), "by how much each has seen"
    now[0] += 600
    mine.hear([theirs.news()])
    assert (mine.all_of("k").weight, mine.all_of("k").error_rate, mine.all_of("k").in_flight) == (0, 0, 2), "what is long past is not known any more"
    mine.hear([])
    assert mine.all_of("k").in_flight == 1


def test_a_session_stays_with_its_key_and_keys_keep_their_shares() -> None:
    targets = [target("a", weight=3.0), target("b", weight=1.0), target("c", weight=1.0)]
    ranked = ALGORITHMS["round_robin"].rank(targets, {}, 0, Policy())
    chosen = {name: stick(ranked, name)[0].target.provider for name in map(str, range(2000))}
    counted = Counter(chosen.values())
    assert abs(counted["a"] - 1200) < 100
    without = [one for one in ranked if one.target.provider != "b"]
    moved = [name for name, provider in chosen.items() if stick(without, name)[0].target.provider != provider]
    assert {chosen[name] for name in moved} == {"b"}, "when a key goes only its own sessions move"
    turned = ALGORITHMS["round_robin"].rank(targets, {}, 1, Policy())
    assert all(stick(turned, name)[0].target.provider == provider for name, provider in chosen.items())


def test_what_belongs_together() -> None:
    def request(text: str, **more: Any) -> ChatRequest:
        said = (Message(role="system", parts=(TextPart(text="You are brief."),)), Message(role="user", parts=(TextPart(text=text),)))
        return ChatRequest(model="m", messages=said, **more)

    by_session, by_prefix = Sticky(by="session"), Sticky(by="prefix")
    assert stickiness(Sticky(), request("a"), "s") is None
    assert stickiness(by_session, request("a"), "s") == "s"
    assert stickiness(by_session, request("a", source={"prompt_cache_key": "p"}), None) == "p"
    assert stickiness(by_session, request("a"), None) is None
    assert stickiness(by_prefix, request("a"), None) == stickiness(by_prefix, request("a"), "x") != stickiness(by_prefix, request("b"), None)


def test_a_clients_fault_touches_no_key() -> None:
    for cause in (Cause.CLIENT_FAULT, Cause.UNKNOWN_MODEL, Cause.UNSUPPORTED):
        reaction = react(Verdict(cause=cause, message=""), 99)
        assert (reaction.is_failure, reaction.cooldown_seconds) == (False, 0)
    assert react(Verdict(cause=Cause.CLIENT_FAULT, message=""), 0).next is Next.STOP


def test_the_breaker_opens_at_the_third_failure_and_doubles() -> None:
    cooldowns = [react(Verdict(cause=Cause.VENDOR_ERROR, message=""), failures).cooldown_seconds for failures in range(6)]
    assert cooldowns == [0, 0, 5, 10, 20, 40]
    assert react(Verdict(cause=Cause.VENDOR_ERROR, message=""), 10_000).cooldown_seconds == LONGEST_BREAKER_SECONDS


def test_retry_after_sets_the_cooldown() -> None:
    assert react(Verdict(cause=Cause.RATE_LIMITED, message="", retry_after_seconds=17), 0).cooldown_seconds == 17
    assert react(Verdict(cause=Cause.QUOTA_EXHAUSTED, message="", retry_after_seconds=1), 0).cooldown_seconds == 900


def test_cost() -> None:
    priced = target("a", price=flat(Rates(input=2.0, output=8.0, cached_input=1.0)))
    usage = Usage(input_tokens=1_000_000, cached_input_tokens=500_000, output_tokens=200_000, reasoning_tokens=50_000)
    assert priced.cost_usd(usage) == pytest.approx(2.0 + 0.5 + 2.0)
    assert target("b").cost_usd(usage) is None
    assert target("c", price=flat(Rates(input=2.0, output=0.0))).cost_usd(Usage(cached_input_tokens=1_000_000)) == 2.0


def provider(name: str, kind: str = "openai", **more: Any) -> Provider:
    return Provider(id=name, type=kind, api_keys=(Secret(f"sk-{name}-1"), Secret(f"sk-{name}-2")), **more)


SETTINGS = Settings(
    llm_providers=(
        provider("east", model="gpt-4o", models=("gpt-4o", "gpt-4o-mini")),
        provider("west", models=("gpt-4o", "o3-*")),
        provider("claude", "claude", model="claude-x"),
        provider("open", "openai"),
    ),
    model_aliases={"fast": ("east:gpt-4o-mini",), "any": ("east:gpt-4o", "claude:claude-x")},
    policy=Policy(fallback=Fallback(providers=("claude",))),
)


def served(name: str, client: ConfiguredClient | None = None) -> list[tuple[str, str]]:
    found = Catalog(SETTINGS).resolve(name, client)
    return list(dict.fromkeys((one.provider, one.model) for one in found if not one.fallback))


def test_names_resolve() -> None:
    assert served("east:gpt-4o") == [("east", "gpt-4o")]
    assert served("gpt-4o") == [("east", "gpt-4o"), ("west", "gpt-4o"), ("open", "gpt-4o")]
    assert served("o3-pro") == [("west", "o3-pro"), ("open", "o3-pro")]
    assert served("fast") == [("east", "gpt-4o-mini")]
    assert served("any") == [("east", "gpt-4o"), ("claude", "claude-x")]
    assert served("open:anything") == [("open", "anything")]
    assert served("openai:gpt-4o") == [("east", "gpt-4o"), ("west", "gpt-4o"), ("open", "gpt-4o")]


def test_every_key_is_a_target_and_stand_ins_come_last() -> None:
    found = Catalog(SETTINGS).resolve("fast", None)
    assert [(one.provider, one.fallback) for one in found] == [("east", False), ("east", False), ("claude", True), ("claude", True)]
    assert len({one.key for one in found}) == 4


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(UnknownModel, match=r"nearest: .*east:gpt-4o"):
        Catalog(SETTINGS).resolve("east:gpt-40", None)
    with pytest.raises(UnknownModel):
        Catalog(SETTINGS).resolve("x" * 10_000, None)


def test_permissions() -> None:
    client = ConfiguredClient(key=Secret("k-client-1"), id="c", allowed_providers=("claude",), allowed_models=("claude-*", "gpt-4o"))
    with pytest.raises(NotAllowed, match="may not use the provider"):
        Catalog(SETTINGS).resolve("gpt-4o", client)
    assert served("claude-x", client) == [("claude", "claude-x")]
    narrow = ConfiguredClient(key=Secret("k-client-2"), id="d", allowed_models=("gpt-4o-mini",))
    with pytest.raises(NotAllowed, match="may not use the model"):
        Catalog(SETTINGS).resolve("gpt-4o", narrow)
    assert [name for name, _ in Catalog(SETTINGS).names(narrow)] == ["fast", "east:gpt-4o-mini"]
    assert all(not one.fallback for one in Catalog(SETTINGS).resolve("gpt-4o-mini", narrow)), "a stand-in's model must be allowed as well"
