"""A bare host becomes a gateway within a minute, and a bare host again."""

from __future__ import annotations

import json
import os
import pwd
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from coollm.core.secrets import Secret
from tests.host.conftest import BOOTSTRAP, Installed, put_hook
from tests.host.hosts import TestHost
from tests.host.machines import RELEASES, WHEELHOUSE

pytestmark = pytest.mark.timeout(1200)

INSTALL = f"/srv/bootstrap/bin/coollm install --wheelhouse {WHEELHOUSE} --instances 2"

HOME_OF_ROOT = pwd.getpwuid(0).pw_dir

# Where a gateway could leave something.
LOOK_AT = "/etc /opt /usr/local /var/lib /var/log /var/opt /var/spool /run " + HOME_OF_ROOT

# What hosts write by themselves.
NOT_OURS = (
    "/run/systemd",
    "/run/udev",
    "/run/log",
    "/run/user",
    "/var/lib/systemd",
    "/var/log/journal",
    "/var/log/wtmp",
    "/var/log/btmp",
    "/srv/bootstrap",
    "/run/utmp",
    "/var/log/lastlog",
)
BACKUPS = ("/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/.pwd.lock", "/etc/subuid-", "/etc/subgid-")


def files(host: TestHost) -> set[str]:
    found = host.run(f"find {LOOK_AT} -xdev 2>/dev/null; find /run/coollm 2>/dev/null", check=False).stdout.split("\n")
    ours = {line for line in found if line and not line.startswith(NOT_OURS) and line not in BACKUPS}
    # A host sees this machine's files beneath its own, and what other tests write into a home meanwhile.
    return {line for line in ours if not line.startswith(HOME_OF_ROOT) or not os.path.lexists(line)}


def test_install_twice_uninstall_and_purge(new_host: Callable[[], TestHost]) -> None:
    host = new_host()
    began = time.monotonic()
    host.run(BOOTSTRAP)
    before = files(host)
    passwd = host.run("cat /etc/passwd").stdout
    dry = host.run(f"{INSTALL} --dry-run")
    assert "plan:" in dry.stdout
    assert files(host) == before, "a dry run changes nothing"
    host.run(f"{INSTALL} --yes")
    answer = json.loads(host.run("coollm chat --json hello").stdout)
    assert answer["text"]
    print(f"from a bare host to an answer: {time.monotonic() - began:.0f} s")

    again = json.loads(host.run(f"{INSTALL} --json").stdout)
    assert again["changed"] is False
    owners = host.run("stat -c '%U %a %n' /etc/coollm/config.yaml /etc/coollm/environment /var/lib/coollm /var/log/coo-llm /var/opt/coollm").stdout
    assert owners.splitlines() == [
        "root 640 /etc/coollm/config.yaml",
        "coollm 600 /etc/coollm/environment",
        "coollm 700 /var/lib/coollm",
        "coollm 750 /var/log/coo-llm",
        "root 700 /var/opt/coollm",
    ]
    host.run("test -s /etc/bash_completion.d/coollm; logrotate --debug /etc/logrotate.d/coollm || test ! -x /usr/sbin/logrotate")
    # A unit that somebody has changed is put right, and nothing else.
    host.run("echo '# changed' >>/etc/systemd/system/coollm@.service")
    repaired = json.loads(host.run(f"{INSTALL} --json --dry-run").stdout)
    assert len(repaired["plan"]) == 1
    assert "units" in repaired["plan"][0]
    host.run(f"{INSTALL} --yes")

    host.run("coollm uninstall --yes")
    assert host.run("test -e /etc/coollm/config.yaml -a -e /var/lib/coollm/ledger.sqlite").returncode == 0, "what is the administrator's stays"
    assert host.run("systemctl list-unit-files 'coollm*' --no-legend", check=False).stdout == ""
    host.run(f"{INSTALL} --scheduler cron --yes")
    assert "coollm health --quiet" in host.run("cat /etc/cron.d/coollm").stdout
    assert host.run("systemctl is-enabled coollm-health.timer", check=False).stdout.strip() == "disabled"
    host.run("coollm uninstall --purge --yes")
    assert files(host) - before == set()
    assert {path for path in before - files(host) if not path.endswith(".target.wants")} == set(), "systemctl removes those that are empty"
    assert host.run("cat /etc/passwd").stdout == passwd
    assert host.run("ss -Hltn 'sport = :2906'").stdout == ""


def test_an_install_that_is_killed_at_every_step(new_host: Callable[[], TestHost], releases: Path) -> None:
    """Given again each time, it ends as one that was not killed."""
    host = new_host()
    host.run(BOOTSTRAP)
    put_hook(releases)
    kills = 0
    while True:
        done = host.run(f"PYTHONPATH={RELEASES}/kill KILL_AT=2 KILL_WHEN=after {INSTALL} --yes; exit $?", check=False)
        if done.returncode == 0:
            break
        assert done.returncode == 137, done.stdout + done.stderr
        kills += 1
    assert kills >= 8
    assert json.loads(host.run(f"{INSTALL} --json").stdout)["changed"] is False
    assert [one["status"] for one in json.loads(host.run("coollm status --json").stdout)["instances"]] == ["ok", "ok"]


def test_credentials_of_systemd(installed: Installed) -> None:
    """A secret that only root can read reaches the gateway as a credential, and a vendor as its key."""
    host = installed.host
    before = host.run("cat /etc/coollm/config.yaml").stdout
    host.run("install -d -m 700 /etc/coollm/credentials; printf sk-credential-0001 >/etc/coollm/credentials/openai; chmod 600 /etc/coollm/credentials/openai")
    host.run(f"coollm install --wheelhouse {WHEELHOUSE} --yes && coollm restart --rolling")
    host.write("/srv/credential.yaml", before.replace('"sk-one"', '"${file:credentials/openai}"'))
    host.run("coollm config apply /srv/credential.yaml")
    assert "LoadCredential=openai:/etc/coollm/credentials/openai" in host.run("systemctl cat coollm@1").stdout
    assert {one["status"] for one in installed.json("status")["instances"]} == {"ok"}
    keys = [key["id"] for provider in installed.json("providers")["providers"] for key in provider["keys"]]
    assert Secret("sk-credential-0001").fingerprint() in keys
    host.write("/srv/before.yaml", before)
    host.run("coollm config apply /srv/before.yaml; rm -r /etc/coollm/credentials")
    host.run(f"coollm install --wheelhouse {WHEELHOUSE} --yes && coollm restart --rolling")


def test_somebody_is_told_when_an_instance_is_down(installed: Installed) -> None:
    host = installed.host
    host.write("/etc/coollm/on-failure", '#!/bin/sh\necho "$1" >>/etc/coollm/alerts\n', 0o755)
    try:
        host.run("systemctl start coollm-health.service")
        assert host.run("cat /etc/coollm/alerts", check=False).returncode == 1
        host.run("systemctl stop coollm-admin@2.socket; systemctl stop coollm@2; systemctl start coollm-health.service", check=False)
        time.sleep(2)
        assert host.run("cat /etc/coollm/alerts").stdout == "coollm-health.service\n"
        told = installed.json("health", check=False)
        assert told["status"] == "degraded"
        assert {"name": "instance 2", "status": "down", "detail": "down"} in told["checks"]
    finally:
        host.run("rm -f /etc/coollm/on-failure /etc/coollm/alerts; systemctl start coollm-admin@2.socket coollm@2")
    assert installed.coollm("health").returncode == 0


def test_the_units_are_hardened_and_hold_together(installed: Installed) -> None:
    host = installed.host
    host.run("systemd-analyze security --threshold=13 coollm@1.service")
    told = host.run(
        "systemd-analyze verify coollm@1.service coollm-admin@1.socket coollm.socket coollm-health.timer coollm-alert@x.service coollm-maintenance-daily.timer coollm-maintenance@weekly.service coollm-autoscale.timer 2>&1 | grep coollm",
        check=False,
    )
    assert told.stdout == ""
    names = ("Type", "NonBlocking", "WatchdogUSec", "StartLimitIntervalUSec", "MemoryAccounting", "Slice")
    told = {name: host.run(f"systemctl show -P {name} coollm@1").stdout.strip() for name in names}
    assert list(told.values()) == ["notify", "yes", "30s", "0", "yes", "coollm.slice"]


def test_what_hangs_is_started_anew(installed: Installed) -> None:
    """A worker that does not answer is killed by its master, a master by systemd's watchdog."""
    host = installed.host
    master = host.run("systemctl show -P MainPID coollm@2").stdout.strip()
    (worker,) = [line.split()[0] for line in host.run(f"pgrep -P {master} -a").stdout.splitlines() if "gunicorn" in line]
    host.run(f"kill -STOP {worker}; kill -STOP $(systemctl show -P MainPID coollm@1)")
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        time.sleep(2)
        workers = host.run(f"pgrep -P {master} -a", check=False).stdout
        if (
            f"{worker} " not in workers
            and "gunicorn" in workers
            and [one["status"] for one in installed.json("status", check=False)["instances"]] == ["ok", "ok"]
        ):
            break
    else:
        raise AssertionError(installed.coollm("status", check=False).stdout + host.run("journalctl -u coollm@1 -n 30 --no-pager").stdout)
    assert "watchdog" in host.run("journalctl -u coollm@1 --since '-3 min' --no-pager").stdout.lower()
