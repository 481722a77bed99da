"""The story of a request: `complete` chooses and records, `_with_failover` walks the targets, `_send_once` makes one call."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from coollm.cancellation import Cancellation
from coollm.core.config.schema import Client, Policy
from coollm.core.errors import ClientGone, InvalidRequest, LimitReached, RequestError, StoreUnavailable, VendorFailed
from coollm.core.types import ChatRequest, Completion, Content, ModelRequest, PassThroughRequest, StreamEvent, Target, Usage
from coollm.credentials import Credential
from coollm.limits.estimate import input_tokens, most_input_tokens, output_tokens
from coollm.limits.keeper import Note
from coollm.limits.limiter import COST, Grant, Lease, Limiter, Reservation, budgets_used, client_room
from coollm.limits.scopes import Scope
from coollm.limits.settlement import Ending, settled_usage
from coollm.passing import PassedThrough
from coollm.providers.base import Dialect, Losses
from coollm.providers.verdict import Cause, VendorError, Verdict
from coollm.refusals import refusal
from coollm.routing.catalog import Catalog
from coollm.routing.reaction import Next
from coollm.routing.router import Router
from coollm.stores.base import Decision, StoreError
from coollm.streaming import StreamAnswer
from coollm.telemetry.record import Attempt, RequestRecord
from coollm.upstream import Upstream
from coollm.vendor_call import VendorCall

WORTH_WAITING = (f"cooling: {Cause.RATE_LIMITED}", f"cooling: {Cause.OVERLOADED}")

OPENAI_WIRE = "openai"

_log = logging.getLogger("coollm.gateway")


class StreamRenderer(Protocol):
    """Writes stream events in the client's dialect."""

    def render(self, event: StreamEvent) -> bytes:
        """The frames for one event."""

    def finish(self, usage: Usage) -> bytes:
        """The frames that end a whole stream."""


class ClientDialect(Protocol):
    """How the client wants its stream."""

    wire: str
    end_of_stream: bytes

    def renderer(self, request: ModelRequest, target: Target, request_id: str) -> StreamRenderer:
        """A renderer for one stream of a vendor with another dialect."""

    def forwarder(self, target: Target) -> Callable[[bytes], bytes] | None:
        """What is changed in the bytes of a vendor with the same dialect; None if nothing is."""

    def error_frame(self, error: RequestError) -> bytes:
        """The event that tells of a failure after the first byte."""


class Account(msgspec.Struct, frozen=True):
    """A provider as requests see it: its dialect, address and keys by id."""

    dialect: Dialect
    base_url: str
    keys: Mapping[str, Credential]


class Call(msgspec.Struct, frozen=True):
    """A request on its way, with who asks and how it is stopped. A client of None is the administrator of this host."""

    request: ModelRequest
    client: Client | None
    face: ClientDialect
    cancellation: Cancellation
    record: RequestRecord


class Answer(msgspec.Struct, frozen=True):
    """A whole answer. `body` are the vendor's own bytes where it speaks the client's dialect, else None."""

    content: Content
    usage: Usage
    target: Target
    body: bytes | None


class Gateway:
    """Serves requests. One for each generation of the configuration."""

    def __init__(
        self,
        policy: Policy,
        accounts: Mapping[str, Account],
        catalog: Catalog,
        router: Router,
        limiter: Limiter,
        upstream: Upstream,
        redact: Callable[[str], str],
        tell: Callable[[RequestRecord], None],
    ) -> None:
        self._policy = policy
        self._accounts = accounts
        self._limiter = limiter
        self._upstream = upstream
        self._redact = redact
        self._tell = tell
        self.catalog = catalog
        self.router = router

    def complete(self, call: Call) -> Answer | StreamAnswer | PassedThrough:
        """Serves a request: a whole answer, or a stream whose first content has come. Raises RequestError; either way the record is told once."""
        record, request = call.record, call.request
        record.requested_model, record.is_stream = request.model, request.stream
        run: _Run | None = None
        try:
            targets = self._targets(call)
            order = [ranked.target for ranked in self.router.rank(self._fitting(targets, call))]
            scopes = self._limiter.scopes
            run = _Run(call, self._policy, order, scopes.of_client(call.client), _note(call, has_budgets=bool(scopes.budgeted())))
            return self._with_failover(run)
        except StoreError as error:
            _log.error("the store does not answer", extra={"request_id": record.request_id, "reason": str(error)})
            unavailable = StoreUnavailable("the store of limits does not answer; no request is admitted without it")
            self._fail(call, run, unavailable)
            raise unavailable from error
        except RequestError as error:
            self._fail(call, run, error)
            raise

    def _with_failover(self, run: _Run) -> Answer | StreamAnswer | PassedThrough:
        """Walks the targets until one answers. Before the first content only: what comes after is the stream's own."""
        while True:
            grant = self._lease(run)
            try:
                return self._send_once(run, grant)
            except VendorError as error:
                reaction = self.router.failed(grant.target, error.verdict)
                run.failed(grant.target, error.verdict, reaction.next)
                self.settle((grant.key,), Usage())
                if reaction.next is Next.STOP:
                    raise refusal(error.verdict, grant.target.provider, self._redact) from error
            except ClientGone:
                self.settle((grant.key,), settled_usage(Ending.CLIENT_GONE, run.call.request, None, 0))
                raise

    def _lease(self, run: _Run) -> Grant:
        """The next target with room. Waits where a `Retry-After` or the retry interval says so; raises RequestError when nothing is left."""
        while True:
            decision = Decision(retry_after_seconds=run.seconds_until_retry())
            ready = run.ready()
            if ready:
                grant, decision = self._limiter.lease(run.lease(), run.call.request, ready)
                if grant is not None:
                    run.granted(grant, decision)
                    return grant
                run.passed_over(decision, ready)
            wait = decision.retry_after_seconds
            if wait is None or not run.may_wait(wait, decision):
                raise self._exhausted(run, decision)
            run.call.cancellation.sleep(wait)

    def _exhausted(self, run: _Run, decision: Decision) -> RequestError:
        """Why nothing is left: the last vendor's failure, else keys without room, else keys that cool down."""
        if run.last_failure is not None:
            verdict, provider = run.last_failure
            return refusal(verdict, provider, self._redact)
        wait = decision.retry_after_seconds
        reasons = {skipped.reason for skipped in decision.skipped}
        spent = next((reason for reason in sorted(reasons) if reason.startswith("limit:") and reason.endswith(f":{COST}")), None)
        if spent is not None:
            kind, _, rest = spent.removeprefix("limit: ").partition(":")
            whose = f"{kind} '{rest.rpartition(':')[0]}'"
            return LimitReached(f"the budget of the {whose} has no room for what this request may cost", code="budget_exceeded", retry_after_seconds=wait)
        if reasons and all(reason.startswith(("limit", "cooling: rate_limited")) for reason in reasons):
            return LimitReached("every vendor key for this model is at its limit", code="provider_limit_reached", retry_after_seconds=wait)
        return VendorFailed("no vendor key for this model is usable at the moment", status=503, code="no_usable_key", retry_after_seconds=wait)

    def _send_once(self, run: _Run, grant: Grant) -> Answer | StreamAnswer | PassedThrough:
        """One call of one vendor. Raises VendorError or ClientGone; whatever it opened is closed, or belongs to the stream it returns."""
        target, call = grant.target, run.call
        account = self._accounts[target.provider]
        started = time.monotonic()
        self.router.board.begin(target.key)
        vendor = VendorCall(self._upstream, account.dialect, call.cancellation)
        try:
            losses = Losses(may_drop=self._policy.drop_unsupported)
            vendor.open(call.request, target, account.base_url, account.keys[target.key_id].read(), losses)
            call.record.dropped = tuple(losses.dropped)
            if isinstance(call.request, PassThroughRequest):
                return self._passed_through(run, grant, vendor, started)
            if call.request.stream and vendor.is_stream:
                stream = StreamAnswer(self, call, grant, run.client_reservation, vendor, started)
                stream.wait_for_content()
                run.succeeded(target, started)
                return stream
            body = vendor.read()
            content = vendor.form.decode(call.request, body)
        except BaseException as error:
            self.router.board.end(target.key)
            vendor.close(is_wanted=False)
            run.note(target, started, error)
            raise
        vendor.close(is_wanted=True)
        self.router.board.end(target.key)
        is_forwarded = vendor.form.wire == call.face.wire and not call.request.stream
        return self._answered(run, grant, content, body if is_forwarded else None, started)

    def ask(self, request: ModelRequest, target: Target, cancellation: Cancellation) -> Content:
        """One call of one target, past routing and limits; for probes, and for what costs nothing. Raises VendorError or ClientGone."""
        account = self._accounts[target.provider]
        vendor = VendorCall(self._upstream, account.dialect, cancellation)
        try:
            vendor.open(request, target, account.base_url, account.keys[target.key_id].read(), Losses())
            return vendor.form.decode(request, vendor.read())
        finally:
            vendor.close(is_wanted=True)

    def _passed_through(self, run: _Run, grant: Grant, vendor: VendorCall, started: float) -> PassedThrough:
        passed = PassedThrough(self, run.call, grant, run.client_reservation, vendor)
        self.router.succeeded(grant.target, time.monotonic() - started)
        run.succeeded(grant.target, started)
        run.call.record.target = grant.target
        return passed

    def _targets(self, call: Call) -> Sequence[Target]:
        """The targets that may serve the request; the one that has what it goes on from, where it does."""
        request = call.request
        if isinstance(request, PassThroughRequest) and request.any_model:
            return self.catalog.any_of_dialect(OPENAI_WIRE, request.operation, request.model, call.client)
        targets = self.catalog.resolve(request.model, call.client)
        if request.pinned_key is None:
            return targets
        pinned = [target for target in targets if target.key == request.pinned_key]
        if not pinned:
            raise InvalidRequest(
                f"the earlier response is kept by {request.pinned_key}, which does not serve '{request.model}' any more",
                param="previous_response_id",
                code="previous_response_not_found",
                status=404,
            )
        return pinned

    def _answered(self, run: _Run, grant: Grant, content: Content, body: bytes | None, started: float) -> Answer:
        call = run.call
        usage = settled_usage(Ending.ANSWERED, call.request, content.usage, _characters(content))
        self.router.succeeded(grant.target, time.monotonic() - started)
        run.succeeded(grant.target, started)
        call.record.target = grant.target
        call.record.end(Ending.ANSWERED, usage)
        # First the usage log: who is killed between the two is settled at the estimate, and not counted twice.
        self._tell(call.record)
        self.settle((grant.key, run.client_reservation), usage)
        return Answer(content=content, usage=usage, target=grant.target, body=body)

    def settle(self, reservations: Sequence[Reservation | None], usage: Usage) -> None:
        """Settles; a store that fails now leaves the estimate standing, which is the safe side, and does not fail a request that was served."""
        try:
            self._limiter.settle(reservations, usage)
        except StoreError:
            _log.warning("a reservation could not be settled and stands at its estimate")

    def tell(self, record: RequestRecord) -> None:
        """Tells of a request that has ended."""
        self._tell(record)

    def redact(self, text: str) -> str:
        """`text` without secrets."""
        return self._redact(text)

    def _fail(self, call: Call, run: _Run | None, error: RequestError) -> None:
        ending = None
        usage = Usage()
        if run is not None and run.client_reservation is not None:
            ending = Ending.CLIENT_GONE if isinstance(error, ClientGone) else Ending.VENDOR_FAILED
            usage = settled_usage(ending, call.request, None, 0)
            call.record.target = run.last_target
        call.record.end(ending, usage, error)
        self._tell(call.record)
        if run is not None:
            self.settle((run.client_reservation,), usage)

    def _fitting(self, targets: Sequence[Target], call: Call) -> list[Target]:
        """The targets whose keys allow as many output tokens as the request asks for."""
        wanted = call.request.max_output_tokens
        fitting = [target for target in targets if wanted is None or target.max_tokens is None or wanted <= target.max_tokens]
        if not fitting:
            most = max(target.max_tokens or 0 for target in targets)
            raise LimitReached(
                f"max_tokens is {wanted}, and no key for '{call.request.model}' may be asked for more than {most}",
                param="max_tokens",
                code="request_too_large",
                status=400,
            )
        return fitting


def _note(call: Call, *, has_budgets: bool) -> Note:
    """What is told of the request if this worker dies."""
    record, request = call.record, call.request
    return Note(
        request_id=record.request_id,
        client=record.client,
        route=record.route,
        model=request.model,
        input_tokens=input_tokens(request),
        output_tokens=output_tokens(request),
        most_input_tokens=most_input_tokens(request) if has_budgets else 0,
        max_output_tokens=request.max_output_tokens,
        choices=request.choices if isinstance(request, ChatRequest) else 0,
        admitted=time.time(),
    )


def _characters(content: Content) -> int:
    """The length of an answer's text, to count its tokens by where the vendor does not."""
    if not isinstance(content, Completion):
        return 0
    return sum(len(getattr(part, "text", "") or getattr(part, "arguments", "")) for choice in content.choices for part in choice.parts)


class _Run:
    """Where a request stands on its way through the targets."""

    def __init__(self, call: Call, policy: Policy, order: Sequence[Target], scopes: tuple[Scope, ...], note: Note) -> None:
        self.call = call
        self._scopes = scopes
        self._note = note.write()
        self.client_reservation: Reservation | None = None
        self.last_failure: tuple[Verdict, str] | None = None
        self.last_target: Target | None = None
        self._order = order
        self._retry = policy.retry
        self._most_providers = 1 + (policy.fallback.max_providers if policy.fallback.enabled else 0)
        self._deadline = time.monotonic() + policy.retry.timeout
        self._attempts: dict[str, int] = {}
        self._not_before: dict[str, float] = {}
        self._given_up: set[str] = set()

    def lease(self) -> Lease:
        """The next attempt, as the limiter wants it."""
        return Lease(
            request_id=self.call.record.request_id,
            attempt=sum(self._attempts.values()) + 1,
            scopes=self._scopes,
            is_first=self.client_reservation is None,
            note=self._note,
        )

    def ready(self) -> list[Target]:
        """The targets that may be called now, untried ones first."""
        now = time.monotonic()
        usable = [target for target in self._usable() if self._not_before.get(target.key, 0.0) <= now]
        return sorted(usable, key=lambda target: target.key in self._not_before)

    def seconds_until_retry(self) -> float | None:
        """Seconds until a target that failed may be tried again; None if none may."""
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
        if grant.client is not None:
            self.client_reservation = grant.client
            self.call.record.rate_limits = client_room(decision)
        self.call.record.budgets = budgets_used(decision)
        self.last_target = grant.target
        self._attempts[grant.target.provider] = self._attempts.get(grant.target.provider, 0) + 1
        self._note_skipped(decision, self._order)

    def passed_over(self, decision: Decision, targets: Sequence[Target]) -> None:
        """No target had room."""
        self._note_skipped(decision, targets)

    def failed(self, target: Target, verdict: Verdict, following: Next) -> None:
        """A target failed before content."""
        self.last_failure = (verdict, target.provider)
        self._not_before[target.key] = time.monotonic() + self._retry.interval
        if following is Next.PROVIDER:
            self._given_up.add(target.provider)

    def succeeded(self, target: Target, started: float) -> None:
        """A target answered."""
        self._add(target, "answered", started)

    def note(self, target: Target, started: float, error: BaseException) -> None:
        """Records why an attempt moved on."""
        if isinstance(error, VendorError):
            self._add(target, error.verdict.cause, started, error.verdict.message, error.verdict.status)
        else:
            self._add(target, "client_gone" if isinstance(error, ClientGone) else type(error).__name__, started)

    def _add(self, target: Target, outcome: str, started: float, reason: str = "", status: int = 0) -> None:
        seconds = time.monotonic() - started
        self.call.record.upstream_seconds += seconds
        self.call.record.attempts.append(
            Attempt(
                provider=target.provider,
                key_id=target.key_id,
                model=target.model,
                outcome=outcome,
                reason=reason[:300],
                status=status,
                milliseconds=round(seconds * 1000),
            )
        )

    def _note_skipped(self, decision: Decision, targets: Sequence[Target]) -> None:
        by_key: dict[str, Any] = {target.key: target for target in targets}
        for skipped in decision.skipped:
            target = by_key[skipped.key]
            self.call.record.attempts.append(
                Attempt(provider=target.provider, key_id=target.key_id, model=target.model, outcome="skipped", reason=skipped.reason)
            )

    def _usable(self) -> list[Target]:
        tried = set(self._attempts)
        return [
            target
            for target in self._order
            if target.provider not in self._given_up
            and self._attempts.get(target.provider, 0) < self._retry.max_attempts
            and (target.provider in tried or len(tried) < self._most_providers)
        ]
