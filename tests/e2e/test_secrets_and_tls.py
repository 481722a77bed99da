"""A canary in every configured key is nowhere to be read; and TLS."""

from __future__ import annotations

import json
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.conftest import GatewayHandle, SimulatorHandle, coollm, serve, wait_for

CANARIES = {
    "vendor_openai": "sk-canaryopenai-0123456789",
    "vendor_claude": "sk-ant-canaryclaude-0123456789",
    "vendor_gemini": "AIzacanarygemini-0123456789",
    "client": "canary-client-key-0123456789",
    "admin": "canary-admin-key-0123456789",
    "webui": "canary-webui-password-0123456789",
    "redis": "canary-redis-password-0123456789",
}


def configuration(simulator_url: str, runtime: dict[str, Any]) -> dict[str, Any]:
    rows = (("openai", "/v1", "gpt"), ("claude", "", "claude"), ("gemini", "/v1beta", "gemini"))
    return {
        "server": {"admin_api_key": CANARIES["admin"], "webui": {"admin_password": CANARIES["webui"]}},
        "llm_providers": [
            {
                "id": kind,
                "type": kind,
                "base_url": simulator_url + path,
                "api_keys": [CANARIES[f"vendor_{kind}"]],
                "model": f"{model}-sim",
                "models": [f"{model}-*"],
            }
            for kind, path, model in rows
        ],
        "api_keys": [{"id": "app", "key": CANARIES["client"]}],
        "storage": {"runtime": runtime},
        "logging": {"level": "debug"},
        "policy": {"retry": {"max_attempts": 1, "timeout": "1s"}, "timeouts": {"first_byte": "1s"}},
    }


def test_no_secret_is_to_be_read_anywhere(simulator: SimulatorHandle, tmp_path: Path) -> None:
    texts: dict[str, str] = {}
    with serve(tmp_path, configuration(simulator.url, {"type": "sqlite", "password": CANARIES["redis"]})) as gateway:
        for model in ("gpt-sim", "claude-sim", "gemini-sim"):
            for fault in ("", "~status=401", "~status=500", "~status=400", "~cut_after=2", "~malformed_after=1", "~latency_ms=3000"):
                for stream in (False, True):
                    reply = gateway.chat(model + fault, stream=stream)
                    texts[f"{model}{fault} {stream}"] = reply.text + str(reply.headers)
        for path in ("/health", "/ready", "/metrics", "/nowhere"):
            texts[path] = requests.get(gateway.url + path, timeout=5).text
        admin = {"authorization": f"Bearer {CANARIES['admin']}"}
        for path in ("/admin/v1/status", "/admin/v1/providers", "/admin/v1/health"):
            texts[path] = requests.get(gateway.url + path, headers=admin, timeout=5).text
        texts["half a key"] = gateway_reply(gateway, CANARIES["client"] + "x")
        for command in (
            ["config", "show"],
            ["config", "show", "--json"],
            ["config", "show", "--origin", "--json"],
            ["config", "explain", "llm_providers"],
            ["config", "validate", "--json"],
            ["providers", "--json"],
            ["providers", "test", "--json"],
            ["providers", "test", "--model", "gpt-sim~status=401"],
            ["status", "--json"],
            ["route", "explain", "--model", "gpt-sim", "--json"],
            ["chat", "--json", "-m", "claude-sim", "hi"],
        ):
            done = gateway.coollm(*command)
            texts[" ".join(command)] = done.stdout + done.stderr
        for pid in (gateway.process.pid, *gateway.workers()):
            texts[f"cmdline {pid}"] = Path(f"/proc/{pid}/cmdline").read_text()
            texts[f"environ {pid}"] = Path(f"/proc/{pid}/environ").read_text(errors="replace")
        for file in (*tmp_path.rglob("*"), *gateway.run.rglob("*")):
            if file.is_file() and file.name not in ("coollm.yaml", "config.yaml"):  # the configuration itself, and its generations
                texts[str(file)] = file.read_bytes().decode("latin-1")
    assert any("app.log" in name for name in texts)
    found = [(name, secret) for name, text in texts.items() for secret, value in CANARIES.items() if value in text]
    assert found == []


def gateway_reply(gateway: GatewayHandle, key: str) -> str:
    body = {"model": "gpt-sim", "messages": [{"role": "user", "content": "x"}]}
    return requests.post(f"{gateway.url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}, timeout=5).text


def test_no_prompt_is_logged(gateway: GatewayHandle) -> None:
    for model in ("gpt-sim", "gpt-sim~status=400", "gpt-sim~status=500"):
        reply = gateway.chat(model, "PROMPT-CANARY")
        gateway.logged(reply.headers["x-request-id"])
    assert "PROMPT-CANARY" not in (gateway.home / "state" / "logs" / "app.log").read_text() + gateway.words()


def test_a_store_that_fails_shows_no_password(simulator: SimulatorHandle, tmp_path: Path) -> None:
    runtime = {"type": "redis", "addr": "127.0.0.1:1", "password": CANARIES["redis"]}
    with serve(tmp_path, configuration(simulator.url, runtime)) as gateway:
        assert gateway.chat("gpt-sim").status_code == 503
        text = gateway.words() + (tmp_path / "state" / "logs" / "app.log").read_text()
    assert CANARIES["redis"] not in text


def test_a_faulty_configuration_shows_no_secret(tmp_path: Path) -> None:
    bad = configuration("nowhere", {"type": "sqlit", "password": CANARIES["redis"]})
    bad["api_keys"][0]["kee"] = CANARIES["client"]
    bad["server"]["admin_api_key"] = CANARIES["admin"] + " with a space"
    (tmp_path / "coollm.yaml").write_text(yaml.safe_dump(bad))
    done = coollm("config", "validate", cwd=tmp_path)
    as_json = coollm("config", "validate", "--json", cwd=tmp_path)
    assert done.returncode == 3
    assert len(json.loads(as_json.stdout)["errors"]) >= 5
    assert [value for value in CANARIES.values() if value in done.stderr + done.stdout + as_json.stdout] == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    home = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", str(home / "key.pem"), "-out", str(home / "cert.pem")], check=True, capture_output=True)
    return str(home / "cert.pem"), str(home / "key.pem")


def test_tls(simulator: SimulatorHandle, tmp_path: Path, certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = certificate
    settings = configuration(simulator.url, {"type": "sqlite"})
    settings["server"]["tls"] = {"cert_file": cert, "key_file": key, "min_version": "1.3"}
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", cert)
    with serve(tmp_path, settings) as gateway:
        assert gateway.chat("claude-sim").status_code == 200
        assert gateway.chat("claude-sim", stream=True).text.endswith("[DONE]\n\n")
        assert json.loads(gateway.coollm("status", "--json").stdout)["instances"], "the local socket needs no certificate"
        old = ssl.create_default_context(cafile=cert)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        import socket

        with pytest.raises(ssl.SSLError), socket.create_connection(("127.0.0.1", gateway.port), timeout=5) as plain:
            old.wrap_socket(plain, server_hostname="127.0.0.1").close()
        secure = ssl.create_default_context(cafile=cert)
        name = "claude-sim~latency_ms=20009"
        body = json.dumps({"model": name, "messages": [{"role": "user", "content": "x"}]}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.client_key}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
        connection = secure.wrap_socket(socket.create_connection(("127.0.0.1", gateway.port), timeout=5), server_hostname="127.0.0.1")
        connection.sendall(head + body)
        wait_for(lambda: simulator.last(name), 5)
        connection.close()
        row = wait_for(lambda: (found := simulator.last(name)) and found["ended"] and found, 5, "the vendor seeing the close")
        assert row["how"] == "client_closed"
