"""The regular tasks say nothing where there is nothing to say, and what to do where there is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.conftest import GatewayHandle, coollm, serve, wait_for


def told(gateway: GatewayHandle, period: str) -> dict[str, Any]:
    done = gateway.coollm("maintenance", period, "--json")
    assert done.returncode in (0, 4), done.stderr
    found = json.loads(done.stdout)
    assert (done.returncode == 0) is found["ok"]
    return found


def tasks(found: dict[str, Any]) -> set[str]:
    return {row["task"] for row in found["remarks"]}


def test_days_weeks_and_months(tmp_path: Path) -> None:
    provider = {"id": "openai", "type": "openai", "base_url": "simulator://", "api_keys": ["sk-one", "sk-two"], "models": ["gpt-sim", "gpt-sim~*"]}
    provider["pricing"] = {"input_token_cost": 1000.0, "output_token_cost": 1000.0}
    key = {"id": "app", "key": "client-key-of-the-maintenance", "limits": {"budget_usd": 1}}
    with serve(tmp_path, {"llm_providers": [provider], "api_keys": [key], "policy": {"retry": {"max_attempts": 1}}}, workers=1) as gateway:
        assert gateway.chat("gpt-sim", max_tokens=4).status_code == 200
        found = wait_for(lambda: (one := told(gateway, "daily"))["usage"]["requests"] == 1 and one, what="the ledger")
        assert not tasks(found) - {"doctor"}, "what is wrong with this machine is not the gateway's"
        for _ in range(25):
            assert gateway.chat("gpt-sim~status=400", max_tokens=4).status_code == 400
        for most in (100, 4):
            while gateway.chat("gpt-sim", max_tokens=most).status_code == 200:
                pass
        found = wait_for(lambda: {"errors", "budgets"} <= tasks(one := told(gateway, "daily")) and one, what="the remarks")
        assert any("requests to openai failed" in row["what"] for row in found["remarks"])
        assert any("client app are spent" in row["what"] for row in found["remarks"])
        weekly = told(gateway, "weekly")
        assert {"what": "no backup was ever made", "task": "backups", "remedy": "coollm backup create; coollm backup schedule"} in weekly["remarks"]
        assert "audit" not in tasks(weekly)
        log = tmp_path / "state" / "logs" / "audit.log"
        assert gateway.coollm("clients", "create", "mobile", "--yes").returncode == 0
        log.write_text(log.read_text().replace("clients create mobile", "clients create nobody"))
        monthly = told(gateway, "monthly")
        assert {"audit", "security"} <= tasks(monthly)
        assert gateway.coollm("maintenance", "monthly", "--quiet").stdout.startswith("task")
    gone = told(gateway, "daily")
    assert "health" in tasks(gone)
    assert gone["usage"] == {}


def test_a_month_has_a_backup_and_its_proof(tmp_path: Path) -> None:
    made = coollm("backup", "keygen", "drill.key", "--json", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    backup = {"recipients": [json.loads(made.stdout)["recipient"]], "target": str(tmp_path / "backups"), "drill_identity_file": str(tmp_path / "drill.key")}
    provider = {"id": "openai", "type": "openai", "base_url": "simulator://", "api_keys": ["sk-one"], "models": ["gpt-sim"]}
    with serve(tmp_path, {"llm_providers": [provider], "backup": backup}, workers=1) as gateway:
        assert gateway.chat("gpt-sim").status_code == 200
        assert "backups" in tasks(told(gateway, "weekly"))
        monthly = told(gateway, "monthly")
        assert "backup" not in tasks(monthly), monthly
        listed = json.loads(gateway.coollm("backup", "list", "--json").stdout)["backups"]
        assert len(listed) == 1
        assert listed[0]["drilled"]
        assert "backups" not in tasks(told(gateway, "weekly"))
        # The backup's place is gone: that is said, and everything else is done.
        (tmp_path / "backups").rename(tmp_path / "elsewhere")
        (tmp_path / "backups").write_text("no directory")
        failed = told(gateway, "monthly")
        assert "backup" in tasks(failed)
