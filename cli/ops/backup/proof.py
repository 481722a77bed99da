"""What a host can say of its backups in a line: for `status`, `doctor` and the report of evidence."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from coollm_cli.ops.times import moment

from coollm.core.backup_status import read_backup_status

DAY_SECONDS = 86400


def told(state: Path) -> dict[str, Any]:
    """When the last backup was made and when a restore was last proven; None for never."""
    known = read_backup_status(state)
    return {
        "last_backup": moment(known.success),
        "last_drill": moment(known.drill),
        "drill_seconds": known.drill_seconds or None,
        "drill_failed": moment(known.drill_failed) if known.drill_failed > known.drill else None,
        "drill_fault": known.drill_fault if known.drill_failed > known.drill else None,
        "summary": line(state),
    }


def line(state: Path) -> str | None:
    """In words; None where no backup was ever made."""
    known = read_backup_status(state)
    if not known.success:
        return None
    proven = f"last proven restore {ago(known.drill)} ago, {lasted(known.drill_seconds)}" if known.drill else "no restore was ever proven: coollm backup drill"
    return f"last backup {ago(known.success)} ago; {proven}"


def ago(seconds: float) -> str:
    """How long ago, in its largest unit."""
    passed = max(0, time.time() - seconds)
    for unit, size in (("day", DAY_SECONDS), ("hour", 3600), ("minute", 60)):
        if passed >= size:
            number = int(passed // size)
            return f"{number} {unit}{'' if number == 1 else 's'}"
    return f"{passed:.0f} s"


def sized(size: int) -> str:
    """`412 kB`, `11.2 MB`, `5.1 GB`."""
    for unit, bytes_of in (("GB", 10**9), ("MB", 10**6)):
        if size >= bytes_of:
            return f"{size / bytes_of:.1f} {unit}"
    return f"{size / 1000:.0f} kB"


def lasted(seconds: float) -> str:
    """`3 min 12 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s" if seconds < 10 else f"{rest} s"
