"""What a request is charged: on the rates of a client, a team or a model, on a vendor key's limits, and on budgets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coollm.core.money import NANO_USD, nano_usd
from coollm.core.types import Target
from coollm.limits.estimate import Estimate
from coollm.limits.period import period_span
from coollm.stores.base import LIVE, Charge, Span

if TYPE_CHECKING:
    from coollm.limits.scopes import Scope

REQUESTS = "requests"
TOKENS = "tokens"
SESSION_TOKENS = "session_tokens"
RUNNING = "running"
COST = "cost"

KEY = "key"
"""The kind of a vendor key's counters."""

# What an answer costs at most must be known before it is asked for: a request that gives no limit of output is given one.
BUDGETED_OUTPUT_TOKENS = 4096

# A session of hours is counted in so many buckets.
BUCKETS_OF_A_SESSION = 60


def key_counter(key: str, what: str) -> str:
    """The counter of a vendor key's `requests`, `tokens`, `session_tokens` or `running`."""
    return f"{KEY}:{key}:{what}"


def rate_charges(scopes: Sequence[Scope], estimate: Estimate) -> list[Charge]:
    """What a request is charged on the rates of clients, teams and models."""
    charges = []
    for scope in scopes:
        if scope.request_charge is not None:
            charges.append(scope.request_charge)
        limit = scope.limits.tokens_per_min
        if limit is not None:
            charges.append(Charge(counter=scope.token_counter, amount=_token_amount(estimate, None, limit), limit=limit, is_estimated=True))
        if scope.running_charge is not None:
            charges.append(scope.running_charge)
    return charges


class KeyCharges:
    """What a request is charged on one vendor key's limits: all but the tokens is the same for every request."""

    __slots__ = ("_requests", "_running", "_session", "_session_counter", "_tokens_counter")

    def __init__(self, target: Target) -> None:
        requests, running = key_counter(target.key, REQUESTS), key_counter(target.key, RUNNING)
        self._requests = None if target.req_per_min is None else Charge(counter=requests, amount=1, limit=target.req_per_min)
        self._running = None if target.concurrent is None else Charge(counter=running, amount=1, limit=target.concurrent, span=LIVE)
        self._session = Span(seconds=target.session_seconds, width=max(1, target.session_seconds // BUCKETS_OF_A_SESSION))
        self._session_counter = key_counter(target.key, SESSION_TOKENS)
        self._tokens_counter = key_counter(target.key, TOKENS)

    def of(self, target: Target, estimate: Estimate) -> list[Charge]:
        """The charges of a request; `target` says how long its answer may be."""
        charges = [] if self._requests is None else [self._requests]
        limit = target.tokens_per_min
        if limit is not None:
            charges.append(Charge(counter=self._tokens_counter, amount=_token_amount(estimate, target.max_tokens, limit), limit=limit, is_estimated=True))
        if self._running is not None:
            charges.append(self._running)
        limit = target.session_tokens
        if limit is not None:
            amount = _token_amount(estimate, target.max_tokens, limit)
            charges.append(Charge(counter=self._session_counter, amount=amount, limit=limit, span=self._session, is_estimated=True))
        return charges


def budget_charge(scope: Scope, amount: int, now: float) -> Charge | None:
    """A charge of `amount` billionths of a dollar on the budget of a scope, in the period of now; None if it has no budget."""
    limits = scope.limits
    if limits.budget_usd is None:
        return None
    span = period_span(limits.budget_period, limits.budget_timezone, now, scope.budget_since)
    return Charge(counter=scope.counter(COST), amount=amount, limit=round(limits.budget_usd * NANO_USD), span=span, is_estimated=True)


def budget_charges(scopes: Sequence[Scope], target: Target, estimate: Estimate, now: float) -> list[Charge]:
    """What a request may cost at most: no text has more tokens than bytes, and no answer more than the vendor is told."""
    budgeted = [scope for scope in scopes if scope.has_budget]
    if not budgeted or target.price is None:
        return []
    output = (estimate.max_output_tokens or target.max_tokens or BUDGETED_OUTPUT_TOKENS) * estimate.choices
    amount = nano_usd(target.price.dearest_usd(estimate.most_input_tokens, output, estimate.service_tier))
    return [charge for scope in budgeted if (charge := budget_charge(scope, amount, now)) is not None]


def _token_amount(estimate: Estimate, key_limit: int | None, limit: int) -> int:
    """Input and output. An output that is only guessed is not let make the request too large for the limit."""
    output = estimate.max_output_tokens
    if output is not None:
        return estimate.reserved_input_tokens + output * estimate.choices
    amount = estimate.reserved_tokens(key_limit)
    return min(amount, limit) if estimate.reserved_input_tokens <= limit else amount
