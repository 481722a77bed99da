"""Where the running instances of a host are found."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec

ADMIN_SOCKET = "admin.sock"
INSTANCE_FILE = "instance.json"


def instance_directory(run: Path, port: int) -> Path:
    """The directory of the instance that listens on `port`, under the run directory of its user."""
    return run / f"port-{port}"


class Instance(msgspec.Struct, frozen=True):
    """A gateway that was started here; whether it still answers is for its socket to say."""

    name: str
    socket: Path
    pid: int
    config: str
    started: float
    log: str


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
