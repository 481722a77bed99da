"""When the audit log was last verified, and what was found: written by the command, told by the gateway's metrics.

    STATE/audit-status.json  {"verified": 1790000000.0, "lines": 1204, "faults": 0}

Whoever cannot read it knows nothing, and says so.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from coollm.core.files import replace_file

FILE_NAME = "audit-status.json"


class AuditStatus(msgspec.Struct, frozen=True):
    """`verified` is a time of the epoch in seconds, 0 for never; `faults` is how many were found then."""

    verified: float = 0.0
    lines: int = 0
    faults: int = 0


def read_audit_status(state: Path) -> AuditStatus:
    """What is known; nothing if the file is not there, or makes no sense."""
    try:
        return msgspec.json.decode((state / FILE_NAME).read_bytes(), type=AuditStatus)
    except (OSError, UnicodeDecodeError, msgspec.MsgspecError):
        return AuditStatus()


def write_audit_status(state: Path, status: AuditStatus) -> None:
    """Keeps it. Raises OSError."""
    replace_file(state / FILE_NAME, msgspec.json.encode(status), like=state)
