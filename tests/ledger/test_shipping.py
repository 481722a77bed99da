"""The process that ships the usage log: one for all workers, ended with the worker that started it, started anew by another."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import yaml

from coollm.core.config.schema import Settings
from coollm.ledger.book import open_ledger
from coollm.ledger.shipping import BEHIND, Shipping
from coollm.ledger.usage_log import UsageLog
from tests.conftest import wait_for
from tests.ledger.entries import entry, written


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "state" / "logs").mkdir(parents=True)
    config = tmp_path / "coollm.yaml"
    config.write_text(yaml.safe_dump({"version": "1.0"}))
    monkeypatch.setenv("COOLLM_CONFIG", str(config))
    monkeypatch.setenv("COOLLM_STATE_DIR", str(tmp_path / "state"))
    return tmp_path


def shipped(home: Path) -> int:
    return int(open_ledger(Settings(), home / "state").report("client")["total"]["requests"])


def has_ended(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def test_one_process_ships_for_all_workers_and_ends_with_its_own(home: Path) -> None:
    state, log_path = home / "state", home / "state" / "logs" / "usage.log"
    one, another = (Shipping(log_path, state) for _ in range(2))
    one.look()
    assert one._process is None, "there is nothing to ship yet"
    log = UsageLog(log_path)
    log.write(written(entry(1)))
    one.look()
    another.look()
    assert one._process is not None
    assert another._process is None
    first = one._process.pid
    wait_for(lambda: shipped(home) == 1, 20, "the first line")
    log.write(written(entry(2)))
    wait_for(lambda: shipped(home) == 2, 20, "the second line")
    assert not another.is_behind

    log.write(written(entry(3)))
    assert one._process.stdin is not None
    one._process.stdin.close()  # its worker has ended
    wait_for(lambda: has_ended(first), 20, "the process to end")
    assert shipped(home) == 3, "what was written before is shipped"
    another.look()
    assert another._process is not None
    os.kill(another._process.pid, 9)
    wait_for(lambda: has_ended(another._process.pid), 20, "the killed one to end")  # type: ignore[union-attr]
    one.look()
    assert one._process.pid != first, "who notices that none runs starts one"
    one._process.stdin.close()  # type: ignore[union-attr]
    wait_for(lambda: has_ended(one._process.pid), 20, "the last one to end")  # type: ignore[union-attr]


def test_a_ledger_that_does_not_take_it_is_told_of(home: Path) -> None:
    state, log_path = home / "state", home / "state" / "logs" / "usage.log"
    (home / "coollm.yaml").write_text(yaml.safe_dump({"version": "1.0", "storage": {"ledger": {"url": f"sqlite:///{home}/nowhere/ledger.sqlite"}}}))
    UsageLog(log_path).write(written(entry(1)))
    shipping = Shipping(log_path, state)
    shipping.look()
    wait_for(lambda: shipping.is_behind, 20, "the word that it is behind")
    assert "the ledger is behind the usage log" in (state / "logs" / "app.log").read_text()
    (home / "nowhere").mkdir()
    wait_for(lambda: not (state / BEHIND).exists(), 20, "the word that it is not any more")
    assert shipping._process is not None
    assert shipping._process.stdin is not None
    shipping._process.stdin.close()
    deadline = time.monotonic() + 20
    while not has_ended(shipping._process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert has_ended(shipping._process.pid)
