"""Work that nobody waits for: it takes the processor when nobody else wants it, and does not let writes pile up that others would have to wait for.

Sources: sched(7) (SCHED_IDLE), sync_file_range(2), posix_fadvise(2).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import IO

NICE = 19
STEP_BYTES = 4 * 1024 * 1024


def give_way() -> None:
    """This process, and what it starts, runs when others do not. A system that does not let it makes no difference to what is done."""
    with contextlib.suppress(OSError):
        os.nice(NICE)
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def write_out(descriptor: int) -> None:
    """Lets the disk have what was written, and memory forget it: a sync of somebody else's file would have to wait for it."""
    os.fdatasync(descriptor)
    with contextlib.suppress(OSError):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def copy_file(source: Path, target: Path) -> None:
    """Copies a file in steps. Raises OSError."""
    with source.open("rb") as read, target.open("wb") as written:
        while data := read.read(STEP_BYTES):
            written.write(data)
            written.flush()
            write_out(written.fileno())
    shutil.copymode(source, target)


class Gradual:
    """A file that reaches the disk as it is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._written = 0

    def write(self, data: bytes) -> int:
        """As a file."""
        self._written += len(data)
        count = self._file.write(data)
        if self._written >= STEP_BYTES:
            self._written = 0
            self._file.flush()
            write_out(self._file.fileno())
        return count

    def flush(self) -> None:
        """As a file."""
        self._file.flush()

    def fileno(self) -> int:
        """As a file."""
        return self._file.fileno()
