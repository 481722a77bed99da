"""Reserve before, settle after: the limits of a client, its team, the model and the vendor key in one decision of the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from coollm.core.errors import LimitReached, NotAllowed
from coollm.core.money import NANO_USD, nano_usd
from coollm.core.types import RateLimit, Target, Usage, Value
from coollm.limits.estimate import Estimate
from coollm.limits.period import period_span
from coollm.limits.scopes import CLIENT, LOCAL, TEAM, Scope, Scopes
from coollm.stores.base import LIVE, WINDOW_SECONDS, Candidate, Charge, Correction, Decision, Hold, Settlement, Span, Store, Used

REQUESTS = "requests"
TOKENS = "tokens"
SESSION_TOKENS = "session_tokens"
RUNNING = "running"
COST = "cost"

# Whose rates are told to a client.
WHOSE = (f"{CLIENT}:", f"{TEAM}:")

# What an answer costs at most must be known before it is asked for: a request that gives no limit of output is given one.
BUDGETED_OUTPUT_TOKENS = 4096

# A session of hours is counted in so many buckets.
BUCKETS_OF_A_SESSION = 60


class Lease(Value, frozen=True):
    """Who asks, and under what name a reservation is kept: `request_id`, and the number of the attempt. With `is_first` the client is charged too.

    `extra` are scopes that are charged with this attempt alone. `note` writes what is told of the request if this worker dies, where anything is held for it.
    """

    request_id: str
    attempt: int
    scopes: tuple[Scope, ...] = (LOCAL,)
    extra: tuple[Scope, ...] = ()
    is_first: bool = True
    note: Callable[[], str] = str


class Reservation(Value, frozen=True):
    """Charges that stand until they are settled, by the id of what holds them. `now` is the store's time when they were made, `epoch` counts how often it has
    begun anew.
    """

    id: str
    now: float
    charges: tuple[Charge, ...]
    target: Target
    epoch: int = 0


class Grant(Value, frozen=True):
    """A target that may be called. `client` is the reservation of the client, made with the request's first grant and None after.

    `charged` is the time of this host, in seconds of the epoch, by which budgets have their periods. `is_second` is a race's second, charged to its budget too.
    """

    target: Target
    key: Reservation
    client: Reservation | None
    charged: float
    is_second: bool = False


class Limiter:
    """Turns limits into charges and asks the store. `owner` is the worker's name in the store. `scopes` is replaced when limits are set."""

    def __init__(self, store: Store, scopes: Scopes, owner: str) -> None:
        self._store = store
        self._owner = owner
        self._fullness: dict[str, tuple[float, float]] = {}
        self.scopes = scopes

    def lease(self, lease: Lease, estimate: Estimate, targets: Sequence[Target]) -> tuple[Grant | None, Decision]:
        """Leases the first of `targets` whose key, model and budgets have room, in one round trip.

        Raises LimitReached if it is the client who has no room, NotAllowed if its budget cannot hold for any target, and StoreError.
        """
        charged = time.time()
        own = [charge for scope in lease.scopes for charge in rate_charges(scope, estimate)] if lease.is_first else []
        budgeted = (*lease.scopes, *lease.extra)
        bounded = self._bounded(budgeted, estimate, targets)
        candidates = [Candidate(key=target.key, charges=self._charges(budgeted, target, estimate, charged)) for target in bounded]
        note = lease.note() if own or any(candidate.charges for candidate in candidates) else ""
        holds = [Hold(id=name, owner=self._owner, note=note) for name in (lease.request_id, f"{lease.request_id}/{lease.attempt}")]
        decision = self._store.decide(own, candidates, *holds)
        if decision.refused is not None:
            raise _refusal(decision.refused, decision)
        if decision.chosen is None:
            return None, decision
        now = time.monotonic()
        for used in decision.used:
            self._fullness[used.counter] = (used.used / max(1, used.limit), now)
        target = bounded[decision.chosen]
        epoch = self._store.epoch
        client = Reservation(id=holds[0].id, now=decision.now, charges=tuple(own), target=target, epoch=epoch) if lease.is_first else None
        key = Reservation(id=holds[1].id, now=decision.now, charges=candidates[decision.chosen].charges, target=target, epoch=epoch)
        return Grant(target=target, key=key, client=client, charged=charged, is_second=bool(lease.extra)), decision

    def settle(self, reservations: Iterable[Reservation | None], usage: Usage) -> None:
        """Replaces what was reserved by what was used. Raises StoreError."""
        made = [reservation for reservation in reservations if reservation is not None and reservation.charges]
        present = [one for one in made if one.epoch == self._store.epoch]
        if present:
            self._store.settle([Settlement(hold=one.id, corrections=_corrections(one, usage)) for one in present])
        for one in made:
            if one.epoch != self._store.epoch:
                # Reserved in a store that has forgotten it: what was spent is charged to the new one.
                self._store.charge(
                    [msgspec.structs.replace(charge, amount=_used(charge, one, usage)) for charge in one.charges if charge.span.kind == "period"]
                )

    def fullness(self, counter: str) -> float:
        """Share of a limit that is used, 0 to 1, as far as this worker knows: its last decision, fading over the window."""
        share, since = self._fullness.get(counter, (0.0, 0.0))
        return min(1.0, share) * max(0.0, 1 - (time.monotonic() - since) / WINDOW_SECONDS)

    def charges(self, scopes: Sequence[Scope], estimate: Estimate, target: Target) -> tuple[Charge, ...]:
        """All that a request to a target would be charged."""
        own = [charge for scope in scopes for charge in rate_charges(scope, estimate)]
        return (*own, *self._charges(scopes, target, estimate, time.time()))

    def _bounded(self, scopes: Sequence[Scope], estimate: Estimate, targets: Sequence[Target]) -> Sequence[Target]:
        """The targets whose cost is bounded, where a budget asks for it: with a price, and a limit of output that the vendor is told."""
        if not self.scopes.has_budgets:
            return targets
        budgeted = any(scope.has_budget for scope in scopes)
        found = []
        for target in targets:
            if not budgeted and not any(scope.has_budget for scope in self.scopes.of_target(target)):
                found.append(target)
            elif target.price is not None and estimate.is_bounded:
                most = estimate.max_output_tokens or target.max_tokens or BUDGETED_OUTPUT_TOKENS
                found.append(msgspec.structs.replace(target, max_tokens=most))
        if targets and not found:
            raise NotAllowed(
                "there is a budget, and what this request may cost is not known: its model has no price, or its route none at all",
                param="model",
                code="price_unknown",
            )
        return found

    def _charges(self, scopes: Sequence[Scope], target: Target, estimate: Estimate, charged: float) -> tuple[Charge, ...]:
        """What the vendor key and the model are charged, and the budgets, whose charge depends on the price."""
        models = self.scopes.of_target(target)
        rates = [charge for scope in models for charge in rate_charges(scope, estimate)]
        return (*key_charges(target, estimate), *rates, *_budget_charges((*scopes, *models), target, estimate, charged))


def _corrections(reservation: Reservation, usage: Usage) -> tuple[Correction, ...]:
    return tuple(
        Correction(counter=charge.counter, bucket=charge.span.bucket(reservation.now), difference=_used(charge, reservation, usage) - charge.amount)
        for charge in reservation.charges
        if charge.counter.endswith((TOKENS, COST))
    )


def _used(charge: Charge, reservation: Reservation, usage: Usage) -> int:
    """What a request has used of what it was charged for: money, or tokens."""
    return nano_usd(reservation.target.cost_usd(usage) or 0.0) if charge.counter.endswith(COST) else usage.total_tokens


def key_counter(key: str, what: str) -> str:
    """The counter of a vendor key's `requests`, `tokens`, `session_tokens` or `running`."""
    return f"key:{key}:{what}"


def client_room(used: Iterable[Used]) -> tuple[RateLimit, ...]:
    """What is left of the rates of the client, or of its team where that is less. All of it is there again when the window has passed without another
    request.
    """
    least: dict[str, RateLimit] = {}
    for one in used:
        what = one.counter.rpartition(":")[2]
        if what in (REQUESTS, TOKENS) and one.counter.startswith(WHOSE):
            left = max(0, one.limit - one.used)
            if what not in least or left < least[what].remaining:
                least[what] = RateLimit(of=what, limit=one.limit, remaining=left, reset_seconds=WINDOW_SECONDS)
    return tuple(least.values())


def budgets_used(decision: Decision) -> tuple[tuple[str, str, float], ...]:
    """How full each budget is after a decision: (kind, id, share from 0 to 1)."""
    found = []
    for used in decision.used:
        name, _, what = used.counter.rpartition(":")
        if what == COST:
            kind, _, identity = name.partition(":")
            found.append((kind, identity, used.used / max(1, used.limit)))
    return tuple(found)


def rate_charges(scope: Scope, estimate: Estimate) -> tuple[Charge, ...]:
    """What a request is charged on the rates of a client, a team or a model."""
    limits = scope.limits
    charges = []
    if limits.req_per_min is not None:
        charges.append(Charge(counter=scope.counter(REQUESTS), amount=1, limit=limits.req_per_min))
    if limits.tokens_per_min is not None:
        amount = _token_amount(estimate, None, limits.tokens_per_min)
        charges.append(Charge(counter=scope.counter(TOKENS), amount=amount, limit=limits.tokens_per_min))
    if limits.concurrent is not None:
        charges.append(Charge(counter=scope.counter(RUNNING), amount=1, limit=limits.concurrent, span=LIVE))
    return tuple(charges)


def key_charges(target: Target, estimate: Estimate) -> tuple[Charge, ...]:
    """What a request is charged on a vendor key's limits."""
    charges = []
    if target.req_per_min is not None:
        charges.append(Charge(counter=key_counter(target.key, REQUESTS), amount=1, limit=target.req_per_min))
    if target.tokens_per_min is not None:
        amount = _token_amount(estimate, target.max_tokens, target.tokens_per_min)
        charges.append(Charge(counter=key_counter(target.key, TOKENS), amount=amount, limit=target.tokens_per_min))
    if target.concurrent is not None:
        charges.append(Charge(counter=key_counter(target.key, RUNNING), amount=1, limit=target.concurrent, span=LIVE))
    if target.session_tokens is not None:
        amount = _token_amount(estimate, target.max_tokens, target.session_tokens)
        span = Span(seconds=target.session_seconds, width=max(1, target.session_seconds // BUCKETS_OF_A_SESSION))
        charges.append(Charge(counter=key_counter(target.key, SESSION_TOKENS), amount=amount, limit=target.session_tokens, span=span))
    return tuple(charges)


def budget_charge(scope: Scope, amount: int, now: float) -> Charge | None:
    """A charge of `amount` billionths of a dollar on the budget of a scope, in the period of now; None if it has no budget."""
    limits = scope.limits
    if limits.budget_usd is None:
        return None
    span = period_span(limits.budget_period, limits.budget_timezone, now, scope.budget_since)
    return Charge(counter=scope.counter(COST), amount=amount, limit=round(limits.budget_usd * NANO_USD), span=span)


def _budget_charges(scopes: Sequence[Scope], target: Target, estimate: Estimate, now: float) -> list[Charge]:
    """What a request may cost at most: no text has more tokens than bytes, and no answer more than the vendor is told."""
    budgeted = [scope for scope in scopes if scope.has_budget]
    if not budgeted or target.price is None:
        return []
    output = (estimate.max_output_tokens or target.max_tokens or BUDGETED_OUTPUT_TOKENS) * estimate.choices
    amount = nano_usd(target.price.dearest_usd(estimate.most_input_tokens, output, estimate.service_tier))
    return [charge for scope in budgeted if (charge := budget_charge(scope, amount, now)) is not None]


def _token_amount(estimate: Estimate, key_limit: int | None, limit: int) -> int:
    """Input and output. An output that is only guessed is not let make the request too large for the limit."""
    amount = estimate.reserved_tokens(key_limit)
    return min(amount, limit) if not estimate.has_limit and estimate.reserved_input_tokens <= limit else amount


def _refusal(charge: Charge, decision: Decision) -> LimitReached:
    kind, _, rest = charge.counter.partition(":")
    what, wait = rest.rpartition(":")[2], decision.retry_after_seconds
    code = "rate_limit_exceeded"
    if what == RUNNING:
        code, message = "concurrency_limit_exceeded", f"the limit of this {kind} is {charge.limit} requests at the same time"
    elif wait is None:
        code = "request_too_large"
        message = f"the request needs up to {charge.amount} {what}, and the limit of this {kind} is {charge.limit} {what} per minute"
        message += ": lower max_tokens or the input"
    else:
        message = f"the limit of this {kind} is {charge.limit} {what} per minute; try again in {wait:.0f} s"
    return LimitReached(message, code=code, retry_after_seconds=wait, rate_limits=client_room(decision.used))
