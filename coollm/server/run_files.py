"""The files of a running instance: the workers' metrics, and a note of what it is.

Each process writes its metrics to files of its own. Those of processes that have ended are added up in one file of each kind, so that counters only grow and
files do not. Source: https://prometheus.github.io/client_python/multiprocess/ and prometheus_client's multiprocess.py, which reads the files by their names.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coollm.core.instances import INSTANCE_FILE, is_alive

METRICS_DIRECTORY = "metrics"
LOCK = "lock"
ENDED = "ended"
LIVE_GAUGES = "gauge_live"
GAUGES = "gauge_"
HIGHEST = "gauge_max"


@contextmanager
def metrics_lock(directory: Path, *, to_change: bool) -> Iterator[None]:
    """While files are added up nobody reads them, or a number would be there twice."""
    descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if to_change else fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def clean_metrics(directory: Path) -> None:
    """As an instance starts: figures of an earlier run are not this one's, unless another instance of the host still adds to them."""
    pids = {_pid(file) for file in directory.glob("*.db")} - {None}
    dead = {pid for pid in pids if pid is not None and not is_alive(pid)}
    if dead == pids:
        with metrics_lock(directory, to_change=True):
            for file in directory.glob("*.db"):
                file.unlink(missing_ok=True)
    else:
        fold_metrics(directory, dead)


def fold_metrics(directory: Path, pids: set[int]) -> None:
    """Adds up the figures of processes that have ended; their live gauges end with them."""
    with metrics_lock(directory, to_change=True):
        for file in directory.glob("*.db"):
            if _pid(file) in pids:
                if not file.name.startswith(LIVE_GAUGES):
                    with contextlib.suppress(OSError, ValueError, IndexError, struct.error):  # a file that was cut short is no reason not to start
                        _fold(file)
                file.unlink(missing_ok=True)


def _fold(file: Path) -> None:
    from prometheus_client.mmap_dict import MmapedDict  # when it is first imported, it looks whether PROMETHEUS_MULTIPROC_DIR is set

    kind = file.stem.rpartition("_")[0]
    into = MmapedDict(str(file.parent / f"{kind}_{ENDED}.db"))  # type: ignore[no-untyped-call]
    try:
        for key, value, timestamp, _ in MmapedDict.read_all_values_from_file(str(file)):  # type: ignore[no-untyped-call]
            before, told = into.read_value(key)  # type: ignore[no-untyped-call]
            if not file.name.startswith(GAUGES):
                into.write_value(key, before + value, timestamp)  # type: ignore[no-untyped-call]
            elif file.name.startswith(HIGHEST):
                into.write_value(key, max(before, value), timestamp)  # type: ignore[no-untyped-call]
            elif timestamp >= told:
                into.write_value(key, value, timestamp)  # type: ignore[no-untyped-call]
    finally:
        into.close()  # type: ignore[no-untyped-call]


def _pid(file: Path) -> int | None:
    """Whose file it is; None for those of processes that have ended."""
    pid = file.stem.rpartition("_")[2]
    return int(pid) if pid.isdigit() else None


def write_instance(run: Path, pid: int, config: str, log: str) -> None:
    """Notes who serves here, for `coollm status`; `log` is the path of app.log, "" if it is standard error."""
    note = {"pid": pid, "config": config, "started": time.time(), "log": log}
    (run / INSTANCE_FILE).write_text(json.dumps(note), "utf-8")
