"""Backups to a directory: what is in them, who can read them, and what is said where none can be made."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
import yaml
from coollm_cli.ops.backup.archive import Manifest
from coollm_cli.ops.lock import Lease

from tests.backup.conftest import CLIENT, REQUESTS, VENDOR, Site, as_root
from tests.conftest import free_port, running, wait_for


def restored(site: Site, name: str, into: str = "out") -> Path:
    site.coollm("backup", "restore", name, "--identity", str(site.identity), "--into", into)
    return site.home / into


def test_a_backup_has_all_that_a_gateway_needs_and_nobody_else_reads_it(site: Site) -> None:
    before = site.live()
    plan = site.coollm("backup", "create", "--dry-run")
    assert "pack and encrypt it" in plan.stdout
    assert not (site.state / "backups").exists()
    name = site.backup()
    archive = site.state / "backups" / f"{name}.tar.zst.age"
    assert archive.stat().st_mode & 0o777 == 0o600
    data = archive.read_bytes()
    assert not any(secret.encode() in data for secret in (CLIENT, VENDOR, "gpt-sim"))
    assert {path: content for path, content in site.live().items() if "backup-status" not in path} == before
    row = site.json("backup", "list")["backups"][0]
    assert (row["id"], row["whole"], row["size_bytes"], row["drilled"]) == (name, True, len(data), None)
    out = restored(site, name)
    found = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    wanted = {"config/config.yaml", "config/generations/current", "secrets/secrets.json", "secrets/master.key", "ledger/ledger.sqlite", "ledger/logs/usage.log"}
    assert wanted | {"store/runtime.sqlite", "audit/logs/audit.log", "audit/gateway/audit-key.pub"} <= found
    assert not any(path.endswith("audit-key") for path in found), "a key that signs stays on its host"
    assert (out / "secrets" / "master.key").stat().st_mode & 0o777 == 0o600
    told = site.json("backup", "restore", name, "--identity", str(site.identity), "--into", "again")
    lines = (site.state / "logs" / "usage.log").read_text().splitlines()
    assert told["rows"]["usage"] == len({json.loads(line)["request_id"] for line in lines}) >= REQUESTS
    assert told["rows"]["clients"] == 1
    assert not (site.state / "admin" / "backup-work").exists() or not list((site.state / "admin" / "backup-work").iterdir())


def test_only_the_configuration(site: Site) -> None:
    name = site.backup("--only", "config")
    out = restored(site, name)
    assert {path.name for path in out.iterdir()} == {"config", "secrets"}
    refused = site.coollm("backup", "restore", name, "--only", "ledger", "--identity", str(site.identity), "--into", "no", code=2)
    assert "configuration and secrets alone" in refused.stderr
    done = site.coollm("backup", "create", "--only", "config", "--quiet")
    assert done.stdout + done.stderr == "", "cron would mail it each day"


def test_for_ssh_keys_and_for_several(site: Site) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", site.home / "id"], check=True)
    public = " ".join((site.home / "id.pub").read_text().split()[:2])
    site.set(recipients=[public, site.recipient])
    name = site.backup()
    for identity in (site.home / "id", site.identity):
        assert site.json("backup", "verify", name, "--deep", "--identity", str(identity))["ok"] is True


def test_by_gpg(site: Site) -> None:
    home = site.home / "gnupg"
    home.mkdir(mode=0o700)
    site.environment["GNUPGHOME"] = str(home)
    make = ["gpg", "--batch", "--passphrase", "", "--quick-generate-key", "ops@example.com", "default", "default", "never"]
    subprocess.run(make, check=True, env=site.environment, capture_output=True)
    try:
        site.set(recipients=["gpg:nobody@example.com"])
        refused = site.coollm("backup", "create", code=1)
        assert "nobody@example.com" in refused.stderr
        site.set(recipients=["gpg:ops@example.com"])
        name = site.backup()
        assert (site.state / "backups" / f"{name}.tar.zst.gpg").exists()
        assert site.json("backup", "verify", name, "--deep")["ok"] is True
        assert restored_by_gpg(site, name)
        archive = site.state / "backups" / f"{name}.tar.zst.gpg"
        data = bytearray(archive.read_bytes())
        data[len(data) // 2] ^= 1
        archive.write_bytes(data)
        refused = site.coollm("backup", "restore", name, "--into", "never", code=4)
        assert "was changed" in refused.stderr
        assert not (site.home / "never").exists()
    finally:
        subprocess.run(["gpgconf", "--kill", "all"], env=site.environment, check=False)


def restored_by_gpg(site: Site, name: str) -> bool:
    site.coollm("backup", "restore", name, "--into", "by-gpg")
    return (site.home / "by-gpg" / "secrets" / "master.key").exists()


def test_what_cannot_be_backed_up_is_said(site: Site, tmp_path: Path) -> None:
    before = site.live()
    site.set(recipients=[])
    assert "recipients names nobody" in site.coollm("backup", "create", code=1).stderr
    site.set(recipients=["age1nonsense"])
    assert "backup.recipients" in site.coollm("backup", "create", code=3).stderr
    site.set(recipients=[site.identity.read_text().splitlines()[1]])
    refused = site.coollm("backup", "create", code=3)
    assert "this is a private key" in refused.stderr
    assert "AGE-SECRET" not in refused.stderr
    site.set(recipients=[site.recipient], target="ftp://somewhere")
    assert "backup.target" in site.coollm("backup", "create", code=3).stderr
    site.set(target=None)
    (site.state / "master.key").unlink()
    refused = site.coollm("backup", "create", code=None)
    assert refused.returncode in (1, 3)
    assert "master key" in refused.stderr
    assert site.coollm("backup", "list").stdout.startswith("no backup")
    after = {path: content for path, content in site.live().items() if path.endswith((".sqlite", "secrets.json"))}
    assert after == {path: content for path, content in before.items() if path in after}


@pytest.mark.skipif(not as_root(), reason="a small disk needs root to be mounted")
def test_a_full_disk_leaves_nothing_that_lists_as_a_backup(site: Site) -> None:
    small = site.home / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", small], check=True)
    try:
        refused = site.coollm("backup", "create", "--target", str(small), code=1)
        assert "No space left on device" in refused.stderr
        assert "make room" in refused.stderr
        assert list(small.iterdir()) == []
        assert site.json("backup", "list", "--target", str(small))["backups"] == []
    finally:
        subprocess.run(["umount", small], check=True)


@pytest.mark.skipif(not as_root(), reason="a disk needs root to be mounted")
def test_a_place_that_cannot_be_written(site: Site) -> None:
    closed = site.home / "closed"
    closed.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", closed], check=True)
    try:
        refused = site.coollm("backup", "create", "--target", str(closed), code=1)
        assert f"{closed} cannot be written: Read-only file system" in refused.stderr
        assert site.json("backup", "list", "--target", str(closed))["backups"] == []
    finally:
        subprocess.run(["umount", closed], check=True)
    (site.home / "file").write_text("")
    assert "Not a directory" in site.coollm("backup", "create", "--target", str(site.home / "file"), code=1).stderr


def test_a_clock_that_is_behind_is_noticed(site: Site) -> None:
    name = site.backup()
    future = name.replace(name[:8], "20991231")
    for file in (site.state / "backups").iterdir():
        shutil.copy(file, file.with_name(file.name.replace(name, future)))
    refused = site.coollm("backup", "create", code=1)
    assert "this host's clock says" in refused.stderr
    assert future in refused.stderr
    assert "clock is wrong" in site.coollm("backup", "prune", "--yes", code=1).stderr
    assert len(list((site.state / "backups").iterdir())) == 4


def test_a_key_that_is_lost_is_not_taken_for_damage(site: Site) -> None:
    name = site.backup()
    site.coollm("backup", "keygen", "other.key")
    for command in (("verify", "--deep"), ("restore", "--into", "no"), ("drill",)):
        refused = site.coollm("backup", *command[:1], name, *command[1:], "--identity", "other.key", code=1)
        assert "is not the key of a recipient" in refused.stderr
        assert site.recipient in refused.stderr
    assert "--identity" in site.coollm("backup", "restore", name, "--into", "no", code=2).stderr
    assert not (site.home / "no").exists()
    assert "is there already" in site.coollm("backup", "keygen", "other.key", code=2).stderr


def test_the_lock_is_respected(site: Site) -> None:
    with Lease(site.state / "admin", "coollm something else"):
        refused = site.coollm("backup", "create", code=6)
    assert "changes this host: `coollm something else`" in refused.stderr
    site.backup()


def test_the_drill_boots_a_gateway_and_proves_clients_of_both_kinds(site: Site) -> None:
    name = site.backup()
    told = site.json("backup", "drill", "--identity", str(site.identity))
    assert told["ok"] is True, told
    assert [one["name"] for one in told["checks"]] == ["archive", "databases", "configuration", "gateway"]
    assert "'app' of the configuration and 'mobile' of the ledger" in told["checks"][-1]["detail"]
    row = site.json("backup", "list")["backups"][0]
    assert row["drilled"]
    assert row["drill_fault"] is None
    status = site.json("status", code=5)
    assert status["backup"]["last_drill"]
    assert "last proven restore" in status["backup"]["summary"]
    entries = site.json("audit", "search", "--action", "backup-drill")["entries"]
    assert [one["state"] for one in entries] == ["begins", "done"]
    assert entries[-1]["backup"] == name
    assert not list((site.state / "drill").iterdir())
    found = site.coollm("doctor", "--json", code=None)  # what else is wrong with this machine is not of interest
    codes = {one["code"] for one in json.loads(found.stdout)["findings"]}
    assert not {"backup", "drill"} & codes


def test_a_drill_that_fails_says_so_everywhere(site: Site) -> None:
    """Its configuration needs a variable that the backup does not have."""
    told = yaml.safe_load(site.config.read_text())
    told["llm_providers"][0]["api_keys"] = ["${NOT_IN_THE_BACKUP}"]
    site.config.write_text(yaml.safe_dump(told))
    shutil.rmtree(site.state / "generations")
    site.environment["NOT_IN_THE_BACKUP"] = "sk-of-this-shell"
    site.backup()
    failed = site.json("backup", "drill", "--identity", str(site.identity), code=4)
    assert failed["ok"] is False
    assert "NOT_IN_THE_BACKUP" in failed["checks"][-1]["detail"]
    row = site.json("backup", "list")["backups"][0]
    assert "NOT_IN_THE_BACKUP" in row["drill_fault"]
    assert any("drill of a backup failed" in note for note in site.json("status", code=5)["notes"])
    findings = {one["code"]: one for one in site.json("doctor", code=4)["findings"]}
    assert "NOT_IN_THE_BACKUP" in findings["drill"]["what"]


def test_metrics_tell_of_backups_and_drills(site: Site) -> None:
    site.backup()
    site.coollm("backup", "drill", "--identity", str(site.identity), "--quiet")
    port = free_port()
    command = [sys.executable, "-m", "coollm_cli.main", "serve", "--listen", f"127.0.0.1:{port}", "--workers", "1"]
    with running(command, site.home / "words.txt", site.environment, site.home):
        text = wait_for(lambda: _metrics(port), what="the metrics")
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("coo_llm_backup"))
    now = time.time()
    assert now - 100 < float(values["coo_llm_backup_last_success_timestamp_seconds"]) <= now
    assert now - 100 < float(values["coo_llm_backup_last_drill_timestamp_seconds"]) <= now
    assert float(values["coo_llm_backup_last_drill_seconds"]) > 0


def _metrics(port: int) -> str | None:
    try:
        answer = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5)
    except requests.RequestException:
        return None
    return answer.text if answer.status_code == 200 else None


def test_the_recipe_works_without_coollm(site: Site) -> None:
    """Word for word, in a shell."""
    if shutil.which("age") is None or shutil.which("zstd") is None:
        pytest.skip("age and zstd are not installed: apt-get install age zstd")
    name = site.backup()
    lines = site.coollm("backup", "restore", "--print-recipe").stdout.splitlines()
    place = site.home / "by-hand"
    place.mkdir()
    shutil.copy(site.identity, place / "recovery.key")
    commands = [
        line.strip() for line in lines if line.startswith("   ") and not line.startswith(("   config/", "   secrets/", "   ledger/", "   store/", "   audit"))
    ]
    assert len(commands) == 4
    script = "set -e -o pipefail\n" + "\n".join(commands)
    done = subprocess.run(["bash", "-c", script], cwd=place, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "HOME": str(place)}, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{name}.tar.zst.age: OK" in done.stdout
    manifest = json.loads((place / "restored" / "manifest.json").read_text())
    assert Manifest.__struct_fields__[0] in manifest
    assert (place / "restored" / "ledger" / "ledger.sqlite").read_bytes().startswith(b"SQLite format 3")
    (place / "restored" / "secrets" / "secrets.json").write_text("{}")
    again = subprocess.run(["bash", "-c", commands[-1]], cwd=place, capture_output=True, text=True, check=False)
    assert again.returncode != 0, "the last line of the recipe finds what was changed"
