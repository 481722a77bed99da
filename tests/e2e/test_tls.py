"""A certificate that is renewed under load, one that cannot be served, certificates of clients, and what a client is not let speak."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3

from coollm.core.certificates import self_signed
from tests.conftest import GatewayHandle, SimulatorHandle, serve, simulated, wait_for

KILL = Path(__file__).parent.parent / "host" / "kill"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    directory = tmp_path / "tls"
    directory.mkdir()
    chain, key = self_signed(("localhost", "127.0.0.1"))
    (directory / "cert.pem").write_bytes(chain)
    (directory / "key.pem").write_bytes(key)
    return directory


@pytest.fixture
def gateway(simulator: SimulatorHandle, tmp_path: Path, files: Path) -> Iterator[GatewayHandle]:
    yield from started(simulator, tmp_path, files, {})


def started(simulator: SimulatorHandle, home: Path, files: Path, more: dict[str, Any]) -> Iterator[GatewayHandle]:
    urllib3.disable_warnings()
    tls = {"cert_file": str(files / "cert.pem"), "key_file": str(files / "key.pem"), **more}
    with serve(home, {"llm_providers": simulated(simulator.url)[:1], "server": {"tls": tls}}) as handle:
        yield handle


def chat(gateway: GatewayHandle, session: Any, **more: Any) -> int:
    body = {"model": "gpt-sim", "messages": [{"role": "user", "content": "x"}]}
    return session.post(f"{gateway.url}/v1/chat/completions", json=body, headers=gateway.headers, timeout=30, verify=False, **more).status_code


def test_a_renewal_under_load(gateway: GatewayHandle, tmp_path: Path) -> None:
    statuses: list[Any] = []
    stopped = threading.Event()

    def load(keeps: bool) -> None:
        session = requests.Session()
        while not stopped.wait(0.01):
            try:
                statuses.append(chat(gateway, session if keeps else requests))
            except requests.RequestException as error:
                statuses.append(error)

    threads = [threading.Thread(target=load, args=(keeps,)) for keeps in (True, True, False, False)]
    for thread in threads:
        thread.start()
    try:
        new = tmp_path / "live"
        new.mkdir()
        seen = set()
        for turn in range(3):
            chain, key = self_signed(("localhost", "127.0.0.1"))
            (new / "fullchain.pem").write_bytes(chain)
            (new / "privkey.pem").write_bytes(key)
            environment = {**gateway.environment, "RENEWED_LINEAGE": str(new)}
            gateway.environment = environment
            done = gateway.coollm("tls", "renew", "--yes", "--json")
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["served"] is True
            seen.add(json.loads(gateway.coollm("tls", "status", "--json").stdout)["served_fingerprint"])
            assert len(seen) == turn + 1
    finally:
        time.sleep(0.3)
        stopped.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}
    assert len(statuses) > 50
    text = requests.get(f"{gateway.url}/metrics", timeout=10, verify=False).text
    ends = next(line for line in text.splitlines() if line.startswith("coo_llm_certificate_expiry_timestamp_seconds"))
    assert time.time() + 80 * 86400 < float(ends.split()[1]) < time.time() + 100 * 86400


def test_a_pair_that_does_not_fit_is_neither_written_nor_served(gateway: GatewayHandle, files: Path, tmp_path: Path) -> None:
    before = json.loads(gateway.coollm("tls", "status", "--json").stdout)
    assert before["faults"] == []
    (tmp_path / "fullchain.pem").write_bytes(self_signed(("localhost",))[0])
    (tmp_path / "privkey.pem").write_bytes(self_signed(("localhost",))[1])
    done = gateway.coollm("tls", "renew", "--from", str(tmp_path), "--yes")
    assert done.returncode == 1
    assert "the key is not this certificate's" in done.stderr
    (files / "cert.pem").write_bytes(self_signed(("localhost",))[0])  # somebody writes half of a pair by hand
    wait_for(lambda: any("cannot be served" in line["message"] for line in gateway.log()), 5)
    assert chat(gateway, requests) == 200
    status = gateway.coollm("tls", "status", "--json")
    assert status.returncode == 4
    assert json.loads(status.stdout)["served_fingerprint"] == before["fingerprint"]
    done = gateway.coollm("tls", "renew", "--self-signed", "--name", "localhost", "--yes")
    assert done.returncode == 0, done.stderr
    assert gateway.coollm("tls", "status").returncode == 0


def test_a_renewal_that_was_killed_is_finished_when_it_is_given_again(gateway: GatewayHandle, tmp_path: Path) -> None:
    for write in range(2, 10, 2):
        chain, key = self_signed(("localhost", "127.0.0.1"))
        (tmp_path / "fullchain.pem").write_bytes(chain)
        (tmp_path / "privkey.pem").write_bytes(key)
        environment = {**gateway.environment, "PYTHONPATH": str(KILL), "KILL_AT": str(write)}
        command = [sys.executable, "-m", "coollm_cli.main", "tls", "renew", "--from", str(tmp_path), "--yes"]
        done = subprocess.run(command, cwd=gateway.home, env=environment, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert chat(gateway, requests) == 200
        again = gateway.coollm("tls", "renew", "--from", str(tmp_path), "--yes")
        assert again.returncode == 0, again.stderr
        assert gateway.coollm("tls", "status").returncode == 0
        assert not any("PRIVATE KEY" in path.read_text("latin-1") for path in (gateway.home / "state").rglob("*") if path.is_file())
    assert write > 4


def test_old_versions_and_weak_ciphers_are_refused(gateway: GatewayHandle) -> None:
    for option in ("-tls1", "-tls1_1"):
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{gateway.port}", option, "-cipher", "DEFAULT@SECLEVEL=0"]
        assert subprocess.run(command, capture_output=True, input=b"", check=False, timeout=20).returncode != 0
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{gateway.port}", "-tls1_2", "-cipher", "AES128-SHA:AES256-SHA"]
    assert subprocess.run(command, capture_output=True, input=b"", check=False, timeout=20).returncode != 0


def test_certificates_of_clients(simulator: SimulatorHandle, tmp_path: Path, files: Path) -> None:
    chain, key = self_signed(("client",))
    (files / "client.pem").write_bytes(chain)
    (files / "client.key").write_bytes(key)
    more = {"client_ca_file": str(files / "client.pem"), "client_certificates": "optional"}
    running = started(simulator, tmp_path, files, more)
    gateway = next(running)
    assert chat(gateway, requests, cert=(str(files / "client.pem"), str(files / "client.key"))) == 200
    stranger = self_signed(("stranger",))
    (files / "stranger.pem").write_bytes(stranger[0] + stranger[1])
    with pytest.raises((requests.RequestException, ssl.SSLError)):
        chat(gateway, requests, cert=str(files / "stranger.pem"))
    assert chat(gateway, requests) == 200
    running.close()
