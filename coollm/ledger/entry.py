"""One request in the usage log and in the ledger."""

from __future__ import annotations

import time

import msgspec

from coollm.core.money import nano_usd
from coollm.core.types import Usage
from coollm.telemetry.record import HIT, RequestRecord

_encode = msgspec.json.Encoder().encode

NOTHING = Usage()
LONGEST_ERROR = 64


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What a request used. `at_ms` is when it ended, `charged_ms` when budgets were charged for it, in milliseconds of the epoch; money is in billionths of a
    dollar, None where no price is known. A `cached` one was answered by the cache, which saved `saved_nano_usd`; a `second` one
    by the second request of a race. Fields are the columns of the ledger's table, in their order. `first_token_ms` is 0 where nothing was streamed. `error` is the code of what the client was told.
    """

    request_id: str
    at_ms: int
    charged_ms: int
    client: str
    team: str
    provider: str
    model: str
    key_id: str
    route: str
    status: int
    ending: str
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    cache_write_1h_tokens: int = 0
    output_tokens: int
    reasoning_tokens: int
    cost_nano_usd: int | None
    saved_nano_usd: int = 0
    cached: bool = False
    second: bool = False
    service_tier: str = ""
    estimated: bool
    latency_ms: int = 0
    first_token_ms: int = 0
    error: str = ""

    def write(self) -> bytes:
        """As a line."""
        return _encode(self) + b"\n"


def entry_of(record: RequestRecord) -> Entry:
    """The entry of a request that has ended."""
    target, usage, cost, now = record.target, record.usage, record.cost_usd, time.time()
    provider, model, key_id = ("", "", "") if target is None else (target.provider, target.model, target.key_id)
    return Entry(
        request_id=record.request_id,
        at_ms=int(now * 1000),
        charged_ms=int((record.charged or now) * 1000),
        client=record.client,
        team=record.team,
        provider=provider,
        model=model,
        key_id=key_id,
        route=record.route,
        status=record.status,
        ending=str(record.ending) if record.ending else "refused",
        input_tokens=usage.input_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cost_nano_usd=0 if usage == NOTHING else None if cost is None else nano_usd(cost),
        estimated=usage.estimated,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
        service_tier=usage.service_tier or "",
        saved_nano_usd=nano_usd(record.saved_usd) if record.saved_usd else 0,
        cached=record.cache == HIT,
        second=record.is_second,
        latency_ms=round(record.latency_seconds * 1000),
        first_token_ms=round(record.first_token_seconds * 1000) if record.first_token_seconds else 0,
        error=record.error[:LONGEST_ERROR],
    )


def read_line(line: bytes) -> Entry | None:
    """The entry of a line; None for one that was cut by a crash of the host."""
    try:
        return msgspec.json.decode(line, type=Entry)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
