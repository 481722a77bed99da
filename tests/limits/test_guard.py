"""What happens while the store fails, for each rule, and when it comes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event

from coollm.core.config.schema import Settings
from coollm.core.pricing import Rates, flat
from coollm.core.types import Target, Usage
from coollm.limits.limiter import Limiter, Reservation
from coollm.limits.scopes import Scopes
from coollm.stores.base import LIVE, Candidate, Charge, Correction, Hold, Settlement, Span, StoreError, StoreForgot
from coollm.stores.guard import BAD_ANSWERS, FORGOTTEN_SECONDS, GuardedStore
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


class Stalling(MemoryStore):
    """A store that all who ask wait for, until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.goes_on = Event()

    def decide(self, *arguments: Any) -> Any:
        self.goes_on.wait()
        return super().decide(*arguments)


def test_what_waited_for_the_same_stall_is_one_bad_answer() -> None:
    """As a file does whose disk syncs, or a server whose network stands still for a moment: many wait, and nothing is wrong a moment later."""
    time = [0.0]
    stalling = Stalling()
    store = GuardedStore(stalling, "deny", 1.0, lambda: time[0])
    for number in range(BAD_ANSWERS):
        assert not store.is_failing
        stalling.goes_on.clear()
        waiting = [gevent.spawn(store.decide, [Charge(counter="client:c:requests", amount=1, limit=800)], [KEY]) for _ in range(20)]
        gevent.sleep(0)
        time[0] += 0.4
        stalling.goes_on.set()
        gevent.joinall(waiting, raise_error=True)
        assert store.is_failing == (number == BAD_ANSWERS - 1), "three stalls without a good answer between them are too many"


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
    correction = Correction(counter="client:c:tokens", bucket=tokens.span.bucket(decision.now), difference=-7)
    store.settle([Settlement(hold="r1", corrections=(correction,))])
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
    store.settle([Settlement(hold="r1")])
    fail(moody, store)
    assert store.decide([running], [KEY], Hold(id="r3", owner="me")).chosen == 0


class Forgetful(Moody):
    """A store that can lose what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_for = self._identity

    def forget(self) -> None:
        MemoryStore.__init__(self)

    def identity(self) -> str:
        self.asked_for = super().identity()
        return self.asked_for

    def decide(self, *arguments: Any) -> Any:
        if self.asked_for != self._identity:
            raise StoreForgot("lost")
        return super().decide(*arguments)


MONEY = Charge(counter="client:c:cost", amount=10, limit=1000, span=Span(kind="period", starts=1))


def test_a_store_that_forgot_is_not_used_until_no_window_reaches_back_and_budgets_are_counted(tmp_path: Path) -> None:
    store = Forgetful()
    counted: list[Any] = []
    guard = GuardedStore(store, "deny", 1.0, lambda: store.time, tmp_path / "identity")
    guard.recount = counted.append
    assert guard.decide([CHARGE], [KEY]).chosen == 0
    store.forget()
    with pytest.raises(StoreForgot):
        guard.decide([CHARGE], [KEY])
    assert guard.is_failing
    store.time += FORGOTTEN_SECONDS - 1
    guard.probe()
    assert (guard.is_failing, counted, guard.epoch) == (True, [], 0)
    assert guard.seconds_until_trusted == pytest.approx(1, abs=0.01)
    store.time += 2
    guard.probe()
    assert guard.seconds_until_trusted is None
    assert (guard.is_failing, counted, guard.epoch) == (False, [store], 1)
    assert guard.decide([CHARGE], [KEY]).chosen == 0


def test_a_store_whose_budgets_cannot_be_counted_stays_out(tmp_path: Path) -> None:
    store = Forgetful()
    guard = GuardedStore(store, "deny", 1.0, lambda: store.time, tmp_path / "identity")

    def cannot(_: Any) -> None:
        raise StoreError("the ledger does not answer")

    guard.recount = cannot
    store.forget()
    with pytest.raises(StoreForgot):
        guard.decide((), [KEY])
    store.time += FORGOTTEN_SECONDS + 1
    guard.probe()
    assert (guard.is_failing, guard.reason) == (True, "the ledger does not answer")


def test_a_start_before_another_store_than_the_last_time(tmp_path: Path) -> None:
    store = Forgetful()
    assert not GuardedStore(store, "deny", 1.0, lambda: store.time, tmp_path / "identity").is_failing
    assert not GuardedStore(store, "deny", 1.0, lambda: store.time, tmp_path / "identity").is_failing
    store.forget()
    assert GuardedStore(store, "deny", 1.0, lambda: store.time, tmp_path / "identity").is_failing


def test_what_ran_while_the_store_forgot_is_charged_when_it_ends() -> None:
    store = MemoryStore()
    limiter = Limiter(store, Scopes(Settings()), "me")
    target = Target(provider="p", type="t", key_id="k", model="m", price=flat(Rates(input=1.0, output=1.0)))
    reservation = Reservation(id="r/1", now=0.0, charges=(MONEY, CHARGE), target=target, epoch=0)
    store.epoch = 1
    limiter.settle([([reservation], Usage(input_tokens=7))])
    assert store.used([MONEY, CHARGE]) == {"client:c:cost": 7000, "client:c:requests": 0}
