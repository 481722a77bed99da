"""Killed at any moment: never a backup that lists as good and does not restore, never a live state that is damaged."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import time

import pytest
import yaml
from coollm_cli.ops.backup.names import new_name

from tests.backup.conftest import Bucket, Site, in_bucket

SHORT, LONG = 4, 200
NOTHING = {"last": 1, "daily": 1, "weekly": 0, "monthly": 0, "yearly": 0}


def lasts(site: Site, *arguments: str) -> float:
    """How long a command takes that nobody kills."""
    began = time.monotonic()
    site.coollm(*arguments)
    return time.monotonic() - began


def killed(site: Site, chance: random.Random, seconds: float, *arguments: str) -> bool:
    """Runs a command that takes so long and kills it somewhere; whether it was still there."""
    process = site.start(*arguments)
    time.sleep(chance.uniform(0.1, seconds))
    was_there = process.poll() is None
    if was_there:
        os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    return was_there


def age(site: Site, bucket: Bucket | None) -> None:
    """A backup of long ago, for prune to remove."""
    old = new_name("full", time.time() - 86400 * 20)
    newest = next(row["id"] for row in site.json("backup", "list")["backups"] if row["whole"])
    if bucket is None:
        for file in (site.home / "place").glob(f"{newest}*"):
            (site.home / "place" / file.name.replace(newest, old)).write_bytes(file.read_bytes())
    else:
        for key in filter(lambda key: newest in key, bucket.keys()):
            data = bucket.client.get_object(Bucket="backups", Key=key)["Body"].read()
            bucket.client.put_object(Bucket="backups", Key=key.replace(newest, old), Body=data)


def holds(site: Site) -> int:
    """Every backup that lists as good restores; the state is sound. Returns how many backups those are."""
    identity = str(site.identity)
    told = site.json("backup", "list")["backups"]
    mine = [row for row in told if row["whole"] and int(row["id"][:8]) >= int(time.strftime("%Y%m%d", time.gmtime(time.time() - 86400)))]
    for row in mine:
        assert site.json("backup", "verify", row["id"], "--deep", "--identity", identity)["ok"] is True, row
    site.coollm("config", "validate")
    for name in ("ledger.sqlite", "runtime.sqlite"):
        with sqlite3.connect(site.state / name) as opened:
            assert opened.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    with sqlite3.connect(site.state / "ledger.sqlite") as opened:
        assert opened.execute("SELECT count(*) FROM clients").fetchone()[0] == 1
        assert opened.execute("SELECT count(*) FROM usage").fetchone()[0] >= 12
    assert yaml.safe_load(site.config.read_text())["api_keys"][0]["id"] == "app"
    return len(mine)


def go(site: Site, rounds: int, bucket: Bucket | None) -> None:
    chance = random.Random(rounds)
    site.set(keep=NOTHING)
    if bucket is None:
        site.set(target=str(site.home / "place"))
    else:
        in_bucket(site, bucket, part_mb=5)
    site.backup()
    identity = str(site.identity)
    commands = (
        ("backup", "create", "--json"),
        ("backup", "restore", "--in-place", "--yes", "--identity", identity),
        ("backup", "prune", "--yes"),
        ("backup", "restore", "--into", "out", "--identity", identity),
    )
    took: dict[tuple[str, ...], float] = {}
    hit = number = 0
    while hit < rounds:
        command = commands[number % len(commands)]
        number += 1
        if "prune" in command:
            age(site, bucket)
        if command not in took:
            took[command] = lasts(site, *command)
        else:
            hit += killed(site, chance, took[command], *command)
        if "out" in command:
            out = site.home / "out"
            assert not out.exists() or (out / "secrets" / "master.key").exists(), "there when all of it holds, and not before"
            shutil.rmtree(out, ignore_errors=True)
        assert holds(site) >= 1
        if number % 3 == 0:
            site.coollm("backup", "create", "--only", "config", "--quiet")  # something else, which settles what was broken off
            assert holds(site) >= 1
            site.coollm("backup", "prune", "--yes", "--quiet")
    final = site.backup()
    assert site.json("backup", "drill", final, "--identity", identity)["ok"] is True
    assert site.coollm("audit", "verify").returncode == 0


@pytest.mark.timeout(300)
def test_some_kills_of_backups_in_a_directory(site: Site) -> None:
    go(site, SHORT, None)


@pytest.mark.timeout(300)
def test_some_kills_of_backups_in_s3(site: Site, moto_bucket: Bucket) -> None:
    go(site, SHORT // 2, moto_bucket)


@pytest.mark.soak
@pytest.mark.timeout(5000)
def test_two_hundred_kills(site: Site, moto_bucket: Bucket) -> None:
    go(site, LONG // 2, None)
    go(site, LONG // 2, moto_bucket)
