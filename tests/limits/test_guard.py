"""What happens while the store fails, for each rule, and when it comes back."""

from __future__ import annotations

from typing import Any

import pytest

from coollm.stores.base import LIVE, Candidate, Charge, Correction, Hold, Span, StoreError
from coollm.stores.guard import BAD_ANSWERS, GuardedStore
from coollm.stores.memory import MemoryStore


class Moody(MemoryStore):
    """A store that fails, or dawdles, as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.mood = "good"
        self.time = 0.0
        self.asked = 0

    def _feel(self) -> None:
        self.asked += 1
        if self.mood == "dead":
            raise StoreError("refused")
        self.time += 0.5 if self.mood == "slow" else 0.001

    def decide(self, *arguments: Any) -> Any:
        self._feel()
        return super().decide(*arguments)

    def settle(self, *arguments: Any) -> None:
        self._feel()
        super().settle(*arguments)

    def ping(self) -> None:
        self._feel()


CHARGE = Charge(counter="client:c:requests", amount=1, limit=8)
KEY = Candidate(key="p/k")


def guarded(rule: Any, share: float = 0.25) -> tuple[Moody, GuardedStore]:
    moody = Moody()
    return moody, GuardedStore(moody, rule, share, lambda: moody.time)


def fail(moody: Moody, store: GuardedStore, mood: str = "dead") -> None:
    moody.mood = mood
    for _ in range(BAD_ANSWERS):
        if mood == "dead":
            with pytest.raises(StoreError):
                store.ping()
        else:
            store.ping()
    assert store.is_failing


@pytest.mark.parametrize("mood", ["dead", "slow"])
def test_three_bad_answers_in_a_row_open_the_breaker(mood: str) -> None:
    moody, store = guarded("deny")
    fail(moody, store, mood)
    asked = moody.asked
    with pytest.raises(StoreError):
        store.decide([CHARGE], [KEY])
    assert moody.asked == asked, "nobody waits for it any more"


def test_a_good_answer_between_bad_ones_keeps_it_closed() -> None:
    moody, store = guarded("deny")
    for mood in ("slow", "slow", "good", "slow", "slow"):
        moody.mood = mood
        store.decide([CHARGE], [KEY])
    assert not store.is_failing


def test_an_answer_that_is_lost_leaves_nothing_held() -> None:
    """The store did its work, and its answer was lost on the way."""
    moody, store = guarded("deny")
    running = Charge(counter="client:c:running", amount=1, limit=5, span=LIVE)
    MemoryStore.decide(moody, [running], [KEY], Hold(id="r1", owner="me"))
    moody.mood = "dead"
    with pytest.raises(StoreError):
        store.decide([running], [KEY], Hold(id="r1", owner="me"))
    moody.mood = "good"
    store.beat("me", b"")
    assert store.used([running]) == {"client:c:running": 0}


def test_allow() -> None:
    moody, store = guarded("allow")
    fail(moody, store)
    assert all(store.decide([CHARGE], [KEY]).chosen == 0 for _ in range(20))
    store.cool("p/k", 60, "rate_limited")
    assert store.decide([CHARGE], [KEY, Candidate(key="p/l")]).chosen == 1, "a key that cools is passed over still"


def test_local_is_a_share_of_the_limit() -> None:
    moody, store = guarded("local")
    fail(moody, store)
    admitted = [store.decide([CHARGE], [KEY], Hold(id=str(number), owner="me")).chosen for number in range(4)]
    assert admitted == [0, 0, None, None], "a quarter of 8"


def test_a_budget_is_not_spent_without_the_store() -> None:
    moody, store = guarded("local")
    fail(moody, store)
    money = Candidate(key="p/dear", charges=(Charge(counter="client:c:cost", amount=1, limit=100, span=Span(kind="period", starts=1)),))
    with pytest.raises(StoreError, match="budget"):
        store.decide((), [money])
    assert store.decide((), [money, KEY]).chosen == 1


@pytest.mark.parametrize("rule", ["deny", "local", "allow"])
def test_when_it_answers_again_it_gets_what_it_is_owed(rule: Any) -> None:
    moody, store = guarded(rule)
    running = Charge(counter="client:c:running", amount=1, limit=5, span=LIVE)
    tokens = Charge(counter="client:c:tokens", amount=10, limit=100)
    decision = store.decide([running, tokens], [KEY], Hold(id="r1", owner="me"))
    fail(moody, store)
    store.settle(["r1"], [Correction(counter="client:c:tokens", bucket=tokens.span.bucket(decision.now), difference=-7)])
    store.probe()
    assert store.is_failing
    moody.mood = "slow"
    store.probe()
    assert store.is_failing, "an answer that comes late is none"
    moody.mood = "good"
    store.probe()
    assert not store.is_failing
    assert store.used([running, tokens]) == {"client:c:running": 0, "client:c:tokens": 3}


def test_what_was_admitted_locally_is_settled_locally() -> None:
    moody, store = guarded("local", share=1.0)
    fail(moody, store)
    running = Charge(counter="client:c:running", amount=1, limit=1, span=LIVE)
    assert store.decide([running], [KEY], Hold(id="r1", owner="me")).chosen == 0
    assert store.decide([running], [KEY], Hold(id="r2", owner="me")).chosen is None
    moody.mood = "good"
    store.probe()
    store.settle(["r1"], [])
    fail(moody, store)
    assert store.decide([running], [KEY], Hold(id="r3", owner="me")).chosen == 0
