"""A Redis of several nodes under load: its master dies, and the slot of the counters moves. Limits stay exact, and a request waits no longer than it may."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import requests

from coollm.stores.redis import HASH_TAG
from tests.conftest import GatewayHandle, SimulatorHandle, clean_environment, free_port, redis_server, running, serve, wait_for
from tests.soak.chaos import Load
from tests.soak.test_chaos import configuration, prove

FAILOVER_WAIT_SECONDS = 8
NARROW, MOST = "client-key-that-may-little", 150


def cli(port: int, *words: str) -> str:
    return subprocess.run(["redis-cli", "-p", str(port), *words], capture_output=True, text=True, timeout=60, check=False).stdout.strip()


@contextlib.contextmanager
def two_gateways(simulator: SimulatorHandle, home: Path, runtime: dict[str, Any]) -> Iterator[list[GatewayHandle]]:
    settings = configuration(simulator.url, {"type": "redis", "failover_wait": f"{FAILOVER_WAIT_SECONDS}s", **runtime}, home / "ledger.sqlite")
    settings["policy"]["timeouts"]["total"] = "20s"
    settings["api_keys"].append({"id": "narrow", "key": NARROW, "limits": {"req_per_min": MOST}})
    with contextlib.ExitStack() as stack:
        found = []
        for number in range(2):
            (home / f"gateway{number}").mkdir()
            found.append(stack.enter_context(serve(home / f"gateway{number}", settings, workers=1)))
        yield found


def ask(gateways: list[GatewayHandle], count: int) -> list[int]:
    """What the client that may little gets, by turns at both."""
    body = {"model": "gpt-sim", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
    headers = {"authorization": f"Bearer {NARROW}"}
    urls = [f"{gateways[number % 2].url}/v1/chat/completions" for number in range(count)]
    return [requests.post(url, json=body, headers=headers, timeout=30).status_code for url in urls]


def exact(gateways: list[GatewayHandle], load: Load, narrow: list[int]) -> None:
    assert load.broken == 0
    assert set(load.statuses) == {200}, load.statuses
    assert load.longest < FAILOVER_WAIT_SECONDS + 2
    assert narrow.count(200) == MOST, narrow
    assert set(narrow) == {200, 429}
    prove(gateways, load)


def test_the_master_dies(simulator: SimulatorHandle, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        ports = [free_port(), free_port()]
        nodes = []
        for number, port in enumerate(ports):
            (tmp_path / str(port)).mkdir()
            follows = ["--replicaof", "127.0.0.1", str(ports[0])] if number else []
            nodes.append(stack.enter_context(redis_server(tmp_path / str(port), port, *follows)))
        wait_for(lambda: "master_link_status:up" in cli(ports[1], "info", "replication"), 20, "the replica")
        watch = free_port()
        lines = [f"port {watch}", "bind 127.0.0.1", f"dir {tmp_path}", f"sentinel monitor counters 127.0.0.1 {ports[0]} 1"]
        lines += ["sentinel down-after-milliseconds counters 1500", "sentinel failover-timeout counters 5000"]
        (tmp_path / "sentinel.conf").write_text("\n".join([*lines, ""]))
        stack.enter_context(running(["redis-server", str(tmp_path / "sentinel.conf"), "--sentinel"], tmp_path / "words.txt", clean_environment()))
        wait_for(lambda: f"+slave slave 127.0.0.1:{ports[1]}" in (tmp_path / "words.txt").read_text(), 15, "the sentinel to know the replica")
        runtime = {"mode": "sentinel", "master_name": "counters", "addr": f"127.0.0.1:{watch}"}
        gateways = stack.enter_context(two_gateways(simulator, tmp_path, runtime))
        with Load(gateways) as load:
            narrow = ask(gateways, MOST - 30)
            nodes[0].kill()
            nodes[0].wait()
            narrow += ask(gateways, 60)
            assert cli(ports[1], "role").startswith("master")
            time.sleep(1)
        assert load.longest > 1, "they have waited for the new master"
        exact(gateways, load, narrow)


def test_the_slot_of_the_counters_moves(simulator: SimulatorHandle, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        ports = [free_port() for _ in range(3)]
        for port in ports:
            (tmp_path / str(port)).mkdir()
            options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", str(free_port()))
            stack.enter_context(redis_server(tmp_path / str(port), port, *options))
        nodes = [f"127.0.0.1:{port}" for port in ports]
        subprocess.run(["redis-cli", "--cluster", "create", *nodes, "--cluster-yes"], check=True, capture_output=True, timeout=60)
        wait_for(lambda: all("cluster_state:ok" in cli(port, "cluster", "info") for port in ports), 20, "the cluster")
        gateways = stack.enter_context(two_gateways(simulator, tmp_path, {"mode": "cluster", "addr": ",".join(nodes)}))
        slot = cli(ports[0], "cluster", "keyslot", HASH_TAG)
        with Load(gateways) as load:
            narrow = ask(gateways, 50)
            for _ in range(2):
                narrow += ask(gateways, 35)
                move(ports, slot)
            narrow += ask(gateways, 60)
        exact(gateways, load, narrow)


def move(ports: list[int], slot: str) -> None:
    """Gives a slot to the next node, key by key, as `redis-cli --cluster reshard` does."""
    names = {port: cli(port, "cluster", "myid") for port in ports}
    owner = next(port for port in ports if int(cli(port, "cluster", "countkeysinslot", slot)))
    target = ports[(ports.index(owner) + 1) % len(ports)]
    assert cli(target, "cluster", "setslot", slot, "importing", names[owner]) == "OK"
    assert cli(owner, "cluster", "setslot", slot, "migrating", names[target]) == "OK"
    while keys := cli(owner, "cluster", "getkeysinslot", slot, "3").split():
        assert cli(owner, "migrate", "127.0.0.1", str(target), "", "0", "5000", "keys", *keys) == "OK"
        time.sleep(0.02)  # so that requests meet keys here and keys there
    for port in (target, owner, *(one for one in ports if one not in (target, owner))):
        assert cli(port, "cluster", "setslot", slot, "node", names[target]) == "OK"
