"""Changes of one host: the lock, a command that is killed at any moment, configuration with and without a confirmation, scale, drain, undo."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import wait_for
from tests.host.conftest import CONFIG, KEY, Installed, put_hook
from tests.host.machines import RELEASES, WHEELHOUSE
from tests.host.wheels import make_release

pytestmark = pytest.mark.timeout(1200)

NEW = "9.4.0"
HOOK = f"{RELEASES}/kill"


@pytest.fixture(scope="session", autouse=True)
def hook(releases: Path, wheelhouse: Path) -> None:
    put_hook(releases)
    make_release(wheelhouse, releases, NEW)


def generation(installed: Installed) -> set[Any]:
    return {one["generation"] for one in installed.json("status", check=False)["instances"]}


def with_body(size: int) -> str:
    return CONFIG.replace("drain_seconds: 30", f"drain_seconds: 30\n  max_body_mb: {size}")


def killed_until_done(installed: Installed, command: str, when: str, most: int = 40) -> int:
    """Gives the command again and again, each time killed at the second time that it writes its journal, until it ends. Returns how often it was killed."""
    for kills in range(most):
        done = installed.host.run(f"PYTHONPATH={HOOK} KILL_AT=2 KILL_WHEN={when} {command}; exit $?", check=False, timeout=300)
        if done.returncode == 0:
            return kills
        assert done.returncode == 137, done.stdout + done.stderr
    raise AssertionError("it never came to its end")


@pytest.mark.parametrize("when", [pytest.param("before", marks=pytest.mark.soak), "after"])
def test_a_command_that_is_killed_at_every_step_ends_when_it_is_given_again(installed: Installed, when: str) -> None:
    installed.host.write("/srv/killed.yaml", with_body(30 if when == "before" else 31))
    with installed.load(rate=50, connections=10, streams=5, stream_seconds=2) as clients:
        if when == "after":  # before the first write nothing has begun, and nothing is gone on with
            assert killed_until_done(installed, "coollm config apply /srv/killed.yaml", when) >= 3
            assert killed_until_done(installed, "coollm restart --rolling", when) >= 4
            upgrade = f"coollm upgrade {RELEASES}/coollm-{NEW}-py3-none-any.whl --wheelhouse {WHEELHOUSE} --soak 1s --yes"
            assert killed_until_done(installed, upgrade, when) >= 6
            status = installed.json("status")
            assert {one["version"] for one in status["instances"]} == {NEW}
            # An instance that runs another release than the rest is said, and an upgrade to that of the rest puts it right.
            before = installed.coollm("audit", "search", "--action", "upgrade").stdout
            old = installed.host.run("cat /var/opt/coollm/previous-release").stdout.strip()
            installed.host.run(f"ln -sfn ../releases/{old} /opt/coollm/instances/2 && systemctl restart coollm@2")
            assert any("different versions" in note for note in installed.json("status")["notes"])
            installed.coollm(f"upgrade {NEW} --soak 1s --yes")
            assert {one["version"] for one in installed.json("status")["instances"]} == {NEW}
            assert installed.coollm("audit", "search", "--action", "upgrade").stdout != before
            installed.coollm("rollback --soak 1s --yes")
        else:
            for kill_at in range(1, 8):
                installed.host.write("/srv/killed.yaml", with_body(40 + kill_at))
                done = installed.host.run(f"PYTHONPATH={HOOK} KILL_AT={kill_at} coollm config apply /srv/killed.yaml; exit $?", check=False)
                assert done.returncode in (0, 137)
                installed.coollm("config apply /srv/killed.yaml")
                assert installed.host.run("cat /etc/coollm/config.yaml").stdout == with_body(40 + kill_at)
    assert clients["failed"] == []
    assert clients["streams_cut"] == []
    status = installed.json("status")
    assert [one["status"] for one in status["instances"]] == ["ok", "ok"]
    assert status["notes"] == []
    assert len(generation(installed)) == 1


def test_another_command_takes_back_what_a_killed_one_left(installed: Installed) -> None:
    before = generation(installed)
    installed.host.write("/srv/left.yaml", with_body(77))
    done = installed.host.run(f"PYTHONPATH={HOOK} KILL_AT=5 coollm config apply /srv/left.yaml; exit $?", check=False)
    assert done.returncode == 137
    assert any("was killed" in note for note in installed.json("status")["notes"])
    other = installed.coollm("scale 2")
    assert "taking it back" in other.stderr
    assert generation(installed) == before
    assert installed.json("status")["notes"] == []


def test_two_administrators(installed: Installed) -> None:
    first = installed.host.start("coollm restart --rolling --json")
    time.sleep(2)
    second = installed.coollm("scale", "3", check=False)
    assert second.returncode == 6
    assert "root@" in second.stderr
    assert "coollm restart --rolling" in second.stderr
    assert "since 20" in second.stderr
    out, _ = first.communicate(timeout=120)
    assert json.loads(out)["ok"] is True
    # A lease whose owner is dead holds nobody up.
    held = installed.host.start("exec coollm restart --rolling")
    time.sleep(2)
    installed.host.run("pkill -9 -f 'coollm restart'")
    held.wait(30)
    assert installed.coollm("restart --rolling").returncode == 0


def test_a_configuration_that_is_not_confirmed_reverts_by_itself(installed: Installed) -> None:
    before = generation(installed)
    file = installed.host.run("cat /etc/coollm/config.yaml").stdout
    installed.host.write("/srv/trial.yaml", with_body(88))
    # The administrator's session dies with the command.
    applied = installed.json("config", "apply", "/srv/trial.yaml", "--confirm-within", "20s")
    told = installed.json("status")
    assert {one["generation"] for one in told["instances"]} == {applied["generation"]}
    assert any("reverts in" in note for note in told["notes"])
    wait_for(lambda: generation(installed) == before, 60, "the generation before")
    assert installed.host.run("cat /etc/coollm/config.yaml").stdout == file
    late = installed.coollm("config", "confirm", check=False)
    assert late.returncode == 1
    assert "not confirmed in time" in late.stderr
    applied = installed.json("config", "apply", "/srv/trial.yaml", "--confirm-within", "20s")
    end = time.monotonic() + 20
    installed.coollm("config", "confirm")
    time.sleep(max(0.0, end - time.monotonic()))
    assert generation(installed) == {applied["generation"]}
    assert installed.host.run("cat /etc/coollm/config.yaml").stdout == with_body(88)
    undone = installed.coollm("undo")
    assert undone.returncode == 0


def test_a_configuration_with_which_no_instance_is_healthy_is_taken_back(installed: Installed) -> None:
    before = generation(installed)
    file = installed.host.run("cat /etc/coollm/config.yaml").stdout
    broken = CONFIG[: CONFIG.index("llm_providers:")] + CONFIG[CONFIG.index("api_keys:\n  - id: app") :]  # no vendor, which is valid and serves nothing
    installed.host.write("/srv/broken.yaml", broken)
    with installed.load(rate=50, connections=10, streams=3, stream_seconds=2):
        done = installed.coollm("config", "apply", "/srv/broken.yaml", check=False)
    assert done.returncode == 7, done.stderr
    assert generation(installed) == before
    assert installed.host.run("cat /etc/coollm/config.yaml").stdout == file
    invalid = installed.host.run("echo 'version: 1' >/srv/invalid.yaml; coollm config apply /srv/invalid.yaml", check=False)
    assert invalid.returncode == 3
    assert "/srv/invalid.yaml:1" in invalid.stderr


def test_scale_drain_undrain_and_undo(installed: Installed) -> None:
    with installed.load(rate=50, connections=10, streams=5, stream_seconds=2) as clients:
        installed.coollm("scale", "3")
        assert [one["status"] for one in installed.json("status")["instances"]] == ["ok", "ok", "ok"]
        installed.coollm("drain", "2")
        assert [one["status"] for one in installed.json("status", check=False)["instances"]] == ["ok", "draining", "ok"]
        local = "curl -s -o /dev/null -w '%{http_code}' --unix-socket /run/coollm/2/admin.sock http://x/ready"
        time.sleep(3)
        drained = installed.json("status", check=False)["instances"][1]
        assert drained["streams"] == 0
        assert installed.host.run(local).stdout == "404"
        assert "nothing" not in installed.coollm("undo").stdout
        assert [one["status"] for one in installed.json("status")["instances"]] == ["ok", "ok", "ok"]
        installed.coollm("undo")
        assert [one["instance"] for one in installed.json("status")["instances"]] == ["1", "2"]
    assert clients["failed"] == []
    assert clients["streams_cut"] == []
    alone = installed.coollm("drain", "7", check=False)
    assert alone.returncode == 2


def test_stop_and_start(installed: Installed) -> None:
    installed.coollm("stop", "--yes")
    refused = f"curl -s -o /dev/null -w '%{{http_code}}' -H 'authorization: Bearer {KEY}' http://127.0.0.1:2906/v1/models"
    assert installed.host.run(refused, check=False).returncode == 7
    assert installed.coollm("status", check=False).returncode == 5
    assert installed.coollm("health", check=False).returncode == 5
    installed.coollm("start")
    assert installed.host.run(refused).stdout == "200"
    assert "already" in installed.coollm("start").stdout


@pytest.mark.parametrize("what", ["journal", "audit log"])
def test_a_full_disk_stops_a_change_before_it_is_made(installed: Installed, what: str) -> None:
    before = generation(installed)
    place = "/var/opt/coollm/journal" if what == "journal" else "/var/log/coo-llm"
    installed.host.write("/srv/full.yaml", with_body(33))
    fill = f"dd if=/dev/zero of={place}/fill bs=1k count=64 2>/dev/null"
    installed.host.run(f"mount -t tmpfs -o size=32k tmpfs {place}; {fill}; true")
    try:
        done = installed.coollm("config", "apply", "/srv/full.yaml", check=False)
        assert done.returncode in (1, 7)
        assert "cannot be written: No space left on device" in done.stderr
        assert "fault of coollm" not in done.stderr
        assert generation(installed) == before
    finally:
        installed.host.run(f"umount -l {place}")
    time.sleep(3)  # the gateway's own logs were on it, too
    assert installed.json("status")["notes"] == []
    assert generation(installed) == before


def test_what_was_changed_is_in_the_audit_log(installed: Installed) -> None:
    installed.coollm("drain", "2")
    installed.coollm("undrain", "2")
    told = installed.json("audit", "verify")
    assert told["ok"] is True
    assert told["faults"] == []
    entries = installed.json("audit", "search")["entries"]
    assert len(entries) == told["lines"]
    assert {"install", "drain", "undrain"} <= {entry["action"] for entry in entries}
    assert KEY not in json.dumps(entries)
    assert {entry["action"] for entry in installed.json("audit", "search", "--action", "drain")["entries"]} == {"drain"}
    assert len(installed.coollm("audit", "tail", "-n", "3").stdout.splitlines()) == 4
    installed.host.run("cp -p /var/log/coo-llm/audit.log /srv/audit.log; sed -i '3s|root|anna|' /var/log/coo-llm/audit.log")
    changed = installed.coollm("audit", "verify", check=False)
    assert (changed.returncode, "audit.log:3: it was changed" in changed.stdout) == (4, True)
    installed.host.run("cp -p /srv/audit.log /var/log/coo-llm/audit.log")
    assert installed.coollm("audit", "verify").returncode == 0
