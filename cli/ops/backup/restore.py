"""Finds the backup that is meant, and restores it to a directory, where nothing can happen. In place is in a file of its own."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from coollm_cli.ops import host
from coollm_cli.ops.backup.archive import Manifest
from coollm_cli.ops.backup.catalog import Found, choose, read_note
from coollm_cli.ops.backup.encryption import Identity
from coollm_cli.ops.backup.names import CONFIG, FULL
from coollm_cli.ops.backup.opening import check_databases, known_note, unpack
from coollm_cli.ops.backup.records import Records
from coollm_cli.ops.backup.target import Target, find_target
from coollm_cli.ops.lock import actor
from coollm_cli.ops.who import where_from

from coollm.core.config.load import load, load_in_force
from coollm.core.config.schema import Settings
from coollm.core.errors import CheckFailed, CoollmError, OperationFailed, UsageError
from coollm.core.files import sync_directory
from coollm.core.paths import admin_directory, make_private

CLIENTS, SECRETS, LEDGER = "clients", "secrets", "ledger"
OF_PART = {CONFIG: ("config",), CLIENTS: ("ledger", "secrets"), LEDGER: ("ledger",), SECRETS: ("secrets",)}


def settings_or_none(config: Path, state: Path) -> Settings | None:
    """What this host says of backups; None on one that has no configuration yet, or no valid one."""
    with contextlib.suppress(CoollmError, OSError):
        return load_in_force(config, state).settings
    return load(config).settings if config.exists() else None


def find(
    config: Path, state: Path, target: str | None, name: str | None, at: float | None, part: str | None, sha256: str | None = None
) -> tuple[Target, Found]:
    """The backup that is meant; with `sha256` only if its archive has that. Raises CoollmError."""
    settings = settings_or_none(config, state)
    place = find_target(settings.backup if settings else None, config, state, target)
    kinds = (FULL, CONFIG) if part in (CONFIG, SECRETS) else (FULL,)
    found = choose(place, name, at=at, kinds=kinds)
    if part in (CLIENTS, LEDGER) and found.name.kind != FULL:
        raise UsageError(f"{found.name.text} has configuration and secrets alone", "a full one: coollm backup list")
    if sha256 is not None and read_note(place, found.name.text).sha256 != sha256.lower():
        raise CheckFailed(f"{found.name.text} is not the archive with the SHA-256 {sha256[:12]}…: somebody else may have put it there", "coollm backup list")
    return place, found


def restore_into(config: Path, state: Path, target: Target, found: Found, identity: Identity, into: Path, part: str | None) -> Manifest:
    """Unpacks a backup to a directory that is not there yet. It is there when all of it holds, and not before. Raises CoollmError."""
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise UsageError(f"--into {into}: it is there already, and not empty", "name another directory")
    note = known_note(target, found.name.text, Records(admin_directory(config, state)))
    if config.exists():  # whoever reads a backup reads secrets
        host.host_of(config, state).audit.write(actor(), "backup-read", backup=note.name, into=str(into), **where_from())
    beside = into.with_name(f".{into.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        try:
            make_private(beside)
        except OSError as error:
            raise OperationFailed(f"{beside}: {error.strerror}", "name another directory: --into") from error
        manifest = unpack(target, note, identity, beside)
        check_databases(config, state, beside, manifest)
        if part is not None:
            for folder in beside.iterdir():
                if folder.name not in OF_PART[part]:
                    shutil.rmtree(folder)
        if into.exists():
            into.rmdir()
        beside.rename(into)
        sync_directory(into.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return manifest
