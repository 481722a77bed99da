"""Opens a backup: reads it from its place, compares it with its note, decrypts it, compares every file with the manifest, and lets databases be checked."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from coollm_cli import output
from coollm_cli.ops.backup import archive
from coollm_cli.ops.backup.archive import Manifest
from coollm_cli.ops.backup.catalog import Note, read_note
from coollm_cli.ops.backup.copies import ask
from coollm_cli.ops.backup.create import hash_stored, work_directory
from coollm_cli.ops.backup.encryption import Identity
from coollm_cli.ops.backup.records import Record, Records
from coollm_cli.ops.backup.target import Target

from coollm.core.errors import CheckFailed, OperationFailed
from coollm.core.paths import admin_directory, make_private

KEPT_WORK_SECONDS = 86400.0


def known_note(target: Target, name: str, records: Records) -> Note:
    """What a backup has to be, by its note and by what this host remembers of it. Raises CheckFailed where these differ."""
    note, known = read_note(target, name), records.get(name)
    if known.sha256 and (known.sha256, known.size_bytes) != (note.sha256, note.size_bytes):
        raise CheckFailed(f"{name}.json is not what this host has written: the backup was exchanged", "another one: coollm backup list")
    return note


def compare(target: Target, note: Note) -> None:
    """Reads an archive and compares it with its note. Raises CheckFailed."""
    with output.bar("reading", note.size_bytes) as step:
        size, digest = hash_stored(target, note.archive, step)
    if (size, digest) != (note.size_bytes, note.sha256):
        raise _other(note, size, digest)


def _other(note: Note, size: int, digest: str) -> CheckFailed:
    if size != note.size_bytes:
        return CheckFailed(f"{note.archive} has {size} bytes, of {note.size_bytes} that its note says", "another one: coollm backup list")
    return CheckFailed(f"{note.archive} was changed: its SHA-256 begins with {digest[:12]}, and its note says {note.sha256[:12]}", "coollm backup list")


def unpack(target: Target, note: Note, identity: Identity, into: Path) -> Manifest:
    """The files of a backup, under `into`. Raises CheckFailed, which says what is wrong; UsageError and OperationFailed where it cannot be opened."""
    with target.open(note.archive) as file, output.bar("opening", note.size_bytes) as step:
        hashed = archive.Stepped(file, step)
        try:
            manifest = archive.unpack(hashed, note.encryption, identity, note.recipients, into, lambda _: None)
        except CheckFailed as error:
            while hashed.read(archive.CHUNK):
                pass
            if (hashed.size, hashed.digest.hexdigest()) != (note.size_bytes, note.sha256):
                raise _other(note, hashed.size, hashed.digest.hexdigest()) from error
            raise CheckFailed(f"{note.name}: {error.message}", error.hint) from error
        except OSError as error:
            raise OperationFailed(f"{error.filename or into}: {error.strerror or error}", f"make room for {into}") from error
        while hashed.read(archive.CHUNK):
            pass
    if (hashed.size, hashed.digest.hexdigest()) != (note.size_bytes, note.sha256):
        raise _other(note, hashed.size, hashed.digest.hexdigest())
    if manifest.name != note.name:
        raise CheckFailed(f"{note.archive} holds another backup, {manifest.name}", "another one: coollm backup list")
    return manifest


def check_databases(config: Path, state: Path, tree: Path, manifest: Manifest) -> None:
    """Lets the databases of a tree be checked, and counts their rows. Afterwards there is ledger/ledger.sqlite, whatever the ledger was. Raises CheckFailed."""
    told = ask(config, state, "check", tree)
    for name, wanted in sorted(manifest.rows.items()):
        if told["rows"].get(name) != wanted:
            raise CheckFailed(f"{manifest.name}: the table {name} has {told['rows'].get(name, 0)} rows, of {wanted} that its manifest says")
    if told["keys"] != manifest.store_keys:
        raise CheckFailed(f"{manifest.name}: the copy of Redis has {told['keys']} keys, of {manifest.store_keys} that its manifest says")


@contextmanager
def workplace(base: Path, name: str) -> Iterator[Path]:
    """A directory under `base` for as long as the context lasts. What killed commands have left there is removed a day later."""
    make_private(base.parent)
    make_private(base)
    for old in base.iterdir():
        if time.time() - old.stat().st_mtime > KEPT_WORK_SECONDS:
            shutil.rmtree(old, ignore_errors=True)
    place = make_private(base / f"{name}-{os.getpid()}")
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def verify(config: Path, state: Path, target: Target, name: str, identity: Identity | None) -> tuple[Record, Manifest | None]:
    """Verifies one backup, with an identity down to the last file of it, and remembers what came of it. A fault is in the record; what keeps it from being
    looked at is raised: OperationFailed, Unreachable.
    """
    records = Records(admin_directory(config, state))
    manifest, fault = None, ""
    try:
        note = known_note(target, name, records)
        if identity is None:
            compare(target, note)
        else:
            with workplace(work_directory(config, state), name) as place:
                manifest = unpack(target, note, identity, place)
                check_databases(config, state, place, manifest)
    except CheckFailed as error:
        fault = error.message
    record = msgspec.structs.replace(records.get(name), verified=0.0 if fault else time.time(), verify_fault=fault)
    remember(records, name, record)
    return record, manifest


def remember(records: Records, name: str, record: Record) -> None:
    """Keeps what was found, where this user may."""
    try:
        records.put(name, record)
    except OperationFailed as error:
        output.warn(error.message)
