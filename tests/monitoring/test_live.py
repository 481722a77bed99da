"""A real Prometheus scrapes three instances by the files that coollm writes; a real Alertmanager tells a receiver what went wrong, how bad it is and what to do.

Each fault fires the alerts that are expected of it and no other, and they resolve when it is mended.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests
import urllib3
import yaml
from coollm_cli.ops.monitoring.alerts import BY_NAME
from coollm_cli.ops.monitoring.files import ALERTMANAGER, PROMETHEUS, RULES

from coollm.core import certificates
from coollm.core.audit import LOCK
from coollm.core.audit_status import AuditStatus, write_audit_status
from coollm.core.backup_status import BackupStatus, read_backup_status, write_backup_status
from tests.conftest import GatewayHandle, clean_environment, free_port, running, serve, wait_for

PRICE = {"input_token_cost": 2.0, "output_token_cost": 8.0}
DAY = 86400
PATIENCE_SECONDS = 60


def provider(name: str, *keys: str, **more: Any) -> dict[str, Any]:
    return {"id": name, "type": "openai", "base_url": "simulator://", "api_keys": list(keys), "models": [f"{name}-sim*"], "pricing": PRICE, **more}


PROVIDERS = [provider("steady", "sk-one", "sk-two"), provider("down", "sk-down"), provider("storm", "sk-storm~status=429~retry_after=2")]
CLIENTS = [
    {"id": "app", "key": "client-key-of-the-tests"},
    {"id": "poor", "key": "client-key-of-the-poor", "limits": {"budget_usd": 0.001}},
]


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

    def last(self) -> dict[str, dict[str, Any]]:
        """What was told last of each alert."""
        return {one["labels"]["alertname"]: one for one in self.told}

    def fired(self) -> set[str]:
        """Whatever has fired: what has ended long ago is told again with the next of its group."""
        return {one["labels"]["alertname"] for one in self.told if one["status"] == "firing"}

    def firing(self) -> set[str]:
        return {name for name, one in self.last().items() if one["status"] == "firing"}


class Watched:
    """Three gateways, and all that watches them. The second speaks TLS."""

    def __init__(self, gateways: list[GatewayHandle], files: Path, prometheus: str, receiver: Receiver, restart: Callable[[], None]) -> None:
        self.gateways, self.files, self.prometheus, self.receiver, self.restart = gateways, files, prometheus, receiver, restart

    def ask(self, query: str) -> list[dict[str, Any]]:
        return requests.get(f"{self.prometheus}/api/v1/query", params={"query": query}, timeout=10).json()["data"]["result"]

    def chat(self, model: str, key: str = "client-key-of-the-tests", gateway: int = 0) -> requests.Response:
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 12}
        handle = self.gateways[gateway]
        return requests.post(f"{handle.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}, timeout=30, verify=False)

    def until(self, condition: Callable[[], Any], what: str) -> None:
        ends = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            firing = {row["metric"]["alertname"]: row["metric"] for row in self.ask('ALERTS{alertstate="firing"}')}
            assert time.monotonic() < ends, f"instead of {what} the receiver has {self.receiver.firing()}, and Prometheus {firing}"
            time.sleep(0.1)

    def expect(self, alerts: set[str], fault: Callable[[], Any], mend: Callable[[], Any] = lambda: None) -> None:
        """While the fault lasts these alerts come to the receiver and no other; when it is mended each of them resolves."""
        self.until(lambda: not self.receiver.firing() and not self.ask('ALERTS{alertstate="firing"}'), "silence")
        self.receiver.told.clear()

        def has_come() -> bool:
            fault()
            return self.receiver.firing() >= alerts

        self.until(has_come, f"{alerts}")
        for name in alerts:
            told = self.receiver.last()[name]
            assert told["labels"]["severity"] == BY_NAME[name].severity
            assert told["annotations"]["runbook"] == f"coollm explain {name}: {BY_NAME[name].remedy}"
            assert told["annotations"]["summary"]
        mend()
        self.until(lambda: not self.receiver.firing(), "the end")
        assert self.receiver.fired() == alerts, "and no other"


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
            rule["expr"] = re.sub(r"\[\d+[mh]\]", "[8s]", rule["expr"])
    (files / RULES).write_text(yaml.safe_dump(rules))
    routes = yaml.safe_load((files / ALERTMANAGER).read_text())
    routes["route"]["group_interval"] = "1s"
    for route in routes["route"]["routes"]:
        route["group_wait"] = "1s"
    (files / ALERTMANAGER).write_text(yaml.safe_dump(routes))


CERTIFICATES = {"fresh": 90.0, "ending": 0.01, "renewed": 90.0}
"""By their names, and how many days each is good for."""


def make_certificates(directory: Path) -> None:
    """All of them, and what trusts each."""
    for name, days in CERTIFICATES.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(certificates, "SELF_SIGNED_DAYS", days)
            chain, key = certificates.self_signed(("127.0.0.1",))
        (directory / f"{name}.cert").write_bytes(chain)
        (directory / f"{name}.key").write_bytes(key)
        with (directory / "ca.pem").open("ab") as file:
            file.write(chain)


def put_certificate(directory: Path, name: str) -> None:
    """Each file in one step, as `coollm tls renew` does."""
    for kind in ("key", "cert"):
        shutil.copy(directory / f"{name}.{kind}", directory / f"{kind}.new")
        (directory / f"{kind}.new").replace(directory / f"{kind}.pem")


def watch_well(state: Path) -> None:
    """A host that was backed up, drilled and verified just now."""
    now = time.time()
    write_backup_status(state, BackupStatus(success=now, name="b", drill=now, drilled="b", drill_seconds=3.0))
    write_audit_status(state, AuditStatus(verified=now, lines=1))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    urllib3.disable_warnings()
    home = tmp_path_factory.mktemp("live")
    receiver, port, other = Receiver(), free_port(), free_port()
    files, tls = home / "files", home / "tls"
    tls.mkdir()
    make_certificates(tls)
    put_certificate(tls, "fresh")
    with contextlib.ExitStack() as stack:
        gateways = []

        def start(number: int, at: int | None = None) -> GatewayHandle:
            own = home / f"host-{number}"
            own.mkdir(exist_ok=True)
            server = {"tls": {"cert_file": str(tls / "cert.pem"), "key_file": str(tls / "key.pem")}} if number == 2 else {}
            policy = {"retry": {"max_attempts": 1}, "fallback": {"enabled": False}}
            configuration = {"llm_providers": PROVIDERS, "api_keys": CLIENTS, "policy": policy, "server": server}
            made = stack.enter_context(serve(own, configuration, workers=2, port=at))
            watch_well(own / "state")
            return made

        gateways += [start(number) for number in (1, 2, 3)]

        def restart() -> None:
            gateways[2] = start(3, gateways[2].port)

        targets = [word for one in gateways for word in ("--target", one.url.removeprefix("http://"))]
        done = gateways[0].coollm("monitoring", "render", str(files), *targets, "--ca-file", str(tls / "ca.pem"), "--webhook", receiver.url)
        assert done.returncode == 0, done.stderr
        hurry(files, other)
        prometheus = ["prometheus", f"--config.file={files / PROMETHEUS}", f"--storage.tsdb.path={home / 'tsdb'}", f"--web.listen-address=127.0.0.1:{port}"]
        alertmanager = [
            "prometheus-alertmanager",
            f"--config.file={files / ALERTMANAGER}",
            f"--storage.path={home / 'alerts'}",
            f"--web.listen-address=127.0.0.1:{other}",
            "--cluster.listen-address=",
        ]
        environment = clean_environment()
        stack.enter_context(running(alertmanager, home / "alertmanager.txt", environment))
        stack.enter_context(running(prometheus, home / "prometheus.txt", environment))
        url = f"http://127.0.0.1:{port}"
        wait_for(lambda: is_ready(url), what="Prometheus")
        yield Watched(gateways, files, url, receiver, restart)
    receiver.server.shutdown()


def is_ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/-/ready", timeout=2).status_code == 200
    except requests.RequestException:
        return False


def test_every_figure_and_every_panel_has_data(watched: Watched) -> None:
    def load() -> None:
        for gateway in range(3):
            assert watched.chat("steady-sim", gateway=gateway).status_code == 200
        answer = watched.gateways[0].chat("steady-sim", stream=True)
        assert b"[DONE]" in answer.content

    load()
    wait_for(lambda: len(watched.ask('up{job="coollm"} == 1')) == 3, what="three instances")
    wait_for(lambda: watched.ask("coo_llm_requests_total"), what="the first scrape")

    def is_told() -> bool:
        load()
        return bool(watched.ask("coollm:requests:rate5m > 0") and watched.ask("coollm:latency:p95_5m > 0"))

    wait_for(is_told, what="the figures")
    checked = watched.gateways[0].coollm("monitoring", "check", str(watched.files), "--prometheus", watched.prometheus, "--json")
    assert checked.returncode == 0, [one for one in json.loads(checked.stdout)["checks"] if not one["ok"]]
    assert not watched.receiver.told, "nothing is wrong"


def test_a_vendor_that_is_down(watched: Watched) -> None:
    watched.expect(
        {"CoollmErrorRate", "CoollmVendorErrors", "CoollmKeyDown", "CoollmNoKey"},
        lambda: (watched.chat("down-sim~status=500"), time.sleep(0.2)),
    )


def test_a_slow_vendor(watched: Watched) -> None:
    def ask() -> None:
        threads = [threading.Thread(target=watched.chat, args=("steady-sim~latency_ms=5600",)) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(1.5)

    watched.expect({"CoollmSlow"}, ask)
    time.sleep(6)


def test_a_storm_of_429(watched: Watched) -> None:
    watched.expect(
        {"CoollmVendorErrors", "CoollmKeyDown", "CoollmNoKey"},
        lambda: (watched.chat("storm-sim"), watched.chat("steady-sim"), time.sleep(0.1)),
    )


def test_a_budget_that_runs_out(watched: Watched) -> None:
    def more() -> None:
        done = watched.gateways[0].coollm("budget", "set", "client", "poor", "--usd", "1000", "--yes")
        assert done.returncode == 0, done.stderr
        assert wait_for(lambda: watched.chat("steady-sim", "client-key-of-the-poor").status_code == 200, 10, "an answer")

    watched.expect({"CoollmBudgetNearlySpent"}, lambda: (watched.chat("steady-sim", "client-key-of-the-poor"), time.sleep(0.1)), more)


def test_an_instance_that_is_killed(watched: Watched) -> None:
    gateway = watched.gateways[2]
    pids = [gateway.process.pid, *gateway.workers()]

    def kill() -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    watched.expect({"CoollmDown", "CoollmAvailability"}, kill, watched.restart)


def test_a_certificate_that_ends(watched: Watched) -> None:
    tls = watched.files.parent / "tls"

    def put(name: str) -> Callable[[], None]:
        done = []

        def once() -> None:
            if not done:
                put_certificate(tls, name)
                done.append(True)

        return once

    watched.expect({"CoollmCertificateExpiry"}, put("ending"), put("renewed"))


def test_a_backup_that_was_missed(watched: Watched) -> None:
    state = watched.gateways[0].home / "state"
    known = read_backup_status(state)
    watched.expect(
        {"CoollmBackupAge"},
        lambda: write_backup_status(state, msgspec.structs.replace(known, success=time.time() - 3 * DAY)),
        lambda: write_backup_status(state, msgspec.structs.replace(known, success=time.time())),
    )


@contextlib.contextmanager
def nobody_writes(log: Path) -> Iterator[None]:
    """The gateway tells of its clients once a minute: what it tells meanwhile has to stay."""
    with (log.parent / LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_an_audit_log_that_was_changed(watched: Watched) -> None:
    gateway = watched.gateways[0]
    log = gateway.home / "state" / "logs" / "audit.log"
    third = log.read_bytes().splitlines(keepends=True)[2]

    def change() -> None:
        with nobody_writes(log):
            log.write_bytes(log.read_bytes().replace(third, b""))
        assert gateway.coollm("audit", "verify").returncode == 4

    def mend() -> None:
        with nobody_writes(log):
            lines = log.read_bytes().splitlines(keepends=True)
            log.write_bytes(b"".join([*lines[:2], third, *lines[2:]]))
        verified = gateway.coollm("audit", "verify")
        assert verified.returncode == 0, verified.stdout

    watched.expect({"CoollmAuditFault"}, change, mend)


def test_a_configuration_that_is_edited_in_its_place(watched: Watched) -> None:
    file = watched.gateways[0].home / "coollm.yaml"
    before = file.read_bytes()
    watched.expect({"CoollmConfigDrift"}, lambda: file.write_bytes(before + b"# edited\n"), lambda: file.write_bytes(before))
