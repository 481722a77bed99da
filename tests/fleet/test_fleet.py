"""Three real hosts over ssh: told of at once, partly where one is gone, and given one configuration or none."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from typing import Any

import pytest

from tests.conftest import clean_environment
from tests.fleet.conftest import NAMES, Admin
from tests.host.conftest import CONFIG

pytestmark = pytest.mark.timeout(1800)


def digests(admin: Admin) -> list[str]:
    return [row["digest"] for row in admin.json("fleet", "status")["hosts"]]


def test_how_every_host_is(admin: Admin) -> None:
    done = admin.coollm("fleet", "status")
    assert done.returncode == 0, done.stdout + done.stderr
    told = admin.json("fleet", "status")
    assert told["ok"] is True
    assert [(row["host"], row["status"], row["instances"], row["serving"]) for row in told["hosts"]] == [(name, "ok", 1, 1) for name in NAMES]
    assert len(set(digests(admin))) == 1
    assert [row["host"] for row in admin.json("fleet", "status", "--group", "back")["hosts"]] == ["gw3"]
    assert [row["host"] for row in admin.json("fleet", "status", "--host", "gw2", "--group", "back")["hosts"]] == ["gw2", "gw3"]
    wrong = admin.coollm("fleet", "status", "--host", "gw4")
    assert wrong.returncode == 2
    assert "did you mean" in wrong.stderr
    again = admin.coollm("fleet", "install", "--wheelhouse", str(admin.hosts["gw1"].network.directory), "--yes")
    assert again.returncode == 2


def test_a_command_on_every_host(admin: Admin) -> None:
    done = admin.coollm("fleet", "exec", "--", "sh", "-c", "hostname; echo 'a  b' \"$0\" >&2")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    assert lines[0] == f"gw1: {admin.hosts['gw1'].name}"
    assert lines[1] == "gw1: a  b sh"
    (admin.home / "words").write_text("some words\n")
    assert admin.coollm("fleet", "exec", "--input", "words", "--host", "gw2", "--", "cat").stdout == "gw2: some words\n"
    failed = admin.coollm("fleet", "exec", "--json", "--", "sh", "-c", "test $(hostname | tail -c 2) != x && exit 3")
    assert failed.returncode == 1
    assert {row["exit_code"] for row in json.loads(failed.stdout)["hosts"]} == {3}


def test_a_host_that_is_gone_and_one_whose_key_is_another(admin: Admin) -> None:
    host = admin.hosts["gw2"]
    subprocess.run(["ip", "-n", host.name, "link", "set", "lo", "down"], check=True)
    host.run("systemctl stop ssh.socket ssh.service", check=False)
    try:
        began = time.monotonic()
        done = admin.coollm("fleet", "status", "--json")
        assert time.monotonic() - began < 60
        told = json.loads(done.stdout)
        assert done.returncode == 4
        assert [row["status"] for row in told["hosts"]] == ["ok", "unreachable", "ok"]
        assert "refused" in told["hosts"][1]["notes"][0]
        assert admin.coollm("fleet", "exec", "--", "true").returncode == 5
        nothing = admin.coollm("fleet", "config", "apply", "gateway.yaml", "--yes")
        assert nothing.returncode == 1
        assert "nothing was changed" in nothing.stderr
    finally:
        pid = subprocess.run(["pgrep", "-f", f"systemd-nspawn --directory={host.root}"], capture_output=True, text=True, check=True).stdout.split()[-1]
        init = children_of(pid).split()[0]
        subprocess.run(["nsenter", "-t", init, "-a", "systemctl", "start", "ssh.service"], check=True)
        subprocess.run(["ip", "-n", host.name, "link", "set", "lo", "up"], check=True)
    known = admin.home / "known_hosts"
    before = known.read_text()
    try:
        first = before.splitlines()[0]
        other = host.network.key.with_suffix(".pub").read_text().split()
        known.write_text("\n".join([f"{first.split()[0]} {other[0]} {other[1]}", *before.splitlines()[1:]]) + "\n")
        told = admin.json("fleet", "status")
        assert told["hosts"][0]["status"] == "unreachable"
        assert "verification failed" in told["hosts"][0]["notes"][0].lower()
    finally:
        known.write_text(before)
    assert admin.json("fleet", "status")["ok"] is True


def children_of(pid: str) -> str:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return file.read()


def changed(text: str) -> str:
    return CONFIG.replace("drain_seconds: 30", f"drain_seconds: {text}")


def write(admin: Admin, text: str) -> str:
    (admin.home / "new.yaml").write_text(text)
    return "new.yaml"


def test_one_configuration_for_all_or_none(admin: Admin) -> None:
    before = digests(admin)
    dry = admin.json("fleet", "config", "apply", write(admin, changed("31")), "--dry-run")
    assert [row["changes"] for row in dry["hosts"]] == [True] * 3
    assert digests(admin) == before

    done = admin.json("fleet", "config", "apply", "new.yaml", "--yes", "--message", "longer")
    assert done["ok"], done
    assert done["changed"]
    assert set(digests(admin)) == {done["digest"]}
    assert done["digest"] != before[0]
    again = admin.json("fleet", "config", "apply", "new.yaml", "--yes")
    assert again["changed"] is False
    for host in admin.hosts.values():
        assert "longer" in host.run("coollm config history").stdout

    # It can be taken back, on every host at once.
    undone = admin.coollm("undo", "--config", "fleet.yaml", "--yes")
    assert undone.returncode == 0, undone.stderr
    assert digests(admin) == before
    assert admin.json("fleet", "config", "apply", "new.yaml", "--yes")["digest"] == done["digest"]
    told = json.loads(admin.coollm("audit", "search", "--action", "fleet-config", "--config", "fleet.yaml", "--json").stdout)["entries"]
    assert [one["state"] for one in told if one["state"] != "begins"] == ["done"] * 2

    # One that is not valid changes nothing, and every host says where.
    wrong = admin.coollm("fleet", "config", "apply", write(admin, changed("31") + "nonsense: 1\n"), "--yes")
    assert wrong.returncode == 1
    assert "nonsense" in wrong.stderr
    assert set(digests(admin)) == {done["digest"]}


def test_what_hosts_of_one_ledger_have_in_common(admin: Admin) -> None:
    """What clients' keys are hashed under is the same from the beginning, so that a client that was made at one host is one at all."""

    def shared() -> set[str]:
        return {host.run("coollm secrets share").stdout for host in admin.hosts.values()}

    assert len(shared()) == 1
    admin.hosts["gw1"].run("echo sk-of-a-vendor | coollm secrets set vendor --yes")
    assert len(shared()) == 2
    dry = admin.json("fleet", "secrets", "--from", "gw1", "--dry-run")
    assert [row["names"] for row in dry["hosts"]] == [["vendor"]] * 2
    assert len(shared()) == 2
    told = admin.json("fleet", "secrets", "--from", "gw1", "--yes")
    assert [(row["host"], row["names"]) for row in told["hosts"]] == [("gw2", ["vendor"]), ("gw3", ["vendor"])]
    assert len(shared()) == 1
    again = admin.coollm("fleet", "secrets", "--from", "gw1", "--yes")
    assert "gw3: has them already" in again.stdout
    assert "sk-of-a-vendor" not in again.stdout + again.stderr + json.dumps(told)
    admin.hosts["gw2"].run("coollm undo --yes")
    assert len(shared()) == 2
    assert admin.coollm("fleet", "secrets", "--from", "gw1", "--host", "gw2", "--yes").returncode == 0
    assert len(shared()) == 1
    assert admin.hosts["gw3"].run("echo nothing | coollm secrets accept --yes", check=False).returncode == 2
    for host in admin.hosts.values():
        assert "sk-of-a-vendor" not in host.run("grep -r sk-of-a-vendor /var/opt/coollm /var/log/coo-llm /var/lib/coollm || true").stdout


def test_one_administrator_at_a_time(admin: Admin) -> None:
    """Wherever the other is: the hosts themselves know of him, until he is done or gone."""
    before = digests(admin)
    there = admin.hosts["gw2"]
    there.run("coollm fleet claim fleet --owner anna@elsewhere --seconds 300")
    write(admin, changed("35"))
    refused = admin.coollm("fleet", "config", "apply", "new.yaml", "--yes")
    assert refused.returncode == 6, refused.stderr
    assert "anna@elsewhere changes this fleet" in refused.stderr
    assert admin.coollm("fleet", "restart", "--yes").returncode == 6
    assert admin.coollm("fleet", "restart", "--dry-run").returncode == 0, "who only looks is not in anybody's way"
    assert there.run("coollm fleet claim fleet --owner tom@here", check=False).returncode == 6
    assert admin.hosts["gw1"].run("coollm fleet claim fleet --owner anna@elsewhere --seconds 1", check=False).returncode == 0, "it is given up again"
    assert digests(admin) == before
    there.run("coollm fleet claim fleet --owner anna@elsewhere --release")
    time.sleep(1)
    assert admin.json("fleet", "config", "apply", "new.yaml", "--yes")["changed"]


def test_one_host_that_cannot_takes_it_back_everywhere(admin: Admin) -> None:
    """A variable that one host alone lacks is found before anything changes; that somebody else changes a host, when the others have it already."""
    before = set(digests(admin))
    for name in ("gw1", "gw3"):
        admin.hosts[name].run("echo DRAIN=32s >>/etc/coollm/environment")
    missing = admin.coollm("fleet", "config", "apply", write(admin, changed('"${DRAIN}"')), "--yes")
    assert missing.returncode == 1
    assert "gw2" in missing.stderr
    assert "DRAIN" in missing.stderr
    assert set(digests(admin)) == before

    there = admin.hosts["gw2"]
    busy = there.start("coollm restart --rolling --yes")
    there.run(
        "until pid=$(grep -o '\"pid\": *[0-9]*' /var/opt/coollm/lock | grep -o '[0-9]*'); do sleep 0.05; done; sleep 0.3; kill -STOP $pid; echo $pid >/srv/stopped"
    )
    failed = admin.coollm("fleet", "config", "apply", write(admin, changed("33")), "--yes")
    there.run("kill -CONT $(cat /srv/stopped)")
    busy.communicate(timeout=120)
    assert failed.returncode == 7, failed.stderr
    assert "gw2" in failed.stderr
    assert "has been taken back" in failed.stderr
    assert set(digests(admin)) == before


def test_the_administrators_machine_dies(admin: Admin) -> None:
    """Killed when the hosts have it and nobody has said that they keep it: each goes back by itself; the command given again finishes."""
    before = set(digests(admin))
    write(admin, changed("34"))
    process = subprocess.Popen(
        admin.command("fleet", "config", "apply", "new.yaml", "--yes"),
        cwd=admin.home,
        env=clean_environment(HOME=str(admin.home)),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("[1/3]"):
            time.sleep(1.5)
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    done: Any = admin.json("fleet", "config", "apply", "new.yaml", "--yes")
    assert done["ok"], done
    after = set(digests(admin))
    assert len(after) == 1
    assert after != before
    for host in admin.hosts.values():
        assert json.loads(host.run("coollm status --json", check=False).stdout)["notes"] == []
