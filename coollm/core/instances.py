"""Where the running instances of a host are found, and what their workers tell of themselves.

    RUN/NAME/admin.sock       the instance's local socket
    RUN/NAME/instance.json    who serves here
    RUN/NAME/draining         is there while the instance takes no new connections, also after it was restarted
    RUN/NAME/share            a part of the idle and kept connections is to go elsewhere: an instance has come to share them
    RUN/NAME/workers/PID      what a worker has served, written every half second and once more when it ends

An instance that systemd runs is called by its number; one that was started by hand by its port.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import msgspec

ADMIN_SOCKET = "admin.sock"
INSTANCE_FILE = "instance.json"
DRAINING = "draining"
SHARE = "share"
WORKERS = "workers"

NOWHERE = "nowhere"
"""The address of an instance that its local socket alone reaches, as in a drill."""

LATENCY_BOUNDS = tuple(0.001 * 1.35**step for step in range(36))
"""Upper bounds of the classes in which workers count how long answers took, in seconds; each a third above the one before."""

STALE_SECONDS = 5.0
KEPT_SECONDS = 3600.0


def quantile(counts: Sequence[int], share: float) -> float | None:
    """The time in seconds within which this share of requests was answered, of counts by the classes of LATENCY_BOUNDS; None if there were none."""
    total = sum(counts)
    if not total:
        return None
    place = bisect_left(list(accumulate(counts)), share * total)
    return LATENCY_BOUNDS[min(place, len(LATENCY_BOUNDS) - 1)]


def instance_directory(run: Path, port: int) -> Path:
    """The directory of the instance that was started by hand and listens on `port`, under the run directory of its user."""
    return run / f"port-{port}"


class Instance(msgspec.Struct, frozen=True):
    """A gateway that was started here; whether it still answers is for its socket to say."""

    name: str
    socket: Path
    pid: int
    config: str
    started: float
    log: str


class WorkerReport(msgspec.Struct):
    """What a worker tells. Totals are since it started, times of the epoch in seconds; `stamp` names what it serves, `refused_stamp` what it cannot serve, and
    `refused` says why. `ages` are those of the oldest requests under way, in seconds.
    """

    pid: int
    version: str
    generation: int
    started: float
    written: float
    has_ended: bool = False
    is_draining: bool = False
    connections: int = 0
    under_way: int = 0
    streams: int = 0
    oldest_stream_seconds: float = 0.0
    ages: list[float] = []
    requests: int = 0
    failed: int = 0
    streams_finished: int = 0
    streams_cut: int = 0
    latencies: list[int] = []
    memory_bytes: int = 0
    stamp: str = ""
    refused: str = ""
    refused_stamp: str = ""

    @property
    def is_live(self) -> bool:
        """Whether its worker is there and answers for itself."""
        return not self.has_ended and is_alive(self.pid) and time.time() - self.written < STALE_SECONDS


def resident_bytes() -> int:
    """The memory of this process (proc_pid_statm(5))."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def is_alive(pid: int) -> bool:
    """Whether a process of this number exists, whoever owns it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def find_instances(run: Path) -> list[Instance]:
    """The instances under a run directory, the last started first."""
    found = []
    for file in run.glob(f"*/{INSTANCE_FILE}"):
        try:
            note = json.loads(file.read_text("utf-8"))
            found.append(
                Instance(
                    file.parent.name,
                    file.parent / ADMIN_SOCKET,
                    int(note["pid"]),
                    str(note["config"]),
                    float(note["started"]),
                    str(note["log"]),
                )
            )
        except (OSError, ValueError, KeyError, TypeError):
            continue  # one that is just being written, or is not ours
    return sorted(found, key=lambda instance: -instance.started)


def write_report(directory: Path, report: WorkerReport) -> None:
    """Writes what a worker tells. A run directory that is full or gone loses it."""
    with contextlib.suppress(OSError):
        file = directory / WORKERS / str(report.pid)
        beside = file.with_suffix(".new")
        beside.write_bytes(msgspec.json.encode(report))
        beside.replace(file)


def read_reports(directory: Path) -> list[WorkerReport]:
    """What the workers of an instance tell, those that have ended too."""
    found = []
    for file in (directory / WORKERS).glob("*"):
        if file.suffix:
            continue
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            found.append(msgspec.json.decode(file.read_bytes(), type=WorkerReport))
    return sorted(found, key=lambda report: report.started)


def forget_reports(directory: Path) -> None:
    """Removes what workers told that ended long ago."""
    for file in (directory / WORKERS).glob("*"):
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime > KEPT_SECONDS:
                file.unlink()
