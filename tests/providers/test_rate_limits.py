"""Limits of rate in headers, between dialects."""

from __future__ import annotations

import pytest

from coollm.core.types import RateLimit
from coollm.providers.rate_limits import read, wait_seconds

OPENAIS = {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "6m0s"}
CLAUDES = {
    "anthropic-ratelimit-tokens-limit": "1000",
    "anthropic-ratelimit-tokens-remaining": "0",
    "anthropic-ratelimit-tokens-reset": "2026-01-01T00:00:30Z",
}
NEW_YEAR_2026 = 1767225600.0


@pytest.mark.parametrize(("text", "seconds"), [("1s", 1), ("6m0s", 360), ("20ms", 0.02), ("1h2m3.5s", 3723.5), ("1m30s", 90), ("soon", 0)])
def test_durations(text: str, seconds: float) -> None:
    assert read({**OPENAIS, "x-ratelimit-reset-requests": text})[0].reset_seconds == pytest.approx(seconds)


def test_both_dialects_are_read() -> None:
    found = read({**OPENAIS, **CLAUDES}, now=NEW_YEAR_2026)
    assert found == (RateLimit(of="requests", limit=60, remaining=0, reset_seconds=360), RateLimit(of="tokens", limit=1000, remaining=0, reset_seconds=30))
    assert read({**OPENAIS, "x-ratelimit-limit-requests": "many"}) == ()


def test_a_limit_that_is_empty_says_when_to_come_back() -> None:
    assert wait_seconds(OPENAIS) == 360
    assert wait_seconds({**OPENAIS, "retry-after": "2"}) == 2
    assert wait_seconds({**OPENAIS, "x-ratelimit-remaining-requests": "3"}) is None
