"""The record of one request: filled while it runs, told once when it has ended. It never holds a prompt or a key."""

from __future__ import annotations

import time

from coollm.core.errors import RequestError
from coollm.core.types import Target, Usage, Used, Value
from coollm.limits.settlement import Ending

HIT, MISS = "hit", "miss"
"""What the cache had for a request that it may answer."""

ANSWERED = "answered"
"""The outcome of an attempt that succeeded."""

CLIENT_GONE, STOPPED = "client_gone", "stopped"
"""Outcomes that tell nothing about the vendor: the client left, or the gateway was restarted."""


NOTHING = Usage()
"""Of a request that used nothing, or is not over."""


def tokens_of(usage: Usage) -> bytes:
    """Tokens as members of a JSON object, as both logs tell them."""
    return (b'"input_tokens":%d,"cached_input_tokens":%d,"cache_write_tokens":%d,"cache_write_1h_tokens":%d,"output_tokens":%d,"reasoning_tokens":%d') % (
        usage.input_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.cache_write_1h_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
    )


class Attempt(Value, frozen=True):
    """One call of a vendor, or a candidate that was passed over: what came of it and why the request moved on. It began so long after the request did."""

    target: Target
    outcome: str
    seconds: float = 0.0
    after_seconds: float = 0.0
    reason: str = ""
    status: int = 0


class RequestRecord:
    """What is known of a request. Times are of `time.monotonic()`, in seconds; `charged` is one of the epoch, by which budgets have their periods. `cost_usd`
    is known at its end, None where no price is; what the cache answers costs nothing. `error` is the code, or the type, of what the client was told, and not
    the exception, which would hold all that has to do with the request. `trace_parent` is the client's, where traces are told.
    """

    # Not defaults of the class: to read one through an instance takes three times as long (Python 3.11), and a record is read four times.
    __slots__ = (
        *("attempts", "budgets", "cache", "charged", "client", "cost_usd", "dropped", "ending", "error", "first_token_seconds", "is_second", "is_stream"),
        *("latency_seconds", "rates", "request_id", "requested_model", "route", "saved_usd", "started", "status", "target", "team", "trace_parent"),
        *("upstream_seconds", "usage"),
    )

    def __init__(self, request_id: str, client: str, route: str) -> None:
        self.request_id = request_id
        self.client = client
        self.route = route
        self.started = time.monotonic()
        self.attempts: list[Attempt] = []
        self.team = self.requested_model = self.error = self.trace_parent = ""
        self.is_stream = self.is_second = False
        self.target: Target | None = None
        self.upstream_seconds = self.latency_seconds = self.charged = self.saved_usd = 0.0
        self.first_token_seconds: float | None = None
        self.cost_usd: float | None = None
        self.usage = NOTHING
        self.ending: Ending | None = None
        self.status = 200
        self.dropped: tuple[str, ...] = ()
        self.rates: tuple[Used, ...] = ()
        self.budgets: tuple[tuple[str, str, float], ...] = ()
        self.cache: str | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the request has been told of."""
        return self.latency_seconds > 0

    def first_token(self) -> None:
        """The first content is on its way to the client."""
        if self.first_token_seconds is None:
            self.first_token_seconds = time.monotonic() - self.started

    def end(self, ending: Ending | None, usage: Usage, error: RequestError | None = None) -> None:
        """The request has ended."""
        self.ending = ending
        self.usage = usage
        self.latency_seconds = time.monotonic() - self.started
        if error is not None:
            self.status = error.status
            self.error = error.code or error.type
        if self.cache == HIT:
            self.cost_usd = 0.0
        elif self.target is not None:
            self.cost_usd = self.target.cost_usd(usage)
