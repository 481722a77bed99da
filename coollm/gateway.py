"""The story of a request: `complete` chooses and records, `_with_failover` walks the targets, `_send_once` makes one call."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from coollm.cache.answers import AnswerCache, Flight, Kept
from coollm.call import Account, Answer, Call
from coollm.cancellation import Cancellation
from coollm.closing import Closer
from coollm.core.config.schema import Policy
from coollm.core.errors import Cancelled, GatewayStopping, InvalidRequest, LimitReached, RequestError, StoreUnavailable, VendorFailed
from coollm.core.types import Completion, Content, Embeddings, ModelRequest, PassThroughRequest, Ranking, Target, Usage
from coollm.hedging import race
from coollm.limits.charges import COST
from coollm.limits.estimate import estimate_of
from coollm.limits.limiter import Grant, Limiter, Reservation, meaning
from coollm.limits.output_sizes import OutputSizes
from coollm.limits.settlement import Ending, settled_usage
from coollm.passing import PassedThrough
from coollm.providers.base import Losses
from coollm.providers.verdict import VendorError
from coollm.refusals import refusal
from coollm.routing.catalog import Catalog
from coollm.routing.reaction import Next
from coollm.routing.router import Router
from coollm.routing.sticky import stickiness
from coollm.run import Failed, Run
from coollm.stores.base import Decision, StoreError
from coollm.streaming import StreamAnswer
from coollm.telemetry.record import HIT, MISS, RequestRecord
from coollm.upstream import Upstream
from coollm.vendor_call import VendorCall

OPENAI_WIRE = "openai"
LOCAL_TENANT = "local"

_log = logging.getLogger("coollm.gateway")


class Whole(msgspec.Struct, frozen=True):
    """A whole answer as it came, from the target of `grant`. `body` is there where its bytes go to the client as they are; only then may `content` be None."""

    grant: Grant
    content: Content | None
    usage: Usage | None
    body: bytes | None
    started: float


Sent = Whole | StreamAnswer | PassedThrough


class Gateway:
    """Serves requests. One for each generation of the configuration."""

    def __init__(
        self,
        policy: Policy,
        accounts: Mapping[str, Account],
        catalog: Catalog,
        router: Router,
        limiter: Limiter,
        sizes: OutputSizes,
        cache: AnswerCache | None,
        upstream: Upstream,
        redact: Callable[[str], str],
        closer: Closer,
    ) -> None:
        self._policy = policy
        self._is_sticky = policy.sticky.by != "none"
        self._accounts = accounts
        self._limiter = limiter
        self._sizes = sizes
        self._cache = cache
        self._upstream = upstream
        self._redact = redact
        self._closer = closer
        self.catalog = catalog
        self.router = router

    def complete(self, call: Call) -> Answer | StreamAnswer | PassedThrough:
        """Serves a request: a whole answer, or a stream whose first content has come. Raises RequestError; either way the record is told once."""
        record, request = call.record, call.request
        record.requested_model, record.is_stream = request.model, request.stream
        run: Run | None = None
        flight: Flight | None = None
        try:
            targets = self._targets(call)
            if self._cache is not None:
                found = self._from_cache(self._cache, call, targets)
                if isinstance(found, Kept):
                    return self._replayed(call, found)
                flight = found
            run = self._run(call, self._fitting(targets, call), flight)
            return self._with_failover(run)
        except StoreError as error:
            _log.error("the store does not answer", extra={"request_id": record.request_id, "reason": str(error)})
            raise self._failed(call, run, flight, StoreUnavailable("the store of limits does not answer; no request is admitted without it")) from error
        except RequestError as error:
            self._failed(call, run, flight, error)
            raise

    def _run(self, call: Call, targets: Sequence[Target], flight: Flight | None) -> Run:
        scopes, request = self._limiter.scopes, call.request
        order = self.router.order(targets, stickiness(self._policy.sticky, request, call.session) if self._is_sticky else None)
        expected = self._sizes.expected(request.model) if request.max_output_tokens is None else None
        estimate = estimate_of(request, with_most=scopes.has_budgets, expected=expected)
        return Run(call, self._policy, order, scopes.of_client(call.client), estimate, flight)

    def _with_failover(self, run: Run) -> Answer | StreamAnswer | PassedThrough:
        """Walks the targets until one answers. Before the first content only: what comes after is the stream's own."""
        hedges = self._policy.hedge.enabled and not isinstance(run.call.request, PassThroughRequest)
        while True:
            grant = self._lease(run)
            sent = race(self, run, grant, self._policy.hedge.after) if hedges else self.attempt(run, grant, run.call.cancellation)
            if isinstance(sent, Failed):
                if self.failed(run, sent) is Next.STOP:
                    raise refusal(sent.verdict, sent.grant.target.provider, self._redact)
            elif isinstance(sent, Whole):
                return self._answered(run, sent)
            else:
                run.served_by(sent.grant)
                return sent

    def attempt(self, run: Run, grant: Grant, cancellation: Cancellation) -> Sent | Failed:
        """One call of one vendor, and what came of it. Raises Cancelled; then the attempt is settled."""
        try:
            return self._send_once(run, grant, cancellation)
        except VendorError as error:
            return Failed(grant, error.verdict)
        except Cancelled:
            if run.call.cancellation.is_cancelled:
                self._closer.settle_now((grant.key,), settled_usage(Ending.CLIENT_GONE, run.call.request, None, 0))
            raise

    def failed(self, run: Run, failed: Failed) -> Next:
        """Takes in a failure, which cost nothing, and says what follows."""
        verdict, target = failed.verdict, failed.grant.target
        reaction = self.router.failed(target, verdict)
        run.failed(target, verdict, reaction.next)
        self._closer.settle_now((failed.grant.key,), Usage())
        return reaction.next

    def lease_beside(self, run: Run, grant: Grant) -> Grant | None:
        """Another target to race that of `grant`, within the budget of such; None if there is none."""
        hedge, targets = self._limiter.scopes.hedge, run.beside(grant)
        if hedge is None or not targets:
            return None
        try:
            second, decision = self._limiter.lease(run.lease(extra=(hedge,)), run.estimate, targets)
        except (RequestError, StoreError):
            return None
        if second is not None:
            run.granted(second, decision)
        return second

    def outpaced(self, run: Run, grant: Grant, started: float) -> None:
        """The slower of two: the vendor has read its input, which is settled, flagged, in a line of its own."""
        request, record = run.call.request, run.call.record
        usage = settled_usage(Ending.HEDGED, request, None, 0)
        run.outpaced(grant.target, started)
        line = RequestRecord(grant.key.id, record.client, record.route)
        line.team, line.requested_model, line.target = record.team, request.model, grant.target
        line.charged, line.is_second = grant.charged, grant.is_second
        line.end(Ending.HEDGED, usage)
        self.end(line, (grant.key,), usage)

    def _lease(self, run: Run) -> Grant:
        """The next target with room. Waits where a `Retry-After` or the retry interval says so; raises RequestError when nothing is left."""
        while True:
            ready = run.ready()
            if ready:
                grant, decision = self._limiter.lease(run.lease(), run.estimate, ready)
                if grant is not None:
                    run.granted(grant, decision)
                    return grant
                run.passed_over(decision, ready)
            else:
                decision = Decision(retry_after_seconds=run.seconds_until_retry())
            wait = decision.retry_after_seconds
            if wait is None or not run.may_wait(wait, decision):
                raise self._exhausted(run, decision)
            run.call.cancellation.sleep(wait)

    def _exhausted(self, run: Run, decision: Decision) -> RequestError:
        """Why nothing is left: the last vendor's failure, else keys without room, else keys that cool down."""
        if run.last_failure is not None:
            verdict, provider = run.last_failure
            return refusal(verdict, provider, self._redact)
        wait = decision.retry_after_seconds
        reasons = {skipped.reason for skipped in decision.skipped}
        spent = next((reason for reason in sorted(reasons) if reason.startswith("limit:") and reason.endswith(f":{COST}")), None)
        if spent is not None:
            kind, identity, _ = meaning(spent.removeprefix("limit: "))
            whose = f"{kind} '{identity}'"
            return LimitReached(f"the budget of the {whose} has no room for what this request may cost", code="budget_exceeded", retry_after_seconds=wait)
        if reasons and all(reason.startswith(("limit", "cooling: rate_limited")) for reason in reasons):
            return LimitReached("every vendor key for this model is at its limit", code="provider_limit_reached", retry_after_seconds=wait)
        return VendorFailed("no vendor key for this model is usable at the moment", status=503, code="no_usable_key", retry_after_seconds=wait)

    def _send_once(self, run: Run, grant: Grant, cancellation: Cancellation) -> Sent:
        """One call of one vendor. Raises VendorError or Cancelled; whatever it opened is closed, or belongs to the stream it returns."""
        target, call = grant.target, run.call
        request = call.request
        account = self._accounts[target.provider]
        started = time.monotonic()
        stats = self.router.board.begin(target.key)
        vendor = VendorCall(self._upstream, account.dialect, cancellation)
        try:
            losses = Losses(may_drop=self._policy.drop_unsupported)
            vendor.open(request, target, account.base_url, account.keys[target.key_id].read(), losses)
            if losses.dropped:
                call.record.dropped = tuple(losses.dropped)
            if isinstance(request, PassThroughRequest):
                return self._passed_through(run, grant, vendor, started)
            if request.stream and vendor.is_stream:
                stream = StreamAnswer(self, run, grant, vendor, started)
                stream.wait_for_content()
                run.succeeded(target, started)
                return stream
            body, form = vendor.read(), vendor.form
            is_forwarded = form.wire == call.face.wire and not request.stream
            usage = form.usage(body) if is_forwarded and run.flight is None else None
            content = None if usage is not None else form.decode(request, body)
        except BaseException as error:
            stats.end()
            vendor.close(is_wanted=False)
            run.note(target, started, error)
            raise
        vendor.close(is_wanted=True)
        stats.end()
        return Whole(grant, content, usage if content is None else content.usage, body if is_forwarded else None, started)

    def ask(self, request: ModelRequest, target: Target, cancellation: Cancellation) -> Content:
        """One call of one target, past routing and limits; for probes, and for what costs nothing. Raises VendorError or Cancelled."""
        account = self._accounts[target.provider]
        vendor = VendorCall(self._upstream, account.dialect, cancellation)
        try:
            vendor.open(request, target, account.base_url, account.keys[target.key_id].read(), Losses())
            return vendor.form.decode(request, vendor.read())
        finally:
            vendor.close(is_wanted=True)

    def _passed_through(self, run: Run, grant: Grant, vendor: VendorCall, started: float) -> PassedThrough:
        passed = PassedThrough(self, run.call, grant, run.client_reservation, vendor)
        self.router.board.succeeded(grant.target.key, run.succeeded(grant.target, started))
        return passed

    def _targets(self, call: Call) -> tuple[Target, ...]:
        """The targets that may serve the request; the one that has what it goes on from, where it does."""
        request = call.request
        if isinstance(request, PassThroughRequest) and request.any_model:
            return self.catalog.any_of_dialect(OPENAI_WIRE, request.operation, request.model, call.client)
        targets = self.catalog.resolve(request.model, call.client)
        if request.pinned_key is None:
            return targets
        pinned = tuple(target for target in targets if target.key == request.pinned_key)
        if not pinned:
            raise InvalidRequest(
                f"the earlier response is kept by {request.pinned_key}, which does not serve '{request.model}' any more",
                param="previous_response_id",
                code="previous_response_not_found",
                status=404,
            )
        return pinned

    def _from_cache(self, cache: AnswerCache, call: Call, targets: tuple[Target, ...]) -> Kept | Flight | None:
        """The kept answer; a Flight if this request is to fetch one; None if its answer is not one to keep."""
        if not call.may_keep:
            return None
        tenant = call.client.client_id if call.client else LOCAL_TENANT
        place = cache.place(call.request, call.face.wire, tenant, targets)
        if place is None:
            return None
        found = cache.find(place, call.cancellation) if call.may_read_cache else cache.begin(place)
        call.record.cache = HIT if isinstance(found, Kept) else MISS
        return found

    def _replayed(self, call: Call, kept: Kept) -> Answer:
        """An answer from the cache costs nothing."""
        target = Target(provider=kept.provider, type=kept.type, key_id=kept.key_id, model=kept.model)
        call.record.target = target
        call.record.saved_usd = kept.cost_usd
        call.record.end(Ending.CACHED, Usage())
        self._closer.tell(call.record)
        return Answer(content=kept.content, usage=kept.usage, target=target, body=None if call.request.stream else kept.body)

    def _answered(self, run: Run, whole: Whole) -> Answer:
        call, target = run.call, whole.grant.target
        usage = whole.usage or settled_usage(Ending.ANSWERED, call.request, None, _characters(whole.content))
        self.router.board.succeeded(target.key, run.succeeded(target, whole.started))
        run.served_by(whole.grant)
        self.finish(run, whole.grant, Ending.ANSWERED, usage, None)
        if run.flight is not None:
            self.keep(run, whole.content, usage, whole.body)
        return Answer(content=whole.content, usage=usage, target=target, body=whole.body)

    def finish(self, run: Run, grant: Grant, ending: Ending, usage: Usage, error: RequestError | None) -> None:
        """The end of a request that a vendor has answered, whole or in part."""
        request = run.call.request
        run.call.record.end(ending, usage, error)
        if ending is Ending.ANSWERED and request.max_output_tokens is None and usage.completion_tokens:
            self._sizes.learn(request.model, usage.completion_tokens // max(1, request.choices))
        self.end(run.call.record, (grant.key, run.client_reservation), usage)

    def keep(self, run: Run, content: Content | None, usage: Usage, body: bytes | None) -> None:
        """Keeps the answer of a request that has ended, if it is one to keep."""
        target = run.call.record.target
        if run.flight is None:
            return
        if target is None or not isinstance(content, Completion | Embeddings | Ranking):
            run.flight.land(None)
            return
        cost = run.call.record.cost_usd or 0.0
        made = Kept(
            provider=target.provider, type=target.type, key_id=target.key_id, model=target.model, content=content, usage=usage, body=body, cost_usd=cost
        )
        run.flight.land(made)

    def end(self, record: RequestRecord, reservations: Sequence[Reservation | None], usage: Usage) -> None:
        """Tells of a request that has ended, and settles it."""
        self._closer.end(record, reservations, usage)

    def redact(self, text: str) -> str:
        """`text` without secrets."""
        return self._redact(text)

    def _failed(self, call: Call, run: Run | None, flight: Flight | None, error: RequestError) -> RequestError:
        """Tells of a request that ends with `error`, which is given back."""
        ending = None
        usage = Usage()
        if flight is not None:
            flight.land(None)
        if isinstance(error, LimitReached) and error.rates:
            call.record.rates = error.rates
        if run is not None and run.client_reservation is not None:
            ending = _ending(error)
            usage = settled_usage(ending, call.request, None, 0)
            call.record.target = run.last_target
        call.record.end(ending, usage, error)
        self.end(call.record, () if run is None else (run.client_reservation,), usage)
        return error

    def _fitting(self, targets: Sequence[Target], call: Call) -> Sequence[Target]:
        """The targets whose keys allow as many output tokens as the request asks for."""
        wanted = call.request.max_output_tokens
        if wanted is None:
            return targets
        for target in targets:
            if target.max_tokens is not None and wanted > target.max_tokens:
                break
        else:
            return targets
        fitting = [target for target in targets if target.max_tokens is None or wanted <= target.max_tokens]
        if not fitting:
            most = max(target.max_tokens or 0 for target in targets)
            raise LimitReached(
                f"max_tokens is {wanted}, and no key for '{call.request.model}' may be asked for more than {most}",
                param="max_tokens",
                code="request_too_large",
                status=400,
            )
        return fitting


def _ending(error: RequestError) -> Ending:
    if isinstance(error, GatewayStopping):
        return Ending.CUT
    return Ending.CLIENT_GONE if isinstance(error, Cancelled) else Ending.VENDOR_FAILED


def _characters(content: Content | None) -> int:
    """The length of an answer's text, to count its tokens by where the vendor does not."""
    if not isinstance(content, Completion) or content.usage is not None:
        return 0
    return sum(len(getattr(part, "text", "") or getattr(part, "arguments", "")) for choice in content.choices for part in choice.parts)
