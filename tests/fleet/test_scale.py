"""One host more and one fewer, by a command of the administrator's own: it is installed, gets requests, and leaves without one that fails."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import clean_environment, wait_for
from tests.fleet.conftest import NAMES, Front, whole
from tests.host.hosts import TestHost

pytestmark = pytest.mark.timeout(1800)

# It has one machine to give, and remembers for which change it gave it.
MACHINES = """#!/bin/sh
echo "$@" >>{home}/calls
case "$1" in
add) echo "$COOLLM_CHANGE" >>{home}/changes; [ ! -e {home}/slow ] || {{ rm {home}/slow; sleep 5; }}; [ ! -e {home}/fails ] || {{ echo 'the cloud is full' >&2; exit 3; }}; echo '{host}' ;;
remove) [ "$2" = gw4 ] ;;
esac
"""


@pytest.fixture(scope="module")
def scaled(front: Front, new_host: Callable[[], TestHost]) -> Front:
    admin, host = front.admin, new_host()
    admin.know(host)
    told = json.dumps({"name": "gw4", "address": host.address, "http": f"{host.address}:2906"})
    (admin.home / "machines").write_text(MACHINES.format(home=admin.home, host=told))
    (admin.home / "machines").chmod(0o755)
    hosts = [{"name": name, "http": f"{admin.hosts[name].address}:2906"} for name in NAMES]
    scale = {"command": str(admin.home / "machines"), "min_hosts": 2, "max_hosts": 4, "timeout": "60s"}
    admin.write({"hosts": hosts, "load_balancers": [{"name": "lb1", "address": "lb1"}], "scale": scale})
    return front


def test_more_hosts_and_fewer_under_load(scaled: Front, wheelhouse: Path) -> None:
    admin = scaled.admin
    words = ["fleet", "scale", "4", "--wheelhouse", str(wheelhouse), "--instances", "1"]
    assert admin.coollm("fleet", "scale", "5", "--yes").returncode == 2
    assert admin.coollm(*words[:3], "--yes").returncode == 2, "it has to be told what is installed"
    assert admin.coollm(*words, "--dry-run").returncode == 0
    assert not (admin.home / "calls").exists()

    (admin.home / "fails").touch()
    failed = admin.coollm(*words, "--yes")
    assert failed.returncode in (1, 7)
    assert "the cloud is full" in failed.stderr
    assert len(admin.json("fleet", "status")["hosts"]) == 3
    (admin.home / "fails").unlink()

    # Killed before it has heard which machine it got: it asks for the same one, and gives it back.
    (admin.home / "slow").touch()
    process = subprocess.Popen(admin.command(*words, "--yes"), cwd=admin.home, env=clean_environment(HOME=str(admin.home)), stderr=subprocess.DEVNULL)
    wait_for(lambda: not (admin.home / "slow").exists(), 30, "the command to be asked")
    process.kill()
    process.wait()
    back = admin.coollm("fleet", "scale", "--rollback", "--yes")
    assert back.returncode == 0, back.stderr
    assert len(set((admin.home / "changes").read_text().split())) == 2, "one that failed, and one that was asked for twice"
    assert (admin.home / "calls").read_text().split() == ["add", "add", "add", "remove", "gw4"]
    (admin.home / "calls").unlink()

    with admin.load(scaled.url, 50, 10, 3) as clients:
        done = admin.coollm(*words, "--yes", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["hosts"] == [*NAMES, "gw4"]
        told = {row["host"]: row for row in admin.json("lb", "status")["servers"]}
        assert set(told) == {*NAMES, "gw4"}
        rows = admin.json("fleet", "status")["hosts"]
        assert {row["digest"] for row in rows} == {rows[0]["digest"]}, "it has the configuration of the others"
        assert "nothing to do" in admin.coollm(*words, "--yes").stdout
        fewer = admin.coollm("fleet", "scale", "3", "--yes")
        assert fewer.returncode == 0, fewer.stderr
    whole(clients)
    assert (admin.home / "calls").read_text().split() == ["add", "remove", "gw4"]
    assert {row["host"] for row in admin.json("lb", "status")["servers"]} == set(NAMES)
    stays = admin.coollm("fleet", "scale", "2", "--yes")
    assert stays.returncode == 1
    assert "those that a person wrote stay" in stays.stderr
