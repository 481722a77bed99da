"""Limits of rate as vendors tell them in headers, by tables.

Sources: https://platform.openai.com/docs/guides/rate-limits (durations such as `6m0s`), https://docs.anthropic.com/en/api/rate-limits (RFC 3339 times).
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import datetime

from coollm.core.types import RateLimit
from coollm.providers.verdict import retry_after_seconds

HEADERS = {
    "openai": {what: (f"x-ratelimit-limit-{what}", f"x-ratelimit-remaining-{what}", f"x-ratelimit-reset-{what}") for what in ("requests", "tokens")},
    "claude": {
        what: (f"anthropic-ratelimit-{what}-limit", f"anthropic-ratelimit-{what}-remaining", f"anthropic-ratelimit-{what}-reset")
        for what in ("requests", "tokens", "input-tokens", "output-tokens")
    },
}
"""Dialect → what is limited → the names of its headers: limit, remaining, reset."""

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")


def read(headers: Mapping[str, str], now: float | None = None) -> tuple[RateLimit, ...]:
    """The limits that `headers`, with lower-case names, tell of in either dialect."""
    found = []
    for table in HEADERS.values():
        for what, (limit, remaining, reset) in table.items():
            if headers.get(limit, "").isdigit() and headers.get(remaining, "").isdigit():
                seconds = _seconds(headers.get(reset, ""), time.time() if now is None else now)
                found.append(RateLimit(of=what, limit=int(headers[limit]), remaining=int(headers[remaining]), reset_seconds=seconds))
    return tuple(found)


def wait_seconds(headers: Mapping[str, str]) -> float | None:
    """When a vendor that refused for its rate may be asked again: `Retry-After`, else the reset of the limit that has nothing left."""
    told = retry_after_seconds(headers)
    if told is not None:
        return told
    empty = [one.reset_seconds for one in read(headers) if one.remaining == 0 and one.reset_seconds > 0]
    return max(empty) if empty else None


def _seconds(text: str, now: float) -> float:
    match = _DURATION.fullmatch(text)
    if text and match:
        hours, minutes, seconds, milliseconds = (float(group or 0) for group in match.groups())
        return hours * 3600 + minutes * 60 + seconds + milliseconds / 1000
    try:
        return max(0.0, datetime.fromisoformat(text).timestamp() - now)
    except ValueError:
        return 0.0
