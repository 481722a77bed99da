"""Entries of requests that never were."""

from __future__ import annotations

from typing import Any

import msgspec

from coollm.ledger.entry import Entry

HOUR_MS = 3_600_000
START_MS = 1_790_000_000_000 // HOUR_MS * HOUR_MS


def entry(number: int, **changes: Any) -> Entry:
    told: dict[str, Any] = {
        "request_id": f"req_{number}",
        "at_ms": START_MS + number * 60_000,
        "charged_ms": START_MS + number * 60_000 - 500,
        "client": f"client-{number % 3}",
        "team": "",
        "provider": "openai",
        "model": "gpt-sim",
        "key_id": "k",
        "route": "chat",
        "status": 200 if number % 5 else 502,
        "ending": "answered",
        "input_tokens": 10,
        "cached_input_tokens": 2,
        "cache_write_tokens": 1,
        "output_tokens": 20,
        "reasoning_tokens": 3,
        "cost_nano_usd": 1_000_000 if number % 7 else None,
        "estimated": number % 11 == 0,
    }
    return Entry(**{**told, **changes})


def written(one: Entry) -> bytes:
    """Its line in the usage log."""
    return msgspec.json.encode(one) + b"\n"
