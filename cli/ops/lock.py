"""One administrator at a time changes a host: a lease with an owner and a heartbeat, which is taken over when its owner is dead.

The lease is a file that says who, what and since when. It is read and written under a lock of the kernel on a file beside it, which lasts for a moment only: a
command that hangs keeps the lease, and one that was killed does not.
"""

from __future__ import annotations

import contextlib
import fcntl
import getpass
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coollm_cli.ops.heartbeat import Heartbeat

from coollm.core.errors import LockHeld, OperationFailed
from coollm.core.files import replace_file
from coollm.core.paths import make_private

LEASE_SECONDS = 15.0
BEAT_SECONDS = 3.0

LEASE = "lock"
GUARD = "lock.guard"


class Lease:
    """The lease of the host whose own directory is `directory`."""

    def __init__(self, directory: Path, command: str) -> None:
        self._directory = directory
        self._command = command
        self._heartbeat = Heartbeat(self._beat, BEAT_SECONDS)

    def __enter__(self) -> Lease:
        """Raises LockHeld, and OperationFailed where it cannot be written."""
        try:
            make_private(self._directory)
            with self._guard():
                held = self._read()
                if held is not None and _is_alive(held):
                    since = datetime.fromtimestamp(held["since"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
                    who = f"{held['user']}@{held['host']} (process {held['pid']})"
                    raise LockHeld(f"{who} changes this host: `{held['command']}`, since {since}", "wait until it is done, or ask who it is")
                self._write()
        except OSError as error:
            raise OperationFailed(f"{self._directory}: the lock cannot be taken: {error.strerror}", "be root, or the user whose gateway it is") from error
        self._heartbeat.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._heartbeat.stop()
        with contextlib.suppress(OSError), self._guard():
            if self._is_ours(self._read()):
                (self._directory / LEASE).unlink()

    def _beat(self) -> None:
        with contextlib.suppress(OSError), self._guard():
            if self._is_ours(self._read()):
                self._write()

    @contextmanager
    def _guard(self) -> Iterator[None]:
        descriptor = os.open(self._directory / GUARD, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _read(self) -> dict[str, Any] | None:
        try:
            held = json.loads((self._directory / LEASE).read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return held if isinstance(held, dict) and {"pid", "host", "user", "command", "since", "beat"} <= held.keys() else None

    def _write(self) -> None:
        held = self._read()
        since = held["since"] if held is not None and self._is_ours(held) else time.time()
        told = {
            "user": actor(),
            "host": platform.node(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "boot": _boot(),
            "command": self._command,
            "since": since,
            "beat": time.time(),
        }
        replace_file(self._directory / LEASE, json.dumps(told).encode())

    @staticmethod
    def _is_ours(held: dict[str, Any] | None) -> bool:
        return held is not None and held["pid"] == os.getpid() and held["host"] == platform.node()


def is_being_changed(directory: Path) -> bool:
    """Whether a command that lives changes the host whose own directory it is."""
    try:
        held = json.loads((directory / LEASE).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return _is_alive(held)


ON_BEHALF_OF = "COOLLM_ON_BEHALF_OF"
"""The variable that says for whom root carries a command out; sudo lets nobody set it."""


def actor() -> str:
    """Who gives the command: who has ordered it in the console, or the person behind sudo, where there is one."""
    return os.environ.get(ON_BEHALF_OF) or os.environ.get("SUDO_USER") or getpass.getuser()


def _is_alive(held: dict[str, Any]) -> bool:
    """On this host a dead owner is known at once; on another, or where it hangs, when it has not been heard of for a lease."""
    if held["host"] == platform.node() and held.get("boot") == _boot():
        return bool(_started(held["pid"])) and _started(held["pid"]) == held.get("started")
    return time.time() - float(held["beat"]) < LEASE_SECONDS


def _boot() -> str:
    """Which start of this host it is (random(4))."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process started, in clock ticks (proc_pid_stat(5)): a number that is used again does not pass for it. "" if it is not there."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("latin-1")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    return "" if fields[0] == "Z" else fields[19]
