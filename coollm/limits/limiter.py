"""Reserve before, settle after: the limits of a client and of the vendor keys in one decision of the store."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from coollm.core.config.schema import ClientLimits
from coollm.core.errors import LimitReached
from coollm.core.types import ModelRequest, RateLimit, Target, Usage, Value
from coollm.limits.estimate import input_tokens, output_tokens
from coollm.stores.base import WINDOW_SECONDS, Candidate, Charge, Correction, Decision, Store

REQUESTS = "requests"
TOKENS = "tokens"
CLIENT_PREFIX = "client:"


class Identity(Value, frozen=True):
    """Who asks, as far as limits care."""

    id: str
    limits: ClientLimits = ClientLimits()


class Reservation(Value, frozen=True):
    """Charges that stand on the counters in `bucket` until they are settled."""

    bucket: int
    charges: tuple[Charge, ...]


class Grant(Value, frozen=True):
    """A target that may be called. `client` is the reservation of the client, made with the request's first grant and None after."""

    target: Target
    key: Reservation
    client: Reservation | None


class Limiter:
    """Turns limits into charges and asks the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._fullness: dict[str, tuple[float, float]] = {}

    def lease(self, identity: Identity | None, request: ModelRequest, targets: Sequence[Target]) -> tuple[Grant | None, Decision]:
        """Leases the first of `targets` whose key has room, in one round trip.

        With an `identity` the client's own limits are charged in the same decision. Raises LimitReached if it is the client who has no room, and StoreError.
        """
        tokens = input_tokens(request)
        own = client_charges(identity, tokens, request) if identity else ()
        candidates = [Candidate(key=target.key, charges=key_charges(target, tokens, request)) for target in targets]
        decision = self._store.decide(own, candidates)
        if decision.refused is not None:
            raise _refusal(decision.refused, decision.retry_after_seconds)
        if decision.chosen is None:
            return None, decision
        now = time.monotonic()
        for used in decision.used:
            self._fullness[used.counter] = (used.used / used.limit, now)
        chosen = decision.chosen
        client = Reservation(bucket=decision.bucket, charges=own) if identity else None
        key = Reservation(bucket=decision.bucket, charges=candidates[chosen].charges)
        return Grant(target=targets[chosen], key=key, client=client), decision

    def settle(self, reservations: Iterable[Reservation | None], usage: Usage) -> None:
        """Replaces what was reserved by what was used. Raises StoreError."""
        corrections = [
            Correction(counter=charge.counter, bucket=reservation.bucket, difference=usage.total_tokens - charge.amount)
            for reservation in reservations
            if reservation is not None
            for charge in reservation.charges
            if charge.counter.endswith(TOKENS)
        ]
        if corrections:
            self._store.settle(corrections)

    def fullness(self, counter: str) -> float:
        """Share of a limit that is used, 0 to 1, as far as this worker knows: its last decision, fading over the window."""
        share, since = self._fullness.get(counter, (0.0, 0.0))
        return min(1.0, share) * max(0.0, 1 - (time.monotonic() - since) / WINDOW_SECONDS)


def client_counter(client: str, what: str) -> str:
    """The counter of a client's `requests` or `tokens`."""
    return f"{CLIENT_PREFIX}{client}:{what}"


def key_counter(key: str, what: str) -> str:
    """The counter of a vendor key's `requests` or `tokens`."""
    return f"key:{key}:{what}"


def client_room(decision: Decision) -> tuple[RateLimit, ...]:
    """What is left of the client's limits after a decision. All of it is there again when the window has passed without another request."""
    return tuple(
        RateLimit(of=used.counter.rpartition(":")[2], limit=used.limit, remaining=max(0, used.limit - used.used), reset_seconds=WINDOW_SECONDS)
        for used in decision.used
        if used.counter.startswith(CLIENT_PREFIX)
    )


def client_charges(identity: Identity, tokens: int, request: ModelRequest) -> tuple[Charge, ...]:
    """What a request is charged on its client's limits."""
    limits = identity.limits
    charges = []
    if limits.req_per_min is not None:
        charges.append(Charge(counter=client_counter(identity.id, REQUESTS), amount=1, limit=limits.req_per_min))
    if limits.tokens_per_min is not None:
        amount = _token_amount(tokens, request, None, limits.tokens_per_min)
        charges.append(Charge(counter=client_counter(identity.id, TOKENS), amount=amount, limit=limits.tokens_per_min))
    return tuple(charges)


def key_charges(target: Target, tokens: int, request: ModelRequest) -> tuple[Charge, ...]:
    """What a request is charged on a vendor key's limits."""
    charges = []
    if target.req_per_min is not None:
        charges.append(Charge(counter=key_counter(target.key, REQUESTS), amount=1, limit=target.req_per_min))
    if target.tokens_per_min is not None:
        amount = _token_amount(tokens, request, target.max_tokens, target.tokens_per_min)
        charges.append(Charge(counter=key_counter(target.key, TOKENS), amount=amount, limit=target.tokens_per_min))
    return tuple(charges)


def _token_amount(tokens: int, request: ModelRequest, key_limit: int | None, limit: int) -> int:
    """Input and output. An output that is only guessed is not let make the request too large for the limit."""
    amount = tokens + output_tokens(request, key_limit)
    return min(amount, limit) if request.max_output_tokens is None and tokens <= limit else amount


def _refusal(charge: Charge, retry_after_seconds: float | None) -> LimitReached:
    what = "tokens" if charge.counter.endswith(TOKENS) else "requests"
    if retry_after_seconds is None:
        return LimitReached(
            f"the request needs up to {charge.amount} {what}, and the limit of this client is {charge.limit} {what} per minute: lower max_tokens or the input",
            code="request_too_large",
        )
    return LimitReached(
        f"the limit of this client is {charge.limit} {what} per minute; try again in {retry_after_seconds:.0f} s",
        retry_after_seconds=retry_after_seconds,
    )
