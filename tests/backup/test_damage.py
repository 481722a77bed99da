"""Whatever is done to a backup is found, named, and keeps it from being restored, whole or in part."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pyrage
import pytest
import zstandard
from coollm_cli.ops.backup.catalog import Note, choose
from coollm_cli.ops.backup.encryption import read_identity
from coollm_cli.ops.backup.names import KINDS
from coollm_cli.ops.backup.opening import verify
from coollm_cli.ops.backup.restore import restore_into
from coollm_cli.ops.backup.target import DirectoryTarget

from coollm.core.errors import CheckFailed, CoollmError
from tests.backup.conftest import Site

SEED = 8
FLIPS = 60


class Kept:
    """A backup with its files as they were."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.name = site.backup()
        self.place = site.state / "backups"
        self.archive = self.place / f"{self.name}.tar.zst.age"
        self.note = self.place / f"{self.name}.json"
        self.files = {file: file.read_bytes() for file in (self.archive, self.note)}
        self.identity = read_identity(site.identity)

    def put_back(self) -> None:
        for file, content in self.files.items():
            file.write_bytes(content)

    def is_found(self) -> str:
        """What verify and restore say; both of them, and nothing is restored."""
        target = DirectoryTarget(self.place)
        said = []
        for keys in (None, self.identity):
            try:
                found = choose(target, self.name, kinds=KINDS)
                said.append(verify(self.site.config, self.site.state, target, found.name.text, keys)[0].verify_fault)
            except CheckFailed as error:
                said.append(error.message)
        into = self.site.home / "never"
        with pytest.raises(CheckFailed) as raised:
            restore_into(self.site.config, self.site.state, target, choose(target, self.name, kinds=KINDS), self.identity, into, None)
        said.append(raised.value.message)
        assert all(said), said
        assert not into.exists()
        assert not list(self.site.home.glob(".never*"))
        return said[-1]

    def is_found_deep(self) -> str:
        """With the key: without it, the archive is what its note says."""
        into, target = self.site.home / "never", DirectoryTarget(self.place)
        fault = verify(self.site.config, self.site.state, target, self.name, self.identity)[0].verify_fault
        with pytest.raises(CheckFailed) as raised:
            restore_into(self.site.config, self.site.state, target, choose(target, self.name, kinds=KINDS), self.identity, into, None)
        assert not into.exists()
        assert raised.value.message == fault
        return fault


@pytest.fixture
def kept(site: Site, monkeypatch: pytest.MonkeyPatch) -> Kept:
    for name, value in site.environment.items():
        if name.startswith("COOLLM_"):
            monkeypatch.setenv(name, value)
    return Kept(site)


def test_any_byte_that_is_flipped(kept: Kept) -> None:
    chance = random.Random(SEED)
    for file, content in kept.files.items():
        places = {0, len(content) - 1, *(chance.randrange(len(content)) for _ in range(FLIPS if file is kept.archive else FLIPS // 3))}
        for place in sorted(places):
            data = bytearray(content)
            data[place] ^= 1 << chance.randrange(8)
            file.write_bytes(data)
            if file is kept.note and json_of(bytes(data)) == json_of(content):
                continue  # between its words
            assert kept.name in kept.is_found() or "note" in kept.is_found(), place
        kept.put_back()
    assert verify(kept.site.config, kept.site.state, DirectoryTarget(kept.place), kept.name, kept.identity)[0].verify_fault == ""


def json_of(data: bytes) -> object:
    try:
        return json.loads(data)
    except ValueError:
        return data


def test_wherever_it_is_cut_off(kept: Kept) -> None:
    chance = random.Random(SEED)
    content = kept.files[kept.archive]
    for length in sorted({0, 1, len(content) - 1, *(chance.randrange(len(content)) for _ in range(30))}):
        kept.archive.write_bytes(content[:length])
        assert f"has {length} bytes, of {len(content)}" in kept.is_found()
    kept.archive.write_bytes(content + b"more")
    assert f"has {len(content) + 4} bytes" in kept.is_found()


def test_a_part_that_is_missing(kept: Kept) -> None:
    site = kept.site
    for file, lack in ((kept.note, "its note is missing"), (kept.archive, "its archive is missing")):
        file.unlink()
        row = site.json("backup", "list")["backups"][0]
        assert row["whole"] is False
        for command in (
            ("verify", kept.name),
            ("restore", kept.name, "--into", "no", "--identity", str(site.identity)),
            ("drill", kept.name, "--identity", str(site.identity)),
        ):
            refused = site.coollm("backup", *command, code=4)
            assert f"{kept.name} is not whole: {lack}" in refused.stderr
        assert "there is no full" in site.coollm("backup", "restore", "--into", "no", "--identity", str(site.identity), code=1).stderr
        kept.put_back()


Tamper = Callable[[dict[str, bytes]], None]


def flip_ledger(members: dict[str, bytes]) -> None:
    data = members["ledger/ledger.sqlite"]
    members["ledger/ledger.sqlite"] = data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]


def without_secrets(members: dict[str, bytes]) -> None:
    del members["secrets/secrets.json"]


def with_more(members: dict[str, bytes]) -> None:
    members["config/more.yaml"] = b"x"


def without_manifest(members: dict[str, bytes]) -> None:
    del members["manifest.json"]


def climbing(members: dict[str, bytes]) -> None:
    members["../outside"] = b"x"


def absolute(members: dict[str, bytes]) -> None:
    members["/tmp/coollm-outside"] = b"x"


def fewer_rows(members: dict[str, bytes]) -> None:
    told = json.loads(members["manifest.json"])
    told["rows"]["usage"] += 1
    members["manifest.json"] = json.dumps(told).encode()


def another(members: dict[str, bytes]) -> None:
    told = json.loads(members["manifest.json"])
    told["name"] = told["name"][:-6] + "000000"
    members["manifest.json"] = json.dumps(told).encode()


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (flip_ledger, "ledger/ledger.sqlite is not what its manifest says"),
        (without_secrets, "secrets/secrets.json is missing"),
        (with_more, "config/more.yaml is not in its manifest"),
        (without_manifest, "manifest.json is missing"),
        (climbing, "'../outside' does not belong into a backup"),
        (absolute, "'/tmp/coollm-outside' does not belong into a backup"),
        (fewer_rows, "the table usage has"),
        (another, "holds another backup"),
    ],
)
def test_one_that_was_made_anew_by_who_knows_the_public_key(kept: Kept, tamper: Tamper, words: str) -> None:
    """Everybody can encrypt for a public key: what is inside has to hold by itself, and what this host remembers tells that it was exchanged."""
    clear = pyrage.decrypt(kept.files[kept.archive], list(kept.identity.keys))
    with zstandard.ZstdDecompressor().stream_reader(clear) as packed, tarfile.open(fileobj=packed, mode="r|") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    tamper(members)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members.items():
            told = tarfile.TarInfo(name)
            told.size = len(data)
            tar.addfile(told, io.BytesIO(data))
    recipient = pyrage.x25519.Recipient.from_str(kept.site.recipient)
    made = pyrage.encrypt(zstandard.ZstdCompressor().compress(out.getvalue()), [recipient])
    kept.archive.write_bytes(made)
    note = json.loads(kept.files[kept.note])
    note = msgspec.convert({**note, "size_bytes": len(made), "sha256": hashlib.sha256(made).hexdigest()}, Note).checked()
    kept.note.write_bytes(msgspec.json.encode(note))
    assert "is not what this host has written" in kept.is_found()
    shutil.rmtree(kept.site.state / "admin")
    assert words in kept.is_found_deep()
    assert not (kept.site.home / "outside").exists()
    assert not Path("/tmp/coollm-outside").exists()


def test_in_place_nothing_is_touched_by_one_that_is_damaged(kept: Kept) -> None:
    site = kept.site
    before = site.live()
    data = bytearray(kept.files[kept.archive])
    data[len(data) // 2] ^= 1
    kept.archive.write_bytes(data)
    refused = site.coollm("backup", "restore", "--in-place", "--identity", str(site.identity), "--yes", code=4)
    assert "was changed" in refused.stderr
    assert site.live() == before
    assert not list((site.state / "admin").glob("restores/*"))


def test_a_ledger_that_is_damaged_is_not_backed_up_unseen(site: Site) -> None:
    ledger = site.state / "ledger.sqlite"
    data = bytearray(ledger.read_bytes())
    for place in range(8192, len(data), 4096):
        data[place : place + 64] = b"\xff" * 64
    ledger.write_bytes(data)
    refused = site.coollm("backup", "create", code=1)
    assert "ledger.sqlite" in refused.stderr
    assert "usage rebuild --from-logs" in refused.stderr
    assert site.json("backup", "list")["backups"] == []


def test_one_that_somebody_else_has_put_there(kept: Kept) -> None:
    """On a host that knows nothing of it, by the hash that was told when it was made."""
    told = json.loads(kept.files[kept.note])
    shutil.rmtree(kept.site.state / "admin")
    identity = ("--identity", str(kept.site.identity))
    refused = kept.site.coollm("backup", "restore", "--into", "no", "--sha256", "0" * 64, *identity, code=4)
    assert "somebody else may have put it there" in refused.stderr
    assert kept.site.coollm("backup", "restore", "--in-place", "--yes", "--sha256", "0" * 64, *identity, code=4)
    kept.site.coollm("backup", "restore", "--into", "yes", "--sha256", told["sha256"], *identity)
    note = msgspec.convert({**told, "archive": f"{kept.name}.tar.zst.age/../../../coollm.yaml"}, Note).checked()
    kept.note.write_bytes(msgspec.json.encode(note))
    assert "is of another backup" in kept.site.coollm("backup", "verify", kept.name, code=4).stdout


def test_errors_are_ours(kept: Kept) -> None:
    """An archive that is something else altogether."""
    for data in (b"", b"nonsense" * 1000, subprocess.run(["tar", "c", "/etc/hostname"], capture_output=True, check=True).stdout):
        kept.archive.write_bytes(data)
        with pytest.raises(CoollmError):
            restore_into(
                kept.site.config,
                kept.site.state,
                DirectoryTarget(kept.place),
                choose(DirectoryTarget(kept.place), kept.name, kinds=KINDS),
                kept.identity,
                kept.site.home / "no",
                None,
            )
