"""What `doctor`, `status`, `top` and `logs` say of a host that is well, and of one that is not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.host.conftest import CONFIG, Installed

pytestmark = pytest.mark.timeout(1200)

# A host of the tests has no NTP, and shares kernel settings with this machine.
OF_THE_MACHINE = {"clock", "backlog", "local-ports", "log-rotation", "disk-space", "inodes"}


def codes(installed: Installed) -> set[str]:
    found: list[dict[str, Any]] = installed.json("doctor", check=False)["findings"]
    assert all(one["remedy"] and one["severity"] in ("high", "medium", "low") for one in found)
    return {one["code"] for one in found} - OF_THE_MACHINE


@contextmanager
def broken(installed: Installed, command: str, repair: str) -> Iterator[None]:
    installed.host.run(command)
    try:
        yield
    finally:
        installed.host.run(repair)


def test_a_host_that_is_well(installed: Installed) -> None:
    assert codes(installed) == {"secrets-in-clear"}, "the configuration of these tests has them"


@pytest.mark.parametrize(
    ("code", "command", "repair"),
    [
        ("unit-drift", "echo '# x' >>/etc/systemd/system/coollm.slice", "sed -i '$d' /etc/systemd/system/coollm.slice"),
        ("permissions", "chmod 644 /etc/coollm/environment", "chmod 600 /etc/coollm/environment"),
        ("config-drift", "echo '# x' >>/etc/coollm/config.yaml", "sed -i '$d' /etc/coollm/config.yaml"),
        ("config", "echo 'nonsense: 1' >>/etc/coollm/config.yaml", "sed -i '$d' /etc/coollm/config.yaml"),
        ("instance", "systemctl stop coollm-admin@2.socket; systemctl stop coollm@2", "systemctl start coollm-admin@2.socket coollm@2"),
    ],
)
def test_what_is_wrong_is_found(installed: Installed, code: str, command: str, repair: str) -> None:
    with broken(installed, command, repair):
        assert code in codes(installed)
        assert installed.coollm("doctor", check=False).returncode == 4
        assert installed.coollm("explain", code).stdout.startswith(f"{code}: ")
    assert code not in codes(installed)


def test_what_a_configuration_gets_wrong_is_found(installed: Installed) -> None:
    installed.host.run(
        "mkdir -p /srv/tls; cd /srv/tls; openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 5 -subj /CN=x 2>/dev/null; chmod 644 key.pem"
    )
    text = CONFIG.replace("  drain_seconds: 30\n", "  drain_seconds: 30\n  tls: {cert_file: /srv/tls/cert.pem, key_file: /srv/tls/key.pem}\n")
    text += "policy:\n  timeouts: {first_byte: 20m}\n"
    before = installed.host.run("cat /etc/coollm/config.yaml").stdout
    installed.host.write("/srv/wrong.yaml", text)
    installed.coollm("config", "apply", "/srv/wrong.yaml")
    try:
        assert {"certificate", "timeouts", "permissions"} <= codes(installed)
    finally:
        installed.host.write("/srv/right.yaml", before)
        installed.coollm("config", "apply", "/srv/right.yaml")
    assert codes(installed) == {"secrets-in-clear"}, "the configuration of these tests has them"


def test_top_and_logs(installed: Installed) -> None:
    with installed.load(rate=100, connections=10, streams=5, stream_seconds=3):
        lines = [json.loads(line) for line in installed.coollm("top", "--every", "1", "--times", "3", "--json").stdout.splitlines()]
        errors = installed.coollm("logs", "--level", "error")
        followed = installed.host.start("timeout 60 coollm logs -f -n 0 | head -n 100")
        out, _ = followed.communicate(timeout=90)
    assert len(lines) == 3
    rates = [sum(one["requests_per_second"] for one in line["instances"]) for line in lines]
    assert max(rates) > 20
    # They end all at once every three seconds, and each worker tells of its own once a second: then one may still count what another has already.
    assert 5 in [sum(one["streams"] for one in line["instances"]) for line in lines]
    assert all(one["p95_ms"] is None or one["p95_ms"] > 0 for one in lines[-1]["instances"])
    assert out.count("request_id=req_") > 50
    assert errors.returncode == 0
    request_id = out.partition("request_id=")[2].split()[0]
    assert request_id in installed.coollm("explain", request_id).stdout
