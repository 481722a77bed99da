"""The life of keys on an installed host under load: secrets moved out of the configuration, every kind of key changed, and no request failed; and its firewall."""

from __future__ import annotations

import json
import time

import pytest

from tests.host.conftest import CONFIG, KEY, Installed

pytestmark = pytest.mark.timeout(1200)

CANARIES = ("sk-canary-vendor-one", "sk-canary-vendor-two", "sk-canary-vendor-new", "canary-admin-key-0123456789")
VENDOR = "127.0.0.1:3999"
ADDRESS = "http://127.0.0.1:2906"


def config() -> str:
    text = CONFIG.replace('"sk-one", "sk-two", "sk-three"', f'"{CANARIES[0]}", "{CANARIES[1]}"').replace("simulator://", f"http://{VENDOR}/v1")
    return text.replace("  workers: 1", f'  workers: 1\n  admin_api_key: "{CANARIES[3]}"')


def test_every_key_is_changed_under_load_and_none_is_to_be_read(installed: Installed) -> None:
    host = installed.host
    vendor = host.start(f"exec coollm simulate --listen {VENDOR}")
    try:
        change_every_key(installed)
    finally:
        vendor.kill()
        host.write("/srv/before.yaml", CONFIG)
        installed.coollm("config", "apply", "/srv/before.yaml", "--yes", check=False)


def change_every_key(installed: Installed) -> None:
    host = installed.host
    host.write("/srv/keys.yaml", config())
    with installed.load(rate=100, connections=20, streams=10, stream_seconds=5) as clients:
        installed.coollm("config", "apply", "/srv/keys.yaml", "--yes")
        assert host.run("stat -c '%a %U' /etc/coollm/master.key").stdout.split() == ["600", "coollm"]
        moved = installed.json("secrets", "import", "--yes")
        assert "openai-1" in moved["secrets"]
        installed.coollm("secrets", "rotate-master", "--yes")
        row = next(one for one in installed.json("keys", "list")["keys"] if one["state"] == "usable")
        rotate = f"coollm keys rotate openai {row['key']} --share 20% --soak 2s --quiet-for 1s --model gpt-sim --yes --json"
        told = json.loads(host.run(f"echo {CANARIES[2]} | {rotate}", timeout=120).stdout)
        assert told["canary"]["new"]["failures"] == 0
        assert told["retired"] == row["key"]
        client = installed.json("clients", "create", "mobile", "--yes")
        rotated = installed.json("clients", "rotate", "mobile", "--overlap", "1h", "--yes")
        admin = installed.json("admins", "create", "ann", "--role", "admin", "--yes")
        renewed = installed.json("admins", "rotate", "ann", "--overlap", "1h", "--yes")
        time.sleep(1)
        for key in (client["key"], rotated["key"]):
            assert host.run(f"curl -s -o /dev/null -w '%{{http_code}}' -H 'authorization: Bearer {key}' {ADDRESS}/v1/models").stdout == "200"
        for key in (admin["key"], renewed["key"], CANARIES[3]):
            assert host.run(f"curl -s -o /dev/null -w '%{{http_code}}' -H 'authorization: Bearer {key}' {ADDRESS}/admin/v1/status").stdout == "200"
        installed.coollm("clients", "revoke", "mobile", "--yes")
        time.sleep(1)
        assert host.run(f"curl -s -o /dev/null -w '%{{http_code}}' -H 'authorization: Bearer {rotated['key']}' {ADDRESS}/v1/models").stdout == "401"
    assert clients["failed"] == []
    assert clients["streams_cut"] == []
    assert clients["requests"] > 500

    words = "|".join((*CANARIES, KEY, client["key"], rotated["key"], admin["key"], renewed["key"]))
    host.run("rm /srv/keys.yaml")
    places = "/etc/coollm /var/lib/coollm /var/log/coo-llm /var/opt/coollm /run/coollm /etc/systemd/system"
    found = host.run(f"grep -rlaE '{words}' {places}", check=False).stdout
    assert found == ""
    processes = host.run(f"for p in $(pgrep -u coollm); do grep -aE '{words}' /proc/$p/environ /proc/$p/cmdline; done", check=False).stdout
    assert processes == ""
    journal = host.run(f"journalctl -o cat -u 'coollm@*' | grep -E '{words}'", check=False).stdout
    assert journal == ""

    assert installed.coollm("audit", "verify").returncode == 0
    entries = installed.json("audit", "search", "--action", "vendor-key")["entries"]
    assert entries[-1]["address"], "the session came over ssh"
    gateway_lines = installed.json("audit", "search", "--action", "admin_clients_create")["entries"]
    assert {"begins", "done"} <= {one["state"] for one in gateway_lines}
    for command in ("clients delete mobile --yes", "admins delete ann --yes"):
        host.run(f"coollm {command}")


def test_a_master_key_that_systemd_gives_is_changed_with_the_instances(installed: Installed) -> None:
    """It is root's alone: the instances have it from systemd, and the new one when they are restarted, one by one."""
    host, drop_in = installed.host, "/etc/systemd/system/coollm@.service.d/60-master-key.conf"
    host.run("chown root:root /etc/coollm/master.key && mkdir -p /etc/systemd/system/coollm@.service.d")
    host.write(drop_in, "[Service]\nLoadCredential=coollm-master-key:/etc/coollm/master.key\n")
    try:
        host.run("systemctl daemon-reload")
        installed.coollm("restart", "--rolling")
        before = host.run("sha256sum /etc/coollm/master.key").stdout
        with installed.load(rate=50, connections=10, streams=5, stream_seconds=2) as clients:
            told = installed.json("secrets", "rotate-master", "--yes")
        assert told["secrets"] >= 1
        assert clients["failed"] == []
        assert clients["streams_cut"] == []
        assert host.run("sha256sum /etc/coollm/master.key").stdout != before
        assert host.run("stat -c '%a %U' /etc/coollm/master.key").stdout.split() == ["600", "root"]
        # What is encrypted under the new one alone is read by instances that have just got it.
        made = installed.json("clients", "create", "after", "--yes")
        time.sleep(1)
        assert host.run(f"curl -s -o /dev/null -w '%{{http_code}}' -H 'authorization: Bearer {made['key']}' {ADDRESS}/v1/models").stdout == "200"
        installed.coollm("clients", "delete", "after", "--yes")
    finally:
        host.run(f"rm -f {drop_in}; chown coollm:coollm /etc/coollm/master.key; systemctl daemon-reload")
        installed.coollm("restart", "--rolling", check=False)


def test_the_firewall_takes_itself_back_unless_it_is_confirmed(installed: Installed) -> None:
    host = installed.host

    def is_open(port: int) -> bool:
        """From outside, over the bridge."""
        return host.network.reaches(host.address, port)

    sleeper = host.start("exec python3 -m http.server 8099 --bind 0.0.0.0")
    try:
        deadline = time.monotonic() + 20
        while not is_open(8099) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert is_open(8099)
        plan = installed.json("firewall", "plan")
        assert plan["changes"] is True
        assert "tcp dport 2906 accept" in plan["rules"]
        wrong = installed.coollm("firewall", "apply", "--ssh-port", "2222", "--yes", check=False)
        assert wrong.returncode == 7, wrong.stderr
        assert "ssh on port 2222 cannot be reached from outside" in wrong.stderr
        assert is_open(8099)
        told = installed.json("firewall", "apply", "--confirm-within", "30s", "--yes")
        assert told["ssh"] == [22]
        assert (is_open(8099), is_open(22), is_open(2906)) == (False, True, True)
        assert installed.coollm("firewall", "apply", "--yes").returncode == 0
        host.run("systemctl start coollm-firewall-revert.service")  # what its timer does when the time is over
        assert is_open(8099)
        host.run("systemctl stop coollm-firewall-revert.timer", check=False)
        installed.coollm("firewall", "apply", "--ssh-from", "0.0.0.0/0", "--yes")
        installed.coollm("firewall", "confirm")
        assert (is_open(8099), is_open(22), is_open(2906)) == (False, True, True)
        host.run("nft delete table inet coollm && systemctl restart coollm-firewall")
        assert not is_open(8099)
        assert "the firewall is gone" in installed.coollm("firewall", "off", "--yes").stdout
        assert is_open(8099)
        installed.coollm("firewall", "apply", "--backend", "ufw", "--confirm-within", "30s", "--yes")
        assert (is_open(8099), is_open(22), is_open(2906)) == (False, True, True)
        installed.coollm("firewall", "confirm")
        installed.coollm("firewall", "off", "--yes")
        assert is_open(8099)
    finally:
        sleeper.kill()
        installed.coollm("firewall", "off", "--yes", check=False)
