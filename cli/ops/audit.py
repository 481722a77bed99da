"""Reading the audit log."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from coollm_cli.ops.operation import Host

from coollm.core.audit import verify
from coollm.core.audit_status import AuditStatus, write_audit_status
from coollm.core.errors import UsageError


def read_log(host: Host) -> list[dict[str, Any]]:
    """Every line that makes sense, the oldest first."""
    return [entry for _, _, entry in host.audit.entries() if entry is not None]


def verify_host(host: Host) -> tuple[int, list[str]]:
    """How many lines the log has, and what is wrong with it; the gateway's metrics tell of it from now on."""
    lines, faults = verify(host.audit)
    with contextlib.suppress(OSError):  # of another user: whoever asks is told in any case
        write_audit_status(host.state, AuditStatus(time.time(), lines, len(faults)))
    return lines, faults


def matching(entries: Sequence[dict[str, Any]], text: str | None, actor: str | None, action: str | None, since: str | None) -> list[dict[str, Any]]:
    """Those that are asked for. Raises UsageError."""
    from_time = _time(since) if since is not None else None
    return [
        entry
        for entry in entries
        if (actor is None or entry.get("actor") == actor)
        and (action is None or entry.get("action") == action)
        and (from_time is None or _time(str(entry.get("time"))) >= from_time)
        and (text is None or text in json.dumps(entry, ensure_ascii=False))
    ]


def rows(entries: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """As a table has them."""
    return [(str(entry.get("time"))[:19], entry.get("actor"), entry.get("action"), entry.get("state"), entry.get("command")) for entry in entries]


def _time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--since {text}: expected a time such as 2027-01-31 or 2027-01-31T10:00") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
