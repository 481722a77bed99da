"""The process that ships the usage log into the ledger: one for each host, started by a worker, ended with it, and started anew by another.

In the workers it would take their time: SQL for thousands of lines a second, in a thread which holds up all requests whenever it holds the interpreter. It runs
at a lower priority and makes pauses: the usage log has what the ledger has not got yet.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import platform
import select
import signal
import subprocess
import sys
from pathlib import Path

from gevent.event import Event
from sqlalchemy.exc import SQLAlchemyError

from coollm.core.config.load import load_in_force
from coollm.core.errors import CoollmError, OperationFailed
from coollm.core.logs import log_file, open_log
from coollm.core.paths import find_config, log_directory, state_directory
from coollm.core.pauses import Pauses
from coollm.core.secrets import Redactor
from coollm.ledger.book import open_ledger
from coollm.ledger.shipper import Shipper

SHIP_SECONDS = 1.0
NICE = 10

USAGE_LOG = "usage.log"
SHIPPER_LOCK = "shipper.lock"
PROCESS_LOCK = "shipper.process"
BEHIND = "shipper.behind"
"""Is there while the ledger does not take what is shipped."""

_log = logging.getLogger("coollm.ledger")


class Shipping:
    """In each worker: sees to it that the process runs, once there is something to ship."""

    def __init__(self, log: Path, state: Path) -> None:
        self._log_path = log
        self._state = state
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = Event()

    @property
    def is_behind(self) -> bool:
        """Whether the ledger does not take what is shipped."""
        return (self._state / BEHIND).exists()

    def run(self) -> None:
        """Until it is closed. A process that cannot be started is tried again."""
        while not self._stopped.wait(SHIP_SECONDS):
            try:
                self.look()
            except OSError as error:
                _log.warning("the usage log is not shipped", extra={"reason": error.strerror})

    def close(self) -> None:
        """Lets the process ship what there is, and end."""
        self._stopped.set()
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def look(self) -> None:
        """Starts the process if there is something new and none runs. Raises OSError."""
        if not self._log_path.exists() or not self._log_path.stat().st_size:
            return
        descriptor = os.open(self._state / PROCESS_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        else:
            self._start(descriptor)
        finally:
            os.close(descriptor)

    def _start(self, lock: int) -> None:
        """The process takes over the lock, and the other end of a pipe, which tells it when this worker ends."""
        command = [sys.executable, "-m", "coollm.ledger.shipping"]
        silent = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=silent, stderr=silent, pass_fds=(lock,))  # noqa: S603  our own


def main() -> None:
    """Ships until its worker ends, and once more then."""
    with contextlib.suppress(OSError):  # a unit may forbid it
        os.nice(NICE)
    for ends in (signal.SIGINT, signal.SIGTERM):  # of a terminal, and of systemd: the worker ends by it, and what it wrote is shipped then
        signal.signal(ends, signal.SIG_IGN)
    config = find_config()
    try:
        state = state_directory(config)
        settings = load_in_force(config, state).settings
        open_log(settings, log_file(settings, config, state), Redactor(settings.secrets()))
        shipper = Shipper(log_directory(config, state) / USAGE_LOG, open_ledger(settings, state), state / SHIPPER_LOCK, platform.node(), Pauses())
    except (CoollmError, OSError) as error:
        _log.error("the usage log is not shipped", extra={"reason": str(error)})
        return
    has_ended = False
    while not has_ended and state.exists():
        has_ended = bool(select.select([sys.stdin], [], [], SHIP_SECONDS)[0])
        _ship(shipper, state / BEHIND)


def _ship(shipper: Shipper, behind: Path) -> None:
    """Ships once. A ledger that does not answer is tried again; the log keeps what it has not got."""
    try:
        shipper.ship()
    except (SQLAlchemyError, OSError, OperationFailed) as error:
        if not behind.exists() and behind.parent.exists():
            _log.warning("the ledger is behind the usage log", extra={"reason": str(error) if isinstance(error, OperationFailed) else type(error).__name__})
            behind.touch(0o600)
    else:
        behind.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
