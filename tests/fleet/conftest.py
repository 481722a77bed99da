"""Three hosts, and an administrator's machine that reaches them by ssh, with an ssh configuration of its own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import yaml

from coollm.core.certificates import self_signed
from tests.conftest import GatewayHandle, clean_environment, serve
from tests.host.clients import clients
from tests.host.conftest import CONFIG, KEY
from tests.host.hosts import TestHost

NAMES = ("gw1", "gw2", "gw3")


@contextlib.contextmanager
def two_gateways(home: Path, server: dict[str, Any] | None = None) -> Iterator[list[GatewayHandle]]:
    """Two of them at `home`, and a certificate for what stands before them: cert.pem, and both.pem with its key."""
    chain, key = self_signed(("127.0.0.1",))
    (home / "cert.pem").write_bytes(chain)
    (home / "both.pem").write_bytes(chain + key)
    provider = {"id": "openai", "type": "openai", "base_url": "simulator://", "api_keys": ["sk-one"], "models": ["gpt-sim", "gpt-sim~*"]}
    with contextlib.ExitStack() as stack:
        found = []
        for name in ("a", "b"):
            (home / name).mkdir()
            found.append(stack.enter_context(serve(home / name, {"llm_providers": [provider], "server": server or {}}, workers=1)))
        yield found


class Admin:
    """Whoever operates the fleet: this machine, in the network of the hosts."""

    def __init__(self, home: Path, hosts: dict[str, TestHost]) -> None:
        self.home, self.hosts = home, hosts
        first = next(iter(hosts.values()))
        self.network = first.network
        lines = [f"IdentityFile {self.network.key}\nUserKnownHostsFile {home}/known_hosts\nUser root\nLogLevel ERROR\n"]
        lines += [f"Host {name}\n  HostName {host.address}\n" for name, host in hosts.items()]
        (home / "ssh_config").write_text("".join(lines))
        self.write({"hosts": [{"name": name, "groups": ["front" if number < 2 else "back"]} for number, name in enumerate(hosts)]})
        self.know(*hosts.values())

    def write(self, fleet: dict[str, Any]) -> None:
        """Writes fleet.yaml."""
        ssh = {"config_file": str(self.home / "ssh_config"), "connect_timeout": "3s"}
        (self.home / "fleet.yaml").write_text(yaml.safe_dump({"fleet": {**fleet, "ssh": ssh}}))

    def with_drain(self, seconds: int) -> str:
        """The name of a configuration that differs from gateway.yaml in `server.drain_seconds` alone."""
        text = (self.home / "gateway.yaml").read_text()
        assert "drain_seconds: 30" in text
        (self.home / "other.yaml").write_text(text.replace("drain_seconds: 30", f"drain_seconds: {seconds}"))
        return "other.yaml"

    def know(self, *hosts: TestHost) -> None:
        """Keeps their keys, as `ssh` would have asked."""
        with (self.home / "known_hosts").open("a") as file:
            for host in hosts:
                key = host.run("cat /etc/ssh/ssh_host_ed25519_key.pub").stdout.split()
                file.write(f"{host.address} {key[0]} {key[1]}\n")

    def command(self, *arguments: str) -> list[str]:
        return ["ip", "netns", "exec", self.network.name, sys.executable, "-m", "coollm_cli.main", *arguments]

    def load(self, url: str, rate: int, streams: int, stream_seconds: float = 4) -> AbstractContextManager[dict[str, Any]]:
        """Clients of the fleet, for as long as the block runs."""
        return clients(["ip", "netns", "exec", self.network.name], url, KEY, rate, 40, streams, stream_seconds, "openai:gpt-sim")

    def coollm(self, *arguments: str, timeout: float = 800, **options: Any) -> subprocess.CompletedProcess[str]:
        environment = clean_environment(HOME=str(self.home))
        return subprocess.run(self.command(*arguments), cwd=self.home, env=environment, capture_output=True, text=True, timeout=timeout, **options)

    def json(self, *arguments: str) -> Any:
        done = self.coollm(*arguments, "--json")
        assert done.stdout, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="session")
def admin(new_host: Callable[[], TestHost], wheelhouse: Path, tmp_path_factory: pytest.TempPathFactory) -> Admin:
    """A fleet of three, installed by `coollm fleet install`."""
    home = tmp_path_factory.mktemp("admin")
    made = Admin(home, {name: new_host() for name in NAMES})
    (home / "gateway.yaml").write_text(CONFIG)
    bare = made.json("fleet", "status")
    assert [row["status"] for row in bare["hosts"]] == ["failed"] * 3
    assert all("not installed" in row["notes"][0] for row in bare["hosts"])
    arguments = ["fleet", "install", "--wheelhouse", str(wheelhouse), "--with-config", "gateway.yaml", "--instances", "1"]
    dry = made.coollm(*arguments, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    done = made.coollm(*arguments, "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    return made


class Front:
    """The load balancer, and the fleet behind it."""

    def __init__(self, admin: Admin, host: TestHost) -> None:
        self.admin, self.host = admin, host
        self.url = f"http://{host.address}:2906"

    def versions(self) -> list[str]:
        return [row["version"] for row in self.admin.json("fleet", "status")["hosts"]]


@pytest.fixture(scope="session")
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


def whole(clients: dict[str, Any]) -> None:
    assert clients["failed"] == []
    assert clients["streams_cut"] == []
    assert clients["requests"] > 300
