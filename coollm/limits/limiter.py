"""Reserve before, settle after: the limits of a client, its team, the model and the vendor key in one decision of the store."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Sequence

import msgspec

from coollm.core.errors import LimitReached, NotAllowed
from coollm.core.money import nano_usd
from coollm.core.types import Target, Usage, Used, Value
from coollm.limits.charges import BUDGETED_OUTPUT_TOKENS, COST, RUNNING, KeyCharges, budget_charges, key_counter, rate_charges
from coollm.limits.estimate import Estimate
from coollm.limits.scopes import LOCAL, Scope, Scopes
from coollm.stores.base import LIVE, MINUTE, WINDOW_SECONDS, Candidate, Charge, Correction, Decision, Hold, Settlement, Store, shortest_wait

# So many keys and counters are remembered.
MOST_REMEMBERED = 10_000


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
    begun anew. One that `is_live` counts as running.
    """

    id: str
    now: float
    charges: tuple[Charge, ...]
    target: Target
    epoch: int = 0
    is_live: bool = False


class Grant(Value, frozen=True):
    """A target that may be called. `client` is the reservation of the client, made with the request's first grant and None after.

    `charged` is the time of this host, in seconds of the epoch, by which budgets have their periods. `is_second` is a race's second, charged to its budget too.
    `rates` is how full the counters of the client and its team are, and `budgets` how full each budget is.
    """

    target: Target
    key: Reservation
    client: Reservation | None
    charged: float
    is_second: bool = False
    rates: tuple[Used, ...] = ()
    budgets: tuple[tuple[str, str, float], ...] = ()


class Limiter:
    """Turns limits into charges and asks the store. `owner` is the worker's name in the store. `scopes` is replaced when limits are set."""

    def __init__(self, store: Store, scopes: Scopes, owner: str) -> None:
        self._store = store
        self._owner = owner
        self._used: dict[str, tuple[tuple[Used, ...], float]] = {}  # by the key that was chosen
        self._of_keys: dict[str, KeyCharges] = {}
        self._cooling: dict[str, float] = {}
        self.scopes = scopes

    def lease(self, lease: Lease, estimate: Estimate, targets: Sequence[Target]) -> tuple[Grant | None, Decision]:
        """Leases the first of `targets` whose key, model and budgets have room: in one round trip, mostly, for the first is asked for alone unless it cools.

        Raises LimitReached if it is the client who has no room, NotAllowed if its budget cannot hold for any target, and StoreError.
        """
        charged, request_id, is_first = time.time(), lease.request_id, lease.is_first
        name = f"{request_id}/{lease.attempt}"
        own = rate_charges(lease.scopes, estimate) if is_first else []
        has_budgets = self.scopes.has_budgets
        budgeted = (*lease.scopes, *lease.extra) if lease.extra else lease.scopes
        bounded = self._bounded(budgeted, estimate, targets) if has_budgets else targets
        alone = 1 if len(bounded) > 1 and not (self._cooling and self._cools(bounded[0].key)) else len(bounded)
        candidates: list[Candidate] = []
        for target in bounded:
            candidates.append(Candidate(key=target.key, charges=self._charges(budgeted, target, estimate, charged)))
            if len(candidates) == alone:
                break
        decision = self._decide(lease, name, own, candidates)
        if decision.chosen is None and decision.refused is None and alone < len(bounded):
            others = [Candidate(key=target.key, charges=self._charges(budgeted, target, estimate, charged)) for target in bounded[alone:]]
            decision = _joined(decision, self._decide(lease, name, own, others), alone)
            candidates += others
        if decision.refused is not None:
            raise _refusal(decision.refused, decision)
        if decision.skipped:
            self._note_cooling(decision)
        chosen, made, used = decision.chosen, decision.now, decision.used
        if chosen is None:
            return None, decision
        target, charges, epoch = bounded[chosen], candidates[chosen].charges, self._store.epoch
        counts_running = self.scopes.counts_running or target.concurrent is not None
        self._used[target.key] = used, time.monotonic()
        client: Reservation | None = None
        if is_first:
            client = Reservation(id=request_id, now=made, charges=tuple(own), target=target, epoch=epoch, is_live=counts_running and _is_live(own))
        key = Reservation(id=name, now=made, charges=charges, target=target, epoch=epoch, is_live=counts_running and _is_live(charges))
        budgets = budgets_used(decision) if has_budgets else ()
        return Grant(target=target, key=key, client=client, charged=charged, is_second=bool(lease.extra), rates=used[: len(own)], budgets=budgets), decision

    def _note_cooling(self, decision: Decision) -> None:
        """Remembers which keys cool down, and for how long."""
        for skipped in decision.skipped:
            if skipped.reason.startswith("cooling") and skipped.retry_after_seconds and len(self._cooling) < MOST_REMEMBERED:
                self._cooling[skipped.key] = time.monotonic() + skipped.retry_after_seconds

    def _cools(self, key: str) -> bool:
        """Whether the key cools down, as far as this worker knows."""
        until = self._cooling.get(key)
        if until is None:
            return False
        if until > time.monotonic():
            return True
        del self._cooling[key]
        return False

    def _decide(self, lease: Lease, name: str, own: Sequence[Charge], candidates: Sequence[Candidate]) -> Decision:
        # A later attempt leaves what the client holds as it is.
        first = Hold(id=lease.request_id, owner=self._owner, note=lease.note) if own else None
        leased = None
        for one in candidates:
            if one.charges:
                leased = Hold(id=name, owner=self._owner, note=lease.note)
                break
        return self._store.decide(own, candidates, first, leased)

    def settle(self, ended: Iterable[tuple[Iterable[Reservation | None], Usage]]) -> None:
        """Replaces what was reserved by what was used, for all of them in one decision of the store. Raises StoreError."""
        epoch, present, lost = self._store.epoch, list[Settlement](), list[Charge]()
        for reservations, usage in ended:
            tokens = usage.total_tokens
            for one in reservations:
                if one is None or not one.charges:
                    continue
                if one.epoch == epoch:
                    present.append(Settlement(hold=one.id, corrections=_corrections(one, usage, tokens)))
                else:
                    # Reserved in a store that has forgotten it: what was spent is charged to the new one.
                    spent = (charge for charge in one.charges if charge.span.kind == "period")
                    lost += [msgspec.structs.replace(charge, amount=_used(meaning(charge.counter)[2], one, usage, tokens)) for charge in spent]
        if present:
            self._store.settle(present)
        if lost:
            self._store.charge(lost)

    def fullness(self, key: str, what: str) -> float:
        """Share of a vendor key's limit that is used, 0 to 1, as far as this worker knows: its last decision, fading over the window."""
        told, since = self._used.get(key, ((), 0.0))
        counter = key_counter(key, what)
        for used in told:
            if used.counter == counter:
                return min(1.0, used.used / (used.limit or 1)) * max(0.0, 1 - (time.monotonic() - since) / WINDOW_SECONDS)
        return 0.0

    def charges(self, scopes: Sequence[Scope], estimate: Estimate, target: Target) -> tuple[Charge, ...]:
        """All that a request to a target would be charged."""
        return (*rate_charges(scopes, estimate), *self._charges(scopes, target, estimate, time.time()))

    def _bounded(self, scopes: Sequence[Scope], estimate: Estimate, targets: Sequence[Target]) -> Sequence[Target]:
        """The targets whose cost is bounded, where a budget asks for it: with a price, and a limit of output that the vendor is told."""
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
        own = self._of_keys.get(target.key)
        if own is None:
            own = KeyCharges(target)
            if len(self._of_keys) < MOST_REMEMBERED:
                self._of_keys[target.key] = own
        charges, limits = own.of(target, estimate), self.scopes
        models = limits.of_target(target) if limits.has_models else ()
        if models:
            charges += rate_charges(models, estimate)
        if limits.has_budgets:
            charges += budget_charges((*scopes, *models), target, estimate, charged)
        return tuple(charges)


def _is_live(charges: Iterable[Charge]) -> bool:
    """Whether any of them counts as running."""
    return any(charge.span is LIVE for charge in charges)


@functools.lru_cache(maxsize=MOST_REMEMBERED)
def meaning(counter: str) -> tuple[str, str, str]:
    """Whose a counter is, by kind and id, and what it counts."""
    kind, _, rest = counter.partition(":")
    identity, _, what = rest.rpartition(":")
    return kind, identity, what


def _joined(first: Decision, then: Decision, offset: int) -> Decision:
    """Two decisions, of which the first chose nothing of its `offset` candidates."""
    skipped = (*first.skipped, *then.skipped)
    chosen = None if then.chosen is None else then.chosen + offset
    wait = then.retry_after_seconds if then.refused is not None else shortest_wait(skipped) if chosen is None else None
    return msgspec.structs.replace(then, chosen=chosen, skipped=skipped, retry_after_seconds=wait)


def _corrections(reservation: Reservation, usage: Usage, tokens: int) -> tuple[Correction, ...]:
    found = []
    for charge in reservation.charges:
        if charge.is_estimated:
            span, counter, now = charge.span, charge.counter, reservation.now
            if span is MINUTE:  # as most are
                found.append(Correction(counter=counter, bucket=int(now), difference=tokens - charge.amount))
            else:
                used = _used(meaning(counter)[2], reservation, usage, tokens)
                found.append(Correction(counter=counter, bucket=span.bucket(now), difference=used - charge.amount))
    return tuple(found)


def _used(what: str, reservation: Reservation, usage: Usage, tokens: int) -> int:
    """What a request has used of what it was charged for: money, or `tokens`."""
    return nano_usd(reservation.target.cost_usd(usage) or 0.0) if what == COST else tokens


def budgets_used(decision: Decision) -> tuple[tuple[str, str, float], ...]:
    """How full each budget is after a decision: (kind, id, share from 0 to 1)."""
    found = []
    for used in decision.used:
        kind, identity, what = meaning(used.counter)
        if what == COST:
            found.append((kind, identity, used.used / (used.limit or 1)))
    return tuple(found)


def _refusal(charge: Charge, decision: Decision) -> LimitReached:
    kind, _, what = meaning(charge.counter)
    wait = decision.retry_after_seconds
    code = "rate_limit_exceeded"
    if what == RUNNING:
        code, message = "concurrency_limit_exceeded", f"the limit of this {kind} is {charge.limit} requests at the same time"
    elif wait is None:
        code = "request_too_large"
        message = f"the request needs up to {charge.amount} {what}, and the limit of this {kind} is {charge.limit} {what} per minute"
        message += ": lower max_tokens or the input"
    else:
        message = f"the limit of this {kind} is {charge.limit} {what} per minute; try again in {wait:.0f} s"
    return LimitReached(message, code=code, retry_after_seconds=wait, rates=decision.used)
