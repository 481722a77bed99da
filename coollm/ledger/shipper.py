"""Ships the usage log into the ledger, in batches, by one process of the host at a time."""

from __future__ import annotations

import fcntl
import logging
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from coollm.core.batches import batches
from coollm.core.pauses import no_pauses
from coollm.core.types import Json
from coollm.ledger.book import BATCH, DAY_MS, STEP, Ledger
from coollm.ledger.entry import Entry
from coollm.ledger.usage_log import all_logs, compressed_logs, read_entries

_log = logging.getLogger("coollm.ledger")


class Shipper:
    """A lock on a file lets one of the host work at a time, and is free when its process dies. All blocks."""

    def __init__(self, log: Path, ledger: Ledger, lock: Path, host: str, pause: Callable[[], None] = no_pauses) -> None:
        """`pause` is called between the steps of shipping."""
        self._log_path = log
        self._ledger = ledger
        self._lock_path = lock
        self._host = host
        self._pause = pause

    def ship(self) -> int:
        """Ships what is new in all logs. Returns how many requests that were. Raises SQLAlchemyError and OSError."""
        with self._alone():
            return self._ship_all()

    def verify(self) -> Json:
        """Whether every line of the usage logs is in the ledger, and the sums by the hour are those of the requests: {"ok", "faults", …}."""
        with self._alone():
            self._ship_all()
            return self._verify()

    def rebuild(self) -> int:
        """Makes the ledger anew from the usage logs that are there, also those that are compressed. Returns how many requests it has."""
        with self._alone():
            self._ledger.clear()
            return sum(self._ship_compressed(file) for file in compressed_logs(self._log_path)) + self._ship_all()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else of this host ships meanwhile."""
        # A descriptor of its own each time: a lock belongs to it, and would else not keep out another thread of this process.
        descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _ship_all(self) -> int:
        return sum(self._ship_file(file) for file in all_logs(self._log_path))

    def _ship_file(self, file: Path) -> int:
        found = file.stat()
        name = f"{self._host}:{found.st_ino}"  # a log keeps its inode when it is rotated away under another name
        known, position = self._ledger.position(name)
        if known != found.st_ino or position > found.st_size:
            position = 0
        if position == found.st_size:
            return 0
        return self._ship_entries(read_entries(file, position), name, found.st_ino, position, self._ledger.pruned_before())

    def _ship_compressed(self, file: Path) -> int:
        """Of one that is damaged, what can be read."""
        inode = file.stat().st_ino
        return self._ship_entries(_readable(file), f"{self._host}:{inode}", inode, 0, 0)

    def _ship_entries(self, entries: Iterable[tuple[Entry | None, int]], name: str, inode: int, position: int, pruned: int) -> int:
        """Ships the entries of a log that is read from `position` on, but for those that were pruned: these are in the sums already."""
        new = 0
        for batch in batches(self._step_by_step(entries), BATCH):
            position = batch[-1][1]
            new += self._ledger.ship([entry for entry, _ in batch if entry is not None and entry.at_ms >= pruned], name, inode, position, self._pause)
        return new

    def _step_by_step(self, entries: Iterable[tuple[Entry | None, int]]) -> Iterator[tuple[Entry | None, int]]:
        for step in batches(entries, STEP):
            self._pause()
            yield from step

    def _verify(self) -> Json:
        lines = nonsense = 0
        missing: list[str] = []
        pruned = self._ledger.pruned_before()
        for file in all_logs(self._log_path):
            batch: list[str] = []
            shipped = self._ledger.position(f"{self._host}:{file.stat().st_ino}")[1]
            for entry, end in read_entries(file):
                if end > shipped:
                    break  # written since
                if entry is None:
                    nonsense += 1
                elif entry.at_ms >= pruned:  # what was pruned is not missing
                    lines += 1
                    batch.append(entry.request_id)
                if len(batch) >= BATCH:
                    missing += sorted(set(batch) - self._ledger.known(batch))
                    batch = []
            missing += sorted(set(batch) - self._ledger.known(batch))
        faults = [f"{len(missing)} requests of the usage log are not in the ledger, the first {missing[0]}"] if missing else []
        sums = self._ledger.sums(-(-pruned // DAY_MS) * DAY_MS)
        single = sums["requests"]
        for unit in ("hours", "days"):
            added = sums[unit]
            faults += [f"{name}: {single[name]} over the requests, {added[name]} over the {unit}" for name in single if single[name] != added[name]]
        return {"ok": not faults, "faults": faults, "lines": lines, "unreadable_lines": nonsense, **sums}


def _readable(file: Path) -> Iterator[tuple[Entry | None, int]]:
    """The entries of a compressed log as far as it is whole."""
    try:
        yield from read_entries(file)
    except (EOFError, OSError, zlib.error) as error:
        _log.error("a compressed usage log is damaged: its end is not in the ledger", extra={"file": file.name, "reason": type(error).__name__})
