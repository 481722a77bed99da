"""The time of day, as the ledger writes it."""

from __future__ import annotations

import time


def now_ms() -> int:
    """Milliseconds of the epoch."""
    return int(time.time() * 1000)
