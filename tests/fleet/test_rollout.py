"""Rolling changes of a fleet behind haproxy, under load: no request fails, no stream is cut, and what stops in the middle goes on or is taken back."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import clean_environment
from tests.fleet.conftest import NAMES, Admin
from tests.host.hosts import TestHost
from tests.host.wheels import make_release

pytestmark = pytest.mark.timeout(900)

NEW, ILL = "9.9.1", "9.9.2"
RATE, STREAMS = 100, 20


class Front:
    """The load balancer, and the fleet behind it."""

    def __init__(self, admin: Admin, host: TestHost) -> None:
        self.admin, self.host = admin, host
        self.url = f"http://{host.address}:2906"

    def versions(self) -> list[str]:
        return [row["version"] for row in self.admin.json("fleet", "status")["hosts"]]


@pytest.fixture(scope="module")
def front(admin: Admin, new_host: Callable[[], TestHost]) -> Front:
    host = new_host()
    admin.know(host)
    with (admin.home / "ssh_config").open("a") as file:
        file.write(f"Host lb1\n  HostName {host.address}\n")
    hosts = [{"name": name, "http": f"{admin.hosts[name].address}:2906"} for name in NAMES]
    admin.write({"hosts": hosts, "load_balancers": [{"name": "lb1", "address": "lb1"}]})
    text = admin.coollm("lb", "render", "--bind", ":2906", "--rate", "1000000").stdout
    host.write("/etc/haproxy/haproxy.cfg", text)
    host.run("mkdir -p /run/haproxy && systemctl restart haproxy")
    made = Front(admin, host)
    deadline = time.monotonic() + 20
    while admin.coollm("lb", "status").returncode != 0:
        assert time.monotonic() < deadline, admin.coollm("lb", "status").stdout
        time.sleep(0.5)
    return made


@pytest.fixture(scope="module")
def wheels(wheelhouse: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheelhouse with two more releases, one of which is never healthy."""
    target = tmp_path_factory.mktemp("wheels")
    for wheel in wheelhouse.glob("*.whl"):
        (target / wheel.name).hardlink_to(wheel) if wheel.stat().st_dev == target.stat().st_dev else (target / wheel.name).write_bytes(wheel.read_bytes())
    make_release(wheelhouse, target, NEW)
    make_release(
        wheelhouse, target, ILL, {"coollm/api/health.py": ("checks = [_store(services)", "checks = [{'name': 'store', 'status': DOWN, 'detail': 'ill'}")}
    )
    return target


def whole(clients: dict[str, Any]) -> None:
    assert clients["failed"] == []
    assert clients["streams_cut"] == []
    assert clients["requests"] > 300


def test_restart_and_configurations_under_load(front: Front) -> None:
    admin = front.admin
    with admin.load(front.url, RATE, STREAMS) as clients:
        done = admin.json("fleet", "restart", "--yes")
        assert done["ok"], done
        for drain in ("31", "30"):
            text = (admin.home / "gateway.yaml").read_text().replace("drain_seconds: 30", f"drain_seconds: {drain}")
            (admin.home / "other.yaml").write_text(text)
            assert admin.json("fleet", "config", "apply", "other.yaml", "--yes")["changed"]
    whole(clients)
    assert (done["failed"], done["streams_cut"]) == (0, 0)
    assert {one.partition("/")[0] for one in done["instances"]} == set(NAMES)
    status = admin.json("lb", "status")
    assert status["ok"], status


def test_upgrade_and_back_under_load(front: Front, wheels: Path) -> None:
    admin, before = front.admin, front.versions()
    dry = admin.coollm("fleet", "upgrade", NEW, "--wheelhouse", str(wheels), "--batch", "1,100%", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "gw2, gw3: out of the load balancers" in dry.stdout
    with admin.load(front.url, RATE, STREAMS) as clients:
        up = admin.json("fleet", "upgrade", NEW, "--wheelhouse", str(wheels), "--batch", "1,100%", "--soak", "2s", "--yes")
        assert up["ok"], up
        assert front.versions() == [NEW] * 3
        assert "leaves none that serves" in admin.coollm("fleet", "rollback", "--batch", "100%", "--yes").stderr
        back = admin.json("fleet", "rollback", "--batch", "1,100%", "--yes")
        assert back["ok"], back
    whole(clients)
    assert front.versions() == before
    assert (up["failed"], up["streams_cut"], back["failed"], back["streams_cut"]) == (0, 0, 0, 0)


def test_a_release_that_is_ill_is_taken_back_everywhere(front: Front, wheels: Path) -> None:
    admin, before = front.admin, front.versions()
    done = admin.coollm("fleet", "upgrade", ILL, "--wheelhouse", str(wheels), "--soak", "0s", "--yes")
    assert done.returncode in (1, 7), done.stderr
    assert "gw1" in done.stderr
    assert front.versions() == before
    assert admin.json("fleet", "status")["ok"]


def start(admin: Admin, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(admin.command(*arguments), cwd=admin.home, env=clean_environment(HOME=str(admin.home)), stderr=subprocess.PIPE, text=True)


def until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"it ended before {text!r}")


def test_the_administrators_machine_dies_and_goes_on(front: Front, wheels: Path) -> None:
    admin, before = front.admin, front.versions()
    process = start(admin, "fleet", "upgrade", NEW, "--wheelhouse", str(wheels), "--soak", "0s", "--yes")
    until(process, "[2/")
    time.sleep(1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert requests_pass(front)
    back = admin.coollm("fleet", "upgrade", "--rollback", "--yes")
    if back.returncode:  # what goes on there on its own has to end first
        time.sleep(20)
        back = admin.coollm("fleet", "upgrade", "--rollback", "--yes")
    assert back.returncode == 0, back.stderr
    for name in NAMES:  # one that was changed as it was killed has not been told of
        if admin.json("fleet", "status", "--host", name)["hosts"][0]["version"] == NEW:
            assert admin.coollm("fleet", "rollback", "--host", name, "--yes").returncode == 0
    assert front.versions() == before


def test_a_host_that_is_lost_in_the_middle(front: Front, wheels: Path) -> None:
    admin = front.admin
    lost = admin.hosts["gw2"]
    device = f"{next(iter(json.loads(subprocess.run(['ip', '-j', '-n', lost.name, 'link'], capture_output=True, text=True, check=True).stdout)[1:]))['ifname']}"
    process = start(admin, "fleet", "upgrade", NEW, "--wheelhouse", str(wheels), "--soak", "0s", "--yes")
    until(process, "[2/")
    subprocess.run(["ip", "-n", lost.name, "link", "set", device, "down"], check=True)
    try:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 1
        assert "changed: gw1; not changed: gw2, gw3" in errors
        assert "--resume" in errors
        assert requests_pass(front)
    finally:
        subprocess.run(["ip", "-n", lost.name, "link", "set", device, "up"], check=True)
    done = admin.json("fleet", "upgrade", "--resume", "--yes")
    assert done["ok"], done
    assert front.versions() == [NEW] * 3


def requests_pass(front: Front) -> bool:
    """The fleet goes on serving."""
    with front.admin.load(front.url, 50, 2, 2) as clients:
        time.sleep(4)
    return clients["failed"] == [] and clients["requests"] > 100
