"""Money as whole numbers: billionths of a dollar, so that counters and ledger add up to the same."""

from __future__ import annotations

NANO_USD = 1_000_000_000


def nano_usd(usd: float) -> int:
    """Billionths of a dollar, the nearest."""
    return round(usd * NANO_USD)
