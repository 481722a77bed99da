from __future__ import annotations

import itertools
import time
from datetime import datetime
from typing import Any

import msgspec
import pytest

from coollm.core.config.schema import ConfiguredClient, Limits, ModelLimits, Settings
from coollm.core.errors import LimitReached, NotAllowed
from coollm.core.money import nano_usd
from coollm.core.pricing import Rates, flat
from coollm.core.secrets import Secret
from coollm.core.types import Base64, ChatRequest, ImagePart, Message, Target, TextPart, Usage
from coollm.limits.charges import BUDGETED_OUTPUT_TOKENS, TOKENS
from coollm.limits.estimate import DEFAULT_OUTPUT_TOKENS, Estimate, estimate_of, input_tokens
from coollm.limits.keeper import Keeper, Note
from coollm.limits.limiter import Lease, Limiter, budgets_used
from coollm.limits.output_sizes import OutputSizes
from coollm.limits.period import period_span
from coollm.limits.scopes import Scope, Scopes
from coollm.limits.settlement import Ending, settled_usage
from coollm.news import Exchange
from coollm.routing.stats import Board
from coollm.stores.memory import MemoryStore


def limiter_of(store: MemoryStore | None = None, **more: Any) -> Limiter:
    scopes = Scopes(Settings(**more))
    scopes.has_budgets = True  # the tests below give budgets to scopes of their own
    return Limiter(store or MemoryStore(), scopes, "me")


def who(attempt: int = 1, team: Limits | None = None, **limits: Any) -> Lease:
    """A first attempt of client `c`, and of team `t` if it has limits."""
    own = Scope(kind="client", id="c", limits=Limits(**limits))
    scopes = (own, Scope(kind="team", id="t", limits=team)) if team else (own,)
    return Lease(request_id=f"r{next(NUMBERS)}", attempt=attempt, scopes=scopes)


def total(store: MemoryStore, *counters: str) -> list[int]:
    found = [store._counters.get(counter) for counter in counters]
    return [sum(bucket.amount for bucket in one.buckets.values()) if one else 0 for one in found]


NUMBERS = itertools.count()


def asked(text: str = "x" * 400, **more: object) -> ChatRequest:
    return ChatRequest(model="m", messages=(Message(role="user", parts=(TextPart(text=text),)),), **more)  # type: ignore[arg-type]


def chat(**more: object) -> Estimate:
    return estimate_of(asked(**more), with_most=True)  # type: ignore[arg-type]


TARGET = Target(provider="p", type="t", key_id="k", model="m", req_per_min=2, tokens_per_min=1000)
OTHER = Target(provider="q", type="t", key_id="k", model="m")


def test_reserve_then_settle() -> None:
    store = MemoryStore()
    limiter = limiter_of(store)
    grant, _ = limiter.lease(who(req_per_min=5, tokens_per_min=2000), chat(max_output_tokens=100), [TARGET])
    assert grant is not None
    assert grant.client is not None
    assert total(store, "client:c:tokens", "key:p/k:tokens") == [238, 238]
    limiter.settle([([grant.key, grant.client], Usage(input_tokens=90, output_tokens=10))])
    assert total(store, "client:c:tokens", "key:p/k:tokens", "client:c:requests") == [100, 100, 1]
    assert limiter.fullness("p/k", TOKENS) == pytest.approx(0.238, abs=0.01)
    assert store._holds == {}


def test_a_full_key_is_passed_over() -> None:
    limiter = limiter_of()
    names = []
    for _ in range(4):
        grant, _ = limiter.lease(who(), chat(max_output_tokens=1), [TARGET, OTHER])
        assert grant is not None
        names.append(grant.target.provider)
    assert names == ["p", "p", "q", "q"]


def test_a_full_client_is_refused_with_a_true_wait() -> None:
    limiter = limiter_of()
    limiter.lease(who(req_per_min=1), chat(), [OTHER])
    with pytest.raises(LimitReached) as raised:
        limiter.lease(who(req_per_min=1), chat(), [OTHER])
    assert raised.value.retry_after_seconds is not None
    assert 55 < raised.value.retry_after_seconds <= 61


def test_what_never_fits_is_told_so() -> None:
    limiter = limiter_of()
    with pytest.raises(LimitReached) as raised:
        limiter.lease(who(tokens_per_min=150), chat(max_output_tokens=100), [OTHER])
    assert (raised.value.code, raised.value.retry_after_seconds) == ("request_too_large", None)
    grant, _ = limiter.lease(who(tokens_per_min=150), chat(), [OTHER])
    assert grant is not None, f"an output that is only guessed ({DEFAULT_OUTPUT_TOKENS}) does not make a request too large"


def test_a_team_is_charged_for_all_its_clients() -> None:
    store = MemoryStore()
    limiter = limiter_of(store)
    team = Limits(req_per_min=2)
    for _ in range(2):
        limiter.lease(who(team=team, req_per_min=10), chat(), [OTHER])
    with pytest.raises(LimitReached, match="limit of this team is 2 requests"):
        limiter.lease(who(team=team, req_per_min=10), chat(), [OTHER])
    assert total(store, "client:c:requests", "team:t:requests") == [2, 2]


def test_models_have_limits_whoever_asks() -> None:
    limiter = limiter_of(model_limits=(ModelLimits(model="q:m*", limits=Limits(req_per_min=1)),))
    first, _ = limiter.lease(who(), chat(), [OTHER])
    second, decision = limiter.lease(who(), chat(), [OTHER])
    assert first is not None
    assert second is None
    assert decision.skipped[0].reason == "limit: model:q:m*:requests"


def test_what_runs_counts_until_it_ends() -> None:
    store = MemoryStore()
    limiter = limiter_of(store)
    keyed = msgspec.structs.replace(OTHER, concurrent=5)
    grants = [limiter.lease(who(concurrent=2), chat(), [keyed])[0] for _ in range(2)]
    with pytest.raises(LimitReached) as raised:
        limiter.lease(who(concurrent=2), chat(), [keyed])
    assert (raised.value.code, raised.value.retry_after_seconds) == ("concurrency_limit_exceeded", 1.0)
    for grant in grants:
        assert grant is not None
        limiter.settle([([grant.key, grant.client], Usage())])
    assert total(store, "client:c:running", "key:q/k:running") == [0, 0]
    assert limiter.lease(who(concurrent=2), chat(), [keyed])[0] is not None


def test_a_session_of_the_vendors() -> None:
    limiter = limiter_of()
    keyed = msgspec.structs.replace(OTHER, session_tokens=320, session_seconds=3600)
    grant, _ = limiter.lease(who(), chat(max_output_tokens=100), [keyed])
    assert grant is not None
    nobody, decision = limiter.lease(who(), chat(max_output_tokens=100), [keyed])
    assert nobody is None
    assert decision.retry_after_seconds is not None
    assert 3500 < decision.retry_after_seconds <= 3660
    limiter.settle([([grant.key, grant.client], Usage(input_tokens=50, output_tokens=20))])
    assert limiter.lease(who(), chat(max_output_tokens=100), [keyed])[0] is not None


def test_a_second_attempt_leaves_what_the_client_holds() -> None:
    """The client is charged once, with the first attempt: another key that is tried then must not let go of that."""
    store = MemoryStore()
    limiter = limiter_of(store)
    first = who(concurrent=1, tokens_per_min=1000)
    failed, _ = limiter.lease(first, chat(max_output_tokens=100), [TARGET])
    assert failed is not None
    limiter.settle([([failed.key], Usage())])
    second = msgspec.structs.replace(first, attempt=2, is_first=False)
    grant, _ = limiter.lease(second, chat(max_output_tokens=100), [OTHER])
    assert grant is not None
    assert total(store, "client:c:running") == [1], "the request still runs"
    with pytest.raises(LimitReached):
        limiter.lease(msgspec.structs.replace(who(), scopes=first.scopes), chat(max_output_tokens=100), [OTHER])
    limiter.settle([([grant.key, failed.client], Usage(input_tokens=50, output_tokens=20))])
    assert total(store, "client:c:running", "client:c:tokens") == [0, 70]


PRICED = Target(provider="q", type="t", key_id="k", model="m", price=flat(Rates(input=1.0, output=10.0)))


def test_money_is_reserved_at_its_most_and_settled_at_what_it_was() -> None:
    store = MemoryStore()
    limiter = limiter_of(store)
    grant, decision = limiter.lease(who(budget_usd=0.01, budget_period="total"), chat(max_output_tokens=100), [PRICED])
    assert grant is not None
    reserved = total(store, "client:c:cost")[0]
    assert 1_400_000 <= reserved <= 1_450_000, "as many tokens as bytes, and the whole answer"
    assert budgets_used(decision) == (("client", "c", reserved / 10_000_000),)
    limiter.settle([([grant.key, grant.client], Usage(input_tokens=100, output_tokens=20))])
    assert total(store, "client:c:cost") == [300_000]


def test_a_budget_is_never_exceeded_and_what_is_left_can_be_used() -> None:
    limiter = limiter_of()
    grants = []
    while True:
        grant, decision = limiter.lease(who(budget_usd=0.01, budget_period="total"), chat(max_output_tokens=100), [PRICED])
        if grant is None:
            break
        grants.append(grant)
    assert len(grants) == 6
    assert decision.skipped[0].reason == "limit: client:c:cost"
    assert decision.retry_after_seconds is None, "a total budget does not begin anew"
    limiter.settle([([grants[0].key, grants[0].client], Usage())])
    assert limiter.lease(who(budget_usd=0.01, budget_period="total"), chat(max_output_tokens=100), [PRICED])[0] is not None


def test_an_answer_without_a_limit_is_given_one_where_money_is_counted() -> None:
    grant, _ = limiter_of().lease(who(budget_usd=1), chat(), [PRICED])
    assert grant is not None
    assert grant.target.max_tokens == BUDGETED_OUTPUT_TOKENS
    grant, _ = limiter_of().lease(who(), chat(), [PRICED])
    assert grant is not None
    assert grant.target.max_tokens is None


def test_what_has_no_price_is_not_for_a_budget() -> None:
    with pytest.raises(NotAllowed) as raised:
        limiter_of().lease(who(budget_usd=1), chat(), [OTHER])
    assert raised.value.code == "price_unknown"
    grant, _ = limiter_of().lease(who(budget_usd=1), chat(), [OTHER, PRICED])
    assert grant is not None
    assert grant.target.price == PRICED.price


@pytest.mark.parametrize(
    ("period", "zone", "now", "starts", "ends"),
    [
        ("day", "UTC", "2026-11-23T05:00:00+00:00", "2026-11-23T00:00:00+00:00", "2026-11-24T00:00:00+00:00"),
        ("week", "UTC", "2026-11-25T05:00:00+00:00", "2026-11-23T00:00:00+00:00", "2026-11-30T00:00:00+00:00"),
        ("month", "UTC", "2026-12-31T23:59:59+00:00", "2026-12-01T00:00:00+00:00", "2027-01-01T00:00:00+00:00"),
        ("day", "America/New_York", "2026-11-23T04:00:00+00:00", "2026-11-22T00:00:00-05:00", "2026-11-23T00:00:00-05:00"),
        ("day", "Europe/Prague", "2026-10-25T12:00:00+00:00", "2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00"),
    ],
)
def test_periods(period: str, zone: str, now: str, starts: str, ends: str) -> None:
    span = period_span(period, zone, datetime.fromisoformat(now).timestamp())
    assert (span.starts, span.ends) == (datetime.fromisoformat(starts).timestamp(), datetime.fromisoformat(ends).timestamp())


def test_money_is_whole_billionths() -> None:
    assert [nano_usd(value) for value in (0.0, 0.1 + 0.2, 1.0, 0.075 / 1e6)] == [0, 300_000_000, 1_000_000_000, 75]


@pytest.mark.parametrize("in_ledger", [None, 77])
def test_a_request_whose_worker_died_is_told_once_and_its_budget_is_what_is_told(in_ledger: int | None) -> None:
    clock = [1000.0]
    store = MemoryStore(lambda: clock[0])
    told: list[Any] = []
    client = ConfiguredClient(key=Secret("a-key-0001"), id="c", limits=Limits(concurrent=3, budget_usd=5))
    limiter = limiter_of(store, api_keys=(client,))
    exchange = Exchange(Board(), OutputSizes())
    living = Keeper(store, "living", exchange, lambda key, model: PRICED if key == "q/k" else None, lambda request_id: in_ledger, told.append)
    store.beat("me", b"")
    estimate = chat(max_output_tokens=10)
    note = Note("r1", "c", "", "chat", "m", 104, 10, time.time())
    limiter.lease(Lease(request_id="r1", attempt=1, scopes=limiter.scopes.of_client(client), note=note.write), estimate, [PRICED])
    living.beat()
    assert told == []
    clock[0] += 20
    living.beat()
    living.beat()
    expected = nano_usd(PRICED.cost_usd(Usage(input_tokens=104, output_tokens=10)) or 0) if in_ledger is None else in_ledger
    assert total(store, "client:c:running", "client:c:cost") == [0, expected]
    lines = [(record.request_id, record.target.key, record.ending, record.usage.estimated) for record in told]
    assert lines == ([("r1", "q/k", "worker_died", True)] if in_ledger is None else []), "a line that was written is not written again"


def test_images_are_not_counted_as_text() -> None:
    image = ChatRequest(model="m", messages=(Message(role="user", parts=(ImagePart(data=Base64(text="A" * 4_000_000), media_type="image/png"),)),))
    assert input_tokens(image) < 2000


@pytest.mark.parametrize(
    ("ending", "counted", "characters", "expected"),
    [
        (Ending.ANSWERED, Usage(input_tokens=9, output_tokens=3), 0, (9, 3, False)),
        (Ending.ANSWERED, None, 40, (104, 10, True)),
        (Ending.VENDOR_FAILED, None, 0, (0, 0, False)),
        (Ending.CUT, Usage(input_tokens=9, output_tokens=1), 40, (9, 10, True)),
        (Ending.CUT, Usage(input_tokens=9, output_tokens=50), 40, (9, 50, False)),
        (Ending.CLIENT_GONE, None, 0, (104, 0, True)),
        (Ending.CLIENT_GONE, None, 40, (104, 10, True)),
    ],
)
def test_the_rule_for_each_ending(ending: Ending, counted: Usage | None, characters: int, expected: tuple[int, int, bool]) -> None:
    usage = settled_usage(ending, asked(), counted, characters)
    assert (usage.prompt_tokens, usage.completion_tokens, usage.estimated) == expected
