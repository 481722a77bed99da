"""Figures over time, and clients that are out of their ordinary, in every database."""

from __future__ import annotations

import random
import time

import pytest

from coollm.core.config.schema import Settings
from coollm.ledger.anomalies import HISTORY_HOURS, LEAST, Anomalies, find_anomalies, ordinary
from coollm.ledger.book import DAY_MS, Ledger
from coollm.ledger.entry import Entry
from coollm.ledger.figures import errors, latencies, trend
from coollm.telemetry.metrics import Metrics
from tests.ledger.entries import HOUR_MS, START_MS, entry


def test_trends(ledger: Ledger) -> None:
    ledger.ship([entry(number) for number in range(48 * 60)], "log", 1, 1)
    end = START_MS + 48 * HOUR_MS
    hourly = trend(ledger, "client", "hour", START_MS, end)
    assert len(hourly["slots"]) == 48
    assert hourly["slots"][0] == START_MS // 1000
    assert {row["client"] for row in hourly["rows"]} == {"client-0", "client-1", "client-2"}
    assert all(sum(row["requests"]) == 960 for row in hourly["rows"])
    told = ledger.report("client", START_MS, end)
    for row in told["rows"]:
        own = next(one for one in hourly["rows"] if one["client"] == row["client"])
        assert sum(own["cost_usd"]) == pytest.approx(row["cost_usd"])
        assert sum(own["errors"]) == row["errors"]
        assert sum(own["tokens"]) == row["input_tokens"] + row["cached_input_tokens"] + row["output_tokens"]
    all_days = trend(ledger, "day", "day", START_MS, end)
    assert sum(all_days["rows"][0]["requests"]) == 48 * 60
    assert len(all_days["slots"]) == end // DAY_MS - START_MS // DAY_MS + (1 if end % DAY_MS else 0)
    assert trend(ledger, "provider", "day", 0, START_MS - DAY_MS)["rows"] == []


def test_percentiles_of_a_day(ledger: Ledger) -> None:
    first = START_MS // DAY_MS * DAY_MS
    made = [entry(number, at_ms=first + number, status=200, latency_ms=100 if number < 900 else 3000) for number in range(1000)]
    made += [entry(2000 + number, at_ms=first + DAY_MS + number, status=200, latency_ms=50) for number in range(10)]
    made += [entry(3000, at_ms=first, status=502, latency_ms=60_000), entry(3001, at_ms=first, status=429, provider="", latency_ms=1)]
    ledger.ship(made, "log", 1, 1)
    one, two = latencies(ledger, first, first + 2 * DAY_MS)
    assert (one["day"], one["requests"], two["requests"]) == (first // 1000, 1000, 10)
    assert 100 <= one["p50_ms"] <= 140
    assert 3000 <= one["p95_ms"] <= 4100
    assert 50 <= two["p99_ms"] <= 70


def test_what_requests_failed_of(ledger: Ledger) -> None:
    made = [entry(number, status=502, error="provider_failed") for number in range(5)]
    made += [entry(10 + number, status=429, error="budget_exceeded", provider="") for number in range(3)]
    made += [entry(20, status=500), entry(21, status=200), entry(22, status=499, ending="hedged")]
    ledger.ship(made, "log", 1, 1)
    found = errors(ledger, 0, 2**53)
    assert [(row["cause"], row["status"], row["provider"], row["requests"]) for row in found] == [
        ("provider_failed", 502, "openai", 5),
        ("budget_exceeded", 429, "", 3),
        ("status 500", 500, "openai", 1),
    ]


def hours_of(client: str, now: float, requests: list[int], cost_usd: float = 0.0) -> list[Entry]:
    """Requests of a client in each of the last hours, the last one being the one that runs."""
    current = int(now * 1000) // HOUR_MS
    return [
        entry(
            0,
            request_id=f"{client}-{place}-{number}",
            client=client,
            at_ms=(current - len(requests) + 1 + place) * HOUR_MS + number,
            status=200,
            cost_nano_usd=int(cost_usd * 1e9),
        )
        for place, count in enumerate(requests)
        for number in range(count)
    ]


def test_spikes_and_what_is_none(ledger: Ledger) -> None:
    now = time.time()
    steady = [random.Random(7).randrange(20, 40) for _ in range(60)]
    made = hours_of("steady", now, steady)
    made += hours_of("spike", now, [*steady, 400])
    made += hours_of("dear", now, [*([5] * 60), 6], 0.001) + hours_of("dearer", now, [*([5] * 60), 5], 0.0)
    made += [entry(0, request_id="one", client="dearer", at_ms=int(now * 1000), cost_nano_usd=int(40e9), status=200)]
    made += hours_of("new", now, [5, 900])
    made += hours_of("small", now, [*([1] * 60), int(LEAST["requests"])])
    made += hours_of("wild", now, [0, 350] * 30 + [380])
    ledger.ship(made, "log", 1, 1)
    found = {(one.client, one.kind): one for one in find_anomalies(ledger, now)}
    assert set(found) == {("spike", "requests"), ("dearer", "cost")}
    assert found["spike", "requests"].ratio > 10
    # An hour later it is told of still; two hours later it is over.
    assert ("spike", "requests") in {(one.client, one.kind) for one in find_anomalies(ledger, now + 3600)}
    assert find_anomalies(ledger, now + 2 * 3600) == []


def test_wild_hours_of_the_past_do_not_change_what_is_ordinary() -> None:
    calm = [10.0] * 100
    assert ordinary([*calm, 5000.0, 9000.0]) == ordinary(calm)
    assert HISTORY_HOURS > 100


def test_metrics_tell_of_an_anomaly_and_of_its_end(ledger: Ledger, tmp_path: object) -> None:
    metrics = Metrics(Settings())
    anomalies = Anomalies(ledger, tmp_path / "lock", metrics.anomaly)  # type: ignore[operator]
    ledger.ship(hours_of("spike", time.time(), [*([20] * 60), 400]), "log", 1, 1)
    anomalies.look()
    assert 'coo_llm_anomaly_ratio{client="spike",kind="requests"} 20.0' in metrics.render("")[0].decode()
    ledger.clear()
    anomalies.look()
    assert 'coo_llm_anomaly_ratio{client="spike",kind="requests"} 0.0' in metrics.render("")[0].decode()
