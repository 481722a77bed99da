"""The record of one request: filled while it runs, told once when it has ended. It never holds a prompt or a key."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from coollm.core.errors import RequestError
from coollm.core.types import RateLimit, Target, Usage, Value
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
    rate_limits: tuple[RateLimit, ...] = ()
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

    def as_log_fields(self, redact: Callable[[str], str]) -> dict[str, Any]:
        """The fields of the log line: what clients and vendors wrote is redacted, the rest are our own words and numbers."""
        target, usage = self.target, self.usage
        return {
            "request_id": self.request_id,
            "client": self.client,
            "route": self.route,
            "requested_model": redact(self.requested_model),
            "provider": target.provider if target else None,
            "model": redact(target.model) if target else None,
            "key_id": target.key_id if target else None,
            "status": self.status,
            "stream": self.is_stream,
            "ending": str(self.ending) if self.ending else "refused",
            "input_tokens": usage.input_tokens,
            "cached_input_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
            "cache_write_1h_tokens": usage.cache_write_1h_tokens,
            "output_tokens": usage.output_tokens,
            "reasoning_tokens": usage.reasoning_tokens,
            "service_tier": usage.service_tier,
            "estimated": usage.estimated,
            "cost_usd": self.cost_usd,
            "latency_ms": _tenths(self.latency_seconds),
            "time_to_first_token_ms": None if self.first_token_seconds is None else _tenths(self.first_token_seconds),
            "cache": self.cache,
            "saved_usd": self.saved_usd,
            "dropped": [redact(one) for one in self.dropped] if self.dropped else [],
            "error": self.error or None,
            "attempts": [
                {
                    "provider": attempt.provider,
                    "key_id": attempt.key_id,
                    "model": redact(attempt.model),
                    "outcome": attempt.outcome,
                    "reason": redact(attempt.reason) if attempt.reason else "",
                    "status": attempt.status,
                    "ms": attempt.milliseconds,
                    "after_ms": attempt.after_milliseconds,
                }
                for attempt in self.attempts
            ],
        }


def _tenths(seconds: float) -> float:
    """Milliseconds with one digit after the point, for a third of what `round` takes."""
    return int(seconds * 10_000 + 0.5) / 10
