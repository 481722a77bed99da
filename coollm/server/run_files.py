"""The files of a running instance: its local socket, the workers' metrics, and a note of what it is."""

from __future__ import annotations

import json
import time
from pathlib import Path

from coollm.core.instances import INSTANCE_FILE, is_alive

METRICS_DIRECTORY = "metrics"


def clean_metrics(directory: Path) -> None:
    """Removes the figures of workers that are gone."""
    for file in directory.glob("*.db"):
        pid = file.stem.rpartition("_")[2]
        if not pid.isdigit() or not is_alive(int(pid)):
            file.unlink(missing_ok=True)


def forget_metrics(pid: int) -> None:
    """Removes the live gauges of a worker that has ended."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


def write_instance(run: Path, pid: int, config: str, log: str) -> None:
    """Notes who serves here, for `coollm status`; `log` is the path of app.log, "" if it is standard error."""
    note = {"pid": pid, "config": config, "started": time.time(), "log": log}
    (run / INSTANCE_FILE).write_text(json.dumps(note), "utf-8")
