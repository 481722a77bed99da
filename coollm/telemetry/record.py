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


class Attempt(Value, frozen=True):
    """One call of a vendor, or a candidate that was passed over: what came of it and why the request moved on. It began so long after the request did."""

    provider: str
    key_id: str
    model: str
    outcome: str
    reason: str = ""
    status: int = 0
    milliseconds: int = 0
    after_milliseconds: int = 0


class RequestRecord:
    """What is known of a request. Times are of `time.monotonic()`, in seconds; `charged` is one of the epoch, by which budgets have their periods. `cost_usd`
    is known at its end, None where no price is; what the cache answers costs nothing. `error` is the code, or the type, of what the client was told, and not
    the exception, which would hold all that has to do with the request. `trace_parent` is the client's, where traces are told.
    """

    # Defaults of the class: most requests change few of them.
    team = ""
    requested_model = ""
    is_stream = False
    target: Target | None = None
    upstream_seconds = 0.0
    first_token_seconds: float | None = None
    latency_seconds = 0.0
    usage = Usage()
    ending: Ending | None = None
    status = 200
    error = ""
    dropped: tuple[str, ...] = ()
    rates: tuple[Used, ...] = ()
    budgets: tuple[tuple[str, str, float], ...] = ()
    charged = 0.0
    is_second = False
    cache: str | None = None
    saved_usd = 0.0
    cost_usd: float | None = None
    trace_parent = ""

    def __init__(self, request_id: str, client: str, route: str) -> None:
        self.request_id = request_id
        self.client = client
        self.route = route
        self.started = time.monotonic()
        self.attempts: list[Attempt] = []

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
