"""Restores in place: whole and in part, over files and over databases, taken back, and broken off at every write of the journal."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.backup.conftest import CLIENT, REQUESTS, Site
from tests.conftest import free_port, redis_server, running, wait_for

KILL = Path(__file__).parent.parent / "host" / "kill"


@contextmanager
def served(site: Site) -> Iterator[str]:
    """The address of a gateway of the site."""
    port = free_port()
    command = [sys.executable, "-m", "coollm_cli.main", "serve", "--listen", f"127.0.0.1:{port}", "--workers", "1"]
    with running(command, site.home / "words.txt", site.environment, site.home) as process:

        def is_up() -> bool:
            assert process.poll() is None, (site.home / "words.txt").read_text()
            try:
                return requests.get(f"http://127.0.0.1:{port}/ready", timeout=2).status_code == 200
            except requests.RequestException:
                return False

        wait_for(is_up, what="the gateway")
        yield f"http://127.0.0.1:{port}"


def status(url: str, key: str) -> int:
    body = {"model": "gpt-sim", "messages": [{"role": "user", "content": "x"}]}
    return requests.post(f"{url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {key}"}, timeout=20).status_code


def totals(site: Site) -> dict[str, Any]:
    return site.json("usage", "report")["total"]


def restore(site: Site, *arguments: str, **options: Any) -> Any:
    return site.json("backup", "restore", "--in-place", "--yes", "--identity", str(site.identity), *arguments, **options)


def lose(site: Site) -> None:
    """The host is gone, but for its name."""
    for path in (site.config, site.home / ".env"):
        path.unlink(missing_ok=True)
    backups = site.home / "elsewhere"
    shutil.move(site.state / "backups", backups)
    shutil.rmtree(site.state)


def test_a_host_that_is_lost_comes_back_whole(site: Site, stored_key: str) -> None:
    with served(site):
        wanted = totals(site)
    name = site.backup()
    lose(site)
    told = restore(site, "--target", str(site.home / "elsewhere"))
    assert (told["id"], told["part"]) == (name, None)
    assert told["requests"] >= REQUESTS
    with served(site) as url:
        assert status(url, CLIENT) == 200
        assert status(url, stored_key) == 200
        assert status(url, "another") == 401
        wait_for(lambda: totals(site)["requests"] == wanted["requests"] + 3, what="the ledger")
        assert totals(site)["cost_usd"] > wanted["cost_usd"] > 0
        assert site.json("usage", "verify")["ok"] is True
        assert site.json("budget", "verify")["ok"] is True
    history = site.json("config", "history")
    assert any(row["reason"] == "for the tests" for row in json_rows(history))
    assert site.coollm("audit", "verify").returncode == 0
    old = next((site.state / "logs").glob("audit-of-*"))
    assert (old / "logs" / "audit.log").stat().st_size > 0


def json_rows(told: Any) -> list[dict[str, Any]]:
    return told["generations"] if isinstance(told, dict) else told


def test_what_was_used_since_the_backup_is_not_lost(site: Site) -> None:
    """On the same host the usage log knows more than the backup's ledger."""
    site.backup()
    with served(site) as url:
        before = totals(site)["requests"]
        for _ in range(3):
            assert status(url, CLIENT) == 200
        wanted = wait_for(lambda: (found := totals(site))["requests"] == before + 3 and found, what="the ledger")
    restore(site)
    with served(site):
        wait_for(lambda: totals(site)["requests"] == wanted["requests"], what="the ledger")
        assert totals(site)["cost_usd"] == pytest.approx(wanted["cost_usd"])
        assert site.json("usage", "verify")["ok"] is True
        assert site.json("budget", "verify")["ok"] is True


def test_it_is_taken_back_whole(site: Site) -> None:
    site.backup()
    (site.state / "generations").rename(site.state / "generations-before")
    shutil.copytree(site.state / "generations-before", site.state / "generations")
    shutil.rmtree(site.state / "generations-before")
    with sqlite3.connect(site.state / "ledger.sqlite") as ledger:
        ledger.execute("UPDATE clients SET made_by = 'after the backup'")
    (site.state / "vendor-keys.json").write_text("{}")
    before = site.live()
    told = restore(site)
    assert Path(told["set_aside"]).is_dir()
    assert site.live() != before
    site.coollm("undo", "--yes")
    after = site.live()
    assert {name: data for name, data in after.items() if not name.endswith(".sqlite")} == {
        name: data for name, data in before.items() if not name.endswith(".sqlite")
    }
    with sqlite3.connect(site.state / "ledger.sqlite") as ledger:
        assert ledger.execute("SELECT made_by FROM clients").fetchone()[0] == "after the backup"


def test_one_of_an_earlier_time(site: Site) -> None:
    first = site.backup()
    shutil.rmtree(site.state / "generations")
    site.config.write_text(site.config.read_text() + "# later\n")
    import time

    time.sleep(1.1)
    second = site.backup()
    created = {row["id"]: row["created"] for row in site.json("backup", "list")["backups"]}
    assert restore(site, "--at", created[first])["id"] == first
    assert "# later" not in site.config.read_text()
    assert restore(site, "--at", created[second])["id"] == second
    assert "there is no full backup from before that time" in site.coollm("backup", "restore", "--at", "2020-01-01", code=1).stderr
    assert "--at yesterday" in site.coollm("backup", "restore", "--at", "yesterday", code=2).stderr


def test_only_the_clients_while_the_gateway_serves(site: Site, stored_key: str) -> None:
    name = site.backup()
    with served(site) as url:
        assert status(url, stored_key) == 200
        site.coollm("clients", "delete", "mobile", "--yes")
        site.coollm("clients", "create", "later", "--yes")
        wait_for(lambda: status(url, stored_key) == 401, what="the client to be gone")
        used = totals(site)["requests"]
        refused = site.coollm("backup", "restore", "--in-place", "--identity", str(site.identity), "--yes", code=1)
        assert "a gateway serves with this state" in refused.stderr
        told = restore(site, name, "--only", "clients")
        assert told["part"] == "clients"
        wait_for(lambda: status(url, stored_key) == 200, what="the client to be back")
        assert [row["id"] for row in site.json("clients", "list")["clients"] if row["id"] != "app"] == ["mobile"]
        assert totals(site)["requests"] >= used
        site.coollm("undo", "--yes")
        wait_for(lambda: status(url, stored_key) == 401, what="the client to be gone again")
        assert [row["id"] for row in site.json("clients", "list")["clients"] if row["id"] != "app"] == ["later"]


def test_only_the_clients_with_the_secret_that_their_keys_are_hashed_under(site: Site, stored_key: str) -> None:
    name = site.backup()
    refused = site.coollm("secrets", "delete", "client-keys", "--yes", code=1)
    assert "keys of clients and administrators" in refused.stderr
    told = json.loads((site.state / "secrets.json").read_text())
    del told["secrets"]["client-keys"]
    (site.state / "secrets.json").write_text(json.dumps(told))
    with served(site) as url:
        assert status(url, stored_key) == 401
        restore(site, name, "--only", "clients")
        wait_for(lambda: status(url, stored_key) == 200, what="the client")


def test_only_the_configuration_is_an_apply(site: Site) -> None:
    name = site.backup()
    wanted = site.config.read_text()
    (site.home / "other.yaml").write_text(wanted.replace("gpt-sim", "other-sim"))
    with served(site) as url:
        site.coollm("config", "apply", "other.yaml", "--yes")
        assert status(url, CLIENT) == 404
        told = restore(site, name, "--only", "config")
        assert told["generation"] > 1
        assert status(url, CLIENT) == 200
        assert site.config.read_text() == wanted
        site.coollm("undo", "--yes")
        assert status(url, CLIENT) == 404


def test_only_the_secrets(site: Site) -> None:
    name = site.backup()
    site.coollm("secrets", "set", "openai-1", "--yes", "--file", str(site.identity))
    site.coollm("secrets", "rotate-master", "--yes")
    changed = (site.state / "secrets.json").read_bytes()
    restore(site, name, "--only", "secrets")
    assert (site.state / "secrets.json").read_bytes() != changed
    with served(site) as url:
        assert status(url, CLIENT) == 200
    site.coollm("undo", "--yes")
    assert (site.state / "secrets.json").read_bytes() == changed
    with served(site) as url:
        assert status(url, CLIENT) == 200


def test_only_the_ledger_in_the_place_of_one_that_is_damaged(site: Site) -> None:
    name = site.backup()
    ledger = site.state / "ledger.sqlite"
    damaged = b"this is no database" * 1000
    ledger.write_bytes(damaged)
    for log in ("ledger.sqlite-wal", "ledger.sqlite-shm"):
        (site.state / log).unlink(missing_ok=True)
    before = {path: data for path, data in site.live().items() if "ledger" not in path}
    restore(site, name, "--only", "ledger")
    assert {path: data for path, data in site.live().items() if "ledger" not in path} == before
    site.coollm("undo", "--yes")
    assert ledger.read_bytes() == damaged, "undo puts back even that"
    restore(site, name, "--only", "ledger")
    with served(site) as url:
        assert status(url, CLIENT) == 200
        wait_for(lambda: totals(site)["requests"] > REQUESTS, what="the ledger")
        assert site.json("usage", "verify")["ok"] is True


def sql_of(site: Site, url: str) -> None:
    """The ledger of the site goes to a database, as it is."""
    told = yaml.safe_load(site.config.read_text())
    told["storage"] = {"ledger": {"url": url}}
    site.config.write_text(yaml.safe_dump(told))
    shutil.rmtree(site.state / "generations")
    (site.state / "ledger.sqlite").unlink()


@pytest.mark.parametrize("kind", ["postgresql", pytest.param("mysql", marks=pytest.mark.soak)])
def test_a_ledger_in_a_database(site: Site, stored_key: str, kind: str, request: pytest.FixtureRequest) -> None:
    """Rebuilt there from the usage logs, backed up by its tables, emptied, restored, and taken back."""
    from coollm.ledger.book import Ledger
    from coollm.ledger.copy import replace

    url = request.getfixturevalue(f"{kind}_url")
    source, target = Ledger(f"sqlite:///{site.state / 'ledger.sqlite'}"), Ledger(url)
    replace(source, target)
    source.close()
    sql_of(site, url)
    with served(site) as address:
        before = totals(site)["requests"]
        assert status(address, stored_key) == 200
        wanted = wait_for(lambda: (found := totals(site))["requests"] == before + 1 and found, what="the ledger")
        name = site.backup()
        site.coollm("clients", "delete", "mobile", "--yes")
    out = site.json("backup", "restore", name, "--identity", str(site.identity), "--into", "out")
    assert (site.home / "out" / "ledger" / "tables" / "usage.jsonl").exists()
    assert (site.home / "out" / "ledger" / "ledger.sqlite").exists(), "for whoever wants to look"
    assert out["rows"]["usage"] == wanted["requests"]
    assert site.json("backup", "drill", "--identity", str(site.identity))["ok"] is True
    target.clear()
    for log in (site.state / "logs").glob("usage.log*"):
        log.unlink()
    restore(site, name)
    with served(site) as address:
        assert status(address, stored_key) == 200
        wait_for(lambda: totals(site)["requests"] == wanted["requests"] + 1, what="the ledger")
        assert site.json("usage", "verify")["ok"] is True
    site.coollm("undo", "--yes")
    with served(site) as address:
        assert status(address, stored_key) == 401, "what was there before had no such client"
    target.close()


def test_counters_in_redis(site: Site, tmp_path: Path) -> None:
    port = free_port()
    told = yaml.safe_load(site.config.read_text())
    told["storage"] = {"runtime": {"type": "redis", "addr": f"127.0.0.1:{port}"}}
    site.config.write_text(yaml.safe_dump(told))
    shutil.rmtree(site.state / "generations")
    (site.state / "store.identity").unlink()
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with redis_server(tmp_path / "one", port):
        with served(site) as url:
            for _ in range(5):
                assert status(url, CLIENT) == 200
            used = budget(site)
        name = site.backup()
        manifest = site.json("backup", "restore", name, "--identity", str(site.identity), "--into", "out")
        assert manifest["ok"]
        lines = [json.loads(line) for line in (site.home / "out" / "store" / "redis.jsonl").read_text().splitlines()]
        assert {"hash", "string"} <= {line["type"] for line in lines}
        assert all(line["key"].startswith("{coollm}:") for line in lines)
        assert "Redis has counters of its own" in "".join(site.coollm("backup", "restore", "--in-place", "--yes", "--identity", str(site.identity)).stdout)
    with redis_server(tmp_path / "two", port):
        restore(site, name)
        with served(site):
            assert budget(site) == used > 0


def budget(site: Site) -> float:
    rows = site.json("budget", "list")["budgets"]
    return next(row["used_usd"] for row in rows if row["id"] == "app")


@pytest.mark.parametrize("when", [pytest.param("before", marks=pytest.mark.soak), "after"])
def test_killed_at_every_write_of_the_journal_it_is_finished_or_taken_back(site: Site, when: str) -> None:
    """Alternately by the same command, and by another."""
    name = site.backup()
    ledger = site.state / "ledger.sqlite"
    with sqlite3.connect(ledger) as opened:
        opened.execute("UPDATE clients SET made_by = 'after the backup'")
    arguments = ("backup", "restore", name, "--in-place", "--yes", "--identity", str(site.identity))
    killed = 0
    for at in range(1, 40):
        process = site.start(*arguments, PYTHONPATH=str(KILL), KILL_AT=str(at), KILL_WHEN=when)
        process.communicate(timeout=60)
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0
            break
        killed += 1
        if at % 2:
            site.coollm(*arguments)
            assert made_by(ledger) != "after the backup"
        else:
            site.coollm("backup", "create", "--only", "config", "--target", str(site.home / "other"))
        opens(site)
        with sqlite3.connect(ledger) as opened:
            opened.execute("UPDATE clients SET made_by = 'after the backup'")
    assert killed > 8
    with served(site) as url:
        assert status(url, CLIENT) == 200


def made_by(ledger: Path) -> str:
    with sqlite3.connect(ledger) as opened:
        return str(opened.execute("SELECT made_by FROM clients").fetchone()[0])


def opens(site: Site) -> None:
    """The configuration is valid with its secrets, and the databases are sound."""
    site.coollm("config", "validate")
    for file in ("ledger.sqlite", "runtime.sqlite"):
        with sqlite3.connect(site.state / file) as opened:
            assert opened.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    assert not list(site.state.rglob("*.restored"))


def test_the_scripts_of_the_guide_make_a_file_that_can_be_applied(site: Site) -> None:
    """curl of the admin API, gpg with a passphrase; the copy to a bucket is of any file."""
    told = yaml.safe_load(site.config.read_text())
    admin = f"admin-{uuid.uuid4()}"
    told["server"]["admin_api_key"] = admin
    site.config.write_text(yaml.safe_dump(told))
    shutil.rmtree(site.state / "generations")
    home = site.home / "gnupg"
    home.mkdir(mode=0o700)
    script = f"""set -e -o pipefail
DATE=$(date +%Y%m%d)
curl -sf -H "Authorization: Bearer ${{ADMIN_KEY}}" \\
  $GATEWAY/admin/v1/config > config-${{DATE}}.yaml
gpg --batch --pinentry-mode loopback --passphrase-file passphrase -c config-${{DATE}}.yaml
rm config-${{DATE}}.yaml
gpg --batch --pinentry-mode loopback --passphrase-file passphrase -d config-${{DATE}}.yaml.gpg > {site.home}/back.yaml
"""
    (site.home / "passphrase").write_text("correct horse battery staple\n")
    with served(site) as url:
        environment = {**site.environment, "GATEWAY": url, "ADMIN_KEY": admin, "GNUPGHOME": str(home)}
        done = subprocess.run(["bash", "-c", script], cwd=site.home, env=environment, capture_output=True, text=True, check=False)
        subprocess.run(["gpgconf", "--kill", "all"], env=environment, check=False)
        assert done.returncode == 0, done.stderr
        (site.home / "other.yaml").write_text(site.config.read_text().replace("gpt-sim", "other-sim"))
        site.coollm("config", "apply", "other.yaml", "--yes")
        assert status(url, CLIENT) == 404
        site.coollm("config", "apply", "back.yaml", "--yes")
        assert status(url, CLIENT) == 200
        assert admin not in (site.home / "back.yaml").read_text()
