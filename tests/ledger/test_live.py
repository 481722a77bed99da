"""The figures of now: counted once, also where lines come late, and made anew only when they are old."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from coollm.ledger import live
from coollm.ledger.book import Ledger
from coollm.ledger.live import LiveFigures
from tests.ledger.entries import entry


def test_each_request_counts_once_also_when_its_line_comes_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "FRESH_SECONDS", 0.0)
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    figures = LiveFigures(ledger)
    now = int(time.time() * 1000)
    ledger.ship([entry(number, at_ms=now - number * 1000, status=502 if number % 10 == 0 else 200) for number in range(600)], "a", 1, 1)
    for _ in range(3):
        told = figures.now()
        assert sum(one["requests"] for one in told["minutes"]) == 600
        assert sum(one["errors"] for one in told["minutes"]) == 60
    ledger.ship([entry(1000 + number, at_ms=now - 5000) for number in range(7)], "b", 1, 1)  # another host's
    assert sum(one["requests"] for one in figures.now()["minutes"]) == 607
    assert sum(one["requests"] for one in LiveFigures(ledger).now()["minutes"]) == 607
    ledger.ship([entry(5000, at_ms=now - 3_600_000)], "c", 1, 1)
    told = figures.now()
    assert sum(one["requests"] for one in told["minutes"]) == 607, "an hour ago is not now"
    assert [one["at_ms"] for one in told["last"]] == sorted((one["at_ms"] for one in told["last"]), reverse=True)
    assert len(told["last"]) == 20
    ledger.close()


def test_they_are_made_anew_only_when_they_are_old(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    figures = LiveFigures(ledger)
    first = figures.now()
    ledger.ship([entry(1, at_ms=int(time.time() * 1000))], "a", 1, 1)
    assert figures.now() is first
    ledger.close()


def test_without_requests_there_is_nothing_to_say_of_times(tmp_path: Path) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    told = LiveFigures(ledger).now()
    assert (told["p50_ms"], told["p95_ms"], told["first_token_p50_ms"], told["last"]) == (None, None, None, [])
    ledger.close()
