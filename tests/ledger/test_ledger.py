"""The ledger over every database that it is made for: each request once, sums that are those of the requests, and what a crash leaves."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, update
from sqlalchemy.exc import SQLAlchemyError

from coollm.core.errors import OperationFailed
from coollm.ledger.book import Ledger
from coollm.ledger.entry import Entry, read_line
from coollm.ledger.shipper import Shipper
from coollm.ledger.tables import usage, version
from coollm.ledger.usage_log import UsageLog, all_logs, read_entries

HOUR_MS = 3_600_000
START_MS = 1_790_000_000_000 // HOUR_MS * HOUR_MS


def entry(number: int, **changes: Any) -> Entry:
    told: dict[str, Any] = {
        "request_id": f"req_{number}",
        "at_ms": START_MS + number * 60_000,
        "charged_ms": START_MS + number * 60_000 - 500,
        "client": f"client-{number % 3}",
        "team": "",
        "provider": "openai",
        "model": "gpt-sim",
        "key_id": "k",
        "route": "chat",
        "status": 200 if number % 5 else 502,
        "ending": "answered",
        "input_tokens": 10,
        "cached_input_tokens": 2,
        "cache_write_tokens": 1,
        "output_tokens": 20,
        "reasoning_tokens": 3,
        "cost_nano_usd": 1_000_000 if number % 7 else None,
        "estimated": number % 11 == 0,
    }
    return Entry(**{**told, **changes})


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    url = f"sqlite:///{tmp_path}/ledger.sqlite" if request.param == "sqlite" else request.getfixturevalue(f"{request.param}_url")
    one = Ledger(url)
    one.clear()
    yield one
    one.close()


def test_a_request_is_in_it_once_however_often_it_is_shipped(ledger: Ledger) -> None:
    entries = [entry(number) for number in range(50)]
    assert ledger.ship(entries[:30], "log", 1, 300) == 30
    assert ledger.ship(entries, "log", 1, 500) == 20
    assert ledger.ship([entry(3, output_tokens=99), entry(60), entry(60, output_tokens=99)], "log", 1, 600) == 1
    assert ledger.position("log") == (1, 600)
    sums = ledger.sums(0)
    assert sums["requests"] == sums["hours"] == sums["days"]
    assert (sums["requests"]["requests"], sums["requests"]["output_tokens"]) == (51, 51 * 20)


def test_the_report(ledger: Ledger) -> None:
    ledger.ship([entry(number) for number in range(48 * 60)], "log", 1, 1)
    by_client = ledger.report("client")
    assert {row["client"]: row["requests"] for row in by_client["rows"]} == {"client-0": 960, "client-1": 960, "client-2": 960}
    assert [row["cost_usd"] for row in by_client["rows"]] == sorted((row["cost_usd"] for row in by_client["rows"]), reverse=True)
    total = by_client["total"]
    assert total == ledger.report("day")["total"] == ledger.report("model")["total"]
    assert (total["requests"], total["errors"], total["unpriced"]) == (2880, 576, 412)
    assert total["cost_usd"] == pytest.approx((2880 - 412) * 0.001)
    assert (total["input_tokens"], total["cached_input_tokens"], total["output_tokens"]) == (2880 * 11, 2880 * 2, 2880 * 23)
    part = ledger.report("day", START_MS + HOUR_MS, START_MS + 3 * HOUR_MS)
    assert part["total"]["requests"] == 120
    for start, end in ((3, 30), (0, 25), (20, 47), (5, 6)):
        within = ledger.report("client", START_MS + start * HOUR_MS, START_MS + end * HOUR_MS)
        assert within["total"]["requests"] == (end - start) * 60, "whole days and the hours beside them"


def test_export_and_prune(ledger: Ledger) -> None:
    ledger.ship([entry(number) for number in range(1200)], "log", 1, 1)
    rows = list(ledger.export(START_MS, START_MS + 10 * HOUR_MS))
    assert [row["request_id"] for row in rows] == [f"req_{number}" for number in range(600)]
    assert rows[7]["cost_nano_usd"] is None
    assert ledger.prune(START_MS + 5 * HOUR_MS) == 300
    assert ledger.report("client")["total"]["requests"] == 1200, "the sums stay"
    sums = ledger.sums(ledger.pruned_before())
    assert sums["requests"] == sums["hours"]
    assert sums["requests"]["requests"] == 900


def test_many_hosts_ship_at_the_same_time(ledger: Ledger) -> None:
    """Two that meet in one hour may have to try again, as a gateway does with its next round."""
    errors: list[Exception] = []

    def host(number: int) -> None:
        for batch in range(6):
            entries = [entry(number * 1000 + batch * 10 + one, at_ms=START_MS) for one in range(10)]
            for _ in range(20):
                try:
                    ledger.ship(entries, f"host-{number}", 1, batch)
                    break
                except Exception as error:
                    errors.append(error)
                    time.sleep(random.random() / 20)
            else:
                raise AssertionError(errors[-1])

    threads = [threading.Thread(target=host, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sums = ledger.sums(0)
    assert sums["requests"] == sums["hours"] == sums["days"]
    assert sums["requests"]["requests"] == 120


def shipper(ledger: Ledger, tmp_path: Path) -> tuple[UsageLog, Shipper]:
    log = UsageLog(tmp_path / "usage.log")
    return log, Shipper(log.path, ledger, tmp_path / "lock", "host")


def test_the_log_is_shipped_from_where_it_was_left(ledger: Ledger, tmp_path: Path) -> None:
    log, ships = shipper(ledger, tmp_path)
    for number in range(1100):
        log.write(entry(number))
    assert ships.ship() == 1100
    assert ships.ship() == 0
    log.write(entry(2000))
    with log.path.open("ab") as file:
        file.write(b'{"request_id": "cut in the mid')
    assert ships.ship() == 1
    assert ships.verify()["ok"]


def test_a_line_that_was_cut_and_rotation_lose_nothing(ledger: Ledger, tmp_path: Path) -> None:
    log, ships = shipper(ledger, tmp_path)
    log.write(entry(1))
    with log.path.open("ab") as file:
        file.write(b'{"request_id": "cut by a crash of the host\n')
    log.write(entry(2))
    log.path.rename(tmp_path / "usage.log.1")
    log.write(entry(3))
    assert [path.name for path in all_logs(log.path)] == ["usage.log.1", "usage.log"]
    assert ships.ship() == 3
    log.path.rename(tmp_path / "usage.log.2")
    log.write(entry(4))
    assert ships.ship() == 1
    found = ships.verify()
    assert (found["ok"], found["lines"], found["unreadable_lines"]) == (True, 4, 1)
    assert ships.rebuild() == 4


def test_verify_finds_what_is_wrong(ledger: Ledger, tmp_path: Path) -> None:
    log, ships = shipper(ledger, tmp_path)
    for number in range(10):
        log.write(entry(number))
    assert ships.verify()["ok"]
    with ledger._engine.begin() as connection:
        connection.execute(delete(usage).where(usage.c.request_id == "req_4"))
    found = ships.verify()
    assert not found["ok"]
    assert any("req_4" in fault for fault in found["faults"])
    assert any("requests: 9 over the requests, 10 over the hours" in fault for fault in found["faults"])
    ships.rebuild()
    assert ships.verify()["ok"]


def test_a_ledger_that_cannot_be_opened_says_so_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(OperationFailed):
        Ledger("nonsense")
    for url in ("postgresql+psycopg://u:a-password@127.0.0.1:1/x", "mysql+pymysql://u:a-password@127.0.0.1:1/x", f"sqlite:///{tmp_path}/missing/l.sqlite"):
        with pytest.raises(SQLAlchemyError) as raised:
            Ledger(url).prepare()
        assert "a-password" not in str(raised.value)


def test_a_ledger_of_another_version_is_let_be(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.sqlite"
    first = Ledger(url)
    first.prepare()
    with first._engine.begin() as connection:
        connection.execute(update(version).values(version=99))
    with pytest.raises(OperationFailed, match="version 99"):
        Ledger(url).prepare()


def test_lines() -> None:
    assert read_line(entry(1).write()) == entry(1)
    assert read_line(b"{}") is None
    assert read_line(b"\xff\x00") is None


def test_reading_from_an_offset(tmp_path: Path) -> None:
    log = UsageLog(tmp_path / "usage.log")
    for number in range(5):
        log.write(entry(number))
    offsets = [offset for _, offset in read_entries(log.path)]
    assert [found.request_id for found, _ in read_entries(log.path, offsets[2]) if found] == ["req_3", "req_4"]
