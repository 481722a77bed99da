"""The number of instances of a host follows its load, by a timer that the configuration switches on."""

from __future__ import annotations

import time

import pytest

from tests.host.conftest import CONFIG, Installed

pytestmark = pytest.mark.timeout(1200)

AUTOSCALE = "  autoscale: {enabled: true, min: 2, max: 3, cpu_percent: null, requests_per_second: 40, up_after: 0s, down_after: 1s, cooldown: 1s}\n"


def test_instances_follow_the_load(installed: Installed) -> None:
    host = installed.host
    idle = installed.json("scale", "--auto")
    assert idle["changed"] is False
    assert host.run("systemctl is-enabled coollm-autoscale.timer", check=False).stdout.strip() == "disabled"
    host.write("/srv/auto.yaml", CONFIG.replace("  drain_seconds: 30\n", "  drain_seconds: 30\n" + AUTOSCALE))
    installed.coollm("config", "apply", "/srv/auto.yaml", "--yes")
    try:
        assert host.run("systemctl is-enabled coollm-autoscale.timer").stdout.strip() == "enabled"
        host.run("systemctl stop coollm-autoscale.timer")  # from here on it is asked by hand
        with installed.load(rate=150, connections=20, streams=0) as clients:
            time.sleep(2)
            dry = installed.json("scale", "--auto", "--dry-run")
            assert (dry["wanted"], dry["changed"]) == (3, False)
            up = installed.json("scale", "--auto")
            assert (up["wanted"], up["changed"]) == (3, True)
            assert "of 40 each" in up["reason"]
            assert len(installed.json("status", check=False)["instances"]) == 3
            again = installed.json("scale", "--auto")
            assert (again["wanted"], again["changed"]) == (3, False)
            assert "server.autoscale.max is 3" in again["reason"]
        assert clients["failed"] == []
        installed.coollm("scale", "--auto")
        time.sleep(1)
        down = installed.json("scale", "--auto")
        assert (down["wanted"], down["changed"]) == (2, True), down
        entries = installed.json("audit", "search", "--action", "scale")["entries"]
        assert any("of 40 each" in str(one.get("reason")) for one in entries), "the audit log has why"
        for _ in range(2):  # it has to last for a second
            host.run("systemctl start coollm-autoscale.service")
        assert "server.autoscale.min is 2" in host.run("journalctl -u coollm-autoscale.service -o cat").stdout
    finally:
        host.write("/srv/before.yaml", CONFIG)
        installed.coollm("config", "apply", "/srv/before.yaml", "--yes", check=False)
        installed.coollm("scale", "2", "--yes", check=False)
    assert host.run("systemctl is-enabled coollm-autoscale.timer", check=False).stdout.strip() == "disabled"


def test_the_timers_of_maintenance(installed: Installed) -> None:
    listed = installed.host.run("systemctl list-timers --all --no-pager 'coollm-*'").stdout
    for period in ("daily", "weekly", "monthly"):
        assert f"coollm-maintenance-{period}.timer" in listed
    installed.host.run("systemctl start coollm-maintenance@daily.service", check=False, timeout=120)
    told = installed.host.run("systemctl show coollm-maintenance@daily.service -p ExecMainStatus").stdout
    assert told.strip() in ("ExecMainStatus=0", "ExecMainStatus=4"), "nothing to look at, or what there is"
