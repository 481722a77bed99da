"""The usage log: one JSON line for each request, appended before anything else is told, so that a killed worker loses nothing.

Lines are one `write` to a file that is open for appending, which the kernel does not mix with another's. The disk has them within a second (fsync in a thread).

While the disk is full, lines wait in the worker's memory, and are written when there is room again: requests go on, and `/health` says so. When MOST_WAITING
lines wait in a worker it admits no more requests: what they cost could not be told.
"""

from __future__ import annotations

import errno
import gzip
import logging
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import gevent

from coollm.ledger.entry import Entry, read_line
from coollm.ledger.threads import in_thread

FSYNC_SECONDS = 1.0
READ_BYTES = 1024 * 1024
COMPRESSED = ".gz"
MOST_WAITING = 10_000

# How long a line may still go to a file that was rotated away. Who compresses it reads it later than that.
LOOK_SECONDS = 0.01

_log = logging.getLogger("coollm.ledger")


class UsageLog:
    """Appends to `path`. Who rotates it moves it away; the next line begins a new file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = self._open()
        self._identity = os.fstat(self._descriptor).st_ino
        self._is_dirty = False
        self._looked = 0.0
        self._waiting: deque[bytes] = deque()

    @property
    def is_behind(self) -> bool:
        """Whether lines wait for room on the disk."""
        return bool(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether so many wait that no more requests may be admitted."""
        return len(self._waiting) >= MOST_WAITING

    def write(self, *lines: bytes) -> None:
        """Appends lines, each with its end, or keeps them until there is room."""
        is_behind = self.is_behind
        self._waiting.extend(lines)
        if not is_behind:  # else they are written by `run`
            self._write_waiting(is_first_try=True)

    def run(self) -> None:
        """Until the worker ends: what was written reaches the disk, and what waits is tried again."""
        while True:
            gevent.sleep(FSYNC_SECONDS)
            if self._waiting:
                self._write_waiting()
            if self._is_dirty:
                self._is_dirty = False
                self._sync()

    def _write_waiting(self, *, is_first_try: bool = False) -> None:
        """Writes lines in their order until one does not fit."""
        try:
            self._follow_rotation()
            lines = b"".join(self._waiting)
            written = os.write(self._descriptor, lines)
            self._is_dirty = True
            if written == len(lines):
                self._waiting.clear()
                return
            while self._waiting and written >= len(self._waiting[0]):
                written -= len(self._waiting.popleft())
            if self._waiting:
                if written and not self._take_back(written):
                    self._waiting[0] = self._waiting[0][written:]
                raise OSError(errno.ENOSPC, "a line went in only in part")
        except OSError as error:
            if is_first_try:
                _log.error("the usage log cannot be written: its lines wait", extra={"reason": error.strerror})

    def _take_back(self, written: int) -> bool:
        """Takes a part of a line out of the file again, or the next line of another worker would be joined to it; whether nobody had written after it."""
        end = os.lseek(self._descriptor, 0, os.SEEK_CUR)
        if os.fstat(self._descriptor).st_size != end:
            return False
        os.ftruncate(self._descriptor, end - written)
        return True

    def _sync(self) -> None:
        descriptor = self._descriptor
        try:
            in_thread(lambda: os.fsync(descriptor))
        except OSError as error:
            _log.error("the usage log is not on the disk", extra={"reason": error.strerror})

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def _follow_rotation(self) -> None:
        now = time.monotonic()
        if now < self._looked + LOOK_SECONDS:
            return
        self._looked = now
        try:
            if os.stat(self.path).st_ino == self._identity:
                return
        except FileNotFoundError:
            pass
        os.close(self._descriptor)
        self._descriptor = self._open()
        self._identity = os.fstat(self._descriptor).st_ino


def read_entries(path: Path, offset: int = 0) -> Iterator[tuple[Entry | None, int]]:
    """The entries from `offset` on, each with the offset after it; None for a line that makes no sense. A line that has no end yet is not read."""
    opened = gzip.open if path.suffix == COMPRESSED else open
    with opened(path, "rb") as file:
        file.seek(offset)
        rest = b""
        while data := file.read(READ_BYTES):
            lines = (rest + data).split(b"\n")
            rest = lines.pop()
            for line in lines:
                offset += len(line) + 1
                yield read_line(line), offset


def compressed_logs(path: Path) -> list[Path]:
    """What was rotated away and compressed since (`usage.log.2.gz`), the oldest first: read only when the ledger is made anew."""
    return sorted(path.parent.glob(f"{path.name}?*{COMPRESSED}"), key=lambda file: file.stat().st_mtime)


def all_logs(path: Path) -> list[Path]:
    """The log and what was rotated away from it (`usage.log.1`, `usage.log-20260101`), the oldest first. Those that are compressed are not read."""
    rotated = [file for file in path.parent.glob(f"{path.name}?*") if file.suffix not in (".gz", ".zst", ".xz", ".bz2")]
    return [*sorted(rotated, key=lambda file: file.stat().st_mtime), *([path] if path.exists() else [])]
