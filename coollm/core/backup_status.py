"""When this host was last backed up, and when a restore of it was last proven: written by the command, told by the gateway's metrics.

    STATE/backup-status.json  {"success": 1790000000.0, "name": "…", "drill": 1790000000.0, "drilled": "…", "drill_seconds": 192.0, …}

Whoever cannot read it knows nothing, and says so.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from coollm.core.files import replace_file

FILE_NAME = "backup-status.json"


class BackupStatus(msgspec.Struct, frozen=True):
    """Times of the epoch in seconds, 0 for never. `success` is the last backup that was read back, `drill` the last restore that held, in `drill_seconds`,
    of the backup `drilled`; `drill_failed` is the last that did not, with its `drill_fault`.
    """

    success: float = 0.0
    name: str = ""
    drill: float = 0.0
    drilled: str = ""
    drill_seconds: float = 0.0
    drill_failed: float = 0.0
    drill_fault: str = ""


def read_backup_status(state: Path) -> BackupStatus:
    """What is known; nothing if the file is not there, or makes no sense."""
    try:
        return msgspec.json.decode((state / FILE_NAME).read_bytes(), type=BackupStatus)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError):
        return BackupStatus()


def write_backup_status(state: Path, status: BackupStatus) -> None:
    """Keeps it. Raises OSError."""
    replace_file(state / FILE_NAME, msgspec.json.encode(status), like=state)
