"""What the workers of this host do in a moment: processor time from /proc, requests and streams from what they tell. Source: proc_pid_stat(5)."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from coollm_cli.ops import host

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Sample:
    """What workers have used and served until now, by their process, and how many streams there are."""

    at: float
    used: dict[int, float]
    served: dict[int, int]
    streams: int
    memory_bytes: int
    instances: int


@dataclass(frozen=True)
class Load:
    """What the workers of a host do, all together, each second. `processors` is processor time in seconds each second."""

    requests: float
    streams: float
    processors: float
    workers: int
    seconds: float
    memory_bytes: int = 0
    instances: int = 1

    @property
    def busy(self) -> float:
        """How busy a worker is, 0 to 1."""
        return self.processors / self.workers if self.workers else 0.0


def sample(config: Path) -> Sample:
    """What there is now. Workers of an instance that is drained are not looked at."""
    live = [(name, report) for name, report in host.live_workers(config) if not report.is_draining]
    used = {report.pid: seconds for _, report in live if (seconds := _processor_seconds(report.pid)) is not None}
    served = {report.pid: report.requests for _, report in live}
    memory = sum(report.memory_bytes for _, report in live)
    return Sample(time.monotonic(), used, served, sum(report.streams for _, report in live), memory, len({name for name, _ in live}))


def measure(config: Path, seconds: float) -> Load:
    """Looks for so long. Workers that came or went meanwhile are left out."""
    before = sample(config)
    time.sleep(seconds)
    after = sample(config)
    both = set(before.used) & set(after.used)
    passed = after.at - before.at
    return Load(
        requests=sum(after.served[pid] - before.served.get(pid, 0) for pid in both) / passed,
        streams=(before.streams + after.streams) / 2,
        processors=sum(after.used[pid] - before.used[pid] for pid in both) / passed,
        workers=len(both),
        seconds=passed,
        memory_bytes=after.memory_bytes,
        instances=after.instances,
    )


def host_memory_bytes() -> int:
    """What this host has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE")


def _processor_seconds(pid: int) -> float | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS
    except (OSError, ValueError, IndexError):
        return None
