"""Counters of budgets beside the ledger, while requests come and go."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from coollm.budgets import Budgets
from coollm.core.config.schema import ConfiguredClient, Limits, Settings
from coollm.core.secrets import Secret
from coollm.ledger.book import Ledger
from coollm.ledger.shipper import Shipper
from coollm.limits.charges import budget_charge
from coollm.limits.limiter import Limiter
from coollm.limits.scopes import Scopes
from coollm.stores.base import Charge, Standing
from coollm.stores.memory import MemoryStore
from tests.ledger.entries import entry

COST = 1_000_000


class Far(MemoryStore):
    """A store whose answers are long under way: `meanwhile` happens after it has counted."""

    def __init__(self) -> None:
        super().__init__()
        self.meanwhile: Callable[[], object] = lambda: None

    def standing(self, charges: Sequence[Charge]) -> Mapping[str, Standing]:
        found = super().standing(charges)
        self.meanwhile()
        return found


@pytest.fixture
def site(tmp_path: Path) -> tuple[Far, Budgets, Callable[[int], None]]:
    """The store, the budgets, and what begins and ends a request of so many billionths of a dollar."""
    store, ledger = Far(), Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    limits = Limits(budget_usd=10, budget_period="total")
    limiter = Limiter(store, Scopes(Settings(api_keys=(ConfiguredClient(id="c", key=Secret("k" * 20), limits=limits),))), "me")
    budgets = Budgets(limiter, ledger, cast("Shipper", SimpleNamespace(ship=lambda: 0)), "me")
    scope = limiter.scopes.budgeted()[0]

    def serve(number: int, *, is_counted: bool = True) -> None:
        charge = budget_charge(scope, COST, time.time())
        assert charge is not None
        time.sleep(0.005)
        now = int(time.time() * 1000)
        ledger.ship([entry(number, at_ms=now, charged_ms=now, client="c", cost_nano_usd=COST)], "log", 1, number)
        if is_counted:
            store.charge([charge])
        time.sleep(0.005)

    return store, budgets, cast("Any", serve)


def test_a_request_that_comes_and_goes_while_the_store_answers_is_counted_once(site: Any) -> None:
    store, budgets, serve = site
    serve(1)
    store.meanwhile = lambda: serve(2)
    [told] = budgets.states(store)
    assert told.agrees
    store.meanwhile = lambda: serve(3)
    budgets.recount(store)
    store.meanwhile = lambda: None
    [told] = budgets.states(store)
    assert (told.used, told.spent, told.difference) == (3 * COST, 3 * COST, 0)


def test_what_the_counters_have_not_is_counted_again_once(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coollm.budgets.PATIENCE_SECONDS", 0.0)
    store, budgets, serve = site
    serve(1, is_counted=False)
    serve(2)
    [told] = budgets.states(store)
    assert (told.difference, told.agrees) == (-COST, False)
    store.meanwhile = lambda: serve(3)
    budgets.recount(store)
    store.meanwhile = lambda: None
    [told] = budgets.states(store)
    assert (told.used, told.difference) == (3 * COST, 0)


def test_a_counter_above_the_ledger_is_told(site: Any) -> None:
    store, budgets, serve = site
    serve(1)
    _, charge, _ = budgets.counted(store)[0]
    store.charge([Charge(counter=charge.counter, amount=7, limit=charge.limit, span=charge.span)])
    [told] = budgets.states(store)
    assert (told.difference, told.agrees) == (7, False)
