"""Ships the usage log into the ledger, in batches, by one worker of the host at a time."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

import gevent
from sqlalchemy.exc import SQLAlchemyError

from coollm.core.errors import OperationFailed
from coollm.core.types import Json
from coollm.ledger.book import BATCH, Ledger
from coollm.ledger.entry import Entry
from coollm.ledger.threads import in_thread
from coollm.ledger.usage_log import all_logs, read_entries

SHIP_SECONDS = 1.0

_log = logging.getLogger("coollm.ledger")


class Shipper:
    """Holds the lock while it lives; when its worker dies, another takes over."""

    def __init__(self, log: Path, ledger: Ledger, lock: Path, host: str) -> None:
        self._log_path = log
        self._ledger = ledger
        self._lock_path = lock
        self._host = host
        self._lock: int | None = None
        self.is_behind = False

    def run(self) -> None:
        """Until the worker ends. A ledger that does not answer is tried again; the log keeps what it has not got."""
        while True:
            gevent.sleep(SHIP_SECONDS)
            if not self._has_lock():
                continue
            try:
                in_thread(self.ship)
            except (SQLAlchemyError, OSError, OperationFailed) as error:
                if not self.is_behind:
                    reason = str(error) if isinstance(error, OperationFailed) else type(error).__name__
                    _log.warning("the ledger is behind the usage log", extra={"reason": reason})
                self.is_behind = True
            else:
                self.is_behind = False

    def ship(self) -> int:
        """Ships what is new in all logs. Returns how many requests that were. Raises SQLAlchemyError and OSError."""
        return sum(self._ship_file(file) for file in all_logs(self._log_path))

    def _ship_file(self, file: Path) -> int:
        inode = file.stat().st_ino
        name = f"{self._host}:{inode}"  # a log keeps its inode when it is rotated away under another name
        known, position = self._ledger.position(name)
        if known != inode or position > file.stat().st_size:
            position = 0
        new, batch = 0, list[Entry]()
        if file.stat().st_size == position:
            return 0
        for entry, end in read_entries(file, position):
            position = end
            if entry is not None:
                batch.append(entry)
            if len(batch) >= BATCH:
                new += self._ledger.ship(batch, name, inode, position)
                batch = []
        return new + self._ledger.ship(batch, name, inode, position)

    def _has_lock(self) -> bool:
        if self._lock is None:
            descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)
                return False
            self._lock = descriptor
        return True

    def verify(self) -> Json:
        """Whether every line of the usage logs is in the ledger, and the sums by the hour are those of the requests: {"ok", "faults", …}."""
        self.ship()
        lines = nonsense = 0
        missing: list[str] = []
        pruned = self._ledger.pruned_before()
        for file in all_logs(self._log_path):
            batch: list[str] = []
            for entry, _ in read_entries(file):
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
        single, added = self._ledger.sums(-(-pruned // 3_600_000) * 3_600_000)
        faults += [f"{name}: {single[name]} over the requests, {added[name]} over the hours" for name in single if single[name] != added[name]]
        return {"ok": not faults, "faults": faults, "lines": lines, "unreadable_lines": nonsense, "requests": single, "hours": added}

    def rebuild(self) -> int:
        """Makes the ledger anew from the usage logs that are there. Returns how many requests it has."""
        self._ledger.clear()
        return self.ship()
