"""The ledger over every database that it is made for: each request once, sums that are those of the requests, and what a crash leaves."""

from __future__ import annotations

import errno
import gzip
import os
import random
import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import delete, select, text, update
from sqlalchemy.exc import SQLAlchemyError

from coollm.core.errors import OperationFailed
from coollm.ledger.book import DAY_MS, Ledger
from coollm.ledger.entry import Entry, read_line
from coollm.ledger.migrations import NEWEST
from coollm.ledger.retention import Retention
from coollm.ledger.shipper import Shipper
from coollm.ledger.tables import days, metadata, usage, version
from coollm.ledger.usage_log import LOOK_SECONDS, UsageLog, all_logs, read_entries
from tests.ledger.entries import HOUR_MS, START_MS, entry, written


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
    day = START_MS // DAY_MS * DAY_MS + DAY_MS
    before = (day - START_MS) // 60_000
    cost = ledger.spent("client", ["client-1"], START_MS, day + DAY_MS)
    assert ledger.prune(day + 5 * HOUR_MS) == before, "whole days"
    assert ledger.report("client")["total"]["requests"] == 1200, "the sums stay"
    sums = ledger.sums(ledger.pruned_before())
    assert sums["requests"] == sums["hours"] == sums["days"]
    assert sums["requests"]["requests"] == 1200 - before
    assert ledger.spent("client", ["client-1"], START_MS, day + DAY_MS) == cost, "of what is pruned the sums tell"


def test_retention(ledger: Ledger, tmp_path: Path) -> None:
    now = int(time.time() * 1000)
    ledger.ship([entry(number, at_ms=now - number * DAY_MS) for number in range(10)], "log", 1, 1)
    assert Retention(ledger, 5, tmp_path / "lock", lambda _: []).prune() == 4
    assert Retention(ledger, 5, tmp_path / "lock", lambda _: []).prune() == 0
    assert ledger.report("client")["total"]["requests"] == 10


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
        log.write(written(entry(number)))
    assert ships.ship() == 1100
    assert ships.ship() == 0
    log.write(written(entry(2000)))
    with log.path.open("ab") as file:
        file.write(b'{"request_id": "cut in the mid')
    assert ships.ship() == 1
    assert ships.verify()["ok"]


def test_a_line_that_was_cut_and_rotation_lose_nothing(ledger: Ledger, tmp_path: Path) -> None:
    log, ships = shipper(ledger, tmp_path)
    log.write(written(entry(1)))
    with log.path.open("ab") as file:
        file.write(b'{"request_id": "cut by a crash of the host\n')
    log.write(written(entry(2)))
    log.path.rename(tmp_path / "usage.log.1")
    time.sleep(2 * LOOK_SECONDS)
    log.write(written(entry(3)))
    assert [path.name for path in all_logs(log.path)] == ["usage.log.1", "usage.log"]
    assert ships.ship() == 3
    log.path.rename(tmp_path / "usage.log.2")
    time.sleep(2 * LOOK_SECONDS)
    log.write(written(entry(4)))
    assert ships.ship() == 1
    found = ships.verify()
    assert (found["ok"], found["lines"], found["unreadable_lines"]) == (True, 4, 1)
    assert ships.rebuild() == 4
    for name in ("usage.log.1", "usage.log.2"):
        rotated = tmp_path / name
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(rotated.read_bytes()))
        rotated.unlink()
    assert ships.rebuild() == 4, "those that are compressed, too"
    assert ships.verify()["ok"]
    whole = (tmp_path / "usage.log.1.gz").read_bytes()
    (tmp_path / "usage.log.1.gz").write_bytes(whole[: len(whole) // 2])
    assert 2 <= ships.rebuild() <= 4, "of one that is damaged, what can be read"


def test_verify_finds_what_is_wrong(ledger: Ledger, tmp_path: Path) -> None:
    log, ships = shipper(ledger, tmp_path)
    for number in range(10):
        log.write(written(entry(number)))
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
    assert read_line(written(entry(1))) == entry(1)
    assert read_line(b"{}") is None
    assert read_line(b"\xff\x00") is None


def test_reading_from_an_offset(tmp_path: Path) -> None:
    log = UsageLog(tmp_path / "usage.log")
    for number in range(5):
        log.write(written(entry(number)))
    offsets = [offset for _, offset in read_entries(log.path)]
    assert [found.request_id for found, _ in read_entries(log.path, offsets[2]) if found] == ["req_3", "req_4"]


def test_lines_wait_for_room_on_the_disk_and_are_written_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = UsageLog(tmp_path / "usage.log")
    room = [100]
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = min(room[0], len(data))
        room[0] -= taken
        return write(descriptor, data[:taken])

    monkeypatch.setattr("coollm.ledger.usage_log.os.write", full)
    for number in range(5):
        log.write(written(entry(number)))
    assert log.is_behind
    assert not log.is_full
    assert list(read_entries(log.path)) == [], "a line that went in in part is none yet"
    room[0] = 10**6
    log._write_waiting()
    assert not log.is_behind
    assert [found.request_id for found, _ in read_entries(log.path) if found] == [f"req_{number}" for number in range(5)]
    room[0] = 0
    monkeypatch.setattr("coollm.ledger.usage_log.MOST_WAITING", 3)
    for number in range(3):
        assert not log.is_full
        log.write(written(entry(number)))
    assert log.is_full


FIRST_VERSION = (
    "CREATE TABLE {usage} (request_id VARCHAR(64) PRIMARY KEY, at_ms BIGINT NOT NULL, client VARCHAR(64) NOT NULL, team VARCHAR(64) NOT NULL, "
    "provider VARCHAR(64) NOT NULL, model VARCHAR(256) NOT NULL, key_id VARCHAR(64) NOT NULL, route VARCHAR(64) NOT NULL, status INTEGER NOT NULL, "
    "ending VARCHAR(16) NOT NULL, input_tokens BIGINT NOT NULL, cached_input_tokens BIGINT NOT NULL, cache_write_tokens BIGINT NOT NULL, "
    "output_tokens BIGINT NOT NULL, reasoning_tokens BIGINT NOT NULL, cost_nano_usd BIGINT, estimated BOOLEAN NOT NULL)",
    "CREATE TABLE usage_hours (hour BIGINT, client VARCHAR(64), provider VARCHAR(64), model VARCHAR(190), requests BIGINT NOT NULL, errors BIGINT NOT NULL, "
    "input_tokens BIGINT NOT NULL, cached_input_tokens BIGINT NOT NULL, cache_write_tokens BIGINT NOT NULL, output_tokens BIGINT NOT NULL, "
    "reasoning_tokens BIGINT NOT NULL, cost_nano_usd BIGINT NOT NULL, estimated BIGINT NOT NULL, unpriced BIGINT NOT NULL, "
    "PRIMARY KEY (hour, client, provider, model))",
    "CREATE TABLE shipped (log VARCHAR(190) PRIMARY KEY, inode BIGINT NOT NULL, bytes BIGINT NOT NULL)",
    "CREATE TABLE ledger_version (version INTEGER PRIMARY KEY)",
    "INSERT INTO ledger_version VALUES (1)",
)
OLD_ROW = "INSERT INTO {usage} VALUES ('req_{number}', {at_ms}, 'c', '', 'openai', 'm', 'k', 'chat', 200, 'answered', 10, 0, 0, 20, 0, 1000, {no})"
OLD_HOUR = "INSERT INTO usage_hours VALUES ({hour}, 'c', 'openai', 'm', 1, 0, 10, 0, 0, 20, 0, 1000, 0, 0)"


def test_a_ledger_of_the_first_version_is_brought_up_to_date_by_one_of_many(ledger: Ledger) -> None:
    metadata.drop_all(ledger._engine)
    name = ledger._engine.dialect.name
    quoted = ledger._engine.dialect.identifier_preparer.quote("usage")
    with ledger._engine.begin() as connection:
        for statement in FIRST_VERSION:
            connection.execute(text(statement.format(usage=quoted)))
        for number in range(30):
            at_ms = START_MS + number * HOUR_MS
            connection.execute(text(OLD_ROW.format(usage=quoted, number=number, at_ms=at_ms, no="false" if name == "postgresql" else "0")))
            connection.execute(text(OLD_HOUR.format(hour=at_ms // HOUR_MS)))
    errors: list[Exception] = []

    def start() -> None:
        one = Ledger(ledger._engine.url.render_as_string(hide_password=False))
        try:
            one.prepare()
        except Exception as error:
            errors.append(error)
        one.close()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    again = Ledger(ledger._engine.url.render_as_string(hide_password=False))
    sums = again.sums(0)
    assert sums["requests"] == sums["hours"] == sums["days"]
    assert sums["days"]["requests"] == 30
    assert again.report("day")["total"]["cost_usd"] == pytest.approx(30e-6)
    assert again.spent("client", ["c"], START_MS, START_MS + 10 * HOUR_MS) == 10_000, "it was charged when it ended, as far as is known"
    again.ship([entry(100)], "log", 1, 1)
    assert again.sums(0)["days"]["requests"] == 31
    again.close()


def test_tables_that_a_killed_gateway_left_without_a_version_are_completed(ledger: Ledger) -> None:
    ledger.prepare()
    with ledger._engine.begin() as connection:
        connection.execute(delete(version))
        days.drop(connection)
    again = Ledger(ledger._engine.url.render_as_string(hide_password=False))
    again.ship([entry(1)], "log", 1, 1)
    assert again.sums(0)["days"]["requests"] == 1
    with again.reading() as connection:
        assert connection.execute(select(version.c.version)).scalars().all() == [NEWEST]
    again.close()


def test_what_a_budget_counts(ledger: Ledger) -> None:
    """By when it was charged, of what had ended at a moment, without what was still held then."""
    ledger.ship([entry(number, client="c", cost_nano_usd=10, charged_ms=START_MS + number, at_ms=START_MS + number + 50) for number in range(10)], "log", 1, 1)
    assert ledger.spent("client", ["c"], START_MS + 2, START_MS + 8) == 60
    assert ledger.spent("client", ["c"], START_MS, START_MS + 100, until_ms=START_MS + 54) == 50
    assert ledger.spent("client", ["c"], START_MS, START_MS + 100, START_MS + 54, ["req_0", "req_3"]) == 30
    assert ledger.spent("model", ["openai:gpt-*"], START_MS, START_MS + 100) == 100
    assert ledger.spent("model", ["claude:*"], START_MS, START_MS + 100) == 0


def test_an_entry_has_the_columns_of_its_table_in_their_order() -> None:
    assert Entry.__struct_fields__ == tuple(usage.columns.keys()), "they are inserted as they are"
