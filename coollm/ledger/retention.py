"""Deletes single requests from the ledger when they are older than `compliance.data_retention_days`, a little at a time; their sums stay."""

from __future__ import annotations

import fcntl
import logging
import os
import time
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

    def __init__(self, ledger: Ledger, days: int, lock: Path) -> None:
        self._ledger = ledger
        self._days = days
        self._lock = lock

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
        finally:
            os.close(descriptor)
        if gone:
            _log.info("requests older than data_retention_days are deleted from the ledger", extra={"requests": gone})
        return gone
