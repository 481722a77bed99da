"""What this host knows of backups: what those that it made have to be, and which were verified and drilled.

    ADMIN/backups.json  {"20261125T101500Z-full-gateway1-3fa9c2": {"size_bytes", "sha256", "verified", "drilled", …}}

A note beside an archive says the same, for hosts that know nothing; but who can change the archive there can change the note, too.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from coollm.core.errors import OperationFailed
from coollm.core.files import replace_file
from coollm.core.paths import make_private

FILE_NAME = "backups.json"
MOST = 2000


class Record(msgspec.Struct, frozen=True):
    """Of one backup. Times are of the epoch in seconds, 0 for never; `drill_fault` is "" where the last drill held."""

    sha256: str = ""
    size_bytes: int = 0
    target: str = ""
    verified: float = 0.0
    verify_fault: str = ""
    drilled: float = 0.0
    drill_fault: str = ""
    drill_seconds: float = 0.0


class Records:
    """The records of a host, in the command's own directory. `nothing` is that of a backup that is not known."""

    nothing = Record()

    def __init__(self, directory: Path) -> None:
        self._file = directory / FILE_NAME

    def all(self) -> dict[str, Record]:
        """By the names of the backups. Raises OperationFailed if the file makes no sense."""
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=dict[str, Record])
        except FileNotFoundError:
            return {}
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise OperationFailed(f"{self._file}: it is damaged", "remove it: backups can be verified and drilled anew") from error

    def get(self, name: str) -> Record:
        """Of one; nothing if it is not known."""
        return self.all().get(name, self.nothing)

    def put(self, name: str, record: Record) -> None:
        """Keeps it. Raises OperationFailed."""
        with self._changing() as kept:
            kept[name] = record
            for old in sorted(kept)[:-MOST]:
                del kept[old]

    def remove(self, name: str) -> None:
        """Forgets one. Raises OperationFailed."""
        with self._changing() as kept:
            kept.pop(name, None)

    def last_drilled(self) -> str | None:
        """The name of the backup whose restore was proven last."""
        proven = {name: record.drilled for name, record in self.all().items() if record.drilled and not record.drill_fault}
        return max(proven, key=lambda name: proven[name]) if proven else None

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Record]]:
        try:
            make_private(self._file.parent)
            descriptor = os.open(self._file.with_name(f".{FILE_NAME}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                kept = self.all()
                yield kept
                replace_file(self._file, msgspec.json.format(msgspec.json.encode(kept), indent=1))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise OperationFailed(f"{self._file}: cannot be written: {error.strerror}", "make room on its disk") from error
