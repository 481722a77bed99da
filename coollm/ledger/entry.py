"""One request in the usage log and in the ledger."""

from __future__ import annotations

import time

import msgspec

from coollm.core.money import nano_usd
from coollm.core.repeated import Repeated
from coollm.telemetry.record import HIT, NOTHING, RequestRecord, tokens_of

_NAMES = Repeated(
    *("client", "team", "provider", "model", "key_id", "route", "status", "ending", "service_tier", "cached", "second", "estimated", "error"),
)

LONGEST_ERROR = 64


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What a request used. `at_ms` is when it ended, `charged_ms` when budgets were charged for it, in milliseconds of the epoch; money is in billionths of a
    dollar, None where no price is known. A `cached` one was answered by the cache, which saved `saved_nano_usd`; a `second` one by the second request of a
    race. `first_token_ms` is 0 where nothing was streamed. `error` is the code of what the client was told. The fields are the columns of the ledger's table,
    in their order.
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


def line_of(record: RequestRecord) -> bytes:
    """The line of a request that has ended: an Entry as JSON."""
    target, usage, cost, first_token, now = record.target, record.usage, record.cost_usd, record.first_token_seconds, time.time()
    provider, model, key_id = ("", "", "") if target is None else (target.provider, target.model, target.key_id)
    names = _NAMES.write(
        record.client,
        record.team,
        provider,
        model,
        key_id,
        record.route,
        record.status,
        record.ending or "refused",
        usage.service_tier or "",
        record.cache == HIT,
        record.is_second,
        usage.estimated,
        record.error[:LONGEST_ERROR],
    )
    return (b'{"request_id":"%b","at_ms":%d,"charged_ms":%d,%b,%b,"cost_nano_usd":%b,"saved_nano_usd":%d,"latency_ms":%d,"first_token_ms":%d}\n') % (
        record.request_id.encode(),
        now * 1000,
        (record.charged or now) * 1000,
        names,
        tokens_of(usage),
        b"0" if usage == NOTHING else b"null" if cost is None else b"%d" % nano_usd(cost),
        nano_usd(record.saved_usd) if record.saved_usd else 0,
        round(record.latency_seconds * 1000),
        round(first_token * 1000) if first_token else 0,
    )


def read_line(line: bytes) -> Entry | None:
    """The entry of a line; None for one that was cut by a crash of the host."""
    try:
        return msgspec.json.decode(line, type=Entry)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
