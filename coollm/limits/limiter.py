"""Reserve before, settle after: the limits of a client, its team, the model and the vendor key in one decision of the store."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

import msgspec

from coollm.core.errors import LimitReached, NotAllowed
from coollm.core.money import NANO_USD, nano_usd
from coollm.core.types import ModelRequest, PassThroughRequest, RateLimit, Target, Usage, Value
from coollm.limits.estimate import RESERVED_CHARACTERS_PER_TOKEN, input_tokens, most_input_tokens, output_tokens
from coollm.limits.period import period_span
from coollm.limits.scopes import LOCAL, Scope, Scopes
from coollm.stores.base import LIVE, WINDOW_SECONDS, Candidate, Charge, Correction, Decision, Hold, Span, Store

REQUESTS = "requests"
TOKENS = "tokens"
SESSION_TOKENS = "session_tokens"
RUNNING = "running"
COST = "cost"
CLIENT_PREFIX = "client:"

# What an answer costs at most must be known before it is asked for: a request that gives no limit of output is given one.
BUDGETED_OUTPUT_TOKENS = 4096

# A session of hours is counted in so many buckets.
BUCKETS_OF_A_SESSION = 60


class Lease(Value, frozen=True):
    """Who asks, and under what name a reservation is kept: `request_id`, and the number of the attempt. With `is_first` the client is charged too."""

    request_id: str
    attempt: int
    scopes: tuple[Scope, ...] = (LOCAL,)
    is_first: bool = True
    note: str = ""


class Reservation(Value, frozen=True):
    """Charges that stand until they are settled, by the id of what holds them. `now` is the store's time when they were made."""

    id: str
    now: float
    charges: tuple[Charge, ...]
    target: Target


class Grant(Value, frozen=True):
    """A target that may be called. `client` is the reservation of the client, made with the request's first grant and None after."""

    target: Target
    key: Reservation
    client: Reservation | None


class Limiter:
    """Turns limits into charges and asks the store. `owner` is the worker's name in the store."""

    def __init__(self, store: Store, scopes: Scopes, owner: str) -> None:
        self._store = store
        self._owner = owner
        self._fullness: dict[str, tuple[float, float]] = {}
        self.scopes = scopes

    def lease(self, lease: Lease, request: ModelRequest, targets: Sequence[Target]) -> tuple[Grant | None, Decision]:
        """Leases the first of `targets` whose key, model and budgets have room, in one round trip.

        Raises LimitReached if it is the client who has no room, NotAllowed if its budget cannot hold for any target, and StoreError.
        """
        tokens = input_tokens(request, RESERVED_CHARACTERS_PER_TOKEN)
        own = [charge for scope in lease.scopes for charge in rate_charges(scope, tokens, request)] if lease.is_first else []
        bounded = self._bounded(lease.scopes, request, targets)
        candidates = [Candidate(key=target.key, charges=self._charges(lease.scopes, target, tokens, request)) for target in bounded]
        names = (lease.request_id, f"{lease.request_id}/{lease.attempt}")
        holds = [Hold(id=name, owner=self._owner, note=lease.note) for name in names]
        decision = self._store.decide(own, candidates, *holds)
        if decision.refused is not None:
            raise _refusal(decision.refused, decision.retry_after_seconds)
        if decision.chosen is None:
            return None, decision
        now = time.monotonic()
        for used in decision.used:
            self._fullness[used.counter] = (used.used / max(1, used.limit), now)
        target = bounded[decision.chosen]
        client = Reservation(id=holds[0].id, now=decision.now, charges=tuple(own), target=target) if lease.is_first else None
        key = Reservation(id=holds[1].id, now=decision.now, charges=candidates[decision.chosen].charges, target=target)
        return Grant(target=target, key=key, client=client), decision

    def settle(self, reservations: Iterable[Reservation | None], usage: Usage) -> None:
        """Replaces what was reserved by what was used. Raises StoreError."""
        made = [reservation for reservation in reservations if reservation is not None and reservation.charges]
        if made:
            self._store.settle([one.id for one in made], [correction for one in made for correction in _corrections(one, usage)])

    def fullness(self, counter: str) -> float:
        """Share of a limit that is used, 0 to 1, as far as this worker knows: its last decision, fading over the window."""
        share, since = self._fullness.get(counter, (0.0, 0.0))
        return min(1.0, share) * max(0.0, 1 - (time.monotonic() - since) / WINDOW_SECONDS)

    def charges(self, scopes: Sequence[Scope], request: ModelRequest, target: Target) -> tuple[Charge, ...]:
        """All that a request to a target would be charged."""
        tokens = input_tokens(request, RESERVED_CHARACTERS_PER_TOKEN)
        own = [charge for scope in scopes for charge in rate_charges(scope, tokens, request)]
        return (*own, *self._charges(scopes, target, tokens, request))

    def budget_corrections(self, client: str, target: Target, dearest: Usage, cost: int, admitted: float) -> list[Correction]:
        """What makes the budgets that were charged `dearest` for a request at its admission, in seconds of the epoch, charged its `cost` instead."""
        amount = nano_usd(target.cost_usd(dearest) or 0.0)
        charges = [budget_charge(scope, amount, admitted) for scope in (*self.scopes.of_client_id(client), *self.scopes.of_target(target))]
        return [Correction(counter=one.counter, bucket=one.span.starts, difference=cost - amount) for one in charges if one is not None]

    def _bounded(self, scopes: Sequence[Scope], request: ModelRequest, targets: Sequence[Target]) -> list[Target]:
        """The targets whose cost is bounded, where a budget asks for it: with a price, and a limit of output that the vendor is told."""
        budgeted = any(scope.limits.budget_usd is not None for scope in scopes)
        found = []
        for target in targets:
            if not budgeted and not any(scope.limits.budget_usd is not None for scope in self.scopes.of_target(target)):
                found.append(target)
            elif target.input_price is not None and target.output_price is not None and not isinstance(request, PassThroughRequest):
                most = request.max_output_tokens or target.max_tokens or BUDGETED_OUTPUT_TOKENS
                found.append(msgspec.structs.replace(target, max_tokens=most))
        if targets and not found:
            raise NotAllowed(
                "there is a budget, and what this request may cost is not known: its model has no price, or its route none at all",
                param="model",
                code="price_unknown",
            )
        return found

    def _charges(self, scopes: Sequence[Scope], target: Target, tokens: int, request: ModelRequest) -> tuple[Charge, ...]:
        """What the vendor key and the model are charged, and the budgets, whose charge depends on the price."""
        models = self.scopes.of_target(target)
        rates = [charge for scope in models for charge in rate_charges(scope, tokens, request)]
        money = [charge for scope in (*scopes, *models) for charge in _budget_charges(scope, target, request)]
        return (*key_charges(target, tokens, request), *rates, *money)


def _corrections(reservation: Reservation, usage: Usage) -> list[Correction]:
    corrections = []
    for charge in reservation.charges:
        what = charge.counter.rpartition(":")[2]
        if what in (TOKENS, SESSION_TOKENS):
            used = usage.total_tokens
        elif what == COST:
            used = nano_usd(reservation.target.cost_usd(usage) or 0.0)
        else:
            continue
        corrections.append(Correction(counter=charge.counter, bucket=charge.span.bucket(reservation.now), difference=used - charge.amount))
    return corrections


def key_counter(key: str, what: str) -> str:
    """The counter of a vendor key's `requests`, `tokens`, `session_tokens` or `running`."""
    return f"key:{key}:{what}"


def client_room(decision: Decision) -> tuple[RateLimit, ...]:
    """What is left of the client's rates after a decision. All of it is there again when the window has passed without another request."""
    return tuple(
        RateLimit(of=used.counter.rpartition(":")[2], limit=used.limit, remaining=max(0, used.limit - used.used), reset_seconds=WINDOW_SECONDS)
        for used in decision.used
        if used.counter.startswith(CLIENT_PREFIX) and used.counter.endswith((":" + REQUESTS, ":" + TOKENS))
    )


def budgets_used(decision: Decision) -> tuple[tuple[str, str, float], ...]:
    """How full each budget is after a decision: (kind, id, share from 0 to 1)."""
    found = []
    for used in decision.used:
        name, _, what = used.counter.rpartition(":")
        if what == COST:
            kind, _, identity = name.partition(":")
            found.append((kind, identity, used.used / max(1, used.limit)))
    return tuple(found)


def rate_charges(scope: Scope, tokens: int, request: ModelRequest) -> tuple[Charge, ...]:
    """What a request is charged on the rates of a client, a team or a model."""
    limits = scope.limits
    charges = []
    if limits.req_per_min is not None:
        charges.append(Charge(counter=scope.counter(REQUESTS), amount=1, limit=limits.req_per_min))
    if limits.tokens_per_min is not None:
        amount = _token_amount(tokens, request, None, limits.tokens_per_min)
        charges.append(Charge(counter=scope.counter(TOKENS), amount=amount, limit=limits.tokens_per_min))
    if limits.concurrent is not None:
        charges.append(Charge(counter=scope.counter(RUNNING), amount=1, limit=limits.concurrent, span=LIVE))
    return tuple(charges)


def key_charges(target: Target, tokens: int, request: ModelRequest) -> tuple[Charge, ...]:
    """What a request is charged on a vendor key's limits."""
    charges = []
    if target.req_per_min is not None:
        charges.append(Charge(counter=key_counter(target.key, REQUESTS), amount=1, limit=target.req_per_min))
    if target.tokens_per_min is not None:
        amount = _token_amount(tokens, request, target.max_tokens, target.tokens_per_min)
        charges.append(Charge(counter=key_counter(target.key, TOKENS), amount=amount, limit=target.tokens_per_min))
    if target.concurrent is not None:
        charges.append(Charge(counter=key_counter(target.key, RUNNING), amount=1, limit=target.concurrent, span=LIVE))
    if target.session_tokens is not None:
        amount = _token_amount(tokens, request, target.max_tokens, target.session_tokens)
        span = Span(seconds=target.session_seconds, width=max(1, target.session_seconds // BUCKETS_OF_A_SESSION))
        charges.append(Charge(counter=key_counter(target.key, SESSION_TOKENS), amount=amount, limit=target.session_tokens, span=span))
    return tuple(charges)


def budget_charge(scope: Scope, amount: int, now: float) -> Charge | None:
    """A charge of `amount` billionths of a dollar on the budget of a scope, in the period of now; None if it has no budget."""
    limits = scope.limits
    if limits.budget_usd is None:
        return None
    span = period_span(limits.budget_period, limits.budget_timezone, now)
    return Charge(counter=scope.counter(COST), amount=amount, limit=round(limits.budget_usd * NANO_USD), span=span)


def _budget_charges(scope: Scope, target: Target, request: ModelRequest) -> list[Charge]:
    """What a request may cost at most: no text has more tokens than bytes, and no answer more than the vendor is told."""
    if scope.limits.budget_usd is None:
        return []
    dearest = Usage(input_tokens=most_input_tokens(request), output_tokens=output_tokens(request, target.max_tokens))
    charge = budget_charge(scope, nano_usd(target.cost_usd(dearest) or 0.0), time.time())
    return [charge] if charge else []


def _token_amount(tokens: int, request: ModelRequest, key_limit: int | None, limit: int) -> int:
    """Input and output. An output that is only guessed is not let make the request too large for the limit."""
    amount = tokens + output_tokens(request, key_limit)
    return min(amount, limit) if request.max_output_tokens is None and tokens <= limit else amount


def _refusal(charge: Charge, retry_after_seconds: float | None) -> LimitReached:
    kind, _, rest = charge.counter.partition(":")
    what = rest.rpartition(":")[2]
    if what == RUNNING:
        return LimitReached(
            f"the limit of this {kind} is {charge.limit} requests at the same time",
            code="concurrency_limit_exceeded",
            retry_after_seconds=retry_after_seconds,
        )
    if retry_after_seconds is None:
        return LimitReached(
            f"the request needs up to {charge.amount} {what}, and the limit of this {kind} is {charge.limit} {what} per minute: lower max_tokens or the input",
            code="request_too_large",
        )
    return LimitReached(
        f"the limit of this {kind} is {charge.limit} {what} per minute; try again in {retry_after_seconds:.0f} s",
        retry_after_seconds=retry_after_seconds,
    )
