"""What a client is told of its rates."""

from __future__ import annotations

import pytest

from coollm.api.rate_headers import add_rates
from coollm.core.types import RateLimit, Used
from coollm.providers.rate_limits import HEADERS, read

NOW = 1767225600.0


def used(counter: str, amount: int, limit: int) -> Used:
    return Used(counter=counter, used=amount, limit=limit)


@pytest.mark.parametrize("dialect", [*HEADERS, "embeddings"])
def test_it_reads_as_a_vendor_would_tell_it(dialect: str) -> None:
    headers: dict[str, str] = {"content-type": "application/json"}
    add_rates(headers, dialect, (used("client:c:requests", 3, 5), used("client:c:running", 1, 9), used("client:c:tokens", 890, 900)), NOW)
    told = (RateLimit(of="requests", limit=5, remaining=2, reset_seconds=60), RateLimit(of="tokens", limit=900, remaining=10, reset_seconds=60))
    assert read(headers, now=NOW) == told
    assert len(headers) == 7, "and nothing of what runs"


def test_it_is_what_the_team_has_left_where_that_is_less() -> None:
    headers: dict[str, str] = {}
    of_both = (used("client:c:requests", 1, 10), used("client:c:tokens", 0, 70), used("team:t:requests", 99, 100), used("team:t:tokens", 0, 1000))
    add_rates(headers, "openai", of_both)
    assert [(one.of, one.limit, one.remaining) for one in read(headers)] == [("requests", 100, 1), ("tokens", 70, 70)]


def test_less_than_nothing_is_nothing() -> None:
    headers: dict[str, str] = {}
    add_rates(headers, "openai", (used("client:c:requests", 12, 10),))
    assert headers["x-ratelimit-remaining-requests"] == "0"


def test_models_and_budgets_are_not_told() -> None:
    headers: dict[str, str] = {}
    add_rates(headers, "openai", (used("model:gpt*:requests", 1, 10), used("client:c:cost", 1, 10), used("key:p/k:tokens", 1, 10)))
    assert headers == {}
