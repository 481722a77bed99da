"""audit.log: who changed what, one JSON line each, chained by hashes so that a line that is changed or taken out shows.

Each line has `hash`, the SHA-256 of the hash before it and of its own fields. The chain goes on over rotated files.
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

BEGINNING = "0" * 64
LOCK = ".audit.lock"
TAIL_BYTES = 1024 * 1024


class AuditLog:
    """The log at `path`. Its writers are several processes; a lock on a file beside it lets one write at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path

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
            os.write(descriptor, line.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
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


def is_intact(entry: dict[str, Any], before: str) -> bool:
    """Whether a line is as it was written, after the line whose hash is `before`."""
    fields = {name: value for name, value in entry.items() if name not in ("previous", "hash")}
    return entry.get("previous") == before and entry.get("hash") == _hash(before, fields)


def _hash(before: str, fields: dict[str, Any]) -> str:
    return hashlib.sha256(before.encode() + json.dumps(fields, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
