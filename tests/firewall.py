"""nginx with ModSecurity and the OWASP core rule set before a gateway, by the file that coollm writes."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import requests
import yaml

from tests.conftest import GatewayHandle, clean_environment, coollm, free_port, running, wait_for

PARAMETERS = ["direct", "behind the firewall"]


@contextlib.contextmanager
def nginx(home: Path, gateways: Sequence[GatewayHandle], *options: str) -> Iterator[str]:
    """Its URL."""
    port = free_port()
    home.mkdir(exist_ok=True)
    hosts = [{"name": f"gw{number}", "http": f"127.0.0.1:{one.port}"} for number, one in enumerate(gateways, 1)]
    (home / "fleet.yaml").write_text(yaml.safe_dump({"fleet": {"hosts": hosts}}))
    words = ["lb", "render", "--kind", "nginx", "--bind", f"127.0.0.1:{port}", "--user", "none", "--out", "nginx.conf", *options]
    written = coollm(*words, cwd=home, environment=clean_environment(HOME=str(home)))
    assert written.returncode == 0, written.stderr
    command = ["nginx", "-c", str(home / "nginx.conf"), "-e", str(home / "errors.txt"), "-g", f"daemon off; pid {home}/pid;"]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "[warn]" not in checked.stderr, checked.stderr
    scheme = "https" if "--certificate" in options else "http"
    with running(command, home / "words.txt", clean_environment()):
        wait_for(lambda: _answers(f"{scheme}://127.0.0.1:{port}/health"), what="nginx")
        yield f"{scheme}://127.0.0.1:{port}"


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2, verify=False).status_code == 200
    except requests.ConnectionError:
        return False


@contextlib.contextmanager
def reached(how: str, home: Path, gateway: GatewayHandle) -> Iterator[GatewayHandle]:
    """The gateway as its clients reach it, one of PARAMETERS."""
    if how == "direct":
        yield gateway
        return
    with nginx(home / "front", [gateway], "--firewall") as url:
        gateway.url = url
        yield gateway
