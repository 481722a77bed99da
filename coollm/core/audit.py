"""audit.log: who changed what, one JSON line each, chained by hashes so that a line that is changed, removed, inserted or put elsewhere shows.

Each line has `hash`, the SHA-256 of the hash before it and of its own fields. The chain goes on over rotated files. The last hash is kept elsewhere, so that
a tail that is cut off shows, too.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coollm.core.errors import OperationFailed
from coollm.core.files import replace_file

BEGINNING = "0" * 64
LOCK = ".audit.lock"
TAIL_BYTES = 1024 * 1024


class AuditLog:
    """The log at `path`; `head` is the file that has its last hash. Its writers are several processes; a lock on a file beside it lets one write at a time."""

    def __init__(self, path: Path, head: Path) -> None:
        self.path = path
        self.head = head

    def write(self, actor: str, action: str, **details: Any) -> str:
        """Appends a line and lets the disk have it. Returns its hash. Raises OperationFailed: what cannot be told of is not to be done."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            descriptor = os.open(self.path.parent / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                return self._append({"time": datetime.now(UTC).isoformat(), "actor": actor, "host": platform.node(), "action": action, **details})
            finally:
                os.close(descriptor)
        except OSError as error:
            raise OperationFailed(f"{self.path}: the audit log cannot be written: {error.strerror}", "make room on its disk") from error

    def _append(self, fields: dict[str, Any]) -> str:
        before = self._last_hash()
        made = _hash(before, fields)
        line = json.dumps({**fields, "previous": before, "hash": made}, ensure_ascii=False) + "\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            written = os.write(descriptor, line.encode())
            if written < len(line.encode()):
                raise OSError(28, "No space left on device")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        replace_file(self.head, json.dumps({"hash": made, "time": fields["time"]}).encode())
        return made

    def _last_hash(self) -> str:
        for file in reversed(self.files()):
            with file.open("rb") as opened:
                opened.seek(max(0, file.stat().st_size - TAIL_BYTES))
                lines = [line for line in opened.read().split(b"\n") if line.strip()]
            for line in reversed(lines):
                try:
                    return str(json.loads(line)["hash"])
                except (ValueError, KeyError, TypeError):
                    continue  # a line of which only a part went in
        return BEGINNING

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

    def last_told(self) -> tuple[str, str] | None:
        """The hash and the time of the last line that was written; None if none was, or this user may not know."""
        try:
            told = json.loads(self.head.read_text("utf-8"))
            return str(told["hash"]), str(told["time"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


def verify(log: AuditLog) -> tuple[int, list[str]]:
    """How many lines there are, and what is wrong with them, each by its file and line."""
    entries = list(log.entries())
    places: dict[str, str] = {}
    for file, number, entry in entries:
        if entry is not None:
            places.setdefault(str(entry.get("hash")), f"{file.name}:{number}")
    faults = []
    before = BEGINNING
    seen: set[str] = set()
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
        seen.add(own)
        before = own
    told = log.last_told()
    if told is not None and told[0] not in places:
        faults.append(f"{log.path.name}: its end is gone, with the line of {told[1]}")
    return len(entries), faults


def _hash(before: str, fields: dict[str, Any]) -> str:
    return hashlib.sha256(before.encode() + json.dumps(fields, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
