"""One line of app.log for each request: what clients and vendors wrote is redacted, the rest are our own words and numbers.

What repeats from line to line is written once, and looked through once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from coollm.core.errors import UnknownModel
from coollm.core.logs import write_lines
from coollm.core.repeated import Repeated
from coollm.telemetry.record import Attempt, RequestRecord, tokens_of

_log = logging.getLogger("coollm.request")

SERVER_ERROR = 500

_NULL = b"null"
_NAMES = (
    *("client", "route", "requested_model", "provider", "model", "key_id", "status", "stream", "ending"),
    *("service_tier", "estimated", "cache", "dropped", "error"),
)
_OF_ATTEMPT = ("provider", "key_id", "model", "outcome", "reason", "status")

# What clients and vendors wrote.
_OF_OTHERS = ("requested_model", "model", "dropped", "reason")


class RequestLog:
    """Writes the lines, redacted."""

    def __init__(self, redact: Callable[[str], str]) -> None:
        self._redact = redact
        self._names = Repeated(*_NAMES, prepared=self._redacted)
        self._of_attempt = Repeated(*_OF_ATTEMPT, prepared=self._redacted)

    def _redacted(self, members: dict[str, Any]) -> dict[str, Any]:
        for name in _OF_OTHERS:
            said = members.get(name)
            if said:
                members[name] = self._redact(said) if isinstance(said, str) else [self._redact(one) for one in said]
        return members

    def write(self, records: Iterable[RequestRecord]) -> None:
        """Writes the lines of requests that have ended: a warning where the gateway or a vendor failed, information otherwise."""
        lines, least = [], _log.getEffectiveLevel()
        for record in records:
            level = logging.WARNING if record.status >= SERVER_ERROR else logging.INFO
            if level >= least:
                lines.append((level, self._members(record)))
        if lines:
            write_lines(_log, "request", lines)

    def _members(self, record: RequestRecord) -> bytes:
        target, usage, first_token, cost = record.target, record.usage, record.first_token_seconds, record.cost_usd
        provider, model, key_id = (None, None, None) if target is None else (target.provider, target.model, target.key_id)
        # A name that no model has may be any that a client makes up.
        write = self._names.write_once if record.error == UnknownModel.code else self._names.write
        names = write(
            record.client,
            record.route,
            record.requested_model,
            provider,
            model,
            key_id,
            record.status,
            record.is_stream,
            record.ending or "refused",
            usage.service_tier,
            usage.estimated,
            record.cache,
            record.dropped,
            record.error or None,
        )
        return (b'"request_id":"%b",%b,%b,"cost_usd":%b,"latency_ms":%.1f,"time_to_first_token_ms":%b,"saved_usd":%a,"attempts":[%b]') % (
            record.request_id.encode(),
            names,
            tokens_of(usage),
            _NULL if cost is None else b"%a" % cost,
            record.latency_seconds * 1000,
            _NULL if first_token is None else b"%.1f" % (first_token * 1000),
            record.saved_usd,
            b",".join(map(self._attempt, record.attempts)),
        )

    def _attempt(self, one: Attempt) -> bytes:
        target = one.target
        names = self._of_attempt.write(target.provider, target.key_id, target.model, one.outcome, one.reason, one.status)
        return b'{%b,"ms":%d,"after_ms":%d}' % (names, one.seconds * 1000 + 0.5, one.after_seconds * 1000 + 0.5)
