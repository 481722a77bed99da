"""haproxy in front of gateways, by the file that coollm writes: what it lets through, what it stops, and how it is steered."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.conftest import GatewayHandle, clean_environment, coollm, free_port, running, wait_for
from tests.fleet.conftest import two_gateways


class Front:
    """Two gateways behind haproxy."""

    def __init__(self, home: Path, gateways: list[GatewayHandle], port: int, metrics: int) -> None:
        self.home, self.gateways, self.port, self.metrics = home, gateways, port, metrics
        self.url = f"https://127.0.0.1:{port}"
        self.ca = str(home / "cert.pem")

    def coollm(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return coollm(*arguments, cwd=self.home, environment=clean_environment(HOME=str(self.home)))

    def chat(self, model: str = "gpt-sim", session: Any = requests, **more: Any) -> requests.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}], **more}
        headers = {"authorization": "Bearer client-key-of-the-tests"}
        return session.post(f"{self.url}/v1/chat/completions", json=body, headers=headers, timeout=30, verify=self.ca, stream=bool(more.get("stream")))

    def status(self) -> dict[str, dict[str, Any]]:
        return {row["host"]: row for row in json.loads(self.coollm("lb", "status", "--json").stdout)["servers"]}


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    home = tmp_path_factory.mktemp("front")
    with two_gateways(home) as (a, b):
        port, metrics = free_port(), free_port()
        hosts = [{"name": name, "http": f"127.0.0.1:{one.port}"} for name, one in (("gw1", a), ("gw2", b))]
        balancer = {"name": "lb1", "socket": str(home / "s")}
        (home / "fleet.yaml").write_text(yaml.safe_dump({"fleet": {"hosts": hosts, "load_balancers": [balancer]}}))
        words = ["lb", "render", "--bind", f"127.0.0.1:{port}", "--certificate", str(home / "both.pem"), "--socket", str(home / "s"), "--user", "none"]
        words += ["--metrics", f"127.0.0.1:{metrics}", "--max-body-mb", "1", "--stick", "x-session-id", "--out", "haproxy.cfg"]
        made = Front(home, [a, b], port, metrics)
        assert made.coollm(*words).returncode == 0
        checked = subprocess.run(["haproxy", "-c", "-f", str(home / "haproxy.cfg")], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        assert "warning" not in (checked.stdout + checked.stderr).lower()
        with running(["haproxy", "-W", "-f", str(home / "haproxy.cfg")], home / "words.txt", clean_environment()):
            wait_for(lambda: (home / "s").exists() and {row["status"] for row in made.status().values()} == {"UP"}, what="both hosts")
            yield made


def test_requests_streams_and_both_protocols(front: Front) -> None:
    answers = [front.chat() for _ in range(10)]
    assert {answer.status_code for answer in answers} == {200}
    served = [len(gateway.requests_logged()) for gateway in front.gateways]
    assert sum(served) >= 9
    assert min(served) > 0, "leastconn gives to both"
    began, first = time.monotonic(), 0.0
    answer = front.chat("gpt-sim~rate=10~tokens=20", stream=True)
    for line in answer.iter_lines():
        if b"content" in line and not first:
            first = time.monotonic() - began
    assert time.monotonic() - began - first > 1, "a stream comes as it is made"
    told = subprocess.run(
        ["curl", "-s", "--http2", "--cacert", front.ca, "-o", "/dev/null", "-w", "%{http_version} %{http_code}", f"{front.url}/health"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "2 200"
    body = requests.get(f"http://127.0.0.1:{front.metrics}/metrics", timeout=5).text
    assert "haproxy_server_status" in body


def test_a_first_wall(front: Front) -> None:
    for path in ("/admin/v1/status", "/metrics", "/ADMIN/v1/status", "/ui"):
        assert requests.get(f"{front.url}{path}", verify=front.ca, timeout=5).status_code == 404
    connection = http.client.HTTPSConnection("127.0.0.1", front.port, timeout=5, context=ssl.create_default_context(cafile=front.ca))
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("content-length", "1100000")
    connection.endheaders()
    assert connection.getresponse().status == 413
    # Nobody keeps a connection by telling its head a little at a time.
    with socket.create_connection(("127.0.0.1", front.port)) as slow:
        slow.settimeout(2)
        slow.sendall(b"GET")


def test_requests_of_a_session_go_to_one_host(front: Front) -> None:
    before = [len(gateway.requests_logged()) for gateway in front.gateways]
    session = requests.Session()
    session.headers["x-session-id"] = "one-of-mine"
    for _ in range(8):
        assert front.chat(session=session).status_code == 200
    wait_for(lambda: sum(len(gateway.requests_logged()) for gateway in front.gateways) == sum(before) + 8, 5, "the log lines")
    added = [len(gateway.requests_logged()) - earlier for gateway, earlier in zip(front.gateways, before, strict=True)]
    assert sorted(added) == [0, 8]


def test_weights_and_draining_are_taken_back(front: Front) -> None:
    dry = front.coollm("lb", "weight", "gw2", "50", "--dry-run")
    assert dry.returncode == 0
    assert "weight 100 -> 50" in dry.stdout
    assert front.status()["gw2"]["weight"] == 100
    assert front.coollm("lb", "weight", "gw2", "50", "--yes").returncode == 0
    assert front.status()["gw2"]["weight"] == 50
    assert "it is so already" in front.coollm("lb", "weight", "gw2", "50", "--yes").stdout
    undone = front.coollm("undo", "--config", "fleet.yaml", "--yes")
    assert undone.returncode == 0, undone.stderr
    assert front.status()["gw2"]["weight"] == 100

    stream: list[bytes] = []
    thread = threading.Thread(target=lambda: stream.append(front.chat("gpt-sim~rate=10~tokens=30", stream=True).content))
    thread.start()
    time.sleep(0.5)
    assert front.coollm("lb", "drain", "gw1", "--yes").returncode == 0
    assert front.status()["gw1"]["status"] == "DRAIN"
    before = len(front.gateways[0].requests_logged())
    assert {front.chat().status_code for _ in range(6)} == {200}
    thread.join()
    assert b"[DONE]" in stream[0], "what ran there went on"
    assert len(front.gateways[0].requests_logged()) <= before + 1
    assert front.coollm("lb", "status").returncode == 4
    assert front.coollm("lb", "drain", "gw1", "--off", "--yes").returncode == 0
    wait_for(lambda: front.status()["gw1"]["status"] == "UP", 5, "the host")
    entries = json.loads(front.coollm("audit", "search", "--action", "lb-steer", "--config", "fleet.yaml", "--json").stdout)["entries"]
    assert len([one for one in entries if one["state"] == "done"]) >= 4
    assert front.coollm("lb", "weight", "gw3", "50", "--yes").returncode == 2


def test_a_host_that_leaves_by_its_ready_and_one_that_dies(front: Front) -> None:
    run = next(path for path in front.gateways[1].run.iterdir() if (path / "admin.sock").exists())
    (run / "draining").touch()
    wait_for(lambda: front.status()["gw2"]["status"] in ("NOLB", "DRAIN", "DOWN"), 10, "haproxy noticing")
    assert {front.chat().status_code for _ in range(6)} == {200}
    (run / "draining").unlink()
    wait_for(lambda: front.status()["gw2"]["status"] == "UP", 10, "haproxy noticing")
    # A port at which nobody listens any more: the request goes to the other host, before any byte of it was read.
    os.kill(front.gateways[1].process.pid, 15)
    front.gateways[1].process.wait(30)
    assert {front.chat().status_code for _ in range(10)} == {200}


def test_faults_of_the_command(front: Front, tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text("fleet: {hosts: [{name: gw1}, {name: gw1}]}\n")
    twice = coollm("lb", "render", cwd=tmp_path)
    assert twice.returncode == 3
    assert "fleet.hosts[1].name" in twice.stderr
    (tmp_path / "fleet.yaml").write_text("fleet: {hosts: [{name: gw1}]}\n")
    sly = coollm("lb", "render", "--bind", ":443\n    http-request allow", cwd=tmp_path)
    assert sly.returncode == 2
    assert "--bind" in sly.stderr
    (tmp_path / "sly.yaml").write_text("fleet: {hosts: [{name: gw1, http: 'a:1; disable server coollm/gw2'}, {name: gw2, address: -oProxyCommand=id}]}\n")
    refused = coollm("lb", "render", "--inventory", "sly.yaml", cwd=tmp_path)
    assert refused.returncode == 3
    assert "fleet.hosts[0].http: expected HOST:PORT" in refused.stderr
    assert "fleet.hosts[1].address" in refused.stderr
    nothing = coollm("lb", "status", cwd=tmp_path)
    assert nothing.returncode == 1
    assert "names no load balancers" in nothing.stderr
    (tmp_path / "fleet.yaml").write_text(f"fleet: {{hosts: [{{name: gw1}}], load_balancers: [{{name: lb1, socket: {tmp_path}/none}}]}}\n")
    assert coollm("lb", "status", cwd=tmp_path).returncode == 5
    assert coollm("fleet", "status", "--inventory", "nothing.yaml", cwd=tmp_path).returncode == 3
