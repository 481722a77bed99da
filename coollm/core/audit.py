"""audit.log: who changed what, one JSON line each, chained by hashes so that a line that is changed, removed, inserted or put elsewhere shows.

Each line has `hash`, the SHA-256 of the hash before it and of its own fields. The chain goes on over rotated files. Two write it: the command, as root, and the
gateway, as its own user. Each keeps the last hash it wrote elsewhere, so that a tail that is cut off shows, too; and each signs the chain from time to time
(Ed25519, https://cryptography.io/en/latest/hazmat/primitives/asymmetric/ed25519/), so that whoever writes all of it anew shows, unless he has the key as well.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coollm.core.errors import OperationFailed
from coollm.core.files import replace_file

BEGINNING = "0" * 64
LOCK = ".audit.lock"
TAIL_BYTES = 64 * 1024

HEAD, KEY, PUBLIC_KEY, BEGIN = "audit-head", "audit-key", "audit-key.pub", "audit-begin"
CHECKPOINT = "checkpoint"

# After so many lines of its own, or so long, a writer signs the chain.
SIGN_EVERY = 100
SIGN_SECONDS = 86400.0


class AuditLog:
    """The log at `path`. `own` is the directory where this writer keeps the last hash and its key, `others` those of the other writers. A lock on a file beside
    the log lets one write at a time.
    """

    def __init__(self, path: Path, own: Path, *others: Path) -> None:
        self.path = path
        self._own = own
        self._all = (own, *others)

    def write(self, actor: str, action: str, **details: Any) -> str:
        """Appends a line and lets the disk have it. Returns its hash. Raises OperationFailed: what cannot be told of is not to be done."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            descriptor = self._open(self.path.parent / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                told = self._told(self._own) or {}
                count, signed = int(told.get("since", SIGN_EVERY)), float(told.get("signed", 0.0))
                if count >= SIGN_EVERY or time.time() - signed >= SIGN_SECONDS:
                    self._sign()
                    count, signed = 0, time.time()
                fields = {"time": datetime.now(UTC).isoformat(), "actor": actor, "host": platform.node(), "action": action, **details}
                return self._append(fields, count + 1, signed)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise OperationFailed(f"{self.path}: the audit log cannot be written: {error.strerror}", "make room on its disk") from error

    def _open(self, path: Path, flags: int, mode: int) -> int:
        """What root makes here is the gateway's, which writes it, too."""
        is_new = not path.exists()
        descriptor = os.open(path, flags, mode)
        if is_new and os.getuid() == 0:
            owner = self.path.parent.stat()
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
        return descriptor

    def _sign(self) -> None:
        """Signs the chain as it stands. Most commands write one line, and do not load what signs."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        path = self._own / KEY
        if not path.exists():
            key = Ed25519PrivateKey.generate()
            replace_file(self._own / PUBLIC_KEY, key.public_key().public_bytes_raw(), mode=0o644, like=self._own)
            replace_file(path, key.private_bytes_raw(), like=self._own)
        key = Ed25519PrivateKey.from_private_bytes(path.read_bytes())
        before = self._last_hash()
        fields = {
            "time": datetime.now(UTC).isoformat(),
            "actor": "audit",
            "host": platform.node(),
            "action": CHECKPOINT,
            "signed": before,
            "key": _fingerprint(key.public_key().public_bytes_raw()),
            "signature": key.sign(before.encode()).hex(),
        }
        self._append(fields, 0, time.time())

    def _append(self, fields: dict[str, Any], since: int, signed: float) -> str:
        before = self._last_hash()
        made = _hash(before, fields)
        line = json.dumps({**fields, "previous": before, "hash": made}, ensure_ascii=False) + "\n"
        descriptor = self._open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            written = os.write(descriptor, line.encode())
            if written < len(line.encode()):
                raise OSError(28, "No space left on device")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        told = {"hash": made, "time": fields["time"], "since": since, "signed": signed}
        replace_file(self._own / HEAD, json.dumps(told).encode(), like=self._own)
        return made

    def _last_hash(self) -> str:
        for file in reversed(self.files()):
            found = self._last_hash_of(file)
            if found is not None:
                return found
        return max(self.begins() - {BEGINNING}, default=BEGINNING)

    @staticmethod
    def _last_hash_of(file: Path) -> str | None:
        with file.open("rb") as opened:
            opened.seek(max(0, file.stat().st_size - TAIL_BYTES))
            lines = [line for line in opened.read().split(b"\n") if line.strip()]
        for line in reversed(lines):
            try:
                return str(json.loads(line)["hash"])
            except (ValueError, KeyError, TypeError):
                continue  # a line of which only a part went in
        return None

    def files(self) -> list[Path]:
        """The log and what was rotated away from it, the oldest first."""
        rotated = sorted(self.path.parent.glob(f"{self.path.name}?*"), key=lambda file: file.stat().st_mtime)
        return [*rotated, *([self.path] if self.path.exists() else [])]

    def entries(self) -> Iterator[tuple[Path, int, dict[str, Any] | None]]:
        """Every line with its file and number, the oldest first; None for one that makes no sense."""
        for file in self.files():
            for number, line in enumerate(file.read_bytes().splitlines(), 1):
                try:
                    found = json.loads(line)
                except ValueError:
                    found = None
                yield file, number, found if isinstance(found, dict) else None

    def forget(self, before: float) -> list[str]:
        """Removes rotated files whose last line is older than a time of the epoch, and remembers where the chain begins from now on. Returns their names.
        Raises OSError and OperationFailed.
        """
        old = []
        for file in self.files():
            if file == self.path or file.stat().st_mtime >= before:
                break  # the chain has to stay whole
            old.append(file)
        if not old:
            return []
        last = self._last_hash_of(old[-1])
        if last is None:
            return []
        replace_file(self._own / BEGIN, json.dumps({"hash": last}).encode(), like=self._own)
        for file in old:
            file.unlink()
        told = self._told(self._own)
        if told is not None:  # what is left is to be signed anew
            replace_file(self._own / HEAD, json.dumps({**told, "since": SIGN_EVERY}).encode(), like=self._own)
        self.write("audit", "audit-forgotten", files=[file.name for file in old], last=last)
        return [file.name for file in old]

    def begins(self) -> set[str]:
        """The hashes after which the chain may begin: its own beginning, and the end of what was forgotten."""
        found = {BEGINNING}
        for directory in self._all:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                found.add(str(json.loads((directory / BEGIN).read_text("utf-8"))["hash"]))
        return found

    def last_told(self) -> list[tuple[str, str]]:
        """The hash and the time of the last line that each writer wrote; those that this user may know."""
        return [(str(told["hash"]), str(told["time"])) for told in map(self._told, self._all) if told is not None]

    def public_keys(self) -> dict[str, bytes]:
        """The keys by which the writers' signatures are checked, by their fingerprints."""
        found = {}
        for directory in self._all:
            with contextlib.suppress(OSError):
                key = (directory / PUBLIC_KEY).read_bytes()
                found[_fingerprint(key)] = key
        return found

    @staticmethod
    def _told(directory: Path) -> dict[str, Any] | None:
        try:
            told = json.loads((directory / HEAD).read_text("utf-8"))
            return told if isinstance(told, dict) and {"hash", "time"} <= told.keys() else None
        except (OSError, ValueError):
            return None


def verify(log: AuditLog) -> tuple[int, list[str]]:
    """How many lines there are, and what is wrong with them, each by its file and line."""
    entries = list(log.entries())
    places: dict[str, str] = {}
    for file, number, entry in entries:
        if entry is not None:
            places.setdefault(str(entry.get("hash")), f"{file.name}:{number}")
    faults = []
    first = next((str(entry.get("previous")) for _, _, entry in entries if entry is not None), BEGINNING)
    before = first if first in log.begins() else BEGINNING
    seen: set[str] = set()
    keys = log.public_keys()
    for file, number, entry in entries:
        place = f"{file.name}:{number}"
        if entry is None:
            faults.append(f"{place}: this is no line of the audit log")
            continue
        own, previous = str(entry.get("hash")), str(entry.get("previous"))
        if own != _hash(previous, {name: value for name, value in entry.items() if name not in ("previous", "hash")}):
            faults.append(f"{place}: it was changed after it was written")
        elif own in seen:
            faults.append(f"{place}: it was inserted, a copy of {places[own]}")
            continue
        elif previous != before:
            where = (
                f"it belongs after {places[previous]}" if previous in places else "the line before it is gone" if previous != BEGINNING else "it is the first"
            )
            faults.append(f"{place}: it does not follow the line before it: {where}")
        elif entry.get("action") == CHECKPOINT and not _is_signed(entry, keys):
            faults.append(f"{place}: its signature is not of a key that is known here")
        seen.add(own)
        before = own
    for last, when in log.last_told():
        if last not in places:
            faults.append(f"{log.path.name}: its end is gone, with the line of {when}")
    if entries and keys and not any(entry and entry.get("action") == CHECKPOINT for _, _, entry in entries):
        faults.append(f"{log.path.name}: nothing in it is signed")
    return len(entries), faults


def _is_signed(entry: dict[str, Any], keys: dict[str, bytes]) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    key = keys.get(str(entry.get("key")))
    if key is None or entry.get("signed") != entry.get("previous"):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(bytes.fromhex(str(entry.get("signature"))), str(entry["signed"]).encode())
    except (InvalidSignature, ValueError):
        return False
    return True


def _fingerprint(public_key: bytes) -> str:
    return hashlib.sha256(public_key).hexdigest()[:16]


def _hash(before: str, fields: dict[str, Any]) -> str:
    return hashlib.sha256(before.encode() + json.dumps(fields, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
