"""Deletes single requests and rotated logs that are older than `compliance.data_retention_days`, a little at a time; the sums of requests stay."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from gevent.event import Event
from sqlalchemy.exc import SQLAlchemyError

from coollm.core.errors import OperationFailed
from coollm.ledger.book import DAY_MS, Ledger
from coollm.ledger.threads import in_thread

FIRST_SECONDS = 60.0
EVERY_SECONDS = 6 * 3600.0

_log = logging.getLogger("coollm.ledger")


class Retention:
    """One in each worker; a lock on a file lets one of a host work at a time."""

    def __init__(self, ledger: Ledger, days: int, lock: Path, forget_logs: Callable[[float], list[str]]) -> None:
        """`forget_logs` removes log files that ended before a time of the epoch."""
        self._ledger = ledger
        self._days = days
        self._lock = lock
        self._forget_logs = forget_logs

    def run(self, stopped: Event) -> None:
        """Until it is stopped. A ledger that does not answer is tried again the next time."""
        stopped.wait(FIRST_SECONDS)
        while not stopped.is_set():
            try:
                in_thread(self.prune)
            except (SQLAlchemyError, OperationFailed, OSError) as error:
                _log.warning("what is old could not be deleted from the ledger", extra={"reason": type(error).__name__})
            stopped.wait(EVERY_SECONDS)

    def prune(self) -> int:
        """Deletes what is too old now. Returns how many requests; 0 where another worker is at it."""
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return 0
        try:
            gone = self._ledger.prune(int(time.time() * 1000) - self._days * DAY_MS)
            files = self._forget_logs(time.time() - self._days * DAY_MS / 1000)
        finally:
            os.close(descriptor)
        if files:
            _log.info("logs older than data_retention_days are removed", extra={"files": files})
        if gone:
            _log.info("requests older than data_retention_days are deleted from the ledger", extra={"requests": gone})
        return gone
