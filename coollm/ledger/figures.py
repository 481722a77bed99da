"""Figures of the ledger over time: sums of each hour or day, how long requests took, and what they failed of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from sqlalchemy import and_, case, func, select

from coollm.core.instances import LATENCY_BOUNDS, quantile
from coollm.core.money import NANO_USD
from coollm.core.types import Json
from coollm.ledger.book import DAY_MS, FIRST_ERROR, HOUR_MS, By, Ledger
from coollm.ledger.tables import COUNTS, days, hours, usage
from coollm.limits.settlement import Ending

Slot = Literal["hour", "day"]
SLOT_MS = {"hour": HOUR_MS, "day": DAY_MS}
MOST_SLOTS = 1500
SECOND_MS = 1000
MOST_ROWS = 50
SHARES = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}


def trend(ledger: Ledger, by: By, slot: Slot, start_ms: int, end_ms: int) -> Json:
    """Requests, errors, tokens and cost of each hour or day, for each client, provider or model with the most: {"slots": [seconds of the epoch, …],
    "rows": [{by, "requests": […], "errors": […], "tokens": […], "cost_usd": […]}]}; by "day" all in one row. At most MOST_SLOTS slots, the last ones.
    """
    table = hours if slot == "hour" else days
    time, length = table.primary_key.columns[0], SLOT_MS[slot]
    last = -(-end_ms // length)
    first = max(start_ms // length, last - MOST_SLOTS)
    group = table.c[by] if by != "day" else None
    tokens = sum((table.c[name] for name in COUNTS[1:]), table.c[COUNTS[0]])
    sums = (func.sum(table.c.requests), func.sum(table.c.errors), func.sum(tokens), func.sum(table.c.cost_nano_usd))
    groups = (time,) if group is None else (time, group)
    query = select(*groups, *sums).where(time >= first, time < last).group_by(*groups)
    rows: dict[str, dict[int, Sequence[int]]] = {}
    with ledger.reading() as connection:
        for found in connection.execute(query):
            name = "" if group is None else str(found[1])
            rows.setdefault(name, {})[int(found[0])] = [int(value) for value in found[len(groups) :]]
    begins = min((moment for row in rows.values() for moment in row), default=last)
    slots = range(begins, last)
    ordered = sorted(rows.items(), key=lambda item: tuple(-sum(sums[place] for sums in item[1].values()) for place in (3, 0)))
    return {"by": by, "slot": slot, "slots": [one * length // 1000 for one in slots], "rows": [_row(by, name, row, slots) for name, row in ordered[:MOST_ROWS]]}


def _row(by: By, name: str, row: dict[int, Sequence[int]], slots: range) -> Json:
    nothing = (0, 0, 0, 0)
    columns = list(zip(*(row.get(one, nothing) for one in slots), strict=True)) or [(), (), (), ()]
    told: Json = {"requests": list(columns[0]), "errors": list(columns[1]), "tokens": list(columns[2]), "cost_usd": [nano / NANO_USD for nano in columns[3]]}
    return told if by == "day" else {by: name, **told}


def latencies(ledger: Ledger, start_ms: int, end_ms: int) -> list[Json]:
    """How long the requests of each day took that a vendor answered: {"day": seconds of the epoch, "requests", "p50_ms", "p95_ms", "p99_ms"}, each the upper
    bound of a class a third wide. Of requests that were pruned nothing is known.
    """
    day = usage.c.at_ms // DAY_MS
    bounds = [round(bound * 1000) for bound in LATENCY_BOUNDS]
    place = case(*((usage.c.latency_ms <= bound, number) for number, bound in enumerate(bounds[:-1])), else_=len(bounds) - 1)
    within = and_(usage.c.at_ms >= start_ms, usage.c.at_ms < end_ms, usage.c.status < FIRST_ERROR, usage.c.provider != "")
    query = select(day, place, func.count()).where(within).group_by(day, place)
    counts: dict[int, list[int]] = {}
    with ledger.reading() as connection:
        for number, which, count in connection.execute(query):
            counts.setdefault(int(number), [0] * len(bounds))[int(which)] += int(count)
    return [{"day": number * DAY_MS // 1000, "requests": sum(own), **_quantiles(own)} for number, own in sorted(counts.items())]


def _quantiles(counts: Sequence[int]) -> dict[str, Any]:
    return {name: None if (found := quantile(counts, share)) is None else round(found * 1000, 1) for name, share in SHARES.items()}


def errors(ledger: Ledger, start_ms: int, end_ms: int) -> list[Json]:
    """Requests that failed, by their cause, the most first: {"cause", "status", "provider", "requests", "last": seconds of the epoch}."""
    within = and_(usage.c.at_ms >= start_ms, usage.c.at_ms < end_ms, usage.c.status >= FIRST_ERROR, usage.c.ending != Ending.HEDGED.value)
    query = select(usage.c.error, usage.c.status, usage.c.provider, func.count(), func.max(usage.c.at_ms)).where(within)
    with ledger.reading() as connection:
        rows = connection.execute(query.group_by(usage.c.error, usage.c.status, usage.c.provider)).all()
    found = [
        {"cause": str(cause) or f"status {status}", "status": int(status), "provider": str(provider), "requests": int(count), "last": int(last) // 1000}
        for cause, status, provider, count, last in rows
    ]
    return sorted(found, key=lambda row: (-row["requests"], row["cause"]))


NARROWED = ("client", "team", "provider", "model")
"""What the last requests can be narrowed to."""

LOOKED_THROUGH = 100_000
"""So many of the last requests are looked through for those that are wanted: a browser does not make the ledger read all of itself."""

_SHOWN = (
    "request_id",
    "at_ms",
    "client",
    "team",
    "provider",
    "model",
    "key_id",
    "route",
    "status",
    "ending",
    "latency_ms",
    "first_token_ms",
    "cached",
    "error",
)


def last(ledger: Ledger, limit: int, since_ms: int, wanted: Mapping[str, str], *, failed: bool) -> list[Json]:
    """The last requests, the newest first, of the LOOKED_THROUGH that ended last."""
    recent = select(usage).where(usage.c.at_ms > since_ms).order_by(usage.c.at_ms.desc()).limit(LOOKED_THROUGH).subquery() if wanted or failed else usage
    query = select(recent).where(recent.c.at_ms > since_ms).order_by(recent.c.at_ms.desc()).limit(limit)
    for name, value in wanted.items():
        query = query.where(recent.c[name] == value)
    if failed:
        query = query.where(recent.c.status >= FIRST_ERROR)
    with ledger.reading() as connection:
        return [_shown(row) for row in connection.execute(query).mappings()]


def entry(ledger: Ledger, request_id: str) -> Json | None:
    """What is known of one request; None if it is not there."""
    with ledger.reading() as connection:
        row = connection.execute(select(usage).where(usage.c.request_id == request_id)).mappings().first()
    return None if row is None else _shown(row)


def _shown(row: Mapping[Any, Any]) -> Json:
    cost = row["cost_nano_usd"]
    told = {name: row[name] for name in _SHOWN}
    tokens = {"input_tokens": sum(row[name] for name in COUNTS[:4]), "output_tokens": sum(row[name] for name in COUNTS[4:])}
    return {**told, **tokens, "cached_input_tokens": row["cached_input_tokens"], "cost_usd": None if cost is None else cost / NANO_USD}


class Second(NamedTuple):
    """What ended within a second of the epoch."""

    second: int
    requests: int
    errors: int
    tokens: int
    cost_usd: float


def seconds(ledger: Ledger, first: int) -> list[Second]:
    """Each second from one of the epoch on in which something ended."""
    second = usage.c.at_ms // SECOND_MS
    tokens = sum((usage.c[name] for name in COUNTS[1:]), usage.c[COUNTS[0]])
    is_one = case((usage.c.ending == Ending.HEDGED.value, 0), else_=1)
    sums = (func.sum(is_one), func.sum(case((usage.c.status >= FIRST_ERROR, is_one), else_=0)), func.sum(tokens), func.sum(usage.c.cost_nano_usd))
    with ledger.reading() as connection:
        rows = connection.execute(select(second, *sums).where(usage.c.at_ms >= first * SECOND_MS).group_by(second)).all()
    return [Second(int(row[0]), int(row[1]), int(row[2]), int(row[3]), int(row[4] or 0) / NANO_USD) for row in rows]


def quick(ledger: Ledger, since_ms: int, most: int) -> Json:
    """How long answers took lately, and how long until their first token, in milliseconds: of the last `most` that a vendor gave since then."""
    query = select(usage.c.latency_ms, usage.c.first_token_ms).where(usage.c.at_ms >= since_ms, usage.c.status < FIRST_ERROR, usage.c.provider != "")
    with ledger.reading() as connection:
        rows = connection.execute(query.order_by(usage.c.at_ms.desc()).limit(most)).all()
    whole, first = sorted(int(row[0]) for row in rows), sorted(int(row[1]) for row in rows if row[1])
    return {"p50_ms": _share(whole, 0.5), "p95_ms": _share(whole, 0.95), "first_token_p50_ms": _share(first, 0.5), "first_token_p95_ms": _share(first, 0.95)}


def _share(ordered: Sequence[int], share: float) -> int | None:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None
