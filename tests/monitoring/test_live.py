"""A real Prometheus scrapes a gateway by the files that coollm writes; a real Alertmanager tells a receiver what went wrong, how bad it is and what to do."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from coollm_cli.ops.monitoring.files import ALERTMANAGER, PROMETHEUS, RULES

from tests.conftest import GatewayHandle, clean_environment, free_port, running, serve, wait_for

CONFIGURATION = {
    "llm_providers": [
        {
            "id": "openai",
            "type": "openai",
            "base_url": "simulator://",
            "api_keys": ["sk-one", "sk-two"],
            "model": "gpt-sim",
            "models": ["gpt-sim", "gpt-sim~*"],
            "pricing": {"input_token_cost": 2.0, "output_token_cost": 8.0},
        }
    ],
    "api_keys": [{"id": "app", "key": "client-key-of-the-tests", "limits": {"budget_usd": 100}}],
    "policy": {"retry": {"max_attempts": 1}},
}


class Receiver:
    """Whom Alertmanager tells."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.told += json.loads(self.rfile.read(int(self.headers["content-length"])))["alerts"]
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def has(self, name: str, status: str = "firing") -> dict[str, Any] | None:
        return next((one for one in self.told if one["labels"]["alertname"] == name and one["status"] == status), None)


class Watched:
    """A gateway, and all that watches it."""

    def __init__(self, gateway: GatewayHandle, files: Path, prometheus: str, receiver: Receiver) -> None:
        self.gateway, self.files, self.prometheus, self.receiver = gateway, files, prometheus, receiver

    def ask(self, query: str) -> list[dict[str, Any]]:
        return requests.get(f"{self.prometheus}/api/v1/query", params={"query": query}, timeout=10).json()["data"]["result"]

    def firing(self) -> set[str]:
        return {row["metric"]["alertname"] for row in self.ask('ALERTS{alertstate="firing"}')}


def hurry(files: Path, alertmanager: int) -> None:
    """What takes minutes takes seconds; everything else stays as it was written."""
    told = yaml.safe_load((files / PROMETHEUS).read_text())
    told["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    told["alerting"]["alertmanagers"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{alertmanager}"]
    (files / PROMETHEUS).write_text(yaml.safe_dump(told))
    rules = yaml.safe_load((files / RULES).read_text())
    for group in rules["groups"]:
        group["interval"] = "1s"
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = "1s"
    (files / RULES).write_text(yaml.safe_dump(rules))
    routes = yaml.safe_load((files / ALERTMANAGER).read_text())
    routes["route"]["group_interval"] = "1s"
    for route in routes["route"]["routes"]:
        route["group_wait"] = "1s"
    (files / ALERTMANAGER).write_text(yaml.safe_dump(routes))


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    receiver, port, other = Receiver(), free_port(), free_port()
    files = tmp_path / "files"
    with serve(tmp_path, CONFIGURATION, workers=2) as gateway:
        done = gateway.coollm("monitoring", "render", str(files), "--target", f"127.0.0.1:{gateway.port}", "--webhook", receiver.url)
        assert done.returncode == 0, done.stderr
        hurry(files, other)
        prometheus = ["prometheus", f"--config.file={files / PROMETHEUS}", f"--storage.tsdb.path={tmp_path / 'tsdb'}", f"--web.listen-address=127.0.0.1:{port}"]
        alertmanager = [
            "prometheus-alertmanager",
            f"--config.file={files / ALERTMANAGER}",
            f"--storage.path={tmp_path / 'alerts'}",
            f"--web.listen-address=127.0.0.1:{other}",
            "--cluster.listen-address=",
        ]
        environment = clean_environment()
        with running(alertmanager, tmp_path / "alertmanager.txt", environment), running(prometheus, tmp_path / "prometheus.txt", environment):
            url = f"http://127.0.0.1:{port}"
            wait_for(lambda: is_ready(url), what="Prometheus")
            yield Watched(gateway, files, url, receiver)
    receiver.server.shutdown()


def is_ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/-/ready", timeout=2).status_code == 200
    except requests.RequestException:
        return False


def load(gateway: GatewayHandle) -> None:
    for _ in range(10):
        assert gateway.chat("gpt-sim").status_code == 200
    answer = gateway.chat("gpt-sim", stream=True)
    assert b"[DONE]" in answer.content


def test_figures_alerts_and_their_end(watched: Watched) -> None:
    gateway, receiver = watched.gateway, watched.receiver
    load(gateway)
    wait_for(lambda: watched.ask("coo_llm_requests_total"), what="the first scrape")
    load(gateway)
    wait_for(lambda: watched.ask("coollm:requests:rate5m > 0") and watched.ask("coollm:latency:p95_5m > 0"), what="the figures")
    checked = gateway.coollm("monitoring", "check", str(watched.files), "--prometheus", watched.prometheus, "--json")
    told = json.loads(checked.stdout)
    assert checked.returncode == 0, [one for one in told["checks"] if not one["ok"]]
    assert not watched.firing() & {"CoollmErrorRate", "CoollmDown", "CoollmStoreDown", "CoollmConfigDrift"}

    # A vendor that fails.
    def fails() -> dict[str, Any] | None:
        """Again and again: a counter that is new has no rate before it goes up once more, and keys that fail rest for a while."""
        gateway.chat("gpt-sim~status=500")
        return receiver.has("CoollmErrorRate")

    found = wait_for(fails, 60, "the alert")
    assert found["labels"]["severity"] == "high"
    assert found["annotations"]["runbook"].startswith("coollm explain CoollmErrorRate: coollm providers")

    # A configuration that somebody edits in its place.
    with (gateway.home / "coollm.yaml").open("a") as file:
        file.write("# edited\n")
    assert wait_for(lambda: receiver.has("CoollmConfigDrift"), 40, "the alert")["labels"]["severity"] == "low"

    # A gateway that is gone, and comes back.
    assert "CoollmDown" not in watched.firing()
    os.kill(gateway.process.pid, signal.SIGSTOP)
    for pid in gateway.workers():
        os.kill(pid, signal.SIGSTOP)
    down = wait_for(lambda: receiver.has("CoollmDown"), 60, "the alert")
    assert down["labels"]["severity"] == "critical"
    assert down["labels"]["instance"] == f"127.0.0.1:{gateway.port}"
    for pid in (*gateway.workers(), gateway.process.pid):
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: receiver.has("CoollmDown", "resolved"), 60, "its end")
