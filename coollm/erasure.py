"""Erases a client from what is kept: its name is replaced, in the ledger and in the logs, by one that nobody can lead back to it. All sums stay as they are.

Of the people behind a client the gateway keeps nothing: neither prompts and answers, nor the `user` of a request.
"""

from __future__ import annotations

import gzip
import os
import secrets
import time
from pathlib import Path

from coollm.core.audit import AuditLog
from coollm.core.files import replace_file
from coollm.ledger.book import Ledger
from coollm.ledger.shipper import Shipper

# Within so long every worker writes to the new file of a log that was moved away.
REOPENED_SECONDS = 2.0


def erase(client: str, ledger: Ledger, shipper: Shipper, logs: Path) -> tuple[str, int, int]:
    """The name that stands there now, how many requests have it, and how many log files were written anew. Blocks. Raises SQLAlchemyError and OSError."""
    alias = f"erased-{secrets.token_hex(6)}"
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    for name in ("usage.log", "app.log"):
        path = logs / name
        if path.exists():
            path.rename(path.with_name(f"{name}.{stamp}"))
    time.sleep(REOPENED_SECONDS)
    shipper.ship()
    requests = ledger.erase_client(client, alias)
    found = b'"client":"%s"' % client.encode()
    put = b'"client":"%s"' % alias.encode()
    written = sum(_rewrite(path, found, put) for name in ("usage.log", "app.log") for path in sorted(logs.glob(f"{name}.*")))
    shipper.ship()
    return alias, requests, written


def _rewrite(path: Path, found: bytes, put: bytes) -> bool:
    """Whether a file had the words, and was written anew; with the time it had, by which it is rotated out."""
    is_packed = path.suffix == ".gz"
    data = gzip.decompress(path.read_bytes()) if is_packed else path.read_bytes()
    if found not in data:
        return False
    told = path.stat()
    data = data.replace(found, put)
    replace_file(path, gzip.compress(data) if is_packed else data, mode=told.st_mode & 0o777)
    os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))
    return True


def forget_old_logs(logs: Path, before: float, audit: AuditLog | None) -> list[str]:
    """Removes rotated log files that ended before a time of the epoch. Returns their names. Raises OSError and OperationFailed."""
    gone = []
    for name in ("app.log", "usage.log"):
        for path in sorted(logs.glob(f"{name}.*")):
            if path.stat().st_mtime < before:
                path.unlink()
                gone.append(path.name)
    if audit is not None:
        gone += audit.forget(before)
    return gone
