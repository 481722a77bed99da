"""Restarts, upgrades and changes of the configuration under load: nothing fails, nothing is cut, and the receipt says what the clients say."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.host.conftest import CONFIG, Installed
from tests.host.machines import RELEASES, WHEELHOUSE
from tests.host.wheels import make_release

pytestmark = pytest.mark.timeout(1800)

NEW = "9.0.0"


def agrees(receipt: dict[str, Any]) -> None:
    told = {name: receipt[name] for name in ("ok", "failed", "streams_cut", "probes_failed", "probe_streams_cut", "failures")}
    assert told == {"ok": True, "failed": 0, "streams_cut": 0, "probes_failed": 0, "probe_streams_cut": 0, "failures": []}


def served(installed: Installed) -> int:
    """What all workers have served, those that have ended too."""
    files = installed.host.run("cat /run/coollm/*/workers/*").stdout
    return sum(int(part.partition(",")[0]) for part in files.split('"requests":')[1:])


@pytest.mark.parametrize("stream_seconds", [pytest.param(4, id="short"), pytest.param(20, id="long", marks=pytest.mark.soak)])
def test_restart_upgrade_rollback_and_ten_configurations_lose_nothing(installed: Installed, wheelhouse: Path, releases: Path, stream_seconds: int) -> None:
    make_release(wheelhouse, releases, NEW)
    receipts = []
    generation = installed.json("status")["instances"][0]["generation"]
    before = served(installed)
    with installed.load(stream_seconds=stream_seconds) as clients:
        time.sleep(2)
        receipts.append(installed.json("restart", "--rolling"))
        for number in range(10):
            installed.host.write("/srv/new.yaml", CONFIG.replace("drain_seconds: 30", f"drain_seconds: 30\n  max_body_mb: {60 + number}"))
            done = installed.json("config", "apply", "/srv/new.yaml")
            assert done["generation"] > generation
            generation = done["generation"]
        receipts.append(installed.json("upgrade", f"{RELEASES}/coollm-{NEW}-py3-none-any.whl", "--wheelhouse", WHEELHOUSE, "--soak", "3s", "--yes"))
        assert {one["version"] for one in installed.json("status")["instances"]} == {NEW}
        copied = installed.host.run("ls /var/opt/coollm/before-upgrade/*").stdout.split()
        assert {"config.yaml", "environment", "ledger.sqlite", "runtime.sqlite"} <= set(copied)
        assert installed.coollm("--version").stdout == f"coollm {NEW}\n"
        receipts.append(installed.json("rollback", "--soak", "1s", "--yes"))
    assert clients["failed"] == []
    assert clients["streams_cut"] == []
    assert clients["slow"] == []
    assert clients["streams_finished"] >= 200
    kept = [entry["receipt"] for entry in installed.json("audit", "search")["entries"] if "receipt" in entry]
    for receipt in receipts:
        agrees(receipt)
        assert any(one["seconds"] == receipt["seconds"] and one["requests"] == receipt["requests"] for one in kept)
        assert receipt["requests"] > 1000
        assert receipt["streams_finished"] >= 100
    time.sleep(1)  # workers tell every half second
    # What the instances say of all their workers, the ended ones too, is what the clients say.
    assert served(installed) - before == clients["requests"] + clients["streams_finished"]
    assert {one["version"] for one in installed.json("status")["instances"]} != {NEW}
    assert installed.json("status")["notes"] == []


def test_a_killed_master_takes_nothing_along(installed: Installed) -> None:
    """Its workers finish what is under way, and then another master takes its place."""
    with installed.load(rate=100, connections=20, streams=20, stream_seconds=4) as clients:
        time.sleep(2)
        busy = max(installed.json("status")["instances"], key=lambda one: one["streams"])
        assert busy["streams"] > 0
        master = f"systemctl show -P MainPID coollm@{busy['instance']}"
        before = installed.host.run(master).stdout
        installed.host.run(f"kill -9 $({master})")
        time.sleep(10)
    assert clients["streams_finished"] >= 20
    assert clients["streams_cut"] == []
    assert clients["failed"] == []
    deadline = time.monotonic() + 60
    while [one["status"] for one in installed.json("status", check=False)["instances"]] != ["ok", "ok"]:
        assert time.monotonic() < deadline, installed.coollm("status", check=False).stdout
        time.sleep(1)
    assert installed.host.run(master).stdout != before


BAD = {
    "9.1.0": {
        "coollm/wsgi.py": ("def application() -> GatewayApp:", "raise RuntimeError('a release that does not start')\n\n\ndef application() -> GatewayApp:")
    },
    "9.2.0": {
        "coollm/api/completion.py": ("    record = exchange.record\n", "    raise GatewayFault('a release that answers 500')\n    record = exchange.record\n")
    },
    "9.3.0": {
        "coollm/api/completion.py": (
            "    record = exchange.record\n",
            "    if asked.model.endswith('~rate=1000') and int(exchange.request_id[-2:], 16) % 10 < 3:\n        raise GatewayFault('one in three')\n    record = exchange.record\n",
        )
    },
}


@pytest.mark.parametrize("version", [*(pytest.param(version, marks=pytest.mark.soak) for version in ("9.1.0", "9.2.0")), "9.3.0"])
def test_a_bad_release_is_taken_back(installed: Installed, wheelhouse: Path, releases: Path, version: str) -> None:
    """One that crashes as it starts, one that answers 500, and one that is healthy and fails three in ten of its clients' requests."""
    make_release(wheelhouse, releases, version, BAD[version])
    before = installed.json("status")["instances"]
    model = "openai:gpt-sim~rate=1000" if version == "9.3.0" else "openai:gpt-sim"
    with installed.load(rate=100, connections=20, streams=5, stream_seconds=3, model=model) as clients:
        time.sleep(1)
        upgrade = ("upgrade", f"{RELEASES}/coollm-{version}-py3-none-any.whl", "--wheelhouse", WHEELHOUSE, "--soak", "20s", "--yes")
        done = installed.coollm(*upgrade, check=False)
        ended = time.time()
        time.sleep(2)
    assert done.returncode == 7, done.stdout + done.stderr
    assert "has been taken back" in done.stderr
    after = installed.json("status")
    assert [one["version"] for one in after["instances"]] == [one["version"] for one in before]
    assert [one["release"] for one in after["instances"]] == [one["release"] for one in before]
    assert after["notes"] == []
    assert installed.host.run(f"test -e /opt/coollm/releases/{version}", check=False).returncode == 1
    assert clients["streams_cut"] == []
    if version == "9.3.0":
        # The canary's own, while it was there.
        assert len(clients["failed"]) > 0
        assert all(" 500 " in line and float(line.split()[0]) <= ended for line in clients["failed"])
    else:
        # It never got a client's request.
        assert clients["failed"] == []


def test_an_instance_that_does_not_come_back_stops_the_roll(installed: Installed) -> None:
    """Unless so many failures are allowed; either way another serves in its place, and nothing is lost."""
    host = installed.host
    host.run("mkdir -p /etc/systemd/system/coollm@2.service.d")
    host.write("/etc/systemd/system/coollm@2.service.d/broken.conf", "[Service]\nExecStartPre=/usr/bin/false\n")
    with installed.load(rate=50, connections=10, streams=5, stream_seconds=2) as clients:
        host.run("systemctl daemon-reload")
        allowed = installed.coollm("restart", "--rolling", "--max-failures", "1", "--json", check=False)
        stopped = installed.coollm("restart", "--rolling", check=False)
        status = {one["instance"]: one["status"] for one in installed.json("status", check=False)["instances"]}
        host.run("rm -r /etc/systemd/system/coollm@2.service.d; systemctl daemon-reload")
        # A start that systemd has begun by itself meanwhile is still the broken one.
        host.run("for turn in 1 2 3 4; do systemctl start coollm@2 && exit 0; sleep 1; done; exit 1")
        installed.coollm("undrain", "2")
        installed.coollm("scale", "2")
    assert allowed.returncode == 1
    receipt = json.loads(allowed.stdout)
    assert (receipt["ok"], len(receipt["failures"]), receipt["failed"]) == (False, 1, 0)
    assert stopped.returncode == 1
    assert "instance 3 serves in its place" in stopped.stderr
    assert (status["1"], status["3"]) == ("ok", "ok")
    assert status["2"] != "ok"
    assert clients["failed"] == []
    assert clients["streams_cut"] == []
    assert {one["instance"]: one["status"] for one in installed.json("status")["instances"]} == {"1": "ok", "2": "ok"}
