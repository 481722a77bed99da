"""A host that is lost: what it was comes back on another one, from a bucket and the recovery key alone. And backups that systemd's timers make."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import clean_environment, wait_for
from tests.host.conftest import BOOTSTRAP, CONFIG, KEY, Installed
from tests.host.hosts import Network, TestHost, sh
from tests.host.machines import WHEELHOUSE

pytestmark = pytest.mark.timeout(1200)

PORT = 5123
ENDPOINT = f"http://10.77.0.254:{PORT}"
TARGET = "s3://backups/coo-llm"
ASK = """curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:2906/v1/chat/completions -H 'content-type: application/json' -H 'authorization: Bearer KEY' \
-d '{"model":"gpt-sim","messages":[{"role":"user","content":"x"}]}'"""


@pytest.fixture(scope="module")
def store(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 API on the bridge that hosts are plugged in to."""
    inside = ["ip", "netns", "exec", network.name]
    words = tmp_path_factory.mktemp("moto") / "words.txt"
    with words.open("wb") as file:
        command = [*inside, sys.executable, "-m", "moto.server", "-H", "0.0.0.0", "-p", str(PORT)]
        process = subprocess.Popen(command, stdout=file, stderr=file, env=clean_environment())
    try:
        wait_for(lambda: sh(*inside, "curl", "-s", "--noproxy", "*", "-o", "/dev/null", ENDPOINT, check=False).returncode == 0, what="moto")
        sh(*inside, "curl", "-sf", "--noproxy", "*", "-X", "PUT", f"{ENDPOINT}/backups")
        yield ENDPOINT
    finally:
        process.terminate()
        process.wait()


def configuration(recipients: list[str], **backup: Any) -> str:
    told = {"target": TARGET, "s3": {"endpoint": ENDPOINT, "region": "us-east-1", "access_key_id": "${secret:s3-id}", "secret_access_key": "${secret:s3-key}"}}
    return f"{CONFIG}backup: {json.dumps({**told, 'recipients': recipients, **backup})}\n"


def status(host: TestHost, key: str) -> str:
    return host.run(ASK.replace("KEY", key)).stdout


@contextlib.contextmanager
def backed_up(installed: Installed, **backup: Any) -> Iterator[str]:
    """The configuration of the shared host has a target and two recipients for a while. Yields the private key of the recovery."""
    host = installed.host
    host.run("rm -f /srv/recovery.key /etc/coollm/drill.key")
    recovery = installed.json("backup", "keygen", "/srv/recovery.key")["recipient"]
    drill = installed.json("backup", "keygen", "/etc/coollm/drill.key")["recipient"]
    for name in ("s3-id", "s3-key"):
        host.run(f"echo testing | coollm secrets set {name} --yes")
    host.write("/srv/backup.yaml", configuration([recovery, drill], **backup))
    installed.coollm("config", "apply", "/srv/backup.yaml", "--yes")
    try:
        yield host.run("cat /srv/recovery.key").stdout
    finally:
        host.write("/srv/before.yaml", CONFIG)
        installed.coollm("config", "apply", "/srv/before.yaml", "--yes", check=False)


def test_a_host_comes_back_on_another_one(
    installed: Installed, new_host: Callable[[], TestHost], store: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with backed_up(installed) as recovery:
        client = installed.json("clients", "create", "mobile", "--yes")["key"]
        for key in (KEY, KEY, client):
            assert status(installed.host, key) == "200"
        wait_for(lambda: any(row["client"] == "mobile" for row in installed.json("usage", "report")["rows"]), what="the ledger")
        made = installed.json("backup", "create")
        wanted = installed.json("usage", "report")["total"]
        drilled = installed.json("backup", "drill", "--identity", "/srv/recovery.key")
        assert drilled["ok"] is True, drilled
        assert "'app' of the configuration and 'mobile' of the ledger" in drilled["checks"][-1]["detail"]
        owners = installed.host.run("find /var/lib/coollm ! -user coollm", check=False).stdout
        assert owners == ""
        installed.coollm("clients", "delete", "mobile", "--yes")

    began = time.monotonic()
    host = new_host()
    host.run(BOOTSTRAP)
    host.run(f"/srv/bootstrap/bin/coollm install --wheelhouse {WHEELHOUSE} --yes")
    host.write("/srv/recovery.key", recovery, 0o600)
    fresh = Installed(host)
    environment = f"AWS_ENDPOINT_URL={store} AWS_ACCESS_KEY_ID=testing AWS_SECRET_ACCESS_KEY=testing AWS_REGION=us-east-1"
    done = host.run(f"{environment} coollm backup restore --in-place --target {TARGET} --identity /srv/recovery.key --yes --json", timeout=800)
    told = json.loads(done.stdout)
    assert told["id"] == made["id"]
    assert told["host"] != host.name
    assert status(host, KEY) == "200"
    seconds = time.monotonic() - began
    assert status(host, client) == "200"
    assert status(host, "unknown") == "401"
    found = wait_for(lambda: (one := fresh.json("usage", "report")["total"])["requests"] >= wanted["requests"] + 3 and one, what="the ledger")
    assert found["requests"] == wanted["requests"] + 3
    assert found["output_tokens"] > wanted["output_tokens"]
    assert fresh.json("usage", "verify")["ok"] is True
    assert fresh.json("budget", "verify")["ok"] is True
    assert fresh.json("status")["notes"] == []
    assert host.run("stat -c '%U %a' /etc/coollm/master.key /etc/coollm/environment /etc/coollm/config.yaml").stdout.split("\n")[:3] == [
        "coollm 600",
        "coollm 600",
        "root 640",
    ]
    assert host.run("find /var/lib/coollm ! -user coollm", check=False).stdout == ""
    assert fresh.coollm("audit", "verify").returncode == 0
    fresh.coollm("restart", "--rolling", "--yes")
    assert status(host, client) == "200"
    # From there on it backs itself up, and can be taken back to what it was before.
    assert fresh.json("backup", "create")["ok"] is True
    fresh.coollm("undo", "--yes")
    assert status(host, client) == "401"
    with capsys.disabled():
        print(f"\nfrom a bare host, the bucket and the key to the first answer: {seconds:.0f} s, of which the restore took {told['seconds']} s")


def test_timers_make_backups_and_drills_and_say_when_they_cannot(installed: Installed, store: str) -> None:
    host = installed.host
    with backed_up(installed, drill_identity_file="/etc/coollm/drill.key", schedule={"full": "daily", "config": "*-*-* 04:30:00", "drill": "weekly"}):
        told = installed.json("backup", "schedule")
        assert told["schedule"] == {"full": "daily", "config": "*-*-* 04:30:00", "drill": "weekly"}
        assert installed.json("backup", "schedule")["changed"] is False
        timers = host.run("systemctl list-timers --no-legend 'coollm*'").stdout
        for name in ("coollm-backup.timer", "coollm-backup-config.timer", "coollm-drill.timer"):
            assert name in timers
            shown = host.run(f"systemctl show -p Persistent -p RandomizedDelayUSec {name}").stdout
            assert "Persistent=yes" in shown
            assert "RandomizedDelayUSec=30min" in shown
        before = {row["id"] for row in installed.json("backup", "list")["backups"]}
        for unit in ("coollm-backup.service", "coollm-backup-config.service", "coollm-drill.service"):
            host.run(f"systemctl start {unit}")
        made = [row for row in installed.json("backup", "list")["backups"] if row["id"] not in before]
        assert {row["kind"] for row in made} == {"full", "config"}
        assert any(row["drilled"] for row in made if row["kind"] == "full")
        assert "last proven restore" in installed.json("status")["backup"]["summary"]
        findings = {one["code"] for one in installed.json("doctor", check=False)["findings"]}
        assert not findings & {"backup", "drill", "unit-drift"}

        refused = installed.coollm("backup", "schedule", "--scheduler", "cron", check=False)
        assert refused.returncode == 2, "cron does not know *-*-* 04:30:00"
        assert "cron knows hourly, daily, weekly, monthly" in refused.stderr

        # Without its key the store refuses, and somebody is told.
        host.write("/etc/coollm/on-failure", '#!/bin/sh\necho "$1" >>/srv/told\n', 0o755)
        host.run("rm -f /srv/told; rm /etc/coollm/drill.key")
        assert host.run("systemctl start coollm-drill.service", check=False).returncode != 0
        wait_for(lambda: "coollm-drill.service" in host.run("cat /srv/told", check=False).stdout, what="the alert")
        installed.coollm("backup", "schedule", "--off")
        assert "coollm-backup" not in host.run("systemctl list-timers --no-legend 'coollm*'").stdout
        host.run("rm /etc/coollm/on-failure")
    with backed_up(installed, schedule={"full": "daily", "config": "hourly"}):
        installed.coollm("backup", "schedule", "--scheduler", "cron")
        cron = host.run("cat /etc/cron.d/coollm-backup").stdout
        assert "root coollm backup create --quiet && coollm backup prune --quiet --yes" in cron
        assert "coollm backup drill" not in cron, "there is no key for it"
        installed.coollm("backup", "schedule", "--off")
        assert host.run("test ! -e /etc/cron.d/coollm-backup").returncode == 0
