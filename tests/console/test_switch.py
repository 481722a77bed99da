"""Switching the console on and off, and serving it on the local socket alone."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path

import pytest
import requests

from coollm.console.app import PAGES
from tests.conftest import GatewayHandle, SimulatorHandle, free_port, serve, simulated, wait_for
from tests.console.test_attacks import path_of
from tests.console.visitor import SERVER, Visitor


def test_where_it_is_off_there_is_nothing_of_it(simulator: SimulatorHandle, tmp_path: Path) -> None:
    off = {**SERVER, "webui": {**SERVER["webui"], "enabled": False}}
    with serve(tmp_path, {"llm_providers": simulated(simulator.url)[:1], "server": off}, workers=1) as gateway:

        def told(path: str, method: str = "GET") -> tuple[int, str, str]:
            reply = requests.request(method, gateway.url + path, timeout=10)
            return reply.status_code, reply.headers["content-type"], reply.json()["error"]["message"].replace(path, "X")

        nothing = told("/nothing-at-all")
        for page in PAGES:
            for method in page.methods:
                assert told(path_of(page), method) == (404, nothing[1], nothing[2].replace("GET", method)), path_of(page)
        assert told("/ui/static/x/console.css") == nothing
        assert told("/ui") == nothing

        on = (tmp_path / "coollm.yaml").read_text().replace("enabled: false", "enabled: true")
        (tmp_path / "on.yaml").write_text(on)
        assert gateway.coollm("config", "apply", "on.yaml", "--yes").returncode == 0
        assert Visitor(gateway).sign_in().status_code == 303, "without a restart"
        assert requests.get(f"{gateway.url}/uix", timeout=10).status_code == 404
        assert gateway.coollm("config", "rollback", "--yes").returncode == 0
        assert told("/ui/sign-in") == nothing


class Local(http.client.HTTPConnection):
    """A browser at the other end of `ssh -L`."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def ask(gateway: GatewayHandle, method: str, path: str, body: str = "", **headers: str) -> http.client.HTTPResponse:
    [sock] = gateway.run.glob("*/admin.sock")
    connection = Local(sock)
    connection.request(method, path, body, {"content-type": "application/x-www-form-urlencoded", "origin": "http://localhost", **headers})
    reply = connection.getresponse()
    reply.read()
    return reply


def test_on_the_local_socket_alone(simulator: SimulatorHandle, tmp_path: Path) -> None:
    near = {**SERVER, "webui": {**SERVER["webui"], "local_only": True}}
    with serve(tmp_path, {"llm_providers": simulated(simulator.url)[:1], "server": near}, workers=1) as gateway:
        assert requests.get(f"{gateway.url}/ui/sign-in", timeout=10).status_code == 404
        assert ask(gateway, "GET", "/ui/").status == 303, "who opens the socket may use the API, and still has to sign in to the console"
        signed = ask(gateway, "POST", "/ui/sign-in", "name=root&password=correct+horse+battery")
        assert signed.status == 303, signed.status
        cookie = (signed.getheader("set-cookie") or "").partition(";")[0]
        assert ask(gateway, "GET", "/ui/", cookie=cookie).status == 200


@pytest.mark.parametrize(("headers", "status"), [({}, 403), ({"x-forwarded-proto": "https"}, 303)])
def test_nobody_signs_in_over_a_network_in_clear(simulator: SimulatorHandle, tmp_path: Path, headers: dict[str, str], status: int) -> None:
    address = own_address()
    server = {**SERVER, "trusted_proxies": [address]}
    with serve(tmp_path, {"llm_providers": simulated(simulator.url)[:1], "server": server}, workers=1, host=address) as gateway:
        wait_for(lambda: requests.get(f"{gateway.url}/ready", timeout=5).status_code == 200)
        visitor = Visitor(gateway)
        visitor.session.headers.update(headers)
        reply = visitor.post("/ui/sign-in", {"name": "root", "password": "correct horse battery"})
        assert reply.status_code == status, reply.text
        if status == 403:
            assert "not encrypted" in visitor.wrong


def test_without_its_ledger_the_console_says_so(simulator: SimulatorHandle, tmp_path: Path) -> None:
    gone = {"ledger": {"url": f"postgresql+psycopg://nobody:secret-of-the-ledger@127.0.0.1:{free_port()}/nothing"}}
    with serve(tmp_path, {"llm_providers": simulated(simulator.url)[:1], "server": SERVER, "storage": gone}, workers=1) as gateway:
        visitor = Visitor(gateway)
        assert visitor.get("/ui/sign-in").status_code == 200
        reply = visitor.sign_in()
        assert reply.status_code == 503
        assert "The ledger does not answer" in visitor.wrong
        assert "secret-of-the-ledger" not in reply.text
        visitor.session.cookies.set("coollm_console", "a-token-of-before", path="/ui")
        assert visitor.get("/ui/").status_code == 503
        assert gateway.chat("gpt-sim").status_code == 200, "requests are served"


def own_address() -> str:
    """This machine's, which is no loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.fail("this machine has no address but loopback")
        return str(probe.getsockname()[0])
