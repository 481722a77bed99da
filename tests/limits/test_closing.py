"""The order in which the end of a request is told."""

from __future__ import annotations

from pathlib import Path

import gevent

from coollm.closing import Closer
from coollm.core.config.schema import Settings
from coollm.core.types import Usage
from coollm.ledger.usage_log import UsageLog
from coollm.limits.limiter import Limiter
from coollm.limits.scopes import Scopes
from coollm.limits.settlement import Ending
from coollm.stores.memory import MemoryStore
from coollm.telemetry.record import RequestRecord


def test_the_line_is_there_at_once_and_the_rest_when_the_turn_is_over(tmp_path: Path) -> None:
    watched: list[RequestRecord] = []
    log = tmp_path / "usage.log"
    closer = Closer(UsageLog(log), Limiter(MemoryStore(), Scopes(Settings()), "me"), watched.append)
    records = [RequestRecord(f"r{number}", "c", "chat") for number in range(3)]
    for record in records:
        record.end(Ending.ANSWERED, Usage())
        closer.tell(record)
    assert log.read_text().count("\n") == 3
    assert watched == [], "their clients are answered first"
    gevent.sleep(0.01)
    assert watched == records
    closer.tell(records[0])
    closer.flush()
    assert watched == [*records, records[0]], "what ends with the worker is not lost"
    gevent.sleep(0.01)
    assert len(watched) == 4
