"""The order in which the end of a request is told."""

from __future__ import annotations

from pathlib import Path

import gevent
from gevent import socket

from coollm.closing import Closer
from coollm.core.config.schema import Settings
from coollm.core.types import Usage
from coollm.ledger.usage_log import UsageLog
from coollm.limits.limiter import Limiter
from coollm.limits.scopes import Scopes
from coollm.limits.settlement import Ending
from coollm.outbox import outbox_of
from coollm.stores.memory import MemoryStore
from coollm.telemetry.record import RequestRecord
from tests.wires import plain_wire


def test_the_lines_are_there_before_anything_is_sent_and_the_rest_when_the_turn_is_over(tmp_path: Path) -> None:
    watched: list[RequestRecord] = []
    log = tmp_path / "usage.log"
    closer = Closer(UsageLog(log), Limiter(MemoryStore(), Scopes(Settings()), "me"), watched.extend)
    ours, theirs = socket.socketpair()
    wire = plain_wire(ours)
    records = [RequestRecord(f"r{number}", "c", "chat") for number in range(3)]
    for record in records:
        record.end(Ending.ANSWERED, Usage())
        closer.tell(record)
    assert log.read_text() == "", "they are written together"
    wire.post(b"answer")
    assert log.read_text().count("\n") == 3
    assert watched == [], "their clients are answered first"
    gevent.sleep(0.01)
    assert watched == records
    closer.tell(records[0])
    closer.flush()
    assert watched == [*records, records[0]], "what ends with the worker is not lost"
    assert log.read_text().count("\n") == 4
    closer.tell(records[1])
    closer.settle_now((), Usage())
    assert log.read_text().count("\n") == 5, "nothing is settled before its line is there"
    closer.tell(records[2])
    gevent.sleep(0.01)
    assert log.read_text().count("\n") == 6, "also where nothing is sent"
    assert len(watched) == 6
    for _ in range(5):
        closer.tell(records[0])
        gevent.sleep(0.01)
    assert len(outbox_of(gevent.get_hub()).first) == 1, "what waits for something to be sent does not pile up"
    wire.close()
    theirs.close()
