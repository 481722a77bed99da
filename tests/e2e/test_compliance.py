"""What is kept of a client is given out, erased and forgotten; the evidence for auditors."""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coollm.core.audit import AuditLog, verify
from coollm.erasure import forget_old_logs
from tests.conftest import GatewayHandle, SimulatorHandle, serve, simulated, wait_for

DAY = 86400


@pytest.fixture(scope="module")
def gateway(simulator: SimulatorHandle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayHandle]:
    configuration = {"llm_providers": simulated(simulator.url)[:1], "compliance": {"gdpr": True, "soc2": True}}
    with serve(tmp_path_factory.mktemp("compliance"), configuration) as handle:
        yield handle


def done(gateway: GatewayHandle, *arguments: str, code: int = 0) -> Any:
    result = gateway.coollm(*arguments, "--json")
    assert result.returncode == code, result.stderr
    return json.loads(result.stdout)


def test_a_client_is_given_out_and_erased(gateway: GatewayHandle) -> None:
    made = done(gateway, "clients", "create", "person-of-interest", "--yes")
    gateway.client_key = made["key"]
    answers: list[int] = []

    def every_worker_knows_it() -> bool:
        answers.append(gateway.chat("gpt-sim").status_code)
        return answers[-6:] == [200] * 6

    wait_for(every_worker_knows_it, 10)
    logs = gateway.home / "state" / "logs"
    old = logs / "app.log.7.gz"
    old.write_bytes(gzip.compress(b'{"client":"person-of-interest","n":1}\n'))

    def exported() -> list[Any]:
        return [json.loads(line) for line in gateway.coollm("compliance", "export", "person-of-interest").stdout.splitlines()]

    wait_for(lambda: sum(row["kind"] == "request" for row in exported()) == answers.count(200), 10)
    found = exported()
    assert {row["kind"] for row in found} == {"client", "request", "audit"}
    assert "is still a client" in gateway.coollm("compliance", "erase", "person-of-interest", "--yes").stderr
    before = done(gateway, "usage", "report", "--by", "provider")["total"]
    done(gateway, "clients", "delete", "person-of-interest", "--yes")
    erased = done(gateway, "compliance", "erase", "person-of-interest", "--yes")
    assert erased["requests"] >= 6
    rows = done(gateway, "usage", "report", "--by", "client")["rows"]
    assert erased["alias"] in {row["client"] for row in rows}
    assert "person-of-interest" not in {row["client"] for row in rows}
    assert done(gateway, "usage", "report", "--by", "provider")["total"] == before
    for path in logs.glob("*.log*"):
        if not path.name.startswith(("audit", ".")):
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            assert b'"client":"person-of-interest"' not in data, path
    assert done(gateway, "usage", "verify")["ok"]
    assert done(gateway, "usage", "rebuild", "--yes")["requests"] >= 6
    assert "person-of-interest" not in {row["client"] for row in done(gateway, "usage", "report", "--by", "client")["rows"]}


def test_the_report(gateway: GatewayHandle) -> None:
    done(gateway, "clients", "create", "reported", "--yes")
    found = done(gateway, "compliance", "report", code=4)
    assert found["audit_log"]["faults"] == []
    assert found["changes"]["by_action"]["admin_clients_create"] >= 1
    assert any("stand in the configuration in clear" in finding for finding in found["findings"])
    assert any("nothing is ever deleted" in finding for finding in found["findings"])
    text = gateway.coollm("compliance", "report").stdout
    for heading in ("## Access", "## Changes", "## Vendor keys", "## Audit log and retention", "## Findings"):
        assert heading in text


def test_old_logs_are_forgotten_and_the_chain_stays_whole(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    log = AuditLog(tmp_path / "logs" / "audit.log", tmp_path / "own")
    for number in range(6):
        log.write("ann", "scale", number=number)
        if number % 2:
            log.path.rename(log.path.with_name(f"audit.log.{number}"))
            old = time.time() - (10 - number) * DAY
            os.utime(log.path.with_name(f"audit.log.{number}"), (old, old))
    for name, age in (("app.log.1", 9), ("app.log.2", 1), ("usage.log.1", 9)):
        path = tmp_path / "logs" / name
        path.write_text("x")
        os.utime(path, (time.time() - age * DAY,) * 2)
    gone = forget_old_logs(tmp_path / "logs", time.time() - 6 * DAY, log)
    assert sorted(gone) == ["app.log.1", "audit.log.1", "audit.log.3", "usage.log.1"]
    assert verify(log)[1] == []
    log.write("ann", "scale", number=7)
    assert verify(log)[1] == []
    (tmp_path / "logs" / "audit.log.5").unlink()
    assert any("gone" in fault for fault in verify(log)[1])


def test_it_is_not_ready_while_each_use_has_to_be_proved_and_cannot(gateway: GatewayHandle) -> None:
    log = gateway.home / "state" / "logs" / "audit.log"
    kept = log.with_name("kept")
    log.rename(kept)
    log.mkdir()
    try:
        assert gateway.coollm("clients", "create", "unseen", "--yes").returncode != 0
        wait_for(lambda: gateway.coollm("health").returncode == 4, 10)
    finally:
        log.rmdir()
        kept.rename(log)
