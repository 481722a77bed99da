"""What is ordered in the web console is carried out by the host: as root, with who ordered it in the audit log, and nothing that is no order."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.host.conftest import CONFIG, Installed

pytestmark = pytest.mark.timeout(1200)

ON = CONFIG.replace("  drain_seconds: 30\n", "  drain_seconds: 30\n  webui: {enabled: true, local_only: true, admin_password: correct-horse-battery}\n")


def test_orders_of_the_console(installed: Installed) -> None:
    host = installed.host

    def state() -> str:
        return str(host.run("systemctl is-active coollm-orders.path", check=False).stdout.strip())

    def ask(path: str, body: dict[str, Any] | None = None) -> Any:
        sent = f"-H 'content-type: application/json' -d '{json.dumps(body)}'" if body is not None else ""
        return json.loads(host.run(f"curl -s --unix-socket /run/coollm/2/admin.sock {sent} http://localhost{path}").stdout)

    def carried_out(identity: str) -> dict[str, Any]:
        return until(lambda: next((one for one in ask("/admin/v1/orders")["done"] if one["id"] == identity), None))

    assert state() == "inactive"
    host.write("/srv/console.yaml", ON)
    installed.coollm("config", "apply", "/srv/console.yaml", "--yes")
    try:
        assert state() == "active"
        assert "coollm-orders.path is off" not in installed.coollm("doctor", check=False).stdout
        page = host.run("curl -s --unix-socket /run/coollm/1/admin.sock http://localhost/ui/sign-in").stdout
        assert "Sign in" in page
        signed = host.run(
            "curl -si --unix-socket /run/coollm/1/admin.sock -H 'origin: http://localhost' -d 'name=admin&password=correct-horse-battery' http://localhost/ui/sign-in"
        ).stdout
        assert "303" in signed.splitlines()[0]

        with installed.load(rate=50, connections=10, streams=4) as clients:
            restart = ask("/admin/v1/orders", {"action": "restart"})
            assert restart["command"] == "coollm restart --rolling --yes --quiet"
            ended = carried_out(restart["id"])
            assert ended["exit_code"] == 0, ended
        assert clients["failed"] == []
        told = installed.json("audit", "search", "--action", "restart")["entries"][-1]
        assert told["actor"].endswith("(console)")
        assert told["state"] == "done"

        drained = carried_out(ask("/admin/v1/orders", {"action": "drain", "instance": "1"})["id"])
        assert drained["exit_code"] == 0, drained
        assert any(one["draining"] for one in ask("/admin/v1/instances")["workers"] if one["instance"] == "1")
        opened = carried_out(ask("/admin/v1/orders", {"action": "undrain", "instance": "1"})["id"])
        assert opened["exit_code"] == 0, opened
        refused = carried_out(ask("/admin/v1/orders", {"action": "drain", "instance": "9"})["id"])
        assert refused["exit_code"] != 0
        assert refused["told"]

        host.run("setpriv --reuid=coollm --regid=coollm --clear-groups sh -c 'echo { > /var/lib/coollm/orders/junk.json'")
        until(lambda: host.run("ls /var/lib/coollm/orders/junk.json", check=False).returncode != 0)
        assert state() == "active"
    finally:
        host.write("/srv/before.yaml", CONFIG)
        installed.coollm("config", "apply", "/srv/before.yaml", "--yes", check=False)
    assert state() == "inactive"
    assert host.run("curl -s -o /dev/null -w '%{http_code}' --unix-socket /run/coollm/1/admin.sock http://localhost/ui/sign-in").stdout == "404"


def until(found: Callable[[], Any], seconds: float = 120) -> Any:
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if told := found():
            return told
        time.sleep(0.3)
    raise AssertionError(f"it did not come true within {seconds} s")
