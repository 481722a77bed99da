"""The guide's whole picture under load: a load balancer, three gateways, and a host for Redis Cluster and PostgreSQL, which they share.

300 requests a second and 100 streams, while the fleet is upgraded, brought back, restarted and given five configurations: nothing fails, nothing is cut, and what
clients have counted is what the ledger has.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fleet.conftest import NAMES, Admin, Front
from tests.fleet.conftest import admin as admin
from tests.fleet.conftest import front as front
from tests.fleet.test_rollout import NEW, lost
from tests.fleet.test_rollout import wheels as wheels
from tests.host.conftest import CONFIG
from tests.host.hosts import TestHost

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

RATE, STREAMS = 300, 100
PORTS = (7001, 7002, 7003)

DATA = """set -e
for port in {ports}; do
  mkdir -p /srv/redis/$port
  systemd-run --quiet --unit=redis-$port --property=WorkingDirectory=/srv/redis/$port redis-server --port $port --bind 0.0.0.0 --protected-mode no \\
    --cluster-enabled yes --appendonly yes --cluster-announce-ip {address}
done
until redis-cli -p 7003 ping >/dev/null 2>&1; do sleep 0.2; done
redis-cli --cluster create {nodes} --cluster-yes >/dev/null
bin=$(ls -d /usr/lib/postgresql/*/bin | tail -1)
install -d -o postgres /srv/postgresql
runuser -u postgres -- $bin/initdb -D /srv/postgresql/data -U ledger -A trust --no-sync >/dev/null
echo 'host all all 10.77.0.0/24 trust' >>/srv/postgresql/data/pg_hba.conf
systemd-run --quiet --unit=ledger --uid=postgres $bin/postgres -D /srv/postgresql/data -p 5432 -k /tmp -c 'listen_addresses=*'
until $bin/pg_isready -q -h 127.0.0.1 -p 5432; do sleep 0.2; done
"""


@pytest.fixture(scope="module")
def data(admin: Admin, new_host: Callable[[], TestHost]) -> TestHost:
    """Redis Cluster and PostgreSQL."""
    host = new_host()
    nodes = " ".join(f"{host.address}:{port}" for port in PORTS)
    host.run(DATA.format(ports=" ".join(map(str, PORTS)), address=host.address, nodes=nodes))
    return host


@pytest.fixture(scope="module")
def shared(front: Front, data: TestHost) -> Front:
    """The fleet, with its counters and its ledger there."""
    admin = front.admin
    settings = yaml.safe_load(CONFIG)
    nodes = ",".join(f"{data.address}:{port}" for port in PORTS)
    settings["storage"] = {
        "runtime": {"type": "redis", "mode": "cluster", "addr": nodes},
        "ledger": {"url": f"postgresql+psycopg://ledger@{data.address}:5432/postgres"},
    }
    (admin.home / "gateway.yaml").write_text(yaml.safe_dump(settings))
    assert admin.json("fleet", "config", "apply", "gateway.yaml", "--yes")["ok"]
    assert admin.json("fleet", "restart", "--yes")["ok"], "another store waits for a restart"
    return front


def test_everything_under_load(shared: Front, wheels: Path) -> None:
    admin = shared.admin
    before = sum(json.loads(admin.hosts[name].run("coollm usage verify --json").stdout)["lines"] for name in NAMES)
    receipts: list[dict[str, Any]] = []
    with admin.load(shared.url, RATE, STREAMS, 20) as clients:
        receipts.append(admin.json("fleet", "upgrade", NEW, "--wheelhouse", str(wheels), "--batch", "1", "--soak", "5s", "--yes"))
        receipts.append(admin.json("fleet", "rollback", "--yes"))
        receipts.append(admin.json("fleet", "restart", "--yes"))
        for number in range(5):
            assert admin.json("fleet", "config", "apply", admin.with_drain(31 + number), "--yes")["changed"]
    assert clients["failed"] == []
    assert clients["streams_cut"] == []
    assert clients["requests"] > 10_000
    for receipt in receipts:
        assert receipt["ok"], receipt
        assert (receipt["failed"], receipt["streams_cut"]) == (0, 0)
    after = sum(json.loads(admin.hosts[name].run("coollm usage verify --json").stdout)["lines"] for name in NAMES)
    # Gates and probes of the changes are requests, too, and none of a client's.
    assert after - before >= clients["requests"] + clients["streams_finished"]
    print(f"{clients['requests']} requests and {clients['streams_finished']} streams, the longest {clients['longest']:.2f} s")


def test_a_gateway_is_cut_off_from_what_is_shared(shared: Front, data: TestHost) -> None:
    """For thirty seconds: it refuses by its rule, the others go on, and haproxy sends it nothing."""
    admin = shared.admin
    alone = admin.hosts["gw2"]
    with admin.load(shared.url, RATE, 20, 5) as clients:
        time.sleep(3)
        alone.run(f"ip route add blackhole {data.address}/32")
        time.sleep(30)
        alone.run(f"ip route del blackhole {data.address}/32")
        deadline = time.monotonic() + 30
        while admin.coollm("lb", "status").returncode != 0:
            assert time.monotonic() < deadline, admin.coollm("lb", "status").stdout
            time.sleep(0.5)
    assert len(clients["failed"]) < RATE * 8, "what came to it before haproxy knew"
    assert clients["longest"] < 20
    assert all(" 503 " in one for one in clients["failed"]), clients["failed"][:3]


def test_the_master_of_the_counters_dies(shared: Front, data: TestHost) -> None:
    """Without a replica nobody takes over: requests are refused, none hangs, and when it is back they go on with the counters that it kept."""
    admin = shared.admin
    with admin.load(shared.url, 100, 10, 5) as clients:
        time.sleep(2)
        slot = data.run("redis-cli -c -p 7001 cluster keyslot '{coollm}'").stdout.strip()
        owner = next(port for port in PORTS if data.run(f"redis-cli -p {port} cluster countkeysinslot {slot}").stdout.strip() != "0")
        data.run(f"systemctl kill --signal=KILL redis-{owner}; sleep 10; cd /srv/redis/{owner}; systemctl reset-failed redis-{owner} || true")
        start = f"systemd-run --quiet --unit=redis-{owner} --property=WorkingDirectory=/srv/redis/{owner} redis-server --port {owner} --bind 0.0.0.0"
        data.run(f"{start} --protected-mode no --cluster-enabled yes --appendonly yes --cluster-announce-ip {data.address}")
        time.sleep(10)
    assert clients["longest"] < 15
    with admin.load(shared.url, 100, 10, 2) as again:
        time.sleep(5)
    assert again["failed"] == []


def test_a_gateway_dies(shared: Front) -> None:
    with shared.admin.load(shared.url, RATE, STREAMS, 10) as clients:
        time.sleep(3)
        with lost(shared.admin.hosts["gw3"]):
            time.sleep(20)
        time.sleep(10)
    assert len(clients["failed"]) <= 40, "at most one of each connection"
    assert len(clients["streams_cut"]) <= STREAMS // 2
