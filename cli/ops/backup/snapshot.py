"""The tree that becomes an archive: what a gateway needs to begin anew elsewhere, as it was at one moment.

config/   config.yaml, environment, generations/, units/, files/ (what the configuration refers to: certificates and the like)
secrets/  secrets.json, vendor-keys.json, master.key
state/    what the gateway remembers of limits and clients, and which store it used
ledger/   ledger.sqlite or tables/, logs/ (usage.log with what was rotated away from it)
store/    runtime.sqlite or redis.jsonl
audit/    logs/, and what its writers keep elsewhere
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coollm_cli.ops import tools, units
from coollm_cli.ops.backup.copies import ask
from coollm_cli.ops.backup.names import FULL

from coollm.core.audit import BEGIN, HEAD, PUBLIC_KEY
from coollm.core.background import copy_file
from coollm.core.backup_status import FILE_NAME as STATUS
from coollm.core.config.generations import Generations
from coollm.core.config.load import LARGEST_FILE_BYTES, Loaded, load
from coollm.core.config.schema import Settings
from coollm.core.errors import ConfigurationError, OperationFailed
from coollm.core.master_key import CREDENTIAL, PASSPHRASE, MasterKeys, key_id, master_key_file
from coollm.core.paths import HASH_KEY, SECRETS, admin_directory, audit_log, environment_file, is_installed, log_directory
from coollm.core.secret_store import SecretStore
from coollm.core.vendor_keys import FILE_NAME as VENDOR_KEYS
from coollm.core.vendor_keys import read_vendor_keys

USAGE_LOG = "usage.log"
REMEMBERED = ("limits.json", "access.json", "store.identity", STATUS)
OF_AUDIT = (HEAD, PUBLIC_KEY, BEGIN)


class Snapshot:
    """What is copied to `tree`. `origins` tells of each file where it was; `told` is what the databases came to."""

    def __init__(self, tree: Path, config: Path, state: Path) -> None:
        self.tree = tree
        self.config = config
        self.state = state
        self.origins: dict[str, str] = {}
        self.told: dict[str, Any] = {"ledger": None, "store": "", "keys": 0, "rows": {}}
        self.keys: dict[str, Any] = {}
        self.generation = 0

    def take(self, kind: str) -> None:
        """Copies everything of a kind of backup. Raises CoollmError and OSError."""
        loaded = self._configuration()
        self._secrets(loaded.settings)
        if kind == FULL:
            # The ledger before the logs: what it has is in them, too, and what it has not got yet is read from them.
            (self.tree / "ledger").mkdir(parents=True, exist_ok=True)
            self.told.update(ask(self.config, self.state, "save", self.tree))
            self.told["rows"] = ask(self.config, self.state, "rows", self.tree)["rows"]
            self._databases_origins(loaded.settings)
            for name in REMEMBERED:
                self._copy(self.state / name, f"state/{name}")
            self._logs(loaded.settings)

    def _configuration(self) -> Loaded:
        effective = Generations(self.config, self.state).effective()
        loaded = load(self.config, content=effective.file if effective else None, state=self.state)
        if loaded.settings is None:
            raise ConfigurationError(loaded.faults)
        self.generation = effective.number if effective else 0
        self._copy(self.config, "config/config.yaml")
        self._copy(environment_file(self.config), "config/environment")
        generations = Generations(self.config, self.state).directory
        for file in sorted(generations.rglob("*")) if generations.is_dir() else ():
            if file.is_file() and not any(part.startswith(".") for part in file.relative_to(generations).parts):
                self._copy(file, f"config/generations/{file.relative_to(generations)}")
        for file in _referred(loaded, self.config):
            self._copy(file, f"config/files/{str(file.resolve()).lstrip('/')}", origin=str(file))
        if is_installed(self.config):
            for file in _units():
                self._copy(file, f"config/units/{file.relative_to(units.UNITS)}")
        return loaded

    def _secrets(self, settings: Settings | None) -> None:
        self._copy(self.state / SECRETS, f"secrets/{SECRETS}")
        self._copy(self.state / VENDOR_KEYS, f"secrets/{VENDOR_KEYS}")
        copied = self.tree / "secrets" / "master.key"
        text = _master_key(self.config, self.state)
        if text is not None:
            copied.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            copied.write_text(text, "ascii")
            copied.chmod(0o600)
            self.origins["secrets/master.key"] = str(master_key_file(self.config, self.state))
        store = SecretStore(self.tree / "secrets", MasterKeys(copied))
        sealed = store.names()
        self.keys = {"secrets": sorted(sealed), "vendor": _vendor_keys(settings, self.state)}
        if not sealed:
            return
        if text is None:
            raise OperationFailed(
                f"there are secrets in {self.state / SECRETS}, and their master key cannot be read: such a backup could not be restored",
                f"put it at {master_key_file(self.config, self.state)}, or run this where systemd-creds can decrypt it",
            )
        if not text.startswith(PASSPHRASE):  # else nobody is here to type it
            store.check_all(store.master.current())
            self.keys["master"] = key_id(store.master.current())
            if HASH_KEY in sealed:
                self.keys["client_keys"] = key_id(bytes.fromhex(store.get(HASH_KEY)))

    def _databases_origins(self, settings: Settings | None) -> None:
        if settings is not None and (self.tree / "ledger" / "ledger.sqlite").exists():
            self.origins["ledger/ledger.sqlite"] = str(self.state / "ledger.sqlite")
        if (self.tree / "store" / "runtime.sqlite").exists():
            self.origins["store/runtime.sqlite"] = str(self.state / "runtime.sqlite")

    def _logs(self, settings: Settings | None) -> None:
        logs = log_directory(self.config, self.state)
        for file in _with_rotated(logs / USAGE_LOG):
            self._copy(file, f"ledger/logs/{file.name}", is_growing=True)
        audit = audit_log(logs, settings.logging.audit.path if settings else None)
        for file in _with_rotated(audit):
            self._copy(file, f"audit/logs/{file.name}", is_growing=True)
        for writer, directory in (("gateway", self.state), ("command", admin_directory(self.config, self.state))):
            for name in OF_AUDIT:
                self._copy(directory / name, f"audit/{writer}/{name}")

    def _copy(self, source: Path, name: str, *, origin: str | None = None, is_growing: bool = False) -> None:
        """Copies a file that is there. Of one that grows, the lines that are whole."""
        target = self.tree / name
        try:
            if not source.is_file():
                return
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            copy_file(source, target)
        except FileNotFoundError:
            return  # rotated away in this moment, and copied under its other name, or not needed
        if is_growing and target.suffix not in (".gz", ".zst", ".xz", ".bz2"):
            _cut_to_lines(target)
        self.origins[name] = origin or str(source)


def _cut_to_lines(file: Path) -> None:
    with file.open("r+b") as opened:
        end = opened.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - 65536)
            opened.seek(start)
            found = opened.read(end - start).rfind(b"\n")
            if found >= 0:
                opened.truncate(start + found + 1)
                return
            end = start
        opened.truncate(0)


def _with_rotated(path: Path) -> Iterator[Path]:
    """A log and what was rotated away from it; the newest first, so that one that is rotated meanwhile is copied twice and not never."""
    if path.exists():
        yield path
    yield from sorted(path.parent.glob(f"{path.name}?*"), key=lambda file: file.name)


def _referred(loaded: Loaded, config: Path) -> list[Path]:
    """Files that the configuration refers to: certificates, their keys, and values that are read from files."""
    settings = loaded.settings
    assert settings is not None  # noqa: S101  a snapshot is of a valid configuration alone
    tls = settings.server.tls
    named = [settings.storage.runtime.ca_file, settings.backup.s3.ca_file, settings.auth.ca_file if settings.auth else None]
    named += [tls.cert_file, tls.key_file, tls.client_ca_file] if tls else []
    named += [one.removeprefix("file:") for node in loaded.origins.values() for one in node.variables if one.startswith("file:")]
    found = []
    for name in named:
        path = config.parent / name if name else None
        if path is not None and path not in found and path.is_file() and path.stat().st_size <= LARGEST_FILE_BYTES:
            found.append(path)
    return found


def _units() -> Iterator[Path]:
    for entry in sorted(units.UNITS.glob("coollm*")):
        if entry.is_dir() and not entry.is_symlink():
            yield from sorted(file for file in entry.iterdir() if file.is_file())
        elif entry.is_file() and not entry.is_symlink():
            yield entry


def _master_key(config: Path, state: Path) -> str | None:
    """The text of the master key's file, wherever it is kept; None if it is nowhere that this user can read."""
    places = [master_key_file(config, state)]
    if is_installed(config):
        places.append(units.CREDENTIALS / CREDENTIAL)
    for place in places:
        with contextlib.suppress(FileNotFoundError):
            return place.read_text("ascii")
    sealed = units.CREDENTIALS / f"{CREDENTIAL}{units.ENCRYPTED}"
    if is_installed(config) and sealed.exists():
        # A credential that is encrypted for this machine opens on no other.
        done = subprocess.run(  # noqa: S603
            [tools.need("systemd-creds"), "decrypt", f"--name={CREDENTIAL}", str(sealed), "-"], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return done.stdout
    return None


def _vendor_keys(settings: Settings | None, state: Path) -> list[str]:
    configured = [f"{provider.id}/{key.fingerprint()}" for provider in settings.llm_providers for key in provider.api_keys] if settings else []
    return sorted({*configured, *(one.name for one in read_vendor_keys(state).keys)})
