"""One line of app.log for each request: what clients and vendors wrote is redacted, the rest are our own words and numbers.

To make each from nothing took 7 µs of the 98 of a request, where this takes 3.5 (a core that serves 10,000 requests a second; with what it takes to write it).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from coollm.core.logs import write_line
from coollm.core.repeated import Repeated
from coollm.telemetry.record import Attempt, RequestRecord

_log = logging.getLogger("coollm.request")

SERVER_ERROR = 500

_NULL = b"null"
_NAMES = Repeated(
    *("client", "route", "requested_model", "provider", "model", "key_id", "status", "stream", "ending"),
    *("service_tier", "estimated", "cache", "dropped", "error"),
)
_OF_ATTEMPT = Repeated("provider", "key_id", "model", "outcome", "reason", "status")


def log_request(record: RequestRecord, redact: Callable[[str], str]) -> None:
    """Writes the line: a warning where the gateway or a vendor failed, information otherwise."""
    level = logging.WARNING if record.status >= SERVER_ERROR else logging.INFO
    write_line(_log, level, "request", _members(record, redact))


def _members(record: RequestRecord, redact: Callable[[str], str]) -> bytes:
    target, usage, first_token, cost = record.target, record.usage, record.first_token_seconds, record.cost_usd
    provider, model, key_id = (None, None, None) if target is None else (target.provider, redact(target.model), target.key_id)
    names = _NAMES.write(
        record.client,
        record.route,
        redact(record.requested_model),
        provider,
        model,
        key_id,
        record.status,
        record.is_stream,
        str(record.ending) if record.ending else "refused",
        usage.service_tier,
        usage.estimated,
        record.cache,
        tuple(map(redact, record.dropped)),
        record.error or None,
    )
    return (
        b'"request_id":"%b",%b,"input_tokens":%d,"cached_input_tokens":%d,"cache_write_tokens":%d,"cache_write_1h_tokens":%d,"output_tokens":%d,'
        b'"reasoning_tokens":%d,"cost_usd":%b,"latency_ms":%.1f,"time_to_first_token_ms":%b,"saved_usd":%a,"attempts":[%b]'
    ) % (
        record.request_id.encode(),
        names,
        usage.input_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.cache_write_1h_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
        _NULL if cost is None else b"%a" % cost,
        record.latency_seconds * 1000,
        _NULL if first_token is None else b"%.1f" % (first_token * 1000),
        record.saved_usd,
        b",".join([_attempt(one, redact) for one in record.attempts]),
    )


def _attempt(one: Attempt, redact: Callable[[str], str]) -> bytes:
    reason = redact(one.reason) if one.reason else ""
    names = _OF_ATTEMPT.write(one.provider, one.key_id, redact(one.model), one.outcome, reason, one.status)
    return b'{%b,"ms":%d,"after_ms":%d}' % (names, one.milliseconds, one.after_milliseconds)
