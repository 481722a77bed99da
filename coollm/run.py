"""Where a request stands on its way through the targets: what was tried, what may be tried now, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec

from coollm.cache.answers import Flight
from coollm.call import Call
from coollm.core.config.schema import Policy
from coollm.core.errors import Cancelled, GatewayStopping
from coollm.core.types import Target
from coollm.limits.estimate import Estimate
from coollm.limits.keeper import Note
from coollm.limits.limiter import Grant, Lease, Reservation
from coollm.limits.scopes import Scope
from coollm.providers.verdict import Cause, VendorError, Verdict
from coollm.routing.reaction import Next
from coollm.stores.base import Decision
from coollm.telemetry.record import ANSWERED, CLIENT_GONE, STOPPED, Attempt

# Of what a vendor says of a failure.
LONGEST_REASON = 300

WORTH_WAITING = (f"cooling: {Cause.RATE_LIMITED}", f"cooling: {Cause.OVERLOADED}")


NONE_FAILED: Mapping[str, float] = MappingProxyType({})
NONE_GIVEN_UP: frozenset[str] = frozenset()


class Failed(msgspec.Struct, frozen=True):
    """An attempt that failed before any content."""

    grant: Grant
    verdict: Verdict


class Run:
    """One request. `flight` is its answer on the way into the cache, if it may be kept."""

    __slots__ = (
        *("_attempts", "_deadline", "_given_up", "_most_providers", "_not_before", "_order", "_retry", "_scopes", "_tried", "call", "client_reservation"),
        *("estimate", "flight", "last_failure", "last_target"),
    )

    def __init__(self, call: Call, policy: Policy, order: Sequence[Target], scopes: tuple[Scope, ...], estimate: Estimate, flight: Flight | None) -> None:
        self.call = call
        self.estimate = estimate
        self.flight = flight
        self._scopes = scopes
        self._order = order
        self._retry = policy.retry
        self._most_providers = 1 + (policy.fallback.max_providers if policy.fallback.enabled else 0)
        self._deadline = time.monotonic() + policy.retry.timeout
        self._attempts: dict[str, int] = {}
        self._tried = 0
        self._not_before = NONE_FAILED
        self._given_up: frozenset[str] = NONE_GIVEN_UP
        self.client_reservation: Reservation | None = None
        self.last_failure: tuple[Verdict, str] | None = None
        self.last_target: Target | None = None

    def lease(self, extra: tuple[Scope, ...] = ()) -> Lease:
        """The next attempt, as the limiter wants it."""
        return Lease(
            request_id=self.call.record.request_id,
            attempt=self._tried + 1,
            scopes=self._scopes,
            extra=extra,
            is_first=self.client_reservation is None,
            note=self.note_for_heirs,
        )

    def note_for_heirs(self) -> str:
        """What is told of the request if this worker dies."""
        record, estimate = self.call.record, self.estimate
        return Note(
            request_id=record.request_id,
            client=record.client,
            team=record.team,
            route=record.route,
            model=self.call.request.model,
            input_tokens=estimate.reserved_input_tokens,
            output_tokens=estimate.reserved_tokens() - estimate.reserved_input_tokens,
            charged=time.time(),
        ).write()

    def ready(self) -> Sequence[Target]:
        """The targets that may be called now, untried ones first."""
        if not self._attempts:
            return self._order
        now = time.monotonic()
        usable = [target for target in self._usable() if self._not_before.get(target.key, 0.0) <= now]
        return sorted(usable, key=lambda target: target.key in self._not_before)

    def beside(self, grant: Grant) -> list[Target]:
        """The targets that may be called while that of `grant` is, under another key."""
        return [target for target in self.ready() if target.key != grant.target.key]

    def seconds_until_retry(self) -> float | None:
        """Seconds until a target that failed may be tried again; None if none may."""
        if not self._not_before:
            return None
        times = [self._not_before[target.key] for target in self._usable() if target.key in self._not_before]
        return max(0.001, min(times) - time.monotonic()) if times else None

    def may_wait(self, seconds: float, decision: Decision) -> bool:
        """Whether waiting is worth it: within the retry time-out, and for a key that was just tried or whose vendor said when to come back.

        A full limit and an open breaker are told the client at once.
        """
        is_told = any(skipped.reason in WORTH_WAITING and skipped.retry_after_seconds == seconds for skipped in decision.skipped)
        return (is_told or not decision.skipped) and time.monotonic() + seconds <= self._deadline

    def granted(self, grant: Grant, decision: Decision) -> None:
        """A target has been leased."""
        record = self.call.record
        if grant.client is not None:
            self.client_reservation = grant.client
            record.rates = grant.rates
        record.budgets = grant.budgets
        record.charged = grant.charged
        self.last_target = grant.target
        self._tried += 1
        provider, attempts = grant.target.provider, self._attempts
        attempts[provider] = attempts.get(provider, 0) + 1
        if decision.skipped:
            self._note_skipped(decision, self._order)

    def passed_over(self, decision: Decision, targets: Sequence[Target]) -> None:
        """No target had room."""
        self._note_skipped(decision, targets)

    def failed(self, target: Target, verdict: Verdict, following: Next) -> None:
        """A target failed before content."""
        self.last_failure = (verdict, target.provider)
        self._not_before = {**self._not_before, target.key: time.monotonic() + self._retry.interval}
        if following is Next.PROVIDER:
            self._given_up |= {target.provider}

    def served_by(self, grant: Grant) -> None:
        """It is the target of this grant whose answer the client gets."""
        record = self.call.record
        record.target, record.charged, record.is_second = grant.target, grant.charged, grant.is_second

    def succeeded(self, target: Target, started: float) -> float:
        """A target answered: after how many seconds."""
        return self._add(target, ANSWERED, started)

    def outpaced(self, target: Target, started: float) -> None:
        """Another target was faster."""
        self._add(target, "outpaced", started)

    def note(self, target: Target, started: float, error: BaseException) -> None:
        """Records why an attempt moved on."""
        if isinstance(error, VendorError):
            self._add(target, error.verdict.cause, started, error.verdict.message, error.verdict.status)
        elif not isinstance(error, Cancelled):
            self._add(target, type(error).__name__, started)
        elif self.call.cancellation.is_cancelled:
            self._add(target, STOPPED if isinstance(error, GatewayStopping) else CLIENT_GONE, started)

    def _add(self, target: Target, outcome: str, started: float, reason: str = "", status: int = 0) -> float:
        seconds, record = time.monotonic() - started, self.call.record
        record.upstream_seconds += seconds
        record.attempts.append(Attempt(target, outcome, seconds, started - record.started, reason[:LONGEST_REASON], status))
        return seconds

    def _note_skipped(self, decision: Decision, targets: Sequence[Target]) -> None:
        by_key = {target.key: target for target in targets}
        after = time.monotonic() - self.call.record.started
        for skipped in decision.skipped:
            self.call.record.attempts.append(Attempt(by_key[skipped.key], "skipped", 0.0, after, skipped.reason))

    def _usable(self) -> list[Target]:
        tried = set(self._attempts)
        return [
            target
            for target in self._order
            if target.provider not in self._given_up
            and self._attempts.get(target.provider, 0) < self._retry.max_attempts
            and (target.provider in tried or len(tried) < self._most_providers)
        ]
