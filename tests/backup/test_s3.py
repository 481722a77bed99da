"""Backups in stores with the API of S3, each of two that share nothing, over a network that does its worst."""

from __future__ import annotations

import json
import os
import random
import signal
import time

import pytest
from coollm_cli.ops.backup.s3 import S3Target

from coollm.core.config.backup import S3
from coollm.core.errors import CheckFailed, OperationFailed, Unreachable
from coollm.core.secrets import Secret
from tests.backup.conftest import S3_ID, S3_SECRET, Bucket, Site, in_bucket
from tests.backup.places import BUCKET

MEBIBYTE = 1024 * 1024


def fill(site: Site, megabytes: int) -> None:
    """A state that does not pack: what is uploaded has several parts."""
    (site.state / "logs" / "audit.log.9").write_bytes(random.Random(1).randbytes(megabytes * MEBIBYTE) + b"\n")


def test_the_whole_way(site: Site, bucket: Bucket) -> None:
    in_bucket(site, bucket)
    name = site.backup()
    assert bucket.keys() == [f"coo-llm/{name}.json", f"coo-llm/{name}.tar.zst.age"]
    row = site.json("backup", "list")["backups"][0]
    assert (row["id"], row["whole"]) == (name, True)
    assert row["verified"]
    assert site.json("backup", "verify")["ok"] is True
    assert site.json("backup", "verify", "--deep", "--identity", str(site.identity))["ok"] is True
    site.coollm("backup", "restore", "--identity", str(site.identity), "--into", "out")
    assert (site.home / "out" / "ledger" / "ledger.sqlite").exists()
    assert site.json("backup", "drill", "--identity", str(site.identity))["ok"] is True
    site.set(keep={"last": 1, "daily": 0, "weekly": 0, "monthly": 0})
    time.sleep(1)
    newer = site.backup()
    assert "all of them stay" in site.coollm("backup", "prune", "--yes").stdout, "the last that was proven stays"
    site.coollm("backup", "drill", "--identity", str(site.identity), "--quiet")
    assert site.json("backup", "prune", "--yes")["removed"] == [name]
    assert bucket.keys() == [f"coo-llm/{newer}.json", f"coo-llm/{newer}.tar.zst.age"]


def test_in_parts_and_over_a_network_that_fails(site: Site, bucket: Bucket) -> None:
    fill(site, 12)
    in_bucket(site, bucket, part_mb=5)
    bucket.network.fail_next, bucket.network.delay = 3, 0.02
    bucket.network.cut_next, bucket.network.cut_after = 2, 3 * MEBIBYTE
    name = site.backup()
    parts = [path for method, path in bucket.network.seen if method == "PUT" and "partNumber" in path]
    assert len(parts) >= 3
    assert bucket.network.cut_next == 0, "what is read back goes on where it broke off"
    bucket.network.fail_next, bucket.network.fail_with = 2, (503, "SlowDown")
    bucket.network.cut_next = 2
    site.coollm("backup", "restore", name, "--identity", str(site.identity), "--into", "out")
    assert (site.home / "out" / "audit" / "logs" / "audit.log.9").stat().st_size > 12 * MEBIBYTE


def test_a_store_that_gives_back_something_else(site: Site, bucket: Bucket) -> None:
    in_bucket(site, bucket)
    bucket.network.lie = True
    refused = site.coollm("backup", "create", code=4)
    assert "does not give back what was brought there" in refused.stderr
    assert bucket.keys() == []
    bucket.network.lie = False
    name = site.backup()
    bucket.network.lie = True
    for command in (("verify",), ("verify", "--deep", "--identity", str(site.identity))):
        told = site.json("backup", *command, code=4)
        assert "was changed" in told["backups"][0]["fault"]
    assert "was changed" in site.coollm("backup", "restore", name, "--identity", str(site.identity), "--into", "no", code=4).stderr
    assert not (site.home / "no").exists()
    assert "was changed" in site.json("backup", "list")["backups"][0]["verify_fault"]


def test_an_upload_that_is_killed_goes_on(site: Site, bucket: Bucket) -> None:
    """By the same command, without the parts that are there."""
    fill(site, 17)
    in_bucket(site, bucket, part_mb=5)
    bucket.network.delay = 0.4
    process = site.start("backup", "create", "--json")
    parts = 0
    while parts < 2:
        assert process.poll() is None, process.communicate()
        parts = sum("partNumber" in path for method, path in bucket.network.seen if method == "PUT")
        time.sleep(0.02)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    bucket.network.delay = 0
    assert site.json("backup", "list")["backups"] == []
    bucket.network.seen.clear()
    name = site.json("backup", "create")["id"]
    sent = [path for method, path in bucket.network.seen if method == "PUT" and "partNumber" in path]
    assert 1 <= len(sent) <= (3 if _knows_conditions(bucket) else 4), "of four parts; s3rver does not tell which it has"
    assert site.json("backup", "verify", name, "--deep", "--identity", str(site.identity))["ok"] is True


def test_an_upload_that_is_killed_is_forgotten_by_any_other_command(site: Site, moto_bucket: Bucket) -> None:
    fill(site, 12)
    in_bucket(site, moto_bucket, part_mb=5)
    moto_bucket.network.delay = 0.3
    process = site.start("backup", "create")
    while not any("partNumber" in path for _, path in moto_bucket.network.seen):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    moto_bucket.network.delay = 0
    assert moto_bucket.client.list_multipart_uploads(Bucket=BUCKET)["Uploads"]
    site.coollm("backup", "create", "--only", "config")
    assert "Uploads" not in moto_bucket.client.list_multipart_uploads(Bucket=BUCKET)
    assert [row["kind"] for row in site.json("backup", "list")["backups"]] == ["config"]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ((403, "AccessDenied"), "access is denied"),
        ((403, "RequestTimeTooSkewed"), "the clocks of this host and of the store differ"),
        ((404, "NoSuchBucket"), "there is no such bucket"),
        ((403, "InvalidAccessKeyId"), "the access key is not known"),
        ((500, "InternalError"), "InternalError"),
    ],
)
def test_what_a_store_refuses(site: Site, moto_bucket: Bucket, fault: tuple[int, str], words: str) -> None:
    in_bucket(site, moto_bucket)
    before = site.live()
    moto_bucket.network.fail_next, moto_bucket.network.fail_with = 10**6, fault
    commands = [("create",)] if fault[0] == 500 else [("create",), ("list",), ("verify",), ("prune", "--yes")]  # each is tried five times
    for command in commands:
        refused = site.coollm("backup", *command, code=5)
        assert words in refused.stderr
        assert f"s3://{BUCKET}/coo-llm" in refused.stderr
    assert site.live() == before
    assert moto_bucket.keys() == []


def test_a_store_that_is_not_there(site: Site) -> None:
    site.set(target="s3://backups", s3={"endpoint": "http://127.0.0.1:9", "region": "us-east-1"})
    assert "does not answer" in site.coollm("backup", "list", code=5).stderr


def test_a_key_that_is_not_known_is_said(site: Site, s3rver_port: int) -> None:
    site.set(
        target=f"s3://{BUCKET}",
        s3={"endpoint": f"http://127.0.0.1:{s3rver_port}", "region": "us-east-1", "access_key_id": "nobody", "secret_access_key": "wrong"},
    )
    refused = site.coollm("backup", "list", code=5)
    assert "the access key is not known there" in refused.stderr


def target_of(bucket: Bucket, **more: object) -> S3Target:
    settings = S3(
        endpoint=bucket.endpoint, region="us-east-1", access_key_id=Secret(S3_ID), secret_access_key=Secret(S3_SECRET), **{"checksums": "when_required", **more}
    )
    return S3Target(f"s3://{BUCKET}/p", settings)


def test_nothing_is_overwritten(moto_bucket: Bucket) -> None:
    """By a conditional write; s3rver does not know them, and there names that nobody guesses are all."""
    target = target_of(moto_bucket)
    target.put_text("a", b"first")
    with pytest.raises(OperationFailed, match="not overwritten"):
        target.put_text("a", b"second")
    assert target.open("a").read() == b"first"


def test_what_is_not_there(bucket: Bucket) -> None:
    with pytest.raises(CheckFailed, match="b is not in"):
        target_of(bucket).open("b")


def _knows_conditions(bucket: Bucket) -> bool:
    server = bucket.client.list_buckets()["ResponseMetadata"]["HTTPHeaders"].get("server", "")
    return "Werkzeug" in server or "moto" in server.lower()


def test_encryption_lock_and_checksums_are_asked_for(moto_bucket: Bucket) -> None:
    moto_bucket.client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    settings = S3(
        endpoint=moto_bucket.endpoint,
        region="us-east-1",
        access_key_id=Secret(S3_ID),
        secret_access_key=Secret(S3_SECRET),
        server_side_encryption="AES256",
        object_lock_days=30,
        checksums="when_supported",
    )
    target = S3Target("s3://locked", settings)
    target.put_text("a.json", b"{}")
    told = moto_bucket.client.head_object(Bucket="locked", Key="a.json", ChecksumMode="ENABLED")
    assert told["ServerSideEncryption"] == "AES256"
    assert told["ObjectLockMode"] == "GOVERNANCE"
    assert 29 * 86400 < told["ObjectLockRetainUntilDate"].timestamp() - time.time() < 31 * 86400
    assert told["ChecksumCRC32"]


def test_a_bandwidth_is_kept(moto_bucket: Bucket, tmp_path) -> None:
    """Not a matter of speed: of not being faster."""
    file = tmp_path / "a"
    file.write_bytes(random.Random(2).randbytes(6 * MEBIBYTE))
    target = target_of(moto_bucket, part_mb=5, bandwidth_mb_per_second=4.0)
    began = time.monotonic()
    target.put("a", file, {}, lambda: None, lambda _: None)
    assert time.monotonic() - began >= 6 * MEBIBYTE / 4_000_000 - 0.1
    assert target.open("a").read() == file.read_bytes()


def test_credentials_are_in_no_error(site: Site, moto_bucket: Bucket) -> None:
    site.environment["S3_SECRET"] = "canary-of-the-store"
    (site.home / ".env").write_text("S3_SECRET=canary-of-the-store\n")
    in_bucket(site, moto_bucket, access_key_id=S3_ID, secret_access_key="${S3_SECRET}")
    moto_bucket.network.fail_next, moto_bucket.network.fail_with = 100, (403, "AccessDenied")
    refused = site.coollm("backup", "create", code=5)
    assert "canary-of-the-store" not in refused.stdout + refused.stderr
    for file in (site.state / "admin").rglob("*"):
        assert not file.is_file() or b"canary-of-the-store" not in file.read_bytes()
    assert json.loads(site.coollm("config", "show", "--json").stdout)


def test_one_that_cannot_be_read_to_its_end(moto_bucket: Bucket, tmp_path) -> None:
    target = target_of(moto_bucket)
    file = tmp_path / "a"
    file.write_bytes(b"x" * 100_000)
    target.put("a", file, {}, lambda: None, lambda _: None)
    moto_bucket.network.cut_next = 100
    with pytest.raises(Unreachable, match="could not be read"):
        target.open("a").read()
