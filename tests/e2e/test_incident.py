"""A bundle for whoever looks into an incident: it has what is needed, and no secret of the host."""

from __future__ import annotations

import json
import tarfile
import threading
import time
from pathlib import Path

from tests.conftest import GatewayHandle, serve, wait_for

SECRETS = ("sk-canary-of-a-vendor", "canary-admin-key-0123456789", "client-key-of-the-incident", "canary-nobody-refers-to")
PARTS = {
    "status.json",
    "doctor.json",
    "health.json",
    "metrics.txt",
    "config.json",
    "processes.json",
    "system.json",
    "changes.json",
    "audit.jsonl",
    "app.log",
    "timeline.md",
}


def contents(bundle: Path) -> dict[str, str]:
    with tarfile.open(bundle) as tar:
        return {member.name.partition("/")[2]: tar.extractfile(member).read().decode() for member in tar}


def test_what_is_in_a_bundle_and_what_keeps_it_from_being_written(tmp_path: Path) -> None:
    provider = {"id": "openai", "type": "openai", "base_url": "simulator://", "api_keys": [SECRETS[0]], "models": ["gpt-sim", "gpt-sim~*"]}
    settings = {"llm_providers": [provider], "server": {"admin_api_key": SECRETS[1]}, "api_keys": [{"id": "app", "key": SECRETS[2]}]}
    with serve(tmp_path, settings, workers=1) as gateway:
        assert gateway.chat("gpt-sim").status_code == 200
        assert gateway.chat("gpt-sim~status=500").status_code >= 500
        assert gateway.coollm("clients", "create", "mobile", "--yes").returncode == 0
        assert gateway.coollm("secrets", "set", "unused", "--yes", stdin=f"{SECRETS[3]}\n").returncode == 0
        preview = gateway.coollm("incident", "collect", "--preview", "--json")
        assert preview.returncode == 0, preview.stderr
        assert set(json.loads(preview.stdout)["files"]) == PARTS
        assert not list(tmp_path.glob("coollm-incident-*"))
        wait_for(lambda: gateway.chat("gpt-sim").status_code == 200, what="the key that has just failed")
        slow = threading.Thread(target=gateway.chat, args=("gpt-sim~latency_ms=9000",))
        slow.start()
        time.sleep(1.2)
        done = gateway.coollm("incident", "collect", "--output", "bundle.tar.gz")
        assert done.returncode == 0, done.stderr
        slow.join()
        bundle = tmp_path / "bundle.tar.gz"
        assert bundle.stat().st_mode & 0o777 == 0o600
        found = contents(bundle)
        assert set(found) == PARTS
        assert "coo_llm_requests_total" in found["metrics.txt"]
        assert json.loads(found["health.json"])["status"]
        assert any(row["path"] == "server.listen" for row in json.loads(found["config.json"]))
        assert json.loads(found["processes.json"])[0]["descriptors"] > 0
        assert max(age for row in json.loads(found["processes.json"]) for age in row["ages_seconds"]) > 0.5, "a request was under way"
        assert any("clients create mobile" in row["command"] for row in json.loads(found["changes.json"]))
        assert "clients create mobile" in found["timeline.md"]
        assert '"message": "request"' in found["app.log"]
        whole = "".join(found.values())
        assert not any(secret in whole for secret in SECRETS)
        refuses_a_secret(gateway, tmp_path)
        assert json.loads(gateway.coollm("incident", "collect", "--preview", "--at", "2020-01-01", "--json").stdout)["files"]["app.log"] == 0
    gone = json.loads(gateway.coollm("incident", "collect", "--preview", "--json").stdout)
    assert (gone["level"], gone["why"]) == ("critical", "the gateway does not answer")
    assert gateway.coollm("incident", "collect", "--at", "yesterday").returncode == 2


def refuses_a_secret(gateway: GatewayHandle, home: Path) -> None:
    """Somebody has written a secret that no redactor knows into the log."""
    log = home / "state" / "logs" / "app.log"
    last = json.loads(log.read_text().splitlines()[-1])
    with log.open("a") as file:
        file.write(json.dumps({**last, "message": f"tried with {SECRETS[3]}"}) + "\n")
    refused = gateway.coollm("incident", "collect", "--output", "no.tar.gz")
    assert refused.returncode == 1
    assert "app.log: the secret 'unused'" in refused.stderr
    assert SECRETS[3] not in refused.stdout + refused.stderr
    assert not (home / "no.tar.gz").exists()
    assert gateway.coollm("incident", "collect", "--preview").returncode == 4
